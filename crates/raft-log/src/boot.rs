//! Starting from what the disk holds.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::log::Log;
use crate::{BootError, Entry, HardState, Index, Membership, Payload, Position, Snapshot};

/// What a server finds on its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The last one written.
    pub hard_state: HardState,
    /// The latest snapshot; of a new cluster, an empty one at position 0 with the first members.
    pub snapshot: Snapshot,
    /// Entries without a gap. They may start before the end of the snapshot.
    pub entries: Vec<Entry>,
    /// How far the state machine is. At least what the snapshot covers.
    pub applied: Index,
}

impl Boot {
    /// The empty disk of one of the first servers. All of them must be told the same members.
    pub fn first(membership: Membership) -> Self {
        Self {
            hard_state: HardState::default(),
            snapshot: Snapshot::new(Position::default(), Arc::new(membership), Arc::from([])),
            entries: Vec::new(),
            applied: 0,
        }
    }

    /// The empty disk of a server that joins later: it waits for a leader.
    pub fn joining() -> Self {
        Self::first(Membership::default())
    }

    /// The log, checked.
    pub(crate) fn log(&self) -> Result<Log, BootError> {
        let mut log = Log::new(self.snapshot.clone());
        let covered = self.snapshot.last();
        for entry in self
            .entries
            .iter()
            .filter(|entry| entry.at.index > covered.index)
        {
            let last = log.last();
            let follows = last.index.checked_add(1) == Some(entry.at.index);
            if !follows || entry.at.term < last.term || entry.at.term > self.hard_state.term {
                return Err(BootError::Entry(entry.at.index));
            }
            if let Payload::Membership(membership) = &entry.payload {
                membership.validate()?;
            }
            log.push(entry.clone());
        }
        if self.applied < covered.index || self.applied > log.last().index {
            return Err(BootError::Applied(self.applied));
        }
        log.loaded();
        Ok(log)
    }
}
