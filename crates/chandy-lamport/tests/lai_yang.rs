//! Snapshots that overtake each other where channels reorder.

use chandy_lamport::{
    Edge, Input, Marker, Options, Output, Process, Protocol, SnapshotId, StepError, Wire,
};

fn outputs(process: &mut Process<u8>) -> Vec<Output<u8>> {
    process.outputs().collect()
}

fn receive(process: &mut Process<u8>, colour: u64, message: u8) -> Result<(), StepError> {
    let wire = Wire::Data {
        colour: SnapshotId(colour),
        message,
    };
    process.step(0, Input::Arrive { from: 0, wire })?;
    process.step(0, Input::Next(0))
}

/// Seed 4468 of the simulator: the coordinator's request was slower than a message from after the next cut.
#[test]
fn a_cut_is_declined_once_something_from_after_a_later_one_was_received() {
    let options = Options::new(Protocol::LaiYang);
    for by_marker in [false, true] {
        let mut process = Process::new(options.clone(), [Edge::Back], 0).unwrap();
        receive(&mut process, 2, 7).unwrap();
        let (taken, deliver) = (
            Output::TakeState(SnapshotId(2)),
            Output::Deliver {
                from: 0,
                message: 7,
            },
        );
        assert_eq!(outputs(&mut process), [taken, deliver]);
        let late = if by_marker {
            let (id, marker) = (SnapshotId(1), Marker::Count(0));
            let wire = Wire::Marker { id, marker };
            Input::Arrive { from: 0, wire }
        } else {
            Input::Initiate(SnapshotId(1))
        };
        process.step(0, late).unwrap();
        assert_eq!(outputs(&mut process), [Output::Declined(SnapshotId(1))]);
    }
}

#[test]
fn a_message_from_before_the_cut_is_recorded_and_completes_it() {
    let options = Options::new(Protocol::LaiYang);
    let mut process = Process::new(options, [Edge::Back], 0).unwrap();
    let (id, marker) = (SnapshotId(1), Marker::Count(1));
    let wire = Wire::Marker { id, marker };
    process.step(0, Input::Arrive { from: 0, wire }).unwrap();
    assert_eq!(outputs(&mut process), [Output::TakeState(id)]);
    receive(&mut process, 0, 5).unwrap();
    let made = outputs(&mut process);
    assert!(matches!(made[0], Output::Record { message: 5, .. }));
    assert_eq!(made[1], Output::Complete(id));
}
