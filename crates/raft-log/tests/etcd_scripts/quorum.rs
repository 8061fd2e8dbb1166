//! Majorities: what is committed, and how a vote stands.

use std::collections::BTreeMap;

use raft_log::{Membership, NodeId, Tally};

use crate::script::{Script, Step, number};

pub(crate) fn run(script: &Script) {
    for step in &script.steps {
        let (membership, values) = question(step);
        let Membership {
            voters, outgoing, ..
        } = membership.clone();
        let answer = answer(step, &membership, &values);
        // A majority that is joint with itself, or with the two exchanged, says the same.
        let exchanged = Membership {
            voters: if outgoing.is_empty() {
                voters.clone()
            } else {
                outgoing
            },
            outgoing: voters,
            ..Membership::default()
        };
        let name = &script.name;
        let at = step.line;
        assert_eq!(
            answer,
            self::answer(step, &exchanged, &values),
            "{name}:{at}"
        );
        let expected = step.expected.lines().last().expect("an answer");
        if membership.members().is_empty() {
            // A deviation: etcd's empty majority agrees to all, ours to nothing.
            assert!(["VoteWon", "∞"].iter().any(|all| expected.ends_with(all)));
            assert!(["VoteLost", "0"].contains(&answer.as_str()));
        } else {
            assert_eq!(answer, expected, "{name}:{at}");
        }
    }
}

/// Values are given to the voters in the order in which they are named.
fn question(step: &Step) -> (Membership, BTreeMap<NodeId, String>) {
    for argument in &step.arguments {
        let known = ["cfg", "cfgj", "idx", "votes"].contains(&argument.name.as_str());
        assert!(known, "unknown argument {}", argument.name);
    }
    let ids = |name| -> Vec<NodeId> {
        let values = step.values(name).unwrap_or_default().iter();
        values
            .filter(|value| *value != "zero")
            .map(|value| number(value))
            .collect()
    };
    let (voters, outgoing) = (ids("cfg"), ids("cfgj"));
    let mut given = ["idx", "votes"]
        .into_iter()
        .filter_map(|name| step.values(name))
        .flatten();
    let mut values = BTreeMap::new();
    for id in voters.iter().chain(&outgoing) {
        if !values.contains_key(id) {
            values.insert(*id, given.next().expect("a value for each voter").clone());
        }
    }
    assert_eq!(given.next(), None, "a value for nobody");
    let membership = Membership {
        voters: voters.into_iter().collect(),
        outgoing: outgoing.into_iter().collect(),
        ..Membership::default()
    };
    (membership, values)
}

fn answer(step: &Step, membership: &Membership, values: &BTreeMap<NodeId, String>) -> String {
    match step.command.as_str() {
        "committed" => {
            let known = |id| match values[&id].as_str() {
                "_" => 0,
                index => number(index),
            };
            membership.reached(known).to_string()
        }
        "vote" => {
            let vote = |id| match values[&id].as_str() {
                "y" => Some(true),
                "n" => Some(false),
                _ => None,
            };
            let tally = match membership.tally(vote) {
                Tally::Won => "VoteWon",
                Tally::Open => "VotePending",
                Tally::Lost => "VoteLost",
            };
            tally.to_owned()
        }
        other => panic!("unknown command {other}"),
    }
}
