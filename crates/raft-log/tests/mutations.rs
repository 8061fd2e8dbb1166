//! Planted bugs: every one must be found, by the simulator or, where chance seldom gets there, by a script.
#![cfg(all(feature = "sim", feature = "mutation"))]

mod scripts;

use std::panic::{AssertUnwindSafe, catch_unwind};

use raft_log::sim::{Fault, Scenario, run};
use raft_log::{Mutation, Options};
use scripts::{
    With, a_candidate_counts_only_votes_of_its_term,
    a_follower_acknowledges_only_what_it_has_matched, a_follower_commits_only_what_it_has_matched,
    a_restarted_server_does_not_vote_while_a_lease_may_last, a_transfer_ends_the_lease,
    an_old_entry_is_committed_only_with_a_new_one,
};

const SEEDS_MAX: u64 = 1_000;

/// Any scenario, except for bugs that only show when a few things meet: then only those things happen.
fn scenario(mutation: Mutation, seed: u64) -> Scenario {
    let any = Scenario {
        mutation: Some(mutation),
        ..Scenario::from_seed(seed)
    };
    let faults = match mutation {
        Mutation::SnapshotKeepsLog => vec![Fault::Compact, Fault::Part, Fault::Lose],
        Mutation::LeaseTooLong => vec![Fault::Part, Fault::Pause],
        _ => return any,
    };
    let lease = mutation == Mutation::LeaseTooLong;
    Scenario {
        lease,
        faults,
        servers: 3,
        witness: false,
        ..any
    }
}

/// How many seeds it takes, and what is found. A panic is a find too: broken rules break assertions.
fn find(mutation: Mutation) -> Option<(u64, String)> {
    (0..SEEDS_MAX).find_map(|seed| {
        let scenario = scenario(mutation, seed);
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&scenario)));
        let what = match outcome {
            Ok(outcome) => outcome.violation?.what,
            Err(_) => String::from("an assertion"),
        };
        Some((seed + 1, what))
    })
}

/// The script that finds it.
fn script(mutation: Mutation) -> Option<fn(With<'_>) -> bool> {
    Some(match mutation {
        Mutation::CountOldVotes => a_candidate_counts_only_votes_of_its_term,
        Mutation::CommitOldTerm => an_old_entry_is_committed_only_with_a_new_one,
        Mutation::CommitUnmatched => a_follower_commits_only_what_it_has_matched,
        Mutation::AcknowledgeAll => a_follower_acknowledges_only_what_it_has_matched,
        Mutation::VoteAfterRestart => a_restarted_server_does_not_vote_while_a_lease_may_last,
        Mutation::LeaseAfterTransfer => a_transfer_ends_the_lease,
        _ => return None,
    })
}

fn all_are_found(mutations: &[Mutation]) {
    let mut missed = Vec::new();
    for mutation in mutations.iter().copied() {
        if let Some(holds) = script(mutation) {
            let broken = |options| Options {
                mutation: Some(mutation),
                ..options
            };
            assert!(!holds(&broken), "the script does not find {mutation:?}");
            eprintln!("| `{mutation:?}` | script | |");
            continue;
        }
        match find(mutation) {
            Some((seeds, what)) => {
                let what: String = what
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(70)
                    .collect();
                eprintln!("| `{mutation:?}` | {seeds} | {what} |");
            }
            None => missed.push(mutation),
        }
    }
    assert_eq!(missed, [], "not found within {SEEDS_MAX} seeds");
}

#[test]
fn planted_bugs_of_elections_are_found() {
    all_are_found(&Mutation::ALL[..17]);
}

#[test]
fn planted_bugs_of_replication_and_reads_are_found() {
    all_are_found(&Mutation::ALL[17..]);
}
