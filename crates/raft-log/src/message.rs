//! What servers say to each other, and what one tells its driver to do.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::{Entries, HardState, Index, Membership, NodeId, Position, Snapshot, Term};

/// One message between two servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// The sender's term; of a pre-vote, the term that it would stand in.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// A candidate asks for a vote.
    RequestVote {
        /// Only whether it would be given.
        pre: bool,
        /// The end of its log.
        last: Position,
        /// The leader asked for this election, so its being alive is no objection.
        transfer: bool,
    },
    /// The answer.
    Vote {
        /// To a pre-vote.
        pre: bool,
        /// Whether it is given.
        granted: bool,
    },
    /// The leader's entries.
    Append {
        /// The entry before them, which the follower must have.
        prev: Position,
        /// How far the leader has committed.
        commit: Index,
        /// Entries that follow `prev` without a gap.
        entries: Entries,
    },
    /// More is committed. Answered only by a follower that lacks the entry.
    Committed {
        /// The last entry that was sent.
        last: Position,
        /// How far the leader has committed.
        index: Index,
    },
    /// The follower's log is the leader's up to here, on disk.
    Appended {
        /// The last index known to be equal.
        index: Index,
    },
    /// The follower lacks the entry before.
    Rejected {
        /// Which one it lacks.
        prev: Index,
        /// The last place where the logs may agree: its own entry there has a term no later than that of `prev`.
        hint: Position,
        /// Its disk lost what it acknowledged earlier: start over.
        lost: bool,
    },
    /// The leader is alive.
    Heartbeat {
        /// How far it has committed, no further than what the follower is known to have.
        commit: Index,
        /// Counts the leader's heartbeats.
        round: u64,
    },
    /// The follower still follows.
    HeartbeatAck {
        /// The heartbeat that it answers.
        round: u64,
    },
    /// A piece of a snapshot.
    Chunk {
        /// What it is a piece of.
        of: SnapshotId,
        /// The members at its last entry.
        membership: Arc<Membership>,
        /// Where the piece starts.
        offset: u64,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// Pieces have arrived.
    ChunkAck {
        /// Of which snapshot.
        of: SnapshotId,
        /// How many bytes are there without a gap.
        offset: u64,
    },
    /// The leader asks its follower to stand for election at once (Ongaro 2014, section 3.10).
    TimeoutNow,
}

/// Tells snapshots apart, so that a transfer can go on under another leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotId {
    /// The last entry that it covers.
    pub last: Position,
    /// Bytes.
    pub size: u64,
    /// FNV-1a of the bytes: state machines need not encode equal states equally.
    pub fingerprint: u64,
}

/// Counts writes; they are carried out and confirmed in this order.
pub type Ticket = u64;

/// What to make durable, all of it or nothing, then confirm with [`Raft::stored`](crate::Raft::stored).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Write {
    /// Which write this is.
    pub ticket: Ticket,
    /// The new hard state, if it changes.
    pub hard_state: Option<HardState>,
    /// A snapshot to keep instead of the one before.
    pub snapshot: Option<Snapshot>,
    /// The snapshot replaces the whole log, not only the part that it covers.
    pub discard_log: bool,
    /// Entries that replace everything from the first one's index on.
    pub entries: Entries,
}

/// What the driver must do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a message; it may be lost, repeated or late.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Make something durable. Later messages may leave meanwhile.
    Write(Write),
    /// Run committed entries, then confirm with [`Raft::applied`](crate::Raft::applied).
    Apply(Entries),
    /// Replace the state machine by this snapshot.
    Restore(Snapshot),
    /// A read may be served once the state machine has run the entry at `index`.
    ReadReady {
        /// The number given with the read.
        id: u64,
        /// How far the state machine must be.
        index: Index,
    },
    /// A read will not be served: this server leads no more.
    ReadFailed {
        /// The number given with the read.
        id: u64,
    },
}
