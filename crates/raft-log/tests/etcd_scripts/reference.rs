//! What etcd's servers are like, as far as the outputs of a script tell.

use std::collections::{BTreeMap, BTreeSet};

use raft_log::{Index, NodeId, Standing, Term};

use crate::script::{Step, number};

/// One server of etcd's; nothing is known of what a quiet script hides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) term: Option<Term>,
    pub(crate) voted_for: Option<Option<NodeId>>,
    pub(crate) commit: Option<Index>,
    pub(crate) standing: Option<Standing>,
    pub(crate) leader: Option<Option<NodeId>>,
    pub(crate) log: BTreeMap<Index, (Term, Said)>,
    pub(crate) members: Option<Members>,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Change,
    Command(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    pub(crate) voters: BTreeSet<NodeId>,
    pub(crate) joint: bool,
    /// Those of a joint membership's end too.
    pub(crate) learners: BTreeSet<NodeId>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Reference {
    pub(crate) servers: BTreeMap<NodeId, Known>,
    /// Entries seen anywhere, which a snapshot stands for.
    seen: BTreeMap<Index, (Term, Said)>,
}

impl Reference {
    /// Learns from what a step printed.
    pub(crate) fn hear(&mut self, step: &Step) {
        let mut id = step
            .numbers()
            .first()
            .copied()
            .filter(|_| step.command != "add-nodes");
        let mut entries = step.command == "raft-log";
        for line in step.expected.lines().map(str::trim) {
            let mut words = line.split(' ');
            match (words.next().unwrap_or_default(), words.next()) {
                (">", Some(of)) => (id, entries) = (Some(number(of)), false),
                ("INFO", Some(of)) => self.hear_log(of, line),
                ("Entries:", None) => entries = true,
                ("Snapshot", Some(at)) => self.hear_snapshot(id, at),
                (word, _) if word.starts_with("Lead:") || word.starts_with("State:") => {
                    self.of(id).hear_role(line);
                }
                ("HardState", _) => self.of(id).hear_hard_state(line),
                (at, Some(_)) if entries && entry(at, line).is_some() => {
                    let (index, entry) = entry(at, line).expect("an entry");
                    self.seen.insert(index, entry.clone());
                    let log = &mut self.of(id).log;
                    log.split_off(&index);
                    log.insert(index, entry);
                }
                _ => entries = false,
            }
        }
    }

    fn of(&mut self, id: Option<NodeId>) -> &mut Known {
        let id = id.expect("the output says of whom");
        self.servers.entry(id).or_default()
    }

    /// etcd's log lines; those that begin with a server are about it.
    fn hear_log(&mut self, id: &str, line: &str) {
        let Ok(id) = id.parse() else { return };
        let server = self.servers.entry(id).or_default();
        if let Some((_, members)) = line.split_once("switched to configuration ") {
            server.members = Some(Members::read(members));
        }
        let standing = [
            ("became follower at term ", Standing::Follower),
            ("became candidate at term ", Standing::Candidate),
            ("became pre-candidate at term ", Standing::PreCandidate),
            ("became leader at term ", Standing::Leader),
        ];
        for (text, standing) in standing {
            if let Some((_, term)) = line.split_once(text) {
                let term = number(term);
                if server.term != Some(term) {
                    server.voted_for = None;
                }
                (server.standing, server.term) = (Some(standing), Some(term));
                if standing != Standing::Follower {
                    server.leader = Some((standing == Standing::Leader).then_some(id));
                }
            }
        }
    }

    fn hear_snapshot(&mut self, id: Option<NodeId>, at: &str) {
        let last = number(at.strip_prefix("Index:").expect("a snapshot's index"));
        let covered = self.seen.range(..=last);
        let covered = covered.map(|(index, entry)| (*index, entry.clone()));
        let covered: BTreeMap<_, _> = covered.collect();
        self.of(id).log = covered;
    }
}

impl Known {
    /// `Lead:1 State:StateLeader`, either of which may be missing.
    fn hear_role(&mut self, line: &str) {
        if let Some(leader) = value(line, "Lead:") {
            self.leader = Some(Some(number(leader)).filter(|id| *id != 0));
        }
        self.standing = match value(line, "State:") {
            Some("StateFollower") => Some(Standing::Follower),
            Some("StateCandidate") => Some(Standing::Candidate),
            Some("StatePreCandidate") => Some(Standing::PreCandidate),
            Some("StateLeader") => Some(Standing::Leader),
            Some(other) => panic!("unknown state {other}"),
            None => self.standing,
        };
    }

    fn hear_hard_state(&mut self, line: &str) {
        self.term = value(line, "Term:").map(number);
        self.voted_for = Some(value(line, "Vote:").map(number));
        self.commit = value(line, "Commit:").map(number);
    }
}

impl Members {
    /// `voters=(1 2)&&(1) learners=(3) learners_next=(4) autoleave`
    fn read(text: &str) -> Self {
        let mut members = Self::default();
        for part in text.split_inclusive(')') {
            let (name, ids) = part.split_once('(').unwrap_or((part, ""));
            let ids = ids.trim_end_matches(')').split_whitespace().map(number);
            match name.trim() {
                "voters=" => members.voters.extend(ids),
                "&&" => members.joint = true,
                "learners=" | "learners_next=" => members.learners.extend(ids),
                "" | "autoleave" => {}
                other => panic!("unknown part of a configuration: {other}"),
            }
        }
        members
    }
}

fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ').find_map(|word| word.strip_prefix(name))
}

/// `1/4 EntryNormal "foo"`
fn entry(at: &str, line: &str) -> Option<(Index, (Term, Said))> {
    let (term, index) = at.split_once('/')?;
    let (term, index) = (term.parse().ok()?, index.parse().ok()?);
    let said = line.strip_prefix(at)?.trim_start();
    let said = match said.strip_prefix("EntryNormal \"") {
        Some(command) => Said::Command(command.trim_end_matches('"').to_owned()),
        None if said.starts_with("EntryConfChange") => Said::Change,
        None => panic!("unknown entry {line}"),
    };
    Some((index, (term, said)))
}
