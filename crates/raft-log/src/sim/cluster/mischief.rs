//! What goes wrong, and whether the cluster works again after it.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Cluster, Event, STEPS_MAX};
use crate::sim::Fault;
use crate::sim::disk::Disk;
use crate::sim::machine::Machine;
use crate::{Boot, NodeId, Position, Raft, Standing};

impl Cluster<'_> {
    pub(super) fn start(&mut self, node: NodeId) -> Result<(), String> {
        let clock = self.clock(node);
        let options = self.options(node);
        let (Some(server), Some(disk)) = (self.servers.get_mut(&node), self.disks.get(&node))
        else {
            return Ok(());
        };
        if server.raft.is_some() {
            return Ok(());
        }
        if let Some(wrong) = &disk.broken {
            return Err(format!("server {node} recovers {wrong}"));
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
        let most = if self.rng.below(2) == 0 { 10 } else { 1_500 };
        let down = self.rng.below(most);
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

    pub(super) fn is_recoverable(&self) -> bool {
        let thin = self.scenario.has(Fault::Reconfigure) || self.scenario.witness;
        !(thin && self.scenario.has(Fault::Rot))
    }

    /// From now on nothing goes wrong.
    pub(super) fn heal(&mut self) {
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

    pub(super) fn mischief(&mut self) -> Result<(), String> {
        if self.healed {
            return Ok(());
        }
        let next = 5 + self.rng.below(self.limits.mischief);
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
    pub(super) fn check_recovery(&mut self) -> Result<(), String> {
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
