//! Clusters that do what a script says, message by message.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use raft_log::{
    Action, Boot, HardState, Index, Membership, Message, NodeId, Options, Position, ProposeError,
    Raft, Snapshot, Time,
};

use crate::changes::changed;
use crate::compare::compare;
use crate::reference::Reference;
use crate::script::{Script, Step, number};

/// Of etcd's clock: it hears from a leader every tick and waits three.
const TICK: Time = 1_000;

/// Our servers beside etcd's.
#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) servers: BTreeMap<NodeId, Server>,
    network: VecDeque<(NodeId, NodeId, Message)>,
    /// Commands that ours refuse and etcd's take.
    pub(crate) refused: BTreeSet<String>,
    /// Members change, so ours have another number of entries.
    pub(crate) changes: bool,
    /// etcd stays joint until told; ours leave by themselves.
    pub(crate) held: bool,
}

pub(crate) struct Server {
    pub(crate) raft: Raft,
    now: Time,
    /// The state machine's state, which appends.
    state: BTreeMap<Index, Vec<u8>>,
    to_do: VecDeque<Action>,
}

/// What went wrong, and where.
pub(crate) fn run(script: &Script) -> Result<(), String> {
    let (mut cluster, mut reference) = (Cluster::default(), Reference::default());
    for step in &script.steps {
        let at = format!("{}:{} {}", script.name, step.line, step.command);
        let play = AssertUnwindSafe(|| {
            cluster.play(step);
            reference.hear(step);
            if step.command == "stabilize" {
                compare(&cluster, &reference, &step.numbers());
            }
            if step.command == "status" {
                cluster.compare_status(step);
            }
        });
        catch_unwind(play).map_err(|why| format!("{at}: {}", reason(&*why)))?;
    }
    let end = AssertUnwindSafe(|| compare(&cluster, &reference, &[]));
    catch_unwind(end).map_err(|why| format!("{}: at the end: {}", script.name, reason(&*why)))
}

fn reason(panic: &dyn Any) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic")
}

impl Cluster {
    fn play(&mut self, step: &Step) {
        let ids = step.numbers();
        match step.command.as_str() {
            "add-nodes" => self.add(step),
            "campaign" => self.campaign(ids[0]),
            "compact" => self.with(ids[0], |server| server.compact(ids[1])),
            "deliver-msgs" => {
                for id in ids {
                    self.deliver(id);
                }
                let dropped = step.values("drop").unwrap_or_default();
                let dropped: Vec<_> = dropped.iter().map(|id| number(id)).collect();
                self.network.retain(|(_, to, _)| !dropped.contains(to));
            }
            "process-ready" => {
                self.ready(ids[0]);
            }
            "stabilize" => self.stabilize(&ids),
            "propose" => self.propose(step),
            "propose-conf-change" => self.change(step),
            "tick-heartbeat" => self.with(ids[0], |server| server.wait(TICK)),
            "tick-election" => self.with(ids[0], |server| {
                let left = server.raft.deadline().saturating_sub(server.now);
                server.wait(left);
            }),
            "transfer-leadership" => {
                let id = |name| number(&step.values(name).expect("a server")[0]);
                self.with(id("from"), |server| {
                    let _ = server.raft.transfer(server.now, id("to"));
                });
            }
            "forget-leader" => self.with(ids[0], |server| server.raft.forget_leader()),
            "report-unreachable" => self.with(ids[0], |server| server.raft.unreachable(ids[1])),
            // Ours cannot be set, so an election takes until our own time is over.
            "set-randomized-election-timeout" => {}
            // Only the reference prints.
            "log-level" | "raft-log" | "raft-state" | "status" | "_breakpoint" => {}
            other => panic!("unknown command {other}"),
        }
    }

    fn add(&mut self, step: &Step) {
        let ids = |name| step.values(name).unwrap_or_default().iter();
        let mut membership = Membership::of(ids("voters").map(|id| number(id)));
        membership.learners = ids("learners").map(|id| number(id)).collect();
        let index = ids("index").next().map(|index| number(index));
        let content = ids("content").next().cloned().unwrap_or_default();
        let flag = |name| ids(name).next().is_some_and(|value| value == "true");
        for argument in &step.arguments[1..] {
            // Ours step down whatever the script says.
            let known = [
                "voters",
                "learners",
                "index",
                "content",
                "prevote",
                "checkquorum",
                "inflight",
                "step-down-on-removal",
            ];
            let known = known.contains(&argument.name.as_str());
            assert!(known, "unknown argument {}", argument.name);
        }
        for _ in 0..number(&step.arguments[0].name) {
            let id = u64::try_from(self.servers.len()).unwrap() + 1;
            let options = Options {
                election_timeout: 3 * TICK,
                heartbeat_interval: TICK,
                pre_vote: flag("prevote"),
                check_quorum: flag("checkquorum"),
                in_flight: ids("inflight")
                    .next()
                    .map_or(256, |count| count.parse().expect("a number")),
                ..Options::new(id, id)
            };
            let mut state = BTreeMap::new();
            let boot = match index {
                Some(index) => {
                    let last = Position { term: 1, index };
                    let data = Arc::from(content.as_bytes());
                    state.insert(index, content.clone().into_bytes());
                    Boot {
                        hard_state: HardState::default(),
                        snapshot: Snapshot::new(last, Arc::new(membership.clone()), data),
                        entries: Vec::new(),
                        applied: index,
                    }
                }
                None => Boot::joining(),
            };
            let server = Server {
                raft: Raft::new(options, &boot, 0).expect("a server"),
                now: 0,
                state,
                to_do: VecDeque::new(),
            };
            self.servers.insert(id, server);
        }
    }

    /// A deviation: a vote counts, its own too, when it is on disk. etcd's only voter leads at once.
    fn campaign(&mut self, id: NodeId) {
        self.with(id, |server| server.raft.campaign(server.now));
        let server = self.servers.get_mut(&id).expect("a server");
        let is_write = |action: &Action| matches!(action, Action::Write(_));
        while let Some(place) = server.to_do.iter().position(is_write) {
            let write = server.to_do.remove(place).expect("a write");
            server.act(write);
            server.to_do.extend(server.raft.actions());
        }
    }

    fn with(&mut self, id: NodeId, act: impl FnOnce(&mut Server)) {
        let server = self.servers.get_mut(&id).expect("a server");
        act(server);
        server.to_do.extend(server.raft.actions());
    }

    /// Does all that a server wants done; whether there was anything.
    fn ready(&mut self, id: NodeId) -> bool {
        let server = self.servers.get_mut(&id).expect("a server");
        let mut any = false;
        while let Some(action) = server.to_do.pop_front() {
            any = true;
            if let Action::Send { to, message } = action {
                self.network.push_back((id, to, message));
            } else {
                server.act(action);
            }
            server.to_do.extend(server.raft.actions());
        }
        any
    }

    /// Delivers all messages to a server; whether there were any.
    fn deliver(&mut self, id: NodeId) -> bool {
        let all = std::mem::take(&mut self.network);
        let (now, later) = all.into_iter().partition(|(_, to, _)| *to == id);
        self.network = later;
        let any = !VecDeque::is_empty(&now);
        for (from, _, message) in now {
            self.with(id, |server| {
                let heard = server.raft.receive(server.now, from, message);
                heard.expect("a message of a correct server");
            });
        }
        any
    }

    fn stabilize(&mut self, ids: &[NodeId]) {
        let all: Vec<_> = self.servers.keys().copied().collect();
        let ids = if ids.is_empty() { &all } else { ids };
        for _ in 0..1_000 {
            let ready = ids.iter().filter(|id| self.ready(**id)).count();
            let heard = ids.iter().filter(|id| self.deliver(**id)).count();
            if ready + heard == 0 {
                return;
            }
        }
        panic!("there is no end to what happens");
    }

    fn propose(&mut self, step: &Step) {
        let command = &step.arguments[1].name;
        let mut result = Ok(0..0);
        self.with(number(&step.arguments[0].name), |server| {
            result = server
                .raft
                .propose(server.now, [Arc::from(command.as_bytes())]);
        });
        let dropped = step.expected.contains("proposal dropped");
        match result {
            Ok(_) => assert!(!dropped, "etcd drops it"),
            // A deviation: a leader that is leaving takes nothing more.
            Err(ProposeError::Transferring) if self.changes => {
                self.refused.insert(command.clone());
            }
            Err(error) => assert!(dropped, "etcd takes it: {error}"),
        }
    }

    fn change(&mut self, step: &Step) {
        self.changes = true;
        let ignored = step.expected.contains("ignoring conf change");
        if step.input.trim().is_empty() {
            // A deviation: ours leave a joint membership by themselves.
            self.held &= ignored;
            return;
        }
        if self.held {
            assert!(ignored, "etcd changes while it is joint");
            return;
        }
        let explicit = step
            .values("transition")
            .is_some_and(|value| value == ["explicit"]);
        self.held = explicit && !ignored;
        let dropped = step.expected.contains("proposal dropped");
        let mut result = Ok(0);
        self.with(number(&step.arguments[0].name), |server| {
            let target = changed(server.raft.log().membership(), &step.input);
            result = server.raft.change_membership(server.now, &target);
        });
        let result = result.map(|_| ());
        assert_eq!(result.is_err(), ignored || dropped, "{result:?}");
    }
}

impl Server {
    fn wait(&mut self, time: Time) {
        self.now += time;
        self.raft.tick(self.now);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Write(write) => self.raft.stored(self.now, write.ticket),
            Action::Apply(entries) => {
                for entry in entries {
                    let mut state = self.state.values().next_back().cloned().unwrap_or_default();
                    if let raft_log::Payload::Command(command) = &entry.payload {
                        state.extend_from_slice(command);
                    }
                    self.state.insert(entry.at.index, state);
                    self.raft.applied(self.now, entry.at.index);
                }
            }
            Action::Restore(snapshot) => {
                let index = snapshot.last().index;
                self.state.insert(index, snapshot.data().to_vec());
                self.raft.applied(self.now, index);
            }
            _ => {}
        }
    }

    fn compact(&mut self, index: Index) {
        let term = self.raft.log().term(index).expect("an entry");
        let state = self.state.range(..=index).next_back();
        let data = Arc::from(state.expect("a state").1.as_slice());
        self.raft
            .compact(self.now, Position { term, index }, data, 0);
    }
}
