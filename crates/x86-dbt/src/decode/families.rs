//! The handler of an instruction within its family, by the form and size of its operands.

use iced_x86::{Code, Instruction, OpKind};

use super::{Handler, Op};
use crate::ops::operand::{Imm, Mem, R0, R1};
use crate::ops::{arith, bits, branch, data, far, interrupt, selector, shift, stack, system};

/// Which operands an instruction has: the first letter is the destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    RegReg,
    RegImm,
    RegMem,
    MemReg,
    MemImm,
    /// One operand, or none that matters here.
    Reg,
    Mem,
}

pub(super) fn form(i: &Instruction) -> Form {
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

pub(super) fn binary<O: arith::Binary>(i: &Instruction, size: u8) -> Handler {
    match form(i) {
        Form::RegReg => sized!(size, arith::binary, O, R0, R1),
        Form::RegMem => sized!(size, arith::binary, O, R0, Mem),
        Form::MemReg => sized!(size, arith::binary, O, Mem, R1),
        Form::MemImm => sized!(size, arith::binary, O, Mem, Imm),
        _ => sized!(size, arith::binary, O, R0, Imm),
    }
}

pub(super) fn compare<O: arith::Binary>(i: &Instruction, size: u8) -> Handler {
    match form(i) {
        Form::RegReg => sized!(size, arith::compare, O, R0, R1),
        Form::RegMem => sized!(size, arith::compare, O, R0, Mem),
        Form::MemReg => sized!(size, arith::compare, O, Mem, R1),
        Form::MemImm => sized!(size, arith::compare, O, Mem, Imm),
        _ => sized!(size, arith::compare, O, R0, Imm),
    }
}

pub(super) fn unary<O: arith::Unary>(i: &Instruction, size: u8) -> Handler {
    if form(i) == Form::Mem {
        sized!(size, arith::unary, O, Mem)
    } else {
        sized!(size, arith::unary, O, R0)
    }
}

pub(super) fn shift<O: shift::Shift>(i: &Instruction, size: u8) -> Handler {
    use crate::ops::shift::{ByCl, ByImm};
    match form(i) {
        Form::MemReg => sized!(size, shift::shift, O, Mem, ByCl),
        Form::MemImm => sized!(size, shift::shift, O, Mem, ByImm),
        Form::RegReg => sized!(size, shift::shift, O, R0, ByCl),
        _ => sized!(size, shift::shift, O, R0, ByImm),
    }
}

pub(super) fn double_shift<const LEFT: bool>(i: &Instruction, size: u8) -> Handler {
    use crate::ops::shift::{ByCl, ByImm};
    let by_cl = i.op_kind(2) == OpKind::Register;
    match (i.op_kind(0) == OpKind::Memory, by_cl) {
        (true, true) => wide!(size, shift::double, Mem, ByCl, LEFT),
        (true, false) => wide!(size, shift::double, Mem, ByImm, LEFT),
        (false, true) => wide!(size, shift::double, R0, ByCl, LEFT),
        (false, false) => wide!(size, shift::double, R0, ByImm, LEFT),
    }
}

pub(super) fn bit<O: bits::BitChange>(i: &Instruction, size: u8) -> Handler {
    match form(i) {
        Form::RegReg => wide!(size, bits::bit, O, R0, R1),
        Form::MemReg => wide!(size, bits::bit_string, O),
        Form::MemImm => wide!(size, bits::bit, O, Mem, Imm),
        _ => wide!(size, bits::bit, O, R0, Imm),
    }
}

pub(super) fn movzx(i: &Instruction, size: u8) -> Handler {
    let from = source_size(i);
    match (form(i) == Form::RegMem, from) {
        (true, 1) => wide!(size, data::movzx, u8, Mem),
        (true, _) => wide!(size, data::movzx, u16, Mem),
        (false, 1) => wide!(size, data::movzx, u8, R1),
        (false, _) => wide!(size, data::movzx, u16, R1),
    }
}

pub(super) fn movsx(i: &Instruction, size: u8) -> Handler {
    match (form(i) == Form::RegMem, source_size(i)) {
        (true, 1) => wide!(size, data::movsx, u8, Mem),
        (true, 2) => wide!(size, data::movsx, u16, Mem),
        (true, _) => wide!(size, data::movsx, u32, Mem),
        (false, 1) => wide!(size, data::movsx, u8, R1),
        (false, 2) => wide!(size, data::movsx, u16, R1),
        (false, _) => wide!(size, data::movsx, u32, R1),
    }
}

pub(super) fn source_size(i: &Instruction) -> usize {
    if i.op_kind(1) == OpKind::Register {
        i.op_register(1).size()
    } else {
        i.memory_size().size()
    }
}

pub(super) fn mov(i: &Instruction, op: &mut Op) -> Handler {
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

pub(super) fn push(i: &Instruction) -> Handler {
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

pub(super) fn pop(i: &Instruction) -> Handler {
    let size = i.stack_pointer_increment().unsigned_abs() as u8;
    match i.op_kind(0) {
        OpKind::Register if i.op_register(0).is_segment_register() => {
            wide!(size, stack::pop_segment)
        }
        OpKind::Register => wide!(size, stack::pop_reg),
        _ => wide!(size, stack::pop_mem),
    }
}

pub(super) fn jmp(i: &Instruction, op: &Op) -> Handler {
    match i.op_kind(0) {
        OpKind::FarBranch16 => far::far_direct::<u16, false>,
        OpKind::FarBranch32 => far::far_direct::<u32, false>,
        OpKind::Memory if is_far(i.code()) => far_indirect::<false>(i.code()),
        OpKind::Memory => wide!(op.size, branch::jmp_indirect, Mem),
        OpKind::Register => wide!(op.size, branch::jmp_indirect, R0),
        _ => wide!(op.size, branch::jmp),
    }
}

pub(super) fn call(i: &Instruction, op: &Op) -> Handler {
    match i.op_kind(0) {
        OpKind::FarBranch16 => far::far_direct::<u16, true>,
        OpKind::FarBranch32 => far::far_direct::<u32, true>,
        OpKind::Memory if is_far(i.code()) => far_indirect::<true>(i.code()),
        OpKind::Memory => wide!(op.size, branch::call_indirect, Mem),
        OpKind::Register => wide!(op.size, branch::call_indirect, R0),
        _ => wide!(op.size, branch::call),
    }
}

pub(super) fn is_far(code: Code) -> bool {
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

pub(super) fn far_indirect<const CALL: bool>(code: Code) -> Handler {
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

pub(super) fn jcc(code: u8, size: u8) -> Handler {
    match size {
        2 => by_condition!(u16, code, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
        4 => by_condition!(u32, code, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
        _ => by_condition!(u64, code, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
    }
}

/// The condition code of Jcc, `SETcc` and `CMOVcc`; iced numbers conditions from 1 in opcode order.
pub(super) fn condition_code(i: &Instruction) -> u8 {
    i.condition_code() as u8 - 1
}

pub(super) fn ret_size(code: Code) -> u8 {
    match code {
        Code::Retnw | Code::Retnw_imm16 | Code::Retfw | Code::Retfw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 | Code::Retfd | Code::Retfd_imm16 => 4,
        _ => 8,
    }
}

pub(super) fn frame_size(code: Code) -> u8 {
    match code {
        Code::Enterw_imm16_imm8 | Code::Leavew => 2,
        Code::Enterd_imm16_imm8 | Code::Leaved => 4,
        _ => 8,
    }
}

pub(super) fn far_pointer_load(op: &mut Op, segment: u8) -> Handler {
    op.r2 = segment;
    wide!(op.size, selector::load_far_pointer)
}
