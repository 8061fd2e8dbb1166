//! The world: events in the order of time, servers, and what goes wrong.

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
    steps: u64,
    violation: Option<Violation>,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(scenario: &'a Scenario) -> Self {
        let mut cluster = Self {
            scenario,
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
        self.disks.insert(node, Disk::new(boot));
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
            append_bytes: 300,
            in_flight: 4,
            in_flight_bytes: 1 << 20,
            uncommitted_bytes: 1 << 16,
            apply_bytes: 500,
            chunk_bytes: 64,
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
            return 1 + self.rng.below(100);
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

/// What goes wrong.
impl Cluster<'_> {
    fn start(&mut self, node: NodeId) -> Result<(), String> {
        let clock = self.clock(node);
        let options = self.options(node);
        let (Some(server), Some(disk)) = (self.servers.get_mut(&node), self.disks.get(&node))
        else {
            return Ok(());
        };
        if server.raft.is_some() {
            return Ok(());
        }
        let raft = Raft::new(options, &disk.image, clock)
            .map_err(|error| format!("server {node} does not start: {error}"))?;
        server.machine = Machine::decode(disk.image.snapshot.data());
        server.machine_at = disk.image.snapshot.last().index;
        server.raft = Some(raft);
        server.life += 1;
        server.tick_at = 0;
        server.stored_at = 0;
        server.paused_until = 0;
        self.settle(node)
    }

    fn crash(&mut self, node: NodeId) {
        let (Some(server), Some(disk)) = (self.servers.get_mut(&node), self.disks.get_mut(&node))
        else {
            return;
        };
        if server.raft.take().is_none() {
            return;
        }
        server.reads.clear();
        server.ready.clear();
        disk.crash(&mut self.rng);
        self.truth.stopped(node, disk);
        if self.scenario.has(Fault::Rot)
            && self.rng.below(2) == 0
            && self.may_rot(node)
            && let Some(disk) = self.disks.get_mut(&node)
        {
            disk.rot(&mut self.rng);
        }
        let down = self.rng.below(1_500);
        self.schedule(down, Event::Start { node });
    }

    /// The fault atlas: only one server at a time has lost entries, and another has them all. Where members change or
    /// a witness votes, one disk may hold the only copy: then disks rot as they like, and only safety is checked.
    fn may_rot(&self, node: NodeId) -> bool {
        let Some(last) = self.disks.get(&node).map(Disk::last) else {
            return false;
        };
        let others = self.disks.iter().filter(|(id, _)| **id != node);
        let copied = others
            .map(|(_, disk)| disk)
            .any(|disk| disk.vouches_for(last));
        let one = !self.disks.values().any(Disk::has_lost) && self.scenario.servers > 2;
        copied && one || !self.is_recoverable()
    }

    fn is_recoverable(&self) -> bool {
        let thin = self.scenario.has(Fault::Reconfigure) || self.scenario.witness;
        !(thin && self.scenario.has(Fault::Rot))
    }

    /// From now on nothing goes wrong.
    fn heal(&mut self) {
        self.healed = true;
        self.cut.clear();
        let nodes: Vec<_> = self.servers.keys().copied().collect();
        for node in nodes {
            if let Some(server) = self.servers.get_mut(&node) {
                server.paused_until = 0;
            }
            self.schedule(0, Event::Start { node });
        }
    }

    fn mischief(&mut self) -> Result<(), String> {
        if self.healed {
            return Ok(());
        }
        let next = 20 + self.rng.below(200);
        self.schedule(next, Event::Mischief);
        let kinds = &self.scenario.faults;
        let Some(fault) = kinds.get(
            usize::try_from(self.rng.below(u64::try_from(kinds.len()).unwrap_or(0))).unwrap_or(0),
        ) else {
            return Ok(());
        };
        let nodes: Vec<_> = self.servers.keys().copied().collect();
        let leader = nodes.iter().copied().find(|node| self.leads(*node));
        let any = nodes
            [usize::try_from(self.rng.below(u64::try_from(nodes.len()).unwrap_or(1))).unwrap_or(0)];
        let victim = leader.filter(|_| self.rng.below(2) == 0).unwrap_or(any);
        match fault {
            Fault::Part => self.part(&nodes),
            Fault::Crash | Fault::Rot => self.crash(victim),
            Fault::Pause => {
                let until = self.now + self.rng.below(600);
                if let Some(server) = self.servers.get_mut(&victim) {
                    server.paused_until = until;
                }
            }
            Fault::Transfer => {
                if let Some(leader) = leader {
                    return self.direct(leader, |raft, clock| {
                        let _refused = raft.transfer(clock, any).is_err();
                    });
                }
            }
            Fault::Reconfigure => return self.reconfigure(&nodes),
            Fault::Compact => {
                let keep = self.rng.below(4);
                return self.compact(any, keep);
            }
            _ => {}
        }
        Ok(())
    }

    fn leads(&self, node: NodeId) -> bool {
        let raft = self
            .servers
            .get(&node)
            .and_then(|server| server.raft.as_ref());
        raft.is_some_and(|raft| raft.standing() == Standing::Leader)
    }

    fn direct(&mut self, node: NodeId, call: impl FnOnce(&mut Raft, u64)) -> Result<(), String> {
        let clock = self.clock(node);
        let Some(server) = self
            .servers
            .get_mut(&node)
            .filter(|server| self.now >= server.paused_until)
        else {
            return Ok(());
        };
        if let Some(raft) = &mut server.raft {
            self.steps += 1;
            call(raft, clock);
        }
        self.settle(node)
    }

    fn part(&mut self, nodes: &[NodeId]) {
        self.cut.clear();
        if self.rng.below(3) == 0 {
            return;
        }
        let one_way = self.rng.below(3) == 0;
        let side: BTreeSet<_> = nodes
            .iter()
            .filter(|_| self.rng.below(2) == 0)
            .copied()
            .collect();
        for (from, to) in nodes
            .iter()
            .flat_map(|from| nodes.iter().map(move |to| (*from, *to)))
        {
            let crosses = side.contains(&from) != side.contains(&to);
            if crosses && (!one_way || side.contains(&from)) {
                self.cut.insert((from, to));
            }
        }
    }

    fn compact(&mut self, node: NodeId, keep: u64) -> Result<(), String> {
        let Some(server) = self.servers.get(&node) else {
            return Ok(());
        };
        let (state, index) = (server.machine.encode(), server.machine_at);
        self.direct(node, |raft, clock| {
            // The state machine may be further than the server has heard.
            raft.applied(clock, index);
            if let Some(term) = raft.log().term(index) {
                raft.compact(clock, Position { term, index }, state, keep);
            }
        })
    }

    /// Replaces up to two members, by new servers with empty disks or by old ones.
    fn reconfigure(&mut self, nodes: &[NodeId]) -> Result<(), String> {
        let Some(leader) = nodes.iter().copied().find(|node| self.leads(*node)) else {
            return Ok(());
        };
        if nodes.len() < 7 && self.rng.below(2) == 0 {
            let node = self.servers.keys().next_back().map_or(1, |last| last + 1);
            self.add(node, Boot::joining());
        }
        let nodes: Vec<_> = self.servers.keys().copied().collect();
        let wanted: Vec<_> = nodes
            .into_iter()
            .map(|node| (node, self.rng.below(4)))
            .collect();
        self.direct(leader, |raft, clock| {
            let mut target = raft.log().membership().leave();
            for (node, role) in wanted
                .iter()
                .filter(|(node, _)| !target.is_witness(*node))
                .copied()
                .collect::<Vec<_>>()
            {
                match role {
                    0 => {
                        target.voters.remove(&node);
                        target.learners.remove(&node);
                    }
                    1 => {
                        target.voters.remove(&node);
                        target.learners.insert(node);
                    }
                    2 => {
                        target.learners.remove(&node);
                        target.voters.insert(node);
                    }
                    _ => {}
                }
            }
            let _refused = raft.change_membership(clock, &target).is_err();
        })
    }

    fn summary(&self) -> String {
        let running = self
            .servers
            .values()
            .filter_map(|server| server.raft.as_ref());
        let one = |raft: &Raft| {
            let (last, members) = (raft.log().last(), raft.log().membership());
            format!(
                "\n  {} {:?} in term {}, last {}/{}, commit {}, {members:?}",
                raft.id(),
                raft.standing(),
                raft.term(),
                last.term,
                last.index,
                raft.commit()
            )
        };
        running.map(one).collect()
    }

    /// The cluster works again: one leader, all members equal, new commands committed since.
    fn check_recovery(&mut self) -> Result<(), String> {
        if self.steps >= STEPS_MAX {
            return Err(format!("no end after {STEPS_MAX} steps"));
        }
        let running = self
            .servers
            .values()
            .filter_map(|server| server.raft.as_ref());
        let leader = running
            .filter(|raft| raft.standing() == Standing::Leader)
            .max_by_key(|raft| raft.term());
        let Some(leader) = leader else {
            return Err(format!(
                "no leader after the faults ended: {}",
                self.summary()
            ));
        };
        let own = leader.log().term(leader.commit()) == Some(leader.term());
        if !own {
            return Err(String::from("the last leader commits nothing"));
        }
        for member in leader.log().membership().members() {
            let Some(server) = self.servers.get(&member) else {
                continue;
            };
            if server.machine_at + 20 < leader.commit() {
                return Err(format!(
                    "member {member} is at {}, the leader at {}",
                    server.machine_at,
                    leader.commit()
                ));
            }
        }
        Ok(())
    }
}
