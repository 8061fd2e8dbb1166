//! Operands: registers, immediates and memory, as types that a handler is written over.

use crate::alu::Width;
use crate::cpu::Cpu;
use crate::decode::Op;
use crate::exception::Result;
use crate::platform::Platform;

/// Set in a byte register's number for AH, CH, DH and BH.
pub(crate) const HIGH_BYTE: u8 = 0x10;

impl Cpu {
    #[inline(always)]
    pub(crate) fn reg<T: Width>(&self, number: u8) -> T {
        if T::BYTES == 1 && number & HIGH_BYTE != 0 {
            return T::from_u64(self.regs[usize::from(number & 3)] >> 8);
        }
        T::from_u64(self.regs[usize::from(number & 31)])
    }

    #[inline(always)]
    pub(crate) fn set_reg<T: Width>(&mut self, number: u8, value: T) {
        let value = value.to_u64();
        match T::BYTES {
            1 if number & HIGH_BYTE != 0 => {
                let register = &mut self.regs[usize::from(number & 3)];
                *register = (*register & !0xff00) | (value << 8);
            }
            1 => {
                let register = &mut self.regs[usize::from(number & 15)];
                *register = (*register & !0xff) | value;
            }
            2 => {
                let register = &mut self.regs[usize::from(number & 15)];
                *register = (*register & !0xffff) | value;
            }
            // A 32-bit result clears the upper half (Intel SDM volume 1, 3.4.1.1).
            _ => self.regs[usize::from(number & 15)] = value,
        }
    }

    /// The offset of the instruction's memory operand in its segment.
    #[inline(always)]
    pub(crate) fn offset(&self, op: &Op) -> u64 {
        self.regs[usize::from(op.base & 31)]
            .wrapping_add(self.regs[usize::from(op.index & 31)] << (op.scale & 3))
            .wrapping_add(op.displacement)
            & op.address_mask
    }
}

/// Where a value comes from.
pub(crate) trait Source {
    fn get<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result<T>;
}

/// Where a value goes to.
pub(crate) trait Place: Source {
    fn set<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op, value: T) -> Result;
    /// Reads, changes and writes; memory is checked for the write first.
    fn modify<T: Width>(
        cpu: &mut Cpu,
        p: &mut dyn Platform,
        op: &Op,
        change: impl FnOnce(T, &mut u64) -> T,
    ) -> Result;
}

/// The register that is operand 0.
pub(crate) struct R0;
/// The register that is operand 1.
pub(crate) struct R1;
/// The immediate.
pub(crate) struct Imm;
/// The memory operand.
pub(crate) struct Mem;

macro_rules! register {
    ($name:ident, $field:ident) => {
        impl Source for $name {
            #[inline(always)]
            fn get<T: Width>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result<T> {
                Ok(cpu.reg(op.$field))
            }
        }
        impl Place for $name {
            #[inline(always)]
            fn set<T: Width>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op, value: T) -> Result {
                cpu.set_reg(op.$field, value);
                Ok(())
            }
            #[inline(always)]
            fn modify<T: Width>(
                cpu: &mut Cpu,
                _: &mut dyn Platform,
                op: &Op,
                change: impl FnOnce(T, &mut u64) -> T,
            ) -> Result {
                let value = change(cpu.reg(op.$field), &mut cpu.flags);
                cpu.set_reg(op.$field, value);
                Ok(())
            }
        }
    };
}
register!(R0, r0);
register!(R1, r1);

impl Source for Imm {
    #[inline(always)]
    fn get<T: Width>(_: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result<T> {
        Ok(T::from_u64(op.immediate))
    }
}

impl Source for Mem {
    #[inline(always)]
    fn get<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result<T> {
        cpu.read(p, op.segment, cpu.offset(op))
    }
}

impl Place for Mem {
    #[inline(always)]
    fn set<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op, value: T) -> Result {
        cpu.write(p, op.segment, cpu.offset(op), value)
    }
    #[inline(always)]
    fn modify<T: Width>(
        cpu: &mut Cpu,
        p: &mut dyn Platform,
        op: &Op,
        change: impl FnOnce(T, &mut u64) -> T,
    ) -> Result {
        cpu.modify(p, op.segment, cpu.offset(op), change)
    }
}
