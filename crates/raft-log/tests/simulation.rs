//! Whole clusters under faults.
#![cfg(feature = "sim")]

use raft_log::sim::{FAULTS, Scenario, run};

const SCHEDULES: u64 = 2_000;

/// A scenario of the mutation tests has a field more; the functional update covers both.
fn quiet(seed: u64) -> Scenario {
    Scenario {
        servers: 3,
        witness: false,
        lease: false,
        faults: Vec::new(),
        ..Scenario::from_seed(seed)
    }
}

#[test]
fn no_schedule_of_faults_breaks_the_rules() {
    let (mut steps, mut committed, mut answered) = (0, 0, 0);
    for seed in 0..SCHEDULES {
        let outcome = run(&Scenario::from_seed(seed));
        assert_eq!(outcome.violation, None, "seed {seed}");
        steps += outcome.steps;
        committed += outcome.committed;
        answered += outcome.answered;
    }
    eprintln!("{SCHEDULES} schedules: {steps} steps, {committed} entries, {answered} answers");
    assert!(
        committed > 50 * SCHEDULES && answered > 50 * SCHEDULES,
        "the clusters do work"
    );
}

#[test]
fn no_schedule_of_faults_breaks_the_rules_on_disks_of_bytes() {
    // 102954: a log that ended earlier than it once had was taken for damaged.
    for seed in (0..SCHEDULES / 4).chain([102_954]) {
        let scenario = Scenario {
            bytes: true,
            ..Scenario::from_seed(seed)
        };
        assert_eq!(run(&scenario).violation, None, "seed {seed}");
    }
}

/// Seeds whose runs once ended in a violation, of the server or of what checked it.
#[test]
fn seeds_that_once_failed_do_not() {
    // 4307: a snapshot taken by a server that had joined with an empty disk named no members.
    // 25170: the joint membership that was left had been compacted away.
    for seed in [4_307, 25_170] {
        assert_eq!(
            run(&Scenario::from_seed(seed)).violation,
            None,
            "seed {seed}"
        );
    }
}

#[test]
fn a_run_is_determined_by_its_scenario() {
    let scenario = Scenario {
        faults: FAULTS.to_vec(),
        ..Scenario::from_seed(7)
    };
    assert_eq!(run(&scenario), run(&scenario));
}

#[test]
fn without_faults_most_operations_are_answered_at_once() {
    let outcome = run(&quiet(1));
    assert_eq!(outcome.violation, None);
    assert!(outcome.answered > 500, "{outcome:?}");
}
