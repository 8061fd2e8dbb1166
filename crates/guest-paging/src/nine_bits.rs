//! What all formats with 64-bit entries and nine index bits a level share: tables of 4 KiB, and pages of
//! 4 KiB, 2 MiB and 1 GiB.

use crate::Gpa;
use crate::x86::PageSize;

/// Byte offset of the entry for `input` in a table of `level`.
#[inline(always)]
pub(crate) fn offset(input: u64, level: u8) -> u64 {
    input >> (9 * level) & (511 << 3)
}

/// Whether structures of so many levels translate `input`.
#[inline(always)]
pub(crate) fn is_within(input: u64, levels: u8) -> bool {
    input >> (12 + 9 * levels) == 0
}

/// Whether `entry` maps a page.
#[inline(always)]
pub(crate) fn is_leaf(level: u8, entry: u64) -> bool {
    level == 1 || entry & PAGE != 0
}

/// The table that `entry` references.
#[inline(always)]
pub(crate) fn table(entry: u64) -> Gpa {
    Gpa(entry & ADDRESS)
}

/// Where a `leaf` of `level` leads, and how large its page is.
#[inline(always)]
pub(crate) fn page(level: u8, leaf: u64, input: u64) -> (Gpa, PageSize) {
    let size = match level {
        1 => PageSize::Size4K,
        2 => PageSize::Size2M,
        _ => PageSize::Size1G,
    };
    let inside = size.offset_mask();
    (Gpa(leaf & ADDRESS & !inside | input & inside), size)
}

/// Maps a page, above level 1.
pub(crate) const PAGE: u64 = 1 << 7;
/// Where an entry holds an address.
pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
