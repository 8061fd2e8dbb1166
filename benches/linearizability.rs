//! What does a verdict on the published histories cost, and what does its certificate cost on top?
//!
//! A table of medians comes first, in the rows in which porcupine's own benches can be run beside it; criterion's figures
//! follow for the record.
#![expect(clippy::print_stdout, reason = "a bench reports")]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use linearizability::{
    Budget, Engines, Joined, KeyValue, KeyValueHistory, Register, RegisterHistory, check, decide,
    jepsen_log, key_value_history,
};

criterion_group!(benches, verdicts);

fn main() {
    let rounds = if std::env::args().any(|argument| argument == "--test") {
        1
    } else {
        5
    };
    report(rounds);
    benches();
    Criterion::default().configure_from_args().final_summary();
}

const ENGINES: [Engines; 3] = [Engines::Race, Engines::WingGongLowe, Engines::JustInTime];

const KEY_VALUE: [&str; 4] = ["c01-ok", "c01-bad", "c10-ok", "c50-bad"];

fn report(rounds: usize) {
    println!(
        "{:24} {:>12} {:>12} {:>12} {:>12}",
        "", "race", "wgl", "jit", "certified"
    );
    let logs = jepsen_etcd();
    row("jepsen etcd, 50 logs", rounds, |engines| {
        logs.iter().for_each(|log| register(log, engines));
    });
    for number in [2, 7] {
        row(&format!("jepsen etcd {number:03}"), rounds, |e| {
            register(&logs[number], e);
        });
    }
    for name in KEY_VALUE {
        let history = key_value(name);
        row(name, rounds, |engines| match engines {
            Some(engines) => {
                let _ = black_box(decide(&KeyValue, &history, Budget::default(), engines));
            }
            None => {
                black_box(check(&KeyValue, &history, Budget::default()));
            }
        });
    }
    let history = key_value("c10-ok");
    row("c10-ok, keys together", rounds, |engines| {
        let engines = engines.unwrap_or_default();
        let _ = black_box(decide(
            &Joined(KeyValue),
            &history,
            Budget::default(),
            engines,
        ));
    });
}

/// Without engines: with all, and the certificate.
fn register(history: &RegisterHistory, engines: Option<Engines>) {
    match engines {
        Some(engines) => {
            let _ = black_box(decide(
                &Register::default(),
                history,
                Budget::default(),
                engines,
            ));
        }
        None => {
            black_box(check(&Register::default(), history, Budget::default()));
        }
    }
}

fn row(name: &str, rounds: usize, run: impl Fn(Option<Engines>)) {
    print!("{name:24}");
    for engines in ENGINES.map(Some).into_iter().chain([None]) {
        print!(
            " {:>9.3} ms",
            median(rounds, || run(engines)).as_secs_f64() * 1e3
        );
    }
    println!();
}

fn median(rounds: usize, run: impl Fn()) -> Duration {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let began = Instant::now();
            run();
            began.elapsed()
        })
        .collect();
    times.sort();
    times[rounds / 2]
}

fn verdicts(c: &mut Criterion) {
    let mut group = c.benchmark_group("linearizability");
    group.sample_size(10);
    let logs = jepsen_etcd();
    group.bench_function("jepsen etcd, 50 logs", |b| {
        b.iter(|| {
            logs.iter()
                .for_each(|log| register(log, Some(Engines::Race)));
        });
    });
    for name in KEY_VALUE {
        let history = key_value(name);
        group.bench_function(name, |b| {
            b.iter(|| decide(&KeyValue, &history, Budget::default(), Engines::Race));
        });
    }
}

fn jepsen_etcd() -> Vec<RegisterHistory> {
    let log = |number| jepsen_log(&read(&format!("jepsen-etcd/etcd_{number:03}.log")));
    (0..50).map(|number| log(number).unwrap()).collect()
}

fn key_value(name: &str) -> KeyValueHistory {
    key_value_history(&read(&format!("kv-histories/{name}.txt"))).unwrap()
}

fn read(name: &str) -> String {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/linearizability/tests/data");
    std::fs::read_to_string(data.join(name)).unwrap()
}
