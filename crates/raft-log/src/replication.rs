//! What a leader sends, and what it makes of the answers (section 5.3).

use crate::mutation::broken;
use crate::progress::Mode;
use crate::raft::Raft;
use crate::role::Role;
use crate::{Body, Entries, Entry, Index, NodeId, Position, SnapshotId, StepError};

impl Raft {
    pub(crate) fn lead_follower(&mut self, from: NodeId, body: &Body) -> Result<(), StepError> {
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else {
            return Ok(());
        };
        let Some(progress) = leader.progress.get_mut(&from) else {
            return Ok(());
        };
        progress.active = true;
        match *body {
            Body::Appended { index } if index > last => return Err(StepError::NeverSent(index)),
            Body::Appended { index } => self.hear_appended(from, index),
            Body::Rejected { prev, hint, lost } => self.hear_rejected(from, prev, hint, lost),
            Body::HeartbeatAck { round } => self.hear_heartbeat_ack(from, round),
            Body::ChunkAck { of, offset } => self.hear_chunk_ack(from, of, offset),
            _ => {}
        }
        Ok(())
    }

    fn hear_appended(&mut self, from: NodeId, index: Index) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.progress.get_mut(&from) else {
            return;
        };
        progress.arrived(index);
        let caught_up = match &progress.mode {
            Mode::Probe { .. } => true,
            Mode::Replicate => false,
            Mode::Snapshot { snapshot, .. } => index >= snapshot.last().index,
        };
        if caught_up {
            progress.replicate();
        }
        if !self.advance_commit() {
            self.replicate(from, false);
        }
        self.continue_transfer(from);
    }

    fn hear_rejected(&mut self, from: NodeId, prev: Index, hint: Position, lost: bool) {
        let agreed = self.log.agree_before(hint.index, hint.term).index;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.progress.get_mut(&from) else {
            return;
        };
        if lost {
            progress.matched = 0;
        }
        if broken!(self.options, MatchedFromRejection) {
            progress.matched = progress.matched.max(hint.index);
        }
        let stale = match progress.mode {
            Mode::Probe { .. } => progress.next != prev.saturating_add(1),
            Mode::Replicate => prev <= progress.matched,
            Mode::Snapshot { .. } => true,
        };
        if stale && !lost {
            return;
        }
        progress.probe(agreed.min(prev.saturating_sub(1)) + 1);
        self.replicate(from, true);
    }

    fn hear_chunk_ack(&mut self, from: NodeId, of: SnapshotId, arrived: u64) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.progress.get_mut(&from) else {
            return;
        };
        if let Mode::Snapshot { snapshot, offset } = &mut progress.mode
            && snapshot.id() == of
            && arrived <= of.size
        {
            *offset = arrived;
            self.send_chunk(from);
        }
    }

    /// Sends as much as the limits allow to everybody, and the new commit index.
    pub(crate) fn replicate_to_all(&mut self) {
        self.replicate_to_each(true);
    }

    pub(crate) fn replicate_to_each(&mut self, even_empty: bool) {
        let mut next = self.follower_from(0);
        while let Some(id) = next {
            self.replicate(id, even_empty);
            next = id.checked_add(1).and_then(|id| self.follower_from(id));
        }
    }

    /// The leader's follower with the least name that is no less than `id`.
    fn follower_from(&self, id: NodeId) -> Option<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.progress.range(id..).next().map(|(id, _)| *id),
            _ => None,
        }
    }

    /// Sends what is new; with `even_empty` at least one message if the limits allow it.
    pub(crate) fn replicate(&mut self, to: NodeId, even_empty: bool) {
        let mut even_empty = even_empty;
        while self.send_append(to, even_empty, false) {
            even_empty = false;
        }
    }

    /// One message of entries, or of none if `even_empty`. Whether there may be more to send.
    pub(crate) fn send_append(&mut self, to: NodeId, even_empty: bool, even_paused: bool) -> bool {
        let withhold = self.log.membership().is_witness(to);
        // A witness must not be the only one to have an entry: nobody could lead.
        let last = if withhold {
            self.log.durable()
        } else {
            self.log.last().index
        };
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        let Some(progress) = leader.progress.get_mut(&to) else {
            return false;
        };
        let paused = progress.is_paused(&self.options);
        if paused && !even_paused || !even_empty && progress.next > last {
            return false;
        }
        let prev = progress.next - 1;
        let Some(term) = self.log.term(prev) else {
            let snapshot = self.log.snapshot();
            let snapshot = if withhold {
                snapshot.without_data()
            } else {
                snapshot.clone()
            };
            progress.mode = Mode::Snapshot {
                snapshot,
                offset: 0,
            };
            self.send_chunk(to);
            return false;
        };
        let mut entries = if paused {
            Entries::new()
        } else {
            self.log
                .slice(progress.next, last, self.options.append_bytes)
        };
        if withhold {
            entries
                .iter_mut()
                .for_each(|entry| *entry = entry.without_command());
        }
        let sent_last = entries.last().map_or(prev, |entry| entry.at.index);
        progress.sent(sent_last, entries.iter().map(Entry::size).sum());
        let prev = Position { term, index: prev };
        let body = Body::Append {
            prev,
            commit: self.commit,
            entries,
        };
        self.send(to, body);
        sent_last > prev.index
    }

    /// The piece of the snapshot that the follower waits for.
    pub(crate) fn send_chunk(&mut self, to: NodeId) {
        let limit = self.options.chunk_bytes;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.progress.get_mut(&to) else {
            return;
        };
        if let Mode::Snapshot { snapshot, offset } = &progress.mode {
            let body = Body::Chunk {
                of: snapshot.id(),
                membership: snapshot.membership().clone(),
                offset: *offset,
                bytes: snapshot.chunk(*offset, limit),
            };
            self.send(to, body);
        }
    }

    /// Commits what a majority holds on disk, if it is of this term (section 5.4.2). Whether anything was.
    pub(crate) fn advance_commit(&mut self) -> bool {
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        let own = self.log.durable();
        let matched = |id| {
            if id == self.options.id {
                own
            } else {
                leader.progress.get(&id).map_or(0, |p| p.matched)
            }
        };
        let membership = self.log.membership();
        let mut reached = membership.reached(matched);
        if broken!(self.options, CommitWithoutMajority) {
            reached = membership
                .members()
                .into_iter()
                .map(matched)
                .max()
                .unwrap_or(0);
        }
        if broken!(self.options, JointCountsNewOnly) {
            reached = membership.leave().reached(matched);
        }
        let own_term =
            self.log.term(reached) == Some(self.hard.term) || broken!(self.options, CommitOldTerm);
        if reached <= self.commit || !own_term {
            return false;
        }
        for index in (self.commit + 1).max(leader.first)..=reached {
            let size = self.log.entry(index).map_or(0, Entry::size);
            leader.uncommitted_bytes = leader.uncommitted_bytes.saturating_sub(size);
        }
        self.commit = reached;
        self.tell_commit();
        self.continue_change();
        self.begin_reads();
        true
    }

    /// To whom everything was sent, only how far it is committed.
    fn tell_commit(&mut self) {
        let mut next = self.follower_from(0);
        while let Some(id) = next {
            match self.sent_to_end(id) {
                Some(last) => self.send(
                    id,
                    Body::Committed {
                        last,
                        index: self.commit,
                    },
                ),
                None => self.replicate(id, true),
            }
            next = id.checked_add(1).and_then(|id| self.follower_from(id));
        }
    }

    /// The end of the log, if all of it is on its way to that follower.
    fn sent_to_end(&self, id: NodeId) -> Option<Position> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let progress = leader.progress.get(&id)?;
        let last = self.log.last();
        let sent = progress.mode == Mode::Replicate && progress.next > last.index;
        sent.then_some(last)
    }

    /// Heartbeats, and whether a majority and the disk are still there.
    pub(crate) fn lead_on(&mut self) {
        let timeout = self.options.election_timeout;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let hung = leader
            .writing
            .front()
            .is_some_and(|(_, since)| self.now.saturating_sub(*since) > timeout);
        if leader
            .transfer
            .as_ref()
            .is_some_and(|transfer| self.now >= transfer.deadline)
        {
            leader.transfer = None;
        }
        if self.options.check_quorum && (hung || self.now >= leader.quorum_deadline) {
            leader.quorum_deadline = self.now.saturating_add(timeout);
            let heard = |id| {
                id == self.options.id
                    || leader
                        .progress
                        .get(&id)
                        .is_some_and(|progress| progress.active)
            };
            if hung || !self.log.membership().agreed(heard) {
                return self.follow(self.hard.term, None);
            }
            leader
                .progress
                .values_mut()
                .for_each(|progress| progress.active = false);
        }
        if self.now >= leader.heartbeat_deadline {
            self.heartbeat();
        }
    }

    fn hear_heartbeat_ack(&mut self, from: NodeId, round: u64) {
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(progress) = leader.progress.get_mut(&from) else {
            return;
        };
        if round <= leader.round {
            progress.acked_round = progress.acked_round.max(round);
        }
        progress.nudge();
        let probing = matches!(progress.mode, Mode::Probe { .. });
        let (behind, snapshot) = (
            probing || progress.matched < last,
            matches!(progress.mode, Mode::Snapshot { .. }),
        );
        if snapshot {
            self.send_chunk(from);
        } else if behind {
            // Whatever was lost, the answer to this tells.
            self.send_append(from, true, true);
        }
        self.confirm_rounds();
    }
}
