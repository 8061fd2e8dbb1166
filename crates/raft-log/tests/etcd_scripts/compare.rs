//! Whether ours are where etcd's are.

use raft_log::{Index, Mode, NodeId, Payload, Raft, Standing, Term};

use crate::cluster::Cluster;
use crate::reference::{Known, Reference, Said};
use crate::script::{Step, number};

/// Compares what is known of all servers, or of these; what they have committed and who belongs to them only where
/// nothing is under way any more.
pub(crate) fn compare(cluster: &Cluster, reference: &Reference, ids: &[NodeId]) {
    for (id, known) in &reference.servers {
        let Some(server) = cluster.servers.get(id) else {
            panic!("server {id} does not exist");
        };
        if ids.is_empty() {
            compare_role(*id, known, &server.raft);
            compare_members(cluster, *id, known, &server.raft);
            compare_logs(cluster, *id, known, &server.raft);
        } else if ids.contains(id) {
            compare_role(*id, known, &server.raft);
        }
    }
}

fn compare_role(id: NodeId, known: &Known, raft: &Raft) {
    let ours = raft.hard_state();
    if let Some(term) = known.term {
        assert_eq!(ours.term, term, "term of {id}");
    }
    if let Some(voted_for) = known.voted_for {
        assert_eq!(ours.voted_for, voted_for, "vote of {id}");
    }
    // A deviation: a leader that is no member any more steps down.
    let removed = known
        .members
        .as_ref()
        .is_some_and(|members| !members.voters.contains(&id));
    if removed && known.standing == Some(Standing::Leader) {
        return;
    }
    if let Some(standing) = known.standing {
        assert_eq!(raft.standing(), standing, "role of {id}");
    }
    if let Some(leader) = known.leader {
        assert_eq!(raft.leader(), leader, "leader of {id}");
    }
}

fn compare_members(cluster: &Cluster, id: NodeId, known: &Known, raft: &Raft) {
    let Some(members) = &known.members else {
        return;
    };
    let ours = raft.log().membership();
    assert_eq!(ours.voters, members.voters, "voters of {id}");
    assert_eq!(ours.learners, members.learners, "learners of {id}");
    if !cluster.held {
        assert_eq!(ours.is_joint(), members.joint, "{id} is joint");
    }
}

fn compare_logs(cluster: &Cluster, id: NodeId, known: &Known, raft: &Raft) {
    let theirs = their_commands(cluster, known);
    let ours = our_commands(raft);
    let shared = theirs.len().min(ours.len());
    let end = |all: &[(Index, Term, String)]| -> Vec<(Term, String)> {
        let end = all[all.len() - shared..].iter();
        end.map(|(_, term, command)| (*term, command.clone()))
            .collect()
    };
    assert_eq!(end(&ours), end(&theirs), "log of {id}");
    let Some(commit) = known.commit else { return };
    let after = |all: &[(Index, Term, String)], commit| {
        all.iter().filter(|(index, ..)| *index > commit).count()
    };
    let (open, their_open) = (after(&ours, raft.commit()), after(&theirs, commit));
    assert_eq!(open, their_open, "commands of {id} not committed");
    if !cluster.changes {
        assert_eq!(raft.commit(), commit, "commit of {id}");
        if let Some((last, (term, _))) = known.log.last_key_value() {
            let ours = raft.log().last();
            assert_eq!((ours.term, ours.index), (*term, *last), "end of {id}");
        }
    }
}

/// Without changes of membership, of which ours have two where etcd has one, without the empty entries that etcd appends
/// for those that it refuses, and without commands that ours refuse.
fn their_commands(cluster: &Cluster, known: &Known) -> Vec<(Index, Term, String)> {
    let mut before = 0;
    let mut commands = Vec::new();
    for (index, (term, said)) in &known.log {
        let first = *term != before;
        before = *term;
        match said {
            Said::Command(command) if command.is_empty() && !first => {}
            Said::Command(command) if cluster.refused.contains(command) => {}
            Said::Command(command) => commands.push((*index, *term, command.clone())),
            Said::Change => {}
        }
    }
    commands
}

fn our_commands(raft: &Raft) -> Vec<(Index, Term, String)> {
    let log = raft.log();
    let entries = (log.base().index + 1..=log.last().index).filter_map(|index| log.entry(index));
    let said = entries.filter_map(|entry| match &entry.payload {
        Payload::Empty => Some((entry, String::new())),
        Payload::Command(bytes) => Some((entry, String::from_utf8_lossy(bytes).into_owned())),
        _ => None,
    });
    said.map(|(entry, command)| (entry.at.index, entry.at.term, command))
        .collect()
}

impl Cluster {
    /// What a leader knows of its followers: `2: StateReplicate match=11 next=12`. It lists itself too.
    pub(crate) fn compare_status(&self, step: &Step) {
        let leader = step.numbers()[0];
        let raft = &self.servers[&leader].raft;
        for line in step.expected.lines() {
            let (id, state) = line.split_once(": ").expect("a follower");
            let id = number(id);
            if id == leader {
                continue;
            }
            let (_, ours) = raft
                .progress()
                .find(|(of, _)| *of == id)
                .expect("a follower");
            let mut words = state.split(' ');
            let mode = match ours.mode {
                Mode::Probe { .. } => "StateProbe",
                Mode::Replicate => "StateReplicate",
                Mode::Snapshot { .. } => "StateSnapshot",
            };
            assert_eq!(words.next(), Some(mode), "mode of {id}");
            if !self.changes {
                let matched = words.next().and_then(|word| word.strip_prefix("match="));
                assert_eq!(matched.map(number), Some(ours.matched), "match of {id}");
            }
        }
    }
}
