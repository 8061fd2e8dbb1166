//! Both engines against a checker that tries every order: slow, obvious, and right.

use linearizability::{
    Budget, Counterexample, Engines, History, Model, Operation, Outcome, Register, RegisterInput,
    RegisterOutput, Response, check, check_with, verify,
};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

type Input = RegisterInput<u8>;
type Output = RegisterOutput<u8>;

/// Two cells that a client can fill, empty or look at; a put goes to either cell: the outcome is not determined.
#[derive(Clone, Copy, Debug)]
struct Bag;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum BagInput {
    Put(u8),
    Look(bool),
    Take(bool),
}

impl Model for Bag {
    type Input = BagInput;
    type Output = u8;
    type State = [u8; 2];
    type Part = ();

    fn part(&self, _: &BagInput) {}

    fn initial(&self) -> [u8; 2] {
        [0; 2]
    }

    fn step(
        &self,
        cells: &[u8; 2],
        input: &BagInput,
        output: Option<&u8>,
        next: &mut Vec<[u8; 2]>,
    ) {
        match *input {
            BagInput::Put(value) => next.extend([[value, cells[1]], [cells[0], value]]),
            BagInput::Look(cell) | BagInput::Take(cell) => {
                let mut after = *cells;
                if matches!(input, BagInput::Take(_)) {
                    after[usize::from(cell)] = 0;
                }
                if output.is_none_or(|&value| value == cells[usize::from(cell)]) {
                    next.push(after);
                }
            }
        }
    }

    fn never_changes(&self, input: &BagInput, _: Option<&u8>) -> bool {
        matches!(input, BagInput::Look(_))
    }
}

/// Whether some order of all answered and any pending operations explains the answers.
fn linearizable<M: Model>(model: &M, operations: &[Operation<M::Input, M::Output>]) -> bool {
    every_order(
        model,
        operations,
        &mut vec![false; operations.len()],
        &model.initial(),
    )
}

fn every_order<M: Model>(
    model: &M,
    operations: &[Operation<M::Input, M::Output>],
    used: &mut [bool],
    state: &M::State,
) -> bool {
    let unused = |used: &[bool], i: usize| !used[i] && operations[i].response.is_some();
    if !(0..operations.len()).any(|i| unused(used, i)) {
        return true;
    }
    for i in 0..operations.len() {
        let invoked = operations[i].invoked;
        let too_early = (0..operations.len())
            .any(|j| j != i && unused(used, j) && operations[j].returned() < Some(invoked));
        if used[i] || too_early {
            continue;
        }
        let mut next = Vec::new();
        model.step(
            state,
            &operations[i].input,
            operations[i].output(),
            &mut next,
        );
        used[i] = true;
        let found = next
            .iter()
            .any(|state| every_order(model, operations, used, state));
        used[i] = false;
        if found {
            return true;
        }
    }
    false
}

/// Up to 7 operations with times that often coincide.
fn histories<I: Clone + std::fmt::Debug, O: Clone + std::fmt::Debug>(
    operation: impl Strategy<Value = (I, O)>,
) -> impl Strategy<Value = History<I, O>> {
    let timed = (operation, 0..10u64, 0..5u64, 0..6u8);
    prop::collection::vec(timed, 0..=7).prop_map(|operations| {
        let operation = |((input, output), invoked, took, fate)| Operation {
            process: 0,
            input,
            invoked,
            response: (fate > 0).then_some(Response {
                output,
                returned: invoked + took,
            }),
        };
        History::new(operations.into_iter().map(operation).collect()).unwrap()
    })
}

fn register_operation() -> impl Strategy<Value = (Input, Output)> {
    let value = 0..3u8;
    prop_oneof![
        4 => prop::option::weighted(0.9, value.clone())
            .prop_map(|value| (Input::Read, Output::Value(value))),
        2 => value.clone().prop_map(|value| (Input::Write(value), Output::Written)),
        2 => (value.clone(), value, any::<bool>()).prop_map(|(expected, new, swapped)| {
            (Input::CompareAndSet { expected, new }, Output::Swapped(swapped))
        }),
    ]
}

fn bag_operation() -> impl Strategy<Value = (BagInput, u8)> {
    let input = prop_oneof![
        (1..3u8).prop_map(BagInput::Put),
        any::<bool>().prop_map(BagInput::Look),
        any::<bool>().prop_map(BagInput::Take),
    ];
    (input, 0..3u8)
}

/// Runs `cases` random histories through brute force and all engines; how many were linearizable.
fn agree<M: Model>(
    model: &M,
    strategy: &impl Strategy<Value = History<M::Input, M::Output>>,
    cases: u32,
) -> u32
where
    M::Input: Clone + std::fmt::Debug,
    M::Output: Clone + std::fmt::Debug,
{
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let linearizable_count = std::cell::Cell::new(0);
    TestRunner::new_with_rng(config, rng)
        .run(strategy, |history| {
            let expected = linearizable(model, history.operations());
            linearizable_count.set(linearizable_count.get() + u32::from(expected));
            for engines in [Engines::Race, Engines::WingGongLowe, Engines::JustInTime] {
                match check_with(model, &history, Budget::default(), engines) {
                    Outcome::Linearizable(witness) => {
                        prop_assert!(expected, "{:?}", engines);
                        prop_assert_eq!(verify(model, &history, &witness), Ok(()));
                    }
                    Outcome::NotLinearizable(counterexample) => {
                        prop_assert!(!expected, "{:?}", engines);
                        check_counterexample(model, &history, &counterexample)?;
                    }
                    Outcome::Unknown(reason) => prop_assert!(false, "{}", reason),
                }
            }
            Ok(())
        })
        .unwrap();
    linearizable_count.get()
}

/// A counterexample is not linearizable, and is once any one answer is forgotten.
fn check_counterexample<M: Model>(
    model: &M,
    history: &History<M::Input, M::Output>,
    found: &Counterexample,
) -> Result<(), TestCaseError>
where
    M::Input: Clone,
    M::Output: Clone,
{
    prop_assert!(found.minimal);
    let remembering = |answered: &[usize]| -> Vec<_> {
        let of = |&index: &usize| history.operations()[index].clone();
        let forgotten = found.unanswered.iter().chain(&found.answered);
        let forgotten = forgotten.filter(|index| !answered.contains(index)).map(of);
        let forgotten = forgotten.map(|operation| Operation {
            response: None,
            ..operation
        });
        answered.iter().map(of).chain(forgotten).collect()
    };
    prop_assert!(!linearizable(model, &remembering(&found.answered)));
    for forget in &found.answered {
        let rest: Vec<_> = found
            .answered
            .iter()
            .copied()
            .filter(|i| i != forget)
            .collect();
        prop_assert!(linearizable(model, &remembering(&rest)));
    }
    Ok(())
}

#[test]
fn engines_agree_with_every_order_on_a_hundred_thousand_register_histories() {
    let count = agree(
        &Register::default(),
        &histories(register_operation()),
        100_000,
    );
    assert!(
        (20_000..80_000).contains(&count),
        "both verdicts are common: {count}"
    );
}

#[test]
fn engines_agree_with_every_order_on_a_nondeterministic_object() {
    let count = agree(&Bag, &histories(bag_operation()), 20_000);
    assert!(
        (4_000..16_000).contains(&count),
        "both verdicts are common: {count}"
    );
}

#[test]
fn a_budget_that_is_too_small_gives_a_reason_and_never_a_verdict() {
    use linearizability::Reason;
    // One value twice, so that there is no way around the search.
    let values = (0..12u8).chain([0]);
    let writes = values.map(|value| (Input::Write(value), Output::Written));
    let reads = (0..12u8).map(|value| (Input::Read, Output::Value(Some(100 + value))));
    let operation = |(input, output)| Operation {
        process: 0,
        input,
        invoked: 0,
        response: Some(Response {
            output,
            returned: 1,
        }),
    };
    let history = History::new(writes.chain(reads).map(operation).collect()).unwrap();
    let outcome = |steps, configurations| {
        check(
            &Register::default(),
            &history,
            Budget {
                steps,
                configurations,
            },
        )
    };
    assert_eq!(outcome(1000, 1_000_000), Outcome::Unknown(Reason::Steps));
    assert_eq!(
        outcome(1_000_000, 100),
        Outcome::Unknown(Reason::Configurations)
    );
    assert!(matches!(
        outcome(100_000_000, 1_000_000),
        Outcome::NotLinearizable(_)
    ));
}
