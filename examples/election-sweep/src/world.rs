//! A cluster in virtual time: the shipping core, a network that takes its time, servers that stand still and crash.
//!
//! Time is in microseconds and goes from event to event, so that a month without one costs nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use anyhow::Result;
use raft_log::{
    Action, Boot, Entry, HardState, Membership, Message, NodeId, Options, Raft, Standing, Ticket,
};

use crate::chance::Chance;

/// What surrounds the servers. Times are in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings {
    pub(crate) servers: u64,
    /// A message takes this,
    pub(crate) delay: u64,
    /// and an exponential time of this mean;
    pub(crate) jitter: u64,
    /// one in so many
    pub(crate) slow_one_in: u64,
    /// an exponential time of this mean instead.
    pub(crate) slow: u64,
    /// A write to the disk.
    pub(crate) disk: u64,
    /// A server that has crashed is back after this.
    pub(crate) restart: u64,
    /// Pre-vote and check-quorum, or elections as in the paper.
    pub(crate) plain: bool,
}

enum Event {
    Deliver(NodeId, Message),
    Stored(Ticket),
    Restart,
}

struct Scheduled {
    at: u64,
    order: u64,
    to: usize,
    /// Of the server for which it was meant.
    life: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

struct Server {
    raft: Option<Raft>,
    /// What it had on its disk when it crashed.
    disk: Option<Boot>,
    life: u64,
    paused_until: u64,
}

pub(crate) struct World {
    around: Surroundings,
    timeout: u64,
    chance: Chance,
    pub(crate) now: u64,
    order: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    servers: Vec<Server>,
    /// Calls of servers' methods.
    pub(crate) steps: u64,
    /// The latest term of any server: each election has one of its own.
    pub(crate) term: u64,
    /// Who leads it and has committed an entry in it.
    pub(crate) leader: Option<usize>,
    /// When the server that stands still goes on.
    pub(crate) resume: u64,
    /// When the last message from one to another arrives: none overtakes.
    arrivals: Vec<u64>,
}

impl World {
    pub(crate) fn new(around: Surroundings, timeout: u64, seed: u64) -> Result<Self> {
        let mut world = Self {
            around,
            timeout,
            chance: Chance(seed),
            now: 0,
            order: 0,
            events: BinaryHeap::new(),
            servers: Vec::new(),
            steps: 0,
            term: 0,
            leader: None,
            resume: 0,
            arrivals: vec![0; usize::try_from(around.servers * around.servers)?],
        };
        let boot = Boot::first(Membership::of(1..=around.servers));
        for id in 1..=around.servers {
            let raft = world.raft(id, &boot)?;
            world.servers.push(Server {
                raft: Some(raft),
                disk: None,
                life: 0,
                paused_until: 0,
            });
        }
        Ok(world)
    }

    fn raft(&mut self, id: NodeId, boot: &Boot) -> Result<Raft> {
        let plain = self.around.plain;
        let options = Options {
            election_timeout: self.timeout,
            heartbeat_interval: (self.timeout / 5).max(1),
            pre_vote: !plain,
            check_quorum: !plain,
            ..Options::new(id, self.chance.next())
        };
        Ok(Raft::new(options, boot, self.now)?)
    }

    /// The next thing happens. The time until then.
    pub(crate) fn step(&mut self) -> Result<u64> {
        let before = self.now;
        let tick = (0..self.servers.len()).filter_map(|place| {
            let server = &self.servers[place];
            let deadline = server.raft.as_ref()?.deadline();
            Some((deadline.max(server.paused_until).max(self.now), place))
        });
        let tick = tick.min();
        let event = self.events.peek().map(|Reverse(event)| event.at);
        match (tick, event) {
            (Some((at, place)), event) if event.is_none_or(|event| at < event) => {
                self.now = at;
                if let Some(raft) = &mut self.servers[place].raft {
                    raft.tick(at);
                    self.settle(place);
                }
            }
            _ => {
                if let Some(Reverse(event)) = self.events.pop() {
                    self.now = event.at.max(before);
                    self.happen(event)?;
                }
            }
        }
        Ok(self.now - before)
    }

    fn happen(&mut self, mut event: Scheduled) -> Result<()> {
        let place = event.to;
        if matches!(event.event, Event::Restart) {
            return self.restart(place);
        }
        // The network does not know of lives, the disk does.
        let lives = event.life == self.servers[place].life;
        if self.servers[place].paused_until > self.now {
            event.at = self.servers[place].paused_until;
            self.events.push(Reverse(event));
            return Ok(());
        }
        let now = self.now;
        let Some(raft) = &mut self.servers[place].raft else {
            return Ok(());
        };
        match event.event {
            Event::Deliver(from, message) => raft.receive(now, from, message)?,
            Event::Stored(ticket) if lives => raft.stored(now, ticket),
            _ => return Ok(()),
        }
        self.settle(place);
        Ok(())
    }

    /// The leader, or the server after it, stands still from now on for so long.
    pub(crate) fn pause(&mut self, leader: bool, length: u64) {
        if let Some(place) = self.leader {
            let place = if leader {
                place
            } else {
                (place + 1) % self.servers.len()
            };
            self.servers[place].paused_until = self.now + length;
            self.resume = self.now + length;
        }
    }

    fn settle(&mut self, place: usize) {
        self.steps += 1;
        loop {
            let Some(raft) = &mut self.servers[place].raft else {
                return;
            };
            let (from, actions) = (raft.id(), raft.actions().collect::<Vec<_>>());
            if actions.is_empty() {
                break;
            }
            for action in actions {
                match action {
                    Action::Send { to, message } => {
                        if let Some(to) = usize::try_from(to).ok().and_then(|to| to.checked_sub(1))
                        {
                            self.send(place, to, Event::Deliver(from, message));
                        }
                    }
                    Action::Write(write) => {
                        self.schedule(self.around.disk, place, Event::Stored(write.ticket));
                    }
                    Action::Apply(entries) => self.apply(place, &entries),
                    // Nobody reads, and no log is compacted.
                    _ => {}
                }
            }
        }
        self.look(place);
    }

    fn apply(&mut self, place: usize, entries: &[Entry]) {
        if let (Some(raft), Some(last)) = (&mut self.servers[place].raft, entries.last()) {
            raft.applied(self.now, last.at.index);
        }
    }

    /// As over one stream: what is slow holds up what follows.
    fn send(&mut self, from: usize, to: usize, event: Event) {
        let arrives = self.now + self.network();
        let link = from * self.servers.len() + to;
        self.arrivals[link] = arrives.max(self.arrivals[link]);
        self.schedule(self.arrivals[link] - self.now, to, event);
    }

    fn network(&mut self) -> u64 {
        let around = self.around;
        if self.chance.below(around.slow_one_in) == 0 {
            around.delay + self.chance.exponential(around.slow)
        } else {
            around.delay + self.chance.exponential(around.jitter)
        }
    }

    fn schedule(&mut self, after: u64, to: usize, event: Event) {
        self.order += 1;
        self.events.push(Reverse(Scheduled {
            at: self.now + after,
            order: self.order,
            to,
            life: self.servers[to].life,
            event,
        }));
    }

    /// Who leads, after something has happened at `place`.
    fn look(&mut self, place: usize) {
        let Some(raft) = &self.servers[place].raft else {
            return;
        };
        if raft.term() > self.term {
            self.term = raft.term();
            self.leader = None;
        }
        let leads = raft.standing() == Standing::Leader
            && raft.term() == self.term
            && raft.log().term(raft.commit()) == Some(self.term);
        if leads {
            self.leader = Some(place);
        } else if self.leader == Some(place) {
            self.leader = None;
        }
    }

    /// The leader loses what is not on its disk, and is away for a while.
    pub(crate) fn crash_leader(&mut self) {
        let Some(place) = self.leader.take() else {
            return;
        };
        let server = &mut self.servers[place];
        server.life += 1;
        server.disk = server.raft.take().map(|raft| disk(&raft));
        self.schedule(self.around.restart, place, Event::Restart);
    }

    fn restart(&mut self, place: usize) -> Result<()> {
        if let Some(boot) = self.servers[place].disk.take() {
            let id = u64::try_from(place)? + 1;
            self.servers[place].raft = Some(self.raft(id, &boot)?);
        }
        Ok(())
    }
}

/// A vote or term not yet written is kept too: the server is then only more careful than it must be.
fn disk(raft: &Raft) -> Boot {
    let log = raft.log();
    let durable = 1..=log.durable();
    Boot {
        hard_state: HardState {
            ..raft.hard_state()
        },
        snapshot: log.snapshot().clone(),
        entries: durable
            .filter_map(|index| log.entry(index).cloned())
            .collect(),
        applied: 0,
    }
}
