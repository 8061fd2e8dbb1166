//! Decimal adjustment, outside 64-bit mode only. Intel SDM volume 2, AAA to DAS.

use crate::cpu::Cpu;
use crate::decode::Op;
use crate::exception::{DE, Result};
use crate::flags::{AF, CF, PF, SF, STATUS, ZF};
use crate::platform::Platform;

/// AAA, and AAS (`SUBTRACT`).
pub(crate) fn ascii_adjust<const SUBTRACT: bool>(
    cpu: &mut Cpu,
    _: &mut dyn Platform,
    _: &Op,
) -> Result {
    let ax: u16 = cpu.reg(0);
    let adjust = ax & 0xf > 9 || cpu.flags & AF != 0;
    let adjusted = match (adjust, SUBTRACT) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(6).wrapping_sub(0x100),
    };
    cpu.set_reg(0, adjusted & 0xff0f);
    result_flags(cpu, adjusted as u8 & 0xf);
    set(cpu, AF | CF, adjust);
    Ok(())
}

/// DAA, and DAS (`SUBTRACT`).
pub(crate) fn decimal_adjust<const SUBTRACT: bool>(
    cpu: &mut Cpu,
    _: &mut dyn Platform,
    _: &Op,
) -> Result {
    let old: u8 = cpu.reg(0);
    let (old_carry, old_af) = (cpu.flags & CF != 0, cpu.flags & AF != 0);
    let step = |al: u8, by: u8| {
        if SUBTRACT {
            al.overflowing_sub(by)
        } else {
            al.overflowing_add(by)
        }
    };
    let (mut al, mut carry) = (old, false);
    let low = old & 0xf > 9 || old_af;
    if low {
        let (adjusted, over) = step(al, 6);
        al = adjusted;
        carry = old_carry || over;
    }
    let high = old > 0x99 || old_carry;
    if high {
        al = step(al, 0x60).0;
        carry = true;
    } else if !SUBTRACT {
        carry = false;
    }
    cpu.set_reg(0, al);
    result_flags(cpu, al);
    set(cpu, AF, low);
    set(cpu, CF, carry);
    Ok(())
}

/// AAM: AH = AL / imm, AL = AL % imm.
pub(crate) fn aam(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result {
    let (al, base): (u8, u8) = (cpu.reg(0), op.immediate as u8);
    let quotient = al.checked_div(base).ok_or(DE)?;
    let remainder = al % base;
    cpu.set_reg(0, u16::from(quotient) << 8 | u16::from(remainder));
    result_flags(cpu, remainder);
    Ok(())
}

/// AAD: AL = AL + AH * imm, AH = 0.
pub(crate) fn aad(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result {
    let (al, ah): (u8, u8) = (cpu.reg(0), cpu.reg(0x10));
    let sum = al.wrapping_add(ah.wrapping_mul(op.immediate as u8));
    cpu.set_reg(0, u16::from(sum));
    result_flags(cpu, sum);
    Ok(())
}

/// SF, ZF and PF of a byte; the others, undefined, are cleared.
fn result_flags(cpu: &mut Cpu, value: u8) {
    cpu.flags &= !STATUS;
    set(cpu, SF, value & 0x80 != 0);
    set(cpu, ZF, value == 0);
    set(cpu, PF, value.count_ones().is_multiple_of(2));
}

fn set(cpu: &mut Cpu, flag: u64, on: bool) {
    cpu.flags = if on {
        cpu.flags | flag
    } else {
        cpu.flags & !flag
    };
}
