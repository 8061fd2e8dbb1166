//! Coordinators that crash at any moment, over storage that tears: nothing is lost and nothing comes twice.
#![cfg(feature = "sim")]

use chandy_lamport::Schedule;
use chandy_lamport::sim::{JobOutcome, run_job};

fn schedule(seed: u64) -> Schedule {
    Schedule {
        concurrent: 1 + usize::try_from(seed % 3).expect("small"),
        retained: 1 + usize::try_from(seed / 3 % 3).expect("small"),
        pause: seed / 9 % 2,
        ..Schedule::every(3)
    }
}

#[test]
fn every_record_comes_out_once() {
    let mut total = JobOutcome::default();
    for seed in 0..1_000 {
        let outcome = run_job(&schedule(seed), seed)
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        total.completed += outcome.completed;
        total.recovered += outcome.recovered;
        total.skipped += outcome.skipped;
        total.rebased += outcome.rebased;
    }
    println!("{total:?}");
    assert!(total.completed > 10_000, "{total:?}");
    assert!(
        total.skipped > 100,
        "torn manifests were passed over: {total:?}"
    );
    assert!(total.rebased > 0, "increments lost their base: {total:?}");
}

#[cfg(feature = "mutation")]
#[test]
fn each_planted_bug_is_found() {
    for mutation in chandy_lamport::Mutation::OF_COORDINATOR {
        let found = (0..1_000).find_map(|seed| {
            let schedule = Schedule {
                mutation: Some(mutation),
                ..schedule(seed)
            };
            Some((seed, run_job(&schedule, seed).err()?))
        });
        println!("{mutation:?}: {found:?}");
        assert!(found.is_some(), "{mutation:?} is not found");
    }
}
