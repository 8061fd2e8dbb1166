//! One process of a snapshot among peers and a coordinator that say anything.

use std::collections::BTreeSet;

use arbitrary::{Result, Unstructured};
use chandy_lamport::{
    Edge, Input, Marker, Options, Output, Place, Process, Protocol, SnapshotId, Wire,
};

const STEPS_MAX: usize = 300;

/// Any inputs in any order: no panic, and what comes out makes sense in itself.
pub fn snapshot_process(data: &[u8]) {
    // The end of the input is the end of the run.
    let _ended = play(&mut Unstructured::new(data)).is_err();
}

fn play(u: &mut Unstructured<'_>) -> Result<()> {
    let protocol = *u.choose(&[
        Protocol::ChandyLamport,
        Protocol::Aligned,
        Protocol::AlignedCyclic,
        Protocol::Unaligned,
        Protocol::AlignedWithTimeout { timeout: 3 },
        Protocol::StopTheWorld,
        Protocol::LaiYang,
    ])?;
    let inputs = u.int_in_range(0..=3)?;
    let outputs = u.int_in_range(0..=3)?;
    let back = protocol != Protocol::Aligned && u.arbitrary()?;
    let edges = (0..inputs).map(|input| {
        if back && input == 0 {
            Edge::Back
        } else {
            Edge::Forward
        }
    });
    let options = Options {
        queue_max: 4,
        snapshots_max: 3,
        ..Options::new(protocol)
    };
    let recorded: Vec<_> = if inputs > 0 && u.arbitrary()? {
        vec![(Place::In(0), 0)]
    } else {
        Vec::new()
    };
    let mut process =
        Process::restore(options, edges, outputs, recorded).expect("a shape that fits");
    let mut taken = BTreeSet::new();
    let mut now = 0;
    for _ in 0..STEPS_MAX {
        now += u.int_in_range(0..=2)?;
        if process.step(now, input(u)?).is_err() {
            assert_eq!(process.outputs().count(), 0, "a refused input does nothing");
        }
        for output in process.outputs().collect::<Vec<_>>() {
            check(&output, &mut taken);
        }
        assert!(process.under_way().count() <= 3, "snapshots are bounded");
        for from in 0..inputs {
            assert!(process.queued_input(from) <= 5, "queues are bounded");
        }
    }
    Ok(())
}

fn check(output: &Output<u8>, taken: &mut BTreeSet<SnapshotId>) {
    match output {
        Output::TakeState(id) => {
            assert!(id.0 > 0, "no snapshot 0");
            taken.insert(*id);
        }
        Output::Record { id, .. } => assert!(taken.contains(id), "recorded without a state"),
        Output::Complete(id) => assert!(taken.remove(id), "complete without a state"),
        Output::Declined(id) => {
            taken.remove(id);
        }
        _ => {}
    }
}

fn id(u: &mut Unstructured<'_>) -> Result<SnapshotId> {
    Ok(SnapshotId(if u.ratio(1, 32)? {
        u.arbitrary()?
    } else {
        u.int_in_range(0..=6)?
    }))
}

fn input(u: &mut Unstructured<'_>) -> Result<Input<u8>> {
    let channel = u.int_in_range(0..=3)?;
    Ok(match u.int_in_range(0..=11)? {
        0 => Input::Initiate(id(u)?),
        1 => Input::Abort(id(u)?),
        2 => Input::Resume(id(u)?),
        3 => Input::Tick,
        4 => Input::Finish(channel),
        5 => Input::Transmit(channel),
        6 => Input::Send {
            to: channel,
            message: u.arbitrary()?,
        },
        7 | 8 => Input::Next(channel),
        _ => Input::Arrive {
            from: channel,
            wire: wire(u)?,
        },
    })
}

fn wire(u: &mut Unstructured<'_>) -> Result<Wire<u8>> {
    let id = id(u)?;
    let marker = match u.int_in_range(0..=7)? {
        0 | 1 => Marker::InTurn,
        2 | 3 => Marker::Overtaking,
        4 => Marker::Count(u.int_in_range(0..=6)?),
        5 if u.ratio(1, 4)? => return Ok(Wire::End),
        _ => {
            return Ok(Wire::Data {
                colour: id,
                message: u.arbitrary()?,
            });
        }
    };
    Ok(Wire::Marker { id, marker })
}

#[test]
fn smoke() {
    arbtest::arbtest(|u| {
        snapshot_process(u.bytes(u.len())?);
        Ok(())
    })
    .budget_ms(1000);
}
