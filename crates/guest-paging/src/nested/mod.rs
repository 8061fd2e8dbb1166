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

pub use composed::{
    Composable, Composed, ComposedCounters, ComposedEpt, ComposedNpt, ComposedTables, Part,
};
pub use control::{
    ControlBlock, ControlBlocks, ControlCounters, Operation, STATE_WORDS, Shadowing,
};
pub use failure::{Cause, Failure, StageFault};
pub use stage::{Ground, Layer, Mapping, Purpose, Stage, StageAccess, Structures};
pub use trace::Trace;
pub use traced::Traced;

use crate::x86::{self, Attributes};
use crate::{Gpa, Observer, Paging, arm, probe as probe_guest, walk as walk_guest};

#[cfg(doc)]
use crate::TableMemory;

/// The guest's own paging, at the top of a stack: [`x86::Context`], or [`arm::Context`] for stage 1.
pub trait GuestPaging: Paging<Access: Copy> {
    /// The address that a translation leads to, and the access to it that a stage sees.
    fn to_stage(translation: &Self::Translation, access: Self::Access) -> (Gpa, StageAccess);
}

impl GuestPaging for x86::Context {
    #[inline(always)]
    fn to_stage(guest: &x86::Translation, access: x86::Access) -> (Gpa, StageAccess) {
        let access = StageAccess {
            kind: access.kind,
            purpose: Purpose::Translated,
            user_address: guest.attributes.contains(Attributes::USER),
        };
        (guest.gpa, access)
    }
}

impl GuestPaging for arm::Context {
    fn to_stage(guest: &arm::Translation, access: arm::Access) -> (Gpa, StageAccess) {
        let access = StageAccess {
            kind: access.kind,
            purpose: Purpose::Translated,
            user_address: access.el0,
        };
        (guest.address, access)
    }
}

/// Where a guest virtual address leads, through all dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nested<T = x86::Translation> {
    /// What the guest's own tables say.
    pub guest: T,
    /// The address on the ground, the last of the stack.
    pub address: Gpa,
}

/// What a nested walk of `C` over `L` gives.
pub type Walked<C, L> = Result<Nested<<C as Paging>::Translation>, Failure<<L as Layer>::Bottom>>;

/// Translates `input` for `access` through the guest's tables and then through every stage of `stack`,
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
pub fn walk<L: Layer, C: GuestPaging, O: Observer>(
    stack: &L,
    context: &C,
    input: C::Input,
    access: C::Access,
    observer: &mut O,
) -> Walked<C, L>
where
    Cause<L::Bottom>: From<C::Fault>,
{
    let guest = walk_guest(stack, context, input, access, observer);
    finish::<L, C>(stack, guest.map_err(Failure::of_guest_walk)?, access)
}

/// As [`walk`], but writes nothing to the guest's tables. The stages must have been made with
/// [`Stage::probing`] if nothing at all is to be written.
///
/// # Errors
///
/// As [`walk`].
#[inline]
pub fn probe<L: Layer, C: GuestPaging, O: Observer>(
    stack: &L,
    context: &C,
    input: C::Input,
    access: C::Access,
    observer: &mut O,
) -> Walked<C, L>
where
    Cause<L::Bottom>: From<C::Fault>,
{
    let guest = probe_guest(stack, context, input, access, observer);
    finish::<L, C>(stack, guest.map_err(Failure::of_guest_walk)?, access)
}

#[inline(always)]
fn finish<L: Layer, C: GuestPaging>(
    stack: &L,
    guest: C::Translation,
    access: C::Access,
) -> Walked<C, L> {
    let (gpa, access) = C::to_stage(&guest, access);
    let address = stack.descend(gpa, access)?;
    Ok(Nested { guest, address })
}
