//! The first stage of VT-d: the structures of 4-level and 5-level paging (VT-d 9.7).

use crate::x86::spec::{ADDRESS, CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, EFER_LMA, EFER_NXE};
use crate::x86::{Context, Processor, Registers, Vendor};

/// What a scalable-mode PASID entry and the unit's registers say of a first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstStage {
    /// FSPTPTR: bits 51:12 are the address of the top table.
    pub table: u64,
    /// FSPM asks for five levels instead of four.
    pub five_levels: bool,
    /// WPE: R/W binds privileged requests too.
    pub write_protect: bool,
    /// Host address width: bits of a physical address, 32 to 52.
    pub haw: u8,
    /// 1 GiB pages: CAP.FS1GP.
    pub gib_pages: bool,
}

impl FirstStage {
    /// The context with which [`x86::walk`](crate::x86::walk) translates the unit's requests: one
    /// without privilege is a user access. Over a second stage,
    /// [`nested::walk`](crate::nested::walk) does. Ask for reads and writes alone: units block requests to
    /// execute, and ignore bit 63.
    ///
    /// # Panics
    ///
    /// Panics if the host address width is not 32 to 52.
    pub fn context(&self) -> Context {
        let set = |on, bit| if on { bit } else { 0 };
        let processor = Processor {
            vendor: Vendor::Intel,
            maxphyaddr: self.haw,
            gib_pages: self.gib_pages,
            pse36: false,
        };
        let registers = Registers {
            cr0: CR0_PG | set(self.write_protect, CR0_WP),
            cr3: self.table & ADDRESS,
            cr4: CR4_PAE | set(self.five_levels, CR4_LA57),
            // With NXE bit 63 is not reserved, and data accesses do not heed it.
            efer: EFER_LMA | EFER_NXE,
            ..Registers::default()
        };
        Context::new(&processor, &registers)
    }
}
