//! The operands of an instruction, resolved as far as its bytes allow.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::{Op, REP, REPNE};
use crate::cpu::ZERO;
use crate::ops::interrupt;
use crate::ops::operand::HIGH_BYTE;

/// The operands in the form handlers take them.
pub(super) fn operands(i: &Instruction, code_bits: u8) -> Op {
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
pub(super) fn number(register: Register) -> u8 {
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
