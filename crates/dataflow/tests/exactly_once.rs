//! Programs under every protocol, with crashes anywhere: what comes out is what a plain loop computes, once.

use std::collections::BTreeMap;

use chandy_lamport::{KeyGroups, MemoryStorage, Protocol};
use dataflow::{Generator, Job, Local, LocalOutcome, Program, Shared, Windows};

const PROTOCOLS: [Protocol; 4] = [
    Protocol::AlignedCyclic,
    Protocol::Unaligned,
    Protocol::AlignedWithTimeout { timeout: 10 },
    Protocol::StopTheWorld,
];

fn groups() -> KeyGroups {
    KeyGroups::new(16).expect("allowed")
}

fn lines(outputs: &[Shared]) -> Vec<String> {
    let bytes: Vec<u8> = outputs.iter().flat_map(Shared::bytes).collect();
    let text = String::from_utf8(bytes).expect("text");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn line<T: std::fmt::Debug>(record: &T, bytes: &mut Vec<u8>) {
    bytes.extend(format!("{record:?}\n").into_bytes());
}

fn word(n: u64) -> u64 {
    n * n % 17
}

/// Counts words: two sources, two counters, a sink in each.
fn count(outputs: &[Shared; 2]) -> Job {
    let outputs = outputs.clone();
    let program = Program::new(groups());
    program
        .source("numbers", 2, 3, |task| {
            Generator::new(task.into(), 2, 200, |n| n)
        })
        .flat_map(|n, words: &mut Vec<u64>| words.extend([word(n), word(n + 1)]))
        .filter(|word| *word != 4)
        .key_by(|word| *word)
        .stateful(
            "count",
            2,
            || 0u64,
            |word, count, _, out| {
                *count += 1;
                out.push((*word, *count));
            },
        )
        .sink(move |task| outputs[task as usize].clone(), line);
    program.job()
}

fn counted() -> Vec<String> {
    let mut counts = BTreeMap::new();
    let mut lines = Vec::new();
    for word in (0..200)
        .flat_map(|n| [word(n), word(n + 1)])
        .filter(|word| *word != 4)
    {
        let count: &mut u64 = counts.entry(word).or_default();
        *count += 1;
        lines.push(format!("{:?}", (word, *count)));
    }
    lines.sort();
    lines
}

fn crashing(protocol: Protocol, seed: u64) -> Local {
    Local {
        crash_one_in: 400,
        ..Local::new(protocol, seed)
    }
}

#[test]
fn counts_are_exact_whatever_crashes() {
    for protocol in PROTOCOLS {
        let mut total = LocalOutcome::default();
        for seed in 0..60 {
            let outputs = [Shared::default(), Shared::default()];
            let outcome = crashing(protocol, seed).run(&count(&outputs)).unwrap();
            assert_eq!(lines(&outputs), counted(), "{protocol:?}, seed {seed}");
            total.completed += outcome.completed;
            total.crashes += outcome.crashes;
        }
        println!("{protocol:?}: {total:?}");
        assert!(total.crashes > 60, "it crashed: {total:?}");
    }
}

#[test]
fn windows_close_once() {
    let mut expected = BTreeMap::new();
    let windows = Windows::sliding(20, 10);
    for n in 0..300u64 {
        for start in windows.of(n) {
            *expected.entry((n % 5, start)).or_insert(0u64) += n;
        }
    }
    let mut expected: Vec<_> = expected
        .iter()
        .map(|((k, s), sum)| format!("{:?}", (k, s, sum)))
        .collect();
    expected.sort();
    for protocol in PROTOCOLS {
        for seed in 0..40 {
            let outputs = [Shared::default(), Shared::default()];
            let sinks = outputs.clone();
            let program = Program::new(groups());
            program
                .source("numbers", 2, 4, |task| {
                    Generator::new(task.into(), 2, 300, |n| n)
                })
                .event_time(|n| *n, 0)
                .key_by(|n| n % 5)
                .window("sum", 2, windows, |n| *n, || 0u64, |sum, n| *sum += n)
                .sink(move |task| sinks[task as usize].clone(), line);
            crashing(protocol, seed).run(&program.job()).unwrap();
            assert_eq!(lines(&outputs), expected, "{protocol:?}, seed {seed}");
        }
    }
}

/// Collatz: a number goes round until it is 1, and says how often.
fn collatz(outputs: &[Shared; 2]) -> Job {
    let outputs = outputs.clone();
    let program = Program::new(groups());
    program
        .source("numbers", 1, 5, |_| {
            Generator::new(1, 1, 60, |n| (n, n, 0u32))
        })
        .key_by(|(_, at, _)| *at)
        .iterate(
            "step",
            2,
            || 0u64,
            |_, visits, (n, at, steps), again, done| {
                *visits += 1;
                if at == 1 {
                    done.push((n, steps));
                } else {
                    let next = if at % 2 == 0 { at / 2 } else { 3 * at + 1 };
                    again.push((n, next, steps + 1));
                }
            },
        )
        .sink(move |task| outputs[task as usize].clone(), line);
    program.job()
}

fn collatz_by_hand() -> Vec<String> {
    let steps = |n: u64| {
        let next = |at: &u64| {
            (*at != 1).then(|| {
                if at.is_multiple_of(2) {
                    at / 2
                } else {
                    3 * at + 1
                }
            })
        };
        std::iter::successors(Some(n), next).count() - 1
    };
    let mut lines: Vec<_> = (1..60).map(|n| format!("{:?}", (n, steps(n)))).collect();
    lines.sort();
    lines
}

#[test]
fn cycles_lose_nothing() {
    for protocol in PROTOCOLS {
        for seed in 0..30 {
            let outputs = [Shared::default(), Shared::default()];
            let outcome = crashing(protocol, seed).run(&collatz(&outputs)).unwrap();
            assert_eq!(
                lines(&outputs),
                collatz_by_hand(),
                "{protocol:?}, seed {seed}"
            );
            assert!(outcome.completed > 1);
        }
    }
}

#[test]
fn heavy_keys_are_combined_before_the_exchange() {
    let output = Shared::default();
    let sink = output.clone();
    let program = Program::new(groups());
    program
        .source("skewed", 2, 50, |task| {
            Generator::new(
                task.into(),
                2,
                2_000,
                |n| if n % 10 == 0 { n % 7 } else { 100 },
            )
        })
        .key_by(|key| *key)
        .two_phase(
            "count",
            1,
            || 0u64,
            |count, _| *count += 1,
            |key, all, part, out| {
                *all += part;
                out.push((*key, *all));
            },
        )
        .sink(move |_| sink.clone(), line);
    Local::new(Protocol::AlignedCyclic, 1)
        .run(&program.job())
        .unwrap();
    let lines = lines(&[output]);
    assert!(lines.contains(&"(100, 1800)".to_owned()), "{lines:?}");
    assert!(
        lines.len() <= 40 * 8,
        "one update for each key and batch: {}",
        lines.len()
    );
}

/// A job whose sources and state are spread over other tasks than those of the snapshot.
#[test]
fn keyed_state_moves_to_another_number_of_tasks() {
    let job = |tasks: u32, end: u64, output: &Shared| {
        let output = output.clone();
        let program = Program::new(groups());
        program
            .source("numbers", 1, 3, move |_| Generator::new(0, 1, end, |n| n))
            .key_by(|n| n % 11)
            .stateful(
                "count",
                tasks,
                || 0u64,
                |key, count, _, out| {
                    *count += 1;
                    out.push((*key, *count));
                },
            )
            .rebalance("write", 1)
            .sink(move |_| output.clone(), line);
        program.job()
    };
    for (before, after) in [(1, 3), (3, 1), (2, 5)] {
        let output = Shared::default();
        let mut storage = MemoryStorage::default();
        let local = Local::new(Protocol::AlignedCyclic, 3);
        local
            .run_on(&job(before, 100, &output), &mut storage)
            .unwrap();
        local
            .run_on(&job(after, 200, &output), &mut storage)
            .unwrap();
        let mut expected: Vec<_> = (0..200u64)
            .map(|n| format!("{:?}", (n % 11, n / 11 + 1)))
            .collect();
        expected.sort();
        assert_eq!(lines(&[output]), expected, "{before} to {after} tasks");
    }
}

/// "What if the router doesn't wait for all barriers?"
#[cfg(feature = "mutation")]
#[test]
fn a_router_that_does_not_wait_counts_wrong() {
    let wrong = (0..60).any(|seed| {
        let outputs = [Shared::default(), Shared::default()];
        let local = Local {
            mutation: Some(chandy_lamport::Mutation::DoNotWait),
            ..crashing(Protocol::AlignedCyclic, seed)
        };
        local.run(&count(&outputs)).unwrap();
        lines(&outputs) != counted()
    });
    assert!(wrong);
}

/// "Store back edge channel messages": without them, what went round is lost.
#[cfg(feature = "mutation")]
#[test]
fn a_cycle_whose_back_edges_are_not_logged_loses_records() {
    let wrong = (0..60).any(|seed| {
        let outputs = [Shared::default(), Shared::default()];
        let local = Local {
            mutation: Some(chandy_lamport::Mutation::ForgetBackEdges),
            ..crashing(Protocol::AlignedCyclic, seed)
        };
        local.run(&collatz(&outputs)).unwrap();
        lines(&outputs) != collatz_by_hand()
    });
    assert!(wrong);
}
