//! What a log is made of.

use alloc::sync::Arc;

use smallvec::SmallVec;

use crate::Membership;

/// Names a server; any number.
pub type NodeId = u64;
/// Raft's logical clock (Ongaro 2014, section 3.3); 0 before the first election.
pub type Term = u64;
/// A place in the log, from 1; 0 is the place before the first entry.
pub type Index = u64;
/// A reading of the local clock in any unit, so long as [`Options`](crate::Options) uses the same.
pub type Time = u64;

/// Where an entry is and who put it there. The order is the paper's "more up-to-date" (section 5.4.1): by term, then by
/// index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The term of the leader that made the entry.
    pub term: Term,
    /// Its place.
    pub index: Index,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Where it is.
    pub at: Position,
    /// What it says.
    pub payload: Payload,
}

/// Entries on their way: one alone, as under light load, needs no memory of its own.
pub type Entries = SmallVec<[Entry; 1]>;

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Nothing: a new leader's first entry, which commits all before it (section 8).
    Empty,
    /// An operation for the state machine.
    Command(Arc<[u8]>),
    /// Who belongs to the cluster from this entry on, committed or not (section 6).
    Membership(Arc<Membership>),
    /// A command that a witness is not given.
    Withheld,
}

impl Entry {
    /// Bytes that the limits count: 24 for the entry and those of its command.
    pub fn size(&self) -> u64 {
        let command = match &self.payload {
            Payload::Command(bytes) => bytes.len(),
            _ => 0,
        };
        24 + u64::try_from(command).unwrap_or(u64::MAX - 24)
    }

    /// The entry as a witness gets it.
    pub(crate) fn without_command(&self) -> Self {
        let payload = match &self.payload {
            Payload::Command(_) => Payload::Withheld,
            other => other.clone(),
        };
        Self {
            at: self.at,
            payload,
        }
    }
}

/// What a server must never forget besides its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The latest term it has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub voted_for: Option<NodeId>,
    /// The furthest it has promised: an acknowledged entry that the disk has lost since still counts when it votes, and
    /// it does not stand for election until its log is as up to date again.
    pub floor: Position,
}
