//! One list of the references of all dimensions.

use std::cell::RefCell;

use crate::{Observer, Reference};

/// Keeps every reference of a nested walk in order. All stages share it: `&Trace` is the observer.
#[derive(Debug, Default)]
pub struct Trace(RefCell<Vec<Reference>>);

impl Trace {
    /// The references so far, which are taken out.
    pub fn take(&self) -> Vec<Reference> {
        self.0.take()
    }
}

impl Observer for &Trace {
    fn reference(&mut self, reference: Reference) {
        self.0.borrow_mut().push(reference);
    }
}

/// Writes a dimension into each reference.
pub(super) struct InDimension<O>(pub(super) u8, pub(super) O);

impl<O: Observer> Observer for InDimension<O> {
    #[inline(always)]
    fn reference(&mut self, reference: Reference) {
        self.1.reference(Reference {
            dimension: self.0,
            ..reference
        });
    }

    #[inline(always)]
    fn listens(&self) -> bool {
        self.1.listens()
    }
}
