//! What a leader keeps beside its log.

use alloc::collections::{BTreeMap, VecDeque};

use crate::progress::Progress;
use crate::read::Reads;
use crate::transfer::Transfer;
use crate::{Index, NodeId, Ticket, Time};

/// The state that begins with a leader's term and ends with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leader {
    /// Everybody else who receives the log.
    pub(crate) progress: BTreeMap<NodeId, Progress>,
    /// The first entry of this term.
    pub(crate) first: Index,
    pub(crate) heartbeat_deadline: Time,
    pub(crate) quorum_deadline: Time,
    /// Heartbeats sent so far.
    pub(crate) round: u64,
    /// Heartbeats that no majority has answered yet, and when they were sent.
    pub(crate) rounds: VecDeque<(u64, Time)>,
    /// When the last heartbeat was sent that a majority has answered.
    pub(crate) confirmed_at: Option<Time>,
    pub(crate) reads: Reads,
    pub(crate) transfer: Option<Transfer>,
    /// A server was told to stand for election in spite of this leader.
    pub(crate) transferred: bool,
    /// Bytes proposed and not yet committed.
    pub(crate) uncommitted_bytes: u64,
    /// Writes under way, and when they were handed out: a disk that hangs ends the term.
    pub(crate) writing: VecDeque<(Ticket, Time)>,
}

impl Leader {
    pub(crate) fn new(first: Index, now: Time, election_timeout: Time) -> Self {
        Self {
            progress: BTreeMap::new(),
            first,
            heartbeat_deadline: now,
            quorum_deadline: now.saturating_add(election_timeout),
            round: 0,
            rounds: VecDeque::new(),
            confirmed_at: None,
            reads: Reads::default(),
            transfer: None,
            transferred: false,
            uncommitted_bytes: 0,
            writing: VecDeque::new(),
        }
    }
}
