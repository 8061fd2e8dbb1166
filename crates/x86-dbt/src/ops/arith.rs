//! Two-operand and one-operand integer arithmetic and logic.

use super::operand::{Place, Source};
use crate::alu::Width;
use crate::cpu::Cpu;
use crate::decode::Op;
use crate::exception::Result;
use crate::platform::Platform;

/// An operation of two operands whose result replaces the first.
pub(crate) trait Binary {
    fn apply<T: Width>(a: T, b: T, flags: &mut u64) -> T;
}

/// An operation that replaces its operand.
pub(crate) trait Unary {
    fn apply<T: Width>(a: T, flags: &mut u64) -> T;
}

macro_rules! binary {
    ($($name:ident $method:ident),*) => {$(
        pub(crate) struct $name;
        impl Binary for $name {
            #[inline(always)]
            fn apply<T: Width>(a: T, b: T, flags: &mut u64) -> T {
                a.$method(b, flags)
            }
        }
    )*};
}
binary!(Add add, Adc adc, Sub sub, Sbb sbb, And and, Or or, Xor xor);

macro_rules! unary {
    ($($name:ident $method:ident),*) => {$(
        pub(crate) struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn apply<T: Width>(a: T, flags: &mut u64) -> T {
                a.$method(flags)
            }
        }
    )*};
}
unary!(Inc inc, Dec dec, Neg neg);

pub(crate) struct Not;
impl Unary for Not {
    #[inline(always)]
    fn apply<T: Width>(a: T, _: &mut u64) -> T {
        a.not()
    }
}

pub(crate) fn binary<T: Width, O: Binary, D: Place, S: Source>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let b: T = S::get(cpu, p, op)?;
    D::modify(cpu, p, op, |a, flags| O::apply(a, b, flags))
}

/// CMP and TEST: the flags of the operation without its result.
pub(crate) fn compare<T: Width, O: Binary, D: Source, S: Source>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let a: T = D::get(cpu, p, op)?;
    let b: T = S::get(cpu, p, op)?;
    O::apply(a, b, &mut cpu.flags);
    Ok(())
}

pub(crate) fn unary<T: Width, O: Unary, D: Place>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    D::modify(cpu, p, op, |a: T, flags| O::apply(a, flags))
}

/// ADCX (`CARRY`) and ADOX: an addition that reads and writes only CF or only OF.
pub(crate) fn add_one_flag<T: Width, S: Source, const CARRY: bool>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let flag = if CARRY {
        crate::flags::CF
    } else {
        crate::flags::OF
    };
    let b: T = S::get(cpu, p, op)?;
    let a: T = cpu.reg(op.r0);
    let mut flags = u64::from(cpu.flags & flag != 0);
    let sum = a.adc(b, &mut flags);
    cpu.set_reg(op.r0, sum);
    cpu.flags &= !flag;
    if flags & crate::flags::CF != 0 {
        cpu.flags |= flag;
    }
    Ok(())
}

/// CMPXCHG with memory, which is written in either case.
pub(crate) fn cmpxchg_mem<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let accumulator: T = cpu.reg(0);
    let new: T = cpu.reg(op.r1);
    let mut found = accumulator;
    cpu.modify(p, op.segment, cpu.offset(op), |old: T, flags| {
        accumulator.sub(old, flags);
        found = old;
        if old == accumulator { new } else { old }
    })?;
    if found != accumulator {
        cpu.set_reg(0, found);
    }
    Ok(())
}

/// CMPXCHG with a register, which keeps even its upper half where the comparison fails.
pub(crate) fn cmpxchg_reg<T: Width>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result {
    let (accumulator, found): (T, T) = (cpu.reg(0), cpu.reg(op.r0));
    accumulator.sub(found, &mut cpu.flags);
    if found == accumulator {
        let new: T = cpu.reg(op.r1);
        cpu.set_reg(op.r0, new);
    } else {
        cpu.set_reg(0, found);
    }
    Ok(())
}

/// XADD.
pub(crate) fn xadd<T: Width, D: Place>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let addend: T = cpu.reg(op.r1);
    let mut found = addend;
    let mut sum = addend;
    D::modify(cpu, p, op, |old: T, flags| {
        found = old;
        sum = old.add(addend, flags);
        sum
    })?;
    cpu.set_reg(op.r1, found);
    // XADD r, r of one register leaves the sum there.
    if op.r0 == op.r1 && !op.has_memory {
        cpu.set_reg(op.r0, sum);
    }
    Ok(())
}

/// CMPXCHG8B (`T` = u32) and CMPXCHG16B (`T` = u64).
pub(crate) fn cmpxchg_pair<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let offset = cpu.offset(op);
    let linear = cpu.linear(op.segment, offset, T::BYTES * 2, crate::walk::Kind::Write)?;
    if T::BYTES == 8 && linear % 16 != 0 {
        return Err(crate::exception::GP0);
    }
    cpu.probe(linear, T::BYTES * 2, crate::walk::Kind::Write, op.segment)?;
    let mut bytes = [0; 16];
    cpu.read_bytes(p, linear, op.segment, &mut bytes[..T::BYTES * 2])?;
    let found = (T::from_bytes(&bytes), T::from_bytes(&bytes[T::BYTES..]));
    let equal = found == (cpu.reg(0), cpu.reg(2));
    if equal {
        cpu.reg::<T>(3).to_bytes(&mut bytes);
        cpu.reg::<T>(1).to_bytes(&mut bytes[T::BYTES..]);
    }
    cpu.write_bytes(p, linear, op.segment, &bytes[..T::BYTES * 2])?;
    cpu.flags &= !crate::flags::ZF;
    if equal {
        cpu.flags |= crate::flags::ZF;
    } else {
        cpu.set_reg(0, found.0);
        cpu.set_reg(2, found.1);
    }
    Ok(())
}
