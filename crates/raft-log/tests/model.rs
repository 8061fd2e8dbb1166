//! Every order of events in a cluster of three, within bounds small enough for every build.
#![cfg(feature = "model")]

use raft_log::model::{Bounds, explore};

fn holds(bounds: Bounds) {
    let explored = explore(bounds, 2_000_000);
    if let Some((broken, path)) = explored.violation {
        let path: Vec<_> = path.iter().map(ToString::to_string).collect();
        panic!("{broken} after\n{}", path.join("\n"));
    }
    eprintln!("{bounds:?}: {} states", explored.states);
    assert!(explored.complete, "more than {} states", explored.states);
    assert!(explored.states > 1_000, "hardly anything happens");
}

#[test]
fn two_terms_keep_the_rules() {
    holds(Bounds::terms(2));
}

#[test]
fn late_disks_keep_the_rules() {
    let late = Bounds {
        late_disks: true,
        ..Bounds::terms(1)
    };
    holds(Bounds {
        commands: 1,
        ..late
    });
    holds(Bounds { crashes: 1, ..late });
}

#[test]
fn reads_keep_the_rules() {
    holds(Bounds {
        reads: 1,
        heartbeats: 1,
        ..Bounds::terms(1)
    });
}

#[cfg(feature = "mutation")]
#[test]
fn planted_bugs_are_found() {
    use raft_log::Mutation;

    let (one, two) = (Bounds::terms(1), Bounds::terms(2));
    let three = Bounds {
        elections: 3,
        ..Bounds::terms(3)
    };
    let crash = Bounds { crashes: 1, ..one };
    let late = Bounds {
        late_disks: true,
        ..crash
    };
    let read = Bounds {
        reads: 1,
        heartbeats: 1,
        ..two
    };
    for (mutation, bounds) in [
        (Mutation::VoteTwice, one),
        (Mutation::CountRejection, one),
        (Mutation::ElectWithoutMajority, one),
        (Mutation::CommitWithoutMajority, one),
        (Mutation::VoteNotPersisted, crash),
        (Mutation::TermNotPersisted, crash),
        (Mutation::VoteBeforeDurable, late),
        (Mutation::AcknowledgeBeforeDurable, late),
        (Mutation::VoteForAnyLog, two),
        (Mutation::CompareIndexOnly, two),
        (Mutation::ObeyOldTerm, two),
        (Mutation::NoPreviousCheck, three),
        (Mutation::VoteForLongestLog, three),
        (Mutation::ReadByOldRound, read),
    ] {
        // The last three take 80,000 to 800,000 states.
        if cfg!(debug_assertions) && (bounds == three || bounds == read) {
            eprintln!("skipped: {mutation:?} takes a release build");
            continue;
        }
        let bounds = Bounds {
            mutation: Some(mutation),
            ..bounds
        };
        let explored = explore(bounds, 2_000_000);
        let Some((broken, path)) = explored.violation else {
            panic!("{mutation:?} is not found in {} states", explored.states);
        };
        let (events, states) = (path.len(), explored.states);
        eprintln!("| `{mutation:?}` | {states} | {events} | {broken} |");
    }
}
