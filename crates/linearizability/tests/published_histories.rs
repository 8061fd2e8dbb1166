//! Every verdict of the published histories, by each engine, with its certificate checked.

use std::path::{Path, PathBuf};

use linearizability::{
    Budget, Engines, History, Joined, KeyValue, Model, Outcome, Register, check_with, decide,
    jepsen_log, key_value_history, verify,
};

/// The Jepsen logs of which porcupine's own test says that they are linearizable.
const LINEARIZABLE: [usize; 10] = [2, 5, 7, 18, 25, 31, 38, 45, 48, 49];

const KEY_VALUE: [(&str, bool); 4] = [
    ("c01-ok", true),
    ("c01-bad", false),
    ("c10-ok", true),
    ("c50-bad", false),
];

#[test]
fn the_race_gives_every_verdict_of_the_jepsen_etcd_logs() {
    jepsen_etcd(Engines::Race);
}

#[test]
fn wing_gong_lowe_gives_every_verdict_of_the_jepsen_etcd_logs() {
    jepsen_etcd(Engines::WingGongLowe);
}

#[test]
fn just_in_time_gives_every_verdict_of_the_jepsen_etcd_logs() {
    jepsen_etcd(Engines::JustInTime);
}

fn jepsen_etcd(engines: Engines) {
    for number in 0..50 {
        let history = jepsen_log(&read(&format!("jepsen-etcd/etcd_{number:03}.log"))).unwrap();
        let linearizable = LINEARIZABLE.contains(&number);
        judge(
            &format!("etcd_{number:03}"),
            &Register::default(),
            &history,
            engines,
            linearizable,
        );
    }
}

#[test]
fn the_race_gives_every_verdict_of_the_key_value_histories() {
    key_value(Engines::Race);
}

#[test]
fn wing_gong_lowe_gives_every_verdict_of_the_key_value_histories() {
    key_value(Engines::WingGongLowe);
}

#[test]
fn just_in_time_gives_every_verdict_of_the_key_value_histories() {
    key_value(Engines::JustInTime);
}

#[test]
fn keys_checked_together_give_the_same_verdicts() {
    for (name, linearizable) in &KEY_VALUE[..3] {
        let history = key_value_history(&read(&format!("kv-histories/{name}.txt"))).unwrap();
        let decided = decide(
            &Joined(KeyValue),
            &history,
            Budget::default(),
            Engines::Race,
        );
        assert_eq!(decided, Ok(*linearizable), "{name}");
    }
}

fn key_value(engines: Engines) {
    for (name, linearizable) in KEY_VALUE {
        let history = key_value_history(&read(&format!("kv-histories/{name}.txt"))).unwrap();
        judge(name, &KeyValue, &history, engines, linearizable);
    }
}

/// Checks the verdict and what backs it.
fn judge<M>(
    name: &str,
    model: &M,
    history: &History<M::Input, M::Output>,
    engines: Engines,
    linearizable: bool,
) where
    M: Model,
    M::Input: Clone,
    M::Output: Clone,
{
    match check_with(model, history, Budget::default(), engines) {
        Outcome::Linearizable(witness) => {
            assert!(linearizable, "{name}");
            assert_eq!(verify(model, history, &witness), Ok(()), "{name}");
        }
        Outcome::NotLinearizable(counterexample) => {
            assert!(!linearizable, "{name}");
            let contradiction = counterexample.history(history);
            for engines in [Engines::WingGongLowe, Engines::JustInTime] {
                let decided = decide(model, &contradiction, Budget::default(), engines);
                assert_eq!(decided, Ok(false), "{name}");
            }
            // Among 50 clients, forgetting one answer leaves more orders than the attempts may try.
            let may_be_larger = name == "c50-bad" || engines == Engines::JustInTime;
            assert!(counterexample.minimal || may_be_larger, "{name}");
            assert!(
                counterexample.answered.len() <= 16,
                "{name}: {counterexample:?}"
            );
        }
        Outcome::Unknown(reason) => panic!("{name}: {reason}"),
    }
}

fn read(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    std::fs::read_to_string(&path).unwrap()
}
