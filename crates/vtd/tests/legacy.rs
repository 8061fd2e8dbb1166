//! Legacy mode: root and context tables, the second stage, invalidation, faults.

mod common;

use common::{CONTEXTS, Guest, NIC, ROOT, STATUS, legacy};
use vtd::registers::*;
use vtd::{AccessKind, Capabilities, Event, Features, Message, SourceId};

#[test]
fn without_translation_addresses_are_themselves() {
    let mut guest = Guest::new(Capabilities::legacy());
    assert_eq!(guest.write(0x1234_5678_9abc), Ok(0x1234_5678_9abc));
}

#[test]
fn pages_of_all_sizes_translate() {
    let (mut guest, root) = legacy();
    guest.map(root, 4, 0x1000, 0x5000 | 3, 1);
    guest.map(root, 4, 0x20_0000, 0x60_0000 | 3, 2);
    guest.map(root, 4, 0x4000_0000, 0x8000_0000 | 3, 3);
    for _ in 0..2 {
        assert_eq!(guest.read(0x1234), Ok(0x5234));
        assert_eq!(guest.read(0x23_4567), Ok(0x63_4567));
        assert_eq!(guest.write(0x4567_89ab), Ok(0x8567_89ab));
    }
    let counters = guest.unit.iotlb_counters();
    assert_eq!(
        (counters.hits, counters.misses),
        (3, 2),
        "the first of all met no context"
    );
    assert_eq!(guest.unit.counters().walks, 3);
}

#[test]
fn rights_are_those_of_all_levels() {
    let (mut guest, root) = legacy();
    guest.map(root, 4, 0x1000, 0x5000 | 1, 1);
    guest.map(root, 4, 0x2000, 0x6000 | 2, 1);
    assert_eq!(guest.read(0x1000), Ok(0x5000));
    assert_eq!(guest.write(0x1000), Err(0x5));
    assert_eq!(guest.write(0x2000), Ok(0x6000));
    assert_eq!(guest.read(0x2000), Err(0x6));
    assert_eq!(guest.read(0x3000), Err(0x6));
    let both = guest.translate(NIC, 0x2000, AccessKind::ReadWrite);
    assert_eq!(both.unwrap_err().reason.number(), 0x6);
}

#[test]
fn three_levels_take_39_bits() {
    let mut guest = Guest::new(Capabilities::legacy());
    let root = guest.table();
    guest.context(NIC, 1, 0, root, 3);
    guest.enable();
    guest.map(root, 3, 0x7f_ffff_f000, 0x5000 | 3, 1);
    assert_eq!(guest.read(0x7f_ffff_f008), Ok(0x5008));
    assert_eq!(guest.read(0x80_0000_0000), Err(0x4));
}

#[test]
fn every_table_has_its_faults() {
    let (mut guest, root) = legacy();
    let context = CONTEXTS + u64::from(NIC.function()) * 16;
    let mut expect = |at: u64, value: u64, reason: u8| {
        let before = guest.peek(at);
        guest.poke(at, value);
        guest.command(SRTP);
        assert_eq!(guest.read(0x1000), Err(reason), "{value:#x} at {at:#x}");
        guest.poke(at, before);
    };
    expect(ROOT, 0, 0x1);
    expect(ROOT, CONTEXTS | 3, 0xa);
    expect(ROOT + 8, 1, 0xa);
    expect(ROOT, 1 << 45 | 1, 0x9);
    expect(context, 0, 0x2);
    expect(context, root | 0x11, 0xb);
    expect(context + 8, 0x80 | 2, 0xb);
    expect(context, root | 0xd, 0x3);
    expect(context, root | 0x5, 0x3);
    expect(context + 8, 3, 0x3);
    expect(context, 1 << 44 | 1, 0x7);
    expect(root, 0x1003 | 1 << 50, 0xc);
    let mut guest = Guest::new(Capabilities::legacy());
    guest.set_quad(RTADDR, 1 << 44);
    guest.command(SRTP);
    guest.command(TE);
    assert_eq!(guest.read(0x1000), Err(0x8));
    guest.set_quad(RTADDR, ROOT | 1 << 10);
    guest.command(SRTP);
    assert_eq!(guest.read(0x1000), Err(0x30), "no scalable mode here");
}

#[test]
fn pass_through_reaches_what_the_host_has() {
    let mut guest = Guest::new(Capabilities::legacy());
    guest.context(NIC, 1, 2, 0, 4);
    guest.enable();
    assert_eq!(guest.write(0x1234), Ok(0x1234));
    assert_eq!(guest.write(1 << 46), Err(0x4));
}

#[test]
fn nothing_leads_into_the_interrupt_range() {
    let (mut guest, root) = legacy();
    guest.map(root, 4, 0x1000, 0xfee0_0000 | 3, 1);
    guest.map(root, 4, 0xc000_0000, 0xc000_0000 | 3, 3);
    assert_eq!(guest.write(0x1000), Err(0xe));
    assert_eq!(guest.write(0xfee0_0000), Err(0xe));
    for _ in 0..2 {
        let near = guest.translate(NIC, 0xfed0_0000, AccessKind::Read).unwrap();
        assert_eq!(near.contiguous(), 0x1000, "a large page in pieces");
        assert_eq!(guest.read(0xfef0_0000), Ok(0xfef0_0000));
    }
}

#[test]
fn a_cached_mapping_stays_until_it_is_invalidated() {
    let (mut guest, root) = legacy();
    let other = SourceId::new(0, 3, 0);
    let other_root = guest.table();
    guest.context(other, 2, 0, other_root, 4);
    let invalidations: [[u64; 2]; 4] = [
        [2 | 1 << 4, 0],
        [2 | 2 << 4 | 1 << 16, 0],
        [2 | 3 << 4 | 1 << 16, 0x1000],
        [2 | 3 << 4 | 1 << 16, 3 | 1 << 6],
    ];
    for invalidation in invalidations {
        guest.map(root, 4, 0x1000, 0x5000 | 3, 1);
        guest.map(other_root, 4, 0x1000, 0x8000 | 3, 1);
        assert_eq!(guest.read(0x1000), Ok(0x5000));
        assert_eq!(
            guest
                .translate(other, 0x1000, AccessKind::Read)
                .unwrap()
                .address,
            0x8000
        );
        guest.map(root, 4, 0x1000, 0x7000 | 3, 1);
        assert_eq!(guest.read(0x1000), Ok(0x5000));
        // Of another domain, or of other pages.
        guest.submit(&[[2 | 2 << 4 | 2 << 16, 0], [2 | 3 << 4 | 1 << 16, 0x2000]]);
        assert_eq!(guest.read(0x1000), Ok(0x5000));
        guest.submit(&[invalidation]);
        assert_eq!(guest.read(0x1000), Ok(0x7000));
        guest.submit(&[[2 | 1 << 4, 0]]);
    }
}

#[test]
fn a_cached_context_stays_until_it_is_invalidated() {
    let invalidations: [u64; 5] = [
        1 | 1 << 4,
        1 | 2 << 4 | 1 << 16,
        1 | 3 << 4 | 1 << 16 | u64::from(NIC.0) << 32,
        1 | 3 << 4 | 1 << 16 | u64::from(NIC.0 | 4) << 32 | 1 << 48,
        1 | 3 << 4 | 1 << 16 | u64::from(NIC.0 | 7) << 32 | 3 << 48,
    ];
    for invalidation in invalidations {
        let (mut guest, root) = legacy();
        guest.map(root, 4, 0x1000, 0x5000 | 3, 1);
        assert_eq!(guest.read(0x1000), Ok(0x5000));
        guest.context(NIC, 7, 2, 0, 4);
        guest.submit(&[[1 | 2 << 4 | 9 << 16, 0], [1 | 3 << 4 | 0x99 << 32, 0]]);
        assert_eq!(guest.read(0x1000), Ok(0x5000));
        guest.submit(&[[invalidation, 0]]);
        assert_eq!(guest.read(0x1000), Ok(0x1000), "passed through now");
    }
}

#[test]
fn more_rights_need_no_invalidation() {
    let (mut guest, root) = legacy();
    guest.map(root, 4, 0x1000, 0x5000 | 1, 1);
    assert_eq!(guest.read(0x1000), Ok(0x5000));
    assert_eq!(guest.write(0x1000), Err(5));
    guest.map(root, 4, 0x1000, 0x5000 | 3, 1);
    assert_eq!(guest.write(0x1000), Ok(0x5000));
}

#[test]
fn a_wait_descriptor_writes_and_interrupts() {
    let (mut guest, _) = legacy();
    guest.set(IEADDR, 0xfee0_1000);
    guest.set(IEDATA, 0x41);
    guest.submit(&[[5 | 1 << 4 | 1 << 5 | 0xabcd << 32, STATUS]]);
    assert_eq!(guest.peek(STATUS), 0xabcd);
    assert_eq!(guest.get(ICS), ICS_IWC);
    assert_eq!(guest.get(IECTL), INTERRUPT_MASK | INTERRUPT_PENDING);
    assert_eq!(guest.events(), []);
    guest.set(IECTL, 0);
    let message = Event::Message(Message {
        address: 0xfee0_1000,
        data: 0x41,
    });
    assert_eq!(guest.events(), [message]);
    assert_eq!(guest.get(IECTL), 0);
    // IWC still stands: nothing new.
    guest.submit(&[[5 | 1 << 4, 0]]);
    assert_eq!(guest.events(), []);
    guest.set(ICS, ICS_IWC);
    guest.submit(&[[5 | 1 << 4, 0]]);
    assert_eq!(guest.events(), [message]);
}

#[test]
fn a_malformed_descriptor_stops_the_queue_at_itself() {
    let cases: [([u64; 2], u32); 8] = [
        ([0, 0], 3),
        ([0xf, 0], 3),
        ([5 | 1 << 9, 0], 3),
        ([3, 0], 3),
        ([1, 0], 4),
        ([2 | 1 << 4, 1 << 7], 4),
        ([5 | 1 << 5, 1], 4),
        ([2 | 3 << 4, 19], 4),
    ];
    for (descriptor, error) in cases {
        let (mut guest, _) = legacy();
        guest.set(FECTL, 0);
        guest.submit(&[[5, 0], descriptor, [5 | 1 << 5 | 1 << 32, STATUS]]);
        assert_eq!(guest.get(FSTS), FSTS_IQE, "{descriptor:x?}");
        assert_eq!(guest.get(IQERCD), error, "{descriptor:x?}");
        assert_eq!(guest.get_quad(IQH), 16);
        assert_eq!(guest.events().len(), 1, "the fault event's message");
        assert_eq!(guest.peek(STATUS), 0);
        // Software mends it, and clears the error.
        guest.poke(common::QUEUE + 16, 5);
        guest.poke(common::QUEUE + 24, 0);
        guest.set(FSTS, FSTS_IQE);
        assert_eq!(guest.get(FSTS), 0);
        assert_eq!(guest.peek(STATUS), 1);
        assert_eq!(guest.get_quad(IQH), 48);
    }
}

#[test]
fn a_tail_beyond_the_queue_is_an_error() {
    let (mut guest, _) = legacy();
    guest.set_quad(IQT, 0x1000);
    assert_eq!((guest.get(FSTS), guest.get(IQERCD)), (FSTS_IQE, 1));
}

#[test]
fn a_queue_without_memory_is_an_error() {
    let (mut guest, _) = legacy();
    guest.drop_command(QIE);
    guest.set_quad(IQA, 1 << 40);
    guest.command(QIE);
    guest.set_quad(IQT, 16);
    assert_eq!((guest.get(FSTS), guest.get(IQERCD)), (FSTS_IQE, 2));
}

#[test]
fn the_queue_wraps() {
    let (mut guest, _) = legacy();
    for _ in 0..300 {
        assert!(guest.wait());
    }
    assert_eq!(guest.get_quad(IQH), 300 * 16 % 0x1000);
}

#[test]
fn faults_are_recorded_in_turn_until_there_is_no_room() {
    let (mut guest, _) = legacy();
    guest.set(FEADDR, 0xfee0_2000);
    guest.set(FEDATA, 0x55);
    for page in 0..10 {
        assert_eq!(guest.write(page << 12 | 0x123), Err(5));
    }
    assert_eq!(
        guest.get(FSTS),
        FSTS_PPF | FSTS_PFO,
        "the first record is 0"
    );
    assert_eq!(guest.get(FECTL), INTERRUPT_MASK | INTERRUPT_PENDING);
    for record in 0..8 {
        let at = FRCD + 16 * record;
        assert_eq!(guest.get_quad(at), record << 12);
        assert_eq!(guest.get_quad(at + 8), 1 << 63 | 5 << 32 | u64::from(NIC.0));
    }
    guest.set(FECTL, 0);
    let message = Event::Message(Message {
        address: 0xfee0_2000,
        data: 0x55,
    });
    assert_eq!(guest.events(), [message]);
    for record in 0..8 {
        guest.set(FRCD + 16 * record + 12, 1 << 31);
    }
    assert_eq!(guest.get(FSTS), FSTS_PFO);
    guest.set(FSTS, FSTS_PFO);
    assert_eq!(guest.get(FSTS), 0);
    assert_eq!(guest.read(0x1000), Err(6));
    assert_eq!(
        guest.get_quad(FRCD + 8),
        1 << 63 | 1 << 62 | 6 << 32 | u64::from(NIC.0)
    );
    assert_eq!(guest.events(), [message]);
    assert_eq!(guest.unit.counters().faults_recorded, 9);
}

#[test]
fn a_pending_message_goes_away_with_its_cause() {
    let (mut guest, _) = legacy();
    assert_eq!(guest.read(0x1000), Err(6));
    assert_eq!(guest.get(FECTL), INTERRUPT_MASK | INTERRUPT_PENDING);
    guest.set(FRCD + 12, 1 << 31);
    assert_eq!(guest.get(FECTL), INTERRUPT_MASK);
    guest.set(FECTL, 0);
    assert_eq!(guest.events(), []);
}

#[test]
fn fpd_keeps_faults_unrecorded() {
    let (mut guest, root) = legacy();
    let context = CONTEXTS + u64::from(NIC.function()) * 16;
    guest.poke(context, root | 3);
    assert_eq!(guest.read(0x1000), Err(6));
    guest.poke(context, 2);
    guest.submit(&[[1 | 1 << 4, 0]]);
    assert_eq!(guest.read(0x1000), Err(2));
    assert_eq!(guest.get(FSTS), 0);
}

#[test]
fn faults_of_one_requester_collapse_where_asked_for() {
    let mut capabilities = Capabilities::legacy();
    capabilities.features |= Features::COLLAPSE_FAULTS;
    let mut guest = Guest::new(capabilities);
    guest.enable();
    for _ in 0..20 {
        assert_eq!(guest.read(0x1000), Err(1));
    }
    assert_eq!(guest.get(FSTS), FSTS_PPF);
    assert_eq!(guest.unit.counters().faults_recorded, 1);
}

#[test]
fn an_iotlb_of_the_largest_size_holds_as_many_pages() {
    let mut capabilities = Capabilities::legacy();
    capabilities.iotlb_entries = 1 << 18;
    let mut guest = Guest::new(capabilities);
    let root = guest.table();
    guest.context(NIC, 1, 0, root, 4);
    guest.enable();
    for page in 1..1_024 {
        guest.map(root, 4, page << 12, page << 12 | 3, 1);
    }
    for _ in 0..2 {
        for page in 1..1_024 {
            assert_eq!(guest.read(page << 12), Ok(page << 12));
        }
    }
    assert_eq!(guest.unit.counters().walks, 1_023);
}
