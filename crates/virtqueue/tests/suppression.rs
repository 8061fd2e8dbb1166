//! Each way of holding a notification back, by section of virtio 1.3.

mod common;

use common::{BUFFERS, DEVICE, DRIVER, config, device, driver, memory, segment};
use virtqueue::vm_memory::{Bytes, GuestAddress};
use virtqueue::{
    Batch, EveryChains, Immediate, Layout, Notify, NotifyCounts, RingFeatures, Why, Window,
};

const FLAGS: RingFeatures = RingFeatures {
    event_idx: false,
    indirect: false,
    in_order: false,
};
const EVENT_IDX: RingFeatures = RingFeatures {
    event_idx: true,
    ..FLAGS
};
const IN_ORDER: RingFeatures = RingFeatures {
    in_order: true,
    ..FLAGS
};

#[test]
fn section_2_7_7_no_interrupt_is_honoured() {
    for (layout, flag) in [(Layout::Split, 1_u32), (Layout::Packed, 1 << 16)] {
        let memory = memory();
        let config = config(layout, 4, FLAGS).activate().unwrap();
        let mut driver = driver(&config, &memory);
        let (mut device, mut chain) = device(&config, &memory);
        driver.disable_interrupts().unwrap();
        assert_eq!(
            memory.read_obj::<u32>(GuestAddress(DRIVER)).unwrap() & flag,
            flag
        );
        driver.add(&[segment(BUFFERS, 1)], &[]).unwrap();
        let _ = driver.publish().unwrap();
        let head = device.pop(&mut chain).unwrap().unwrap();
        device.complete(head, 0).unwrap();
        assert_eq!(device.flush(), Ok(Notify::Suppressed(Why::Flag)));
        let held_back = NotifyCounts {
            sent: 0,
            by_flag: 1,
            by_event: 0,
        };
        assert_eq!(device.counts().interrupts, held_back);
    }
}

#[test]
fn section_2_7_10_no_notify_is_honoured() {
    for (layout, flag) in [(Layout::Split, 1_u32), (Layout::Packed, 1 << 16)] {
        let memory = memory();
        let config = config(layout, 4, FLAGS).activate().unwrap();
        let mut driver = driver(&config, &memory);
        let (mut device, _) = device(&config, &memory);
        device.disable_kicks().unwrap();
        assert_eq!(
            memory.read_obj::<u32>(GuestAddress(DEVICE)).unwrap() & flag,
            flag
        );
        driver.add(&[segment(BUFFERS, 1)], &[]).unwrap();
        assert_eq!(driver.publish(), Ok(Notify::Suppressed(Why::Flag)));
        device.count_kick();
        assert_eq!(
            (device.counts().kicks, device.counts().kicks_unwanted),
            (0, 1)
        );
    }
}

/// "The device MUST set flags to 0" with `VIRTIO_F_EVENT_IDX`; the driver likewise.
#[test]
fn section_2_7_10_the_flags_stay_zero_with_event_idx() {
    let memory = memory();
    let config = config(Layout::Split, 4, EVENT_IDX).activate().unwrap();
    let mut driver = driver(&config, &memory);
    let (mut device, _) = device(&config, &memory);
    device.disable_kicks().unwrap();
    driver.disable_interrupts().unwrap();
    for area in [DRIVER, DEVICE] {
        assert_eq!(memory.read_obj::<u16>(GuestAddress(area)).unwrap(), 0);
    }
}

#[test]
fn a_device_that_keeps_up_with_a_batch_is_kicked_once() {
    for layout in [Layout::Split, Layout::Packed] {
        let memory = memory();
        let config = config(layout, 8, EVENT_IDX).activate().unwrap();
        let mut driver = driver(&config, &memory);
        let (mut device, _) = device(&config, &memory);
        let _ = device.enable_kicks().unwrap();
        let kicks = [(); 5].map(|()| {
            driver.add(&[segment(BUFFERS, 1)], &[]).unwrap();
            driver.publish().unwrap().is_due()
        });
        assert_eq!(kicks, [true, false, false, false, false], "{layout:?}");
        assert_eq!(driver.counts().kicks.by_event, 4);
    }
}

#[test]
fn one_store_of_the_used_index_publishes_a_batch() {
    let memory = memory();
    let config = config(Layout::Split, 8, FLAGS).activate().unwrap();
    let mut driver = driver(&config, &memory);
    let (mut device, mut chain) = device(&config, &memory);
    for _ in 0..6 {
        driver.add(&[segment(BUFFERS, 1)], &[]).unwrap();
    }
    let _ = driver.publish().unwrap();
    while let Some(head) = device.pop(&mut chain).unwrap() {
        device.complete(head, 0).unwrap();
        assert_eq!(
            driver.take_used(),
            Ok(None),
            "nothing shows before the flush"
        );
    }
    assert_eq!(device.flush(), Ok(Notify::Send));
    assert_eq!(device.flush(), Ok(Notify::Idle));
    assert_eq!((device.counts().chains, device.counts().flushes()), (6, 1));
    assert_eq!(
        std::iter::from_fn(|| driver.take_used().unwrap()).count(),
        6
    );
}

/// 2.7.9 and 2.8.9: one element, with the last id, where the batch begins.
#[test]
fn with_in_order_one_element_stands_for_its_batch() {
    let memory = memory();
    let config = config(Layout::Split, 8, IN_ORDER).activate().unwrap();
    let mut driver = driver(&config, &memory);
    let (mut device, mut chain) = device(&config, &memory);
    let untouched = 0xdead_beef_u32;
    for slot in 0..8 {
        let element = GuestAddress(DEVICE + 4 + 8 * slot);
        memory.write_obj(untouched, element).unwrap();
    }
    for _ in 0..4 {
        driver.add(&[], &[segment(BUFFERS, 4)]).unwrap();
    }
    let _ = driver.publish().unwrap();
    // The third is not filled, so that it cannot be passed over.
    for written in [4, 4, 1, 4] {
        let head = device.pop(&mut chain).unwrap().unwrap();
        device.complete(head, written).unwrap();
    }
    let _ = device.flush().unwrap();
    let id = |slot: u64| {
        memory
            .read_obj::<u32>(GuestAddress(DEVICE + 4 + 8 * slot))
            .unwrap()
    };
    assert_eq!([0, 1, 2, 3].map(id), [2, untouched, untouched, 3]);
    let used = std::iter::from_fn(|| driver.take_used().unwrap());
    let used: Vec<_> = used.map(|used| (used.id, used.written)).collect();
    assert_eq!(used, [(0, 4), (1, 4), (2, 1), (3, 4)]);
}

#[test]
fn policies_say_when_a_batch_is_shown() {
    let memory = memory();
    let config = config(Layout::Split, 16, FLAGS).activate().unwrap();
    let mut driver = driver(&config, &memory);
    let (mut device, mut chain) = device(&config, &memory);
    for _ in 0..9 {
        driver.add(&[segment(BUFFERS, 1)], &[]).unwrap();
    }
    let _ = driver.publish().unwrap();
    let mut batch = Batch::default();
    let mut shown = Vec::new();
    for now in 0..9_u64 {
        let head = device.pop(&mut chain).unwrap().unwrap();
        device.complete(head, 0).unwrap();
        batch.add(0, now);
        let notify = match now {
            0 => batch.flush_if_due(&mut device, &Immediate, now),
            1..=4 => batch.flush_if_due(&mut device, &EveryChains(2), now),
            _ => batch.flush_if_due(&mut device, &Window(3), now),
        };
        if notify.unwrap() != Notify::Idle {
            shown.push(now);
        }
    }
    assert_eq!(shown, [0, 2, 4, 8]);
}
