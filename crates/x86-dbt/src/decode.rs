//! From bytes to [`Op`]s: `iced-x86` decodes, and each instruction gets the handler for its operands.

use std::rc::Rc;

use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind,
    Register,
};

use crate::cpu::{Cpu, ZERO};
use crate::exception::Result;
use crate::native::{NativeOp, NativeUnit, x87_opcode};
use crate::ops::operand::{HIGH_BYTE, Imm, Mem, R0, R1};
use crate::ops::{
    arith, bcd, bits, branch, data, far, flagops, gate, interrupt, io, muldiv, selector, shift,
    simd, stack, string, syscall, system,
};
use crate::platform::Platform;

/// `f::<u8, ..>` to `f::<u64, ..>` by the size in bytes.
macro_rules! sized {
    ($size:expr, $f:path $(, $($generic:tt),*)?) => { sized!(@ $size, $f, [$($($generic),*)?]) };
    (@ $size:expr, $f:path, [$($generic:tt),*]) => {
        match $size {
            1 => { use $f as f; f::<u8 $(, $generic)*> as Handler }
            2 => { use $f as f; f::<u16 $(, $generic)*> as Handler }
            4 => { use $f as f; f::<u32 $(, $generic)*> as Handler }
            _ => { use $f as f; f::<u64 $(, $generic)*> as Handler }
        }
    };
}

/// The same without bytes.
macro_rules! wide {
    ($size:expr, $f:path $(, $($generic:tt),*)?) => { wide!(@ $size, $f, [$($($generic),*)?]) };
    (@ $size:expr, $f:path, [$($generic:tt),*]) => {
        match $size {
            2 => { use $f as f; f::<u16 $(, $generic)*> as Handler }
            4 => { use $f as f; f::<u32 $(, $generic)*> as Handler }
            _ => { use $f as f; f::<u64 $(, $generic)*> as Handler }
        }
    };
}

/// For handlers of one size.
macro_rules! fixed {
    ($size:expr, $f:path $(, $($generic:tt),*)?) => { fixed!(@ $f, [$($($generic),*)?]) };
    (@ $f:path, [$($generic:tt),*]) => {{ use $f as f; f::<$($generic),*> as Handler }};
}

/// Executes one instruction.
pub(crate) type Handler = fn(&mut Cpu, &mut dyn Platform, &Op) -> Result;

/// [`Op::repeat`]: REP or REPE.
pub(crate) const REP: u8 = 1;
/// [`Op::repeat`]: REPNE.
pub(crate) const REPNE: u8 = 2;

/// A decoded instruction, resolved as far as its bytes allow.
#[derive(Clone)]
pub(crate) struct Op {
    pub(crate) handler: Handler,
    /// The displacement of the memory operand; absolute for RIP-relative ones.
    pub(crate) displacement: u64,
    /// The immediate, sign-extended; for branches, the distance from the next instruction.
    pub(crate) immediate: u64,
    /// All ones in the bits that an address has.
    pub(crate) address_mask: u64,
    /// What [`simd::native`] executes.
    pub(crate) native: Option<Rc<NativeOp>>,
    /// Bytes of the instruction.
    pub(crate) len: u8,
    /// Operand size in bytes, where a handler asks.
    pub(crate) size: u8,
    /// Register numbers of operands 0 to 2; [`HIGH_BYTE`] is set for AH to BH. `r2` also holds a condition code.
    pub(crate) r0: u8,
    pub(crate) r1: u8,
    pub(crate) r2: u8,
    pub(crate) base: u8,
    pub(crate) index: u8,
    /// log2 of the index's factor.
    pub(crate) scale: u8,
    pub(crate) segment: u8,
    pub(crate) repeat: u8,
    pub(crate) has_memory: bool,
}

/// Decodes the instructions in `bytes`, which lie at `linear`, up to `most` or to the first that may not fall through.
/// Empty if not even one is complete.
pub(crate) fn block(
    bytes: &[u8],
    linear: u64,
    code_bits: u8,
    most: usize,
    native: &mut NativeUnit,
) -> Vec<Op> {
    let mut decoder = Decoder::with_ip(u32::from(code_bits), bytes, linear, DecoderOptions::NONE);
    let mut ops = Vec::new();
    let mut instruction = Instruction::default();
    while ops.len() < most && decoder.can_decode() {
        let start = decoder.position();
        decoder.decode_out(&mut instruction);
        if decoder.last_error() == DecoderError::NoMoreBytes {
            break;
        }
        let own = &bytes[start..decoder.position()];
        let op = lower(&instruction, own, code_bits, native);
        ops.push(op);
        if instruction.flow_control() != FlowControl::Next {
            break;
        }
    }
    ops
}

/// Which operands an instruction has: the first letter is the destination.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    RegReg,
    RegImm,
    RegMem,
    MemReg,
    MemImm,
    /// One operand, or none that matters here.
    Reg,
    Mem,
}

fn lower(i: &Instruction, bytes: &[u8], code_bits: u8, native: &mut NativeUnit) -> Op {
    let mut op = operands(i, code_bits);
    if i.code() == Code::Pause && is_extended_pause(bytes) {
        return exchange_with_r8(op, bytes);
    }
    op.handler = match integer(i, &mut op) {
        Some(handler) => handler,
        None => vector(i, bytes, &mut op, native),
    };
    op
}

/// F3 90 with REX.B is XCHG with R8, which the decoder takes for PAUSE.
fn is_extended_pause(bytes: &[u8]) -> bool {
    matches!(bytes, [.., rex, 0x90] if rex & 0xf1 == 0x41)
}

fn exchange_with_r8(mut op: Op, bytes: &[u8]) -> Op {
    let wide = bytes[bytes.len() - 2] & 8 != 0;
    op.size = if wide {
        8
    } else if bytes.contains(&0x66) {
        2
    } else {
        4
    };
    op.r0 = 8;
    op.handler = wide!(op.size, data::xchg, R0);
    op
}

/// The operands in the form handlers take them.
fn operands(i: &Instruction, code_bits: u8) -> Op {
    let mut op = Op {
        handler: interrupt::ud,
        displacement: i.memory_displacement64(),
        immediate: 0,
        address_mask: address_mask(i, code_bits),
        native: None,
        // A decoded instruction has at most 15 bytes.
        len: i.len() as u8,
        size: operand_size(i),
        r0: 0,
        r1: 0,
        r2: 0,
        base: ZERO,
        index: ZERO,
        scale: i.memory_index_scale().trailing_zeros() as u8,
        segment: 0,
        repeat: match () {
            () if i.has_rep_prefix() => REP,
            () if i.has_repne_prefix() => REPNE,
            () => 0,
        },
        has_memory: false,
    };
    for n in 0..i.op_count() {
        match i.op_kind(n) {
            OpKind::Register => set_register(&mut op, n, number(i.op_register(n))),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                op.immediate = i.near_branch_target().wrapping_sub(i.next_ip());
                op.size = [2, 4, 8][i.op_kind(n) as usize - OpKind::NearBranch16 as usize];
            }
            OpKind::FarBranch16 => op.immediate = far_pointer(i, u32::from(i.far_branch16())),
            OpKind::FarBranch32 => op.immediate = far_pointer(i, i.far_branch32()),
            OpKind::Memory => memory(&mut op, i),
            OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI => {
                op.has_memory = true;
                op.base = 7;
                op.segment = i.memory_segment().number() as u8;
                op.displacement = 0;
            }
            OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI => {
                op.has_memory = true;
                op.segment = i.memory_segment().number() as u8;
            }
            OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI => op.has_memory = true,
            _ => {
                op.immediate |= i.immediate(n)
                    << if n == 1 && i.mnemonic() == Mnemonic::Enter {
                        16
                    } else {
                        0
                    }
            }
        }
    }
    op
}

fn set_register(op: &mut Op, n: u32, number: u8) {
    match n {
        0 => op.r0 = number,
        1 => op.r1 = number,
        2 => op.r2 = number,
        _ => {}
    }
}

fn far_pointer(i: &Instruction, offset: u32) -> u64 {
    u64::from(i.far_branch_selector()) << 32 | u64::from(offset)
}

fn memory(op: &mut Op, i: &Instruction) {
    op.has_memory = true;
    op.segment = i.memory_segment().number() as u8;
    let address_register = |register: Register| match register {
        Register::None | Register::RIP | Register::EIP => ZERO,
        register => number(register),
    };
    op.base = address_register(i.memory_base());
    op.index = address_register(i.memory_index());
}

/// A register's number as the handlers know it.
fn number(register: Register) -> u8 {
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => {
            HIGH_BYTE | (register as u8 - Register::AH as u8)
        }
        // Byte registers are numbered past AH to BH by themselves, but not their full registers.
        register if register.is_gpr() => register.full_register().number() as u8,
        register => register.number() as u8,
    }
}

fn address_mask(i: &Instruction, code_bits: u8) -> u64 {
    for n in 0..i.op_count() {
        let bits = match i.op_kind(n) {
            OpKind::Memory => memory_address_bits(i, code_bits),
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => 16,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => 32,
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => 64,
            _ => continue,
        };
        return mask(bits);
    }
    match i.op_code().address_size() {
        0 => mask(u32::from(code_bits)),
        bits => mask(bits),
    }
}

fn memory_address_bits(i: &Instruction, code_bits: u8) -> u32 {
    let register = if i.memory_base() == Register::None {
        i.memory_index()
    } else {
        i.memory_base()
    };
    match (register, i.memory_displ_size()) {
        (Register::None, 2) => 16,
        (Register::None, 4) => 32,
        (Register::None, 8) => 64,
        (Register::None, _) => u32::from(code_bits),
        (Register::RIP, _) => 64,
        (Register::EIP, _) => 32,
        (Register::AL, _) => u32::from(code_bits),
        (register, _) => register.size() as u32 * 8,
    }
}

fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// The size in bytes of the operand that decides: the first, or the first that is a general register.
fn operand_size(i: &Instruction) -> u8 {
    let is_gpr = |n: &u32| i.op_kind(*n) == OpKind::Register && i.op_register(*n).is_gpr();
    if i.op_count() > 0 && i.op_kind(0) == OpKind::Memory {
        return i.memory_size().size() as u8;
    }
    match (0..i.op_count()).find(is_gpr) {
        Some(n) => i.op_register(n).size() as u8,
        None => i.memory_size().size() as u8,
    }
}

fn form(i: &Instruction) -> Form {
    let is_memory = |n| n < i.op_count() && i.op_kind(n) == OpKind::Memory;
    let is_register = |n| n < i.op_count() && i.op_kind(n) == OpKind::Register;
    match () {
        () if is_memory(0) && is_register(1) => Form::MemReg,
        () if is_memory(0) && i.op_count() > 1 => Form::MemImm,
        () if is_memory(0) => Form::Mem,
        () if is_memory(1) => Form::RegMem,
        () if is_register(1) => Form::RegReg,
        () if i.op_count() > 1 => Form::RegImm,
        () => Form::Reg,
    }
}

fn binary<O: arith::Binary>(i: &Instruction, size: u8) -> Handler {
    match form(i) {
        Form::RegReg => sized!(size, arith::binary, O, R0, R1),
        Form::RegMem => sized!(size, arith::binary, O, R0, Mem),
        Form::MemReg => sized!(size, arith::binary, O, Mem, R1),
        Form::MemImm => sized!(size, arith::binary, O, Mem, Imm),
        _ => sized!(size, arith::binary, O, R0, Imm),
    }
}

fn compare<O: arith::Binary>(i: &Instruction, size: u8) -> Handler {
    match form(i) {
        Form::RegReg => sized!(size, arith::compare, O, R0, R1),
        Form::RegMem => sized!(size, arith::compare, O, R0, Mem),
        Form::MemReg => sized!(size, arith::compare, O, Mem, R1),
        Form::MemImm => sized!(size, arith::compare, O, Mem, Imm),
        _ => sized!(size, arith::compare, O, R0, Imm),
    }
}

fn unary<O: arith::Unary>(i: &Instruction, size: u8) -> Handler {
    if form(i) == Form::Mem {
        sized!(size, arith::unary, O, Mem)
    } else {
        sized!(size, arith::unary, O, R0)
    }
}

fn shift<O: shift::Shift>(i: &Instruction, size: u8) -> Handler {
    use crate::ops::shift::{ByCl, ByImm};
    match form(i) {
        Form::MemReg => sized!(size, shift::shift, O, Mem, ByCl),
        Form::MemImm => sized!(size, shift::shift, O, Mem, ByImm),
        Form::RegReg => sized!(size, shift::shift, O, R0, ByCl),
        _ => sized!(size, shift::shift, O, R0, ByImm),
    }
}

fn double_shift<const LEFT: bool>(i: &Instruction, size: u8) -> Handler {
    use crate::ops::shift::{ByCl, ByImm};
    let by_cl = i.op_kind(2) == OpKind::Register;
    match (i.op_kind(0) == OpKind::Memory, by_cl) {
        (true, true) => wide!(size, shift::double, Mem, ByCl, LEFT),
        (true, false) => wide!(size, shift::double, Mem, ByImm, LEFT),
        (false, true) => wide!(size, shift::double, R0, ByCl, LEFT),
        (false, false) => wide!(size, shift::double, R0, ByImm, LEFT),
    }
}

fn bit<O: bits::BitChange>(i: &Instruction, size: u8) -> Handler {
    match form(i) {
        Form::RegReg => wide!(size, bits::bit, O, R0, R1),
        Form::MemReg => wide!(size, bits::bit_string, O),
        Form::MemImm => wide!(size, bits::bit, O, Mem, Imm),
        _ => wide!(size, bits::bit, O, R0, Imm),
    }
}

fn movzx(i: &Instruction, size: u8) -> Handler {
    let from = source_size(i);
    match (form(i) == Form::RegMem, from) {
        (true, 1) => wide!(size, data::movzx, u8, Mem),
        (true, _) => wide!(size, data::movzx, u16, Mem),
        (false, 1) => wide!(size, data::movzx, u8, R1),
        (false, _) => wide!(size, data::movzx, u16, R1),
    }
}

fn movsx(i: &Instruction, size: u8) -> Handler {
    match (form(i) == Form::RegMem, source_size(i)) {
        (true, 1) => wide!(size, data::movsx, u8, Mem),
        (true, 2) => wide!(size, data::movsx, u16, Mem),
        (true, _) => wide!(size, data::movsx, u32, Mem),
        (false, 1) => wide!(size, data::movsx, u8, R1),
        (false, 2) => wide!(size, data::movsx, u16, R1),
        (false, _) => wide!(size, data::movsx, u32, R1),
    }
}

fn source_size(i: &Instruction) -> usize {
    if i.op_kind(1) == OpKind::Register {
        i.op_register(1).size()
    } else {
        i.memory_size().size()
    }
}

/// A handler that reads operand `n` from a register or from memory.
macro_rules! read_either {
    ($i:expr, $n:expr, $register:ident, $kind:ident, $size:expr, $f:path $(, $generic:tt)*) => {
        if $i.op_kind($n) == OpKind::Memory {
            $kind!($size, $f, Mem $(, $generic)*)
        } else {
            $kind!($size, $f, $register $(, $generic)*)
        }
    };
}

fn mov(i: &Instruction, op: &mut Op) -> Handler {
    let (to, from) = (
        i.op_kind(0) == OpKind::Register,
        i.op_kind(1) == OpKind::Register,
    );
    let class = |n| i.op_register(n);
    if to && class(0).is_segment_register() {
        return if from {
            selector::mov_to_segment::<R1>
        } else {
            selector::mov_to_segment::<Mem>
        };
    }
    if from && class(1).is_segment_register() {
        return if to {
            wide!(op.size, selector::mov_from_segment)
        } else {
            selector::store_segment
        };
    }
    if to && class(0).is_cr() {
        return system::mov_to_control;
    }
    if from && class(1).is_cr() {
        return system::mov_from_control;
    }
    if to && class(0).is_dr() {
        return system::mov_to_debug;
    }
    if from && class(1).is_dr() {
        return system::mov_from_debug;
    }
    if to && class(0).is_tr() || from && class(1).is_tr() {
        return interrupt::ud;
    }
    match form(i) {
        Form::RegReg => sized!(op.size, data::mov, R0, R1),
        Form::RegMem => sized!(op.size, data::mov, R0, Mem),
        Form::MemReg => sized!(op.size, data::mov, Mem, R1),
        Form::MemImm => sized!(op.size, data::mov, Mem, Imm),
        _ => sized!(op.size, data::mov, R0, Imm),
    }
}

fn push(i: &Instruction) -> Handler {
    let size = i.stack_pointer_increment().unsigned_abs() as u8;
    match i.op_kind(0) {
        OpKind::Register if i.op_register(0).is_segment_register() => {
            wide!(size, stack::push_segment)
        }
        OpKind::Register => wide!(size, stack::push, R0),
        OpKind::Memory => wide!(size, stack::push, Mem),
        _ => wide!(size, stack::push, Imm),
    }
}

fn pop(i: &Instruction) -> Handler {
    let size = i.stack_pointer_increment().unsigned_abs() as u8;
    match i.op_kind(0) {
        OpKind::Register if i.op_register(0).is_segment_register() => {
            wide!(size, stack::pop_segment)
        }
        OpKind::Register => wide!(size, stack::pop_reg),
        _ => wide!(size, stack::pop_mem),
    }
}

fn jmp(i: &Instruction, op: &Op) -> Handler {
    match i.op_kind(0) {
        OpKind::FarBranch16 => far::far_direct::<u16, false>,
        OpKind::FarBranch32 => far::far_direct::<u32, false>,
        OpKind::Memory if is_far(i.code()) => far_indirect::<false>(i.code()),
        OpKind::Memory => wide!(op.size, branch::jmp_indirect, Mem),
        OpKind::Register => wide!(op.size, branch::jmp_indirect, R0),
        _ => wide!(op.size, branch::jmp),
    }
}

fn call(i: &Instruction, op: &Op) -> Handler {
    match i.op_kind(0) {
        OpKind::FarBranch16 => far::far_direct::<u16, true>,
        OpKind::FarBranch32 => far::far_direct::<u32, true>,
        OpKind::Memory if is_far(i.code()) => far_indirect::<true>(i.code()),
        OpKind::Memory => wide!(op.size, branch::call_indirect, Mem),
        OpKind::Register => wide!(op.size, branch::call_indirect, R0),
        _ => wide!(op.size, branch::call),
    }
}

fn is_far(code: Code) -> bool {
    matches!(
        code,
        Code::Jmp_m1616
            | Code::Jmp_m1632
            | Code::Jmp_m1664
            | Code::Call_m1616
            | Code::Call_m1632
            | Code::Call_m1664
    )
}

fn far_indirect<const CALL: bool>(code: Code) -> Handler {
    match code {
        Code::Jmp_m1616 | Code::Call_m1616 => far::far_indirect::<u16, CALL>,
        Code::Jmp_m1632 | Code::Call_m1632 => far::far_indirect::<u32, CALL>,
        _ => far::far_indirect::<u64, CALL>,
    }
}

macro_rules! by_condition {
    ($t:ty, $code:expr, $($n:literal)*) => {
        match $code {
            $($n => branch::jcc::<$t, $n> as Handler,)*
            _ => branch::jcc::<$t, 15>,
        }
    };
}

fn jcc(code: u8, size: u8) -> Handler {
    match size {
        2 => by_condition!(u16, code, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
        4 => by_condition!(u32, code, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
        _ => by_condition!(u64, code, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
    }
}

/// The condition code of Jcc, `SETcc` and `CMOVcc`; iced numbers conditions from 1 in opcode order.
fn condition_code(i: &Instruction) -> u8 {
    i.condition_code() as u8 - 1
}

fn ret_size(code: Code) -> u8 {
    match code {
        Code::Retnw | Code::Retnw_imm16 | Code::Retfw | Code::Retfw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 | Code::Retfd | Code::Retfd_imm16 => 4,
        _ => 8,
    }
}

fn frame_size(code: Code) -> u8 {
    match code {
        Code::Enterw_imm16_imm8 | Code::Leavew => 2,
        Code::Enterd_imm16_imm8 | Code::Leaved => 4,
        _ => 8,
    }
}

fn far_pointer_load(op: &mut Op, segment: u8) -> Handler {
    op.r2 = segment;
    wide!(op.size, selector::load_far_pointer)
}

/// The handler of an integer or system instruction; `None` for the vector families and for what does not exist.
fn integer(i: &Instruction, op: &mut Op) -> Option<Handler> {
    use Mnemonic as M;
    let size = op.size;
    Some(match i.mnemonic() {
        M::INVALID | M::Ud0 | M::Ud1 | M::Ud2 => interrupt::ud,

        M::Add => binary::<arith::Add>(i, size),
        M::Adc => binary::<arith::Adc>(i, size),
        M::Sub => binary::<arith::Sub>(i, size),
        M::Sbb => binary::<arith::Sbb>(i, size),
        M::And => binary::<arith::And>(i, size),
        M::Or => binary::<arith::Or>(i, size),
        M::Xor => binary::<arith::Xor>(i, size),
        M::Cmp => compare::<arith::Sub>(i, size),
        M::Test => compare::<arith::And>(i, size),
        M::Inc => unary::<arith::Inc>(i, size),
        M::Dec => unary::<arith::Dec>(i, size),
        M::Neg => unary::<arith::Neg>(i, size),
        M::Not => unary::<arith::Not>(i, size),
        M::Adcx => read_either!(i, 1, R1, wide, size, arith::add_one_flag, true),
        M::Adox => read_either!(i, 1, R1, wide, size, arith::add_one_flag, false),
        M::Cmpxchg if op.has_memory => sized!(size, arith::cmpxchg_mem),
        M::Cmpxchg => sized!(size, arith::cmpxchg_reg),
        M::Xadd => read_either!(i, 0, R0, sized, size, arith::xadd),
        M::Cmpxchg8b => arith::cmpxchg_pair::<u32>,
        M::Cmpxchg16b => arith::cmpxchg_pair::<u64>,

        M::Shl | M::Sal => shift::<shift::Shl>(i, size),
        M::Shr => shift::<shift::Shr>(i, size),
        M::Sar => shift::<shift::Sar>(i, size),
        M::Rol => shift::<shift::Rol>(i, size),
        M::Ror => shift::<shift::Ror>(i, size),
        M::Rcl => shift::<shift::Rcl>(i, size),
        M::Rcr => shift::<shift::Rcr>(i, size),
        M::Shld => double_shift::<true>(i, size),
        M::Shrd => double_shift::<false>(i, size),
        M::Crc32 => read_either!(i, 1, R1, sized, source_size(i), shift::crc32),

        M::Mul => read_either!(i, 0, R0, sized, size, muldiv::multiply, false),
        M::Imul if i.op_count() == 1 => read_either!(i, 0, R0, sized, size, muldiv::multiply, true),
        M::Imul if i.op_count() == 2 => read_either!(i, 1, R1, wide, size, muldiv::imul2),
        M::Imul => read_either!(i, 1, R1, wide, size, muldiv::imul3),
        M::Div => read_either!(i, 0, R0, sized, size, muldiv::divide, false),
        M::Idiv => read_either!(i, 0, R0, sized, size, muldiv::divide, true),

        M::Bt => bit::<bits::Keep>(i, size),
        M::Bts => bit::<bits::Set>(i, size),
        M::Btr => bit::<bits::Reset>(i, size),
        M::Btc => bit::<bits::Complement>(i, size),
        M::Bsf => read_either!(i, 1, R1, wide, size, bits::scan, false),
        M::Bsr => read_either!(i, 1, R1, wide, size, bits::scan, true),
        M::Tzcnt => read_either!(i, 1, R1, wide, size, bits::tzcnt),
        M::Lzcnt => read_either!(i, 1, R1, wide, size, bits::lzcnt),
        M::Popcnt => read_either!(i, 1, R1, wide, size, bits::popcnt),

        M::Mov => mov(i, op),
        M::Movnti => wide!(size, data::mov, Mem, R1),
        M::Movzx => movzx(i, size),
        M::Movsx | M::Movsxd => movsx(i, size),
        M::Movbe if form(i) == Form::RegMem => wide!(size, data::movbe, R0, Mem),
        M::Movbe => wide!(size, data::movbe, Mem, R1),
        M::Lea => wide!(size, data::lea),
        M::Xchg => read_either!(i, 0, R0, sized, size, data::xchg),
        M::Bswap => wide!(size, data::bswap),
        M::Cbw => data::extend_accumulator::<u16, u8>,
        M::Cwde => data::extend_accumulator::<u32, u16>,
        M::Cdqe => data::extend_accumulator::<u64, u32>,
        M::Cwd => data::extend_sign::<u16>,
        M::Cdq => data::extend_sign::<u32>,
        M::Cqo => data::extend_sign::<u64>,
        M::Xlatb => data::xlat,
        M::Bound => {
            if size == 2 {
                data::bound::<u16>
            } else {
                data::bound::<u32>
            }
        }
        M::Nop | M::Pause | M::Reservednop | M::Endbr32 | M::Endbr64 | M::Rdsspd | M::Rdsspq => {
            data::nop
        }
        // A prefetch that faults is dropped, and nothing else of it shows.
        M::Prefetch
        | M::Prefetchw
        | M::Prefetchwt1
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2 => data::nop,
        M::Lahf => flagops::lahf,
        M::Sahf => flagops::sahf,
        M::Salc => flagops::salc,
        M::Clc => flagops::clc,
        M::Stc => flagops::stc,
        M::Cmc => flagops::cmc,
        M::Cld => flagops::cld,
        M::Std => flagops::std,
        M::Cli => flagops::cli,
        M::Sti => flagops::sti,
        M::Clac => flagops::access_flag::<false>,
        M::Stac => flagops::access_flag::<true>,
        M::Aaa => bcd::ascii_adjust::<false>,
        M::Aas => bcd::ascii_adjust::<true>,
        M::Daa => bcd::decimal_adjust::<false>,
        M::Das => bcd::decimal_adjust::<true>,
        M::Aam => bcd::aam,
        M::Aad => bcd::aad,

        M::Push => push(i),
        M::Pop => pop(i),
        M::Pusha => stack::push_all::<u16>,
        M::Pushad => stack::push_all::<u32>,
        M::Popa => stack::pop_all::<u16>,
        M::Popad => stack::pop_all::<u32>,
        M::Pushf => stack::pushf::<u16>,
        M::Pushfd => stack::pushf::<u32>,
        M::Pushfq => stack::pushf::<u64>,
        M::Popf => stack::popf::<u16>,
        M::Popfd => stack::popf::<u32>,
        M::Popfq => stack::popf::<u64>,
        M::Enter => wide!(frame_size(i.code()), stack::enter),
        M::Leave => wide!(frame_size(i.code()), stack::leave),

        M::Jmp => jmp(i, op),
        M::Call => call(i, op),
        M::Ret => wide!(ret_size(i.code()), branch::ret),
        M::Retf => wide!(ret_size(i.code()), far::retf),
        M::Iret => gate::iret::<u16>,
        M::Iretd => gate::iret::<u32>,
        M::Iretq => gate::iret::<u64>,
        M::Loop => wide!(size, branch::counted, { branch::LOOP }),
        M::Loope => wide!(size, branch::counted, { branch::LOOPE }),
        M::Loopne => wide!(size, branch::counted, { branch::LOOPNE }),
        M::Jcxz | M::Jecxz | M::Jrcxz => wide!(size, branch::counted, { branch::JCXZ }),
        M::Int => interrupt::int,
        M::Int3 => interrupt::int3,
        M::Int1 => interrupt::int1,
        M::Into => interrupt::into,
        M::Syscall => syscall::syscall,
        M::Sysret => syscall::sysret::<u32>,
        M::Sysretq => syscall::sysret::<u64>,
        M::Sysenter => syscall::sysenter,
        M::Sysexit => syscall::sysexit::<u32>,
        M::Sysexitq => syscall::sysexit::<u64>,

        M::Movsb => string::movs::<u8>,
        M::Movsw => string::movs::<u16>,
        M::Movsd if is_string(i) => string::movs::<u32>,
        M::Movsq => string::movs::<u64>,
        M::Stosb => string::stos::<u8>,
        M::Stosw => string::stos::<u16>,
        M::Stosd => string::stos::<u32>,
        M::Stosq => string::stos::<u64>,
        M::Lodsb => string::lods::<u8>,
        M::Lodsw => string::lods::<u16>,
        M::Lodsd => string::lods::<u32>,
        M::Lodsq => string::lods::<u64>,
        M::Scasb => string::scas::<u8>,
        M::Scasw => string::scas::<u16>,
        M::Scasd => string::scas::<u32>,
        M::Scasq => string::scas::<u64>,
        M::Cmpsb => string::cmps::<u8>,
        M::Cmpsw => string::cmps::<u16>,
        M::Cmpsd if is_string(i) => string::cmps::<u32>,
        M::Cmpsq => string::cmps::<u64>,
        M::Insb => string::ins::<u8>,
        M::Insw => string::ins::<u16>,
        M::Insd => string::ins::<u32>,
        M::Outsb => string::outs::<u8>,
        M::Outsw => string::outs::<u16>,
        M::Outsd => string::outs::<u32>,
        M::In => port_in(i, size),
        M::Out => port_out(i),

        M::Les => far_pointer_load(op, crate::segment::ES),
        M::Lds => far_pointer_load(op, crate::segment::DS),
        M::Lss => far_pointer_load(op, crate::segment::SS),
        M::Lfs => far_pointer_load(op, crate::segment::FS),
        M::Lgs => far_pointer_load(op, crate::segment::GS),
        M::Verr => read_either!(i, 0, R0, fixed, 2, selector::verify, false),
        M::Verw => read_either!(i, 0, R0, fixed, 2, selector::verify, true),
        M::Lar => read_either!(i, 1, R1, wide, size, selector::load_rights, false),
        M::Lsl => read_either!(i, 1, R1, wide, size, selector::load_rights, true),
        M::Arpl => read_either!(i, 0, R0, fixed, 2, selector::arpl),

        M::Clts => system::clts,
        M::Lmsw => read_either!(i, 0, R0, fixed, 2, system::lmsw),
        M::Smsw if op.has_memory => system::smsw_mem,
        M::Smsw => wide!(size, system::smsw),
        M::Sldt if op.has_memory => system::store_selector_mem::<false>,
        M::Sldt => wide!(size, system::store_selector, false),
        M::Str if op.has_memory => system::store_selector_mem::<true>,
        M::Str => wide!(size, system::store_selector, true),
        M::Ltr => read_either!(i, 0, R0, fixed, 2, system::ltr),
        M::Lldt => read_either!(i, 0, R0, fixed, 2, system::lldt),
        M::Lgdt => {
            op.size = table_operand_size(i.code());
            system::load_table::<false>
        }
        M::Lidt => {
            op.size = table_operand_size(i.code());
            system::load_table::<true>
        }
        M::Sgdt => system::store_table::<false>,
        M::Sidt => system::store_table::<true>,
        M::Hlt => system::hlt,
        M::Invd | M::Wbinvd | M::Wbnoinvd => system::cache,
        M::Invlpg => system::invlpg,
        M::Rdmsr => system::rdmsr,
        M::Wrmsr => system::wrmsr,
        M::Rdtsc => system::rdtsc,
        M::Rdtscp => system::rdtscp,
        M::Rdpmc => system::rdpmc,
        M::Cpuid => system::cpuid,
        M::Swapgs => system::swapgs,
        M::Rdfsbase => wide!(size, system::read_base, false),
        M::Rdgsbase => wide!(size, system::read_base, true),
        M::Wrfsbase => wide!(size, system::write_base, false),
        M::Wrgsbase => wide!(size, system::write_base, true),
        M::Rdpid => system::rdpid,
        M::Rdpkru => system::pkru::<false>,
        M::Wrpkru => system::pkru::<true>,
        _ => return conditional(i, op),
    })
}

fn conditional(i: &Instruction, op: &mut Op) -> Option<Handler> {
    if i.condition_code() == iced_x86::ConditionCode::None {
        return None;
    }
    let code = condition_code(i);
    if i.is_jcc_short_or_near() {
        return Some(jcc(code, op.size));
    }
    op.r2 = code;
    if i.op_count() == 1 {
        return Some(if op.has_memory {
            data::setcc::<Mem>
        } else {
            data::setcc::<R0>
        });
    }
    let is_cmov =
        i.op_count() == 2 && i.op_kind(0) == OpKind::Register && i.op_register(0).is_gpr();
    is_cmov.then(|| read_either!(i, 1, R1, wide, op.size, data::cmov))
}

/// MOVSD and CMPSD are also SSE2 instructions.
fn is_string(i: &Instruction) -> bool {
    (0..i.op_count()).all(|n| i.op_kind(n) != OpKind::Register)
}

fn table_operand_size(code: Code) -> u8 {
    match code {
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 2,
        Code::Lgdt_m1632 | Code::Lidt_m1632 => 4,
        _ => 8,
    }
}

fn port_in(i: &Instruction, size: u8) -> Handler {
    use crate::ops::io::{ByDx, ByImm};
    if i.op_kind(1) == OpKind::Register {
        sized!(size, io::input, ByDx)
    } else {
        sized!(size, io::input, ByImm)
    }
}

fn port_out(i: &Instruction) -> Handler {
    use crate::ops::io::{ByDx, ByImm};
    let size = i.op_register(1).size();
    if i.op_kind(0) == OpKind::Register {
        sized!(size, io::output, ByDx)
    } else {
        sized!(size, io::output, ByImm)
    }
}

/// The handler of an x87, MMX or SSE instruction, #UD for everything else.
fn vector(i: &Instruction, bytes: &[u8], op: &mut Op, unit: &mut NativeUnit) -> Handler {
    let Ok(native) = unit.prepare(i) else {
        return interrupt::ud;
    };
    let register = |register: Option<Register>| register.map_or(0, number);
    op.r0 = register(native.gpr_in[0]);
    op.r1 = register(native.gpr_in[1]);
    op.r2 = register(native.gpr_out);
    op.size = native.gpr_out.map_or(0, |register| register.size() as u8);
    op.immediate = u64::from(x87_opcode(bytes));
    op.native = Some(Rc::new(native));
    simd::native
}
