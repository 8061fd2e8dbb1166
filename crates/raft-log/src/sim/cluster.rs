//! The world: events in the order of time, servers, and what goes wrong.

mod mischief;

use alloc::collections::{BTreeMap, BTreeSet, BinaryHeap};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;

use super::clients::{Clients, Request};
use super::disk::Disk;
use super::invariants::Truth;
use super::machine::{Command, Machine};
use super::{Fault, Outcome, Scenario, Violation};
use crate::rng::Rng;
use crate::{
    Action, Boot, Index, Membership, Message, NodeId, Options, Payload, Position, Raft, ReadMode,
    Standing, Ticket,
};

const CLIENTS: u64 = 4;
const ELECTION_TIMEOUT: u64 = 150;
/// Milliseconds without faults after which the cluster must work again.
const RECOVERY: u64 = 6_000;
/// Calls after which a run is cut short.
const STEPS_MAX: u64 = 400_000;

#[derive(Debug)]
enum Event {
    Deliver {
        to: NodeId,
        from: NodeId,
        message: Message,
    },
    Tick {
        node: NodeId,
        life: u64,
    },
    Stored {
        node: NodeId,
        life: u64,
        ticket: Ticket,
    },
    Applied {
        node: NodeId,
        life: u64,
        index: Index,
    },
    Ask {
        client: u64,
        of: NodeId,
        request: Request,
    },
    Turn {
        client: u64,
    },
    Start {
        node: NodeId,
    },
    Mischief,
}

struct Scheduled {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// One server with what surrounds it.
struct Server {
    raft: Option<Raft>,
    machine: Machine,
    machine_at: Index,
    /// Its starts so far; events of earlier lives are void.
    life: u64,
    paused_until: u64,
    /// Percent of the true speed.
    clock_speed: u64,
    tick_at: u64,
    stored_at: u64,
    /// Reads that the server was asked for: client and key.
    reads: BTreeMap<u64, (u64, u64)>,
    /// Reads that wait for the state machine: index, client, number, key.
    ready: Vec<(Index, u64, u64, u64)>,
}

/// Limits of messages, small ones so that much happens between two; and how often something goes wrong.
struct Limits {
    append_bytes: u64,
    chunk_bytes: usize,
    mischief: u64,
}

impl Limits {
    fn draw(rng: &mut Rng) -> Self {
        let coin = rng.below(2) == 0;
        Self {
            append_bytes: if rng.below(2) == 0 { 70 } else { 400 },
            chunk_bytes: if coin { 16 } else { 64 },
            mischief: if rng.below(3) == 0 { 40 } else { 200 },
        }
    }
}

pub(crate) struct Cluster<'a> {
    scenario: &'a Scenario,
    rng: Rng,
    now: u64,
    order: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    servers: BTreeMap<NodeId, Server>,
    disks: BTreeMap<NodeId, Disk>,
    /// Directions in which nothing passes.
    cut: BTreeSet<(NodeId, NodeId)>,
    truth: Truth,
    clients: Clients,
    healed: bool,
    limits: Limits,
    steps: u64,
    violation: Option<Violation>,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(scenario: &'a Scenario) -> Self {
        let mut cluster = Self {
            scenario,
            limits: Limits::draw(&mut Rng(scenario.seed ^ 0x11_11)),
            rng: Rng(scenario.seed ^ 0x5eed),
            now: 0,
            order: 0,
            events: BinaryHeap::new(),
            servers: BTreeMap::new(),
            disks: BTreeMap::new(),
            cut: BTreeSet::new(),
            truth: Truth::default(),
            clients: Clients::new(),
            healed: false,
            steps: 0,
            violation: None,
        };
        let mut membership = Membership::of(1..=scenario.servers);
        if scenario.witness {
            membership.witnesses.insert(scenario.servers);
        }
        for node in 1..=scenario.servers {
            cluster.add(node, Boot::first(membership.clone()));
        }
        for client in 1..=CLIENTS {
            cluster.schedule(client, Event::Turn { client });
        }
        cluster.schedule(100, Event::Mischief);
        cluster
    }

    pub(crate) fn run(mut self, trace: &mut dyn FnMut(fmt::Arguments<'_>)) -> Outcome {
        while self.violation.is_none() && self.steps < STEPS_MAX {
            let Some(Reverse(next)) = self.events.pop() else {
                break;
            };
            self.now = next.at;
            if self.now >= self.scenario.duration && !self.healed {
                self.heal();
            }
            if self.now >= self.scenario.duration + RECOVERY {
                break;
            }
            trace(format_args!("{:>6} {:?}", self.now, next.event));
            if let Err(what) = self.happen(next.event) {
                self.fail(what);
            }
        }
        let (committed, answered) = (self.truth.committed(), self.clients.answered);
        if self.violation.is_none()
            && self.is_recoverable()
            && let Err(what) = self.check_recovery()
        {
            self.fail(what);
        }
        let clients = core::mem::replace(&mut self.clients, Clients::new());
        if self.violation.is_none()
            && let Err(what) = clients.verdict()
        {
            self.fail(what);
        }
        Outcome {
            steps: self.steps,
            committed,
            answered,
            violation: self.violation,
        }
    }

    fn fail(&mut self, what: String) {
        self.violation = Some(Violation { at: self.now, what });
    }

    fn schedule(&mut self, after: u64, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    fn schedule_at(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse(Scheduled {
            at,
            order: self.order,
            event,
        }));
    }

    fn add(&mut self, node: NodeId, boot: Boot) {
        let clock_speed = if self.scenario.has(Fault::Drift) {
            91 + self.rng.below(19)
        } else {
            100
        };
        let seed = self
            .scenario
            .bytes
            .then_some(self.scenario.seed ^ node << 32);
        self.disks.insert(node, Disk::new(boot, seed));
        let server = Server {
            raft: None,
            machine: Machine::default(),
            machine_at: 0,
            life: 0,
            paused_until: 0,
            clock_speed,
            tick_at: 0,
            stored_at: 0,
            reads: BTreeMap::new(),
            ready: Vec::new(),
        };
        self.servers.insert(node, server);
        self.schedule(0, Event::Start { node });
    }

    fn options(&mut self, node: NodeId) -> Options {
        Options {
            election_timeout: ELECTION_TIMEOUT,
            heartbeat_interval: 30,
            lease_drift_percent: self.scenario.lease.then_some(10),
            append_bytes: self.limits.append_bytes,
            in_flight: 4,
            in_flight_bytes: 1 << 20,
            uncommitted_bytes: 1 << 16,
            apply_bytes: 500,
            chunk_bytes: self.limits.chunk_bytes,
            #[cfg(feature = "mutation")]
            mutation: self.scenario.mutation,
            ..Options::new(node, self.rng.next())
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver { to, from, message } => {
                let later = (to, Event::Deliver { to, from, message });
                self.on(later, |raft, now, event| {
                    let Event::Deliver { from, message, .. } = event else {
                        return Ok(());
                    };
                    raft.receive(now, from, message)
                        .map_err(|error| format!("server {}: {error}", raft.id()))
                })
            }
            Event::Tick { node, life } if self.lives(node, life) => {
                self.on((node, Event::Tick { node, life }), |raft, now, _| {
                    raft.tick(now);
                    Ok(())
                })
            }
            Event::Stored { node, life, ticket } if self.lives(node, life) => {
                if let Some(disk) = self.disks.get_mut(&node) {
                    disk.store(ticket);
                }
                self.on(
                    (node, Event::Stored { node, life, ticket }),
                    |raft, now, event| {
                        if let Event::Stored { ticket, .. } = event {
                            raft.stored(now, ticket);
                        }
                        Ok(())
                    },
                )
            }
            Event::Applied { node, life, index } if self.lives(node, life) => self.on(
                (node, Event::Applied { node, life, index }),
                |raft, now, event| {
                    if let Event::Applied { index, .. } = event {
                        raft.applied(now, index);
                    }
                    Ok(())
                },
            ),
            Event::Ask {
                client,
                of,
                request,
            } => self.ask(client, of, request),
            Event::Turn { client } => {
                let servers: Vec<_> = self.servers.keys().copied().collect();
                let (of, request) = self.clients.turn(client, &servers, &mut self.rng);
                let wait = self.network_delay();
                self.schedule(
                    wait,
                    Event::Ask {
                        client,
                        of,
                        request,
                    },
                );
                let next = 20 + self.rng.below(80);
                self.schedule(next, Event::Turn { client });
                Ok(())
            }
            Event::Start { node } => self.start(node),
            Event::Mischief => self.mischief(),
            _ => Ok(()),
        }
    }

    fn lives(&self, node: NodeId, life: u64) -> bool {
        self.servers
            .get(&node)
            .is_some_and(|server| server.life == life && server.raft.is_some())
    }

    fn clock(&self, node: NodeId) -> u64 {
        self.servers
            .get(&node)
            .map_or(0, |server| self.now * server.clock_speed / 100)
    }

    /// Calls a server, does what it says, and looks at what came of it. A paused server does it later.
    fn on(
        &mut self,
        (node, event): (NodeId, Event),
        call: impl FnOnce(&mut Raft, u64, Event) -> Result<(), String>,
    ) -> Result<(), String> {
        let clock = self.clock(node);
        let Some(server) = self.servers.get_mut(&node) else {
            return Ok(());
        };
        if self.now < server.paused_until {
            let until = server.paused_until;
            self.schedule_at(until, event);
            return Ok(());
        }
        let Some(raft) = &mut server.raft else {
            return Ok(());
        };
        self.steps += 1;
        call(raft, clock, event)?;
        self.settle(node)
    }

    fn settle(&mut self, node: NodeId) -> Result<(), String> {
        let Some(raft) = self
            .servers
            .get_mut(&node)
            .and_then(|server| server.raft.as_mut())
        else {
            return Ok(());
        };
        let actions: Vec<_> = raft.actions().collect();
        self.truth.observe(raft, &self.disks)?;
        for action in actions {
            if let Some(disk) = self.disks.get(&node) {
                self.truth.act(node, &action, disk)?;
            }
            self.act(node, action)?;
        }
        let Some(server) = self.servers.get_mut(&node) else {
            return Ok(());
        };
        let Some(raft) = &server.raft else {
            return Ok(());
        };
        let due = (raft.deadline() * 100)
            .div_ceil(server.clock_speed)
            .max(self.now + 1);
        if server.tick_at <= self.now || due < server.tick_at {
            server.tick_at = due;
            let life = server.life;
            self.schedule_at(due, Event::Tick { node, life });
        }
        Ok(())
    }

    fn act(&mut self, node: NodeId, action: Action) -> Result<(), String> {
        match action {
            Action::Send { to, message } => self.send(node, to, &message),
            Action::Write(write) => {
                let slow =
                    self.scenario.has(Fault::SlowDisk) && !self.healed && self.rng.below(40) == 0;
                let takes = if slow {
                    self.rng.below(500)
                } else {
                    self.rng.below(4)
                };
                let Some(server) = self.servers.get_mut(&node) else {
                    return Ok(());
                };
                server.stored_at = server.stored_at.max(self.now + takes);
                let (at, life, ticket) = (server.stored_at, server.life, write.ticket);
                if let Some(disk) = self.disks.get_mut(&node) {
                    disk.write(write);
                }
                self.schedule_at(at, Event::Stored { node, life, ticket });
            }
            Action::Apply(entries) => {
                let Some(last) = entries.last().map(|entry| entry.at.index) else {
                    return Ok(());
                };
                for entry in entries {
                    self.apply(node, entry.at, &entry.payload);
                }
                self.confirm(node, last);
            }
            Action::Restore(snapshot) => {
                let Some(server) = self.servers.get_mut(&node) else {
                    return Ok(());
                };
                server.machine = Machine::decode(snapshot.data());
                server.machine_at = snapshot.last().index;
                self.confirm(node, snapshot.last().index);
            }
            Action::ReadReady { id, index } => self.read_ready(node, id, index)?,
            Action::ReadFailed { id } => {
                if let Some(server) = self.servers.get_mut(&node) {
                    server.reads.remove(&id);
                }
            }
        }
        Ok(())
    }

    fn confirm(&mut self, node: NodeId, index: Index) {
        let Some(server) = self.servers.get(&node) else {
            return;
        };
        let life = server.life;
        let takes = self.rng.below(2);
        self.schedule(takes, Event::Applied { node, life, index });
        self.serve_reads(node);
    }

    fn apply(&mut self, node: NodeId, at: Position, payload: &Payload) {
        let Some(server) = self.servers.get_mut(&node) else {
            return;
        };
        server.machine_at = at.index;
        let Payload::Command(bytes) = payload else {
            return;
        };
        let Some(command) = Command::decode(bytes) else {
            return;
        };
        let effect = server.machine.run(command);
        let answers = server
            .raft
            .as_ref()
            .is_some_and(|raft| raft.standing() == Standing::Leader);
        if answers
            && self
                .clients
                .answer_command(command.client, command.sequence, effect)
        {
            self.truth.acknowledged = self.truth.acknowledged.max(at.index);
            self.clients.redirect(command.client, node);
        }
    }

    fn network_delay(&mut self) -> u64 {
        if self.scenario.has(Fault::Delay) && !self.healed && self.rng.below(5) == 0 {
            let most = if self.rng.below(10) == 0 { 600 } else { 100 };
            return 1 + self.rng.below(most);
        }
        1 + self.rng.below(5)
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: &Message) {
        let quiet = self.healed;
        let lost = self.scenario.has(Fault::Lose) && !quiet && self.rng.below(8) == 0;
        if lost || self.cut.contains(&(from, to)) {
            return;
        }
        let twice = self.scenario.has(Fault::Repeat) && !quiet && self.rng.below(6) == 0;
        for _ in 0..=u64::from(twice) {
            let mut delay = self.network_delay();
            if twice && self.rng.below(4) == 0 {
                delay += self.rng.below(1_500);
            }
            self.schedule(
                delay,
                Event::Deliver {
                    to,
                    from,
                    message: message.clone(),
                },
            );
        }
    }

    fn ask(&mut self, client: u64, of: NodeId, request: Request) -> Result<(), String> {
        let number = match request {
            Request::Run(command) => command.sequence,
            Request::Read { number, .. } => number,
        };
        if !self.clients.waits(client, number) {
            return Ok(());
        }
        let clock = self.clock(of);
        let Some(server) = self.servers.get_mut(&of) else {
            return Ok(());
        };
        if self.now < server.paused_until {
            let until = server.paused_until;
            self.schedule_at(
                until,
                Event::Ask {
                    client,
                    of,
                    request,
                },
            );
            return Ok(());
        }
        let Some(raft) = &mut server.raft else {
            return Ok(());
        };
        self.steps += 1;
        if let Some(leader) = raft.leader() {
            self.clients.redirect(client, leader);
        }
        match request {
            Request::Run(command) => {
                let done = server.machine.has_run(client, number);
                // What has run is only known to be committed and current where the leader says so: it runs again.
                let again = done.is_none() || raft.standing() == Standing::Leader;
                if again {
                    // A refusal is answered by asking somebody else.
                    let _refused = raft.propose(clock, [command.encode()]).is_err();
                }
            }
            Request::Read { key, .. } => {
                let mode = if self.scenario.lease {
                    ReadMode::Lease
                } else {
                    ReadMode::Quorum
                };
                let id = number << 32 | self.truth.acknowledged;
                server.reads.insert(id, (client, key));
                let _refused = raft.read(clock, id, mode).is_err();
            }
        }
        self.settle(of)
    }

    fn read_ready(&mut self, node: NodeId, id: u64, index: Index) -> Result<(), String> {
        let acknowledged = id & u64::from(u32::MAX);
        if index < acknowledged {
            return Err(format!(
                "stale read: server {node} reads at {index}, and {acknowledged} was answered before"
            ));
        }
        let Some(server) = self.servers.get_mut(&node) else {
            return Ok(());
        };
        if let Some((client, key)) = server.reads.remove(&id) {
            server.ready.push((index, client, id >> 32, key));
        }
        self.serve_reads(node);
        Ok(())
    }

    fn serve_reads(&mut self, node: NodeId) {
        let Some(server) = self.servers.get_mut(&node) else {
            return;
        };
        let at = server.machine_at;
        let ready = server.ready.extract_if(.., |(index, ..)| *index <= at);
        for (_, client, number, key) in ready {
            if self.clients.waits(client, number) {
                self.clients
                    .answer_read(client, key, server.machine.read(key));
            }
        }
    }
}
