//! The control instructions of x87, MMX and SSE, done in Rust on the state.
//!
//! The environment formats are those of Intel SDM volume 1, figures 8-9 to 8-12; the FXSAVE image is table 10-2.

use iced_x86::{Code, CodeSize, Instruction, OpKind};

use super::describe::number;
use super::fx_state::{FCW, FDP, FIP, FOP, FSW, FTW, FxState, MXCSR, ST, X87_EXCEPTIONS, XMM};
use super::io::{NativeClass, NativeIo, NativeMemory, NativeOutcome};

/// A control instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Soft {
    /// WAIT, fences, prefetches, FNENI and its like: nothing beside the checks made for every instruction.
    Nothing,
    Fninit,
    Fnclex,
    Fldcw,
    Fnstcw,
    Fnstsw,
    FnstswAx,
    Fldenv(Environment),
    Fnstenv(Environment),
    Frstor(Environment),
    Fnsave(Environment),
    Fxsave(FxFormat),
    Fxrstor(FxFormat),
    Ldmxcsr,
    Stmxcsr,
    /// Data and mask registers.
    Maskmovq(u8, u8),
    Maskmovdqu(u8, u8),
}

/// What the layout of an x87 environment depends on, beside the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Environment {
    /// 32-bit operand size, else 16-bit.
    wide: bool,
    /// Selectors are kept: not in 64-bit code.
    selectors: bool,
}

impl Environment {
    fn of(instruction: &Instruction) -> Self {
        let wide = matches!(
            instruction.code(),
            Code::Fldenv_m28byte
                | Code::Fnstenv_m28byte
                | Code::Frstor_m108byte
                | Code::Fnsave_m108byte
        );
        Self {
            wide,
            selectors: instruction.code_size() != CodeSize::Code64,
        }
    }

    fn len(self) -> u16 {
        if self.wide { 28 } else { 14 }
    }

    /// What of a pointer is kept: the whole, or the offset.
    fn pointer(self, value: u64) -> Pointer {
        Pointer {
            offset: low32(value),
            selector: if self.selectors { selector(value) } else { 0 },
        }
    }
}

/// FIP or FDP outside 64-bit code.
#[derive(Clone, Copy)]
struct Pointer {
    offset: u32,
    selector: u16,
}

impl Pointer {
    /// In real-address mode, where an environment holds it.
    fn linear(self) -> u32 {
        (u32::from(self.selector) << 4).wrapping_add(self.offset)
    }

    fn joined(offset: u32, selector: u16) -> u64 {
        u64::from(selector) << 32 | u64::from(offset)
    }
}

/// The layout of an FXSAVE image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FxFormat {
    /// FIP and FDP have 64 bits (REX.W).
    wide: bool,
    /// 16 XMM registers in 64-bit mode, else 8.
    xmm_count: usize,
}

impl FxFormat {
    fn of(instruction: &Instruction) -> Self {
        let wide = matches!(
            instruction.code(),
            Code::Fxsave64_m512byte | Code::Fxrstor64_m512byte
        );
        let long = instruction.code_size() == CodeSize::Code64;
        Self {
            wide,
            xmm_count: if long { 16 } else { 8 },
        }
    }

    /// The bytes that an image uses: up to the last XMM register.
    fn len(self) -> usize {
        XMM + 16 * self.xmm_count
    }
}

impl Soft {
    /// The operation that `instruction` is; `None` when it is not a control instruction.
    pub(super) fn of(instruction: &Instruction) -> Option<Self> {
        Some(match instruction.code() {
            Code::Wait | Code::Fneni | Code::Fndisi | Code::Fnsetpm => Self::Nothing,
            Code::Fninit => Self::Fninit,
            Code::Fnclex => Self::Fnclex,
            Code::Fldcw_m2byte => Self::Fldcw,
            Code::Fnstcw_m2byte => Self::Fnstcw,
            Code::Fnstsw_m2byte => Self::Fnstsw,
            Code::Fnstsw_AX => Self::FnstswAx,
            Code::Fldenv_m14byte | Code::Fldenv_m28byte => {
                Self::Fldenv(Environment::of(instruction))
            }
            Code::Fnstenv_m14byte | Code::Fnstenv_m28byte => {
                Self::Fnstenv(Environment::of(instruction))
            }
            Code::Frstor_m94byte | Code::Frstor_m108byte => {
                Self::Frstor(Environment::of(instruction))
            }
            Code::Fnsave_m94byte | Code::Fnsave_m108byte => {
                Self::Fnsave(Environment::of(instruction))
            }
            Code::Fxsave_m512byte | Code::Fxsave64_m512byte => {
                Self::Fxsave(FxFormat::of(instruction))
            }
            Code::Fxrstor_m512byte | Code::Fxrstor64_m512byte => {
                Self::Fxrstor(FxFormat::of(instruction))
            }
            Code::Ldmxcsr_m32 => Self::Ldmxcsr,
            Code::Stmxcsr_m32 => Self::Stmxcsr,
            Code::Maskmovq_rDI_mm_mm => {
                let (data, mask) = register_numbers(instruction);
                Self::Maskmovq(data, mask)
            }
            Code::Maskmovdqu_rDI_xmm_xmm => {
                let (data, mask) = register_numbers(instruction);
                Self::Maskmovdqu(data, mask)
            }
            code if is_cache_control(code) => Self::Nothing,
            _ => return None,
        })
    }

    pub(super) fn class(instruction: &Instruction) -> NativeClass {
        match instruction.code() {
            Code::Wait => NativeClass::Wait,
            Code::Fxsave_m512byte
            | Code::Fxsave64_m512byte
            | Code::Fxrstor_m512byte
            | Code::Fxrstor64_m512byte => NativeClass::Fxsr,
            Code::Ldmxcsr_m32 | Code::Stmxcsr_m32 | Code::Maskmovdqu_rDI_xmm_xmm => {
                NativeClass::Sse
            }
            Code::Maskmovq_rDI_mm_mm => NativeClass::Mmx,
            code if is_cache_control(code) => NativeClass::Plain,
            _ => NativeClass::X87,
        }
    }

    pub(super) fn memory(self, instruction: &Instruction) -> NativeMemory {
        match self {
            Self::Nothing if is_line_operation(instruction.code()) => NativeMemory::Touch,
            Self::Nothing | Self::Fninit | Self::Fnclex | Self::FnstswAx => NativeMemory::None,
            Self::Fldcw => NativeMemory::Read(2),
            Self::Fnstcw | Self::Fnstsw => NativeMemory::Write(2),
            Self::Fldenv(environment) => NativeMemory::Read(environment.len()),
            Self::Fnstenv(environment) => NativeMemory::Write(environment.len()),
            Self::Frstor(environment) => NativeMemory::Read(environment.len() + 80),
            Self::Fnsave(environment) => NativeMemory::Write(environment.len() + 80),
            Self::Fxsave(format) => {
                NativeMemory::Write(if format.xmm_count == 16 { 416 } else { 288 })
            }
            Self::Fxrstor(format) => {
                NativeMemory::Read(if format.xmm_count == 16 { 416 } else { 288 })
            }
            Self::Ldmxcsr => NativeMemory::Read(4),
            Self::Stmxcsr => NativeMemory::Write(4),
            Self::Maskmovq(..) => NativeMemory::Masked(8),
            Self::Maskmovdqu(..) => NativeMemory::Masked(16),
        }
    }

    pub(super) fn waits(self, instruction: &Instruction) -> bool {
        match self {
            Self::Nothing => instruction.code() == Code::Wait,
            Self::Fldcw | Self::Fldenv(_) | Self::Frstor(_) | Self::Maskmovq(..) => true,
            _ => false,
        }
    }

    /// Carries the operation out.
    pub(super) fn run(self, state: &mut FxState, io: &mut NativeIo) -> NativeOutcome {
        match self {
            Self::Nothing => {}
            Self::Fninit => state.fninit(),
            Self::Fnclex => state.set_fsw(state.fsw() & 0x7f00),
            Self::Fldcw => state.set_fcw(read_u16(io, 0)),
            Self::Fnstcw => write(io, 0, &state.fcw().to_le_bytes()),
            Self::Fnstsw => write(io, 0, &state.fsw().to_le_bytes()),
            Self::FnstswAx => io.gpr_out = u64::from(state.fsw()),
            Self::Fldenv(environment) => load_environment(state, io, environment),
            Self::Fnstenv(environment) => {
                store_environment(state, io, environment);
                state.set_fcw(state.fcw() | X87_EXCEPTIONS);
            }
            Self::Frstor(environment) => restore(state, io, environment),
            Self::Fnsave(environment) => {
                store_environment(state, io, environment);
                let at = usize::from(environment.len());
                (0..8).for_each(|i| write(io, at + 10 * i, &state.st(i)));
                state.fninit();
            }
            Self::Fxsave(format) => fxsave(state, io, format),
            Self::Fxrstor(format) => return fxrstor(state, io, format),
            Self::Ldmxcsr => {
                if !state.set_mxcsr(read_u32(io, 0)) {
                    return NativeOutcome::ReservedMxcsr;
                }
            }
            Self::Stmxcsr => write(io, 0, &state.mxcsr().to_le_bytes()),
            Self::Maskmovq(data, mask) => {
                state.enter_mmx();
                let data = state.mm(usize::from(data));
                write(io, 0, &data.to_le_bytes());
                io.byte_mask = sign_bits(&state.mm(usize::from(mask)).to_le_bytes());
            }
            Self::Maskmovdqu(data, mask) => {
                write(io, 0, &state.xmm(usize::from(data)).to_le_bytes());
                io.byte_mask = sign_bits(&state.xmm(usize::from(mask)).to_le_bytes());
            }
        }
        NativeOutcome::Done { store: true }
    }
}

fn store_environment(state: &FxState, io: &mut NativeIo, environment: Environment) {
    let words = [state.fcw(), state.fsw(), state.ftw()];
    let (fip, fdp) = (
        environment.pointer(state.fip()),
        environment.pointer(state.fdp()),
    );
    let fop = u32::from(state.fop());
    if environment.wide {
        for (i, word) in words.into_iter().enumerate() {
            write_u32(io, 4 * i, 0xffff_0000 | u32::from(word));
        }
        let pointers = if io.real_mode {
            let [fip, fdp] = [fip.linear(), fdp.linear()];
            let (high_fip, high_fdp) = (fip >> 16 << 12 | fop, fdp >> 16 << 12);
            [
                0xffff_0000 | fip & 0xffff,
                high_fip,
                0xffff_0000 | fdp & 0xffff,
                high_fdp,
            ]
        } else {
            let [fcs, fds] = [fip, fdp].map(|pointer| u32::from(pointer.selector));
            [fip.offset, fcs | fop << 16, fdp.offset, fds | 0xffff_0000]
        };
        for (i, dword) in pointers.into_iter().enumerate() {
            write_u32(io, 12 + 4 * i, dword);
        }
    } else {
        for (i, word) in words.into_iter().enumerate() {
            write(io, 2 * i, &word.to_le_bytes());
        }
        let pointers = if io.real_mode {
            let [fip, fdp] = [fip.linear(), fdp.linear()];
            [fip, fip >> 4 & 0xf000 | fop, fdp, fdp >> 4 & 0xf000]
        } else {
            [
                fip.offset,
                fip.selector.into(),
                fdp.offset,
                fdp.selector.into(),
            ]
        };
        for (i, word) in pointers.into_iter().enumerate() {
            write(io, 6 + 2 * i, &word.to_le_bytes()[..2]);
        }
    }
}

fn load_environment(state: &mut FxState, io: &NativeIo, environment: Environment) {
    let step = if environment.wide { 4 } else { 2 };
    let [fcw, fsw, ftw] = [0, step, 2 * step].map(|at| read_u16(io, at));
    let (fip, fdp, fop) = if environment.wide {
        pointers_32(io)
    } else {
        pointers_16(io)
    };
    let kept = |pointer| {
        let Pointer { offset, selector } = environment.pointer(pointer);
        Pointer::joined(offset, selector)
    };
    state.set_top(state_top(fsw));
    state.set_fcw(fcw);
    state.set_fsw(fsw);
    state.set_ftw_abridged(abridge(ftw));
    state.set_pointers(fop, kept(fip), kept(fdp));
}

fn pointers_32(io: &NativeIo) -> (u64, u64, u16) {
    if io.real_mode {
        let linear =
            |at| u64::from(read_u16(io, at)) | u64::from(read_u32(io, at + 4) & 0x0fff_f000) << 4;
        (linear(12), linear(20), read_u16(io, 16))
    } else {
        let pointer = |at| Pointer::joined(read_u32(io, at), read_u16(io, at + 4));
        (pointer(12), pointer(20), read_u16(io, 18))
    }
}

/// The protected-mode format of 14 bytes has no opcode.
fn pointers_16(io: &NativeIo) -> (u64, u64, u16) {
    if io.real_mode {
        let linear =
            |at| u64::from(read_u16(io, at)) | (u64::from(read_u16(io, at + 2)) & 0xf000) << 4;
        (linear(6), linear(10), read_u16(io, 8))
    } else {
        let pointer = |at| Pointer::joined(read_u16(io, at).into(), read_u16(io, at + 2));
        (pointer(6), pointer(10), 0)
    }
}

fn restore(state: &mut FxState, io: &NativeIo, environment: Environment) {
    load_environment(state, io, environment);
    let at = usize::from(environment.len());
    for i in 0..8 {
        state.set_st(i, read(io, at + 10 * i));
    }
}

fn fxsave(state: &FxState, io: &mut NativeIo, format: FxFormat) {
    write(io, 0, &state.image()[..format.len()]);
    if !format.wide && format.xmm_count == 16 {
        // The fields hold a selector above a 32-bit offset, and 64-bit code keeps none.
        write(io, FIP + 4, &[0; 4]);
        write(io, FDP + 4, &[0; 4]);
    }
}

fn fxrstor(state: &mut FxState, io: &NativeIo, format: FxFormat) -> NativeOutcome {
    if !state.set_mxcsr(read_u32(io, MXCSR)) {
        return NativeOutcome::ReservedMxcsr;
    }
    let pointer = |at| match format {
        FxFormat { wide: true, .. } => u64::from_le_bytes(read(io, at)),
        FxFormat { xmm_count: 16, .. } => u64::from(read_u32(io, at)),
        _ => Pointer::joined(read_u32(io, at), read_u16(io, at + 4)),
    };
    state.set_fcw(read_u16(io, FCW));
    state.set_fsw(read_u16(io, FSW));
    state.set_ftw_abridged(io.memory[FTW]);
    state.set_pointers(read_u16(io, FOP), pointer(FIP), pointer(FDP));
    for i in 0..8 {
        state.set_st(i, read(io, ST + 16 * i));
    }
    for i in 0..format.xmm_count {
        state.set_xmm(i, u128::from_le_bytes(read(io, XMM + 16 * i)));
    }
    NativeOutcome::Done { store: true }
}

/// Bit `i` is set when register `i` of the full tag word is not empty.
fn abridge(ftw: u16) -> u8 {
    (0..8)
        .filter(|i| ftw >> (2 * i) & 3 != 3)
        .fold(0, |valid, i| valid | 1 << i)
}

fn sign_bits(bytes: &[u8]) -> u16 {
    bytes
        .iter()
        .enumerate()
        .fold(0, |mask, (i, byte)| mask | u16::from(byte >> 7) << i)
}

fn register_numbers(instruction: &Instruction) -> (u8, u8) {
    let mut registers = (0..instruction.op_count())
        .filter(|&op| instruction.op_kind(op) == OpKind::Register)
        .map(|op| number(instruction.op_register(op)));
    (registers.next().unwrap_or(0), registers.next().unwrap_or(0))
}

fn is_line_operation(code: Code) -> bool {
    matches!(code, Code::Clflush_m8 | Code::Clflushopt_m8 | Code::Clwb_m8)
}

fn is_cache_control(code: Code) -> bool {
    is_line_operation(code)
        || matches!(
            code,
            Code::Prefetchnta_m8
                | Code::Prefetcht0_m8
                | Code::Prefetcht1_m8
                | Code::Prefetcht2_m8
                | Code::Sfence
                | Code::Sfence_F9
                | Code::Sfence_FA
                | Code::Sfence_FB
                | Code::Sfence_FC
                | Code::Sfence_FD
                | Code::Sfence_FE
                | Code::Sfence_FF
                | Code::Lfence
                | Code::Lfence_E9
                | Code::Lfence_EA
                | Code::Lfence_EB
                | Code::Lfence_EC
                | Code::Lfence_ED
                | Code::Lfence_EE
                | Code::Lfence_EF
                | Code::Mfence
                | Code::Mfence_F1
                | Code::Mfence_F2
                | Code::Mfence_F3
                | Code::Mfence_F4
                | Code::Mfence_F5
                | Code::Mfence_F6
                | Code::Mfence_F7
        )
}

fn low32(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).expect("masked to 32 bits")
}

fn selector(pointer: u64) -> u16 {
    u16::try_from(pointer >> 32 & 0xffff).expect("masked to 16 bits")
}

/// TOP of a status word.
fn state_top(fsw: u16) -> u8 {
    fsw.to_le_bytes()[1] >> 3 & 7
}

fn read<const N: usize>(io: &NativeIo, at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&io.memory[at..at + N]);
    bytes
}

fn read_u16(io: &NativeIo, at: usize) -> u16 {
    u16::from_le_bytes(read(io, at))
}

fn read_u32(io: &NativeIo, at: usize) -> u32 {
    u32::from_le_bytes(read(io, at))
}

fn write_u32(io: &mut NativeIo, at: usize, value: u32) {
    write(io, at, &value.to_le_bytes());
}

fn write(io: &mut NativeIo, at: usize, bytes: &[u8]) {
    io.memory[at..at + bytes.len()].copy_from_slice(bytes);
}
