//! The driver side against the device side, in every combination, beside a queue of plain Rust.

mod common;

use std::collections::VecDeque;

use common::{BUFFERS, config, device, driver, indirect_driver, memory, segment};
use proptest::prelude::*;
use virtqueue::vm_memory::{Bytes, GuestAddress};
use virtqueue::{AddError, Head, Layout, Notify, Pending, RingFeatures, Segment};

#[derive(Clone, Debug)]
enum Step {
    Add {
        readable: u8,
        writable: u8,
    },
    Publish,
    Pop(u8),
    /// Which of the chains that the device has, and what share of 255 it writes.
    Complete {
        which: u8,
        written: u8,
    },
    Serve(u8),
    Flush,
    Take(u8),
    DeviceSleeps,
    DriverSleeps {
        delayed: bool,
    },
    DisableKicks,
    DisableInterrupts,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4_u8, 0..4_u8).prop_map(|(readable, writable)| Step::Add { readable, writable }),
        3 => Just(Step::Publish),
        4 => (1..4_u8).prop_map(Step::Pop),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(which, written)| Step::Complete { which, written }),
        2 => (0..6_u8).prop_map(Step::Serve),
        3 => Just(Step::Flush),
        4 => (1..6_u8).prop_map(Step::Take),
        1 => Just(Step::DeviceSleeps),
        1 => any::<bool>().prop_map(|delayed| Step::DriverSleeps { delayed }),
        1 => Just(Step::DisableKicks),
        1 => Just(Step::DisableInterrupts),
    ];
    proptest::collection::vec(step, 0..600)
}

fn sizes(layout: Layout) -> BoxedStrategy<u16> {
    match layout {
        Layout::Split => prop_oneof![Just(1), Just(2), Just(4), Just(16)].boxed(),
        Layout::Packed => prop_oneof![Just(1), Just(2), Just(3), Just(7), Just(16)].boxed(),
    }
}

fn case() -> impl Strategy<Value = (Layout, u16, RingFeatures, Vec<Step>)> {
    let layout = prop_oneof![Just(Layout::Split), Just(Layout::Packed)];
    layout.prop_flat_map(|layout| {
        let features =
            any::<(bool, bool, bool)>().prop_map(|(event_idx, indirect, in_order)| RingFeatures {
                event_idx,
                indirect,
                in_order,
            });
        (Just(layout), sizes(layout), features, steps())
    })
}

/// What is where, as plain Rust keeps it.
#[derive(Default)]
struct Model {
    added: VecDeque<Posted>,
    published: VecDeque<Posted>,
    popped: Vec<(Head, Posted)>,
    completed: VecDeque<(u16, u32)>,
    shown: VecDeque<(u16, u32)>,
    sequence: u64,
    /// A side that sleeps, and must be woken by the next thing the other publishes.
    device_sleeps: bool,
    driver_sleeps: bool,
}

#[derive(Clone, Debug)]
struct Posted {
    id: u16,
    sequence: u64,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn chains_arrive_whole_once_and_come_back((layout, size, features, steps) in case()) {
        let memory = memory();
        let config = config(layout, size, features).activate().unwrap();
        let mut driver = if features.indirect {
            indirect_driver(&config, &memory)
        } else {
            driver(&config, &memory)
        };
        let (mut device, mut chain) = device(&config, &memory);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Add { readable, writable } => {
                    let at = BUFFERS + 0x40 * (model.sequence % 4096);
                    let buffers = |count: u8, at: u64| -> Vec<Segment> {
                        (0..u64::from(count)).map(|i| segment(at + 9 * i, 9)).collect()
                    };
                    let (readable, writable) = (buffers(readable, at), buffers(writable, at + 0x20));
                    match driver.add(&readable, &writable) {
                        Ok(id) => {
                            if !readable.is_empty() {
                                memory.write_obj(model.sequence, GuestAddress(at)).unwrap();
                            }
                            let sequence = model.sequence;
                            model.added.push_back(Posted { id, sequence, readable, writable });
                            model.sequence += 1;
                        }
                        Err(AddError::Malformed) => {
                            let count = readable.len() + writable.len();
                            prop_assert!(count == 0 || count > usize::from(size));
                        }
                        Err(AddError::Full { needed, free }) => prop_assert!(needed > free),
                        Err(error) => panic!("{error}"),
                    }
                }
                Step::Publish => {
                    let notify = driver.publish().unwrap();
                    prop_assert_eq!(notify == Notify::Idle, model.added.is_empty());
                    if model.device_sleeps && notify != Notify::Idle {
                        prop_assert_eq!(notify, Notify::Send, "a sleeping device is kicked");
                        model.device_sleeps = false;
                    }
                    if notify.is_due() {
                        device.count_kick();
                    }
                    model.published.append(&mut model.added);
                }
                Step::Pop(count) => for _ in 0..count {
                    let head = device.pop(&mut chain).unwrap();
                    prop_assert_eq!(head.is_some(), !model.published.is_empty());
                    let Some(head) = head else { break };
                    let posted = model.published.pop_front().unwrap();
                    prop_assert_eq!(head.id(), posted.id);
                    prop_assert_eq!(chain.readable(), posted.readable.as_slice());
                    prop_assert_eq!(chain.writable(), posted.writable.as_slice());
                    if !posted.readable.is_empty() {
                        let mut sequence = [0; 8];
                        chain.read(&memory, 0, &mut sequence).unwrap();
                        prop_assert_eq!(u64::from_le_bytes(sequence), posted.sequence);
                    }
                    model.popped.push((head, posted));
                },
                Step::Complete { which, written } => {
                    if model.popped.is_empty() { continue }
                    let which = if features.in_order { 0 } else { usize::from(which) % model.popped.len() };
                    let (head, posted) = model.popped.remove(which);
                    let room = 9 * u32::try_from(posted.writable.len()).unwrap();
                    let written = room * u32::from(written) / 255;
                    device.complete(head, written).unwrap();
                    model.completed.push_back((posted.id, written));
                }
                Step::Serve(limit) => {
                    if features.in_order && !model.popped.is_empty() {
                        continue;
                    }
                    let (published, completed) = (&mut model.published, &mut model.completed);
                    let expected = published.len().min(usize::from(limit));
                    let served = device.serve(&mut chain, limit.into(), |chain| {
                        let posted = published.pop_front().expect("it was published");
                        assert_eq!(chain.readable(), posted.readable);
                        assert_eq!(chain.writable(), posted.writable);
                        let written = u32::try_from(chain.writable_bytes() / 2).unwrap();
                        completed.push_back((posted.id, written));
                        written
                    });
                    prop_assert_eq!(served.unwrap(), u16::try_from(expected).unwrap());
                }
                Step::Flush => {
                    let notify = device.flush().unwrap();
                    prop_assert_eq!(notify == Notify::Idle, model.completed.is_empty());
                    if model.driver_sleeps && notify != Notify::Idle {
                        prop_assert_eq!(notify, Notify::Send, "a sleeping driver is interrupted");
                        model.driver_sleeps = false;
                    }
                    model.shown.append(&mut model.completed);
                }
                Step::Take(count) => for _ in 0..count {
                    let used = driver.take_used().unwrap();
                    // A packed driver may see a used chain before the flush that tells of it, since
                    // only the first of a batch is held back.
                    let expected = model.shown.pop_front();
                    prop_assert_eq!(used.map(|used| (used.id, used.written)), expected);
                    if expected.is_none() { break }
                },
                Step::DeviceSleeps => {
                    let pending = device.enable_kicks().unwrap();
                    prop_assert_eq!(pending == Pending::None, model.published.is_empty());
                    model.device_sleeps = pending == Pending::None;
                }
                Step::DriverSleeps { delayed } => {
                    let pending = if delayed {
                        driver.enable_interrupts_delayed().unwrap()
                    } else {
                        driver.enable_interrupts().unwrap()
                    };
                    if !delayed {
                        prop_assert_eq!(pending == Pending::None, model.shown.is_empty());
                    }
                    model.driver_sleeps = !delayed && pending == Pending::None;
                }
                Step::DisableKicks => {
                    device.disable_kicks().unwrap();
                    model.device_sleeps = false;
                }
                Step::DisableInterrupts => {
                    driver.disable_interrupts().unwrap();
                    model.driver_sleeps = false;
                }
            }
        }
    }
}

/// 2^17 chains and more: every index wraps, the packed ring laps thousands of times.
#[test]
fn nothing_is_lost_over_many_laps() {
    for layout in [Layout::Split, Layout::Packed] {
        for features in all_features() {
            let memory = memory();
            let config = config(layout, 8, features).activate().unwrap();
            let mut driver = driver(&config, &memory);
            let (mut device, mut chain) = device(&config, &memory);
            let (mut sent, mut received) = (0_u32, 0_u32);
            let mut taken = 0;
            while received < 140_000 {
                let batch = sent % 5 + 1;
                for _ in 0..batch {
                    memory.write_obj(sent, GuestAddress(BUFFERS)).unwrap();
                    let added = driver.add(&[segment(BUFFERS + u64::from(sent % 8), 4)], &[]);
                    sent += u32::from(added.is_ok());
                }
                let _ = driver.publish().unwrap();
                while let Some(head) = device.pop(&mut chain).unwrap() {
                    let at = BUFFERS + u64::from(received % 8);
                    assert_eq!(chain.readable(), [segment(at, 4)]);
                    received += 1;
                    device.complete(head, 0).unwrap();
                }
                let _ = device.flush().unwrap();
                while driver.take_used().unwrap().is_some() {
                    taken += 1;
                }
            }
            assert_eq!((sent, taken), (received, received));
            assert_eq!(device.counts().chains, u64::from(received));
        }
    }
}

fn all_features() -> impl Iterator<Item = RingFeatures> {
    (0..8).map(|bits| RingFeatures {
        event_idx: bits & 1 != 0,
        indirect: bits & 2 != 0,
        in_order: bits & 4 != 0,
    })
}
