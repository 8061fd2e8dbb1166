//! Direct paging: the guest's own tables, which lead to machine frames and are validated by the
//! monitor instead of being shadowed (Barham et al., "Xen and the Art of Virtualization", SOSP 2003,
//! 3.3.3).
//!
//! The guest may read its tables but never write to them; it asks for updates, in batches. Each frame
//! has one type at a time, held by references: a frame that is a table has no writable mapping, and
//! one with writable mappings is no table. The processor walks the guest's tables themselves, so a
//! fault costs nothing extra, and a guest costs the monitor [`Direct::state_bytes`].

mod validate;

use crate::address::Hpa;
use crate::x86::spec::{ADDRESS, NO_EXECUTE, PAGE_SIZE, PRESENT, USER, WRITE};
use crate::{Gva, TableMemory};

/// What a frame may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameType {
    /// Nothing in particular: it may become a table, or writable.
    None,
    /// Writable mappings of it exist.
    Writable,
    /// A table of this level: 1 to 4.
    Table(u8),
}

/// One update of an entry (Xen: `mmu_update`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Update {
    /// Where the entry lies; aligned to 8 bytes.
    pub at: Hpa,
    /// What to write there.
    pub entry: u64,
}

/// Why a request of the guest is refused. Nothing of the refused update is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The frame is not the guest's.
    #[error("frame {0:#x} does not belong to the guest")]
    Foreign(u64),
    /// The frame is in use as something else.
    #[error("frame {frame:#x} is {found:?} and cannot become {wanted:?}")]
    InUse {
        /// The frame.
        frame: u64,
        /// What it is.
        found: FrameType,
        /// What it was to become.
        wanted: FrameType,
    },
    /// The entry that is to be updated does not lie in a table.
    #[error("the entry at {0} lies in no table")]
    NotATable(Hpa),
    /// The address is not one of an entry.
    #[error("the entry at {0} is not aligned")]
    Misaligned(Hpa),
    /// The entry sets a bit that must be zero, or maps a large page.
    #[error("entry {0:#x} sets bits that it must not")]
    BadEntry(u64),
    /// The entry belongs to the monitor's part of the address space.
    #[error("entry {0} of a level 4 table belongs to the monitor")]
    Reserved(u16),
    /// A count of references is at its end.
    #[error("frame {0:#x} has too many references")]
    TooManyReferences(u64),
    /// The memory does not answer, or the entry kept changing.
    #[error("the entry at {0} cannot be reached")]
    Unreachable(Hpa),
    /// The frame is not pinned.
    #[error("frame {0:#x} is not pinned")]
    NotPinned(u64),
}

/// How far a batch came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("update {done}: {refusal}")]
pub struct BatchError {
    /// Updates that were done; those after the refused one were not tried.
    pub done: usize,
    /// Why the next was not.
    pub refusal: Refusal,
}

/// What has been done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    /// Calls of the guest: its only exits.
    pub hypercalls: u64,
    /// Entries updated.
    pub updates: u64,
    /// Entries read to validate a table, or to give one up.
    pub validated_entries: u64,
    /// Tables validated.
    pub validations: u64,
    /// Flushes of all TLBs before a frame changed its type.
    pub flushes: u64,
    /// Requests refused.
    pub refusals: u64,
}

/// What the monitor keeps of one frame: 8 bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    /// References that hold the type.
    references: u32,
    /// 0 none, 1 to 4 a table of that level, 5 writable.
    kind: u8,
    pinned: bool,
    /// [`Direct::epoch`] when the last reference went.
    released: u16,
}

/// The page types of one guest, whose machine frames are `first .. first + count`.
///
/// The guest runs in 4-level paging. `TableMemory` addresses are machine addresses here.
#[derive(Clone)]
pub struct Direct<F> {
    first: u64,
    frames: Vec<Frame>,
    /// Level 4 indices that the monitor keeps for itself.
    reserved: std::ops::Range<u16>,
    root: Option<u64>,
    /// Flushes so far, wrapped. A frame released in another epoch is in no TLB any more; one of a
    /// wrapped epoch costs a flush too many.
    epoch: u16,
    flush: F,
    counters: Counters,
}

impl<F: FnMut()> Direct<F> {
    /// A guest with `count` frames from number `first` on, none of which is in use. Entries
    /// `reserved` of each level 4 table are the monitor's: the guest must leave them 0.
    ///
    /// `flush` is called to flush the TLBs of all processors, before a frame takes a new type that one
    /// of them may still know by its old.
    pub fn new(first: u64, count: u32, reserved: std::ops::Range<u16>, flush: F) -> Self {
        Self {
            first,
            frames: vec![Frame::default(); count as usize],
            reserved,
            root: None,
            epoch: 1,
            flush,
            counters: Counters::default(),
        }
    }

    /// Does the updates in order, with one exit for all of them.
    ///
    /// # Errors
    ///
    /// Stops at the first update that is refused. Those before it stay done.
    pub fn mmu_update<M: TableMemory>(
        &mut self,
        memory: &M,
        updates: &[Update],
    ) -> Result<(), BatchError> {
        self.counters.hypercalls += 1;
        for (done, update) in updates.iter().enumerate() {
            if let Err(refusal) = self.update(memory, *update) {
                self.counters.refusals += 1;
                return Err(BatchError { done, refusal });
            }
        }
        Ok(())
    }

    /// Validates the frame as a table of `level` and keeps it one until it is unpinned, whether or
    /// not anything references it.
    ///
    /// # Errors
    ///
    /// Refuses a frame that is in use as something else, or whose entries are not all allowed.
    ///
    /// # Panics
    ///
    /// Panics if `level` is not 1 to 4.
    pub fn pin<M: TableMemory>(
        &mut self,
        memory: &M,
        frame: u64,
        level: u8,
    ) -> Result<(), Refusal> {
        assert!((1..=4).contains(&level), "4-level paging has levels 1 to 4");
        self.counters.hypercalls += 1;
        let pinned = self.pin_table(memory, frame, level);
        self.counted(pinned)
    }

    /// Takes the pin away. Without other references the frame is no table any more.
    ///
    /// # Errors
    ///
    /// Refuses a frame that is not pinned.
    pub fn unpin<M: TableMemory>(&mut self, memory: &M, frame: u64) -> Result<(), Refusal> {
        self.counters.hypercalls += 1;
        let unpinned = self.unpin_table(memory, frame);
        self.counted(unpinned)
    }

    /// Loads CR3: the frame becomes, and until the next load stays, a level 4 table.
    ///
    /// # Errors
    ///
    /// Refuses a frame that is in use as something else, or whose entries are not all allowed.
    pub fn load_root<M: TableMemory>(&mut self, memory: &M, frame: u64) -> Result<(), Refusal> {
        self.counters.hypercalls += 1;
        if self.root == Some(frame) {
            return Ok(());
        }
        let taken = self.take(memory, frame, FrameType::Table(4));
        self.counted(taken)?;
        if let Some(old) = self.root.replace(frame) {
            self.drop_reference(memory, old, FrameType::Table(4));
        }
        Ok(())
    }

    /// What the frame is now; [`FrameType::None`] for a foreign one.
    pub fn frame_type(&self, frame: u64) -> FrameType {
        self.index(frame)
            .map_or(FrameType::None, |index| self.frames[index].frame_type())
    }

    /// References that hold the frame's type; 0 for a foreign one.
    pub fn references(&self, frame: u64) -> u32 {
        self.index(frame)
            .map_or(0, |index| self.frames[index].references)
    }

    /// Bytes that the monitor keeps for this guest.
    pub fn state_bytes(&self) -> usize {
        size_of::<Self>() + self.frames.len() * size_of::<Frame>()
    }

    /// What has been done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Checks the page types against the tables: every reference is counted, and no table is
    /// writable.
    ///
    /// # Errors
    ///
    /// Returns a frame whose count or type is not what the tables say.
    pub fn check<M: TableMemory>(&self, memory: &M) -> Result<(), u64> {
        let mut counted = vec![[0_u32; 6]; self.frames.len()];
        let numbered = (self.first..).zip(&self.frames);
        for (frame, state) in numbered.filter(|(_, state)| (1..=4).contains(&state.kind)) {
            for slot in 0..512 {
                let entry = memory.load_u64(crate::Gpa((frame << 12) + 8 * slot));
                let entry = entry.map_err(|_| frame)?;
                if let Some((target, wanted)) = referenced(state.kind, entry) {
                    let index = self.index(target).ok_or(frame)?;
                    counted[index][usize::from(kind_of(wanted))] += 1;
                }
            }
        }
        for ((frame, state), counts) in (self.first..).zip(&self.frames).zip(&counted) {
            let held = u32::from(state.pinned) + u32::from(self.root == Some(frame));
            let typed = counts[usize::from(state.kind)] + held;
            // Read-only mappings hold no type.
            let others = counts.iter().skip(1).sum::<u32>()
                - counts[usize::from(state.kind)] * u32::from(state.kind != 0);
            let right = if state.kind == 0 {
                state.references == 0 && others == 0
            } else {
                state.references == typed && others == 0
            };
            if !right {
                return Err(frame);
            }
        }
        Ok(())
    }

    fn counted(&mut self, answer: Result<(), Refusal>) -> Result<(), Refusal> {
        self.counters.refusals += u64::from(answer.is_err());
        answer
    }

    fn index(&self, frame: u64) -> Option<usize> {
        let index = usize::try_from(frame.checked_sub(self.first)?).ok()?;
        (index < self.frames.len()).then_some(index)
    }

    fn owned(&self, frame: u64) -> Result<usize, Refusal> {
        self.index(frame).ok_or(Refusal::Foreign(frame))
    }
}

impl<F> std::fmt::Debug for Direct<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct")
            .field("first", &self.first)
            .field("frames", &self.frames.len())
            .field("root", &self.root)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Frame {
    fn frame_type(self) -> FrameType {
        match self.kind {
            0 => FrameType::None,
            WRITABLE => FrameType::Writable,
            level => FrameType::Table(level),
        }
    }
}

fn kind_of(what: FrameType) -> u8 {
    match what {
        FrameType::None => 0,
        FrameType::Writable => WRITABLE,
        FrameType::Table(level) => level,
    }
}

/// The frame that an entry of a table of `level` references, and as what.
fn referenced(level: u8, entry: u64) -> Option<(u64, FrameType)> {
    let frame = (entry & ADDRESS) >> 12;
    if entry & PRESENT == 0 {
        None
    } else if level > 1 {
        Some((frame, FrameType::Table(level - 1)))
    } else if entry & WRITE != 0 {
        Some((frame, FrameType::Writable))
    } else {
        Some((frame, FrameType::None))
    }
}

/// The level 1 entry for `gva` that a guest asks to update together with a TLB flush (Xen:
/// `update_va_mapping`), as an address; `None` if a table on the way is absent.
pub fn leaf_entry<M: TableMemory>(memory: &M, root: u64, gva: Gva) -> Option<Hpa> {
    let mut table = root << 12;
    for level in (2..=4).rev() {
        let at = table + (gva.0 >> (3 + 9 * level) & 511) * 8;
        let entry = memory.load_u64(crate::Gpa(at)).ok()?;
        if entry & PRESENT == 0 || entry & PAGE_SIZE != 0 {
            return None;
        }
        table = entry & ADDRESS;
    }
    Some(Hpa(table + (gva.0 >> 12 & 511) * 8))
}

/// Bits that a guest may set besides the address: rights, caching, accessed, dirty, global, those that
/// are ignored, and the key.
const ALLOWED: u64 = PRESENT | WRITE | USER | 0xf78 | 0x7ff << 52 | NO_EXECUTE;
const WRITABLE: u8 = 5;
