//! Every verdict of the published histories, by each engine, with its certificate checked.

use std::path::{Path, PathBuf};

use linearizability::{
    Budget, Engines, History, Joined, KeyValue, Model, Outcome, Register, check_with, jepsen_log,
    key_value_history, verify,
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
    key_value(&KeyValue, Engines::Race, &KEY_VALUE);
}

#[test]
fn wing_gong_lowe_gives_every_verdict_of_the_key_value_histories() {
    key_value(&KeyValue, Engines::WingGongLowe, &KEY_VALUE);
}

#[test]
fn just_in_time_gives_every_verdict_of_the_key_value_histories() {
    key_value(&KeyValue, Engines::JustInTime, &KEY_VALUE);
}

#[test]
fn keys_checked_together_give_the_same_verdicts() {
    key_value(&Joined(KeyValue), Engines::Race, &KEY_VALUE[..3]);
}

fn key_value<M>(model: &M, engines: Engines, cases: &[(&str, bool)])
where
    M: Model<Input = <KeyValue as Model>::Input, Output = <KeyValue as Model>::Output>,
{
    for &(name, linearizable) in cases {
        let history = key_value_history(&read(&format!("kv-histories/{name}.txt"))).unwrap();
        judge(name, model, &history, engines, linearizable);
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
    let began = std::time::Instant::now();
    match check_with(model, history, Budget::default(), engines) {
        Outcome::Linearizable(witness) => {
            assert!(linearizable, "{name}");
            assert_eq!(verify(model, history, &witness), Ok(()), "{name}");
        }
        Outcome::NotLinearizable(counterexample) => {
            assert!(!linearizable, "{name}");
            println!(
                "{name} {engines:?} {} {} {} of {}",
                counterexample.minimal,
                counterexample.answered.len(),
                counterexample.unanswered.len(),
                history.operations().len()
            );
        }
        Outcome::Unknown(reason) => panic!("{name}: {reason}"),
    }
    println!("{name} {engines:?} {:?}", began.elapsed());
}

fn read(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    std::fs::read_to_string(&path).unwrap()
}
