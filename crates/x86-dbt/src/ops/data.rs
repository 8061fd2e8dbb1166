//! Moves, conversions, exchanges and conditional moves.

use super::operand::{Place, Source};
use crate::alu::Width;
use crate::cpu::Cpu;
use crate::decode::Op;
use crate::exception::Result;
use crate::flags::{CF, OF, PF, SF, ZF};
use crate::platform::Platform;

/// Whether condition `code` (the low four bits of Jcc's opcode) holds. Intel SDM volume 1, B.1.
#[inline(always)]
pub(crate) fn condition(code: u8, flags: u64) -> bool {
    let holds = match code >> 1 {
        0 => flags & OF != 0,
        1 => flags & CF != 0,
        2 => flags & ZF != 0,
        3 => flags & (CF | ZF) != 0,
        4 => flags & SF != 0,
        5 => flags & PF != 0,
        6 => less(flags),
        _ => flags & ZF != 0 || less(flags),
    };
    holds ^ (code & 1 != 0)
}

#[inline(always)]
fn less(flags: u64) -> bool {
    (flags & SF != 0) != (flags & OF != 0)
}

pub(crate) fn mov<T: Width, D: Place, S: Source>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let value: T = S::get(cpu, p, op)?;
    D::set(cpu, p, op, value)
}

/// MOVZX: a `F` becomes a `T`.
pub(crate) fn movzx<T: Width, F: Width, S: Source>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let value: F = S::get(cpu, p, op)?;
    cpu.set_reg(op.r0, T::from_u64(value.to_u64()));
    Ok(())
}

/// MOVSX and MOVSXD.
pub(crate) fn movsx<T: Width, F: Width, S: Source>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let value: F = S::get(cpu, p, op)?;
    cpu.set_reg(op.r0, T::from_u64(value.to_i64().cast_unsigned()));
    Ok(())
}

pub(crate) fn lea<T: Width>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result {
    cpu.set_reg(op.r0, T::from_u64(cpu.offset(op)));
    Ok(())
}

pub(crate) fn xchg<T: Width, D: Place>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let new: T = cpu.reg(op.r1);
    let mut found = new;
    D::modify(cpu, p, op, |old, _| {
        found = old;
        new
    })?;
    cpu.set_reg(op.r1, found);
    Ok(())
}

/// `CMOVcc`: the source is read, and a 32-bit destination zero-extended, whether or not the condition holds.
pub(crate) fn cmov<T: Width, S: Source>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let value: T = S::get(cpu, p, op)?;
    let kept: T = cpu.reg(op.r0);
    cpu.set_reg(
        op.r0,
        if condition(op.r2, cpu.flags) {
            value
        } else {
            kept
        },
    );
    Ok(())
}

pub(crate) fn setcc<D: Place>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let value = u8::from(condition(op.r2, cpu.flags));
    D::set(cpu, p, op, value)
}

/// BSWAP; of a 16-bit register it is undefined, and gives zero on the processors we compared with.
pub(crate) fn bswap<T: Width>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result {
    let value: T = cpu.reg(op.r0);
    cpu.set_reg(
        op.r0,
        if T::BYTES == 2 {
            T::default()
        } else {
            value.swap_bytes()
        },
    );
    Ok(())
}

pub(crate) fn movbe<T: Width, D: Place, S: Source>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let value: T = S::get(cpu, p, op)?;
    D::set(cpu, p, op, value.swap_bytes())
}

/// CBW, CWDE, CDQE: sign-extends the lower half `F` of the accumulator.
pub(crate) fn extend_accumulator<T: Width, F: Width>(
    cpu: &mut Cpu,
    _: &mut dyn Platform,
    _: &Op,
) -> Result {
    let value: F = cpu.reg(0);
    cpu.set_reg(0, T::from_u64(value.to_i64().cast_unsigned()));
    Ok(())
}

/// CWD, CDQ, CQO: fills rDX with the sign of rAX.
pub(crate) fn extend_sign<T: Width>(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    let value: T = cpu.reg(0);
    cpu.set_reg(
        2,
        T::from_u64(if value.to_i64() < 0 { u64::MAX } else { 0 }),
    );
    Ok(())
}

/// XLATB: the memory operand was decoded with rBX as base; AL is added here.
pub(crate) fn xlat(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let offset = cpu.regs[3].wrapping_add(cpu.reg::<u8>(0).to_u64()) & op.address_mask;
    let value: u8 = cpu.read(p, op.segment, offset)?;
    cpu.set_reg(0, value);
    Ok(())
}

pub(crate) fn nop(_: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    Ok(())
}

/// BOUND: #BR when the index is outside the pair of limits in memory.
pub(crate) fn bound<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let offset = cpu.offset(op);
    let lower: T = cpu.read(p, op.segment, offset)?;
    let upper: T = cpu.read(
        p,
        op.segment,
        offset.wrapping_add(T::BYTES as u64) & op.address_mask,
    )?;
    let index = cpu.reg::<T>(op.r0).to_i64();
    if index < lower.to_i64() || index > upper.to_i64() {
        return Err(crate::exception::Exception::plain(
            crate::exception::Vector::BoundRange,
        ));
    }
    Ok(())
}
