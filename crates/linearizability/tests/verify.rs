//! The verifier refuses every way in which an order can be wrong.

use linearizability::{
    History, Operation, Register, RegisterInput as Input, RegisterOutput as Output, Response,
    Witness, WitnessError, verify,
};

/// A write, then a read of it, and a compare-and-set that nobody saw end.
fn history() -> History<Input<u8>, Output<u8>> {
    let operation = |input, invoked, end: Option<(Output<u8>, u64)>| Operation {
        process: 0,
        input,
        invoked,
        response: end.map(|(output, returned)| Response { output, returned }),
    };
    History::new(vec![
        operation(Input::Write(1), 0, Some((Output::Written, 1))),
        operation(Input::Read, 2, Some((Output::Value(Some(1)), 4))),
        operation(
            Input::CompareAndSet {
                expected: 1,
                new: 2,
            },
            3,
            None,
        ),
    ])
    .unwrap()
}

fn verdict(order: &[usize]) -> Result<(), WitnessError> {
    verify(
        &Register::default(),
        &history(),
        &Witness {
            order: order.to_vec(),
        },
    )
}

#[test]
fn pending_operations_may_happen_or_not() {
    assert_eq!(verdict(&[0, 1]), Ok(()));
    assert_eq!(verdict(&[0, 1, 2]), Ok(()));
}

#[test]
fn wrong_orders_are_refused() {
    assert_eq!(verdict(&[0]), Err(WitnessError::Missing { index: 1 }));
    assert_eq!(
        verdict(&[0, 1, 1]),
        Err(WitnessError::Repeated { index: 1 })
    );
    assert_eq!(
        verdict(&[0, 3]),
        Err(WitnessError::NoSuchOperation { index: 3 })
    );
    assert_eq!(verdict(&[2, 0, 1]), Err(WitnessError::TooLate { index: 0 }));
    assert_eq!(
        verdict(&[0, 2, 1]),
        Err(WitnessError::WrongAnswer { index: 1 })
    );
}
