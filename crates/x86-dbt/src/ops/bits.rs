//! Bit tests and bit scans.

use super::operand::{Place, Source};
use crate::alu::Width;
use crate::cpu::Cpu;
use crate::decode::Op;
use crate::exception::Result;
use crate::flags::CF;
use crate::platform::Platform;

/// What BT, BTS, BTR and BTC make of the bit.
pub(crate) trait BitChange {
    const WRITES: bool = true;
    fn apply(word: u64, bit: u64) -> u64;
}
pub(crate) struct Keep;
impl BitChange for Keep {
    const WRITES: bool = false;
    fn apply(word: u64, _: u64) -> u64 {
        word
    }
}
pub(crate) struct Set;
impl BitChange for Set {
    fn apply(word: u64, bit: u64) -> u64 {
        word | bit
    }
}
pub(crate) struct Reset;
impl BitChange for Reset {
    fn apply(word: u64, bit: u64) -> u64 {
        word & !bit
    }
}
pub(crate) struct Complement;
impl BitChange for Complement {
    fn apply(word: u64, bit: u64) -> u64 {
        word ^ bit
    }
}

fn test_and_change<T: Width, O: BitChange>(word: T, index: u64, flags: &mut u64) -> T {
    let bit = 1 << (index & u64::from(T::BITS - 1));
    *flags &= !CF;
    if word.to_u64() & bit != 0 {
        *flags |= CF;
    }
    T::from_u64(O::apply(word.to_u64(), bit))
}

/// The bit index is taken modulo the operand's width.
pub(crate) fn bit<T: Width, O: BitChange, D: Place, S: Source>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let index: T = S::get(cpu, p, op)?;
    if !O::WRITES {
        let word: T = D::get(cpu, p, op)?;
        test_and_change::<T, O>(word, index.to_u64(), &mut cpu.flags);
        return Ok(());
    }
    D::modify(cpu, p, op, |word: T, flags| {
        test_and_change::<T, O>(word, index.to_u64(), flags)
    })
}

/// A memory operand with the index in a register: the index is signed and reaches beyond the operand.
pub(crate) fn bit_string<T: Width, O: BitChange>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let index = cpu.reg::<T>(op.r1).to_i64();
    let words = (index >> T::BITS.trailing_zeros()).cast_unsigned();
    let offset = cpu
        .offset(op)
        .wrapping_add(words.wrapping_mul(T::BYTES as u64))
        & op.address_mask;
    let index = index.cast_unsigned();
    if !O::WRITES {
        let word: T = cpu.read(p, op.segment, offset)?;
        test_and_change::<T, O>(word, index, &mut cpu.flags);
        return Ok(());
    }
    cpu.modify(p, op.segment, offset, |word: T, flags| {
        test_and_change::<T, O>(word, index, flags)
    })
}

/// BSF, and BSR (`REVERSE`).
pub(crate) fn scan<T: Width, S: Source, const REVERSE: bool>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let value: T = S::get(cpu, p, op)?;
    let old: T = cpu.reg(op.r0);
    let zero = value == T::default();
    let found = if REVERSE {
        value.bsr(old, &mut cpu.flags)
    } else {
        value.bsf(old, &mut cpu.flags)
    };
    // With a source of zero the whole register stays, its upper half too.
    if !zero {
        cpu.set_reg(op.r0, found);
    }
    Ok(())
}

/// TZCNT, LZCNT and POPCNT.
pub(crate) fn count<T: Width, S: Source>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
    count: fn(T, &mut u64) -> T,
) -> Result {
    let value: T = S::get(cpu, p, op)?;
    let counted = count(value, &mut cpu.flags);
    cpu.set_reg(op.r0, counted);
    Ok(())
}

pub(crate) fn tzcnt<T: Width, S: Source>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    count::<T, S>(cpu, p, op, T::tzcnt)
}
pub(crate) fn lzcnt<T: Width, S: Source>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    count::<T, S>(cpu, p, op, T::lzcnt)
}
pub(crate) fn popcnt<T: Width, S: Source>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    count::<T, S>(cpu, p, op, T::popcnt)
}
