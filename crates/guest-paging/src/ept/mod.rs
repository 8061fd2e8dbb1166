//! EPT: the extended page tables of VMX, which translate guest physical addresses (SDM 3C, 28.3).

mod context;
mod fault;
mod format;

pub use context::{Capabilities, Context};
pub use fault::{Fault, Qualification};
pub use format::{MemoryType, Rights, Translation};

use crate::nested::{Mapping, StageAccess, StageFault, Structures};
use crate::walk as generic;
use crate::{Gpa, Observer, Place, TableMemory, WalkError};
use format::{Ept, Request};

/// Translates `gpa` for `access` as the processor does. If the EPTP enables accessed and dirty flags,
/// they are set: accessed in every entry used, dirty in the leaf for a write (SDM 28.3.5).
///
/// Makes at most 5 loads and 5 updates, [`RESTARTS_MAX`](crate::RESTARTS_MAX) times.
///
/// # Errors
///
/// Returns the EPT violation or misconfiguration, the entry that no memory backs, or
/// [`WalkError::Contended`].
pub fn walk<M: TableMemory, O: Observer>(
    memory: &M,
    context: &Context,
    gpa: Gpa,
    access: StageAccess,
    observer: &mut O,
) -> Result<Translation, WalkError<Fault, M::Error>> {
    walk_in_format::<M, O, true>(memory, context, gpa, access, observer)
}

/// Translates `gpa` for `access` without writing anything.
///
/// # Errors
///
/// As [`walk`], except that [`WalkError::Contended`] cannot happen.
pub fn probe<M: TableMemory, O: Observer>(
    memory: &M,
    context: &Context,
    gpa: Gpa,
    access: StageAccess,
    observer: &mut O,
) -> Result<Translation, WalkError<Fault, M::Error>> {
    walk_in_format::<M, O, false>(memory, context, gpa, access, observer)
}

fn walk_in_format<M: TableMemory, O: Observer, const MARKING: bool>(
    memory: &M,
    context: &Context,
    gpa: Gpa,
    access: StageAccess,
    observer: &mut O,
) -> Result<Translation, WalkError<Fault, M::Error>> {
    let request = Request::new(context, access);
    match context.levels() {
        4 => generic::walk::<Ept<4>, M, O, MARKING>(memory, context, gpa.0, request, observer),
        _ => generic::walk::<Ept<5>, M, O, MARKING>(memory, context, gpa.0, request, observer),
    }
}

impl Structures for Context {
    #[inline]
    fn walk<M: TableMemory, O: Observer, const MARKING: bool>(
        &self,
        memory: &M,
        input: Gpa,
        access: StageAccess,
        observer: &mut O,
    ) -> Result<Mapping, WalkError<StageFault, M::Error>> {
        walk_in_format::<M, O, MARKING>(memory, self, input, access, observer)
            .map(|translation| Mapping {
                address: translation.address,
                size: translation.size,
            })
            .map_err(|error| error.map_fault(StageFault::Ept))
    }

    #[inline(always)]
    fn glance<M: TableMemory, const MARKING: bool>(
        &self,
        memory: &M,
        place: Place,
        input: Gpa,
        access: StageAccess,
    ) -> Option<Gpa> {
        let request = Request::new(self, access);
        let glanced = if self.levels() == 4 {
            generic::glance::<Ept<4>, M, MARKING>(memory, place, self, input.0, request)
        } else {
            glance_5_levels::<M, MARKING>(memory, place, self, input, request)
        };
        glanced.map(|translation| translation.address)
    }
}

/// Apart, so as not to burden the walk of 4 levels.
#[inline(never)]
fn glance_5_levels<M: TableMemory, const MARKING: bool>(
    memory: &M,
    place: Place,
    context: &Context,
    input: Gpa,
    request: Request,
) -> Option<Translation> {
    generic::glance::<Ept<5>, M, MARKING>(memory, place, context, input.0, request)
}
