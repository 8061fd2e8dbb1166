//! The guest's entries on the way to a page, as the walk saw them.

use crate::{Gpa, Observer, Reference, ReferenceKind};

/// The last entry seen of each level.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Path {
    at: [u64; 6],
    entries: [u64; 6],
    lowest: u8,
}

impl Path {
    /// Level of the leaf.
    pub(super) fn leaf_level(&self) -> u8 {
        self.lowest
    }

    pub(super) fn entry(&self, level: u8) -> u64 {
        self.entries[usize::from(level)]
    }

    /// The table that the entry of `level` lies in.
    pub(super) fn table(&self, level: u8) -> Gpa {
        Gpa(self.at[usize::from(level)] & !0xfff)
    }
}

impl Observer for Path {
    fn reference(&mut self, reference: Reference) {
        let level = usize::from(reference.level);
        self.at[level] = reference.at.0;
        self.entries[level] = match reference.kind {
            ReferenceKind::Update(written) => written,
            ReferenceKind::Load | ReferenceKind::LostUpdate => reference.entry,
        };
        self.lowest = reference.level;
    }
}
