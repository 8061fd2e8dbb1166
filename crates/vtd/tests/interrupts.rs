//! Interrupt remapping and posting.

mod common;

use common::{Guest, INTERRUPTS, NIC};
use vtd::registers::*;
use vtd::{Capabilities, Features, Notification, RemappedInterrupt, RemappedMessage, SourceId};

const DESCRIPTOR: u64 = 0x9000;

/// Remapping is on with 256 entries.
fn remapping(extended: bool) -> Guest {
    let mut guest = Guest::new(Capabilities::scalable());
    guest.set_quad(IRTA, INTERRUPTS | if extended { IRTA_EIME } else { 0 } | 7);
    guest.command(SIRTP);
    guest.enable_queue();
    guest.command(IRE);
    guest
}

/// The address of a request in remappable format, without subhandle.
fn handle(index: u64) -> u64 {
    0xfee0_0010 | (index & 0x7fff) << 5 | index >> 15 << 2
}

fn entry(guest: &Guest, index: u64, low: u64, high: u64) {
    guest.poke(INTERRUPTS + 16 * index, low);
    guest.poke(INTERRUPTS + 16 * index + 8, high);
}

fn remap(guest: &mut Guest, address: u64, data: u32) -> Result<RemappedInterrupt, u8> {
    let remapped = guest.unit.remap(&guest.memory, NIC, address, data);
    remapped.map_err(|fault| fault.reason.number())
}

fn message(vector: u8, destination: u32) -> RemappedInterrupt {
    RemappedInterrupt::Remapped(RemappedMessage {
        vector,
        delivery_mode: 0,
        destination,
        logical: false,
        redirection_hint: false,
        level: false,
    })
}

#[test]
fn an_entry_says_where_an_interrupt_goes() {
    let mut guest = remapping(true);
    entry(&guest, 5, 0x1234_5678_0041_0001, 0);
    assert_eq!(
        remap(&mut guest, handle(5), 0),
        Ok(message(0x41, 0x1234_5678))
    );
    entry(&guest, 6, 0x7_0032_00fd - 0xe0 + 0x20, 0);
    let RemappedInterrupt::Remapped(found) = remap(&mut guest, handle(6), 0).unwrap() else {
        panic!("remapped");
    };
    assert_eq!((found.vector, found.delivery_mode), (0x32, 1));
    assert!(found.logical && found.redirection_hint && found.level);
}

#[test]
fn without_extended_mode_the_destination_has_eight_bits() {
    let mut guest = remapping(false);
    entry(&guest, 5, 0x0000_ab00_0041_0001, 0);
    assert_eq!(remap(&mut guest, handle(5), 0), Ok(message(0x41, 0xab)));
    entry(&guest, 6, 0x0001_ab00_0041_0001, 0);
    assert_eq!(remap(&mut guest, handle(6), 0), Err(0x24));
}

#[test]
fn a_subhandle_is_added_to_the_handle() {
    let mut guest = remapping(true);
    entry(&guest, 7, 0x42_0001, 0);
    assert_eq!(remap(&mut guest, handle(5) | 8, 2), Ok(message(0x42, 0)));
    assert_eq!(remap(&mut guest, handle(5) | 8, 0x1_0002), Err(0x20));
    assert_eq!(remap(&mut guest, handle(0xffff) | 8, 0xffff), Err(0x21));
}

#[test]
fn every_entry_has_its_faults() {
    let mut guest = remapping(true);
    assert_eq!(remap(&mut guest, handle(256), 0), Err(0x21));
    assert_eq!(remap(&mut guest, handle(0x8001), 0), Err(0x21));
    let cases = [
        (0, 0, 0x22),
        (1 | 1 << 12, 0, 0x24),
        (1 | 3 << 5, 0, 0x24),
        (1, 1 << 20, 0x24),
        (1, 3 << 18, 0x24),
        (1, 1 << 18 | 0x999, 0x26),
    ];
    for (low, high, reason) in cases {
        entry(&guest, 9, low, high);
        assert_eq!(
            remap(&mut guest, handle(9), 0),
            Err(reason),
            "{low:#x} {high:#x}"
        );
    }
    let high = guest.get_quad(FRCD + 8);
    assert_eq!(high & 0xff_0000_ffff, 0x21_0000_0000 | u64::from(NIC.0));
    assert_eq!(guest.get_quad(FRCD + 32), 9 << 48, "the index");
    guest.set_quad(IRTA, 1 << 44);
    guest.command(SIRTP);
    assert_eq!(remap(&mut guest, handle(1), 0), Err(0x23));
}

#[test]
fn a_source_is_held_to_its_entry() {
    let mut guest = remapping(true);
    let mut try_from = |source: u16, validation: u64| {
        entry(&guest, 1, 0x41_0001, validation);
        guest.submit(&[[4, 0]]);
        let remapped = guest
            .unit
            .remap(&guest.memory, SourceId(source), handle(1), 0);
        remapped.is_ok()
    };
    // SVT 1 with each SQ: all, function bit 2, bits 2:1, bits 2:0 left out.
    for (qualifier, ignored) in [(0, 0), (1, 4), (2, 6), (3, 7)] {
        for difference in 0..16 {
            let validation = 1 << 18 | qualifier << 16 | 0x1234;
            let expected = difference & !ignored == 0;
            assert_eq!(try_from(0x1234 ^ difference, validation), expected);
        }
    }
    // SVT 2: buses from 0x12 to 0x34.
    for (bus, expected) in [(0x11, false), (0x12, true), (0x34, true), (0x35, false)] {
        assert_eq!(try_from(bus << 8 | 0x77, 2 << 18 | 0x1234), expected);
    }
}

#[test]
fn compatibility_format_needs_leave_and_8_bit_destinations() {
    let msi = (0xfee0_1000, 0x41);
    let passed = RemappedInterrupt::Compatibility {
        address: msi.0,
        data: msi.1,
    };
    let mut guest = remapping(false);
    assert_eq!(remap(&mut guest, msi.0, msi.1), Err(0x25));
    guest.command(CFI);
    assert_eq!(remap(&mut guest, msi.0, msi.1), Ok(passed));
    let mut guest = remapping(true);
    guest.command(CFI);
    assert_eq!(remap(&mut guest, msi.0, msi.1), Err(0x25));
    guest.drop_command(IRE);
    assert_eq!(remap(&mut guest, msi.0, msi.1), Ok(passed));
    assert_eq!(guest.get(FSTS) & FSTS_PPF, FSTS_PPF);
}

#[test]
fn a_cached_entry_stays_until_it_is_invalidated() {
    for invalidation in [4, 4 | 1 << 4 | 5 << 32, 4 | 1 << 4 | 3 << 27 | 2 << 32] {
        let mut guest = remapping(true);
        entry(&guest, 5, 0x41_0001, 0);
        assert_eq!(remap(&mut guest, handle(5), 0), Ok(message(0x41, 0)));
        entry(&guest, 5, 0x42_0001, 0);
        guest.submit(&[[4 | 1 << 4 | 4 << 32, 0]]);
        assert_eq!(remap(&mut guest, handle(5), 0), Ok(message(0x41, 0)));
        guest.submit(&[[invalidation, 0]]);
        assert_eq!(remap(&mut guest, handle(5), 0), Ok(message(0x42, 0)));
    }
}

/// A posted entry for `vector` at index 3.
fn posted(guest: &Guest, vector: u64, urgent: bool) {
    let urgent = u64::from(urgent) << 14;
    entry(
        guest,
        3,
        DESCRIPTOR << 32 | vector << 16 | 1 << 15 | urgent | 1,
        0,
    );
    guest.poke(DESCRIPTOR + 32, 0x17_00f2_0000);
}

#[test]
fn a_posted_interrupt_notifies_once() {
    let mut guest = remapping(true);
    posted(&guest, 0x91, false);
    let notification = Notification {
        vector: 0xf2,
        destination: 0x17,
    };
    for expected in [Some(notification), None] {
        let posted = RemappedInterrupt::Posted {
            vector: 0x91,
            descriptor: DESCRIPTOR,
            notification: expected,
        };
        assert_eq!(remap(&mut guest, handle(3), 0), Ok(posted));
        assert_eq!(guest.peek(DESCRIPTOR + 16), 1 << 0x11);
        assert_eq!(guest.peek(DESCRIPTOR + 32), 0x17_00f2_0001, "ON");
    }
    // The processor takes it.
    guest.poke(DESCRIPTOR + 32, 0x17_00f2_0000);
    assert!(matches!(
        remap(&mut guest, handle(3), 0),
        Ok(RemappedInterrupt::Posted {
            notification: Some(_),
            ..
        })
    ));
    assert_eq!(guest.unit.counters().interrupts_posted, 3);
}

#[test]
fn a_suppressed_notification_is_for_urgent_interrupts_alone() {
    for (urgent, notified) in [(false, false), (true, true)] {
        let mut guest = remapping(true);
        posted(&guest, 0x20, urgent);
        guest.poke(DESCRIPTOR + 32, 0x17_00f2_0002);
        let Ok(RemappedInterrupt::Posted { notification, .. }) = remap(&mut guest, handle(3), 0)
        else {
            panic!("posted");
        };
        assert_eq!(notification.is_some(), notified);
        assert_eq!(guest.peek(DESCRIPTOR), 1 << 0x20);
        assert_eq!(guest.peek(DESCRIPTOR + 32) & 1, u64::from(notified));
    }
}

#[test]
fn a_malformed_descriptor_gets_nothing() {
    let mut guest = remapping(true);
    for (offset, value) in [(32, 4), (32, 1 << 24), (40, 1), (56, 1 << 63)] {
        posted(&guest, 0x20, false);
        let before = guest.peek(DESCRIPTOR + offset);
        guest.poke(DESCRIPTOR + offset, value);
        assert_eq!(remap(&mut guest, handle(3), 0), Err(0x28));
        guest.poke(DESCRIPTOR + offset, before);
        assert_eq!(guest.peek(DESCRIPTOR), 0);
    }
    entry(&guest, 3, DESCRIPTOR << 32 | 1 << 15 | 1, 1 << 44);
    guest.submit(&[[4, 0]]);
    assert_eq!(
        remap(&mut guest, handle(3), 0),
        Err(0x27),
        "no memory there"
    );
}

#[test]
fn posting_needs_a_unit_that_posts() {
    let mut capabilities = Capabilities::scalable();
    capabilities.features -= Features::POSTED_INTERRUPTS;
    let mut guest = Guest::new(capabilities);
    guest.set_quad(IRTA, INTERRUPTS | IRTA_EIME | 7);
    guest.command(SIRTP);
    guest.command(IRE);
    posted(&guest, 0x20, false);
    assert_eq!(remap(&mut guest, handle(3), 0), Err(0x24));
}
