//! Page walks: `guest-paging` over pinned RAM, and the TLB fill.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use guest_paging::x86::{
    self, Access, AccessKind, Attributes, Context, Pdptes, Privilege, Registers,
};
use guest_paging::{Gpa, Gva, Observer, Reference, TableMemory, Unbacked, WalkError};

use crate::cpu::{CR0_PG, CR4_PAE, Cpu};
use crate::exception::{Exception, GP0, Result, Vector};
use crate::memory::Target;
use crate::ram::Ram;
use crate::tlb::{Bank, Fill};

pub(crate) use guest_paging::x86::AccessKind as Kind;

impl TableMemory for Ram {
    type Error = Unbacked;

    fn load_u32(&self, at: Gpa) -> core::result::Result<u32, Unbacked> {
        Ok(self
            .atomic_u32(at.0)
            .ok_or(Unbacked)?
            .load(Ordering::Relaxed))
    }

    fn load_u64(&self, at: Gpa) -> core::result::Result<u64, Unbacked> {
        Ok(self
            .atomic_u64(at.0)
            .ok_or(Unbacked)?
            .load(Ordering::Relaxed))
    }

    fn compare_exchange_u32(
        &self,
        at: Gpa,
        current: u32,
        new: u32,
    ) -> core::result::Result<core::result::Result<u32, u32>, Unbacked> {
        let entry: &AtomicU32 = self.atomic_u32(at.0).ok_or(Unbacked)?;
        Ok(entry.compare_exchange(current, new, Ordering::Relaxed, Ordering::Relaxed))
    }

    fn compare_exchange_u64(
        &self,
        at: Gpa,
        current: u64,
        new: u64,
    ) -> core::result::Result<core::result::Result<u64, u64>, Unbacked> {
        let entry: &AtomicU64 = self.atomic_u64(at.0).ok_or(Unbacked)?;
        Ok(entry.compare_exchange(current, new, Ordering::Relaxed, Ordering::Relaxed))
    }
}

impl Cpu {
    /// Takes the control registers into the walk's context; must follow every change of CR0, CR3, CR4, EFER, PKRU or PKRS
    /// that does not go through [`Cpu::root_changed`].
    pub(crate) fn paging_changed(&mut self) {
        let registers = Registers {
            cr0: self.cr0,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer,
            pkru: self.pkru,
            pkrs: self.pkrs,
            pdptes: self.paging_pdptes(),
        };
        self.paging = Context::new(&self.cpuid.processor(), &registers);
        self.tlb.flush(false);
        self.tell(|observer, context| observer.registers_changed(context));
    }

    /// Takes a new CR3 (and, for PAE, the PDPTEs latched with it).
    pub(crate) fn root_changed(&mut self) {
        self.paging.set_cr3(self.cr3);
        let pdptes = self.paging_pdptes();
        self.paging.set_pdptes(pdptes);
        self.tlb.flush(true);
        self.tell(|observer, context| observer.root_loaded(context));
    }

    fn paging_pdptes(&self) -> Pdptes {
        self.pdptes.map_or(Pdptes::Memory, Pdptes::Latched)
    }

    /// Whether PAE paging, which latches its PDPTEs, would be in force with these registers.
    pub(crate) fn is_pae(&self, cr0: u64, cr4: u64) -> bool {
        cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 && !self.is_long()
    }

    /// Reads the PDPTEs that `cr3` points to; a reserved bit is #GP(0). Intel SDM volume 3, 4.4.1.
    pub(crate) fn load_pdptes(&self, cr3: u64) -> Result<[u64; 4]> {
        x86::load_pdptes(&self.ram, &self.cpuid.processor(), cr3).map_err(|_| GP0)
    }

    /// Walks the page tables and remembers the result, if RAM is behind it.
    pub(crate) fn walk_and_fill(&mut self, linear: u64, kind: Kind, bank: Bank) -> Result<Target> {
        let access = access(kind, bank);
        self.tell_missed(Gva(linear), access);
        // A walk that faults marks nothing as accessed, as on the 386 and in KVM; the manual leaves that open.
        let found = x86::probe(&self.ram, &self.paging, Gva(linear), access, &mut ())
            .and_then(|_| x86::walk(&self.ram, &self.paging, Gva(linear), access, &mut ()));
        let found = match found {
            Ok(found) => found,
            Err(WalkError::Fault(fault)) => {
                self.cr2 = linear;
                return Err(Exception::coded(
                    Vector::PageFault,
                    fault.error_code.bits() as u16,
                ));
            }
            // A table that no memory backs reads as all ones: every reserved bit is set. A table that changes under
            // the walk without end can only be another processor's doing.
            Err(WalkError::Table { .. } | WalkError::Contended) => {
                self.cr2 = linear;
                return Err(Exception::coded(
                    Vector::PageFault,
                    reserved_fault(kind, bank),
                ));
            }
        };
        let gpa = found.gpa.0 & self.a20_mask;
        let Some(host) = self.ram.page(gpa) else {
            return Ok(Target::Mmio { gpa });
        };
        let permits = |kind| self.paging.permits(&found, self::access(kind, bank));
        let dirty = found.attributes.contains(Attributes::DIRTY);
        let written = kind == AccessKind::Write || dirty;
        let fill = Fill {
            linear,
            gpa,
            read: permits(AccessKind::Read),
            write: written
                && permits(AccessKind::Write)
                && !self.blocks.has_code(gpa)
                && !self.watch.has(gpa),
            fetch: permits(AccessKind::Fetch),
            global: found.attributes.contains(Attributes::GLOBAL),
        };
        self.tlb.fill(bank, fill, host);
        Ok(Target::Ram { host, gpa })
    }
}

/// Where code at `linear` would be fetched from without marking anything as accessed.
pub(crate) fn code_page(ram: &Ram, paging: &Context, linear: u64, bank: Bank) -> Option<u64> {
    let mut marks = Marks { all: true };
    let access = access(Kind::Fetch, bank);
    let found = x86::probe(ram, paging, Gva(linear), access, &mut marks).ok()?;
    marks.all.then_some(found.gpa.0)
}

/// Whether every entry of a walk is marked as accessed.
struct Marks {
    all: bool,
}

impl Observer for Marks {
    fn reference(&mut self, reference: Reference) {
        const ACCESSED: u64 = 1 << 5;
        self.all &= reference.entry & ACCESSED != 0;
    }
}

fn access(kind: Kind, bank: Bank) -> Access {
    match bank {
        Bank::User => Access::new(kind, Privilege::User),
        Bank::SupervisorAc => Access::new(kind, Privilege::Supervisor).with_ac(true),
        Bank::Supervisor | Bank::Slow => Access::new(kind, Privilege::Supervisor),
    }
}

/// P and RSVD, with what the access was. Intel SDM volume 3, 4.7.
fn reserved_fault(kind: Kind, bank: Bank) -> u16 {
    const PRESENT_RESERVED: u16 = 1 << 0 | 1 << 3;
    PRESENT_RESERVED | u16::from(kind == Kind::Write) << 1 | u16::from(bank == Bank::User) << 2
}
