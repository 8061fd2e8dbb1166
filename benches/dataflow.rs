//! What do snapshots cost a stream? Keyed counts of generated numbers, with 50 thousand and a million keys, without
//! snapshots and with one a second into a folder, interleaved; medians of three. `--test` runs a hundredth of the size once.
//!
//! A record is 8 bytes, two tasks read and two count, on two threads. CPU seconds are of the whole process, so they have
//! the writing of snapshots in them.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::time::{Duration, Instant};

use chandy_lamport::{Directory, KeyGroups, Keyed, MemoryStorage, Protocol};
use dataflow::{Continuous, Generator, Job, Program, Report, Stopper};

fn main() {
    let (scale, rounds) = if std::env::args().any(|arg| arg == "--test") {
        (100, 1)
    } else {
        (1, 3)
    };
    pauses(1_000_000 / scale);
    println!(
        "{:<48} {:>9} {:>10} {:>6} {:>12} {:>11} {:>10}",
        "job", "M/s", "M/CPU s", "taken", "pause p99 ms", "longest ms", "KiB"
    );
    for (keys, groups, records) in [(50_000, 128, 150_000_000), (1_000_000, 128, 60_000_000)] {
        let records = records / scale;
        let job = job(records, keys, groups);
        let variants = [
            ("no snapshots", None),
            ("aligned, each second", Some(Protocol::Aligned)),
            ("unaligned, each second", Some(Protocol::Unaligned)),
            ("stop the world, each second", Some(Protocol::StopTheWorld)),
        ];
        let mut all: Vec<Vec<Measured>> = variants.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (measured, (_, protocol)) in all.iter_mut().zip(&variants) {
                measured.push(measure(&job, *protocol));
            }
        }
        for (measured, (name, _)) in all.iter().zip(&variants) {
            print(
                &format!("{keys} keys in {groups}, {name}"),
                records,
                measured,
            );
        }
    }
}

/// How long taking the state of so many keys keeps a task, and how long the batches after it take, which copy what they
/// change: of one task with all key groups, without threads.
fn pauses(keys: u64) {
    println!(
        "{:<48} {:>14} {:>14} {:>14}",
        "state", "taken p99 us", "batch p50 us", "batch p99 us"
    );
    for groups in [128, 1_024, 16_384] {
        let key_groups = KeyGroups::new(groups).expect("allowed");
        let mut state = Keyed::new(key_groups, 0..groups);
        let mut number = 0;
        let mut batch = |state: &mut Keyed<u64, u64>, records: u64| {
            let began = Instant::now();
            for _ in 0..records {
                number += 1;
                state.change(&(spread(number) % keys), || 0, |count| *count += 1);
            }
            began.elapsed().as_secs_f64() * 1e6
        };
        batch(&mut state, keys * 8);
        let (mut taken, mut after) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            let began = Instant::now();
            let view = state.snapshot();
            taken.push(began.elapsed().as_secs_f64() * 1e6);
            after.extend((0..100).map(|_| batch(&mut state, 1_024)));
            drop(view);
        }
        println!(
            "{:<48} {:>14.1} {:>14.1} {:>14.1}",
            format!("{keys} keys in {groups} groups"),
            part(&mut taken, 99),
            part(&mut after, 50),
            part(&mut after, 99),
        );
    }
    println!();
}

fn part(values: &mut [f64], part: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() * part / 100).min(values.len().saturating_sub(1));
    // A run may be over before anything pauses.
    values.get(place).copied().unwrap_or(f64::NAN)
}

struct Measured {
    wall: f64,
    cpu: f64,
    report: Report,
}

/// Numbers are spread over the keys as a hash would.
fn job(records: u64, keys: u64, groups: u32) -> Job {
    let program = Program::new(KeyGroups::new(groups).expect("allowed"));
    program
        .source("numbers", 2, 1_024, move |task| {
            Generator::new(task.into(), 2, records, move |n| spread(n) % keys)
        })
        .key_by(|key| *key)
        .stateful(
            "count",
            2,
            || 0u64,
            |_, count, _, _: &mut Vec<u64>| *count += 1,
        )
        .for_each(|_| |_| ());
    program.job()
}

fn spread(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (number ^ (number >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16
}

fn measure(job: &Job, protocol: Option<Protocol>) -> Measured {
    let continuous = Continuous {
        protocol: protocol.unwrap_or(Protocol::Aligned),
        interval: Duration::from_secs(if protocol.is_some() { 1 } else { 1_000_000 }),
        ..Continuous::new()
    };
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let report = if protocol.is_some() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Directory::open(folder.path()).expect("a folder");
        continuous.run(job, storage, &Stopper::default())
    } else {
        // The one at the end is taken all the same, into memory.
        continuous.run(job, MemoryStorage::default(), &Stopper::default())
    };
    Measured {
        wall: began.elapsed().as_secs_f64(),
        cpu: cpu_seconds() - cpu,
        report: report.expect("runs"),
    }
}

fn print(name: &str, records: u64, measured: &[Measured]) {
    let millions = u32::try_from(records).map_or(0.0, f64::from) / 1e6;
    let rate = |seconds: fn(&Measured) -> f64| {
        millions / median(measured.iter().map(seconds).collect()).max(0.01)
    };
    let pauses = measured.iter().flat_map(|one| &one.report.pauses);
    let mut pauses: Vec<_> = pauses.map(|pause| pause.as_secs_f64() * 1e3).collect();
    let taken: usize = measured.iter().map(|one| one.report.snapshots.len()).sum();
    let bytes = measured
        .iter()
        .map(|one| one.report.bytes)
        .max()
        .unwrap_or(0);
    println!(
        "{name:<48} {:>9.2} {:>10.2} {taken:>6} {:>12.3} {:>11.3} {:>10}",
        rate(|one| one.wall),
        rate(|one| one.cpu),
        part(&mut pauses, 99),
        part(&mut pauses, 100),
        bytes / 1_024,
    );
}

/// User and system time of this process: fields 14 and 15 of proc(5)'s stat, in hundredths on Linux.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit_once(')').expect("a name").1;
    let ticks: f64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<f64>().expect("a number"))
        .sum();
    ticks / 100.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
