//! What the translator makes of an instruction.

use iced_x86::{
    Code, EncodingKind, FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits,
};

use super::ident::is_moved;
use crate::decode::Op;
use crate::native::{NativeClass, NativeMemory};

/// How an instruction is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Nothing is left of it.
    Nothing,
    /// The same instruction, with its registers and its memory operand moved; see [`Ident`].
    Ident(Ident),
    /// LEA.
    Lea,
    /// DIV or IDIV, guarded against #DE.
    Divide {
        signed: bool,
    },
    Push,
    Pop,
    Leave,
    Jump,
    Branch,
    Call,
    Return,
    JumpIndirect,
    CallIndirect,
    /// REP STOS or REP MOVS.
    Text(Text),
    /// The interpreter executes it.
    Simulate,
}

/// A repeated string instruction without a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// It copies, rather than fills.
    pub(super) moves: bool,
    /// Bytes of an element.
    pub(super) size: u8,
}

/// Properties of an instruction that is kept as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ident {
    /// Bytes of the memory operand; 0 without one.
    pub(super) span: u16,
    pub(super) writes_memory: bool,
    /// The memory operand must be aligned to 16 bytes.
    pub(super) aligned: bool,
    pub(super) registers: Registers,
}

/// Which of the host's registers must be the guest's, beside the general ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Registers {
    General,
    Xmm,
    /// The x87 registers, and with them the XMM registers.
    X87,
}

/// What an instruction does to the status flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlagUse {
    /// Neither reads nor writes them.
    None,
    /// Only reads them.
    Reads,
    /// Writes all six, whatever they were.
    Overwrites,
    /// Writes some, or writes depending on a count; `reads`: and its result depends on them.
    Changes { reads: bool },
}

const STATUS: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// The class of an instruction of 64-bit code. `op` is the same instruction as the interpreter knows it; `floats`
/// tells whether x87 and SSE instructions may run unchecked.
pub(super) fn classify(i: &Instruction, op: &Op, floats: bool) -> Class {
    use Mnemonic as M;
    if i.encoding() != EncodingKind::Legacy || is_far_out(i) {
        return Class::Simulate;
    }
    if let Some(text) = text(i) {
        return Class::Text(text);
    }
    match i.mnemonic() {
        M::Nop
        | M::Endbr64
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw => Class::Nothing,
        M::Pause if op.r0 == 0 => Class::Nothing,
        M::Lea => Class::Lea,
        M::Div | M::Idiv if op.size >= 4 => Class::Divide {
            signed: i.mnemonic() == M::Idiv,
        },
        M::Push if is_wide_push(i) => Class::Push,
        M::Pop if i.op_kind(0) == OpKind::Register && is_wide_gpr(i) && op.r0 != 4 => Class::Pop,
        M::Leave if i.code() == Code::Leaveq => Class::Leave,
        M::Jmp if is_near(i) => Class::Jump,
        M::Jmp if is_near_indirect(i) => Class::JumpIndirect,
        M::Call if is_near(i) => Class::Call,
        M::Call if is_near_indirect(i) => Class::CallIndirect,
        M::Ret if matches!(i.code(), Code::Retnq | Code::Retnq_imm16) => Class::Return,
        _ if i.is_jcc_short_or_near() && i.op_kind(0) == OpKind::NearBranch64 => Class::Branch,
        _ if op.native.is_some() => float_class(i, op, floats),
        _ if is_plain(i) => plain(i, op),
        _ => Class::Simulate,
    }
}

/// `i` as a repeated string instruction on 64-bit addresses without a segment's base.
fn text(i: &Instruction) -> Option<Text> {
    let (moves, size) = match i.code() {
        Code::Stosb_m8_AL => (false, 1),
        Code::Stosw_m16_AX => (false, 2),
        Code::Stosd_m32_EAX => (false, 4),
        Code::Stosq_m64_RAX => (false, 8),
        Code::Movsb_m8_m8 => (true, 1),
        Code::Movsw_m16_m16 => (true, 2),
        Code::Movsd_m32_m32 => (true, 4),
        Code::Movsq_m64_m64 => (true, 8),
        _ => return None,
    };
    let plain = i.op_kind(0) == OpKind::MemoryESRDI
        && (!moves || i.op_kind(1) == OpKind::MemorySegRSI && !has_base(i));
    (plain && i.has_rep_prefix()).then_some(Text { moves, size })
}

/// What `i` does to the flags. Shifts, multiplications and scans leave some flags as they were on some processors,
/// and all of them with a count of zero.
pub(super) fn flag_use(i: &Instruction) -> FlagUse {
    use Mnemonic as M;
    let (reads, modifies) = (i.rflags_read() & STATUS, i.rflags_modified() & STATUS);
    let fully = matches!(
        i.mnemonic(),
        M::Add
            | M::Sub
            | M::Cmp
            | M::Neg
            | M::And
            | M::Or
            | M::Xor
            | M::Test
            | M::Xadd
            | M::Ptest
            | M::Comisd
            | M::Comiss
            | M::Ucomisd
            | M::Ucomiss
    );
    match () {
        () if modifies == 0 && reads == 0 => FlagUse::None,
        () if modifies == 0 => FlagUse::Reads,
        () if fully => FlagUse::Overwrites,
        () => FlagUse::Changes { reads: reads != 0 },
    }
}

fn float_class(i: &Instruction, op: &Op, floats: bool) -> Class {
    let Some(native) = op.native.as_deref().filter(|_| floats) else {
        return Class::Simulate;
    };
    let registers = match native.class {
        NativeClass::Sse if native.is_xmm() => Registers::Xmm,
        // The data pointer is an offset: with a segment base it is not the address.
        NativeClass::X87 if native.is_x87() && !has_base(i) => Registers::X87,
        _ => return Class::Simulate,
    };
    let (span, writes_memory) = match native.memory {
        NativeMemory::None => (0, false),
        NativeMemory::Read(span) => (span, false),
        NativeMemory::Write(span) => (span, true),
        NativeMemory::Masked(_) | NativeMemory::Touch => return Class::Simulate,
    };
    if span > 16 {
        return Class::Simulate;
    }
    Class::Ident(Ident {
        span,
        writes_memory,
        aligned: native.alignment > 1,
        registers,
    })
}

fn has_base(i: &Instruction) -> bool {
    matches!(i.memory_segment(), Register::FS | Register::GS)
}

fn plain(i: &Instruction, op: &Op) -> Class {
    let memory = i.op_kinds().any(|kind| kind == OpKind::Memory);
    let high_byte = (0..i.op_count())
        .filter(|&n| i.op_kind(n) == OpKind::Register)
        .any(|n| is_high_byte(i.op_register(n)));
    // A moved address or register needs a REX prefix, which AH to BH cannot have.
    if high_byte && (memory || (0..i.op_count()).any(|n| is_moved(i, n))) {
        return Class::Simulate;
    }
    let span = if memory { i.memory_size().size() } else { 0 };
    let Ok(span) = u16::try_from(span) else {
        return Class::Simulate;
    };
    if memory && !(1..=16).contains(&span) {
        return Class::Simulate;
    }
    Class::Ident(Ident {
        span,
        writes_memory: memory && writes_memory(i),
        aligned: i.mnemonic() == Mnemonic::Cmpxchg16b,
        registers: Registers::General,
    })
    .unless(op.repeat != 0 && memory && !is_hint(i))
}

impl Class {
    fn unless(self, simulate: bool) -> Self {
        if simulate { Self::Simulate } else { self }
    }
}

/// REP and REPNE are hints where they are no part of the opcode.
fn is_hint(i: &Instruction) -> bool {
    !matches!(i.mnemonic(), Mnemonic::Movsd | Mnemonic::Cmpsd)
}

/// Whether the memory operand is written, or checked as if it were.
fn writes_memory(i: &Instruction) -> bool {
    use Mnemonic as M;
    if i.op_kind(0) != OpKind::Memory {
        // XCHG and XADD are encoded with memory first; nothing else writes a later operand.
        return matches!(i.mnemonic(), M::Xchg | M::Xadd);
    }
    !matches!(i.mnemonic(), M::Cmp | M::Test | M::Bt | M::Mul | M::Imul)
}

/// Instructions on general registers, flags and one memory operand that mean the same wherever they run.
fn is_plain(i: &Instruction) -> bool {
    use Mnemonic as M;
    match i.mnemonic() {
        M::Mov => is_plain_mov(i),
        // By more than one place OF is undefined, and not always the same even on one processor.
        M::Rcl | M::Rcr => is_rotate_by_one(i),
        // A register as bit offset reaches beyond the operand in memory.
        M::Bt | M::Bts | M::Btr | M::Btc => {
            i.op_kind(0) == OpKind::Register || i.op_kind(1) != OpKind::Register
        }
        M::Add
        | M::Adc
        | M::Sub
        | M::Sbb
        | M::And
        | M::Or
        | M::Xor
        | M::Cmp
        | M::Test
        | M::Inc
        | M::Dec
        | M::Neg
        | M::Not
        | M::Shl
        | M::Sal
        | M::Shr
        | M::Sar
        | M::Rol
        | M::Ror
        | M::Shld
        | M::Shrd
        | M::Mul
        | M::Imul
        | M::Bsf
        | M::Bsr
        | M::Movzx
        | M::Movsx
        | M::Movsxd
        | M::Movnti
        | M::Xchg
        | M::Xadd
        | M::Cmpxchg
        | M::Cmpxchg8b
        | M::Cmpxchg16b
        | M::Bswap
        | M::Cbw
        | M::Cwde
        | M::Cdqe
        | M::Cwd
        | M::Cdq
        | M::Cqo
        | M::Lahf
        | M::Sahf
        | M::Cmc
        | M::Clc
        | M::Stc
        | M::Popcnt => true,
        _ => is_conditional(i),
    }
}

fn is_rotate_by_one(i: &Instruction) -> bool {
    i.op_kind(1) == OpKind::Immediate8 && i.immediate8() == 1
}

/// `SETcc` and `CMOVcc` on general registers.
fn is_conditional(i: &Instruction) -> bool {
    i.condition_code() != iced_x86::ConditionCode::None
        && i.flow_control() == FlowControl::Next
        && (i.op_kind(0) == OpKind::Memory || i.op_register(0).is_gpr())
}

fn is_plain_mov(i: &Instruction) -> bool {
    let plain = |n| match i.op_kind(n) {
        OpKind::Register => i.op_register(n).is_gpr(),
        _ => true,
    };
    let absolute = matches!(
        i.code(),
        Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    );
    plain(0) && plain(1) && !absolute
}

fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::BH | Register::CH | Register::DH
    )
}

fn is_wide_gpr(i: &Instruction) -> bool {
    i.op_register(0).is_gpr64()
}

fn is_wide_push(i: &Instruction) -> bool {
    match i.op_kind(0) {
        OpKind::Register => is_wide_gpr(i),
        OpKind::Memory => i.memory_size().size() == 8,
        _ => matches!(i.code(), Code::Pushq_imm8 | Code::Pushq_imm32),
    }
}

/// A branch to where #GP waits, which the branch itself raises.
fn is_far_out(i: &Instruction) -> bool {
    i.op_kind(0) == OpKind::NearBranch64 && {
        let target = i.near_branch64().cast_signed();
        (target << 16) >> 16 != target
    }
}

fn is_near(i: &Instruction) -> bool {
    i.op_kind(0) == OpKind::NearBranch64
}

fn is_near_indirect(i: &Instruction) -> bool {
    matches!(i.code(), Code::Jmp_rm64 | Code::Call_rm64)
}
