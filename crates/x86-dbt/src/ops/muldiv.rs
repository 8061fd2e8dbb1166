//! Multiplication and division.

use super::operand::{HIGH_BYTE, Source};
use crate::alu::Width;
use crate::cpu::Cpu;
use crate::decode::Op;
use crate::exception::{DE, Result};
use crate::platform::Platform;

/// MUL and one-operand IMUL (`SIGNED`).
pub(crate) fn multiply<T: Width, S: Source, const SIGNED: bool>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let b: T = S::get(cpu, p, op)?;
    let a: T = cpu.reg(0);
    let (low, high) = if SIGNED {
        a.imul(b, &mut cpu.flags)
    } else {
        a.mul(b, &mut cpu.flags)
    };
    cpu.set_reg(0, low);
    cpu.set_reg(high_half::<T>(), high);
    Ok(())
}

/// IMUL r, r/m.
pub(crate) fn imul2<T: Width, S: Source>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let b: T = S::get(cpu, p, op)?;
    let a: T = cpu.reg(op.r0);
    let (low, _) = a.imul(b, &mut cpu.flags);
    cpu.set_reg(op.r0, low);
    Ok(())
}

/// IMUL r, r/m, imm.
pub(crate) fn imul3<T: Width, S: Source>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let a: T = S::get(cpu, p, op)?;
    let (low, _) = a.imul(T::from_u64(op.immediate), &mut cpu.flags);
    cpu.set_reg(op.r0, low);
    Ok(())
}

/// DIV and IDIV (`SIGNED`). The flags, undefined by the manual, stay.
pub(crate) fn divide<T: Width, S: Source, const SIGNED: bool>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let divisor: T = S::get(cpu, p, op)?;
    let (low, high): (T, T) = (cpu.reg(0), cpu.reg(high_half::<T>()));
    let result = if SIGNED {
        low.idiv(high, divisor)
    } else {
        low.div(high, divisor)
    };
    let (quotient, remainder) = result.ok_or(DE)?;
    cpu.set_reg(0, quotient);
    cpu.set_reg(high_half::<T>(), remainder);
    Ok(())
}

/// AH for bytes, DX/EDX/RDX for the rest.
const fn high_half<T: Width>() -> u8 {
    if T::BYTES == 1 { HIGH_BYTE } else { 2 }
}
