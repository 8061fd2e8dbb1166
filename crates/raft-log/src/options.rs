//! What a server is told when it starts.

use crate::{NodeId, Time};

/// How a server behaves. Times are in the unit of the clock that it is handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Its name.
    pub id: NodeId,
    /// Silence after which a follower may stand for election: between one and two of these, at random (section 5.2).
    pub election_timeout: Time,
    /// How often a leader makes itself heard; well below the election timeout.
    pub heartbeat_interval: Time,
    /// Where the random timeouts come from; different on every server.
    pub seed: u64,
    /// Ask whether an election could be won before it disturbs anybody (Ongaro 2014, section 9.6).
    pub pre_vote: bool,
    /// A leader that hears from no majority steps down, and followers that hear from a leader do not vote (sections
    /// 4.2.3 and 6.2).
    pub check_quorum: bool,
    /// The most by which two clocks may differ in speed, in percent; `Some` permits reads under a lease (section 6.4.1).
    pub lease_drift_percent: Option<u64>,
    /// Bytes of entries in one message; one entry always fits.
    pub append_bytes: u64,
    /// Messages with entries that one follower may leave unanswered.
    pub in_flight: usize,
    /// Bytes of entries that one follower may leave unanswered.
    pub in_flight_bytes: u64,
    /// Bytes proposed and not yet committed, above which proposals are refused.
    pub uncommitted_bytes: u64,
    /// Bytes handed to the state machine at once; the next follow when it is done.
    pub apply_bytes: u64,
    /// Bytes of a snapshot in one message.
    pub chunk_bytes: usize,
    /// Bytes of the largest snapshot that is accepted.
    pub snapshot_bytes: u64,
    /// Reads that may wait for their majority.
    pub reads: usize,
    /// Which rule to break.
    #[cfg(feature = "mutation")]
    pub mutation: Option<crate::Mutation>,
}

/// Options that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A follower would stand for election between two heartbeats.
    #[error("the heartbeat interval must be positive and at most half of the election timeout")]
    HeartbeatTooSlow,
    /// A lease holds because followers do not vote while it lasts.
    #[error("leases need check_quorum and a drift below 50 %")]
    LeaseUnsafe,
    /// Something could never be sent.
    #[error("in_flight, chunk_bytes and reads must be positive")]
    NothingFits,
}

impl Options {
    /// The paper's 150-300 ms in milliseconds, pre-vote and check-quorum on, leases off.
    pub fn new(id: NodeId, seed: u64) -> Self {
        Self {
            id,
            election_timeout: 150,
            heartbeat_interval: 30,
            seed,
            pre_vote: true,
            check_quorum: true,
            lease_drift_percent: None,
            append_bytes: 1 << 20,
            in_flight: 256,
            in_flight_bytes: 16 << 20,
            uncommitted_bytes: 64 << 20,
            apply_bytes: 4 << 20,
            chunk_bytes: 1 << 20,
            snapshot_bytes: 1 << 30,
            reads: 65_536,
            #[cfg(feature = "mutation")]
            mutation: None,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), OptionsError> {
        if self.heartbeat_interval == 0 || self.heartbeat_interval > self.election_timeout / 2 {
            return Err(OptionsError::HeartbeatTooSlow);
        }
        if self
            .lease_drift_percent
            .is_some_and(|drift| drift >= 50 || !self.check_quorum)
        {
            return Err(OptionsError::LeaseUnsafe);
        }
        if self.in_flight == 0 || self.chunk_bytes == 0 || self.reads == 0 {
            return Err(OptionsError::NothingFits);
        }
        Ok(())
    }

    /// How long after a heartbeat was sent its acknowledgements still prove leadership: the followers' clocks may be the
    /// faster ones by the drift, this server's the slower one.
    pub(crate) fn lease(&self) -> Time {
        match self.lease_drift_percent {
            Some(drift) => self.election_timeout.saturating_mul(100 - drift) / (100 + drift),
            None => 0,
        }
    }
}
