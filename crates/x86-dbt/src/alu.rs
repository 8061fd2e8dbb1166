//! Integer arithmetic by the host's own instructions, so that results and flags are the real processor's,
//! the flags a manual calls undefined included.
//!
//! The only `unsafe` here is inline assembly on values: no memory, no stack.

use core::arch::asm;

use crate::flags::{CF, STATUS};

/// An operand width: `u8`, `u16`, `u32` or `u64`, and the arithmetic on it.
///
/// `flags` is RFLAGS; operations replace the status flags they define and leave the rest.
pub(crate) trait Width: Copy + Eq + Default + core::fmt::Debug + 'static {
    const BYTES: usize;
    const BITS: u32;
    /// Truncates.
    fn from_u64(value: u64) -> Self;
    /// Zero-extends.
    fn to_u64(self) -> u64;
    /// Sign-extends.
    fn to_i64(self) -> i64;
    fn from_bytes(bytes: &[u8]) -> Self;
    fn to_bytes(self, bytes: &mut [u8]);

    fn add(self, other: Self, flags: &mut u64) -> Self;
    fn adc(self, other: Self, flags: &mut u64) -> Self;
    fn sub(self, other: Self, flags: &mut u64) -> Self;
    fn sbb(self, other: Self, flags: &mut u64) -> Self;
    fn and(self, other: Self, flags: &mut u64) -> Self;
    fn or(self, other: Self, flags: &mut u64) -> Self;
    fn xor(self, other: Self, flags: &mut u64) -> Self;
    fn inc(self, flags: &mut u64) -> Self;
    fn dec(self, flags: &mut u64) -> Self;
    fn neg(self, flags: &mut u64) -> Self;
    fn not(self) -> Self;
    /// The shifts and rotates take the raw count: each masks it as the processor does.
    fn shl(self, count: u8, flags: &mut u64) -> Self;
    fn shr(self, count: u8, flags: &mut u64) -> Self;
    fn sar(self, count: u8, flags: &mut u64) -> Self;
    fn rol(self, count: u8, flags: &mut u64) -> Self;
    fn ror(self, count: u8, flags: &mut u64) -> Self;
    fn rcl(self, count: u8, flags: &mut u64) -> Self;
    fn rcr(self, count: u8, flags: &mut u64) -> Self;
    /// The unsigned product as (low, high).
    fn mul(self, other: Self, flags: &mut u64) -> (Self, Self);
    /// The signed product as (low, high).
    fn imul(self, other: Self, flags: &mut u64) -> (Self, Self);
    /// (quotient, remainder) of `high:self / divisor`; `None` is #DE.
    fn div(self, high: Self, divisor: Self) -> Option<(Self, Self)>;
    /// Signed likewise.
    fn idiv(self, high: Self, divisor: Self) -> Option<(Self, Self)>;
    fn bsf(self, old: Self, flags: &mut u64) -> Self;
    fn bsr(self, old: Self, flags: &mut u64) -> Self;
    fn tzcnt(self, flags: &mut u64) -> Self;
    fn lzcnt(self, flags: &mut u64) -> Self;
    fn popcnt(self, flags: &mut u64) -> Self;
    fn shld(self, other: Self, count: u8, flags: &mut u64) -> Self;
    fn shrd(self, other: Self, count: u8, flags: &mut u64) -> Self;
    fn swap_bytes(self) -> Self;
}

/// The status bits of RFLAGS as `add al, 127; sahf` takes them: AH as LAHF makes it, OF in AL.
///
/// Some flags that the manuals call undefined are left as they were, so they must be right before.
#[inline(always)]
pub(crate) fn image(flags: u64) -> u64 {
    ((flags & 0xd5) << 8) | ((flags >> 11) & 1)
}

/// RFLAGS status bits out of AX as `lahf; seto al` leaves it.
#[inline(always)]
pub(crate) fn status(ax: u64) -> u64 {
    ((ax >> 8) & 0xd5) | ((ax & 1) << 11)
}

#[inline(always)]
fn merge(flags: &mut u64, ax: u64, mask: u64) {
    *flags = (*flags & !mask) | (status(ax) & mask);
}

macro_rules! binary {
    ($name:ident, $class:ident, $op:expr) => {
        #[inline(always)]
        fn $name(mut self, other: Self, flags: &mut u64) -> Self {
            let ax: u64;
            // SAFETY: touches only its operand registers, RAX and the flags.
            unsafe {
                asm!($op, "lahf", "seto al", a = inout($class) self, b = in($class) other,
                     out("rax") ax, options(pure, nomem, nostack));
            }
            merge(flags, ax, STATUS);
            self
        }
    };
}

/// Like `binary`, with the carry flag as an input.
macro_rules! with_carry {
    ($name:ident, $class:ident, $op:expr) => {
        #[inline(always)]
        fn $name(mut self, other: Self, flags: &mut u64) -> Self {
            let ax: u64;
            // SAFETY: touches only its operand registers, RAX and the flags.
            unsafe {
                asm!("bt {f:e}, 0", $op, "lahf", "seto al", a = inout($class) self,
                     b = in($class) other, f = in(reg) *flags, out("rax") ax,
                     options(pure, nomem, nostack));
            }
            merge(flags, ax, STATUS);
            self
        }
    };
}

macro_rules! unary {
    ($name:ident, $class:ident, $op:expr, $mask:expr) => {
        #[inline(always)]
        fn $name(mut self, flags: &mut u64) -> Self {
            let ax: u64;
            // SAFETY: touches only its operand register, RAX and the flags.
            unsafe {
                asm!($op, "lahf", "seto al", a = inout($class) self, out("rax") ax,
                     options(pure, nomem, nostack));
            }
            merge(flags, ax, $mask);
            self
        }
    };
}

/// Shifts and rotates by CL. A masked count of zero changes no flag.
macro_rules! shift {
    ($name:ident, $class:ident, $op:expr) => {
        #[inline(always)]
        fn $name(mut self, count: u8, flags: &mut u64) -> Self {
            if count & Self::COUNT_MASK == 0 {
                return self;
            }
            let ax: u64;
            // SAFETY: touches only its operand registers, RAX and the flags.
            unsafe {
                asm!("add al, 127", "sahf", $op, "lahf", "seto al", a = inout($class) self,
                     in("cl") count, inout("rax") image(*flags) => ax, options(pure, nomem, nostack));
            }
            merge(flags, ax, STATUS);
            self
        }
    };
}

macro_rules! double_shift {
    ($name:ident, $op:expr) => {
        #[inline(always)]
        fn $name(mut self, other: Self, count: u8, flags: &mut u64) -> Self {
            if count & Self::COUNT_MASK == 0 {
                return self;
            }
            let ax: u64;
            // SAFETY: touches only its operand registers, RAX and the flags.
            unsafe {
                asm!("add al, 127", "sahf", $op, "lahf", "seto al", a = inout(reg) self, b = in(reg) other,
                     in("cl") count, inout("rax") image(*flags) => ax, options(pure, nomem, nostack));
            }
            merge(flags, ax, STATUS);
            self
        }
    };
}

macro_rules! multiply {
    ($name:ident, $class:ident, $op:expr, $lo:tt, $hi:tt) => {
        #[inline(always)]
        fn $name(self, other: Self, flags: &mut u64) -> (Self, Self) {
            let (mut low, mut f) = (self, image(*flags));
            let high: Self;
            // SAFETY: touches only its operand registers and the flags; `pushfq` is not used.
            unsafe {
                asm!("xchg {f}, rax", "add al, 127", "sahf", "mov rax, {f}",
                     $op, "mov {save}, rax", "lahf", "seto al", "mov {f}, rax", "mov rax, {save}",
                     b = in($class) other, f = inout(reg) f, save = out(reg) _,
                     inout($lo) low, out($hi) high, options(pure, nomem, nostack));
            }
            merge(flags, f, STATUS);
            (low, high)
        }
    };
}

macro_rules! scan {
    ($name:ident, $op:expr) => {
        #[inline(always)]
        fn $name(self, mut old: Self, flags: &mut u64) -> Self {
            let ax: u64;
            // SAFETY: touches only its operand registers, RAX and the flags.
            unsafe {
                asm!("add al, 127", "sahf", $op, "lahf", "seto al", a = inout(reg) old,
                     b = in(reg) self, inout("rax") image(*flags) => ax,
                     options(pure, nomem, nostack));
            }
            merge(flags, ax, STATUS);
            // A source of zero leaves the destination as it was (AMD APM 3; Intel processors too).
            old
        }
    };
}

/// What every width has alike. The literals are the operand forms of one width.
macro_rules! common {
    ($t:ty, $signed:ty, $wide:ty, $iwide:ty, $class:ident, $a:literal, $b:literal, $mask:literal) => {
        const BYTES: usize = size_of::<$t>();
        const BITS: u32 = <$t>::BITS;
        #[inline(always)]
        fn from_u64(value: u64) -> Self {
            value as $t
        }
        #[inline(always)]
        fn to_u64(self) -> u64 {
            u64::from(self)
        }
        #[inline(always)]
        fn to_i64(self) -> i64 {
            i64::from(self.cast_signed())
        }
        fn from_bytes(bytes: &[u8]) -> Self {
            let mut own = [0; size_of::<$t>()];
            own.copy_from_slice(&bytes[..size_of::<$t>()]);
            <$t>::from_le_bytes(own)
        }
        fn to_bytes(self, bytes: &mut [u8]) {
            bytes[..size_of::<$t>()].copy_from_slice(&self.to_le_bytes());
        }
        binary!(add, $class, concat!("add ", $a, ", ", $b));
        binary!(sub, $class, concat!("sub ", $a, ", ", $b));
        binary!(and, $class, concat!("and ", $a, ", ", $b));
        binary!(or, $class, concat!("or ", $a, ", ", $b));
        binary!(xor, $class, concat!("xor ", $a, ", ", $b));
        with_carry!(adc, $class, concat!("adc ", $a, ", ", $b));
        with_carry!(sbb, $class, concat!("sbb ", $a, ", ", $b));
        unary!(inc, $class, concat!("inc ", $a), STATUS & !CF);
        unary!(dec, $class, concat!("dec ", $a), STATUS & !CF);
        unary!(neg, $class, concat!("neg ", $a), STATUS);
        shift!(shl, $class, concat!("shl ", $a, ", cl"));
        shift!(shr, $class, concat!("shr ", $a, ", cl"));
        shift!(sar, $class, concat!("sar ", $a, ", cl"));
        shift!(rol, $class, concat!("rol ", $a, ", cl"));
        shift!(ror, $class, concat!("ror ", $a, ", cl"));
        shift!(rcl, $class, concat!("rcl ", $a, ", cl"));
        shift!(rcr, $class, concat!("rcr ", $a, ", cl"));
        #[inline(always)]
        fn not(self) -> Self {
            !self
        }
        fn div(self, high: Self, divisor: Self) -> Option<(Self, Self)> {
            // `high < divisor` is exactly the condition under which the quotient fits.
            if high >= divisor {
                return None;
            }
            let dividend = (<$wide>::from(high) << Self::BITS) | <$wide>::from(self);
            let divisor = <$wide>::from(divisor);
            Some(((dividend / divisor) as $t, (dividend % divisor) as $t))
        }
        fn idiv(self, high: Self, divisor: Self) -> Option<(Self, Self)> {
            let dividend = (<$wide>::from(high) << Self::BITS | <$wide>::from(self)).cast_signed();
            let divisor = <$iwide>::from(divisor.cast_signed());
            let quotient = <$signed>::try_from(dividend.checked_div(divisor)?).ok()?;
            Some((
                quotient.cast_unsigned(),
                (dividend % divisor).cast_unsigned() as $t,
            ))
        }
        #[inline(always)]
        fn swap_bytes(self) -> Self {
            <$t>::swap_bytes(self)
        }
        fn tzcnt(self, flags: &mut u64) -> Self {
            count_flags(flags, self == 0, self & 1 != 0);
            self.trailing_zeros() as $t
        }
        fn lzcnt(self, flags: &mut u64) -> Self {
            count_flags(flags, self == 0, self.leading_zeros() == 0);
            self.leading_zeros() as $t
        }
        fn popcnt(self, flags: &mut u64) -> Self {
            *flags &= !STATUS;
            if self == 0 {
                *flags |= crate::flags::ZF;
            }
            self.count_ones() as $t
        }
    };
}

/// TZCNT and LZCNT: CF for a source of zero, ZF for a result of zero; the rest stays, as AMD documents it.
fn count_flags(flags: &mut u64, source_zero: bool, result_zero: bool) {
    *flags &= !(CF | crate::flags::ZF);
    *flags |= u64::from(source_zero) | (u64::from(result_zero) << 6);
}

trait CountMask {
    const COUNT_MASK: u8;
}
impl CountMask for u8 {
    const COUNT_MASK: u8 = 31;
}
impl CountMask for u16 {
    const COUNT_MASK: u8 = 31;
}
impl CountMask for u32 {
    const COUNT_MASK: u8 = 31;
}
impl CountMask for u64 {
    const COUNT_MASK: u8 = 63;
}

macro_rules! wide_only {
    ($a:literal, $b:literal) => {
        double_shift!(shld, concat!("shld ", $a, ", ", $b, ", cl"));
        double_shift!(shrd, concat!("shrd ", $a, ", ", $b, ", cl"));
        scan!(bsf, concat!("bsf ", $a, ", ", $b));
        scan!(bsr, concat!("bsr ", $a, ", ", $b));
    };
}

impl Width for u8 {
    common!(u8, i8, u16, i16, reg_byte, "{a}", "{b}", 31);

    fn mul(self, other: Self, flags: &mut u64) -> (Self, Self) {
        let product = multiply_bytes(u16::from(self), other, flags, false);
        (product as u8, (product >> 8) as u8)
    }
    fn imul(self, other: Self, flags: &mut u64) -> (Self, Self) {
        let product = multiply_bytes(u16::from(self), other, flags, true);
        (product as u8, (product >> 8) as u8)
    }
    // No encoding has these with byte operands.
    fn shld(self, _: Self, _: u8, _: &mut u64) -> Self {
        self
    }
    fn shrd(self, _: Self, _: u8, _: &mut u64) -> Self {
        self
    }
    fn bsf(self, old: Self, _: &mut u64) -> Self {
        old
    }
    fn bsr(self, old: Self, _: &mut u64) -> Self {
        old
    }
}

impl Width for u16 {
    common!(u16, i16, u32, i32, reg, "{a:x}", "{b:x}", 31);
    wide_only!("{a:x}", "{b:x}");
    multiply!(mul, reg, "mul {b:x}", "ax", "dx");
    multiply!(imul, reg, "imul {b:x}", "ax", "dx");
}

impl Width for u32 {
    common!(u32, i32, u64, i64, reg, "{a:e}", "{b:e}", 31);
    wide_only!("{a:e}", "{b:e}");
    multiply!(mul, reg, "mul {b:e}", "eax", "edx");
    multiply!(imul, reg, "imul {b:e}", "eax", "edx");
}

impl Width for u64 {
    common!(u64, i64, u128, i128, reg, "{a:r}", "{b:r}", 63);
    wide_only!("{a:r}", "{b:r}");
    multiply!(mul, reg, "mul {b:r}", "rax", "rdx");
    multiply!(imul, reg, "imul {b:r}", "rax", "rdx");
}

/// AL times a byte: the product lands in AX.
fn multiply_bytes(al: u16, other: u8, flags: &mut u64, signed: bool) -> u16 {
    let (mut product, mut f) = (al, image(*flags));
    if signed {
        // SAFETY: touches only its operand registers and the flags.
        unsafe {
            asm!("xchg {f}, rax", "add al, 127", "sahf", "mov rax, {f}",
                 "imul {b}", "mov {save}, rax", "lahf", "seto al", "mov {f}, rax", "mov rax, {save}",
                 b = in(reg_byte) other, f = inout(reg) f, save = out(reg) _, inout("ax") product,
                 options(pure, nomem, nostack));
        }
    } else {
        // SAFETY: touches only its operand registers and the flags.
        unsafe {
            asm!("xchg {f}, rax", "add al, 127", "sahf", "mov rax, {f}",
                 "mul {b}", "mov {save}, rax", "lahf", "seto al", "mov {f}, rax", "mov rax, {save}",
                 b = in(reg_byte) other, f = inout(reg) f, save = out(reg) _, inout("ax") product,
                 options(pure, nomem, nostack));
        }
    }
    merge(flags, f, STATUS);
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{AF, OF, PF, SF, ZF};

    #[test]
    fn add_sets_every_status_flag_of_the_manual() {
        let mut flags = 2;
        assert_eq!(0x7fu8.add(1, &mut flags), 0x80);
        assert_eq!(flags & STATUS, SF | OF | AF);
        assert_eq!(0xffff_ffffu32.add(1, &mut flags), 0);
        assert_eq!(flags & STATUS, CF | PF | AF | ZF);
    }

    #[test]
    fn carry_goes_in_and_out() {
        let mut flags = CF;
        assert_eq!(u64::MAX.adc(0, &mut flags), 0);
        assert_eq!(flags & CF, CF);
        assert_eq!(0u16.sbb(0, &mut flags), 0xffff);
        assert_eq!(0x81u8.rcl(1, &mut flags), 0x03);
    }

    #[test]
    fn a_zero_count_leaves_the_flags() {
        let mut flags = STATUS;
        assert_eq!(5u32.shl(32, &mut flags), 5);
        assert_eq!(flags, STATUS);
    }

    #[test]
    fn products_fill_both_halves() {
        let mut flags = 0;
        assert_eq!(0xffu8.mul(0xff, &mut flags), (0x01, 0xfe));
        assert_eq!(u64::MAX.mul(2, &mut flags), (u64::MAX - 1, 1));
        assert_eq!(u64::MAX.imul(2, &mut flags), (u64::MAX - 1, u64::MAX));
    }

    #[test]
    fn quotients_that_do_not_fit_are_divide_errors() {
        assert_eq!(0u8.div(1, 1), None);
        assert_eq!(7u8.div(0, 0), None);
        assert_eq!(0x80u8.idiv(0xff, 0xff), None);
        assert_eq!(0xf9u8.idiv(0xff, 2), Some((0xfd, 0xff)));
        assert_eq!(0u64.idiv(0x8000_0000_0000_0000, u64::MAX), None);
    }
}
