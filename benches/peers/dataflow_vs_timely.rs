//! Keyed counts with snapshots each second beside timely dataflow, which has no fault tolerance: CPU seconds of the same
//! counts over the same numbers on two threads, interleaved; medians of three. An argument is millions of records.

use std::time::{Duration, Instant};

use chandy_lamport::{Directory, KeyGroups, MemoryStorage, Protocol};
use dataflow::{Continuous, Generator, Program, Stopper};
use rustc_hash::FxHashMap;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::InputHandle;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::operator::Operator;

fn main() {
    let argument = std::env::args().nth(1).and_then(|text| text.parse::<u64>().ok());
    let records = argument.unwrap_or(40) * 1_000_000;
    println!("{:<40} {:>10} {:>10} {:>10}", "job", "M/s", "M/CPU s", "of timely");
    for keys in [50_000, 1_000_000] {
        let (mut theirs, mut plain, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            theirs.push(measure(|| timely_count(records, keys)));
            plain.push(measure(|| count(records, keys, false)));
            ours.push(measure(|| count(records, keys, true)));
        }
        let base = median(theirs.iter().map(|(_, cpu)| *cpu).collect());
        print(&format!("{keys} keys, timely"), records, base, &theirs);
        print(&format!("{keys} keys, dataflow, no snapshots"), records, base, &plain);
        print(&format!("{keys} keys, dataflow, each second"), records, base, &ours);
    }
}

fn count(records: u64, keys: u64, snapshots: bool) {
    let program = Program::new(KeyGroups::new(128).expect("allowed"));
    program
        .source("numbers", 2, 1_024, move |task| {
            Generator::new(task.into(), 2, records, move |n| spread(n) % keys)
        })
        .key_by(|key| *key)
        .stateful("count", 2, || 0u64, |_, count, _, _: &mut Vec<u64>| *count += 1)
        .for_each(|_| |_| ());
    let job = program.job();
    let continuous = Continuous {
        protocol: Protocol::Aligned,
        interval: Duration::from_secs(if snapshots { 1 } else { 1_000_000 }),
        ..Continuous::new()
    };
    let stopper = Stopper::default();
    let report = if snapshots {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Directory::open(folder.path()).expect("a folder");
        continuous.run(&job, storage, &stopper)
    } else {
        continuous.run(&job, MemoryStorage::default(), &stopper)
    };
    report.expect("runs");
}

fn timely_count(records: u64, keys: u64) {
    timely::execute(timely::Config::process(2), move |worker| {
        let (index, peers) = (worker.index() as u64, worker.peers() as u64);
        let mut input = InputHandle::<u64, CapacityContainerBuilder<Vec<u64>>>::new();
        let probe = worker.dataflow(|scope| {
            let exchange = Exchange::new(|key: &u64| key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
            let stream = input.to_stream(scope);
            let counted = stream.unary::<CapacityContainerBuilder<Vec<u64>>, _, _, _>(
                exchange,
                "count",
                |_, _| {
                    let mut counts: FxHashMap<u64, u64> = FxHashMap::default();
                    move |input, _output| {
                        input.for_each(|_, batch| {
                            for key in batch.drain(..) {
                                *counts.entry(key).or_default() += 1;
                            }
                        });
                    }
                },
            );
            counted.probe().0
        });
        let (mut number, mut round) = (index, 0);
        while number < records {
            for _ in 0..1_024 {
                if number < records {
                    input.send(spread(number) % keys);
                    number += peers;
                }
            }
            round += 1;
            input.advance_to(round);
            // As far ahead as our channels let a source be.
            while probe.less_than(&round.saturating_sub(16)) {
                // Without the pause it burns the other worker's processor where there are few.
                worker.step_or_park(Some(Duration::from_micros(500)));
            }
        }
        input.close();
        while worker.step() {}
    })
    .expect("two threads");
}

/// Numbers are spread over the keys as a hash would.
fn spread(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (number ^ (number >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16
}

fn measure(run: impl Fn()) -> (f64, f64) {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    run();
    (began.elapsed().as_secs_f64(), cpu_seconds() - cpu)
}

fn print(name: &str, records: u64, base: f64, runs: &[(f64, f64)]) {
    let millions = records as f64 / 1e6;
    let wall = median(runs.iter().map(|(wall, _)| *wall).collect());
    let cpu = median(runs.iter().map(|(_, cpu)| *cpu).collect());
    println!(
        "{name:<40} {:>10.2} {:>10.2} {:>10.2}",
        millions / wall,
        millions / cpu,
        cpu / base
    );
}

/// User and system time of this process: fields 14 and 15 of proc(5)'s stat, in hundredths on Linux.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit_once(')').expect("a name").1;
    let fields = after_name.split_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
