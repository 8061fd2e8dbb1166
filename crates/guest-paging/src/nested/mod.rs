//! Nested walks: paging structures that lie in memory which is itself translated.
//!
//! A stack is built from the ground up. [`Ground`] is real memory; each [`Stage`] over it translates
//! the addresses of all that lies above, and is a [`TableMemory`] whose entries are reached through
//! it. So guest tables over EPT are a walk of two dimensions, over EPT over EPT one of three. A stack
//! with n, m, ... levels makes (n + 1)(m + 1)... - 1 references: 24 for 4 and 4, 35 for 5 and 5.

mod composed;
mod control;
mod failure;
mod stage;
mod trace;
mod traced;

pub use composed::{Composed, ComposedCounters, ComposedEpt};
pub use control::{
    ControlBlock, ControlBlocks, ControlCounters, Operation, STATE_WORDS, Shadowing,
};
pub use failure::{Cause, Failure, StageFault};
pub use stage::{Ground, Layer, Mapping, Purpose, Stage, StageAccess, Structures};
pub use trace::Trace;
pub use traced::Traced;

use crate::x86::{self, Access, Attributes, Context, Translation};
use crate::{Gpa, Gva, Observer};

#[cfg(doc)]
use crate::TableMemory;

/// Where a guest virtual address leads, through all dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nested {
    /// What the guest's own tables say.
    pub guest: Translation,
    /// The address on the ground, the last of the stack.
    pub address: Gpa,
}

/// Translates `gva` for `access` through the guest's tables and then through every stage of `stack`,
/// as the processor does, setting the accessed and dirty flags of each dimension.
///
/// `observer` is told of the guest's own entries; those of a stage go to that stage's observer.
/// A flag that must be set is a second reference, and its address is translated again: a processor
/// keeps that translation.
///
/// # Errors
///
/// Returns the first failure in the order of the references, with the dimension it belongs to.
#[inline]
pub fn walk<L: Layer, O: Observer>(
    stack: &L,
    context: &Context,
    gva: Gva,
    access: Access,
    observer: &mut O,
) -> Result<Nested, Failure<L::Bottom>> {
    let guest = x86::walk(stack, context, gva, access, observer).map_err(Failure::of_guest_walk)?;
    finish(stack, guest, access)
}

/// As [`walk`], but writes nothing to the guest's tables. The stages must have been made with
/// [`Stage::probing`] if nothing at all is to be written.
///
/// # Errors
///
/// As [`walk`].
#[inline]
pub fn probe<L: Layer, O: Observer>(
    stack: &L,
    context: &Context,
    gva: Gva,
    access: Access,
    observer: &mut O,
) -> Result<Nested, Failure<L::Bottom>> {
    let guest =
        x86::probe(stack, context, gva, access, observer).map_err(Failure::of_guest_walk)?;
    finish(stack, guest, access)
}

#[inline(always)]
fn finish<L: Layer>(
    stack: &L,
    guest: Translation,
    access: Access,
) -> Result<Nested, Failure<L::Bottom>> {
    let access = StageAccess {
        kind: access.kind,
        purpose: Purpose::Translated,
        user_address: guest.attributes.contains(Attributes::USER),
    };
    let address = stack.descend(guest.gpa, access)?;
    Ok(Nested { guest, address })
}
