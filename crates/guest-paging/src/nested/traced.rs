//! Traces on guest physical pages under nested paging.

use std::cell::RefCell;
use std::ops::Range;

use super::{Mapping, Purpose, StageAccess, StageFault, Structures};
use crate::shadow::Trace;
use crate::x86::AccessKind;
use crate::{Gpa, Observer, TableMemory, WalkError};

/// A stage's structures as if the entries of traced pages were absent, or read-only.
///
/// The structures themselves stay as they are, so that taking a trace away costs nothing; a processor
/// that walks them alone does not see the traces. What is cached of the stage must be flushed when a
/// page is traced.
#[derive(Debug)]
pub struct Traced<'s, S> {
    structures: &'s S,
    traces: RefCell<Vec<(Range<Gpa>, Trace)>>,
}

impl<'s, S> Traced<'s, S> {
    /// Traces nothing yet.
    pub fn new(structures: &'s S) -> Self {
        Self {
            structures,
            traces: RefCell::default(),
        }
    }

    /// Traces every page that has a byte in `range`.
    pub fn trace(&self, range: Range<Gpa>, kind: Trace) {
        let whole = Gpa(range.start.0 & !0xfff)..Gpa(range.end.0.next_multiple_of(4096));
        self.traces.borrow_mut().push((whole, kind));
    }

    /// Takes one such trace away; says whether there was one.
    pub fn untrace(&self, range: &Range<Gpa>, kind: Trace) -> bool {
        let whole = Gpa(range.start.0 & !0xfff)..Gpa(range.end.0.next_multiple_of(4096));
        let mut traces = self.traces.borrow_mut();
        let found = traces
            .iter()
            .position(|trace| *trace == (whole.clone(), kind));
        found.map(|index| traces.swap_remove(index)).is_some()
    }

    fn stops(&self, input: Gpa, access: StageAccess) -> bool {
        let writes = access.kind == AccessKind::Write;
        self.traces
            .borrow()
            .iter()
            .any(|(range, kind)| range.contains(&input) && (writes || *kind == Trace::ReadWrite))
    }
}

impl<S: Structures> Structures for Traced<'_, S> {
    fn walk<M: TableMemory, O: Observer, const MARKING: bool>(
        &self,
        memory: &M,
        input: Gpa,
        access: StageAccess,
        observer: &mut O,
    ) -> Result<Mapping, WalkError<StageFault, M::Error>> {
        if self.stops(input, access) {
            return Err(WalkError::Fault(StageFault::Traced { gpa: input, access }));
        }
        self.structures
            .walk::<M, O, MARKING>(memory, input, access, observer)
    }
}

/// What a trace stopped, for the message of a fault.
pub(super) fn describe(access: StageAccess) -> &'static str {
    match (access.purpose, access.kind) {
        (Purpose::Table, _) => "an access to a table",
        (_, AccessKind::Read) => "a read",
        (_, AccessKind::Write) => "a write",
        (_, AccessKind::Fetch) => "a fetch",
    }
}
