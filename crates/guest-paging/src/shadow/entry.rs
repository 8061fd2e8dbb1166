//! Entries of shadow tables: those of the x86 manuals, with a table's number where its frame goes.

use std::fmt;

use super::store::TableId;
use crate::address::Hpa;
use crate::x86::spec::{
    ACCESSED, ADDRESS, DIRTY, KEY_SHIFT, NO_EXECUTE, PAGE_SIZE, PRESENT, USER, WRITE,
};

/// An entry of a shadow table, as a processor reads it, except that one which references a table
/// holds the table's [`TableId`] where its frame number belongs.
///
/// Accessed is always set, and dirty wherever writes are let through, so that no processor writes to
/// a shadow table.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ShadowEntry(u64);

impl ShadowEntry {
    /// Not present.
    pub const ABSENT: Self = Self(0);

    pub(super) fn table(child: TableId, rights: u64) -> Self {
        Self(PRESENT | ACCESSED | rights & RIGHTS | u64::from(child.0) << 12)
    }

    /// `rights` are those of the guest's entry, with W only if the page may be written.
    pub(super) fn page(frame: Hpa, rights: u64, key: u8, large: bool) -> Self {
        let mut entry = PRESENT | ACCESSED | rights & RIGHTS | frame.0 & ADDRESS;
        entry |= u64::from(key) << KEY_SHIFT;
        if entry & WRITE != 0 {
            entry |= DIRTY;
        }
        if large {
            entry |= PAGE_SIZE;
        }
        Self(entry)
    }

    pub(super) fn read_only(self) -> Self {
        Self(self.0 & !(WRITE | DIRTY))
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits as a processor reads them, but for a table's number.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether the entry is present.
    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Whether the entry, of `level`, maps a page.
    #[inline]
    pub const fn is_page(self, level: u8) -> bool {
        self.is_present() && (level == 1 || self.0 & PAGE_SIZE != 0)
    }

    /// Whether it lets writes through.
    #[inline]
    pub const fn is_writable(self) -> bool {
        self.0 & WRITE != 0
    }

    /// Whether it lets user-mode accesses through.
    #[inline]
    pub const fn is_user(self) -> bool {
        self.0 & USER != 0
    }

    /// Whether it lets fetches through.
    #[inline]
    pub const fn is_executable(self) -> bool {
        self.0 & NO_EXECUTE == 0
    }

    /// The protection key of a page.
    #[inline]
    pub const fn key(self) -> u8 {
        (self.0 >> KEY_SHIFT & 15) as u8
    }

    /// Where the page lies in the machine.
    #[inline]
    pub const fn frame(self) -> Hpa {
        Hpa(self.0 & ADDRESS)
    }

    /// The table that an entry which maps no page references.
    #[inline]
    pub const fn child(self) -> TableId {
        TableId((self.0 >> 12 & 0xffff_ffff) as u32)
    }

    /// Whether everything that `self` lets through, `other` lets through to the same place.
    pub(super) fn is_within(self, other: Self) -> bool {
        const PLACE: u64 = ADDRESS | PAGE_SIZE | 15 << KEY_SHIFT;
        !self.is_present()
            || other.is_present()
                && self.0 & PLACE == other.0 & PLACE
                && granted(self.0) & !granted(other.0) == 0
    }
}

/// What an entry grants, as set bits.
const fn granted(entry: u64) -> u64 {
    (entry ^ NO_EXECUTE) & RIGHTS
}

impl fmt::Debug for ShadowEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShadowEntry({:#x})", self.0)
    }
}

/// The bits of an entry that say what it lets through.
pub(super) const RIGHTS: u64 = WRITE | USER | NO_EXECUTE;
/// An entry that stands in nobody's way.
pub(super) const ALL_RIGHTS: u64 = WRITE | USER;
