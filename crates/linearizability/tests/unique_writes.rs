//! The fast path against the search.

use linearizability::{
    Budget, Engines, History, Operation, Outcome, Register, RegisterInput, RegisterOutput,
    Response, Shortcut, check_with, unique_writes, verify,
};
use proptest::prelude::*;

type Input = RegisterInput<usize>;
type Output = RegisterOutput<usize>;

/// Writes of their own index, and reads of any index, with times that often coincide.
fn histories() -> impl Strategy<Value = History<Input, Output>> {
    let operation = (
        any::<bool>(),
        prop::option::weighted(0.9, 0..8usize),
        0..12u64,
        0..6u64,
        0..6u8,
    );
    prop::collection::vec(operation, 0..=9).prop_map(|operations| {
        let operation = |(index, (is_write, seen, invoked, took, fate))| {
            let (input, output) = if is_write {
                (Input::Write(index), Output::Written)
            } else {
                (Input::Read, Output::Value(seen))
            };
            let response = (fate > 0).then_some(Response {
                output,
                returned: invoked + took,
            });
            Operation {
                process: 0,
                input,
                invoked,
                response,
            }
        };
        History::new(operations.into_iter().enumerate().map(operation).collect()).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn zones_decide_as_the_search_does(history in histories()) {
        let model = Register::default();
        let found = unique_writes(&history);
        match check_with(&model, &history, Budget::default(), Engines::WingGongLowe) {
            Outcome::Linearizable(_) => {
                let Shortcut::Linearizable(witness) = found else { panic!("{found:?}") };
                prop_assert_eq!(verify(&model, &history, &witness), Ok(()));
            }
            Outcome::NotLinearizable(_) => prop_assert_eq!(found, Shortcut::NotLinearizable),
            Outcome::Unknown(reason) => prop_assert!(false, "{}", reason),
        }
    }
}

#[test]
fn a_value_written_twice_is_not_decided() {
    let write = Operation {
        process: 0,
        input: Input::Write(1),
        invoked: 0,
        response: None,
    };
    let history = History::new(vec![write.clone(), write]).unwrap();
    assert_eq!(unique_writes(&history), Shortcut::NotApplicable);
}
