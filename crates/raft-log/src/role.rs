//! What a server is at the moment.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use crate::NodeId;
use crate::leader::Leader;

/// Votes by server; a server that answers twice is one server.
pub(crate) type Votes = BTreeMap<NodeId, bool>;

/// With what the role needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Follower,
    PreCandidate(Votes),
    Candidate(Votes),
    Leader(Box<Leader>),
}

/// A server's role, to be seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It does as the leader says.
    Follower,
    /// It asks whether it could win.
    PreCandidate,
    /// It stands for election.
    Candidate,
    /// It leads its term.
    Leader,
}

impl Role {
    pub(crate) fn standing(&self) -> Standing {
        match self {
            Self::Follower => Standing::Follower,
            Self::PreCandidate(_) => Standing::PreCandidate,
            Self::Candidate(_) => Standing::Candidate,
            Self::Leader(_) => Standing::Leader,
        }
    }
}
