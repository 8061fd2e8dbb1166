//! tikv/raft-rs, driven as its examples drive it.

use std::collections::VecDeque;

use raft::StateRole;
use raft::eraftpb::{Entry, Message};
use raft::prelude::{Config, RawNode};
use raft::storage::MemStorage;

pub(crate) struct Cluster {
    servers: Vec<Server>,
    network: VecDeque<Message>,
    messages: u64,
}

struct Server {
    raft: RawNode<MemStorage>,
    applied: u64,
}

impl crate::Cluster for Cluster {
    fn new() -> Self {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let server = |id| {
            let config = Config {
                id,
                election_tick: 10,
                heartbeat_tick: 3,
                max_size_per_msg: 1 << 20,
                max_inflight_msgs: 256,
                pre_vote: true,
                check_quorum: true,
                ..Config::default()
            };
            let storage = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
            Server {
                raft: RawNode::new(&config, storage, &logger).expect("a server"),
                applied: 0,
            }
        };
        let mut cluster = Self {
            servers: [1, 2, 3].map(server).into(),
            network: VecDeque::new(),
            messages: 0,
        };
        cluster.servers[0].raft.campaign().expect("it may");
        while cluster.servers[0].raft.raft.state != StateRole::Leader {
            cluster.turn();
        }
        for _ in 0..8 {
            cluster.turn();
        }
        cluster
    }

    fn propose(&mut self, count: u64, bytes: usize) {
        for _ in 0..count {
            self.servers[0].raft.propose(vec![], vec![7; bytes]).expect("a leader takes commands");
        }
    }

    fn turn(&mut self) {
        for server in &mut self.servers {
            server.act(&mut self.network);
        }
        for _ in 0..self.network.len() {
            let message = self.network.pop_front().expect("a message");
            let server = &mut self.servers[message.to as usize - 1];
            server.raft.step(message).expect("a correct message");
            self.messages += 1;
        }
    }

    fn applied(&self) -> u64 {
        self.servers[0].applied
    }

    fn messages(&self) -> u64 {
        self.messages
    }
}

impl Server {
    fn act(&mut self, network: &mut VecDeque<Message>) {
        while self.raft.has_ready() {
            let storage = self.raft.raft.raft_log.store.clone();
            let mut ready = self.raft.ready();
            network.extend(ready.take_messages());
            self.apply(ready.take_committed_entries());
            if !ready.entries().is_empty() {
                storage.wl().append(ready.entries()).expect("entries that follow");
            }
            if let Some(hard_state) = ready.hs() {
                storage.wl().set_hardstate(hard_state.clone());
            }
            network.extend(ready.take_persisted_messages());
            let mut light = self.raft.advance(ready);
            if let Some(commit) = light.commit_index() {
                storage.wl().mut_hard_state().commit = commit;
            }
            network.extend(light.take_messages());
            self.apply(light.take_committed_entries());
            self.raft.advance_apply();
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        let commands = entries.iter().filter(|entry| !entry.data.is_empty());
        self.applied += commands.count() as u64;
    }
}
