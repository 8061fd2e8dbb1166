//! This project's.

use std::collections::VecDeque;
use std::sync::Arc;

use raft_log::{Action, Boot, Entry, Membership, Message, NodeId, Options, Payload, Raft, Standing};

pub(crate) struct Cluster {
    servers: Vec<Server>,
    network: VecDeque<(NodeId, NodeId, Message)>,
    messages: u64,
}

struct Server {
    raft: Raft,
    disk: Vec<Entry>,
    applied: u64,
    to_do: Vec<Action>,
}

impl crate::Cluster for Cluster {
    fn new() -> Self {
        let server = |id| Server {
            raft: Raft::new(Options::new(id, id), &Boot::first(Membership::of([1, 2, 3])), 0).expect("a server"),
            disk: Vec::new(),
            applied: 0,
            to_do: Vec::new(),
        };
        let mut cluster = Self {
            servers: [1, 2, 3].map(server).into(),
            network: VecDeque::new(),
            messages: 0,
        };
        cluster.servers[0].raft.campaign(0);
        while cluster.servers[0].raft.standing() != Standing::Leader {
            cluster.turn();
        }
        for _ in 0..8 {
            cluster.turn();
        }
        cluster
    }

    fn propose(&mut self, count: u64, bytes: usize) {
        let command = [7; 1024];
        let commands = (0..count).map(|_| Arc::from(&command[..bytes]));
        self.servers[0].raft.propose(0, commands).expect("a leader takes commands");
    }

    fn turn(&mut self) {
        for server in &mut self.servers {
            server.act(&mut self.network);
        }
        for _ in 0..self.network.len() {
            let (from, to, message) = self.network.pop_front().expect("a message");
            let server = &mut self.servers[to as usize - 1];
            server.raft.receive(0, from, message).expect("a correct message");
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
    fn act(&mut self, network: &mut VecDeque<(NodeId, NodeId, Message)>) {
        let id = self.raft.id();
        loop {
            self.to_do.extend(self.raft.actions());
            if self.to_do.is_empty() {
                return;
            }
            for action in self.to_do.drain(..) {
                match action {
                    Action::Send { to, message } => network.push_back((id, to, message)),
                    Action::Write(write) => {
                        self.disk.extend(write.entries);
                        self.raft.stored(0, write.ticket);
                    }
                    Action::Apply(entries) => {
                        let commands = entries.iter().filter(|entry| matches!(entry.payload, Payload::Command(_)));
                        self.applied += commands.count() as u64;
                        let last = entries.last().expect("an entry").at.index;
                        self.raft.applied(0, last);
                    }
                    _ => {}
                }
            }
        }
    }
}
