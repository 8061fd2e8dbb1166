//! INIT and start-up: how a machine with several processors begins, and ends, to use one of them.

use crate::cpu::{CR0_CD, CR0_ET, CR0_NW, Cpu, DR6_FIXED, DR7_FIXED, EVENT_POLL, TableRegister};
use crate::flags;
use crate::segment::{CS, Segment};

impl Cpu {
    /// INIT: the state after reset, but for what INIT leaves as it was: CR0.CD and CR0.NW, the x87 and SSE registers, the
    /// time-stamp counter and most MSRs. Intel SDM volume 3, table 10-1; AMD APM volume 2, table 14-1 for EFER.
    ///
    /// The bootstrap processor goes on at the reset vector; any other waits for a start-up message, which is the
    /// caller's to keep: it does not [run](Self::run) the processor until it has [started](Self::start_up) it.
    pub fn init(&mut self) {
        self.regs = [0; 32];
        self.regs[2] = u64::from(self.cpuid.signature());
        (self.rip, self.flags) = (0xfff0, flags::FIXED);
        self.cr0 = self.cr0 & (CR0_CD | CR0_NW) | CR0_ET;
        (self.cr2, self.cr3, self.cr4, self.efer) = (0, 0, 0, 0);
        self.cpl = 0;
        self.seg = [Segment::real(0); 6];
        self.seg[usize::from(CS)] = Segment {
            base: 0xffff_0000,
            ..Segment::real(0xf000)
        };
        let system = |attributes| Segment {
            attributes,
            limit: 0xffff,
            ..Segment::default()
        };
        (self.ldtr, self.tr) = (system(0x82), system(0x8b));
        let table = TableRegister {
            base: 0,
            limit: 0xffff,
        };
        (self.gdtr, self.idtr) = (table, table);
        self.dr = [0, 0, 0, 0, 0, 0, DR6_FIXED, DR7_FIXED];
        self.pdptes = None;
        self.events = EVENT_POLL;
        (self.halted, self.nmi_blocked) = (false, false);
        (self.task_entered, self.stepping) = (false, false);
        self.paging_changed();
        self.mode_changed();
    }

    /// A start-up message with `vector`, for a processor that INIT has put to wait: it begins in real mode at the
    /// start of page `vector`. Intel SDM volume 3, 9.4.4.
    pub fn start_up(&mut self, vector: u8) {
        let base = u64::from(vector) << 12;
        self.seg[usize::from(CS)] = Segment {
            base,
            ..Segment::real((base >> 4) as u16)
        };
        self.rip = 0;
        self.mode_changed();
    }
}
