//! EPT: the extended page tables of VMX, which translate guest physical addresses (SDM 3C, 28.3).

mod context;
mod fault;
mod format;

pub use context::{Capabilities, Context};
pub use fault::{Fault, Qualification};
pub use format::{MemoryType, Rights, Translation};

use crate::nested::{Mapping, StageAccess};
use crate::walk as generic;
use crate::{Gpa, Observer, Paging, Place, TableMemory, WalkError};
pub use crate::{probe, walk};
use format::{Ept, Request};

impl Paging for Context {
    type Input = Gpa;
    type Access = StageAccess;
    type Translation = Translation;
    type Fault = Fault;

    /// If the EPTP enables accessed and dirty flags, they are set: accessed in every entry used, dirty
    /// in the leaf for a write (SDM 28.3.5).
    #[inline]
    fn translate<M: TableMemory, O: Observer, const MARKING: bool>(
        &self,
        memory: &M,
        gpa: Gpa,
        access: StageAccess,
        observer: &mut O,
    ) -> Result<Translation, WalkError<Fault, M::Error>> {
        let request = Request::new(self, access);
        match self.levels() {
            4 => generic::walk::<Ept<4>, M, O, MARKING>(memory, self, gpa.0, request, observer),
            _ => generic::walk::<Ept<5>, M, O, MARKING>(memory, self, gpa.0, request, observer),
        }
    }

    #[inline(always)]
    fn glance<M: TableMemory, const MARKING: bool>(
        &self,
        memory: &M,
        place: Place,
        gpa: Gpa,
        access: StageAccess,
    ) -> Option<Translation> {
        let request = Request::new(self, access);
        if self.levels() == 4 {
            generic::glance::<Ept<4>, M, MARKING>(memory, place, self, gpa.0, request)
        } else {
            glance_5_levels::<M, MARKING>(memory, place, self, gpa, request)
        }
    }
}

/// Apart, so as not to burden the walk of 4 levels.
#[inline(never)]
fn glance_5_levels<M: TableMemory, const MARKING: bool>(
    memory: &M,
    place: Place,
    context: &Context,
    gpa: Gpa,
    request: Request,
) -> Option<Translation> {
    generic::glance::<Ept<5>, M, MARKING>(memory, place, context, gpa.0, request)
}

impl From<Translation> for Mapping {
    #[inline(always)]
    fn from(translation: Translation) -> Self {
        Self {
            address: translation.address,
            inside_bits: translation.size as u8,
        }
    }
}
