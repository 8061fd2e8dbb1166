//! The stack: PUSH and POP in all forms, ENTER, LEAVE, and the flags on the stack.

use super::operand::{Place, R0, Source};
use crate::alu::Width;
use crate::cpu::{CR4_VME, Cpu, EVENT_BREAK, EVENT_SHADOW, EVENT_SHADOW_DEBUG, Mode};
use crate::decode::Op;
use crate::exception::{GP0, Result};
use crate::flags::{self, AC, DF, IF, IOPL, NT, RF, STATUS, TF, VIF, VIP, VM};
use crate::platform::Platform;
use crate::segment::SS;
use crate::walk::Kind;

/// rSP and rBP.
pub(crate) const SP: u8 = 4;
pub(crate) const BP: u8 = 5;

impl Cpu {
    pub(crate) fn stack_pointer(&self) -> u64 {
        self.regs[usize::from(SP)] & self.stack_mask
    }

    /// Changes as much of rSP as the stack segment's size has.
    pub(crate) fn set_stack_pointer(&mut self, value: u64) {
        let register = &mut self.regs[usize::from(SP)];
        *register = if self.stack_mask == 0xffff {
            (*register & !0xffff) | (value & 0xffff)
        } else {
            value & self.stack_mask
        };
    }

    #[inline(always)]
    pub(crate) fn push<T: Width>(&mut self, p: &mut dyn Platform, value: T) -> Result {
        let top = self.regs[usize::from(SP)].wrapping_sub(T::BYTES as u64) & self.stack_mask;
        self.write(p, SS, top, value)?;
        self.set_stack_pointer(top);
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn pop<T: Width>(&mut self, p: &mut dyn Platform) -> Result<T> {
        let value = self.read(p, SS, self.stack_pointer())?;
        self.set_stack_pointer(self.stack_pointer().wrapping_add(T::BYTES as u64));
        Ok(value)
    }

    /// The value `slot` places above the top of the stack, in units of `T`.
    pub(crate) fn peek<T: Width>(&mut self, p: &mut dyn Platform, slot: u64) -> Result<T> {
        let offset = self.stack_pointer().wrapping_add(slot * T::BYTES as u64) & self.stack_mask;
        self.read(p, SS, offset)
    }
}

pub(crate) fn push<T: Width, S: Source>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let value: T = S::get(cpu, p, op)?;
    cpu.push(p, value)
}

pub(crate) fn pop_reg<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let value: T = cpu.pop(p)?;
    R0::set(cpu, p, op, value)
}

/// POP to memory: the address is computed with rSP as it is after the pop.
pub(crate) fn pop_mem<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let before = cpu.regs[usize::from(SP)];
    let value: T = cpu.pop(p)?;
    let stored = cpu.write(p, op.segment, cpu.offset(op), value);
    if stored.is_err() {
        cpu.regs[usize::from(SP)] = before;
    }
    stored
}

/// PUSH of a segment register, zero-extended; `op.r0` is its number.
pub(crate) fn push_segment<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let selector = cpu.seg[usize::from(op.r0)].selector;
    cpu.push(p, T::from_u64(u64::from(selector)))
}

pub(crate) fn pop_segment<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let selector = cpu.peek::<T>(p, 0)?.to_u64() as u16;
    let (mask, top) = (cpu.stack_mask, cpu.stack_pointer());
    cpu.load_segment(p, op.r0, selector)?;
    // The increment belongs to the old stack even where SS itself is popped.
    let new = top.wrapping_add(T::BYTES as u64);
    let register = &mut cpu.regs[usize::from(SP)];
    *register = if mask == 0xffff {
        (*register & !0xffff) | (new & 0xffff)
    } else {
        new & mask
    };
    if op.r0 == SS {
        cpu.events |= EVENT_BREAK | EVENT_SHADOW | EVENT_SHADOW_DEBUG;
    }
    Ok(())
}

/// PUSHA and PUSHAD. A fault leaves what was pushed before it in memory, and rSP as it was.
pub(crate) fn push_all<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    let mut top = cpu.stack_pointer();
    for number in 0..8u8 {
        top = top.wrapping_sub(T::BYTES as u64) & cpu.stack_mask;
        let value: T = cpu.reg(number);
        cpu.write(p, SS, top, value)?;
    }
    cpu.set_stack_pointer(top);
    Ok(())
}

/// POPA and POPAD; the saved rSP is skipped. A fault leaves what was popped before it, and rSP as it was.
pub(crate) fn pop_all<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    for (slot, number) in (0..).zip((0..8u8).rev()) {
        let value: T = cpu.peek(p, slot)?;
        if number != SP {
            cpu.set_reg(number, value);
        }
    }
    cpu.set_stack_pointer(cpu.stack_pointer().wrapping_add(8 * T::BYTES as u64));
    Ok(())
}

/// PUSHF. Intel SDM volume 2, PUSHF/PUSHFD/PUSHFQ.
pub(crate) fn pushf<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    let mut image = cpu.flags & !(VM | RF);
    if cpu.mode == Mode::V86 && cpu.iopl() < 3 {
        if T::BYTES != 2 || cpu.cr4 & CR4_VME == 0 {
            return Err(GP0);
        }
        image = (image & !IF) | IOPL | if cpu.flags & VIF != 0 { IF } else { 0 };
    }
    cpu.push(p, T::from_u64(image))
}

/// POPF. Intel SDM volume 2, POPF/POPFD/POPFQ, table 4-16.
pub(crate) fn popf<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    let vme = cpu.mode == Mode::V86 && cpu.iopl() < 3;
    if vme && (T::BYTES != 2 || cpu.cr4 & CR4_VME == 0) {
        return Err(GP0);
    }
    let value = cpu.peek::<T>(p, 0)?.to_u64();
    let mut mask = STATUS | TF | DF | NT;
    if T::BYTES > 2 {
        mask |= AC | flags::ID | RF;
    }
    if vme {
        if value & TF != 0 || value & IF != 0 && cpu.flags & VIP != 0 {
            return Err(GP0);
        }
        cpu.pop::<T>(p)?;
        let vif = if value & IF != 0 { VIF } else { 0 };
        cpu.replace_flags(value & !VIF | vif, mask | VIF);
        return Ok(());
    }
    if cpu.cpl == 0 {
        mask |= IOPL;
    }
    if cpu.cpl <= cpu.iopl() {
        mask |= IF;
    }
    cpu.pop::<T>(p)?;
    cpu.replace_flags(value & !RF, mask);
    Ok(())
}

/// ENTER. Nesting beyond level 31 wraps, as the manual has it.
pub(crate) fn enter<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let (size, level) = (op.immediate & 0xffff, (op.immediate >> 16) & 31);
    let (old_sp, old_bp) = (cpu.regs[usize::from(SP)], cpu.regs[usize::from(BP)]);
    let result = enter_frames::<T>(cpu, p, size, level);
    if result.is_err() {
        cpu.regs[usize::from(SP)] = old_sp;
        cpu.regs[usize::from(BP)] = old_bp;
    }
    result
}

fn enter_frames<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, size: u64, level: u64) -> Result {
    let frame_pointer: T = cpu.reg(BP);
    cpu.push(p, frame_pointer)?;
    let frame = cpu.regs[usize::from(SP)];
    let mut outer = cpu.regs[usize::from(BP)];
    for _ in 1..level.max(1) {
        outer = outer.wrapping_sub(T::BYTES as u64);
        let display: T = cpu.read(p, SS, outer & cpu.stack_mask)?;
        cpu.push(p, display)?;
    }
    if level > 0 {
        cpu.push(p, T::from_u64(frame))?;
    }
    let top = cpu.stack_pointer().wrapping_sub(size) & cpu.stack_mask;
    // The end of the new frame must be writable, or the instruction faults as a whole.
    let linear = cpu.linear(SS, top, T::BYTES, Kind::Write)?;
    cpu.probe(linear, T::BYTES, Kind::Write, SS)?;
    cpu.set_stack_pointer(top);
    cpu.set_reg(BP, T::from_u64(frame));
    Ok(())
}

pub(crate) fn leave<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    let frame = cpu.regs[usize::from(BP)] & cpu.stack_mask;
    let value: T = cpu.read(p, SS, frame)?;
    cpu.set_stack_pointer(frame.wrapping_add(T::BYTES as u64));
    cpu.set_reg(BP, value);
    Ok(())
}
