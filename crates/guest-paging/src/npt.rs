//! NPT: the nested page tables of SVM (APM volume 2, 15.25).
//!
//! Their format is that of the host's own paging: 32-bit, PAE, 4-level or 5-level. Each access counts
//! as one of user mode, and each to a guest page table as a write (APM 15.25.5).

use crate::nested::{Mapping, Purpose, StageAccess};
use crate::x86::spec::{CR0_PG, CR4_PKE, CR4_PKS};
use crate::x86::{
    self, Access, AccessKind, ErrorCode, PageFault, PagingMode, Privilege, Processor, Registers,
    Translation,
};
use crate::{Gpa, Gva, Observer, Paging, Place, TableMemory, WalkError};
pub use crate::{probe, walk};

/// Everything a walk of nested page tables needs besides memory.
#[derive(Clone, Debug)]
pub struct Context(x86::Context);

impl Context {
    /// Takes `nCR3` as `registers.cr3`, and the host's CR0, CR4 and EFER. Protection keys do not apply
    /// to guest physical addresses.
    ///
    /// # Panics
    ///
    /// Panics if MAXPHYADDR is not 32 to 52 or CR0.PG is clear: VMRUN fails then.
    pub fn new(processor: &Processor, registers: &Registers) -> Self {
        assert!(registers.cr0 & CR0_PG != 0, "nested paging needs CR0.PG");
        let registers = Registers {
            cr4: registers.cr4 & !(CR4_PKE | CR4_PKS),
            ..*registers
        };
        Self(x86::Context::new(processor, &registers))
    }

    /// The format of the nested page tables.
    pub fn mode(&self) -> PagingMode {
        self.0.mode()
    }

    /// Bits of a guest physical address that the structures translate.
    fn width(&self) -> u8 {
        match self.0.mode() {
            PagingMode::Off | PagingMode::Legacy | PagingMode::Pae => 32,
            PagingMode::FourLevel => 48,
            PagingMode::FiveLevel => 57,
        }
    }
}

/// The #VMEXIT(NPF) of an access that the nested page tables do not let through (APM 15.25.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("nested page fault at {exit_info_2}, EXITINFO1 {:#x}", .exit_info_1.bits())]
pub struct NestedPageFault {
    /// Why.
    pub exit_info_1: ExitInfo1,
    /// The guest physical address as it was given to the walk.
    pub exit_info_2: Gpa,
}

bitflags::bitflags! {
    /// EXITINFO1 of #VMEXIT(NPF).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ExitInfo1: u64 {
        /// P: the nested entries were present.
        const PRESENT = 1 << 0;
        /// RW: the access was a write; each to a guest page table is one.
        const WRITE = 1 << 1;
        /// US: always set, for each access is one of user mode.
        const USER = 1 << 2;
        /// RSV: a nested entry sets a reserved bit.
        const RESERVED = 1 << 3;
        /// ID: the access was an instruction fetch.
        const FETCH = 1 << 4;
        /// The fault is at the guest's final physical address.
        const FINAL_ADDRESS = 1 << 32;
        /// The fault is in the translation of a guest page table's address.
        const GUEST_TABLE = 1 << 33;
    }
}

impl Paging for Context {
    type Input = Gpa;
    type Access = StageAccess;
    type Translation = Translation;
    type Fault = NestedPageFault;

    /// An address beyond the width of the structures is not present.
    #[inline]
    fn translate<M: TableMemory, O: Observer, const MARKING: bool>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: StageAccess,
        observer: &mut O,
    ) -> Result<Translation, WalkError<NestedPageFault, M::Error>> {
        let as_user = user_access(access);
        if gpa.0 >> self.width() != 0 {
            return Err(WalkError::Fault(beyond(gpa, access, as_user)));
        }
        self.0
            .translate::<M, O, MARKING>(memory, Gva(gpa.0), as_user, observer)
            .map_err(|error| error.map_fault(|fault| nested_page_fault(gpa, access, fault)))
    }

    #[inline(always)]
    fn glance<M: TableMemory, const MARKING: bool>(
        &self,
        memory: &M,
        place: Place,
        gpa: Gpa,
        access: StageAccess,
    ) -> Option<Translation> {
        if gpa.0 >> self.width() != 0 {
            return None;
        }
        self.0
            .glance::<M, MARKING>(memory, place, Gva(gpa.0), user_access(access))
    }
}

fn user_access(access: StageAccess) -> Access {
    let kind = match access.purpose {
        Purpose::Table => AccessKind::Write,
        Purpose::Translated | Purpose::Physical => access.kind,
    };
    Access::new(kind, Privilege::User)
}

fn beyond(gpa: Gpa, access: StageAccess, as_user: Access) -> NestedPageFault {
    let mut error_code = ErrorCode::USER;
    error_code.set(ErrorCode::WRITE, as_user.kind == AccessKind::Write);
    error_code.set(ErrorCode::FETCH, as_user.kind == AccessKind::Fetch);
    let cr2 = Gva(gpa.0);
    nested_page_fault(gpa, access, PageFault { error_code, cr2 })
}

fn nested_page_fault(gpa: Gpa, access: StageAccess, fault: PageFault) -> NestedPageFault {
    let place = match access.purpose {
        Purpose::Table => ExitInfo1::GUEST_TABLE,
        Purpose::Translated | Purpose::Physical => ExitInfo1::FINAL_ADDRESS,
    };
    NestedPageFault {
        exit_info_1: ExitInfo1::from_bits_truncate(u64::from(fault.error_code.bits())) | place,
        exit_info_2: gpa,
    }
}

impl From<Translation> for Mapping {
    #[inline(always)]
    fn from(translation: Translation) -> Self {
        Self {
            address: translation.gpa,
            inside_bits: translation.size as u8,
        }
    }
}
