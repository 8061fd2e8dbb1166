//! The `virtio-queue` crate on the other side: its device side under our driver side, its state and
//! ours, and what the two make of the same rings.

mod common;

use common::{BUFFERS, MEMORY, config, device, driver, indirect_driver, memory, segment};
use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use virtqueue::vm_memory::{GuestAddress, GuestMemoryMmap};
use virtqueue::{DriverQueue, GuestRing, Layout, RingFeatures, Segment};

const SIZE: u16 = 16;

fn peer(event_idx: bool) -> Queue {
    let mut queue = Queue::new(SIZE).unwrap();
    queue.set_size(SIZE);
    queue
        .try_set_desc_table_address(GuestAddress(common::DESCRIPTORS))
        .unwrap();
    queue
        .try_set_avail_ring_address(GuestAddress(common::DRIVER))
        .unwrap();
    queue
        .try_set_used_ring_address(GuestAddress(common::DEVICE))
        .unwrap();
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    queue
}

/// Sends all chains through virtio-queue's device side, and checks what it saw.
fn through_peer<R: virtqueue::Ring>(
    memory: &GuestMemoryMmap,
    driver: &mut DriverQueue<R>,
    chains: &[(u8, u8)],
    event_idx: bool,
) {
    let mut queue = peer(event_idx);
    for (index, &(readable, writable)) in (0_u64..).zip(chains) {
        let at = BUFFERS + 0x100 * (index % 64);
        let buffers = |count: u8, at: u64| -> Vec<Segment> {
            (0..u64::from(count))
                .map(|i| segment(at + 4 * i, 4))
                .collect()
        };
        let (readable, writable) = (buffers(readable, at), buffers(writable, at + 0x40));
        let id = driver.add(&readable, &writable).unwrap();
        assert!(
            driver.publish().unwrap().is_due(),
            "virtio-queue holds no kick back"
        );
        let chain = queue.pop_descriptor_chain(memory).expect("a chain");
        assert_eq!(chain.head_index(), id);
        let seen: Vec<_> = chain
            .map(|d| (d.addr().0, d.len(), d.is_write_only()))
            .collect();
        let sent = readable.iter().map(|s| (s.address.0, s.length, false));
        let sent = sent.chain(writable.iter().map(|s| (s.address.0, s.length, true)));
        assert_eq!(seen, sent.collect::<Vec<_>>());
        let written = 4 * u32::try_from(writable.len()).unwrap();
        queue.add_used(memory, id, written).unwrap();
        assert!(queue.needs_notification(memory).unwrap());
        if event_idx {
            queue.enable_notification(memory).unwrap();
            let _ = driver.enable_interrupts().unwrap();
        }
        let used = driver.take_used().unwrap().expect("it was used");
        assert_eq!((used.id, used.written), (id, written));
        if event_idx {
            let _ = driver.enable_interrupts().unwrap();
        }
    }
}

fn chains() -> impl Strategy<Value = Vec<(u8, u8)>> {
    let chain = (0..8_u8, 0..8_u8).prop_filter("a chain has a buffer", |(r, w)| r + w > 0);
    proptest::collection::vec(chain, 1..100)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn its_device_side_takes_our_chains(chains in chains(), event_idx: bool, indirect: bool) {
        let memory = memory();
        let features = RingFeatures { event_idx, indirect, in_order: false };
        let config = config(Layout::Split, SIZE, features).activate().unwrap();
        if indirect {
            through_peer(&memory, &mut indirect_driver(&config, &memory), &chains, event_idx);
        } else {
            through_peer(&memory, &mut driver(&config, &memory), &chains, event_idx);
        }
        let ring = GuestRing::new(&config, &memory);
        let mut driver = DriverQueue::new(&config, ring, None).unwrap();
        through_peer(&memory, &mut driver, &chains, event_idx);
    }
}

/// A VMM may move a queue over in the middle of its life, and back.
#[cfg(feature = "virtio-queue")]
#[test]
fn a_queue_moves_between_the_crates() {
    use virtqueue::{Chain, QueueState};

    let memory = memory();
    let features = RingFeatures {
        event_idx: true,
        indirect: true,
        in_order: false,
    };
    let config = config(Layout::Split, SIZE, features).activate().unwrap();
    let mut driver = driver(&config, &memory);
    let mut theirs = peer(true);
    for round in 0..40 {
        let id = driver.add(&[segment(BUFFERS + round, 1)], &[]).unwrap();
        let _ = driver.publish().unwrap();
        let chain = theirs.pop_descriptor_chain(&memory).expect("a chain");
        assert_eq!(chain.head_index(), id);
        theirs.add_used(&memory, id, 0).unwrap();
        assert!(driver.take_used().unwrap().is_some());

        let state = QueueState::from(&theirs.state());
        let mut ours = state
            .restore(|config| virtqueue::HostRing::new(config, &memory))
            .unwrap();
        let id = driver.add(&[segment(BUFFERS + round, 2)], &[]).unwrap();
        let _ = driver.publish().unwrap();
        let mut chain = Chain::new(ours.config());
        let head = ours.pop(&mut chain).unwrap().expect("a chain");
        assert_eq!(
            (head.id(), chain.readable()),
            (id, &[segment(BUFFERS + round, 2)][..])
        );
        ours.complete(head, 0).unwrap();
        let _ = ours.flush().unwrap();
        assert!(driver.take_used().unwrap().is_some());
        let state = virtio_queue::QueueState::try_from(&ours.state().unwrap()).unwrap();
        theirs = Queue::try_from(state).unwrap();
    }
}

/// The fallback sees what the resolved ring sees, in memory of two regions as well.
#[test]
fn both_rings_see_the_same() {
    let ranges = [
        (GuestAddress(0), 0x2_0000),
        (GuestAddress(0x2_0000), MEMORY - 0x2_0000),
    ];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    for layout in [Layout::Split, Layout::Packed] {
        let config = config(layout, SIZE, RingFeatures::default())
            .activate()
            .unwrap();
        let ring = GuestRing::new(&config, &memory);
        let mut driver = DriverQueue::new(&config, ring, None).unwrap();
        let (mut device, mut chain) = device(&config, &memory);
        for round in 0..100 {
            let id = driver.add(&[], &[segment(BUFFERS + round, 3)]).unwrap();
            let _ = driver.publish().unwrap();
            let head = device.pop(&mut chain).unwrap().expect("a chain");
            assert_eq!(chain.writable(), [segment(BUFFERS + round, 3)]);
            device.complete(head, 3).unwrap();
            let _ = device.flush().unwrap();
            assert_eq!(driver.take_used().unwrap().map(|used| used.id), Some(id));
        }
    }
}
