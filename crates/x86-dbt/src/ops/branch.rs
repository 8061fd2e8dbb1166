//! Near transfers: JMP, Jcc, CALL, RET, LOOP.

use super::data::condition;
use super::operand::Source;
use super::stack::SP;
use crate::alu::Width;
use crate::cpu::Cpu;
use crate::decode::Op;
use crate::exception::{GP0, Result};
use crate::platform::Platform;
use crate::segment::{CS, SS};
use crate::walk::Kind;

impl Cpu {
    /// Makes `target` the next instruction after checking it against the code segment or for canonical form.
    #[inline(always)]
    pub(crate) fn jump(&mut self, target: u64) -> Result {
        let allowed = if self.code_bits == 64 {
            self.is_canonical(target)
        } else {
            target <= u64::from(self.seg[usize::from(CS)].limit)
        };
        if !allowed {
            return Err(GP0);
        }
        self.next_rip = target;
        Ok(())
    }

    #[inline(always)]
    fn relative<T: Width>(&self, op: &Op) -> u64 {
        T::from_u64(self.next_rip.wrapping_add(op.immediate)).to_u64()
    }
}

/// JMP rel; `T` is the operand size, which cuts the instruction pointer.
pub(crate) fn jmp<T: Width>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result {
    cpu.jump(cpu.relative::<T>(op))
}

pub(crate) fn jcc<T: Width, const CODE: u8>(
    cpu: &mut Cpu,
    _: &mut dyn Platform,
    op: &Op,
) -> Result {
    if condition(CODE, cpu.flags) {
        cpu.jump(cpu.relative::<T>(op))
    } else {
        Ok(())
    }
}

pub(crate) fn jmp_indirect<T: Width, S: Source>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let target: T = S::get(cpu, p, op)?;
    cpu.jump(target.to_u64())
}

pub(crate) fn call<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let target = cpu.relative::<T>(op);
    call_to::<T>(cpu, p, target)
}

pub(crate) fn call_indirect<T: Width, S: Source>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let target: T = S::get(cpu, p, op)?;
    call_to::<T>(cpu, p, target.to_u64())
}

#[inline(always)]
fn call_to<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, target: u64) -> Result {
    let back = cpu.next_rip;
    // A fault of the push comes before one of the target, but nothing is pushed then.
    let top = cpu.regs[usize::from(SP)].wrapping_sub(T::BYTES as u64) & cpu.stack_mask;
    let linear = cpu.linear(SS, top, T::BYTES, Kind::Write)?;
    if !cpu.is_writable(linear, T::BYTES) {
        cpu.probe(linear, T::BYTES, Kind::Write, SS)?;
    }
    cpu.jump(target)?;
    cpu.push(p, T::from_u64(back))
}

/// RET and RET imm16, whose immediate is added to rSP.
pub(crate) fn ret<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let target: T = cpu.peek(p, 0)?;
    cpu.jump(target.to_u64())?;
    cpu.set_stack_pointer(
        cpu.stack_pointer()
            .wrapping_add(T::BYTES as u64 + op.immediate),
    );
    Ok(())
}

/// What LOOP and its kin decide on besides the counter.
pub(crate) const LOOP: u8 = 0;
pub(crate) const LOOPE: u8 = 1;
pub(crate) const LOOPNE: u8 = 2;
/// Jumps if the counter is zero, and does not count.
pub(crate) const JCXZ: u8 = 3;

/// LOOP, LOOPE, LOOPNE, JCXZ; the address size decides the counter, `T` cuts the instruction pointer.
pub(crate) fn counted<T: Width, const KIND: u8>(
    cpu: &mut Cpu,
    _: &mut dyn Platform,
    op: &Op,
) -> Result {
    let counter = cpu.regs[1] & op.address_mask;
    let left = if KIND == JCXZ {
        counter
    } else {
        counter.wrapping_sub(1) & op.address_mask
    };
    let zf = cpu.flags & crate::flags::ZF != 0;
    let taken = match KIND {
        LOOP => left != 0,
        LOOPE => left != 0 && zf,
        LOOPNE => left != 0 && !zf,
        _ => left == 0,
    };
    if taken {
        cpu.jump(cpu.relative::<T>(op))?;
    }
    if KIND != JCXZ {
        cpu.set_counter(op.address_mask, left);
    }
    Ok(())
}

impl Cpu {
    /// Writes CX, ECX or RCX, whichever `mask` says.
    pub(crate) fn set_counter(&mut self, mask: u64, value: u64) {
        self.set_address_register(1, mask, value);
    }

    /// Writes the part of a register that an address of the size of `mask` uses.
    pub(crate) fn set_address_register(&mut self, number: u8, mask: u64, value: u64) {
        match mask {
            0xffff => self.set_reg(number, value as u16),
            0xffff_ffff => self.set_reg(number, value as u32),
            _ => self.regs[usize::from(number)] = value,
        }
    }
}
