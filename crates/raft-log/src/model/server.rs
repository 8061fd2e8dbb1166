//! One server with its disk.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Bounds;
use super::state::Packet;
use crate::rng::Rng;
use crate::role::Role;
use crate::{
    Action, Body, Boot, Entry, HardState, Index, Membership, Message, NodeId, Options, Raft,
    Standing, Write,
};

pub(super) const SERVERS: u64 = 3;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub(super) raft: Raft,
    pub(super) disk: Disk,
    /// On their way to the disk.
    pub(super) writing: VecDeque<Write>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    pub(super) hard_state: HardState,
    pub(super) entries: Vec<Entry>,
}

/// What a server does after an event.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) sent: Vec<Arc<Packet>>,
    /// How far the reads that may be served must see.
    pub(super) reads: Vec<(u64, Index)>,
    /// It says something that its disk does not hold.
    pub(super) empty_promise: bool,
}

impl Server {
    pub(super) fn new(id: NodeId, bounds: Bounds) -> Self {
        let disk = Disk::default();
        Self {
            raft: disk.boot(id, bounds),
            disk,
            writing: VecDeque::new(),
        }
    }

    pub(super) fn leads(&self) -> bool {
        self.raft.standing() == Standing::Leader
    }

    /// The oldest write reaches the disk.
    pub(super) fn write_next(&mut self) {
        if let Some(write) = self.writing.pop_front() {
            let ticket = write.ticket;
            self.disk.put(write);
            self.raft.stored(0, ticket);
        }
    }

    /// Stops when `kept` more writes are on the disk, and starts again.
    pub(super) fn crash(&mut self, kept: usize, bounds: Bounds) {
        for write in self.writing.drain(..).take(kept) {
            self.disk.put(write);
        }
        self.raft = self.disk.boot(self.raft.id(), bounds);
    }

    /// Does what it wants done, and forgets what only tells how this state was reached.
    pub(super) fn settle(&mut self, bounds: Bounds) -> Done {
        let mut done = Done::default();
        loop {
            let actions: Vec<_> = self.raft.actions().collect();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.act(action, &mut done);
            }
            while !bounds.late_disks && !self.writing.is_empty() {
                self.write_next();
            }
        }
        self.forget_path();
        let lost = |packet: &Arc<Packet>| bounds.heartbeats == 0 && is_heartbeat(&packet.message);
        done.sent.retain(|packet| !lost(packet));
        done
    }

    fn act(&mut self, action: Action, done: &mut Done) {
        match action {
            Action::Send { to, message } => {
                done.empty_promise |= !self.disk.holds(to, &message);
                let packet = Packet::new(self.raft.id(), to, message);
                done.sent.push(Arc::new(packet));
            }
            Action::Write(write) => self.writing.push_back(write),
            Action::Apply(entries) => {
                let last = entries.last().map_or(0, |entry| entry.at.index);
                self.raft.applied(0, last);
            }
            Action::ReadReady { id, index } => done.reads.push((id, index)),
            Action::Restore(_) | Action::ReadFailed { .. } => {}
        }
    }

    /// Whether a message may ever do anything here. An answer is for who asked in that term.
    pub(super) fn may_hear(&self, message: &Message) -> bool {
        let durable = self.disk.hard_state.term;
        let asks = match message.body {
            Body::Vote { .. } => self.raft.standing() == Standing::Candidate,
            Body::Appended { .. } | Body::Rejected { .. } | Body::HeartbeatAck { .. } => {
                self.leads()
            }
            _ => return true,
        };
        let here = asks && message.term == self.raft.term();
        here || message.term > durable
    }

    /// Timers may go off at any moment; tickets count from the last write that is on disk.
    fn forget_path(&mut self) {
        let raft = &mut self.raft;
        raft.rng = Rng(0);
        raft.election_deadline = 0;
        raft.contact = None;
        let stored = raft.forget_tickets();
        for write in &mut self.writing {
            write.ticket -= stored;
        }
        if let Role::Leader(leader) = &mut raft.role {
            leader.heartbeat_deadline = 0;
            leader.quorum_deadline = 0;
            leader.confirmed_at = None;
            leader.rounds.clear();
            for progress in leader.progress.values_mut() {
                progress.active = true;
            }
        }
    }
}

impl Disk {
    fn boot(&self, id: NodeId, bounds: Bounds) -> Raft {
        let options = Options {
            pre_vote: false,
            check_quorum: false,
            // One entry in each message.
            append_bytes: 0,
            #[cfg(feature = "mutation")]
            mutation: bounds.mutation,
            ..Options::new(id, 0)
        };
        let _ = bounds;
        let boot = Boot {
            hard_state: self.hard_state,
            entries: self.entries.clone(),
            ..Boot::first(Membership::of(1..=SERVERS))
        };
        let mut raft = Raft::new(options, &boot, 0).expect("a disk that this code wrote");
        raft.rng = Rng(0);
        raft.election_deadline = 0;
        raft
    }

    fn put(&mut self, write: Write) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(first) = write.entries.first() {
            let first = first.at.index;
            self.entries.retain(|entry| entry.at.index < first);
        }
        self.entries.extend(write.entries);
    }

    fn holds(&self, to: NodeId, message: &Message) -> bool {
        let hard = self.hard_state;
        match message.body {
            Body::Vote { granted: true, .. } => {
                hard.term > message.term || hard.term == message.term && hard.voted_for == Some(to)
            }
            Body::Appended { index } => self.last() >= index,
            _ => true,
        }
    }

    pub(super) fn last(&self) -> Index {
        self.entries.last().map_or(0, |entry| entry.at.index)
    }
}

fn is_heartbeat(message: &Message) -> bool {
    let body = &message.body;
    matches!(body, Body::Heartbeat { .. } | Body::HeartbeatAck { .. })
}
