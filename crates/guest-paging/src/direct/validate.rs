//! References, and the validation that comes with the first of them.
//!
//! A table is validated from the root down, at most as deep as there are levels. Whatever a validation
//! has taken before an entry is refused, it gives back.

use super::{ALLOWED, Direct, FrameType, Refusal, Update, kind_of, referenced};
use crate::address::Hpa;
use crate::x86::spec::{ADDRESS, PRESENT};
use crate::{Gpa, RESTARTS_MAX, TableMemory};

impl<F: FnMut()> Direct<F> {
    pub(super) fn update<M: TableMemory>(
        &mut self,
        memory: &M,
        update: Update,
    ) -> Result<(), Refusal> {
        let Update { at, entry } = update;
        if at.0 % 8 != 0 {
            return Err(Refusal::Misaligned(at));
        }
        let table = self.owned(at.0 >> 12)?;
        let FrameType::Table(level) = self.frames[table].frame_type() else {
            return Err(Refusal::NotATable(at));
        };
        self.allow(level, at.0 >> 3 & 511, entry)?;
        // The new reference first: it may be the same one.
        self.take_entry(memory, level, entry)?;
        match exchange(memory, at, entry) {
            Ok(old) => {
                self.drop_entry(memory, level, old);
                self.counters.updates += 1;
                Ok(())
            }
            Err(refusal) => {
                self.drop_entry(memory, level, entry);
                Err(refusal)
            }
        }
    }

    pub(super) fn pin_table<M: TableMemory>(
        &mut self,
        memory: &M,
        frame: u64,
        level: u8,
    ) -> Result<(), Refusal> {
        let index = self.owned(frame)?;
        if self.frames[index].pinned {
            let found = self.frames[index].frame_type();
            let wanted = FrameType::Table(level);
            return Err(Refusal::InUse {
                frame,
                found,
                wanted,
            });
        }
        self.take(memory, frame, FrameType::Table(level))?;
        self.frames[index].pinned = true;
        Ok(())
    }

    pub(super) fn unpin_table<M: TableMemory>(
        &mut self,
        memory: &M,
        frame: u64,
    ) -> Result<(), Refusal> {
        let index = self.owned(frame)?;
        if !std::mem::take(&mut self.frames[index].pinned) {
            return Err(Refusal::NotPinned(frame));
        }
        let held = self.frames[index].frame_type();
        self.drop_reference(memory, frame, held);
        Ok(())
    }

    /// Takes one reference to a frame as `wanted`, and validates it if it becomes a table by that.
    pub(super) fn take<M: TableMemory>(
        &mut self,
        memory: &M,
        frame: u64,
        wanted: FrameType,
    ) -> Result<(), Refusal> {
        let index = self.owned(frame)?;
        if wanted == FrameType::None {
            return Ok(());
        }
        let state = &mut self.frames[index];
        let found = state.frame_type();
        if found == wanted {
            let more = state.references.checked_add(1);
            state.references = more.ok_or(Refusal::TooManyReferences(frame))?;
            return Ok(());
        }
        if found != FrameType::None {
            return Err(Refusal::InUse {
                frame,
                found,
                wanted,
            });
        }
        if state.released == self.epoch {
            (self.flush)();
            self.epoch = self.epoch.wrapping_add(1);
            self.counters.flushes += 1;
        }
        let state = &mut self.frames[index];
        // Typed before its entries are looked at: one that maps the table itself as writable must
        // meet a table.
        state.kind = kind_of(wanted);
        state.references = 1;
        if let FrameType::Table(level) = wanted
            && let Err(refusal) = self.validate(memory, frame, level)
        {
            let state = &mut self.frames[index];
            state.kind = 0;
            state.references = 0;
            return Err(refusal);
        }
        Ok(())
    }

    /// Gives one reference back. The last one frees what the table references.
    pub(super) fn drop_reference<M: TableMemory>(
        &mut self,
        memory: &M,
        frame: u64,
        held: FrameType,
    ) {
        let Some(index) = self.index(frame).filter(|_| held != FrameType::None) else {
            return;
        };
        let state = &mut self.frames[index];
        // A device may have written to the table; what was never taken is not given back.
        if state.frame_type() != held {
            return;
        }
        state.references -= 1;
        if state.references != 0 {
            return;
        }
        if let FrameType::Table(level) = held {
            self.drop_entries(memory, frame, level, 512);
        }
        self.frames[index].kind = 0;
        self.frames[index].released = self.epoch;
    }

    fn validate<M: TableMemory>(
        &mut self,
        memory: &M,
        frame: u64,
        level: u8,
    ) -> Result<(), Refusal> {
        self.counters.validations += 1;
        for slot in 0..512 {
            let taken = self.validate_entry(memory, frame, level, slot);
            if let Err(refusal) = taken {
                self.drop_entries(memory, frame, level, slot);
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn validate_entry<M: TableMemory>(
        &mut self,
        memory: &M,
        frame: u64,
        level: u8,
        slot: u64,
    ) -> Result<(), Refusal> {
        self.counters.validated_entries += 1;
        let entry = load(memory, Hpa((frame << 12) + 8 * slot))?;
        self.allow(level, slot, entry)?;
        self.take_entry(memory, level, entry)
    }

    fn drop_entries<M: TableMemory>(&mut self, memory: &M, frame: u64, level: u8, end: u64) {
        for slot in 0..end {
            self.counters.validated_entries += 1;
            if let Ok(entry) = load(memory, Hpa((frame << 12) + 8 * slot)) {
                self.drop_entry(memory, level, entry);
            }
        }
    }

    fn take_entry<M: TableMemory>(
        &mut self,
        memory: &M,
        level: u8,
        entry: u64,
    ) -> Result<(), Refusal> {
        match referenced(level, entry) {
            Some((frame, wanted)) => self.take(memory, frame, wanted),
            None => Ok(()),
        }
    }

    fn drop_entry<M: TableMemory>(&mut self, memory: &M, level: u8, entry: u64) {
        if let Some((frame, held)) = referenced(level, entry) {
            self.drop_reference(memory, frame, held);
        }
    }

    /// What can be told of an entry alone. Large pages would need 512 types at once.
    fn allow(&self, level: u8, slot: u64, entry: u64) -> Result<(), Refusal> {
        let slot = u16::try_from(slot).expect("an index in a table");
        if level == 4 && self.reserved.contains(&slot) && entry != 0 {
            return Err(Refusal::Reserved(slot));
        }
        // Bit 7 selects a memory type at level 1 and is reserved or a large page above.
        let allowed = if level == 1 {
            ALLOWED | 1 << 7
        } else {
            ALLOWED
        };
        if entry & PRESENT != 0 && entry & !(allowed | ADDRESS) != 0 {
            return Err(Refusal::BadEntry(entry));
        }
        Ok(())
    }
}

/// Writes `entry`, and gives back what it replaced. A processor may mark the old one meanwhile.
fn exchange<M: TableMemory>(memory: &M, at: Hpa, entry: u64) -> Result<u64, Refusal> {
    let mut old = load(memory, at)?;
    for _ in 0..RESTARTS_MAX {
        match memory.compare_exchange_u64(Gpa(at.0), old, entry) {
            Ok(Ok(old)) => return Ok(old),
            Ok(Err(found)) => old = found,
            Err(_) => break,
        }
    }
    Err(Refusal::Unreachable(at))
}

fn load<M: TableMemory>(memory: &M, at: Hpa) -> Result<u64, Refusal> {
    memory
        .load_u64(Gpa(at.0))
        .map_err(|_| Refusal::Unreachable(at))
}
