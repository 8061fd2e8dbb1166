//! Under nested paging: the processor walks the guest's tables, and EPT for each of their addresses.

use anyhow::{Result, bail};
use guest_paging::ept;
use guest_paging::nested::{Ground, Stage, Trace};
use guest_paging::nested::{Layer, Purpose, StageAccess};
use guest_paging::tlb::{Invpcid, Tag, Tlb};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use guest_paging::x86::{Access, AccessKind, Context, Privilege};
use guest_paging::{Gva, PinnedMemory, WalkError};

use crate::kernel::KERNEL_INDEX;
use crate::machine::{self, Cost, GUEST_FRAMES, Machine, Outcome};
use crate::shadowed::user;

pub(crate) struct NestedPaging<'m> {
    memory: &'m GuestMemoryMmap,
    pinned: PinnedMemory<'m>,
    guest: Context,
    ept: ept::Context,
    tlb: Tlb,
    tag: Tag,
    references: u64,
}

/// Frames of the EPT that maps all of guest memory with 4 KiB pages.
pub(crate) const EPT_FRAMES: u64 = 3 + GUEST_FRAMES / 512;

impl<'m> NestedPaging<'m> {
    /// `memory` has [`EPT_FRAMES`] above the guest's.
    pub(crate) fn new(memory: &'m GuestMemoryMmap) -> Result<Self> {
        let root = GUEST_FRAMES;
        fill(memory, root, 1, root + 1, 7)?;
        fill(memory, root + 1, 1, root + 2, 7)?;
        fill(memory, root + 2, GUEST_FRAMES / 512, root + 3, 7)?;
        fill(memory, root + 3, GUEST_FRAMES, 0, 0x37)?;
        Ok(Self {
            memory,
            pinned: PinnedMemory::new(memory)?,
            guest: machine::context(),
            ept: ept::Context::new(&capabilities(), root << 12 | 3 << 3 | 6),
            tlb: machine::tlb(),
            tag: Tag {
                vpid: 1,
                pcid: 0,
                nested_root: root << 12,
            },
            references: 0,
        })
    }

    fn translate(&mut self, gva: Gva, access: Access) -> Result<Option<u64>> {
        let trace = Trace::default();
        let stack = Stage::new(1, &self.ept, Ground::new(&self.pinned, 1), &trace);
        let misses = self.tlb.counters().full_walks;
        let mut listener = &trace;
        let walked = self
            .tlb
            .translate(&stack, &self.guest, self.tag, gva, access, &mut listener);
        let outcome = match walked {
            // A TLB of combined mappings has the address below already.
            Ok(translation) if self.tlb.counters().full_walks == misses => Some(translation.gpa.0),
            Ok(translation) => {
                let access = StageAccess {
                    kind: access.kind,
                    purpose: Purpose::Translated,
                    user_address: false,
                };
                Some(stack.descend(translation.gpa, access)?.0)
            }
            Err(WalkError::Fault(_)) => None,
            Err(error) => bail!("the guest's tables lead nowhere: {error}"),
        };
        self.references += trace.take().len() as u64;
        Ok(outcome)
    }
}

pub(crate) fn capabilities() -> ept::Capabilities {
    ept::Capabilities {
        maxphyaddr: 40,
        execute_only: true,
        mib_pages: true,
        gib_pages: true,
        mode_based_execute: false,
    }
}

/// Writes `count` entries that reference consecutive frames.
pub(crate) fn fill(
    memory: &GuestMemoryMmap,
    frame: u64,
    count: u64,
    first: u64,
    flags: u64,
) -> Result<()> {
    for index in 0..count {
        let at = GuestAddress((frame << 12) + 8 * index);
        memory.write_obj((first + index) << 12 | flags, at)?;
    }
    Ok(())
}

impl Machine for NestedPaging<'_> {
    fn write_entry(&mut self, at: u64, entry: u64) -> Result<()> {
        let gva = Gva(0xffff << 48 | KERNEL_INDEX << 39 | at);
        let write = Access::new(AccessKind::Write, Privilege::Supervisor);
        if self.translate(gva, write)?.is_none() {
            bail!("the kernel's own view of memory is gone");
        }
        Ok(self.memory.write_obj(entry, GuestAddress(at))?)
    }

    fn access(&mut self, gva: u64, write: bool) -> Result<Outcome> {
        Ok(match self.translate(Gva(gva), user(write))? {
            Some(_) => Outcome::Done,
            None => Outcome::PageFault,
        })
    }

    fn switch(&mut self, root: u64, pcid: u16) -> Result<()> {
        self.guest.set_cr3(root << 12);
        self.tag.pcid = pcid;
        self.tlb
            .invpcid(self.tag, Invpcid::SingleContext(self.tag.pcid));
        Ok(())
    }

    fn invlpg(&mut self, gva: u64) -> Result<()> {
        self.tlb.invlpg(self.tag, Gva(gva));
        Ok(())
    }

    fn release(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost {
            references: self.references,
            monitor_bytes: EPT_FRAMES << 12,
            ..Cost::default()
        }
    }
}
