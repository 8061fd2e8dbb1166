//! Changes of membership, each alone.

use std::collections::BTreeSet;

use raft_log::{Membership, NodeId};

use crate::script::{Script, Step, number};

pub(crate) fn run(script: &Script) {
    let mut now = Membership::default();
    // etcd is joint although the voters stay the same: ours has no such phase.
    let mut held = false;
    for step in &script.steps {
        let at = format!("{}:{}", script.name, step.line);
        let expected = step.expected.lines().next().unwrap_or_default();
        match change(step, &now, held) {
            Ok(Next { membership, joint }) => {
                if expected == "more than one voter changed without entering joint config" {
                    // A deviation: ours enters it by itself, and so may.
                    assert_eq!(step.command, "simple", "{at}");
                    continue;
                }
                held = joint && !membership.is_joint();
                now = membership;
                assert_eq!(
                    written(&now, held),
                    expected.replace(" autoleave", ""),
                    "{at}"
                );
                assert_eq!(progress(&now), listed(&step.expected), "{at}");
            }
            Err(refused) => assert_eq!(refused, expected, "{at}"),
        }
    }
}

struct Next {
    membership: Membership,
    joint: bool,
}

fn change(step: &Step, now: &Membership, held: bool) -> Result<Next, &'static str> {
    let joint = held || now.is_joint();
    match step.command.as_str() {
        "simple" if joint => Err("can't apply simple config change in joint config"),
        "simple" => {
            let target = changed(now, &step.input);
            target.validate().map_err(|_| "removed all voters")?;
            let between = now.toward(&target).expect("a change to what is valid");
            Ok(Next {
                membership: between.leave(),
                joint: false,
            })
        }
        "enter-joint" if joint => Err("config is already joint"),
        "enter-joint" => {
            now.validate()
                .map_err(|_| "can't make a zero-voter config joint")?;
            let target = changed(now, &step.input);
            let membership = now.toward(&target).map_err(|_| "removed all voters")?;
            Ok(Next {
                membership,
                joint: true,
            })
        }
        "leave-joint" if !joint => Err("can't leave a non-joint config"),
        "leave-joint" => Ok(Next {
            membership: now.leave(),
            joint: false,
        }),
        other => panic!("unknown command {other}"),
    }
}

/// The membership after `v1` (a voter), `l2` (a learner), `r3` (no member) and `u4` (nothing). Server 0 is nobody.
pub(crate) fn changed(now: &Membership, changes: &str) -> Membership {
    let mut next = now.leave();
    for change in changes.split_whitespace() {
        let (kind, id) = change.split_at(1);
        let id: NodeId = number(id);
        if id == 0 || kind == "u" {
            continue;
        }
        next.voters.remove(&id);
        next.learners.remove(&id);
        match kind {
            "v" => next.voters.insert(id),
            "l" => next.learners.insert(id),
            "r" => false,
            other => panic!("unknown change {other}"),
        };
    }
    next
}

/// As etcd writes it.
fn written(membership: &Membership, held: bool) -> String {
    let Membership {
        voters,
        outgoing,
        learners,
        ..
    } = membership;
    let set = |ids: &BTreeSet<NodeId>| {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        format!("({})", ids.join(" "))
    };
    let mut text = format!("voters={}", set(voters));
    if membership.is_joint() || held {
        text += &format!("&&{}", set(if held { voters } else { outgoing }));
    }
    let (next, now) = learners.iter().partition(|id| outgoing.contains(id));
    for (name, ids) in [("learners", &now), ("learners_next", &next)] {
        if !BTreeSet::is_empty(ids) {
            text += &format!(" {name}={}", set(ids));
        }
    }
    text
}

/// Who is sent the log, and whether as a learner.
fn progress(membership: &Membership) -> Vec<(NodeId, bool)> {
    let learns = |id| membership.learners.contains(id) && !membership.outgoing.contains(id);
    let members = membership.members();
    members.iter().map(|id| (*id, learns(id))).collect()
}

fn listed(expected: &str) -> Vec<(NodeId, bool)> {
    let lines = expected
        .lines()
        .filter_map(|line| line.split_once(": State"));
    lines
        .map(|(id, state)| (number(id), state.contains("learner")))
        .collect()
}
