//! The x86 formats: 32-bit, PAE, 4-level and 5-level paging.
//!
//! Section numbers are those of the Intel SDM, volume 3A, and of the AMD APM, volume 2.

mod access;
mod context;
mod fault;
mod legacy;
pub(crate) mod long_mode;
mod pae;
mod permission;
pub mod spec;
mod translation;

pub use access::{Access, AccessKind, Privilege};
pub use context::{Context, PagingMode, Pdptes, Processor, Registers, Vendor};
pub use fault::{ErrorCode, PageFault};
pub use translation::{Attributes, PageSize, Translation};

use crate::walk as generic;
use crate::{Gva, Observer, Paging, Place, TableMemory, WalkError};
pub use crate::{probe, walk};
use legacy::Legacy;
use long_mode::LongMode;
pub use pae::{PdpteError, load_pdptes};

use pae::Pae;

/// A table-referencing entry is marked as accessed when the walk passes it, also when a later entry
/// then faults; the leaf is marked, as accessed and for a write as dirty, only after the access was
/// found to be permitted (SDM 4.8, and the footnote to #PF in 6.15).
///
/// In 4-level and 5-level paging an address must be canonical: that check, and its #GP or #SS, are the
/// caller's. In 32-bit and PAE paging, and with paging off, only the low 32 bits count.
impl Paging for Context {
    type Input = Gva;
    type Access = Access;
    type Translation = Translation;
    type Fault = PageFault;

    /// 4-level paging goes first and inline; the others are a call away, so as not to burden it.
    #[inline(always)]
    fn translate<M: TableMemory, O: Observer, const MARKING: bool>(
        &self,
        memory: &M,
        gva: Gva,
        access: Access,
        observer: &mut O,
    ) -> Result<Translation, WalkError<PageFault, M::Error>> {
        if self.mode() == PagingMode::FourLevel {
            generic::walk::<LongMode<4>, M, O, MARKING>(memory, self, gva.0, access, observer)
        } else {
            walk_in_other_mode::<M, O, MARKING>(memory, self, gva, access, observer)
        }
    }

    /// Only in 4-level paging.
    #[inline(always)]
    fn glance<M: TableMemory, const MARKING: bool>(
        &self,
        memory: &M,
        place: Place,
        gva: Gva,
        access: Access,
    ) -> Option<Translation> {
        if self.mode() == PagingMode::FourLevel {
            generic::glance::<LongMode<4>, M, MARKING>(memory, place, self, gva.0, access)
        } else {
            None
        }
    }
}

/// As [`walk`] in 4-level and 5-level paging, but begins at an entry below the root.
pub(crate) fn walk_from<M: TableMemory, O: Observer>(
    memory: &M,
    context: &Context,
    gva: Gva,
    access: Access,
    observer: &mut O,
    start: generic::Start<u64>,
) -> Result<Translation, WalkError<PageFault, M::Error>> {
    // Below the root the two formats are one.
    let start = Some(start);
    generic::walk_from::<LongMode<5>, M, O, true>(memory, context, gva.0, access, observer, start)
}

#[inline(never)]
fn walk_in_other_mode<M: TableMemory, O: Observer, const MARKING: bool>(
    memory: &M,
    context: &Context,
    gva: Gva,
    access: Access,
    observer: &mut O,
) -> Result<Translation, WalkError<PageFault, M::Error>> {
    let gva = gva.0;
    match context.mode() {
        PagingMode::Off => Ok(Translation::identity(gva)),
        PagingMode::Legacy => {
            generic::walk::<Legacy, M, O, MARKING>(memory, context, gva, access, observer)
        }
        PagingMode::Pae => {
            generic::walk::<Pae, M, O, MARKING>(memory, context, gva, access, observer)
        }
        PagingMode::FourLevel => unreachable!("the caller walks four levels itself"),
        PagingMode::FiveLevel => {
            generic::walk::<LongMode<5>, M, O, MARKING>(memory, context, gva, access, observer)
        }
    }
}
