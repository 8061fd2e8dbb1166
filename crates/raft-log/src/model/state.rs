//! A cluster at one moment, and what can happen to it.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::hash::DefaultHasher;

use super::Bounds;
use super::rules;
use super::server::{Done, SERVERS, Server};
use crate::{Entry, Index, Message, NodeId, ReadMode, Term};

/// Three servers, what is on the network, and what the rules must know of the past.
#[derive(Clone, Debug)]
pub struct State {
    bounds: Bounds,
    pub(super) servers: [Arc<Known>; 3],
    /// In the order of their hashes.
    network: Arc<Vec<Arc<Packet>>>,
    pub(super) past: Arc<Past>,
    used: Used,
    broken: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Past {
    pub(super) leaders: BTreeMap<Term, NodeId>,
    pub(super) committed: Vec<Entry>,
    /// What was committed when each read was asked for.
    asked_at: Vec<Index>,
}

/// How much of the bounds has been used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Used {
    elections: u64,
    commands: u64,
    reads: u64,
    heartbeats: u64,
    crashes: u64,
    /// Servers that have stood for election.
    stood: u64,
}

/// A server, hashed once for all states that it is part of.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) server: Server,
    hash: u64,
}

/// A message with its sender and receiver.
#[derive(Debug, PartialEq, Eq)]
pub struct Packet {
    from: NodeId,
    to: NodeId,
    pub(super) message: Message,
    hash: u64,
}

impl Packet {
    pub(super) fn new(from: NodeId, to: NodeId, message: Message) -> Self {
        let hash = hash(&(from, to, &message));
        Self {
            from,
            to,
            message,
            hash,
        }
    }
}

/// Something that happens to one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its time is up: a leader sends heartbeats, others stand for election.
    Timeout(NodeId),
    /// A message arrives.
    Deliver(Arc<Packet>),
    /// Its oldest write is on disk.
    Stored(NodeId),
    /// A client sends this leader a command.
    Propose(NodeId),
    /// A client asks this leader for a read.
    Read {
        /// Whom.
        id: NodeId,
        /// Counts reads.
        number: u64,
    },
    /// It stops and starts again.
    Crash {
        /// Which.
        id: NodeId,
        /// So many of the writes under way are on its disk.
        kept: usize,
    },
}

/// What an event does to the server that it happens to, whatever the others do.
#[derive(Debug)]
pub(super) struct Step {
    after: Arc<Known>,
    sent: Vec<Arc<Packet>>,
    reads: Vec<(u64, Index)>,
    broken: Option<String>,
}

impl State {
    /// All disks empty, nobody leads.
    pub fn new(bounds: Bounds) -> Self {
        let server = |id| Arc::new(Known::new(Server::new(id, bounds)));
        Self {
            bounds,
            servers: [1, 2, SERVERS].map(server),
            network: Arc::default(),
            past: Arc::default(),
            used: Used::default(),
            broken: None,
        }
    }

    /// What can happen.
    pub fn events(&self) -> Vec<Event> {
        let mut events: Vec<_> = self.network.iter().cloned().map(Event::Deliver).collect();
        for known in &self.servers {
            self.events_of(&known.server, &mut events);
        }
        events
    }

    fn events_of(&self, server: &Server, events: &mut Vec<Event>) {
        let (bounds, used, id) = (&self.bounds, &self.used, server.raft.id());
        if !server.writing.is_empty() {
            events.push(Event::Stored(id));
        }
        if server.leads() {
            if used.heartbeats < bounds.heartbeats {
                events.push(Event::Timeout(id));
            }
            if used.commands < bounds.commands {
                events.push(Event::Propose(id));
            }
            if used.reads < bounds.reads {
                let number = used.reads;
                events.push(Event::Read { id, number });
            }
        } else if server.raft.term() < bounds.terms
            && used.elections < bounds.elections
            && id <= used.stood + 1
        {
            events.push(Event::Timeout(id));
        }
        if used.crashes < bounds.crashes {
            events.extend((0..=server.writing.len()).map(|kept| Event::Crash { id, kept }));
        }
    }

    /// What follows; `None` if nothing changes.
    pub fn after(&self, event: &Event) -> Option<Self> {
        let known = self.known(event.server());
        self.with(event, &known.step(event, self.bounds))
    }

    /// Tells apart what [`step`](Known::step) depends on.
    pub(super) fn cause(&self, event: &Event) -> (u64, u64) {
        (self.known(event.server()).hash, event.hash())
    }

    pub(super) fn known(&self, id: NodeId) -> &Arc<Known> {
        &self.servers[place(id)]
    }

    /// What follows if `step` is what `event` does.
    pub(super) fn with(&self, event: &Event, step: &Step) -> Option<Self> {
        let id = event.server();
        let used = self
            .used
            .and(event, self.known(id).server.leads(), &self.bounds);
        let changed = step.after.hash != self.known(id).hash;
        let quiet = step.reads.is_empty() && step.broken.is_none();
        if quiet && !changed && used == self.used && step.sent.iter().all(|it| !self.is_new(it)) {
            return None;
        }
        let mut next = self.clone();
        next.used = used;
        next.servers[place(id)] = step.after.clone();
        for packet in &step.sent {
            next.send(packet);
        }
        next.broken = step.broken.clone().or_else(|| self.stale(&step.reads));
        next.forget(id);
        next.remember(event, &step.after.server);
        Some(next)
    }

    fn stale(&self, reads: &[(u64, Index)]) -> Option<String> {
        let asked_at = |number| {
            let place = usize::try_from(number).unwrap_or(usize::MAX);
            self.past.asked_at.get(place).copied().unwrap_or(0)
        };
        let stale = reads
            .iter()
            .find(|(number, index)| *index < asked_at(*number));
        stale.map(|(number, index)| format!("stale read: read {number} is served at {index}"))
    }

    fn is_new(&self, packet: &Packet) -> bool {
        let network = &self.network;
        let found = network.binary_search_by_key(&packet.hash, |packet| packet.hash);
        found.is_err() && self.may_hear(packet)
    }

    fn send(&mut self, packet: &Arc<Packet>) {
        let network = &self.network;
        let found = network.binary_search_by_key(&packet.hash, |packet| packet.hash);
        if let Err(place) = found
            && self.may_hear(packet)
        {
            Arc::make_mut(&mut self.network).insert(place, packet.clone());
        }
    }

    fn may_hear(&self, packet: &Packet) -> bool {
        self.known(packet.to).server.may_hear(&packet.message)
    }

    /// Drops what a server that has changed will never heed.
    fn forget(&mut self, changed: NodeId) {
        let dead = |packet: &Arc<Packet>| packet.to == changed && !self.may_hear(packet);
        if self.network.iter().any(dead) {
            let live = self.network.iter().filter(|packet| !dead(packet));
            self.network = Arc::new(live.cloned().collect());
        }
    }

    fn remember(&mut self, event: &Event, server: &Server) {
        let (raft, committed) = (&server.raft, self.past.committed_index());
        if server.leads() && !self.past.leaders.contains_key(&raft.term()) {
            let past = Arc::make_mut(&mut self.past);
            past.leaders.insert(raft.term(), raft.id());
        }
        if raft.commit() > committed {
            let new = (committed + 1..=raft.commit()).filter_map(|index| raft.log().entry(index));
            Arc::make_mut(&mut self.past).committed.extend(new.cloned());
        }
        if matches!(event, Event::Read { .. }) {
            Arc::make_mut(&mut self.past).asked_at.push(committed);
        }
    }

    /// Election safety, leader append-only, log matching, leader completeness and state machine safety (figure 3);
    /// promises only of what is on disk; what is committed is on a majority of disks; no stale read.
    ///
    /// # Errors
    ///
    /// Which is broken, and by whom.
    pub fn check(&self) -> Result<(), String> {
        match &self.broken {
            Some(broken) => Err(broken.clone()),
            None => rules::check(self),
        }
    }

    /// How far the cluster has got: the latest term that had a leader, and how many entries are committed.
    pub fn reached(&self) -> (Term, usize) {
        let latest = self.past.leaders.last_key_value();
        (
            latest.map_or(0, |(term, _)| *term),
            self.past.committed.len(),
        )
    }
}

fn place(id: NodeId) -> usize {
    usize::try_from(id - 1).unwrap_or(usize::MAX)
}

/// The rules' memory is part of a state: what is wrong depends on it.
impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for known in &self.servers {
            hasher.write_u64(known.hash);
        }
        for packet in &*self.network {
            hasher.write_u64(packet.hash);
        }
        (&self.past, self.used, &self.broken).hash(hasher);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        hash(self) == hash(other)
    }
}

impl Eq for State {}

impl Past {
    fn committed_index(&self) -> Index {
        self.committed.last().map_or(0, |entry| entry.at.index)
    }
}

impl Used {
    fn and(mut self, event: &Event, leads: bool, bounds: &Bounds) -> Self {
        match event {
            Event::Timeout(_) if leads => self.heartbeats += 1,
            Event::Timeout(id) => {
                self.stood = self.stood.max(*id);
                // Where there is no bound, counting would only tell apart what is the same.
                self.elections += u64::from(bounds.elections < u64::MAX);
            }
            Event::Propose(_) => self.commands += 1,
            Event::Read { .. } => self.reads += 1,
            Event::Crash { .. } => self.crashes += 1,
            Event::Deliver(_) | Event::Stored(_) => {}
        }
        self
    }
}

impl Known {
    fn new(server: Server) -> Self {
        let hash = hash(&server);
        Self { server, hash }
    }

    pub(super) fn step(&self, event: &Event, bounds: Bounds) -> Step {
        let mut server = self.server.clone();
        let mut broken = happen(event, &mut server, bounds).err();
        let Done {
            sent,
            reads,
            empty_promise,
        } = server.settle(bounds);
        if empty_promise {
            let id = event.server();
            broken = Some(format!("server {id} promises what is not on its disk"));
        }
        let crashed = matches!(event, Event::Crash { .. });
        broken = broken.or_else(|| rules::append_only(&self.server, &server, crashed).err());
        Step {
            after: Arc::new(Self::new(server)),
            sent,
            reads,
            broken,
        }
    }
}

fn happen(event: &Event, server: &mut Server, bounds: Bounds) -> Result<(), String> {
    match event {
        Event::Timeout(_) => server.raft.tick(0),
        Event::Stored(_) => server.write_next(),
        Event::Propose(_) => {
            let taken = server.raft.propose(0, [Arc::from([7])]);
            taken.map_err(|error| format!("a leader refuses a command: {error}"))?;
        }
        Event::Read { number, .. } => {
            let taken = server.raft.read(0, *number, ReadMode::Quorum);
            taken.map_err(|error| format!("a leader refuses a read: {error}"))?;
        }
        Event::Crash { kept, .. } => server.crash(*kept, bounds),
        Event::Deliver(packet) => {
            let heard = server.raft.receive(0, packet.from, packet.message.clone());
            heard.map_err(|error| format!("server {} finds fault: {error}", packet.to))?;
        }
    }
    Ok(())
}

impl Event {
    /// To whom it happens.
    pub fn server(&self) -> NodeId {
        match self {
            Self::Timeout(id) | Self::Stored(id) | Self::Propose(id) => *id,
            Self::Read { id, .. } | Self::Crash { id, .. } => *id,
            Self::Deliver(packet) => packet.to,
        }
    }

    fn hash(&self) -> u64 {
        match self {
            Self::Timeout(_) => 0,
            Self::Stored(_) => 1,
            Self::Propose(_) => 2,
            Self::Read { number, .. } => 256 + number,
            Self::Crash { kept, .. } => 512 + u64::try_from(*kept).unwrap_or(u64::MAX),
            Self::Deliver(packet) => packet.hash,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(id) => write!(f, "{id} times out"),
            Self::Deliver(packet) => {
                let Packet {
                    from, to, message, ..
                } = &**packet;
                write!(
                    f,
                    "{from} to {to} in term {}: {:?}",
                    message.term, message.body
                )
            }
            Self::Stored(id) => write!(f, "{id} has a write on disk"),
            Self::Propose(id) => write!(f, "{id} is sent a command"),
            Self::Read { id, .. } => write!(f, "{id} is asked for a read"),
            Self::Crash { id, kept } => {
                write!(f, "{id} crashes, {kept} more writes are on its disk")
            }
        }
    }
}

fn hash(value: &impl Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(value)
}
