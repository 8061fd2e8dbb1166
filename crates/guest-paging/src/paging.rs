//! The two ways to walk, for every format.

use crate::{Observer, Place, TableMemory, WalkError};

/// Everything a walk of one format's paging structures needs besides memory: the registers, decided in
/// advance.
///
/// What [`walk`] and [`probe`] need to know; call those.
pub trait Paging {
    /// The addresses that the structures translate.
    type Input;
    /// What is to be done at an address.
    type Access;
    /// What the structures say of an address.
    type Translation;
    /// What happens where they do not let an access through.
    type Fault;

    /// Translates `input`. `MARKING` walks set accessed and dirty flags, others only read.
    ///
    /// # Errors
    ///
    /// As [`walk`].
    fn translate<M: TableMemory, O: Observer, const MARKING: bool>(
        &self,
        memory: &M,
        input: Self::Input,
        access: Self::Access,
        observer: &mut O,
    ) -> Result<Self::Translation, WalkError<Self::Fault, M::Error>>;

    /// Translates `input` if all entries lie in `place`, let the access through and need no mark.
    /// `None` says nothing.
    #[inline(always)]
    fn glance<M: TableMemory, const MARKING: bool>(
        &self,
        memory: &M,
        place: Place,
        input: Self::Input,
        access: Self::Access,
    ) -> Option<Self::Translation> {
        let _ = (memory, place, input, access);
        None
    }
}

/// Translates `input` for `access` as the hardware does, setting the accessed and dirty flags that the
/// format has and the registers enable.
///
/// Makes as many loads as the structures have levels, and as many updates at most;
/// [`RESTARTS_MAX`](crate::RESTARTS_MAX) times.
///
/// # Errors
///
/// Returns the fault to deliver, the entry that no memory backs, or [`WalkError::Contended`].
#[inline]
pub fn walk<C: Paging, M: TableMemory, O: Observer>(
    memory: &M,
    context: &C,
    input: C::Input,
    access: C::Access,
    observer: &mut O,
) -> Result<C::Translation, WalkError<C::Fault, M::Error>> {
    context.translate::<M, O, true>(memory, input, access, observer)
}

/// Translates `input` for `access` without writing anything, for debuggers and look-ahead.
///
/// # Errors
///
/// As [`walk`], except that [`WalkError::Contended`] cannot happen.
#[inline]
pub fn probe<C: Paging, M: TableMemory, O: Observer>(
    memory: &M,
    context: &C,
    input: C::Input,
    access: C::Access,
    observer: &mut O,
) -> Result<C::Translation, WalkError<C::Fault, M::Error>> {
    context.translate::<M, O, false>(memory, input, access, observer)
}
