//! Where translated code calls the interpreter, in one number that is part of the code.

use super::UnitId;

/// A unit's instruction, how far the interpreter goes on from it, and whether it has no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site(pub(super) u32);

impl Site {
    /// Most units that numbers reach for.
    pub(super) const UNITS_MAX: usize = 1 << (31 - UNIT);

    /// Instructions `first` to before `end` of a unit; a block has fewer than 64.
    pub(super) fn new(unit: UnitId, first: usize, end: usize, untranslated: bool) -> Self {
        debug_assert!(first < end && end < 1 << OP_BITS && (unit.0 as usize) < Self::UNITS_MAX);
        let numbers = (end << OP_BITS | first) as u32;
        Self(unit.0 << UNIT | u32::from(untranslated) << UNTRANSLATED | numbers)
    }

    pub(super) fn unit(self) -> UnitId {
        UnitId(self.0 >> UNIT)
    }

    pub(super) fn first(self) -> usize {
        self.0 as usize & OP_MASK
    }

    pub(super) fn end(self) -> usize {
        (self.0 >> OP_BITS) as usize & OP_MASK
    }

    pub(super) fn is_untranslated(self) -> bool {
        self.0 >> UNTRANSLATED & 1 != 0
    }
}

const OP_BITS: u32 = 6;
const OP_MASK: usize = (1 << OP_BITS) - 1;
const UNTRANSLATED: u32 = 2 * OP_BITS;
const UNIT: u32 = UNTRANSLATED + 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_gives_back_what_it_is_made_of() {
        let last = UnitId(u32::try_from(Site::UNITS_MAX - 1).unwrap());
        for (unit, first, end, untranslated) in [
            (UnitId(0), 0, 1, false),
            (last, 47, 48, true),
            (UnitId(5), 3, 9, true),
        ] {
            let site = Site::new(unit, first, end, untranslated);
            assert_eq!((site.unit(), site.first(), site.end()), (unit, first, end));
            assert_eq!(site.is_untranslated(), untranslated);
            assert!(site.0 <= i32::MAX.cast_unsigned(), "stored sign-extended");
        }
    }
}
