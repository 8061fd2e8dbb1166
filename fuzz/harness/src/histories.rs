//! The readers of histories on hostile text, and both engines on whatever they read.

use linearizability::{
    Budget, Engines, History, KeyValue, Model, Outcome, Register, check_with, decide,
    independent_registers, jepsen_log, key_value_history, register_history, timeline, verify,
};

/// Small, so that a hard history costs no more than an easy one.
const BUDGET: Budget = Budget {
    steps: 20_000,
    configurations: 5_000,
};

/// Words that the readers know, to be put together by the first half of each byte.
const WORDS: [&str; 16] = [
    "{:process 0 ",
    "{:process 1 ",
    ":type :invoke ",
    ":type :ok ",
    ":type :info ",
    ":f :read ",
    ":f :write ",
    ":f :cas ",
    ":f :get :key \"a\" ",
    ":f :append :key \"a\" ",
    ":value [1 [1 2]]} ",
    ":value [1 2]} ",
    ":value 1} ",
    ":value \"x\"} ",
    ":value nil}\n",
    "INFO  jepsen.util - 1\t:invoke\t:read\tnil\n",
];

/// Reads `data` as each kind of history: once as it is, once as a choice of the readers' own words.
pub fn histories(data: &[u8]) {
    let raw = String::from_utf8_lossy(data);
    let words: String = data
        .iter()
        .map(|byte| WORDS[usize::from(byte >> 4)])
        .collect();
    for text in [raw.as_ref(), words.as_str()] {
        if let Ok(history) = jepsen_log(text) {
            judge(&Register::default(), &history);
        }
        if let Ok(history) = register_history(text) {
            judge(&Register::default(), &history);
        }
        for history in independent_registers(text).into_iter().flatten() {
            judge(&Register::default(), &history.1);
        }
        if let Ok(history) = key_value_history(text) {
            judge(&KeyValue, &history);
        }
    }
}

/// The engines never contradict each other, and every witness holds.
fn judge<M: Model>(model: &M, history: &History<M::Input, M::Output>)
where
    M::Input: std::fmt::Debug,
    M::Output: std::fmt::Debug,
{
    let outcome = check_with(model, history, BUDGET, Engines::Race);
    let verdict = match &outcome {
        Outcome::Linearizable(witness) => {
            assert_eq!(verify(model, history, witness), Ok(()));
            true
        }
        Outcome::NotLinearizable(_) => false,
        Outcome::Unknown(_) => return,
    };
    assert!(timeline(history, &outcome).ends_with("</html>\n"));
    for engines in [Engines::WingGongLowe, Engines::JustInTime] {
        if let Ok(alone) = decide(model, history, BUDGET, engines) {
            assert_eq!(alone, verdict, "{engines:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            super::histories(u.bytes(u.len())?);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
