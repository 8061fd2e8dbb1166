//! The online checker says what the offline one says, and forgets.

use linearizability::{
    Budget, EventError, Online, OnlineError, OnlineLimits, Outcome, Recorder, Register,
    RegisterInput, RegisterOutput, check,
};
use proptest::prelude::*;

type Input = RegisterInput<u8>;
type Output = RegisterOutput<u8>;

/// One thing a client does; when it may not, nothing happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    Invoke(u64, Input),
    /// Answered as the register would have been, were all answers immediate; or not so, if true.
    Respond(u64, bool),
    Fail(u64),
    Abandon(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let process = 0..3u64;
    let value = 0..3u8;
    let input = prop_oneof![
        2 => Just(Input::Read),
        1 => value.clone().prop_map(Input::Write),
        1 => (value.clone(), value).prop_map(|(expected, new)| Input::CompareAndSet { expected, new }),
    ];
    prop_oneof![
        8 => (process.clone(), input).prop_map(|(process, input)| Event::Invoke(process, input)),
        8 => (process.clone(), prop::bool::weighted(0.03)).prop_map(|(p, lie)| Event::Respond(p, lie)),
        1 => process.clone().prop_map(Event::Fail),
        1 => process.prop_map(Event::Abandon),
    ]
}

/// What a register answers, and the lie.
fn answer(value: &mut Option<u8>, input: Input, lie: bool) -> Output {
    match input {
        Input::Read if lie => Output::Value(Some(3)),
        Input::Read => Output::Value(*value),
        Input::Write(new) => {
            *value = Some(new);
            Output::Written
        }
        Input::CompareAndSet { expected, new } => {
            let equal = *value == Some(expected);
            if equal {
                *value = Some(new);
            }
            Output::Swapped(equal != lie)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn online_and_offline_agree(events in prop::collection::vec(event(), 0..30)) {
        let mut online = Online::new(Register::default(), OnlineLimits::default());
        let mut recorder = Recorder::default();
        let mut value = None;
        let mut violated = false;
        for event in events {
            let (process, result) = match event {
                Event::Invoke(process, input) if recorder.waiting(process).is_none() => {
                    recorder.invoke(process, input).unwrap();
                    (process, online.invoke(process, input))
                }
                Event::Invoke(..) => continue,
                Event::Respond(process, lie) => {
                    let Some(&input) = recorder.waiting(process) else { continue };
                    let output = answer(&mut value, input, lie);
                    recorder.respond(process, output).unwrap();
                    (process, online.respond(process, output))
                }
                Event::Fail(process) | Event::Abandon(process) if recorder.waiting(process).is_none() => {
                    prop_assert_eq!(
                        online.abandon(process),
                        Err(OnlineError::Event(EventError::Idle { process }))
                    );
                    continue;
                }
                Event::Fail(process) => {
                    recorder.fail(process).unwrap();
                    (process, online.fail(process))
                }
                Event::Abandon(process) => {
                    recorder.abandon(process).unwrap();
                    (process, online.abandon(process))
                }
            };
            prop_assert!(recorder.waiting(process).is_none() || result.is_ok());
            if result.is_err() {
                violated = true;
                prop_assert!(matches!(result, Err(OnlineError::Violation(_))));
                break;
            }
        }
        violated = violated || online.finish().is_err();
        let outcome = check(&Register::default(), &recorder.finish(), Budget::default());
        prop_assert_eq!(violated, matches!(outcome, Outcome::NotLinearizable(_)));
    }
}

#[test]
fn memory_follows_the_open_operations_and_not_the_history() {
    let mut online = Online::new(Register::default(), OnlineLimits::default());
    online.invoke(9, Input::Write(9)).unwrap();
    online.abandon(9).unwrap();
    for round in 0..100_000u32 {
        let value = u8::try_from(round % 7).unwrap();
        online.invoke(0, Input::Write(value)).unwrap();
        online.invoke(1, Input::Read).unwrap();
        online.respond(0, Output::Written).unwrap();
        online.respond(1, Output::Value(Some(value))).unwrap();
        assert!(online.kept() <= 3);
    }
    // The write that nobody waited for shows up at last, and can do so only once.
    for (seen, is_explained) in [(9, true), (5, false)] {
        online.invoke(0, Input::Read).unwrap();
        let result = online.respond(0, Output::Value(Some(seen)));
        assert_eq!(result.is_ok(), is_explained, "{seen}");
    }
}

#[test]
fn a_window_that_does_not_end_is_refused() {
    let limits = OnlineLimits {
        window: 3,
        ..OnlineLimits::default()
    };
    let mut online = Online::new(Register::default(), limits);
    online.invoke(0, Input::Write(0)).unwrap();
    for process in 1..3 {
        online.invoke(process, Input::Read).unwrap();
        online.respond(process, Output::Value(None)).unwrap();
    }
    assert_eq!(online.invoke(3, Input::Read), Err(OnlineError::Window));
}
