//! Listing what a walk does to memory.

use crate::Gpa;

/// Is told every memory reference of a walk, in order.
///
/// `()` listens to nothing and costs nothing: the calls are compiled out. A `Vec<Reference>`
/// keeps them all.
pub trait Observer {
    /// Called after the reference was made; not for one that no memory answered.
    fn reference(&mut self, reference: Reference);

    /// Whether [`reference`](Self::reference) must be called at all. A walk that nobody listens to
    /// may take a shorter way to the same end.
    #[inline]
    fn listens(&self) -> bool {
        true
    }
}

/// One access of a walk to one paging-structure entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Reference {
    /// Which paging structures of a nested walk the entry belongs to: 0 are the guest's own, 1 those
    /// that translate guest physical addresses, and so on. Always 0 in a walk that is not nested.
    pub dimension: u8,
    /// Level of the entry, counted from the leaf: 1 is a page-table entry, 4 a PML4E.
    pub level: u8,
    /// Where the entry lies.
    pub at: Gpa,
    /// What the entry held; 32-bit entries are zero-extended.
    pub entry: u64,
    /// What was done to it.
    pub kind: ReferenceKind,
}

/// What a [`Reference`] did to its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReferenceKind {
    /// A plain load.
    Load,
    /// A locked compare-exchange that found the entry unchanged and wrote this value over it.
    Update(u64),
    /// A locked compare-exchange that found another value, [`Reference::entry`], and wrote nothing.
    LostUpdate,
}

impl Observer for () {
    #[inline(always)]
    fn reference(&mut self, _: Reference) {}

    #[inline(always)]
    fn listens(&self) -> bool {
        false
    }
}

impl Observer for Vec<Reference> {
    fn reference(&mut self, reference: Reference) {
        self.push(reference);
    }
}

impl<O: Observer + ?Sized> Observer for &mut O {
    #[inline(always)]
    fn reference(&mut self, reference: Reference) {
        (**self).reference(reference);
    }

    #[inline(always)]
    fn listens(&self) -> bool {
        (**self).listens()
    }
}
