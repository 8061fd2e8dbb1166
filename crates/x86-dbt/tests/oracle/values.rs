//! Operand values: the edges first, then anything.

use super::case::FLAGS;
use super::rng::Rng;

pub(crate) fn integer(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0 => rng.pick(&[0, 1, u64::MAX, 1 << 63, i64::MAX as u64]),
        1 => rng.pick(&[
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
        ]),
        2 => rng.below(64),
        3 => rng.next() as i8 as u64,
        4 => rng.next() & 0xffff_ffff,
        _ => rng.next(),
    }
}

pub(crate) fn rflags(rng: &mut Rng) -> u64 {
    let mut flags = rng.next() & FLAGS;
    if !rng.chance(10) {
        flags &= !DF;
    }
    if !rng.chance(8) {
        flags &= !AC;
    }
    flags
}

/// Eight bytes that are interesting as one double, two singles or integers.
pub(crate) fn vector_half(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => rng.pick(&DOUBLES),
        1 => u64::from(rng.pick(&SINGLES)) << 32 | u64::from(rng.pick(&SINGLES)),
        2 => (f64::from(rng.next() as i16) / 16.0).to_bits(),
        _ => rng.next(),
    }
}

pub(crate) fn vector(rng: &mut Rng) -> [u8; 16] {
    let (low, high) = (vector_half(rng), vector_half(rng));
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

/// An 80-bit x87 value: numbers, infinities, NaNs, denormals, and now and then an unsupported encoding.
pub(crate) fn extended(rng: &mut Rng) -> [u8; 10] {
    let integer_bit = 1u64 << 63;
    let sign = (rng.next() as u16) & 0x8000;
    let (exponent, significand) = match rng.below(16) {
        0 => (0, 0),
        1 => (0x3fff, integer_bit),
        2 => (0x7fff, integer_bit),
        3 => (0x7fff, 3 << 62 | rng.next() >> 2),
        4 => (0x7fff, integer_bit | rng.next() >> 2 | 1),
        5 => (0, rng.next() >> 1),
        6 => (0, integer_bit | rng.next()),
        7 => (rng.next() as u16 & 0x7fff, rng.next() >> 1),
        8 => (
            rng.pick(&[1, 0x7ffe, 0x3c01, 0x43fe, 0x3f81, 0x407e]),
            integer_bit | rng.next(),
        ),
        9 | 10 => (
            0x3fff + rng.below(64) as u16,
            integer_bit | rng.next() << 20,
        ),
        11 => (
            0x3fff + rng.below(20) as u16,
            integer_bit | rng.next() << 48,
        ),
        _ => (0x3fe0 + rng.below(0x60) as u16, integer_bit | rng.next()),
    };
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&significand.to_le_bytes());
    bytes[8..].copy_from_slice(&(exponent | sign).to_le_bytes());
    bytes
}

/// An FXSAVE64 image with consistent x87 exception summary.
pub(crate) fn fx(rng: &mut Rng) -> [u8; 512] {
    let mut image = [0; 512];
    let masks = if rng.chance(70) {
        0x3f
    } else {
        rng.next() as u16 & 0x3f
    };
    let precision = rng.pick(&[0u16, 2, 3, 3]);
    let fcw = 0x40 | masks | precision << 8 | (rng.next() as u16 & 0x1c00);
    let mut fsw = rng.next() as u16 & 0x7f7f;
    if rng.chance(95) {
        fsw &= !0x3f | masks;
    }
    if fsw & !fcw & 0x3f != 0 {
        fsw |= 0x8080;
    }
    image[..2].copy_from_slice(&fcw.to_le_bytes());
    image[2..4].copy_from_slice(&fsw.to_le_bytes());
    image[4] = if rng.chance(60) { 0xff } else { rng.byte() };
    image[24..28].copy_from_slice(&mxcsr(rng).to_le_bytes());
    image[28..32].copy_from_slice(&0xffffu32.to_le_bytes());
    for i in 0..8 {
        image[32 + 16 * i..][..10].copy_from_slice(&extended(rng));
    }
    for i in 0..16 {
        image[160 + 16 * i..][..16].copy_from_slice(&vector(rng));
    }
    image
}

/// Any rounding mode, DAZ, FTZ and flags; every exception masked in three cases of four.
fn mxcsr(rng: &mut Rng) -> u32 {
    let masks = if rng.chance(75) {
        0x1f80
    } else {
        rng.next() as u32 & 0x1f80
    };
    let modes = rng.next() as u32 & if rng.chance(50) { 0x6000 } else { 0xe040 };
    let flags = if rng.chance(50) {
        0
    } else {
        rng.next() as u32 & 0x3f
    };
    masks | modes | flags
}

const DOUBLES: [u64; 18] = [
    0,
    1 << 63,
    0x3ff0_0000_0000_0000,
    0xbff8_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0001,
    0x7ff0_0000_0000_0001,
    0xfff4_0000_0000_0000,
    0x0000_0000_0000_0001,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x4330_0000_0000_0001,
    0x41e0_0000_0000_0000,
    0x41df_ffff_ffc0_0000,
    0x43e0_0000_0000_0000,
    0x36a0_0000_0000_0000,
];

const SINGLES: [u32; 14] = [
    0,
    1 << 31,
    0x3f80_0000,
    0xbfc0_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0001,
    0x7f80_0001,
    0x0000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x7f7f_ffff,
    0x4f00_0000,
    0x4b00_0001,
];

const DF: u64 = 1 << 10;
pub(crate) const AC: u64 = 1 << 18;
