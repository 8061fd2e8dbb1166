//! The architectural state as plain data: what two runs, or two engines, are compared by.

use crate::cpu::{Cpu, EVENT_HALT, EVENT_POLL, EVENT_SHADOW, EVENT_SHADOW_DEBUG, TableRegister};
use crate::flags;
use crate::segment::Segment;

/// The general registers with RIP and RFLAGS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: in encoding order.
    pub gpr: [u64; 16],
    /// The instruction pointer.
    pub rip: u64,
    /// RFLAGS. Bits that do not exist are ignored when set.
    pub rflags: u64,
}

/// Everything a program or an operating system can see of the processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// General registers, RIP, RFLAGS.
    pub registers: Registers,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: TableRegister,
    /// IDTR.
    pub idtr: TableRegister,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// `IA32_EFER`.
    pub efer: u64,
    /// The current privilege level, 0 to 3.
    pub cpl: u8,
    /// PKRU.
    pub pkru: u32,
    /// `IA32_PKRS`.
    pub pkrs: u32,
    /// DR0 to DR7.
    pub debug: [u64; 8],
    /// STAR, LSTAR, CSTAR, FMASK, `KERNEL_GS_BASE`, `SYSENTER_CS`, `SYSENTER_ESP`, `SYSENTER_EIP`, PAT, `TSC_AUX`, TSC offset.
    pub msrs: [u64; 11],
    /// The x87, MMX and SSE state as FXSAVE64 stores it.
    pub fx: [u8; 512],
    /// Whether the processor waits in HLT.
    pub halted: bool,
}

impl Cpu {
    /// The general registers, RIP and RFLAGS.
    #[must_use]
    pub fn registers(&self) -> Registers {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.regs[..16]);
        Registers {
            gpr,
            rip: self.rip,
            rflags: self.flags,
        }
    }

    /// Replaces the general registers, RIP and RFLAGS.
    pub fn set_registers(&mut self, registers: &Registers) {
        self.regs[..16].copy_from_slice(&registers.gpr);
        self.rip = registers.rip;
        self.flags = registers.rflags & flags::DEFINED | flags::FIXED;
        self.events = self.events & !(EVENT_SHADOW | EVENT_SHADOW_DEBUG) | EVENT_POLL;
        self.mode_changed();
    }

    /// The whole architectural state.
    #[must_use]
    pub fn state(&self) -> State {
        let msr = &self.msr;
        State {
            registers: self.registers(),
            segments: self.seg,
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer,
            cpl: self.cpl,
            pkru: self.pkru,
            pkrs: self.pkrs,
            debug: self.dr,
            msrs: [
                msr.star,
                msr.lstar,
                msr.cstar,
                msr.fmask,
                msr.kernel_gs_base,
                msr.sysenter_cs,
                msr.sysenter_esp,
                msr.sysenter_eip,
                msr.pat,
                msr.tsc_aux,
                msr.tsc_offset,
            ],
            fx: *self.fx.image(),
            halted: self.halted,
        }
    }

    /// Replaces the whole architectural state, as a boot protocol or a restored snapshot wants it.
    ///
    /// The state is taken as it is: control bits that the processor does not offer, or that contradict each other, are
    /// dropped in favour of those that do not, so that no state can bring the processor out of a defined mode.
    pub fn set_state(&mut self, state: &State) {
        self.cr0 = state.cr0 & 0xe005_003f | crate::cpu::CR0_ET;
        if self.cr0 & crate::cpu::CR0_PE == 0 {
            self.cr0 &= !crate::cpu::CR0_PG;
        }
        self.cr4 = state.cr4 & self.cpuid.cr4_mask();
        self.set_efer_like(state.efer);
        (self.cr2, self.cr3) = (state.cr2, state.cr3);
        self.seg = state.segments;
        (self.ldtr, self.tr) = (state.ldtr, state.tr);
        (self.gdtr, self.idtr) = (state.gdtr, state.idtr);
        self.cpl = if self.cr0 & crate::cpu::CR0_PE == 0 {
            0
        } else {
            state.cpl & 3
        };
        self.pkru = state.pkru;
        self.pkrs = state.pkrs;
        self.set_debug(&state.debug);
        self.set_msrs(&state.msrs);
        self.fx.set_image(&state.fx);
        self.halted = state.halted;
        self.events = EVENT_POLL | if state.halted { EVENT_HALT } else { 0 };
        self.pdptes = None;
        if self.is_pae(self.cr0, self.cr4) {
            // A reserved bit cannot fault here; such an entry faults when it is used.
            self.pdptes = self.load_pdptes(self.cr3).ok();
        }
        self.paging_changed();
        self.set_registers(&state.registers);
    }

    /// LMA follows from LME and CR0.PG.
    fn set_efer_like(&mut self, efer: u64) {
        use crate::cpu::{CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE};
        let long = efer & EFER_LME != 0 && self.cr0 & CR0_PG != 0;
        if long {
            self.cr4 |= CR4_PAE;
        }
        self.efer = efer & (EFER_SCE | EFER_LME | EFER_NXE) | if long { EFER_LMA } else { 0 };
    }

    fn set_debug(&mut self, debug: &[u64; 8]) {
        self.dr = *debug;
        self.dr[6] = debug[6] & 0xe00f | crate::cpu::DR6_FIXED;
        self.dr[7] = debug[7] & 0xffff_2fff | crate::cpu::DR7_FIXED;
    }

    fn set_msrs(&mut self, msrs: &[u64; 11]) {
        let msr = &mut self.msr;
        [
            msr.star,
            msr.lstar,
            msr.cstar,
            msr.fmask,
            msr.kernel_gs_base,
            msr.sysenter_cs,
            msr.sysenter_esp,
            msr.sysenter_eip,
            msr.pat,
            msr.tsc_aux,
            msr.tsc_offset,
        ] = *msrs;
    }
}
