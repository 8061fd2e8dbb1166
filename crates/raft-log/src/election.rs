//! Terms, votes and timeouts (section 5.2; Ongaro 2014, sections 3.4 and 9.6).

use alloc::boxed::Box;

use crate::leader::Leader;
use crate::membership::Tally;
use crate::mutation::broken;
use crate::progress::Progress;
use crate::raft::Raft;
use crate::role::{Role, Votes};
use crate::{Action, Body, Entry, HardState, Message, NodeId, Payload, Position, StepError, Term};

impl Raft {
    /// Takes a message: terms first, then what it says.
    pub(crate) fn step(&mut self, from: NodeId, message: Message) -> Result<(), StepError> {
        let Message { term, body } = message;
        if self.ignores(&body) {
            return Ok(());
        }
        if term < self.hard.term && !self.accepts_old_term(&body) {
            self.answer_old_term(from, &body);
            return Ok(());
        }
        let asks_only = matches!(
            body,
            Body::RequestVote { pre: true, .. }
                | Body::Vote {
                    pre: true,
                    granted: true
                }
        );
        if term > self.hard.term && !asks_only {
            self.follow(term, None);
        }
        match body {
            Body::RequestVote { pre, last, .. } => self.hear_request(from, term, pre, last),
            Body::Vote { pre, granted } => self.hear_vote(from, term, pre, granted),
            Body::Append { .. }
            | Body::Committed { .. }
            | Body::Heartbeat { .. }
            | Body::Chunk { .. } => {
                self.hear_leader(from)?;
                self.follow_leader(from, body)?;
            }
            Body::TimeoutNow => self.hear_timeout_now(),
            Body::Appended { .. }
            | Body::Rejected { .. }
            | Body::HeartbeatAck { .. }
            | Body::ChunkAck { .. } => {
                self.lead_follower(from, &body)?;
            }
        }
        Ok(())
    }

    /// Requests for votes while a leader is heard come from a server that is cut off from it, or no member any more.
    fn ignores(&self, body: &Body) -> bool {
        matches!(
            body,
            Body::RequestVote {
                transfer: false,
                ..
            }
        ) && self.hears_leader()
    }

    fn hears_leader(&self) -> bool {
        let recent = |contact| self.now < self.options.election_timeout.saturating_add(contact);
        self.options.check_quorum
            && (matches!(self.role, Role::Leader(_)) || self.contact.is_some_and(recent))
    }

    #[cfg_attr(
        not(feature = "mutation"),
        expect(clippy::unused_self, reason = "only planted bugs look")
    )]
    fn accepts_old_term(&self, body: &Body) -> bool {
        match body {
            Body::Vote { .. } => broken!(self.options, CountOldVotes),
            _ => broken!(self.options, ObeyOldTerm),
        }
    }

    /// Tells a leader or candidate of an earlier term that its time is over.
    fn answer_old_term(&mut self, from: NodeId, body: &Body) {
        let answer = match body {
            Body::Append { prev, .. } => Body::Rejected {
                prev: prev.index,
                hint: Position::default(),
                lost: false,
            },
            Body::Committed { .. } | Body::Heartbeat { .. } | Body::Chunk { .. } => {
                Body::HeartbeatAck { round: 0 }
            }
            Body::RequestVote { pre, .. } => Body::Vote {
                pre: *pre,
                granted: false,
            },
            _ => return,
        };
        self.promise(from, self.hard.term, answer);
    }

    /// Becomes a follower, in a new term or of a leader found.
    pub(crate) fn follow(&mut self, term: Term, leader: Option<NodeId>) {
        if term != self.hard.term {
            self.change_hard_state(HardState {
                term,
                voted_for: None,
                ..self.hard
            });
        }
        if let Role::Leader(leader) = core::mem::replace(&mut self.role, Role::Follower) {
            for id in leader.reads.ids() {
                self.out.push(Action::ReadFailed { id });
            }
            self.restart_election_timer();
        }
        self.leader = leader;
    }

    fn hear_leader(&mut self, from: NodeId) -> Result<(), StepError> {
        if matches!(self.role, Role::Leader(_)) || self.leader.is_some_and(|leader| leader != from)
        {
            return Err(StepError::SecondLeader(from));
        }
        self.follow(self.hard.term, Some(from));
        self.contact = Some(self.now);
        self.restart_election_timer();
        Ok(())
    }

    /// Picks the next random timeout.
    pub(crate) fn restart_election_timer(&mut self) {
        let timeout = self.options.election_timeout;
        let wait = timeout.saturating_add(self.rng.below(timeout));
        self.election_deadline = self.now.saturating_add(wait);
    }

    pub(crate) fn election_timeout(&mut self) {
        self.restart_election_timer();
        if self.may_stand() {
            self.leader = None;
            self.stand(self.options.pre_vote, false);
        }
    }

    /// Whether it may be elected: a voter with all the entries that it has ever acknowledged. Where the entry that ends
    /// its vote may not be committed, nobody else may have it, so it must still be able to spread it (Ongaro 2014,
    /// section 4.2.2).
    pub(crate) fn may_stand(&self) -> bool {
        let id = self.options.id;
        let whole = self.log.last() >= self.hard.floor || broken!(self.options, ForgetFloor);
        let begins = self.log.membership_index();
        let uncommitted = begins > self.commit;
        let before = uncommitted && self.log.membership_at(begins - 1).may_lead(id);
        whole && (self.log.membership().may_lead(id) || before)
    }

    /// Asks everybody for their vote, or for whether they would give it.
    pub(crate) fn stand(&mut self, pre: bool, transfer: bool) {
        let Some(term) = self.hard.term.checked_add(1) else {
            return;
        };
        self.leader = None;
        if pre {
            self.role = Role::PreCandidate(Votes::new());
        } else {
            let voted_for = Some(self.options.id);
            self.change_hard_state(HardState {
                term,
                voted_for,
                ..self.hard
            });
            self.role = Role::Candidate(Votes::new());
        }
        let last = self.log.last();
        for id in self.log.membership().clone().members() {
            let body = if id == self.options.id {
                Body::Vote { pre, granted: true }
            } else {
                Body::RequestVote {
                    pre,
                    last,
                    transfer,
                }
            };
            self.promise(id, term, body);
        }
    }

    /// Its own vote, once it is on disk.
    pub(crate) fn hear_self(&mut self, message: &Message) {
        if let Body::Vote { pre, granted } = message.body {
            self.hear_vote(self.options.id, message.term, pre, granted);
        }
    }

    fn hear_request(&mut self, from: NodeId, term: Term, pre: bool, last: Position) {
        let free = match self.hard.voted_for {
            None => true,
            Some(id) => id == from || broken!(self.options, VoteTwice),
        };
        let may = if pre { term > self.hard.term } else { free };
        let granted = may && self.is_up_to_date(last);
        let answered_in = if pre && granted { term } else { self.hard.term };
        if granted && !pre {
            self.change_hard_state(HardState {
                voted_for: Some(from),
                ..self.hard
            });
            self.restart_election_timer();
        }
        self.promise(from, answered_in, Body::Vote { pre, granted });
    }

    /// Section 5.4.1, with what this server has acknowledged and lost.
    fn is_up_to_date(&self, last: Position) -> bool {
        if broken!(self.options, VoteForLongestLog) {
            return last.index >= self.log.last().index.max(self.hard.floor.index);
        }
        if broken!(self.options, VoteForAnyLog) {
            return last.index >= self.commit;
        }
        if broken!(self.options, ForgetFloor) {
            return last >= self.log.last();
        }
        last >= self.log.last().max(self.hard.floor)
    }

    fn hear_vote(&mut self, from: NodeId, term: Term, pre: bool, granted: bool) {
        let asked = if pre {
            self.hard.term.checked_add(1)
        } else {
            Some(self.hard.term)
        };
        let current = Some(term) == asked || (!granted && term == self.hard.term);
        let current = current || self.counts_any_vote();
        let votes = match &mut self.role {
            Role::PreCandidate(votes) if pre => votes,
            Role::Candidate(votes) if !pre || broken!(self.options, CountPreVotes) => votes,
            _ => return,
        };
        if !current {
            return;
        }
        votes.insert(from, granted || broken!(self.options, CountRejection));
        if broken!(self.options, ElectWithoutMajority) && votes.values().any(|vote| *vote) {
            return self.win(pre);
        }
        match self.log.membership().tally(|id| votes.get(&id).copied()) {
            Tally::Won => self.win(pre),
            Tally::Lost => self.follow(self.hard.term, None),
            Tally::Open => {}
        }
    }

    #[cfg_attr(
        not(feature = "mutation"),
        expect(clippy::unused_self, reason = "only planted bugs look")
    )]
    fn counts_any_vote(&self) -> bool {
        let old = broken!(self.options, CountOldVotes);
        old || broken!(self.options, CountPreVotes)
    }

    fn win(&mut self, pre: bool) {
        if pre {
            self.stand(false, false);
        } else {
            self.lead();
        }
    }

    /// Begins to lead, with an entry of its own that commits all before it.
    fn lead(&mut self) {
        let last = self.log.last().index;
        let mut leader = Leader::new(last + 1, self.now, self.options.election_timeout);
        for id in self.log.membership().members() {
            if id != self.options.id {
                leader.progress.insert(id, Progress::new(last + 1));
            }
        }
        self.leader = Some(self.options.id);
        self.role = Role::Leader(Box::new(leader));
        if !broken!(self.options, NoEmptyEntry) {
            self.append_own(self.first_payload());
        }
        self.lead_on();
        self.replicate_to_all();
    }

    /// Servers that join later were not told the first members: the log says them.
    fn first_payload(&self) -> Payload {
        if self.log.membership_index() == 0 {
            Payload::Membership(self.log.membership().clone())
        } else {
            Payload::Empty
        }
    }

    /// Appends an entry of this term.
    pub(crate) fn append_own(&mut self, payload: Payload) -> Position {
        let at = Position {
            term: self.hard.term,
            index: self.log.last().index + 1,
        };
        let entry = Entry { at, payload };
        if let Role::Leader(leader) = &mut self.role {
            leader.uncommitted_bytes += entry.size();
        }
        self.append(entry);
        at
    }
}
