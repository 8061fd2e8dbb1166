//! One server: what comes in, what goes out, and the rule that nothing is promised before it is on disk.

use alloc::collections::VecDeque;
use alloc::vec::{self, Vec};
use core::mem;

use crate::log::Log;
use crate::mutation::broken;
use crate::rng::Rng;
use crate::role::Role;
use crate::snapshot::Incoming;
use crate::{
    Action, Body, Boot, BootError, Entry, HardState, Index, Message, NodeId, Options, Position,
    Progress, Snapshot, Standing, StepError, Term, Ticket, Time, Write,
};

/// One server of a cluster. Every method that takes the time may leave [`actions`](Self::actions) to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Raft {
    pub(crate) options: Options,
    pub(crate) now: Time,
    pub(crate) rng: Rng,
    pub(crate) hard: HardState,
    pub(crate) log: Log,
    pub(crate) commit: Index,
    /// How far entries were handed to the state machine, and how far it has run them.
    pub(crate) handed: Index,
    pub(crate) applied: Index,
    pub(crate) role: Role,
    pub(crate) leader: Option<NodeId>,
    /// When a leader was last heard; followers do not vote for a while after it.
    pub(crate) contact: Option<Time>,
    pub(crate) election_deadline: Time,
    pub(crate) incoming: Option<Incoming>,
    /// What the next write will hold.
    pub(crate) write: Write,
    pub(crate) issued: Ticket,
    pub(crate) stored: Ticket,
    /// Messages that promise something, for after the write that makes it true.
    promised: Vec<(NodeId, Message)>,
    held: VecDeque<(Ticket, NodeId, Message)>,
    pub(crate) out: Vec<Action>,
}

impl Raft {
    /// Starts a server at time `now` from what its disk holds.
    ///
    /// # Errors
    ///
    /// [`BootError`] if options or disk contradict themselves.
    pub fn new(options: Options, boot: &Boot, now: Time) -> Result<Self, BootError> {
        options.validate()?;
        let log = boot.log()?;
        let mut raft = Self {
            rng: Rng(options.seed),
            options,
            now,
            hard: boot.hard_state,
            commit: boot.applied,
            handed: boot.applied,
            applied: boot.applied,
            log,
            role: Role::Follower,
            leader: None,
            // It may have acknowledged a heartbeat just before it stopped: the leader's lease counts on it.
            contact: options.lease_drift_percent.map(|_| now),
            election_deadline: now,
            incoming: None,
            write: Write::default(),
            issued: 0,
            stored: 0,
            promised: Vec::new(),
            held: VecDeque::new(),
            out: Vec::new(),
        };
        if broken!(options, VoteAfterRestart) {
            raft.contact = None;
        }
        raft.restart_election_timer();
        Ok(raft)
    }

    /// What to do now, in order. Take it after every call.
    pub fn actions(&mut self) -> vec::Drain<'_, Action> {
        self.out.drain(..)
    }

    /// The next time at which [`tick`](Self::tick) has something to do.
    pub fn deadline(&self) -> Time {
        match &self.role {
            Role::Leader(leader) => leader.heartbeat_deadline,
            _ => self.election_deadline,
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        self.advance(now);
        if let Role::Leader(_) = self.role {
            self.lead_on();
        } else if self.now >= self.election_deadline {
            self.election_timeout();
        }
        self.flush();
    }

    /// A message has arrived.
    ///
    /// # Errors
    ///
    /// [`StepError`] if no correct server would have sent it; this one goes on unharmed.
    pub fn receive(&mut self, now: Time, from: NodeId, message: Message) -> Result<(), StepError> {
        self.advance(now);
        if from == self.options.id {
            return Err(StepError::FromSelf);
        }
        let result = self.step(from, message);
        self.flush();
        result
    }

    /// Everything up to the write `ticket` is on disk. A write that failed must never be confirmed: stop the server,
    /// for what the disk holds is then unknown.
    ///
    /// # Panics
    ///
    /// If there was no such write.
    pub fn stored(&mut self, now: Time, ticket: Ticket) {
        assert!(ticket <= self.issued, "write {ticket} was never handed out");
        self.advance(now);
        self.stored = self.stored.max(ticket);
        if broken!(self.options, AbaConfirmation) && !self.log_is_empty() {
            self.log.loaded();
        }
        self.log.stored(ticket);
        if let Role::Leader(leader) = &mut self.role {
            leader.writing.retain(|(of, _)| *of > ticket);
        }
        self.release();
        if !self.advance_commit() && !self.log.membership().witnesses.is_empty() {
            self.replicate_new();
        }
        self.flush();
    }

    /// The state machine has run everything up to `index`.
    ///
    /// # Panics
    ///
    /// If it was not handed that entry.
    pub fn applied(&mut self, now: Time, index: Index) {
        assert!(index <= self.handed, "entry {index} was never handed out");
        self.advance(now);
        self.applied = self.applied.max(index);
        self.flush();
    }

    /// The state machine's state at `last`, in place of the entries up to there except the last `keep`, which let slow
    /// followers catch up without it. An older snapshot than the present one is ignored.
    ///
    /// # Panics
    ///
    /// If the state machine has not run that entry, or it is another.
    pub fn compact(&mut self, now: Time, last: Position, data: alloc::sync::Arc<[u8]>, keep: u64) {
        assert!(
            last.index <= self.applied,
            "entry {} has not run",
            last.index
        );
        self.advance(now);
        if last.index <= self.log.snapshot().last().index {
            return;
        }
        assert!(self.log.has(last), "entry {} has another term", last.index);
        let membership = self.log.membership_at(last.index).clone();
        let snapshot = Snapshot::new(last, membership, data);
        self.log.compact(snapshot.clone(), keep);
        self.write.snapshot = Some(snapshot);
        self.flush();
    }

    /// A server could not be reached: it is asked where its log ends before more is sent.
    pub fn unreachable(&mut self, node: NodeId) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(&node)
            && progress.mode == crate::Mode::Replicate
        {
            progress.probe(progress.matched + 1);
        }
    }

    /// This server's name.
    pub fn id(&self) -> NodeId {
        self.options.id
    }

    /// Its role.
    pub fn standing(&self) -> Standing {
        self.role.standing()
    }

    /// Who leads, as far as it knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Its term.
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// What it must not forget.
    pub fn hard_state(&self) -> HardState {
        self.hard
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The last entry that it knows to be committed.
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// What a leader knows of the others; nothing on other servers.
    pub fn progress(&self) -> impl Iterator<Item = (NodeId, &Progress)> {
        let leader = match &self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        };
        let all = leader.into_iter().flat_map(|leader| &leader.progress);
        all.map(|(id, progress)| (*id, progress))
    }

    /// Counts tickets from the last write that is on disk, whose number it returns, and what is held back once.
    #[cfg(feature = "model")]
    pub(crate) fn forget_tickets(&mut self) -> Ticket {
        let stored = mem::take(&mut self.stored);
        self.issued -= stored;
        self.log.forget_tickets(stored);
        let mut once: VecDeque<(Ticket, NodeId, Message)> = VecDeque::new();
        for (after, to, message) in self.held.drain(..) {
            if !once
                .iter()
                .any(|(_, id, held)| *id == to && *held == message)
            {
                once.push_back((after, to, message));
            }
        }
        self.held = once;
        for (after, ..) in &mut self.held {
            *after -= stored;
        }
        if let Role::Leader(leader) = &mut self.role {
            for (ticket, _) in &mut leader.writing {
                *ticket -= stored;
            }
        }
        stored
    }

    fn log_is_empty(&self) -> bool {
        self.log.last() == self.log.base()
    }

    /// Clocks that go backwards stand still.
    pub(crate) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// Sends at once: the message promises nothing that is not on disk already.
    pub(crate) fn send(&mut self, to: NodeId, body: Body) {
        let term = self.hard.term;
        let message = Message { term, body };
        self.out.push(Action::Send { to, message });
    }

    /// Sends once everything up to now is on disk. To itself: hears then.
    pub(crate) fn promise(&mut self, to: NodeId, term: Term, body: Body) {
        let message = Message { term, body };
        self.promised.push((to, message));
    }

    /// Appends one entry to log and write.
    pub(crate) fn append(&mut self, entry: Entry) {
        self.log.push(entry.clone());
        self.write.entries.push(entry);
    }

    /// Changes what must be on disk.
    pub(crate) fn change_hard_state(&mut self, hard: HardState) {
        if hard == self.hard {
            return;
        }
        self.hard = hard;
        let mut written = hard;
        if broken!(self.options, VoteNotPersisted) {
            written.voted_for = None;
        }
        if broken!(self.options, TermNotPersisted) {
            written = HardState {
                term: 0,
                voted_for: None,
                ..hard
            };
        }
        self.write.hard_state = Some(written);
    }

    /// Hands out the write, the messages that it does not hold back, and what may be applied.
    pub(crate) fn flush(&mut self) {
        while self.hand_out_write() | self.hand_out_promises() {}
        self.hand_out_committed();
    }

    fn hand_out_write(&mut self) -> bool {
        let write = &self.write;
        if write.hard_state.is_none() && write.snapshot.is_none() && write.entries.is_empty() {
            return false;
        }
        self.issued += 1;
        let mut write = mem::take(&mut self.write);
        write.ticket = self.issued;
        self.log.writes(self.issued);
        if let Role::Leader(leader) = &mut self.role {
            leader.writing.push_back((self.issued, self.now));
        }
        self.out.push(Action::Write(write));
        true
    }

    fn hand_out_promises(&mut self) -> bool {
        let any = !self.promised.is_empty();
        for (to, message) in self.promised.drain(..) {
            let early = match message.body {
                Body::Appended { .. } => broken!(self.options, AcknowledgeBeforeDurable),
                Body::Vote { .. } => broken!(self.options, VoteBeforeDurable),
                _ => false,
            };
            let after = if early { 0 } else { self.issued };
            self.held.push_back((after, to, message));
        }
        self.release();
        any
    }

    /// Lets go what was held back and is true by now.
    fn release(&mut self) {
        let stored = self.stored;
        while let Some((_, to, message)) = self.held.pop_front_if_stored(stored) {
            if to == self.options.id {
                self.hear_self(&message);
            } else {
                self.out.push(Action::Send { to, message });
            }
        }
    }

    /// Hands the state machine what is committed and on this disk, a limited amount at a time.
    fn hand_out_committed(&mut self) {
        let ready = self.commit.min(self.log.durable());
        if self.handed != self.applied || self.handed >= ready {
            return;
        }
        let snapshot = self.log.snapshot();
        if self.handed < snapshot.last().index {
            self.handed = snapshot.last().index;
            self.out.push(Action::Restore(snapshot.clone()));
            return;
        }
        let entries = self
            .log
            .slice(self.handed + 1, ready, self.options.apply_bytes);
        if let Some(last) = entries.last() {
            self.handed = last.at.index;
            self.out.push(Action::Apply(entries));
        }
    }
}

/// The queue of held messages is in the order of its tickets.
trait Held {
    fn pop_front_if_stored(&mut self, stored: Ticket) -> Option<(Ticket, NodeId, Message)>;
}

impl Held for VecDeque<(Ticket, NodeId, Message)> {
    fn pop_front_if_stored(&mut self, stored: Ticket) -> Option<(Ticket, NodeId, Message)> {
        self.front().filter(|(after, ..)| *after <= stored)?;
        self.pop_front()
    }
}
