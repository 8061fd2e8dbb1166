//! What a successful walk found.

use crate::Gpa;

/// Where a linear address leads, with all that a TLB keeps beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Translation {
    /// The guest physical address of the byte, not only of its page.
    pub gpa: Gpa,
    /// Size of the page that the leaf maps.
    pub size: PageSize,
    /// Rights over all levels, and the leaf's flags.
    pub attributes: Attributes,
    /// Protection key, 0 to 15; 0 where neither CR4.PKE nor CR4.PKS is in force.
    pub key: u8,
}

bitflags::bitflags! {
    /// Rights and flags of a translation.
    ///
    /// Rights are those of the paging structures. What they let an access do depends on CR0, CR4 and
    /// EFLAGS too: ask [`Context::permits`](super::Context::permits).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Attributes: u8 {
        /// No entry disables execution.
        const EXECUTE = 1 << 0;
        /// R/W is set in every entry.
        const WRITE = 1 << 2;
        /// U/S is set in every entry: a user-mode address.
        const USER = 1 << 3;
        /// The leaf's dirty flag is set. While it is not, a write must walk again.
        const DIRTY = 1 << 6;
        /// The leaf's global flag is set and CR4.PGE is.
        const GLOBAL = 1 << 7;
    }
}

/// The page sizes of x86. The discriminant is the count of address bits inside a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PageSize {
    /// 4 KiB.
    Size4K = 12,
    /// 2 MiB: PAE, 4-level and 5-level paging.
    Size2M = 21,
    /// 4 MiB: 32-bit paging.
    Size4M = 22,
    /// 1 GiB: 4-level and 5-level paging.
    Size1G = 30,
}

impl PageSize {
    /// Bytes in a page.
    #[inline]
    pub const fn bytes(self) -> u64 {
        1 << self as u8
    }

    /// The address bits inside a page.
    #[inline]
    pub const fn offset_mask(self) -> u64 {
        self.bytes() - 1
    }
}

impl Translation {
    /// What holds with paging off: linear addresses, which then have 32 bits, are physical.
    pub(super) fn identity(gva: u64) -> Self {
        let rights = Attributes::EXECUTE | Attributes::WRITE | Attributes::USER;
        Self {
            gpa: Gpa(gva & 0xffff_ffff),
            size: PageSize::Size4K,
            attributes: rights | Attributes::DIRTY,
            key: 0,
        }
    }
}
