//! The registers as software sees them.

mod common;

use common::Guest;
use vtd::registers::*;
use vtd::{Capabilities, Features};

#[test]
fn capabilities_read_as_built() {
    let mut guest = Guest::new(Capabilities::legacy());
    let cap = guest.get_quad(CAP);
    assert_eq!(cap & 7, 6, "ND: 16 bits");
    assert_eq!(cap >> 8 & 0x1f, 0b0110, "SAGAW: 39 and 48 bits");
    assert_eq!(cap >> 16 & 0x3f, 47, "MGAW");
    assert_eq!((cap >> 24 & 0x3ff) * 16, FRCD, "FRO");
    assert_eq!(cap >> 34 & 0xf, 3, "SSLPS: 2 MiB and 1 GiB");
    assert_eq!(cap >> 40 & 0xff, 7, "NFR: 8 registers");
    let ecap = guest.get_quad(ECAP);
    assert_eq!((ecap >> 8 & 0x3ff) * 16, IVA, "IRO");
    assert_eq!(ecap & 0xff, 0b1101_1011, "C, QI, IR, EIM, PT, SC");
    assert_eq!(guest.get(VER), 0x10);
    for control in [FECTL, IECTL] {
        assert_eq!(guest.get(control), INTERRUPT_MASK);
    }
    assert_eq!(guest.get(PECTL), 0, "no page requests here");
}

#[test]
fn only_writable_bits_take_what_is_written() {
    let mut guest = Guest::new(Capabilities::legacy());
    let expected = [
        (VER, 0x10),
        (GSTS, 0),
        (FEDATA, 0xffff),
        (FEADDR, 0xffff_fffc),
        (FEUADDR, 0xffff_ffff),
        (PMEN, 0),
        (IQH, 0),
        (IEDATA, 0xffff),
        (IQERCD, 0),
        (PQA, 0),
    ];
    for (register, value) in expected {
        guest.set(register, u32::MAX);
        assert_eq!(guest.get(register), value, "register {register:#x}");
    }
    guest.set_quad(IQA, u64::MAX);
    assert_eq!(guest.get_quad(IQA), !0xff8, "no DW without scalable mode");
    guest.set_quad(IRTA, u64::MAX);
    assert_eq!(guest.get_quad(IRTA), !0x7f0);
}

#[test]
fn quads_may_be_written_by_halves() {
    let mut guest = Guest::new(Capabilities::legacy());
    guest.set(RTADDR, 0x4567_8000);
    guest.set(RTADDR + 4, 0x12);
    assert_eq!(guest.get_quad(RTADDR), 0x12_4567_8000);
    assert_eq!(guest.get(RTADDR + 4), 0x12);
}

#[test]
fn other_sizes_and_places_are_ignored_and_counted() {
    let mut guest = Guest::new(Capabilities::legacy());
    for (offset, length) in [(RTADDR, 2), (RTADDR + 1, 4), (RTADDR, 16), (LENGTH, 4)] {
        guest.unit.write(&guest.memory, offset, &vec![0xff; length]);
        let mut data = vec![0xff; length];
        guest.unit.read(offset, &mut data);
        assert_eq!(data, vec![0; length]);
    }
    assert_eq!(guest.get_quad(RTADDR), 0);
    assert_eq!(guest.unit.counters().bad_accesses, 8);
}

#[test]
fn commands_toggle_one_status_each() {
    let mut guest = Guest::new(Capabilities::legacy());
    for command in [QIE, IRE, CFI, TE] {
        guest.command(command);
        assert_ne!(guest.get(GSTS) & command, 0);
    }
    guest.command(SRTP);
    guest.command(SIRTP);
    assert_eq!(guest.get(GSTS), TE | SRTP | QIE | IRE | SIRTP | CFI);
    guest.drop_command(TE);
    assert_eq!(guest.get(GSTS), SRTP | QIE | IRE | SIRTP | CFI);
}

#[test]
fn what_is_not_offered_cannot_be_commanded() {
    let mut capabilities = Capabilities::legacy();
    capabilities.features = Features::WIDTH_48;
    let mut guest = Guest::new(capabilities);
    for command in [QIE, IRE, CFI, SIRTP] {
        guest.command(command);
    }
    assert_eq!(guest.get(GSTS), 0);
    guest.set_quad(IQA, u64::MAX);
    assert_eq!(guest.get_quad(IQA), 0);
}

#[test]
fn register_invalidation_is_done_when_it_is_read_back() {
    let mut guest = Guest::new(Capabilities::legacy());
    for granularity in 1..=3_u64 {
        guest.set_quad(CCMD, ICC | granularity << 61);
        assert_eq!(guest.get_quad(CCMD) >> 59, granularity << 2 | granularity);
        guest.set_quad(IOTLB, IVT | granularity << 60);
        assert_eq!(guest.get_quad(IOTLB) >> 57, granularity << 3 | granularity);
    }
    // AM beyond CAP.MAMV: nothing is done, and IAIG says so.
    guest.set_quad(IVA, 19);
    guest.set_quad(IOTLB, IVT | 3 << 60);
    assert_eq!(guest.get_quad(IOTLB) >> 57 & 3, 0);
}
