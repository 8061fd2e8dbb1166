//! What clients ask of servers, and what is in the log.

use std::collections::BTreeSet;

use raft_log::NodeId;
use serde::{Deserialize, Serialize};

/// The first frame on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    /// Another server, whose messages follow.
    Peer {
        /// Of which cluster.
        cluster: String,
        /// Its name.
        from: NodeId,
        /// Whom it takes the listener for.
        to: NodeId,
        /// Where it listens.
        address: String,
    },
    /// A client, whose requests follow.
    Client {
        /// Which cluster it looks for; empty for any.
        cluster: String,
    },
}

/// A request with the number that its reply will have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// Chosen by the client.
    pub number: u64,
    /// What it is about.
    pub body: T,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// A session, under which writes take effect once.
    Open,
    /// A write.
    Write {
        /// The session.
        session: u64,
        /// Grows from write to write; a write that is sent again keeps it.
        sequence: u64,
        /// What to do.
        #[serde(borrow)]
        operation: Operation<'a>,
    },
    /// A value.
    Get {
        /// Of this key.
        #[serde(with = "serde_bytes")]
        key: &'a [u8],
        /// How current it must be.
        currency: Currency,
    },
    /// How the server is.
    Status,
    /// Who shall belong to the cluster.
    Members {
        /// Who decides.
        voters: BTreeSet<NodeId>,
        /// Who only receives.
        learners: BTreeSet<NodeId>,
    },
    /// Where a server listens.
    Address {
        /// Which.
        node: NodeId,
        /// Host and port.
        address: String,
    },
    /// Hand leadership over.
    Transfer {
        /// To whom.
        to: NodeId,
    },
    /// Take a snapshot now.
    Snapshot,
    /// Neither hear these servers nor talk to them: a test's partition.
    Cut {
        /// Instead of those before.
        from: BTreeSet<NodeId>,
    },
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation<'a> {
    /// Sets a value.
    Put {
        /// The key.
        #[serde(with = "serde_bytes")]
        key: &'a [u8],
        /// The value.
        #[serde(with = "serde_bytes")]
        value: &'a [u8],
    },
    /// Removes a value.
    Delete {
        /// The key.
        #[serde(with = "serde_bytes")]
        key: &'a [u8],
    },
    /// Adds to the end of a value.
    Append {
        /// The key.
        #[serde(with = "serde_bytes")]
        key: &'a [u8],
        /// What to add.
        #[serde(with = "serde_bytes")]
        value: &'a [u8],
    },
    /// Sets a value if the present one is as expected.
    CompareAndSet {
        /// The key.
        #[serde(with = "serde_bytes")]
        key: &'a [u8],
        /// `None` if there must be none.
        #[serde(borrow, with = "serde_bytes")]
        expected: Option<&'a [u8]>,
        /// The value.
        #[serde(with = "serde_bytes")]
        value: &'a [u8],
    },
}

/// How current a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Currency {
    /// A majority confirms the leader.
    Linearizable,
    /// The leader's lease does, as far as clocks run equally fast to one in a hundred.
    Lease,
    /// Whatever the server has.
    Stale,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// It was done.
    Done,
    /// A compare-and-set, and whether the value was as expected.
    Swapped(bool),
    /// A session was opened.
    Opened(u64),
    /// There is no such session, or not any more: whether the write took effect earlier is not known.
    Expired,
    /// A later write of the session has been answered before.
    Superseded,
    /// The value would be longer than [`VALUE_MAX`].
    TooLong,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To a write.
    Effect(Effect),
    /// To a get.
    Value(#[serde(with = "serde_bytes")] Option<Vec<u8>>),
    /// Ask somebody else; the write may still take effect.
    NotLeader {
        /// Who leads and where it listens, as far as is known.
        leader: Option<(NodeId, String)>,
    },
    /// Try later: too much is under way.
    Busy(String),
    /// To an admin's request: it is under way.
    Accepted,
    /// It cannot be done.
    Refused(String),
    /// How the server is.
    Status(Box<Status>),
}

/// How a server is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub node: NodeId,
    /// Its term.
    pub term: u64,
    /// Its role, a word.
    pub role: String,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// The last entry that it knows to be committed.
    pub commit: u64,
    /// The last that has run.
    pub applied: u64,
    /// The last in the log.
    pub last: u64,
    /// The last that its snapshot covers.
    pub snapshot: u64,
    /// Who decides.
    pub voters: BTreeSet<NodeId>,
    /// Who decided before, while that changes.
    pub outgoing: BTreeSet<NodeId>,
    /// Who only receives.
    pub learners: BTreeSet<NodeId>,
    /// Of a leader: who has how much of the log on disk.
    pub matched: Vec<(NodeId, u64)>,
    /// Entries that the disk had lost when the server started, first and last.
    pub lost: Option<(u64, u64)>,
    /// Whether the log is as long again as what was ever acknowledged.
    pub whole: bool,
    /// Where everybody listens.
    pub addresses: Vec<(NodeId, String)>,
}

/// Bytes of the longest key.
pub const KEY_MAX: usize = 4 << 10;
/// Bytes of the longest value.
pub const VALUE_MAX: usize = 1 << 20;

/// One thing in the log; an entry holds the leader's clock and then any number of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// Opens a session.
    Open,
    /// Runs once in a session.
    Run {
        /// The session.
        session: u64,
        /// Its place there.
        sequence: u64,
        /// What to do.
        #[serde(borrow)]
        operation: Operation<'a>,
    },
    /// Says where a server listens.
    Address {
        /// Which.
        node: NodeId,
        /// Host and port.
        address: &'a str,
    },
}

impl Operation<'_> {
    /// Whether its key and value are within the limits.
    pub fn fits(&self) -> bool {
        let (key, value) = match self {
            Self::Put { key, value } | Self::Append { key, value } => (key, value.len()),
            Self::CompareAndSet {
                key,
                expected,
                value,
            } => (key, value.len().max(expected.map_or(0, <[u8]>::len))),
            Self::Delete { key } => (key, 0),
        };
        key.len() <= KEY_MAX && value <= VALUE_MAX
    }
}
