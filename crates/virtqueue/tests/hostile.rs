//! What has bitten other implementations, by number: V1 to V12.

mod common;

use common::{
    AVAIL, BUFFERS, DESCRIPTORS, DEVICE, DRIVER, INDIRECT, MEMORY, NEXT, TABLES, WRITE, config,
    device, driver, fields, make_available, memory, packed_descriptor, plain, segment,
    split_descriptor,
};
use virtqueue::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use virtqueue::{
    ActiveConfig, AddError, Area, Chain, ChainError, Config, ConfigError, DeviceFault, DeviceQueue,
    Fault, GuestRing, HostRing, Layout, Notify, QueueError, QueueSet, QueueState, RestoreError,
    RingFeatures, UsedError,
};

const INDIRECT_FEATURE: RingFeatures = RingFeatures {
    event_idx: false,
    indirect: true,
    in_order: false,
};

fn split(features: RingFeatures) -> ActiveConfig {
    config(Layout::Split, 4, features).activate().unwrap()
}

fn packed(features: RingFeatures) -> ActiveConfig {
    config(Layout::Packed, 4, features).activate().unwrap()
}

/// What popping the one chain that `memory` holds answers, twice: the queue stays broken.
fn error_of(config: &ActiveConfig, memory: &GuestMemoryMmap) -> QueueError {
    let (mut queue, mut chain) = device(config, memory);
    let error = queue.pop(&mut chain).expect_err("the chain is malformed");
    assert_eq!(queue.pop(&mut chain), Err(error));
    assert_eq!(queue.error(), Some(error));
    assert_eq!(queue.counts().errors, 1);
    error
}

fn chain_error_of(config: &ActiveConfig, memory: &GuestMemoryMmap) -> ChainError {
    match error_of(config, memory) {
        QueueError::Chain { source, .. } => source,
        other => panic!("{other}"),
    }
}

#[test]
fn v1_a_loop_of_descriptors_ends() {
    let memory = memory();
    for index in 0..4 {
        let next = (index + 1) % 4;
        split_descriptor(&memory, DESCRIPTORS, index, fields(1, NEXT, next));
    }
    make_available(&memory, &[0], 1);
    assert_eq!(
        chain_error_of(&plain(Layout::Split, 4), &memory),
        ChainError::TooLong
    );
}

#[test]
fn v1_a_descriptor_that_follows_itself_ends() {
    let memory = memory();
    split_descriptor(&memory, DESCRIPTORS, 2, fields(1, NEXT, 2));
    make_available(&memory, &[2], 1);
    assert_eq!(
        chain_error_of(&plain(Layout::Split, 4), &memory),
        ChainError::TooLong
    );
}

#[test]
fn v1_a_loop_in_an_indirect_table_ends() {
    let memory = memory();
    let table = fields(2 * 16, INDIRECT, 0);
    split_descriptor(
        &memory,
        DESCRIPTORS,
        0,
        common::Fields {
            address: TABLES,
            ..table
        },
    );
    split_descriptor(&memory, TABLES, 0, fields(1, NEXT, 1));
    split_descriptor(&memory, TABLES, 1, fields(1, NEXT, 0));
    make_available(&memory, &[0], 1);
    assert_eq!(
        chain_error_of(&split(INDIRECT_FEATURE), &memory),
        ChainError::TooLong
    );
}

#[test]
fn v1_a_packed_chain_cannot_go_around_the_ring() {
    let memory = memory();
    for slot in 0..4 {
        packed_descriptor(&memory, DESCRIPTORS, slot, fields(1, NEXT | AVAIL, 0));
    }
    let error = chain_error_of(&plain(Layout::Packed, 4), &memory);
    assert_eq!(error, ChainError::NotAvailable);
}

#[test]
fn v1_a_chain_as_long_as_the_queue_is_whole() {
    let memory = memory();
    for index in 0..4 {
        let flags = if index < 3 { NEXT } else { 0 };
        split_descriptor(&memory, DESCRIPTORS, index, fields(1, flags, index + 1));
    }
    make_available(&memory, &[0], 1);
    let (mut queue, mut chain) = device(&plain(Layout::Split, 4), &memory);
    let _head = queue.pop(&mut chain).unwrap().expect("a chain");
    assert_eq!(chain.readable().len(), 4);
}

#[test]
fn v1_a_next_field_outside_the_table_is_named() {
    let memory = memory();
    split_descriptor(&memory, DESCRIPTORS, 0, fields(1, NEXT, 4));
    make_available(&memory, &[0], 1);
    let error = chain_error_of(&plain(Layout::Split, 4), &memory);
    assert_eq!(error, ChainError::NextOutOfRange { next: 4 });
}

/// The error of an indirect descriptor with these flags and length whose table holds one entry with
/// flags of its own, in both layouts.
fn indirect_errors(flags: u16, length: u32, entry_flags: u16) -> [ChainError; 2] {
    [Layout::Split, Layout::Packed].map(|layout| {
        let memory = memory();
        let write = match layout {
            Layout::Split => split_descriptor,
            Layout::Packed => packed_descriptor,
        };
        let available = if layout == Layout::Packed { AVAIL } else { 0 };
        let descriptor = fields(length, INDIRECT | flags | available, 0);
        let descriptor = common::Fields {
            address: TABLES,
            ..descriptor
        };
        write(&memory, DESCRIPTORS, 0, descriptor);
        write(&memory, TABLES, 0, fields(1, entry_flags, 0));
        make_available(&memory, &[0], 1);
        let config = config(layout, 4, INDIRECT_FEATURE).activate().unwrap();
        chain_error_of(&config, &memory)
    })
}

#[test]
fn v2_indirect_inside_indirect_is_refused() {
    assert_eq!(
        indirect_errors(0, 16, INDIRECT),
        [ChainError::NestedIndirect; 2]
    );
}

#[test]
fn v2_indirect_with_next_is_refused() {
    assert_eq!(
        indirect_errors(NEXT, 16, 0),
        [ChainError::IndirectInChain; 2]
    );
}

#[test]
fn v2_tables_of_wrong_length_are_refused() {
    for bytes in [
        0,
        1,
        15,
        17,
        24,
        5 * 16,
        65536 * 16,
        u32::MAX,
        u32::MAX - 15,
    ] {
        let refused = [ChainError::TableLength { bytes }; 2];
        assert_eq!(indirect_errors(0, bytes, 0), refused);
    }
}

#[test]
fn v2_indirect_after_a_direct_descriptor_is_refused() {
    let memory = memory();
    split_descriptor(&memory, DESCRIPTORS, 0, fields(1, NEXT, 1));
    split_descriptor(&memory, DESCRIPTORS, 1, fields(16, INDIRECT, 0));
    make_available(&memory, &[0], 1);
    let error = chain_error_of(&split(INDIRECT_FEATURE), &memory);
    assert_eq!(error, ChainError::IndirectInChain);
}

#[test]
fn v2_indirect_that_was_not_negotiated_is_refused() {
    let memory = memory();
    split_descriptor(&memory, DESCRIPTORS, 0, fields(16, INDIRECT, 0));
    make_available(&memory, &[0], 1);
    let error = chain_error_of(&plain(Layout::Split, 4), &memory);
    assert_eq!(error, ChainError::IndirectNotNegotiated);
}

#[test]
fn v2_empty_buffers_are_refused() {
    let memory = memory();
    split_descriptor(&memory, DESCRIPTORS, 0, fields(0, WRITE, 0));
    make_available(&memory, &[0], 1);
    assert_eq!(
        chain_error_of(&plain(Layout::Split, 4), &memory),
        ChainError::Empty
    );
}

#[test]
fn v2_readable_after_writable_is_refused() {
    let memory = memory();
    split_descriptor(&memory, DESCRIPTORS, 0, fields(1, NEXT | WRITE, 1));
    split_descriptor(&memory, DESCRIPTORS, 1, fields(1, 0, 0));
    make_available(&memory, &[0], 1);
    let error = chain_error_of(&plain(Layout::Split, 4), &memory);
    assert_eq!(error, ChainError::ReadableAfterWritable);
}

#[test]
fn v3_an_avail_index_beyond_the_queue_is_refused() {
    for index in [5, 6, 0x8000, 0xffff] {
        let memory = memory();
        make_available(&memory, &[0, 1, 2, 3], index);
        let error = error_of(&plain(Layout::Split, 4), &memory);
        assert_eq!(error, QueueError::AvailIndexJump { index, next: 0 });
    }
}

#[test]
fn v3_an_avail_index_that_goes_back_is_refused() {
    let memory = memory();
    for index in 0..4 {
        split_descriptor(&memory, DESCRIPTORS, index, fields(1, 0, 0));
    }
    make_available(&memory, &[0, 1, 2], 3);
    let (mut queue, mut chain) = device(&plain(Layout::Split, 4), &memory);
    let heads = [(); 3].map(|()| queue.pop(&mut chain).unwrap().unwrap());
    make_available(&memory, &[0, 1, 2], 2);
    let jump = QueueError::AvailIndexJump { index: 2, next: 3 };
    assert_eq!(queue.pop(&mut chain), Err(jump));
    drop(heads);
}

#[test]
fn v3_a_head_outside_the_table_is_refused() {
    let memory = memory();
    make_available(&memory, &[4], 1);
    let error = error_of(&plain(Layout::Split, 4), &memory);
    assert_eq!(error, QueueError::HeadOutOfRange { head: 4 });
}

#[test]
fn v3_the_same_head_twice_in_flight_is_refused() {
    let memory = memory();
    split_descriptor(&memory, DESCRIPTORS, 1, fields(1, 0, 0));
    make_available(&memory, &[1, 1], 2);
    let (mut queue, mut chain) = device(&plain(Layout::Split, 4), &memory);
    let head = queue.pop(&mut chain).unwrap().expect("the first time");
    let twice = QueueError::HeadInFlight { head: 1 };
    assert_eq!(queue.pop(&mut chain), Err(twice));
    // What is out can still be given back.
    queue.complete(head, 0).unwrap();
}

#[test]
fn v3_a_head_again_after_it_was_used_is_fine() {
    let memory = memory();
    split_descriptor(&memory, DESCRIPTORS, 1, fields(1, 0, 0));
    make_available(&memory, &[1, 1], 2);
    let (mut queue, mut chain) = device(&plain(Layout::Split, 4), &memory);
    for _ in 0..2 {
        let head = queue.pop(&mut chain).unwrap().expect("a chain");
        queue.complete(head, 0).unwrap();
    }
}

#[test]
fn v4_nothing_changes_a_queue_that_runs() {
    let memory = memory();
    let mut set = QueueSet::<HostRing<&GuestMemoryMmap>>::new(1);
    let before = config(Layout::Split, 4, RingFeatures::default());
    let after = Config {
        size: 0,
        descriptors: 0xffff_f000,
        ..before
    };
    assert!(set.configure(0, after), "the driver may change its mind");
    assert!(set.configure(0, before));
    set.start(|config| HostRing::new(config, &memory)).unwrap();
    assert!(!set.configure(0, after), "until it set DRIVER_OK");
    set.start(|config| HostRing::new(config, &memory)).unwrap();
    let queue = set.running(0).expect("the queue runs");
    assert_eq!(*queue.config().config(), before);
}

#[test]
fn v5_sizes_that_no_ring_has_are_refused() {
    let active = |layout, size| config(layout, size, RingFeatures::default()).activate();
    for size in [0, 3, 12, 32769, 65535] {
        assert_eq!(active(Layout::Split, size), Err(ConfigError::Size { size }));
    }
    for size in [0, 32769, 65535] {
        assert_eq!(
            active(Layout::Packed, size),
            Err(ConfigError::Size { size })
        );
    }
    for size in [1, 3, 12, 32768] {
        assert!(active(Layout::Packed, size).is_ok());
    }
}

#[test]
fn v5_areas_must_be_aligned_and_end() {
    let good = config(Layout::Split, 4, RingFeatures::default());
    let misaligned = Config {
        descriptors: DESCRIPTORS + 8,
        ..good
    };
    let refused = ConfigError::Misaligned {
        area: Area::Descriptors,
        address: DESCRIPTORS + 8,
        alignment: 16,
    };
    assert_eq!(misaligned.activate(), Err(refused));
    let address = u64::MAX - 15;
    let wrapping = Config {
        descriptors: address,
        ..good
    };
    let area = Area::Descriptors;
    assert_eq!(
        wrapping.activate(),
        Err(ConfigError::Wraps { area, address })
    );
    let two = Config {
        driver: DRIVER + 2,
        ..good
    };
    assert!(two.activate().is_ok(), "an available ring needs two bytes");
    let packed = Config {
        layout: Layout::Packed,
        ..two
    };
    assert!(packed.activate().is_err(), "an event structure four");
}

#[test]
fn v6_a_packed_chain_may_wrap() {
    let memory = memory();
    let config = plain(Layout::Packed, 3);
    let mut driver = driver(&config, &memory);
    let (mut device, mut chain) = device(&config, &memory);
    for round in 0..9 {
        let buffers = [segment(BUFFERS + round, 1), segment(BUFFERS + 8 + round, 1)];
        let id = driver.add(&buffers, &[]).unwrap();
        assert_eq!(driver.publish(), Ok(Notify::Send));
        let head = device.pop(&mut chain).unwrap().expect("a chain");
        assert_eq!((head.id(), chain.readable()), (id, &buffers[..]));
        device.complete(head, 0).unwrap();
        assert_eq!(device.flush(), Ok(Notify::Send));
        assert_eq!(driver.take_used().unwrap().map(|used| used.id), Some(id));
    }
}

#[test]
fn v6_a_packed_chain_that_goes_on_in_a_stale_slot_is_refused() {
    let memory = memory();
    packed_descriptor(&memory, DESCRIPTORS, 0, fields(1, NEXT | AVAIL, 0));
    packed_descriptor(&memory, DESCRIPTORS, 1, fields(1, 0, 0));
    let error = chain_error_of(&plain(Layout::Packed, 4), &memory);
    assert_eq!(error, ChainError::NotAvailable);
}

#[test]
fn v6_next_flags_in_a_packed_table_mean_nothing() {
    let memory = memory();
    let descriptor = fields(2 * 16, INDIRECT | AVAIL, 3);
    let descriptor = common::Fields {
        address: TABLES,
        ..descriptor
    };
    packed_descriptor(&memory, DESCRIPTORS, 0, descriptor);
    packed_descriptor(&memory, TABLES, 0, fields(1, 0, 9));
    packed_descriptor(&memory, TABLES, 1, fields(2, NEXT | WRITE, 9));
    let (mut queue, mut chain) = device(&packed(INDIRECT_FEATURE), &memory);
    let head = queue.pop(&mut chain).unwrap().expect("a chain");
    assert_eq!(
        (head.id(), chain.readable_bytes(), chain.writable_bytes()),
        (3, 1, 2)
    );
}

#[test]
fn v6_a_buffer_id_twice_in_flight_is_refused() {
    let memory = memory();
    for slot in 0..2 {
        packed_descriptor(&memory, DESCRIPTORS, slot, fields(1, AVAIL, 1));
    }
    let (mut queue, mut chain) = device(&plain(Layout::Packed, 4), &memory);
    let _head = queue.pop(&mut chain).unwrap().expect("the first time");
    let twice = QueueError::HeadInFlight { head: 1 };
    assert_eq!(queue.pop(&mut chain), Err(twice));
}

#[test]
fn v6_a_buffer_id_outside_the_queue_is_refused() {
    let memory = memory();
    packed_descriptor(&memory, DESCRIPTORS, 0, fields(1, AVAIL, 4));
    let error = error_of(&plain(Layout::Packed, 4), &memory);
    assert_eq!(error, QueueError::HeadOutOfRange { head: 4 });
}

#[test]
fn v6_more_in_flight_than_a_packed_ring_has_is_refused() {
    let memory = memory();
    packed_descriptor(&memory, DESCRIPTORS, 0, fields(1, AVAIL, 0));
    packed_descriptor(&memory, DESCRIPTORS, 1, fields(1, AVAIL, 1));
    let (mut queue, mut chain) = device(&plain(Layout::Packed, 2), &memory);
    let _heads = [(); 2].map(|()| queue.pop(&mut chain).unwrap().expect("a chain"));
    // The next lap's flags, though nothing was used.
    packed_descriptor(&memory, DESCRIPTORS, 0, fields(1, 1 << 15, 0));
    assert_eq!(queue.pop(&mut chain), Err(QueueError::TooManyInFlight));
}

/// The packed equality bug: the interrupt of a chain that steps over the armed slot.
#[test]
fn v6_a_batch_that_steps_over_the_armed_slot_interrupts() {
    for layout in [Layout::Split, Layout::Packed] {
        let memory = memory();
        let features = RingFeatures {
            event_idx: true,
            ..RingFeatures::default()
        };
        let config = config(layout, 8, features).activate().unwrap();
        let mut driver = driver(&config, &memory);
        let (mut device, mut chain) = device(&config, &memory);
        for _ in 0..4 {
            driver
                .add(&[segment(BUFFERS, 1), segment(BUFFERS, 1)], &[])
                .unwrap();
        }
        let _ = driver.publish().unwrap();
        let _ = driver.enable_interrupts_delayed().unwrap();
        let mut sent = 0;
        while let Some(head) = device.pop(&mut chain).unwrap() {
            device.complete(head, 0).unwrap();
            sent += u32::from(device.flush().unwrap().is_due());
        }
        assert_eq!(
            (sent, device.counts().interrupts.by_event),
            (1, 3),
            "{layout:?}"
        );
    }
}

#[test]
fn v6_an_event_position_outside_the_ring_still_interrupts() {
    let memory = memory();
    let features = RingFeatures {
        event_idx: true,
        ..RingFeatures::default()
    };
    packed_descriptor(&memory, DESCRIPTORS, 0, fields(1, AVAIL, 0));
    // RING_EVENT_FLAGS_DESC at slot 0x7fff.
    memory
        .write_obj(0x0002_7fff_u32, GuestAddress(DRIVER))
        .unwrap();
    let (mut queue, mut chain) = device(&packed(features), &memory);
    let head = queue.pop(&mut chain).unwrap().expect("a chain");
    queue.complete(head, 0).unwrap();
    assert_eq!(queue.flush(), Ok(Notify::Send));
}

#[test]
fn v7_a_buffer_that_wraps_is_refused() {
    let memory = memory();
    let address = u64::MAX - 3;
    let wrapping = common::Fields {
        address,
        ..fields(5, 0, 0)
    };
    split_descriptor(&memory, DESCRIPTORS, 0, wrapping);
    make_available(&memory, &[0], 1);
    let error = chain_error_of(&plain(Layout::Split, 4), &memory);
    assert_eq!(error, ChainError::Wraps { address });
}

#[test]
fn v7_a_chain_of_four_gibibytes_is_refused() {
    let memory = memory();
    split_descriptor(&memory, DESCRIPTORS, 0, fields(u32::MAX, NEXT, 1));
    split_descriptor(&memory, DESCRIPTORS, 1, fields(1, WRITE, 0));
    make_available(&memory, &[0], 1);
    assert_eq!(
        chain_error_of(&plain(Layout::Split, 4), &memory),
        ChainError::TooLarge
    );
}

#[test]
fn v7_data_crosses_regions_and_stops_at_a_hole() {
    let half = MEMORY / 2;
    let ranges = [(GuestAddress(0), half), (GuestAddress(half as u64), half)];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    let across = common::Fields {
        address: half as u64 - 2,
        ..fields(4, NEXT | WRITE, 1)
    };
    let outside = common::Fields {
        address: MEMORY as u64 - 1,
        ..fields(2, WRITE, 0)
    };
    split_descriptor(&memory, DESCRIPTORS, 0, across);
    split_descriptor(&memory, DESCRIPTORS, 1, outside);
    make_available(&memory, &[0], 1);
    let (mut queue, mut chain) = device(&plain(Layout::Split, 4), &memory);
    let head = queue.pop(&mut chain).unwrap().expect("a chain");
    assert_eq!(chain.write(&memory, 0, b"abcd").unwrap(), 4);
    assert_eq!(
        memory
            .read_obj::<[u8; 4]>(GuestAddress(half as u64 - 2))
            .unwrap(),
        *b"abcd"
    );
    assert!(chain.write(&memory, 3, b"def").is_err());
    queue.complete(head, 4).unwrap();
}

#[test]
fn v8_what_changes_after_a_pop_changes_nothing() {
    let memory = memory();
    let table = common::Fields {
        address: TABLES,
        ..fields(16, INDIRECT, 0)
    };
    split_descriptor(&memory, DESCRIPTORS, 0, table);
    split_descriptor(&memory, TABLES, 0, fields(8, 0, 0));
    make_available(&memory, &[0], 1);
    let (mut queue, mut chain) = device(&split(INDIRECT_FEATURE), &memory);
    let head = queue.pop(&mut chain).unwrap().expect("a chain");
    split_descriptor(
        &memory,
        DESCRIPTORS,
        0,
        fields(u32::MAX, NEXT | INDIRECT, 9),
    );
    split_descriptor(&memory, TABLES, 0, fields(u32::MAX, WRITE | NEXT, 9));
    make_available(&memory, &[3], 1);
    assert_eq!(chain.readable(), [segment(BUFFERS, 8)]);
    assert!(chain.writable().is_empty());
    queue.complete(head, 0).unwrap();
    let _ = queue.flush().unwrap();
    assert_eq!(
        memory.read_obj::<u32>(GuestAddress(DEVICE + 4)).unwrap(),
        0,
        "the head it was"
    );
}

#[test]
fn v9_a_device_cannot_claim_more_than_it_had() {
    let memory = memory();
    split_descriptor(&memory, DESCRIPTORS, 0, fields(8, WRITE, 0));
    make_available(&memory, &[0], 1);
    let (mut queue, mut chain) = device(&plain(Layout::Split, 4), &memory);
    let head = queue.pop(&mut chain).unwrap().expect("a chain");
    let refused = UsedError::TooLong {
        written: 9,
        writable: 8,
    };
    assert_eq!(queue.complete(head, 9), Err(refused));
}

/// A split used ring that a device filled with lies.
fn split_fault(id: u32, written: u32, index: u16) -> DeviceFault {
    let memory = memory();
    let config = plain(Layout::Split, 4);
    let mut driver = driver(&config, &memory);
    assert_eq!(
        driver.add(&[segment(BUFFERS, 8)], &[segment(BUFFERS, 4)]),
        Ok(0)
    );
    let _ = driver.publish().unwrap();
    memory.write_obj(id, GuestAddress(DEVICE + 4)).unwrap();
    memory.write_obj(written, GuestAddress(DEVICE + 8)).unwrap();
    memory.write_obj(index, GuestAddress(DEVICE + 2)).unwrap();
    let fault = driver.take_used().expect_err("the device lies");
    assert_eq!(driver.take_used(), Err(fault), "and is not believed again");
    fault
}

#[test]
fn v9_the_driver_side_believes_no_id_length_or_index() {
    for id in [1, 3, 4, 65536, u32::MAX] {
        assert_eq!(split_fault(id, 0, 1), DeviceFault::UnknownId { id });
    }
    let too_long = DeviceFault::TooLong {
        written: 5,
        writable: 4,
    };
    assert_eq!(split_fault(0, 5, 1), too_long);
    for index in [2, 0x8000, 0xffff] {
        let jump = DeviceFault::UsedIndexJump { index, next: 0 };
        assert_eq!(split_fault(0, 0, index), jump);
    }
}

#[test]
fn v9_a_chain_that_is_used_twice_is_refused() {
    let memory = memory();
    let config = plain(Layout::Split, 4);
    let mut driver = driver(&config, &memory);
    for _ in 0..2 {
        driver.add(&[segment(BUFFERS, 8)], &[]).unwrap();
    }
    let _ = driver.publish().unwrap();
    for slot in 0..2 {
        memory
            .write_obj(0_u32, GuestAddress(DEVICE + 4 + 8 * slot))
            .unwrap();
    }
    memory.write_obj(2_u16, GuestAddress(DEVICE + 2)).unwrap();
    assert!(driver.take_used().unwrap().is_some());
    assert_eq!(driver.take_used(), Err(DeviceFault::UnknownId { id: 0 }));
}

#[test]
fn v9_a_packed_device_cannot_lie_either() {
    const USED: u16 = 1 << 15 | AVAIL;
    let cases = [
        (
            fields(5, USED | WRITE, 0),
            DeviceFault::TooLong {
                written: 5,
                writable: 4,
            },
        ),
        (fields(0, USED, 1), DeviceFault::UnknownId { id: 1 }),
        (
            fields(0, USED, 0xffff),
            DeviceFault::UnknownId { id: 0xffff },
        ),
    ];
    for (lie, fault) in cases {
        let memory = memory();
        let config = plain(Layout::Packed, 4);
        let mut driver = driver(&config, &memory);
        driver.add(&[], &[segment(BUFFERS, 4)]).unwrap();
        let _ = driver.publish().unwrap();
        packed_descriptor(&memory, DESCRIPTORS, 0, lie);
        assert_eq!(driver.take_used(), Err(fault));
    }
}

#[test]
fn v9_the_driver_side_adds_no_chain_that_the_device_would_refuse() {
    let memory = memory();
    let mut driver = driver(&plain(Layout::Split, 2), &memory);
    let one = segment(BUFFERS, 1);
    let malformed: [(&[_], &[_]); 5] = [
        (&[], &[]),
        (&[one; 3], &[]),
        (&[segment(BUFFERS, 0)], &[]),
        (&[segment(u64::MAX, 2)], &[]),
        (&[segment(0, u32::MAX)], &[one]),
    ];
    for (readable, writable) in malformed {
        assert_eq!(driver.add(readable, writable), Err(AddError::Malformed));
    }
    driver.add(&[one], &[]).unwrap();
    let full = AddError::Full { needed: 2, free: 1 };
    assert_eq!(driver.add(&[one], &[one]), Err(full));
}

#[test]
fn v10_kicks_for_queues_that_do_not_run_find_nothing() {
    let memory = memory();
    let mut set = QueueSet::<HostRing<&GuestMemoryMmap>>::new(2);
    let config = config(Layout::Split, 4, RingFeatures::default());
    for index in [0, 1, 2, 65535, 65536, u32::MAX] {
        assert!(set.running(index).is_none(), "nothing was started");
    }
    assert!(set.configure(0, config));
    assert!(!set.configure(2, config), "there is no such queue");
    assert!(set.running(0).is_none(), "DRIVER_OK did not come");
    set.start(|config| HostRing::new(config, &memory)).unwrap();
    assert!(set.running(0).is_some());
    assert!(set.running(1).is_none(), "it was never configured");
    assert!(set.running(u32::MAX).is_none());
    set.reset();
    assert!(set.running(0).is_none(), "after reset");
}

#[test]
fn v10_a_queue_that_is_wrong_does_not_start() {
    let memory = memory();
    let mut set = QueueSet::<HostRing<&GuestMemoryMmap>>::new(1);
    let config = config(Layout::Split, 3, RingFeatures::default());
    assert!(set.configure(0, config));
    let started = set.start(|config| HostRing::new(config, &memory));
    assert_eq!(started, Err((0, ConfigError::Size { size: 3 })));
    assert!(set.running(0).is_none());
}

#[test]
fn v11_rings_lie_in_memory_or_nowhere() {
    let memory = memory();
    let config = config(Layout::Split, 4, RingFeatures::default());
    let end = MEMORY as u64;
    let places = [0xfebc_0000, end, end - 16];
    for address in places {
        let outside = Config {
            descriptors: address,
            ..config
        }
        .activate()
        .unwrap();
        let area = Area::Descriptors;
        let error = HostRing::new(&outside, &memory).expect_err("no memory there");
        assert_eq!(error, ConfigError::NotInMemory { area, address });
        let mut queue = DeviceQueue::new(&outside, GuestRing::new(&outside, &memory));
        let mut chain = Chain::new(&outside);
        make_available(&memory, &[3], 1);
        let fault = queue.pop(&mut chain).expect_err("no memory there either");
        let fault_of_word = Fault::Ring { area, index: 6 };
        let source = ChainError::Fault(fault_of_word);
        assert_eq!(fault, QueueError::Chain { head: 3, source });
    }
}

#[test]
fn v11_a_table_outside_memory_is_a_fault() {
    for table in [0xfebc_0000, MEMORY as u64 - 8, u64::MAX - 15] {
        let memory = memory();
        let descriptor = common::Fields {
            address: table,
            ..fields(16, INDIRECT, 0)
        };
        split_descriptor(&memory, DESCRIPTORS, 0, descriptor);
        make_available(&memory, &[0], 1);
        let error = chain_error_of(&split(INDIRECT_FEATURE), &memory);
        assert_eq!(error, ChainError::Fault(Fault::Table { table }));
    }
}

#[test]
fn v12_states_that_no_queue_was_in_are_refused() {
    let memory = memory();
    let state = |layout, size, next_avail, next_used| QueueState {
        config: config(layout, size, RingFeatures::default()),
        next_avail,
        next_used,
        signalled: None,
        kicks_enabled: true,
    };
    let restore = |state: QueueState| {
        let restored = state.restore(|config| HostRing::new(config, &memory));
        restored.map(|queue| queue.state().unwrap())
    };
    let apart = RestoreError::InFlight {
        next_avail: 9,
        next_used: 2,
    };
    assert_eq!(restore(state(Layout::Split, 4, 9, 2)), Err(apart));
    let outside = RestoreError::OutOfRange { position: 4 };
    assert_eq!(restore(state(Layout::Packed, 4, 4, 4)), Err(outside));
    let size = RestoreError::Config(ConfigError::Size { size: 3 });
    assert_eq!(restore(state(Layout::Split, 3, 0, 0)), Err(size));
    for good in [
        state(Layout::Split, 4, 65535, 65535),
        state(Layout::Packed, 4, 0x8003, 0x8003),
    ] {
        assert_eq!(restore(good), Ok(good));
    }
    // A position that the ring does not bear out is a jump of avail.idx.
    make_available(&memory, &[], 0);
    let mut queue = state(Layout::Split, 4, 100, 100)
        .restore(|config| HostRing::new(config, &memory))
        .unwrap();
    let mut chain = Chain::new(queue.config());
    let jump = QueueError::AvailIndexJump {
        index: 0,
        next: 100,
    };
    assert_eq!(queue.pop(&mut chain), Err(jump));
}

#[test]
fn v12_a_queue_with_chains_out_is_not_saved() {
    let memory = memory();
    for layout in [Layout::Split, Layout::Packed] {
        let config = plain(layout, 4);
        let mut driver = driver(&config, &memory);
        driver.add(&[segment(BUFFERS, 1)], &[]).unwrap();
        let _ = driver.publish().unwrap();
        let (mut queue, mut chain) = device(&config, &memory);
        let head = queue.pop(&mut chain).unwrap().expect("a chain");
        assert_eq!(queue.state().map_err(|error| error.count), Err(1));
        queue.complete(head, 0).unwrap();
        assert!(queue.state().is_err(), "not shown to the driver");
        let _ = queue.flush().unwrap();
        assert!(queue.state().is_ok());
    }
}

/// A queue goes on in another place exactly as it would have here.
#[test]
fn a_restored_queue_goes_on() {
    for (layout, event_idx) in [
        (Layout::Split, false),
        (Layout::Split, true),
        (Layout::Packed, false),
        (Layout::Packed, true),
    ] {
        let memory = memory();
        let features = RingFeatures {
            event_idx,
            ..RingFeatures::default()
        };
        let config = config(layout, 4, features).activate().unwrap();
        let mut driver = driver(&config, &memory);
        let (mut queue, mut chain) = device(&config, &memory);
        for count in 0..23 {
            driver.add(&[segment(BUFFERS + count, 1)], &[]).unwrap();
            let _ = driver.publish().unwrap();
            let saved = serde_json::to_string(&queue.state().unwrap()).unwrap();
            let saved: QueueState = serde_json::from_str(&saved).unwrap();
            queue = saved
                .restore(|config| HostRing::new(config, &memory))
                .unwrap();
            let head = queue.pop(&mut chain).unwrap().expect("a chain");
            assert_eq!(chain.readable(), [segment(BUFFERS + count, 1)]);
            queue.complete(head, 0).unwrap();
            let _ = queue.flush().unwrap();
            assert!(driver.take_used().unwrap().is_some());
        }
    }
}
