//! What a kernel asks of the machine it runs on, and what that has cost.

use anyhow::{Result, bail};
use guest_paging::tlb::{Tlb, TlbSize};
use guest_paging::vm_memory::{GuestAddress, GuestMemoryMmap};
use guest_paging::x86::{Context, Processor, Registers, Vendor};

/// One of the three ways to run a kernel that believes it owns the page tables.
pub(crate) trait Machine {
    /// The kernel maps all memory for itself, and writes to its tables through that.
    const KERNEL_MAPS_MEMORY: bool = true;

    /// The kernel writes an entry at a guest physical address.
    fn write_entry(&mut self, at: u64, entry: u64) -> Result<()>;

    /// The entries written so far must be in force now.
    fn commit(&mut self) -> Result<()> {
        Ok(())
    }

    /// A program reads or writes.
    fn access(&mut self, gva: u64, write: bool) -> Result<Outcome>;

    /// The kernel loads CR3.
    fn switch(&mut self, root: u64, pcid: u16) -> Result<()>;

    /// The kernel flushes a page.
    fn invlpg(&mut self, gva: u64) -> Result<()>;

    /// The kernel is done with a root.
    fn release(&mut self, root: u64) -> Result<()>;

    /// What it has cost so far.
    fn cost(&self) -> Cost;
}

/// What an access of a program came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The guest's own fault, which has been delivered to it.
    PageFault,
}

/// What a run has cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) exits: u64,
    /// Of these, the ones for the guest's page faults, for writes to its tables, and for CR3 and INVLPG.
    pub(crate) fault_exits: u64,
    pub(crate) write_exits: u64,
    pub(crate) flush_exits: u64,
    /// Entries that walks loaded, by processor and monitor.
    pub(crate) references: u64,
    /// Bytes that the monitor keeps for paging, at the end.
    pub(crate) monitor_bytes: u64,
}

impl Cost {
    /// In cycles, at so many for an exit and for a reference.
    pub(crate) fn cycles(&self, exit: u64, reference: u64) -> u64 {
        self.exits * exit + self.references * reference
    }
}

/// Frames of the guest: 64 MiB.
pub(crate) const GUEST_FRAMES: u64 = 16384;

/// Guest memory, and `more` frames of the monitor's above it.
pub(crate) fn memory(more: u64) -> Result<GuestMemoryMmap> {
    let size = usize::try_from((GUEST_FRAMES + more) << 12)?;
    match GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]) {
        Ok(memory) => Ok(memory),
        Err(error) => bail!("no memory for the guest: {error}"),
    }
}

/// The same TLB for all: 1,536 translations, and no paging-structure caches, which would hide the
/// difference in references.
pub(crate) fn tlb() -> Tlb {
    Tlb::new(TlbSize {
        sets: 128,
        ways: 12,
        structure_entries: 0,
    })
}

/// 4-level paging with PCIDs, global pages, CR0.WP and NX.
pub(crate) fn context() -> Context {
    let registers = Registers {
        cr0: 1 << 31 | 1 << 16,
        cr4: 1 << 5 | 1 << 7 | 1 << 17,
        efer: 1 << 10 | 1 << 11,
        ..Registers::default()
    };
    Context::new(&processor(), &registers)
}

pub(crate) fn processor() -> Processor {
    Processor {
        vendor: Vendor::Intel,
        maxphyaddr: 40,
        gib_pages: true,
        pse36: true,
    }
}
