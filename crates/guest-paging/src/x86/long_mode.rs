//! 4-level and 5-level paging (SDM 4.5).
#![expect(
    clippy::cast_possible_truncation,
    reason = "attribute bits are the low byte of what is shifted down"
)]

use super::access::{Access, AccessKind};
use super::context::Context;
use super::fault::PageFault;
use super::spec::{ACCESSED, DIRTY, EASY};
use super::translation::{Attributes, Translation};
use crate::format::Format;
use crate::{Gpa, nine_bits};

/// Paging with 64-bit entries of nine index bits a level.
pub(crate) struct LongMode<const LEVELS: u8>;

impl<const LEVELS: u8> Format for LongMode<LEVELS> {
    type Context = Context;
    type Entry = u64;
    type Access = Access;
    type Translation = Translation;
    type Fault = PageFault;

    const NOTHING_DENIED: u64 = 0;

    #[inline(always)]
    fn root(context: &Context, _: u64, _: Access) -> Result<(u8, Gpa), PageFault> {
        Ok((LEVELS, context.root()))
    }

    #[inline(always)]
    fn offset(input: u64, level: u8) -> u64 {
        nine_bits::offset(input, level)
    }

    #[inline(always)]
    fn passes(context: &Context, marking: bool, level: u8, entry: u64) -> bool {
        passes(context, marking, level, entry)
    }

    fn refusal(
        context: &Context,
        input: u64,
        level: u8,
        entry: u64,
        access: Access,
    ) -> Option<PageFault> {
        refusal(context, input, level, entry, access)
    }

    #[inline(always)]
    fn is_leaf(_: &Context, level: u8, entry: u64) -> bool {
        nine_bits::is_leaf(level, entry)
    }

    #[inline(always)]
    fn table(entry: u64) -> Gpa {
        nine_bits::table(entry)
    }

    #[inline(always)]
    fn deny(denied: u64, _: u8, entry: u64) -> u64 {
        deny(denied, entry)
    }

    #[inline(always)]
    fn permits(context: &Context, denied: u64, leaf: u64, access: Access) -> bool {
        context.rights_permit(attribute_bits(denied), context.key_of(leaf), access)
    }

    #[cold]
    fn denial(context: &Context, input: u64, denied: u64, leaf: u64, access: Access) -> PageFault {
        context.denial(input, attribute_bits(denied), context.key_of(leaf), access)
    }

    fn mark_table(entry: u64) -> u64 {
        entry | ACCESSED
    }

    #[inline(always)]
    fn mark_leaf(leaf: u64, access: Access) -> u64 {
        mark_leaf(leaf, access)
    }

    #[inline(always)]
    fn translation(
        context: &Context,
        input: u64,
        level: u8,
        denied: u64,
        leaf: u64,
    ) -> Translation {
        translation(context, input, level, denied, leaf, context.key_of(leaf))
    }
}

// What PAE paging shares, since its entries are the same but for the PDPTE.

#[inline(always)]
pub(super) fn passes(context: &Context, marking: bool, level: u8, entry: u64) -> bool {
    if marking {
        context.is_valid_and_accessed(level, entry)
    } else {
        context.is_valid(level, entry)
    }
}

pub(super) fn refusal(
    context: &Context,
    input: u64,
    level: u8,
    entry: u64,
    access: Access,
) -> Option<PageFault> {
    (!context.is_valid(level, entry)).then(|| context.refusal(input, entry, access))
}

/// R/W and U/S deny where they are clear, XD where it is set. The other bits of the result mean
/// nothing.
#[inline(always)]
pub(crate) fn deny(denied: u64, entry: u64) -> u64 {
    denied | (entry ^ EASY)
}

/// XD, R/W and U/S at the places where [`Attributes`] has them: one rotation brings them there.
#[inline(always)]
pub(super) fn attribute_bits(denied: u64) -> u8 {
    !denied.rotate_left(1) as u8 & RIGHTS
}

#[inline(always)]
pub(super) fn mark_leaf(leaf: u64, access: Access) -> u64 {
    match access.kind {
        AccessKind::Write => leaf | ACCESSED | DIRTY,
        AccessKind::Read | AccessKind::Fetch => leaf | ACCESSED,
    }
}

#[inline(always)]
pub(super) fn translation(
    context: &Context,
    input: u64,
    level: u8,
    denied: u64,
    leaf: u64,
    key: u8,
) -> Translation {
    let (gpa, size) = nine_bits::page(level, leaf, input);
    Translation {
        gpa,
        size,
        attributes: context.attributes(attribute_bits(denied) | leaf_bits(leaf)),
        key,
    }
}

/// D and G at the places where [`Attributes`] has them.
#[inline(always)]
pub(super) fn leaf_bits(leaf: u64) -> u8 {
    let dirty = leaf as u8 & Attributes::DIRTY.bits();
    let global = (leaf >> 1) as u8 & Attributes::GLOBAL.bits();
    dirty | global
}

const RIGHTS: u8 = Attributes::EXECUTE.bits() | Attributes::WRITE.bits() | Attributes::USER.bits();
