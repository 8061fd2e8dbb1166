//! What an instruction exchanges with the interpreter beside the floating-point state.

use iced_x86::{CpuidFeature, Register};

use super::soft::Soft;
use crate::arena::StubHandle;

/// The operands of one execution. The interpreter fills the inputs that [`NativeOp`] names, and takes the outputs.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct NativeIo {
    /// The memory operand, from byte 0: read before and (or) written after execution.
    pub memory: [u8; 512],
    /// The values of [`NativeOp::gpr_in`]; bits above the register's size are ignored.
    pub gpr: [u64; 2],
    /// The new value of [`NativeOp::gpr_out`]; bits above the register's size are zero.
    pub gpr_out: u64,
    /// EFLAGS: read by `FCMOVcc`, and CF, PF, AF, ZF, SF and OF changed by what compares.
    pub eflags: u64,
    /// The offset of the instruction, for FIP; outside 64-bit code with CS in bits 47:32.
    pub fip: u64,
    /// The offset of the memory operand, for FDP; outside 64-bit code with its selector in bits 47:32.
    pub fdp: u64,
    /// The x87 opcode, see [`x87_opcode`](super::x87_opcode).
    pub fop: u16,
    /// Whether FNSTENV, FLDENV, FNSAVE and FRSTOR use their real-address-mode formats (also in virtual-8086 mode).
    pub real_mode: bool,
    /// After MASKMOVQ or MASKMOVDQU: bit `i` is set when byte `i` of [`Self::memory`] is to be written.
    pub byte_mask: u16,
    pub(super) flags: u64,
    pub(super) mxcsr: u32,
    pub(super) host_mxcsr: u32,
    pub(super) host_fcw: u16,
}

impl NativeIo {
    /// Everything zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            memory: [0; 512],
            gpr: [0; 2],
            gpr_out: 0,
            eflags: 0,
            fip: 0,
            fdp: 0,
            fop: 0,
            real_mode: false,
            byte_mask: 0,
            flags: 0,
            mxcsr: 0,
            host_mxcsr: 0,
            host_fcw: 0,
        }
    }
}

impl Default for NativeIo {
    fn default() -> Self {
        Self::new()
    }
}

/// Which availability rules (#UD, #NM) an instruction follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeClass {
    /// x87: #NM when CR0.EM or CR0.TS.
    X87,
    /// WAIT: #NM when CR0.MP and CR0.TS.
    Wait,
    /// FXSAVE and FXRSTOR: #NM when CR0.EM or CR0.TS.
    Fxsr,
    /// MMX registers only: #UD when CR0.EM, #NM when CR0.TS.
    Mmx,
    /// XMM registers or MXCSR: #UD when CR0.EM or not CR4.OSFXSR, #NM when CR0.TS.
    Sse,
    /// Fences, prefetches and cache-line write-backs: always available.
    Plain,
}

/// The memory operand and its direction; sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeMemory {
    /// None.
    None,
    /// Read before execution.
    Read(u16),
    /// Written after execution, if the outcome says so.
    Write(u16),
    /// At DS:rDI (or the override); written where [`NativeIo::byte_mask`] says so.
    Masked(u16),
    /// One byte checked as for a read, its value not used (CLFLUSH, CLWB).
    Touch,
}

impl NativeMemory {
    /// The bytes that the operation reads or writes; 1 for [`Self::Touch`].
    #[must_use]
    pub fn size(self) -> u16 {
        match self {
            Self::None => 0,
            Self::Touch => 1,
            Self::Read(size) | Self::Write(size) | Self::Masked(size) => size,
        }
    }
}

/// One instruction, ready to run, and what the interpreter must know about it.
#[derive(Clone, Copy, Debug)]
pub struct NativeOp {
    /// Which availability rules apply.
    pub class: NativeClass,
    /// The memory operand.
    pub memory: NativeMemory,
    /// How many bytes from the operand's address on must be accessible, before any is read or written: the size
    /// of [`Self::memory`], but 512 for FXSAVE and FXRSTOR, which use fewer.
    pub span: u16,
    /// The alignment in bytes that the memory operand must have, else #GP(0): 1 or 16.
    pub alignment: u8,
    /// The registers whose values go into [`NativeIo::gpr`], in order.
    pub gpr_in: [Option<Register>; 2],
    /// The register that takes [`NativeIo::gpr_out`]; a 32-bit one clears the upper half in 64-bit mode.
    pub gpr_out: Option<Register>,
    /// Whether the condition in [`NativeIo::eflags`] is read.
    pub reads_flags: bool,
    /// Whether [`NativeIo::eflags`] is changed.
    pub writes_flags: bool,
    /// Whether a pending x87 exception is taken first (#MF, or FERR# without CR0.NE).
    pub waits: bool,
    /// The CPUID features all of which the guest must have been given, else #UD.
    pub features: &'static [CpuidFeature],
    pub(super) run: Run,
}

impl NativeOp {
    /// Whether it touches nothing but the registers it names and, maybe, MXCSR.
    pub(crate) fn is_xmm(&self) -> bool {
        matches!(self.run, Run::Xmm { .. })
    }

    /// Whether it is an x87 instruction that the host runs on the whole state.
    pub(crate) fn is_x87(&self) -> bool {
        matches!(
            self.run,
            Run::Fx {
                kind: FxKind::X87,
                ..
            }
        )
    }
}

/// How an operation runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Run {
    /// On the XMM registers it names.
    Xmm {
        stub: StubHandle,
        first: u8,
        second: u8,
        mxcsr: bool,
    },
    /// On the whole state.
    Fx { stub: StubHandle, kind: FxKind },
    /// In Rust.
    Soft(Soft),
}

/// Which rules follow a run on the whole state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FxKind {
    /// Updates FIP, FOP and (with a memory operand) FDP; stores are suppressed by unmasked exceptions.
    X87,
    /// Keeps the pointers.
    Mmx,
    /// Keeps the pointers, and may raise SIMD floating-point exceptions.
    MmxSimd,
}

/// What an execution did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeOutcome {
    /// It completed. A memory operand that is written is written now; but for `store: false` it stays
    /// as it is (an unmasked x87 exception suppressed the store).
    Done {
        /// Whether [`NativeMemory::Write`] or [`NativeMemory::Masked`] is to be carried out.
        store: bool,
    },
    /// Nothing happened: an unmasked x87 exception is pending. Raise #MF (or assert FERR# when CR0.NE is clear).
    Pending,
    /// Only the MXCSR flags changed: raise #XM, or #UD when CR4.OSXMMEXCPT is clear.
    SimdException,
    /// Nothing happened: MXCSR would get a reserved bit. Raise #GP(0).
    ReservedMxcsr,
    /// Nothing happened: the stub is gone. Prepare the instruction again.
    Stale,
}
