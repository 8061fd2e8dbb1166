//! What can go wrong: always the caller's or a peer's doing, never a panic.

use crate::{Index, MembershipError, NodeId, OptionsError};

/// A message that no correct server sends. Nothing was changed except, where the term was newer, the term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It claims to come from this very server.
    #[error("a message to itself")]
    FromSelf,
    /// Entries with gaps, falling terms, or terms after the message's.
    #[error("the entries do not follow each other")]
    Entries,
    /// Another entry where this server knows one to be committed. One of the two has lost data or does not follow the
    /// rules.
    #[error("entry {0} contradicts a committed entry")]
    ContradictsCommitted(Index),
    /// Two leaders in one term.
    #[error("server {0} claims to lead a term that another leads")]
    SecondLeader(NodeId),
    /// It acknowledges an entry that was never made.
    #[error("entry {0} is acknowledged before it exists")]
    NeverSent(Index),
    /// A piece that lies outside of its snapshot, or a snapshot above the limit.
    #[error("a piece outside of its snapshot, or a snapshot too large")]
    Chunk,
    /// A membership that cannot be.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This server does not lead.
    #[error("not the leader")]
    NotLeader {
        /// Who may.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over.
    #[error("leadership is being transferred")]
    Transferring,
    /// Too much is waiting to be committed: try later.
    #[error("too many bytes are not yet committed")]
    Overloaded,
    /// The last change is still under way, or the leader has not yet committed an entry of its own term (Ongaro,
    /// raft-dev, 10 July 2015).
    #[error("another change of membership is under way")]
    ChangePending,
    /// The wanted membership cannot be.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The target of a transfer cannot lead.
    #[error("server {0} cannot lead")]
    CannotLead(NodeId),
}

/// Why a read was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This server does not lead.
    #[error("not the leader")]
    NotLeader {
        /// Who may.
        leader: Option<NodeId>,
    },
    /// Too many reads are waiting: try later.
    #[error("too many reads are waiting")]
    Overloaded,
}

/// Why a server cannot start from what its disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// The options contradict each other.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The membership cannot be.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// An entry does not follow the one before it.
    #[error("entry {0} does not follow the one before it")]
    Entry(Index),
    /// The state machine is ahead of the log.
    #[error("the state machine has run entry {0}, which the log does not hold")]
    Applied(Index),
}
