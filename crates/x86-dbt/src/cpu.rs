//! The processor: architectural state, what is derived from it, and its construction.

use std::fmt;
use std::ops::AddAssign;

use guest_paging::x86::{Context, Registers};

use crate::block::BlockCache;
use crate::cpuid::Cpuid;
use crate::flags;
use crate::msr::Msrs;
use crate::native::{FxState, NativeIo, NativeUnit};
use crate::observe::Watch;
use crate::ram::Ram;
use crate::segment::{BIG, CS, LONG, SS, Segment};
use crate::tlb::{Bank, Tlb};
use crate::translate::Translator;

// CR0. Intel SDM volume 3, 2.5.
pub(crate) const CR0_PE: u64 = 1 << 0;
pub(crate) const CR0_MP: u64 = 1 << 1;
pub(crate) const CR0_EM: u64 = 1 << 2;
pub(crate) const CR0_TS: u64 = 1 << 3;
pub(crate) const CR0_ET: u64 = 1 << 4;
pub(crate) const CR0_NE: u64 = 1 << 5;
pub(crate) const CR0_WP: u64 = 1 << 16;
pub(crate) const CR0_AM: u64 = 1 << 18;
pub(crate) const CR0_NW: u64 = 1 << 29;
pub(crate) const CR0_CD: u64 = 1 << 30;
pub(crate) const CR0_PG: u64 = 1 << 31;

// CR4.
pub(crate) const CR4_VME: u64 = 1 << 0;
pub(crate) const CR4_PVI: u64 = 1 << 1;
pub(crate) const CR4_TSD: u64 = 1 << 2;
pub(crate) const CR4_DE: u64 = 1 << 3;
pub(crate) const CR4_PSE: u64 = 1 << 4;
pub(crate) const CR4_PAE: u64 = 1 << 5;
pub(crate) const CR4_MCE: u64 = 1 << 6;
pub(crate) const CR4_PGE: u64 = 1 << 7;
pub(crate) const CR4_PCE: u64 = 1 << 8;
pub(crate) const CR4_OSFXSR: u64 = 1 << 9;
pub(crate) const CR4_OSXMMEXCPT: u64 = 1 << 10;
pub(crate) const CR4_UMIP: u64 = 1 << 11;
pub(crate) const CR4_LA57: u64 = 1 << 12;
pub(crate) const CR4_FSGSBASE: u64 = 1 << 16;
pub(crate) const CR4_SMEP: u64 = 1 << 20;
pub(crate) const CR4_SMAP: u64 = 1 << 21;
pub(crate) const CR4_PCIDE: u64 = 1 << 17;
pub(crate) const CR4_PKE: u64 = 1 << 22;
pub(crate) const CR4_PKS: u64 = 1 << 24;

// EFER. AMD APM volume 2, 3.1.7.
pub(crate) const EFER_SCE: u64 = 1 << 0;
pub(crate) const EFER_LME: u64 = 1 << 8;
pub(crate) const EFER_LMA: u64 = 1 << 10;
pub(crate) const EFER_NXE: u64 = 1 << 11;

// `Cpu::events`: why the run loop must look up from the block it executes.
/// Stop after this instruction: what follows in the block may no longer hold.
pub(crate) const EVENT_BREAK: u32 = 1 << 0;
/// Ask the platform for interrupts and for its deadline.
pub(crate) const EVENT_POLL: u32 = 1 << 1;
/// The next instruction runs with interrupts inhibited (STI, MOV SS, POP SS).
pub(crate) const EVENT_SHADOW: u32 = 1 << 2;
/// The shadow also holds back debug exceptions (MOV SS, POP SS).
pub(crate) const EVENT_SHADOW_DEBUG: u32 = 1 << 3;
/// A data breakpoint, or T in a new TSS, waits to be reported after the instruction.
pub(crate) const EVENT_TRAP: u32 = 1 << 4;
/// HLT was executed.
pub(crate) const EVENT_HALT: u32 = 1 << 5;
/// A triple fault happened.
pub(crate) const EVENT_SHUTDOWN: u32 = 1 << 6;

/// Index of the register that always reads zero: the base or index an address does not have.
pub(crate) const ZERO: u8 = 16;

/// The operating mode that decides how code is decoded and segments are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Real,
    V86,
    Protected,
    /// Long mode executing 16- or 32-bit code.
    Compatibility,
    Long64,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TableRegister {
    /// Linear base address.
    pub base: u64,
    /// The last valid offset.
    pub limit: u16,
}

/// One virtual processor with the RAM it runs on.
pub struct Cpu {
    /// 0-15 are the general registers, [`ZERO`] stays zero.
    pub(crate) regs: [u64; 32],
    pub(crate) rip: u64,
    pub(crate) next_rip: u64,
    pub(crate) flags: u64,
    pub(crate) events: u32,
    pub(crate) cpl: u8,
    pub(crate) mode: Mode,
    /// 16, 32 or 64.
    pub(crate) code_bits: u8,
    pub(crate) bank: Bank,
    /// Segments that need no check, by bit: all in 64-bit mode, flat writable ones elsewhere.
    pub(crate) unchecked: u8,
    pub(crate) base: [u64; 8],
    pub(crate) ip_mask: u64,
    pub(crate) linear_mask: u64,
    pub(crate) stack_mask: u64,
    pub(crate) ticks: u64,
    pub(crate) partial_reps: u64,
    pub(crate) deadline: u64,
    /// Where the present run's budget ends.
    pub(crate) limit: u64,
    pub(crate) tlb: Tlb,

    pub(crate) seg: [Segment; 6],
    pub(crate) ldtr: Segment,
    pub(crate) tr: Segment,
    pub(crate) gdtr: TableRegister,
    pub(crate) idtr: TableRegister,
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
    pub(crate) pkru: u32,
    pub(crate) pkrs: u32,
    pub(crate) dr: [u64; 8],
    pub(crate) msr: Msrs,
    pub(crate) fx: FxState,
    pub(crate) paging: Context,
    pub(crate) a20_mask: u64,
    pub(crate) halted: bool,
    /// PAUSE is the last instruction of a run.
    pub(crate) pause_ends_run: bool,
    pub(crate) nmi_blocked: bool,
    /// A task switch has passed its commit point and may still fault.
    pub(crate) task_entered: bool,
    /// TF traps behind the instruction being run.
    pub(crate) stepping: bool,
    pub(crate) pdptes: Option<[u64; 4]>,
    pub(crate) io: Box<NativeIo>,

    pub(crate) native: NativeUnit,
    pub(crate) blocks: BlockCache,
    pub(crate) translator: Translator,
    pub(crate) cpuid: Cpuid,
    pub(crate) ram: Ram,
    pub(crate) stats: Stats,
    pub(crate) watch: Watch,
}

/// What a run cost, beside time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Interrupts taken from the platform.
    pub interrupts: u64,
    /// Exceptions delivered, by vector.
    pub exceptions: [u64; 32],
    /// Accesses that went to [`crate::Mmio`].
    pub mmio: u64,
    /// Accesses that went to [`crate::PortIo`].
    pub ports: u64,
    /// Blocks decoded.
    pub blocks_decoded: u64,
    /// Writes to pages with decoded code, which are looked at one by one.
    pub traced_writes: u64,
    /// Blocks thrown away because their bytes were written.
    pub blocks_invalidated: u64,
}

impl AddAssign for Stats {
    /// Adds what another processor cost.
    fn add_assign(&mut self, other: Self) {
        self.interrupts += other.interrupts;
        for (sum, count) in self.exceptions.iter_mut().zip(other.exceptions) {
            *sum += count;
        }
        self.mmio += other.mmio;
        self.ports += other.ports;
        self.blocks_decoded += other.blocks_decoded;
        self.traced_writes += other.traced_writes;
        self.blocks_invalidated += other.blocks_invalidated;
    }
}

impl Cpu {
    /// Makes a processor in its reset state (Intel SDM volume 3, table 10-1).
    ///
    /// # Errors
    ///
    /// When the host refuses the memory for native stubs or for the TLB.
    ///
    /// # Panics
    ///
    /// When 64 processors have the RAM already.
    pub fn new(cpuid: Cpuid, ram: Ram) -> std::io::Result<Self> {
        let mut cpu = Self {
            regs: [0; 32],
            rip: 0xfff0,
            next_rip: 0,
            flags: flags::FIXED,
            events: EVENT_POLL,
            cpl: 0,
            mode: Mode::Real,
            code_bits: 16,
            bank: Bank::Supervisor,
            unchecked: 0,
            base: [0; 8],
            ip_mask: 0,
            linear_mask: 0,
            stack_mask: 0,
            ticks: 0,
            partial_reps: 0,
            deadline: 0,
            limit: 0,
            tlb: Tlb::new()?,
            seg: [Segment::real(0); 6],
            ldtr: Segment {
                attributes: 0x82,
                limit: 0xffff,
                ..Segment::default()
            },
            tr: Segment {
                attributes: 0x8b,
                limit: 0xffff,
                ..Segment::default()
            },
            gdtr: TableRegister {
                base: 0,
                limit: 0xffff,
            },
            idtr: TableRegister {
                base: 0,
                limit: 0xffff,
            },
            cr0: CR0_CD | CR0_NW | CR0_ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            pkru: 0,
            pkrs: 0,
            dr: [0, 0, 0, 0, 0, 0, DR6_FIXED, DR7_FIXED],
            msr: Msrs::default(),
            fx: FxState::power_on(),
            paging: Context::new(&cpuid.processor(), &Registers::default()),
            a20_mask: u64::MAX,
            halted: false,
            pause_ends_run: false,
            nmi_blocked: false,
            task_entered: false,
            stepping: false,
            pdptes: None,
            io: Box::default(),
            native: NativeUnit::new()?,
            blocks: BlockCache::new(ram.seat()),
            translator: Translator::new()?,
            cpuid,
            ram,
            stats: Stats::default(),
            watch: Watch::default(),
        };
        cpu.seg[usize::from(CS)] = Segment {
            base: 0xffff_0000,
            ..Segment::real(0xf000)
        };
        cpu.regs[2] = u64::from(cpu.cpuid.signature());
        cpu.mode_changed();
        Ok(cpu)
    }

    /// Recomputes all that depends on CR0, CR4, EFER, CS, SS, CPL and EFLAGS.VM/AC.
    pub(crate) fn mode_changed(&mut self) {
        let (cs, ss) = (self.seg[usize::from(CS)], self.seg[usize::from(SS)]);
        self.mode = if self.cr0 & CR0_PE == 0 {
            Mode::Real
        } else if self.efer & EFER_LMA != 0 {
            if cs.has(LONG) {
                Mode::Long64
            } else {
                Mode::Compatibility
            }
        } else if self.flags & flags::VM != 0 {
            Mode::V86
        } else {
            Mode::Protected
        };
        self.code_bits = match self.mode {
            Mode::Long64 => 64,
            _ if cs.has(BIG) => 32,
            _ => 16,
        };
        let long = self.mode == Mode::Long64;
        self.ip_mask = if long { u64::MAX } else { 0xffff_ffff };
        self.linear_mask = self.ip_mask;
        self.stack_mask = match () {
            () if long => u64::MAX,
            () if ss.has(BIG) => 0xffff_ffff,
            () => 0xffff,
        };
        self.segments_changed();
        self.access_changed();
    }

    /// Recomputes the bases and the set of segments that need no check.
    pub(crate) fn segments_changed(&mut self) {
        let long = self.mode == Mode::Long64;
        self.unchecked = 0;
        for (index, segment) in self.seg.iter().enumerate() {
            let based = !long || index >= 4;
            self.base[index] = if based { segment.base } else { 0 };
            let flat = segment.limit == u32::MAX
                && (self.mode == Mode::Real
                    || segment.is_writable()
                        && !segment.is_expand_down()
                        && segment.has(crate::segment::PRESENT));
            self.unchecked |= u8::from(long || flat) << index;
        }
    }

    /// Recomputes which translations and checks data accesses use.
    pub(crate) fn access_changed(&mut self) {
        let aligned = self.cpl == 3 && self.cr0 & CR0_AM != 0 && self.flags & flags::AC != 0;
        self.bank = if aligned || self.data_breakpoints() {
            Bank::Slow
        } else {
            self.data_bank()
        };
    }

    /// The bank of explicit data accesses, whether or not the fast path may use it.
    pub(crate) fn data_bank(&self) -> Bank {
        if self.cpl == 3 {
            Bank::User
        } else if self.flags & flags::AC != 0 && self.cr4 & CR4_SMAP != 0 {
            Bank::SupervisorAc
        } else {
            Bank::Supervisor
        }
    }

    pub(crate) fn is_long(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// Protected-mode segmentation: not real mode, not virtual-8086 mode.
    pub(crate) fn is_protected(&self) -> bool {
        !matches!(self.mode, Mode::Real | Mode::V86)
    }

    pub(crate) fn iopl(&self) -> u8 {
        ((self.flags & flags::IOPL) >> flags::IOPL_SHIFT) as u8
    }

    /// Instructions retired since construction.
    #[must_use]
    pub fn retired(&self) -> u64 {
        self.ticks - self.partial_reps
    }

    /// What budgets are counted in: instructions retired, and slices of REP instructions that did not finish one.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Sets whether PAUSE ends a [run](Self::run), which returns [`Exit::Deadline`](crate::Exit::Deadline) behind it: for processors that take
    /// turns, one of which waits for another. Not at first; from the first time on PAUSE is left to the interpreter, and setting
    /// it costs nothing.
    pub fn set_pause_exit(&mut self, ends_run: bool) {
        self.pause_ends_run = ends_run;
        if ends_run && !self.translator.simulates_pause {
            self.translator.simulates_pause = true;
            self.forget_code();
        }
    }

    /// What the run has cost so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// What the software TLB did so far.
    #[must_use]
    pub fn tlb_stats(&self) -> crate::tlb::TlbStats {
        self.tlb.stats
    }

    /// Opens or closes the A20 gate: closed, bit 20 of every physical address reads as zero.
    pub fn set_a20(&mut self, open: bool) {
        self.a20_mask = if open { u64::MAX } else { !(1 << 20) };
        self.tlb.flush(false);
    }

    /// Tells that something other than this processor wrote `len` bytes at guest-physical `gpa`,
    /// so that code decoded from there is decoded again.
    pub fn memory_written(&mut self, gpa: u64, len: u64) {
        self.code_written(gpa, len);
    }
}

pub(crate) const DR6_DETECTED: u64 = 1 << 13;
pub(crate) const DR6_SINGLE_STEP: u64 = 1 << 14;
pub(crate) const DR6_TASK_SWITCH: u64 = 1 << 15;
/// The bits of DR6 and DR7 that read as one. Intel SDM volume 3, 18.2.
pub(crate) const DR6_FIXED: u64 = 0xffff_0ff0;
pub(crate) const DR7_FIXED: u64 = 0x400;

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15",
        ];
        writeln!(
            f,
            "{:?} cpl={} rip={:#x} rflags={:#x} ticks={}",
            self.mode, self.cpl, self.rip, self.flags, self.ticks
        )?;
        for (name, value) in NAMES.iter().zip(self.regs) {
            write!(f, "{name}={value:#x} ")?;
        }
        writeln!(
            f,
            "\ncr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x}",
            self.cr0, self.cr2, self.cr3, self.cr4, self.efer
        )?;
        for (name, segment) in ["es", "cs", "ss", "ds", "fs", "gs"].iter().zip(self.seg) {
            write!(
                f,
                "{name}={:#x}:{:#x}/{:#x}/{:#x} ",
                segment.selector, segment.base, segment.limit, segment.attributes
            )?;
        }
        Ok(())
    }
}
