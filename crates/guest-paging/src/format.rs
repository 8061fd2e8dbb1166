//! What the walker must know of a paging-structure format.

use crate::{Exchange, Gpa, Place, TableMemory};

/// One format of paging structures, for instance 4-level paging.
///
/// The walk in `walk.rs` is written once over this trait. Levels count down to the leaf level 1.
/// Input addresses are plain numbers here, for they are virtual in one format and guest physical in
/// another.
pub(crate) trait Format {
    /// The control registers, and what is precomputed from them.
    type Context;
    /// An entry: `u32` or `u64`.
    type Entry: Entry;
    type Access: Copy;
    type Translation;
    type Fault;

    /// Rights that the entries so far deny: none.
    const NOTHING_DENIED: Self::Entry;

    /// The level and table where the walk of `input` begins.
    fn root(
        context: &Self::Context,
        input: u64,
        access: Self::Access,
    ) -> Result<(u8, Gpa), Self::Fault>;

    /// Byte offset of the entry for `input` in a table of `level`.
    fn offset(input: u64, level: u8) -> u64;

    /// Whether the walk may pass `entry` as it stands: present, no reserved bit set, and, if this
    /// walk is one that marks entries, already marked as accessed.
    fn passes(context: &Self::Context, marking: bool, level: u8, entry: Self::Entry) -> bool;

    /// Whether `entry` can be seen at a glance to reference a table and to [pass](Self::passes).
    /// `false` says nothing.
    #[inline(always)]
    fn is_plain_table(
        context: &Self::Context,
        marking: bool,
        level: u8,
        entry: Self::Entry,
    ) -> bool {
        !Self::is_leaf(context, level, entry) && Self::passes(context, marking, level, entry)
    }

    /// Whether a leaf can be seen at a glance to pass, its accessed flag apart. `false` says nothing.
    #[inline(always)]
    fn is_plain_leaf(context: &Self::Context, level: u8, entry: Self::Entry) -> bool {
        Self::passes(context, false, level, entry)
    }

    /// The fault that `entry` causes by being absent or malformed, if it does.
    fn refusal(
        context: &Self::Context,
        input: u64,
        level: u8,
        entry: Self::Entry,
        access: Self::Access,
    ) -> Option<Self::Fault>;

    /// Whether `entry` maps a page instead of referencing a table.
    fn is_leaf(context: &Self::Context, level: u8, entry: Self::Entry) -> bool;

    /// The table that `entry` references.
    fn table(entry: Self::Entry) -> Gpa;

    /// What is denied by `entry` and by those above it, which denied `denied`.
    fn deny(denied: Self::Entry, level: u8, entry: Self::Entry) -> Self::Entry;

    /// Whether `access` is permitted, where the leaf and all above it have denied `denied`.
    fn permits(
        context: &Self::Context,
        denied: Self::Entry,
        leaf: Self::Entry,
        access: Self::Access,
    ) -> bool;

    /// The fault of an `access` that is not permitted.
    fn denial(
        context: &Self::Context,
        input: u64,
        denied: Self::Entry,
        leaf: Self::Entry,
        access: Self::Access,
    ) -> Self::Fault;

    /// A table-referencing `entry` after the walk has used it.
    fn mark_table(entry: Self::Entry) -> Self::Entry;

    /// The leaf after `access` went through it.
    fn mark_leaf(leaf: Self::Entry, access: Self::Access) -> Self::Entry;

    fn translation(
        context: &Self::Context,
        input: u64,
        level: u8,
        denied: Self::Entry,
        leaf: Self::Entry,
    ) -> Self::Translation;
}

/// The width of an entry.
pub(crate) trait Entry: Copy + Eq + Into<u64> {
    fn load<M: TableMemory>(memory: &M, at: Gpa) -> Result<Self, M::Error>;

    fn peek<M: TableMemory>(memory: &M, place: Place, table: Gpa, offset: u64) -> Option<Self>;

    fn compare_exchange<M: TableMemory>(
        memory: &M,
        at: Gpa,
        current: Self,
        new: Self,
    ) -> Exchange<Self, M::Error>;
}

impl Entry for u32 {
    #[inline(always)]
    fn load<M: TableMemory>(memory: &M, at: Gpa) -> Result<Self, M::Error> {
        memory.load_u32(at)
    }

    #[inline(always)]
    fn peek<M: TableMemory>(memory: &M, place: Place, table: Gpa, offset: u64) -> Option<Self> {
        memory.peek_u32(place, table, offset)
    }

    fn compare_exchange<M: TableMemory>(
        memory: &M,
        at: Gpa,
        current: Self,
        new: Self,
    ) -> Exchange<Self, M::Error> {
        memory.compare_exchange_u32(at, current, new)
    }
}

impl Entry for u64 {
    #[inline(always)]
    fn load<M: TableMemory>(memory: &M, at: Gpa) -> Result<Self, M::Error> {
        memory.load_u64(at)
    }

    #[inline(always)]
    fn peek<M: TableMemory>(memory: &M, place: Place, table: Gpa, offset: u64) -> Option<Self> {
        memory.peek_u64(place, table, offset)
    }

    fn compare_exchange<M: TableMemory>(
        memory: &M,
        at: Gpa,
        current: Self,
        new: Self,
    ) -> Exchange<Self, M::Error> {
        memory.compare_exchange_u64(at, current, new)
    }
}
