//! Shifts and rotates.

use super::operand::{Place, Source};
use crate::alu::Width;
use crate::cpu::Cpu;
use crate::decode::Op;
use crate::exception::Result;
use crate::platform::Platform;

/// A shift or rotate by a count.
pub(crate) trait Shift {
    fn apply<T: Width>(a: T, count: u8, flags: &mut u64) -> T;
}

macro_rules! shifts {
    ($($name:ident $method:ident),*) => {$(
        pub(crate) struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn apply<T: Width>(a: T, count: u8, flags: &mut u64) -> T {
                a.$method(count, flags)
            }
        }
    )*};
}
shifts!(Shl shl, Shr shr, Sar sar, Rol rol, Ror ror, Rcl rcl, Rcr rcr);

/// Where the count comes from.
pub(crate) trait Count {
    fn count(cpu: &Cpu, op: &Op) -> u8;
}
pub(crate) struct ByImm;
impl Count for ByImm {
    #[inline(always)]
    fn count(_: &Cpu, op: &Op) -> u8 {
        op.immediate as u8
    }
}
pub(crate) struct ByCl;
impl Count for ByCl {
    #[inline(always)]
    fn count(cpu: &Cpu, _: &Op) -> u8 {
        cpu.reg(1)
    }
}

pub(crate) fn shift<T: Width, O: Shift, D: Place, C: Count>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let count = C::count(cpu, op);
    D::modify(cpu, p, op, |a: T, flags| O::apply(a, count, flags))
}

/// SHLD (`LEFT`) and SHRD.
pub(crate) fn double<T: Width, D: Place, C: Count, const LEFT: bool>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let count = C::count(cpu, op);
    let other: T = cpu.reg(op.r1);
    D::modify(cpu, p, op, |a: T, flags| {
        if LEFT {
            a.shld(other, count, flags)
        } else {
            a.shrd(other, count, flags)
        }
    })
}

/// CRC32: accumulates CRC-32C, bit-reflected. Intel SDM volume 2, CRC32.
pub(crate) fn crc32<T: Width, S: Source>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let data: T = S::get(cpu, p, op)?;
    let mut bytes = [0; 8];
    data.to_bytes(&mut bytes);
    let mut crc: u32 = cpu.reg(op.r0);
    for &byte in &bytes[..T::BYTES] {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (if crc & 1 != 0 { 0x82f6_3b78 } else { 0 });
        }
    }
    cpu.set_reg(op.r0, crc);
    Ok(())
}
