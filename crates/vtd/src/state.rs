//! Saved state.

use crate::capabilities::{Capabilities, Features};
use crate::event::{EVENTS_MAX, Event};
use crate::file::RegisterFile;
use crate::registers::IRTA_EIME;
use crate::unit::{MESSAGES_MAX, Unit};

/// Saved state of a [`Unit`]; untrusted until [`Unit::restore`] accepts it. Caches are not part of it: a
/// restored unit has none of the translations that it had, as after an invalidation of all.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct UnitState {
    /// The registers up to the fault recording registers, word by word.
    pub registers: Vec<u32>,
    /// The fault recording registers.
    pub fault_records: Vec<[u64; 2]>,
    /// Where the next fault is recorded.
    pub next_fault: u16,
    /// RTADDR as of the last SRTP.
    pub root_table: u64,
    /// IRTA as of the last SIRTP.
    pub interrupt_table: u64,
    /// Events that were not taken.
    pub events: Vec<Event>,
}

/// A field of a saved state holds a value that the unit can never reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("remapping unit state: field {0} is out of range")]
pub struct InvalidState(
    /// The field as it is named in [`UnitState`].
    pub &'static str,
);

impl Unit {
    /// What is needed to go on elsewhere.
    #[must_use]
    pub fn state(&self) -> UnitState {
        UnitState {
            registers: self.file.words().to_vec(),
            fault_records: self.faults.records().to_vec(),
            next_fault: u16::try_from(self.faults.next()).expect("128 at most"),
            root_table: self.root,
            interrupt_table: self.interrupt_table,
            events: self.events.iter().copied().collect(),
        }
    }

    /// A unit that goes on from a saved state.
    ///
    /// # Errors
    ///
    /// Refuses states that a unit of these capabilities cannot be in.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn restore(capabilities: Capabilities, state: &UnitState) -> Result<Self, InvalidState> {
        let mut unit = Self::new(capabilities);
        let file = RegisterFile::restore(&capabilities, &state.registers);
        unit.file = file.ok_or(InvalidState("registers"))?;
        let faults = unit.faults.restore(&state.fault_records, state.next_fault);
        unit.faults = faults.ok_or(InvalidState("fault_records"))?;
        if state.root_table & 0x3ff != 0 {
            return Err(InvalidState("root_table"));
        }
        let extended = capabilities.has(Features::EXTENDED_INTERRUPTS);
        let allowed = !0xfff | 0xf | if extended { IRTA_EIME } else { 0 };
        if state.interrupt_table & !allowed != 0 {
            return Err(InvalidState("interrupt_table"));
        }
        if state.events.len() > EVENTS_MAX + MESSAGES_MAX {
            return Err(InvalidState("events"));
        }
        unit.root = state.root_table;
        unit.interrupt_table = state.interrupt_table;
        unit.events.extend(&state.events);
        Ok(unit)
    }
}
