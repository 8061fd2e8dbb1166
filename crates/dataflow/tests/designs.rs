//! The same job under the other designs: small batches on datasets, and replicated operators.
#![cfg(all(feature = "threads", feature = "micro-batch"))]

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use chandy_lamport::{KeyGroups, MemoryStorage};
use dataflow::{Ended, Generator, Job, MicroBatch, Program, Replicated, Shared, Stopper, Windows};
use rdd::{Context, Faults, ThreadOptions, Threads};

fn line<T: std::fmt::Debug>(record: &T, bytes: &mut Vec<u8>) {
    bytes.extend(format!("{record:?}\n").into_bytes());
}

const NUMBERS: u64 = 3_000;

/// Sums by window: two sources, two tasks with state, one that writes.
fn job(output: &Shared) -> Job {
    stopping(output, NUMBERS, &Stopper::default())
}

/// The same, which is stopped when it comes to this number.
fn stopping(output: &Shared, at: u64, stopper: &Stopper) -> Job {
    let (output, stopper) = (output.clone(), stopper.clone());
    let program = Program::new(KeyGroups::new(16).expect("allowed"));
    program
        .source("numbers", 2, 32, |task| {
            Generator::new(task.into(), 2, NUMBERS, |n| n)
        })
        .map(move |n| {
            if n == at {
                stopper.stop();
            }
            n
        })
        .event_time(|n| *n, 64)
        .key_by(|n| n % 9)
        .window(
            "sum",
            2,
            Windows::tumbling(100),
            |n| *n,
            || 0u64,
            |sum, n| *sum += n,
        )
        .rebalance("write", 1)
        .sink(move |_| output.clone(), line);
    program.job()
}

fn expected() -> Vec<String> {
    let mut lines = Vec::new();
    for start in (0..NUMBERS).step_by(100) {
        for key in 0..9 {
            let sum: u64 = (start..start + 100).filter(|n| n % 9 == key).sum();
            lines.push(format!("{:?}", (key, start, sum)));
        }
    }
    lines.sort();
    lines
}

fn lines(output: &Shared) -> Vec<String> {
    let text = String::from_utf8(output.bytes()).expect("text");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn batches(context: Context) -> MicroBatch {
    MicroBatch {
        context,
        interval: Duration::ZERO,
        reads_max: 4,
    }
}

#[test]
fn small_batches_compute_the_same_although_a_worker_is_lost() {
    let output = Shared::default();
    let threads = Threads::new(ThreadOptions {
        workers: 2,
        faults: Faults {
            lose_worker_at: Some(20),
            ..Faults::default()
        },
        ..ThreadOptions::default()
    });
    let threads = Arc::new(threads.unwrap());
    let batches = batches(Context::new(threads.clone(), 2));
    let mut storage = MemoryStorage::default();
    let report = batches
        .run(&job(&output), &mut storage, &Stopper::default())
        .unwrap();
    assert_eq!(report.ended, Ended::Finished);
    assert_eq!(threads.counts().workers_lost, 1);
    assert_eq!(lines(&output), expected());
}

#[test]
fn small_batches_go_on_after_the_driver_is_lost() {
    let output = Shared::default();
    let mut storage = MemoryStorage::default();
    for (run, at) in [500, 1_500, NUMBERS].into_iter().enumerate() {
        let stopper = Stopper::default();
        let job = stopping(&output, at, &stopper);
        let batches = batches(Context::local(1).unwrap());
        let report = batches.run(&job, &mut storage, &stopper).unwrap();
        let ended = if at < NUMBERS {
            Ended::Stopped
        } else {
            Ended::Finished
        };
        assert_eq!((report.ended, report.restored.is_some()), (ended, run > 0));
    }
    assert_eq!(lines(&output), expected());
}

#[test]
fn replicas_write_the_same_and_either_may_be_lost() {
    let whole = Shared::default();
    Replicated::new().run(&job(&whole), &[]).unwrap();
    assert_eq!(lines(&whole), expected());
    for lost in 0..2 {
        let output = Shared::default();
        let stoppers = [Stopper::default(), Stopper::default()];
        let job = job(&output);
        let replicated = Replicated {
            interval: Duration::ZERO,
            ..Replicated::new()
        };
        let report = thread::scope(|scope| {
            let run = scope.spawn(|| replicated.run(&job, &stoppers));
            while output.bytes().len() < 1_000 && !run.is_finished() {
                thread::yield_now();
            }
            stoppers[lost].stop();
            run.join().expect("no panic").expect("no error")
        });
        assert!(report.lost <= 1);
        assert_eq!(report.ended, Ended::Finished);
        assert!(
            output.bytes() == whole.bytes(),
            "the same bytes whichever is lost"
        );
    }
}

#[test]
fn all_replicas_lost_is_an_end() {
    let stoppers = [Stopper::default(), Stopper::default()];
    stoppers.iter().for_each(Stopper::stop);
    let report = Replicated::new()
        .run(&job(&Shared::default()), &stoppers)
        .unwrap();
    assert_eq!((report.ended, report.lost), (Ended::Stopped, 2));
}
