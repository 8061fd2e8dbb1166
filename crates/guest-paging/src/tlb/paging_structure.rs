//! Paging-structure caches (SDM 4.10.3): where walks may begin below the root.

use super::tag::Tag;
use crate::walk::Start;
use crate::{Gpa, Gva};

/// One cache for each level from 2 up, fully associative.
#[derive(Clone, Debug)]
pub(super) struct PagingStructureCaches {
    /// `entries_each` slots for each of [`LEVELS`].
    slots: Vec<Option<Cached>>,
    entries_each: usize,
    /// Slot to give up next.
    oldest: [usize; LEVELS],
}

/// An entry that references a table, and what it and those above it denied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cached {
    pub(super) tag: Tag,
    pub(super) level: u8,
    prefix: u64,
    table: Gpa,
    denied: u64,
}

impl PagingStructureCaches {
    pub(super) fn new(entries_each: usize) -> Self {
        Self {
            slots: vec![None; entries_each * LEVELS],
            entries_each,
            oldest: [0; LEVELS],
        }
    }

    /// The deepest place where a walk of `gva` may begin.
    pub(super) fn deepest(&self, tag: Tag, gva: Gva) -> Option<Start<u64>> {
        let known = self.slots.iter().flatten();
        known
            .filter(|cached| cached.tag == tag && cached.covers(gva))
            .min_by_key(|cached| cached.level)
            .map(|cached| Start {
                level: cached.level - 1,
                table: cached.table,
                denied: cached.denied,
            })
    }

    /// Keeps an entry of `level` that references `table`.
    pub(super) fn insert(&mut self, tag: Tag, gva: Gva, level: u8, table: Gpa, denied: u64) {
        if self.entries_each == 0 {
            return;
        }
        let cached = Cached {
            tag,
            level,
            prefix: gva.0 >> shift(level),
            table,
            denied,
        };
        let row = usize::from(level) - 2;
        let slots = &mut self.slots[row * self.entries_each..][..self.entries_each];
        let same = |slot: &Option<Cached>| {
            slot.is_some_and(|other| other.tag == tag && other.prefix == cached.prefix)
        };
        let slot = slots.iter().position(same).unwrap_or_else(|| {
            let slot = self.oldest[row];
            self.oldest[row] = (slot + 1) % self.entries_each;
            slot
        });
        slots[slot] = Some(cached);
    }

    /// Forgets what `goes` says.
    pub(super) fn forget(&mut self, goes: impl Fn(&Cached) -> bool) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(&goes) {
                *slot = None;
            }
        }
    }
}

impl Cached {
    pub(super) fn covers(&self, gva: Gva) -> bool {
        gva.0 >> shift(self.level) == self.prefix
    }
}

fn shift(level: u8) -> u32 {
    3 + 9 * u32::from(level)
}

/// Levels 2 to 5.
const LEVELS: usize = 4;
