//! Linearizable reads without a log entry (Ongaro 2014, section 6.4).

use alloc::vec::Vec;
use core::mem;

use crate::mutation::broken;
use crate::raft::Raft;
use crate::role::Role;
use crate::{Action, Body, Index, ReadError, Time};

/// How a leader makes sure that nobody has replaced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadMode {
    /// A majority answers a heartbeat that was sent after the read came.
    Quorum,
    /// A majority has answered one so recently that none of them can have voted since, as far as
    /// [`Options::lease_drift_percent`](crate::Options) bounds the clocks. Without a lease, as `Quorum`.
    Lease,
}

/// Reads that wait for their majority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reads {
    /// For the next heartbeat.
    waiting: Vec<u64>,
    /// For answers to the heartbeat of `round`; what was committed when it was sent.
    asked: Vec<u64>,
    index: Index,
    round: u64,
}

impl Reads {
    pub(crate) fn ids(self) -> impl Iterator<Item = u64> {
        self.asked.into_iter().chain(self.waiting)
    }
}

/// Heartbeats whose answers are still of interest.
const ROUNDS_MAX: usize = 64;

impl Raft {
    /// Asks up to where the state machine must be for a read that starts now. The answer is [`Action::ReadReady`] or
    /// [`Action::ReadFailed`] with this `id`.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; then no answer will come.
    pub fn read(&mut self, now: Time, id: u64, mode: ReadMode) -> Result<(), ReadError> {
        self.advance(now);
        let Role::Leader(leader) = &mut self.role else {
            return Err(ReadError::NotLeader {
                leader: self.leader,
            });
        };
        if leader.reads.waiting.len() + leader.reads.asked.len() >= self.options.reads {
            return Err(ReadError::Overloaded);
        }
        let leased = mode == ReadMode::Lease && self.holds_lease();
        if (leased && self.knows_commit()) || broken!(self.options, ReadWithoutQuorum) {
            let index = self.commit;
            self.out.push(Action::ReadReady { id, index });
        } else if let Role::Leader(leader) = &mut self.role {
            leader.reads.waiting.push(id);
            self.begin_reads();
        }
        self.flush();
        Ok(())
    }

    /// Whether a majority has promised not to vote yet.
    fn holds_lease(&self) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        let mut lease = self.options.lease();
        if broken!(self.options, LeaseTooLong) {
            lease = self.options.election_timeout.saturating_mul(4);
        }
        let kept = !leader.transferred || broken!(self.options, LeaseAfterTransfer);
        kept && leader
            .confirmed_at
            .is_some_and(|sent| self.now < sent.saturating_add(lease))
    }

    /// A leader knows what its predecessors committed once an entry of its own is.
    pub(crate) fn knows_commit(&self) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        self.commit >= leader.first || broken!(self.options, ReadBeforeOwnTerm)
    }

    /// Sends a heartbeat for the reads that wait, unless one is under way.
    pub(crate) fn begin_reads(&mut self) {
        if !self.knows_commit() {
            return;
        }
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let reads = &mut leader.reads;
        if reads.waiting.is_empty() || !reads.asked.is_empty() {
            return;
        }
        reads.asked = mem::take(&mut reads.waiting);
        reads.index = self.commit;
        reads.round = leader.round + 1;
        if broken!(self.options, ReadByOldRound) {
            reads.round = leader.round;
        }
        self.heartbeat();
    }

    /// Tells everybody that this leader lives.
    pub(crate) fn heartbeat(&mut self) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.heartbeat_deadline = self.now.saturating_add(self.options.heartbeat_interval);
        leader.round += 1;
        if leader.rounds.len() == ROUNDS_MAX {
            leader.rounds.pop_front();
        }
        leader.rounds.push_back((leader.round, self.now));
        let round = leader.round;
        let known: Vec<_> = leader
            .progress
            .iter()
            .map(|(id, progress)| (*id, progress.matched))
            .collect();
        for (to, matched) in known {
            let commit = self.commit.min(matched);
            self.send(to, Body::Heartbeat { commit, round });
        }
        self.confirm_rounds();
    }

    /// Takes note of heartbeats that a majority has answered.
    pub(crate) fn confirm_rounds(&mut self) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let (own, progress) = (leader.round, &leader.progress);
        let answered = |id| {
            if id == self.options.id {
                own
            } else {
                progress.get(&id).map_or(0, |p| p.acked_round)
            }
        };
        let confirmed = self.log.membership().reached(answered);
        while let Some((_, sent)) = leader
            .rounds
            .front()
            .filter(|(round, _)| *round <= confirmed)
        {
            leader.confirmed_at = Some(*sent);
            leader.rounds.pop_front();
        }
        if leader.reads.asked.is_empty() || confirmed < leader.reads.round {
            return;
        }
        let index = leader.reads.index;
        for id in leader.reads.asked.drain(..) {
            self.out.push(Action::ReadReady { id, index });
        }
        self.begin_reads();
    }
}
