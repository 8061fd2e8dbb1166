//! A cache of guest physical addresses: what a stage has translated before.

use std::cell::{Cell, RefCell};

use crate::nested::{Mapping, Purpose, StageAccess, StageFault, Structures};
use crate::{Gpa, Observer, TableMemory, WalkError};

/// A stage's structures with a direct-mapped cache of guest-physical mappings before them (SDM
/// 28.4.1).
///
/// A mapping is kept for accesses of the same sort only, so that one which was read is walked again
/// when it is first written, and marked dirty then.
#[derive(Debug)]
pub struct StageCache<'s, S> {
    structures: &'s S,
    slots: RefCell<Vec<Option<Slot>>>,
    hits: Cell<u64>,
    walks: Cell<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    page: u64,
    access: StageAccess,
    frame: Gpa,
    inside_bits: u8,
}

impl<'s, S> StageCache<'s, S> {
    /// An empty cache of so many slots before `structures`.
    ///
    /// # Panics
    ///
    /// Panics if `slots` is not a power of two.
    pub fn new(structures: &'s S, slots: usize) -> Self {
        assert!(slots.is_power_of_two(), "the slots are a power of two");
        Self {
            structures,
            slots: RefCell::new(vec![None; slots]),
            hits: Cell::new(0),
            walks: Cell::new(0),
        }
    }

    /// INVEPT, or a flush of the ASID: forgets everything.
    pub fn invalidate(&self) {
        self.slots.borrow_mut().fill(None);
    }

    /// Translations that the cache gave.
    pub fn hits(&self) -> u64 {
        self.hits.get()
    }

    /// Translations that needed a walk.
    pub fn walks(&self) -> u64 {
        self.walks.get()
    }

    fn slot(&self, input: Gpa, access: StageAccess) -> usize {
        let purpose = match access.purpose {
            Purpose::Translated => 0,
            Purpose::Table => 1,
            Purpose::Physical => 2,
        };
        let sort = access.kind as u64 * 3 + purpose;
        let spread = (input.0 >> 12 << 4 | sort).wrapping_mul(GOLDEN) >> 32;
        let slots = self.slots.borrow().len();
        usize::try_from(spread).unwrap_or(0) & (slots - 1)
    }
}

impl<S: Structures> Structures for StageCache<'_, S> {
    fn walk<M: TableMemory, O: Observer, const MARKING: bool>(
        &self,
        memory: &M,
        input: Gpa,
        access: StageAccess,
        observer: &mut O,
    ) -> Result<Mapping, WalkError<StageFault, M::Error>> {
        let (page, index) = (input.0 & !0xfff, self.slot(input, access));
        let kept = self.slots.borrow()[index];
        if let Some(slot) = kept.filter(|slot| slot.page == page && slot.access == access) {
            self.hits.set(self.hits.get() + 1);
            return Ok(Mapping {
                address: Gpa(slot.frame.0 | input.0 & 0xfff),
                inside_bits: slot.inside_bits,
            });
        }
        self.walks.set(self.walks.get() + 1);
        let walked = self.structures;
        let mapping = walked.walk::<M, O, MARKING>(memory, input, access, observer)?;
        // A walk that marks nothing gives no leave for one that should have.
        if MARKING {
            self.slots.borrow_mut()[index] = Some(Slot {
                page,
                access,
                frame: Gpa(mapping.address.0 & !0xfff),
                inside_bits: mapping.inside_bits,
            });
        }
        Ok(mapping)
    }
}

/// 2^64 over the golden ratio, which spreads neighbours (Knuth, volume 3, 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
