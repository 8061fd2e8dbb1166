//! Frames out and in: legacy and extended descriptors, checksums, segmentation, filters, loopback.

mod common;

use common::{EOP, IFCS, MAC, Machine, RING, RS, TSE, VLE, context, data, frame, legacy, tcp};
use e1000::registers::*;
use e1000::{Compat, RxOutcome};
use proptest::prelude::*;

#[test]
fn a_legacy_frame_goes_out_and_its_descriptor_is_done() {
    let mut machine = Machine::new(Compat::Datasheet);
    let buffer = machine.place(&frame(100));
    let sent = machine.send(&[legacy(buffer, 100, EOP | IFCS | RS)]);
    assert_eq!(sent, [frame(100)]);
    assert_eq!(machine.tx_status(0), 1);
    assert_eq!(machine.get(TDH), 1);
    assert_eq!(machine.get(ICR), ICR_TXDW | ICR_TXQE);
    assert_eq!((machine.get(GPTC), machine.get(TOTL)), (1, 104));
}

#[test]
fn a_frame_may_lie_in_pieces() {
    let mut machine = Machine::new(Compat::Datasheet);
    let buffer = machine.place(&frame(100));
    let sent = machine.send(&[
        data(buffer, 10, 0, 0),
        data(buffer + 10, 0, 0, 0),
        data(buffer + 10, 90, EOP | RS, 0),
    ]);
    assert_eq!(sent, [frame(100)]);
    assert_eq!([0, 1, 2].map(|slot| machine.tx_status(slot)), [0, 0, 1]);
}

#[test]
fn without_rs_nothing_is_written_back() {
    let mut machine = Machine::new(Compat::Datasheet);
    let buffer = machine.place(&frame(64));
    assert_eq!(machine.send(&[legacy(buffer, 64, EOP)]).len(), 1);
    assert_eq!(machine.tx_status(0), 0);
    assert_eq!(machine.get(ICR), ICR_TXQE);
}

#[test]
fn a_tag_is_inserted_behind_the_addresses() {
    let mut machine = Machine::new(Compat::Datasheet);
    let control = machine.get(CTRL);
    machine.set(CTRL, control | CTRL_VME);
    let buffer = machine.place(&frame(64));
    let [address, word] = legacy(buffer, 64, EOP | VLE);
    let sent = machine.send(&[[address, word | 0x2064 << 48]]);
    let mut expected = frame(64);
    expected.splice(12..12, [0x81, 0x00, 0x20, 0x64]);
    assert_eq!(sent, [expected]);
}

/// A TCP packet with an IPv4 header: the sum of the pseudo-header where software puts it.
fn packet(payload: usize) -> Vec<u8> {
    let mut packet = frame(54 + payload);
    packet[12..14].copy_from_slice(&[0x08, 0x00]);
    packet[14..34].copy_from_slice(&[
        0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2,
    ]);
    packet[34..54].copy_from_slice(&[
        0x04, 0xd2, 0x00, 0x50, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 1, 0x50, 0x19, 0xff, 0xff, 0, 0,
        0, 0,
    ]);
    let pseudo = ones(&[10, 0, 2, 15, 10, 0, 2, 2, 0, 6]);
    packet[50..52].copy_from_slice(&pseudo.to_be_bytes());
    packet
}

/// The ones' complement sum, two bytes at a time, as slow as it is plain.
fn ones(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// What a receiver checks of a segment.
fn assert_checksums(segment: &[u8]) {
    assert_eq!(ones(&segment[14..34]), 0xffff, "IP header");
    let length = u16::try_from(segment.len() - 34).unwrap().to_be_bytes();
    let mut covered = segment[26..34].to_vec();
    covered.extend([0, 6]);
    covered.extend(length);
    covered.extend(&segment[34..]);
    assert_eq!(ones(&covered), 0xffff, "TCP");
}

#[test]
fn checksums_are_inserted_where_the_context_says() {
    let mut machine = Machine::new(Compat::Datasheet);
    let mut bytes = packet(101);
    let length = u16::try_from(bytes.len() - 14).unwrap();
    bytes[16..18].copy_from_slice(&length.to_be_bytes());
    // Without segmentation the pseudo-header's sum has its length.
    let mut pseudo = vec![10, 0, 2, 15, 10, 0, 2, 2, 0, 6];
    pseudo.extend((length - 20).to_be_bytes());
    bytes[50..52].copy_from_slice(&ones(&pseudo).to_be_bytes());
    let buffer = machine.place(&bytes);
    let mut fields = tcp(0, 0);
    fields.command &= !TSE;
    let length = u32::try_from(bytes.len()).unwrap();
    let sent = machine.send(&[context(fields), data(buffer, length, EOP, 3)]);
    assert_checksums(&sent[0]);
    assert_eq!(sent[0].len(), bytes.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Segments carry the payload in order, with headers that a receiver takes.
    #[test]
    fn segments_are_whole_packets(payload in 1..20_000_usize, segment in 88..9_000_u16) {
        let mut machine = Machine::new(Compat::Datasheet);
        let bytes = packet(payload);
        let buffer = machine.place(&bytes);
        let sent = machine.send(&[
            context(tcp(u32::try_from(payload).unwrap(), segment)),
            data(buffer, 54, TSE, 3),
            data(buffer + 54, u32::try_from(payload).unwrap(), TSE | EOP | RS, 3),
        ]);
        prop_assert_eq!(sent.len(), payload.div_ceil(segment.into()));
        let mut carried = Vec::new();
        for (index, frame) in (0_u16..).zip(&sent) {
            let u16_at = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            // A segment of less than 6 bytes is padded to the shortest frame.
            let length = 14 + usize::from(u16_at(16));
            prop_assert_eq!(frame.len(), length.max(60));
            let frame = &frame[..length];
            assert_checksums(frame);
            prop_assert_eq!(u16_at(18), 0x1234 + index);
            let sequence = u32::from_be_bytes(frame[38..42].try_into().unwrap());
            prop_assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(u32::try_from(carried.len()).unwrap()));
            let last = usize::from(index) + 1 == sent.len();
            prop_assert_eq!(frame[47], if last { 0x19 } else { 0x10 });
            carried.extend_from_slice(&frame[54..]);
        }
        prop_assert_eq!(&carried, &bytes[54..]);
        prop_assert_eq!(machine.get(TSCTC), 1);
    }
}

/// A tail of 5 bytes makes a frame of 59, which is padded behind what its headers count.
#[test]
fn a_short_last_segment_is_padded() {
    let mut machine = Machine::new(Compat::Datasheet);
    let buffer = machine.place(&packet(2238));
    let sent = machine.send(&[context(tcp(2238, 2233)), data(buffer, 2292, TSE | EOP, 3)]);
    let [_, last] = &sent[..] else {
        panic!("{} segments", sent.len())
    };
    assert_eq!((last.len(), last[59]), (60, 0));
    assert_checksums(&last[..59]);
}

/// Measured with QEMU 7.2: 3000 bytes in segments of 1000 make 1054, 1054, 1054 and 54.
#[test]
fn qemu_sends_headers_alone_after_an_even_division() {
    for (compat, lengths) in [
        (Compat::Qemu, &[1054, 1054, 1054, 54][..]),
        (Compat::Datasheet, &[1054, 1054, 1054][..]),
    ] {
        let mut machine = Machine::new(compat);
        let buffer = machine.place(&packet(3000));
        let sent = machine.send(&[context(tcp(3000, 1000)), data(buffer, 3054, TSE | EOP, 3)]);
        assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), lengths);
    }
}

#[test]
fn udp_segments_get_their_length() {
    let mut machine = Machine::new(Compat::Datasheet);
    let mut bytes = packet(0);
    bytes.truncate(42);
    bytes[23] = 17;
    bytes.extend(frame(250));
    let buffer = machine.place(&bytes);
    let mut fields = tcp(250, 100);
    fields.command &= !1;
    fields.header = 42;
    fields.transport = [34, 40];
    let sent = machine.send(&[context(fields), data(buffer, 292, TSE | EOP, 3)]);
    let lengths: Vec<_> = sent.iter().map(|f| (f.len(), f[38], f[39])).collect();
    assert_eq!(lengths, [(142, 0, 108), (142, 0, 108), (92, 0, 58)]);
}

#[test]
fn a_broadcast_arrives_in_memory() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(IMS, ICR_RXT0);
    assert_eq!(machine.receive(&frame(100)), RxOutcome::Delivered);
    let (length, status, _, bytes) = machine.received(0);
    assert_eq!((length, status), (100, 0b111));
    assert_eq!(bytes, frame(100));
    assert_eq!(machine.get(RDH), 1);
    assert!(machine.nic.interrupt());
}

#[test]
fn with_secrc_off_the_check_sequence_is_in_the_length() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(RCTL, RCTL_EN | RCTL_BAM);
    machine.receive(&frame(100));
    assert_eq!(machine.received(0).0, 104);
}

#[test]
fn short_frames_are_padded() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.receive(&frame(42));
    let (length, _, _, bytes) = machine.received(0);
    assert_eq!((length, &bytes[42..]), (60, &[0; 18][..]));
}

/// On the wire it was 60 bytes with its tag.
#[test]
fn a_short_tagged_frame_is_padded_before_its_tag_goes() {
    let mut machine = Machine::new(Compat::Datasheet);
    let control = machine.get(CTRL);
    machine.set(CTRL, control | CTRL_VME);
    let mut tagged = frame(42);
    tagged.splice(12..12, [0x81, 0x00, 0x20, 100]);
    machine.receive(&tagged);
    assert_eq!(machine.received(0).0, 56);
}

#[test]
fn a_frame_may_fill_several_buffers() {
    let mut machine = Machine::new(Compat::Datasheet);
    // 256-byte buffers.
    machine.set(
        RCTL,
        RCTL_EN | RCTL_BAM | RCTL_SECRC | 3 << RCTL_BSIZE_SHIFT,
    );
    machine.receive(&frame(600));
    let lengths = [0, 1, 2].map(|slot| (machine.received(slot).0, machine.received(slot).1 & 2));
    assert_eq!(lengths, [(256, 0), (256, 0), (88, 2)]);
}

#[test]
fn few_descriptors_are_told_of() {
    let mut machine = Machine::new(Compat::Datasheet);
    for round in 0..7 {
        machine.receive(&frame(60));
        let told = machine.get(ICR) & ICR_RXDMT0 != 0;
        // Half of eight, by RDMTS 0; seven were given.
        assert_eq!(told, round >= 2, "{round}");
    }
    assert_eq!(machine.receive(&frame(60)), RxOutcome::NoBuffers);
    assert_eq!(machine.get(ICR), ICR_RXO);
    assert_eq!((machine.get(MPC), machine.get(RNBC)), (1, 1));
}

/// Who gets through, by destination and by the bits of RCTL.
#[test]
fn the_address_filters_let_through_what_they_should() {
    let multicast = [0x01, 0x00, 0x5e, 0x00, 0x00, 0xfb];
    let other = [0x52, 0x54, 0x00, 0x99, 0x99, 0x99];
    let cases = [
        (MAC, 0, true),
        (other, 0, false),
        (other, RCTL_UPE, true),
        ([0xff; 6], 0, false),
        ([0xff; 6], RCTL_BAM, true),
        ([0xff; 6], RCTL_UPE, false),
        ([0xff; 6], RCTL_MPE, true),
        (multicast, 0, false),
        (multicast, RCTL_MPE, true),
        (multicast, RCTL_UPE | RCTL_BAM, false),
    ];
    for (destination, bits, passes) in cases {
        let mut machine = Machine::new(Compat::Datasheet);
        machine.set(RCTL, RCTL_EN | RCTL_SECRC | bits);
        let mut bytes = frame(60);
        bytes[..6].copy_from_slice(&destination);
        let delivered = machine.receive(&bytes) == RxOutcome::Delivered;
        assert_eq!(delivered, passes, "{destination:x?} {bits:#x}");
    }
}

/// 13.5.1: bits 47:36, 46:35, 45:34 or 43:32 of the address, whose last bytes are 9A-BC here.
#[test]
fn the_multicast_hash_takes_the_bits_that_mo_says() {
    for (offset, bit) in [(0, 0xbc9_u32), (1, 0x793), (2, 0xf26), (3, 0xc9a)] {
        let mut bytes = frame(60);
        bytes[..6].copy_from_slice(&[0x13, 0x34, 0x56, 0x78, 0x9a, 0xbc]);
        for set in [true, false] {
            let mut machine = Machine::new(Compat::Datasheet);
            machine.set(RCTL, RCTL_EN | offset << RCTL_MO_SHIFT);
            let word = if set {
                1 << (bit & 31)
            } else {
                !(1 << (bit & 31))
            };
            machine.set(MTA + 4 * (bit >> 5), word);
            let delivered = machine.receive(&bytes) == RxOutcome::Delivered;
            assert_eq!(delivered, set, "MO {offset}");
        }
    }
}

#[test]
fn vlans_are_filtered_and_stripped() {
    let mut machine = Machine::new(Compat::Datasheet);
    let control = machine.get(CTRL);
    machine.set(CTRL, control | CTRL_VME);
    machine.set(RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC | RCTL_VFE);
    machine.set(VFTA + 4 * 3, 1 << 4);
    let mut tagged = frame(100);
    tagged.splice(12..12, [0x81, 0x00, 0x20, 100]);
    assert_eq!(machine.receive(&tagged), RxOutcome::Delivered);
    let (length, status, special, bytes) = machine.received(0);
    assert_eq!((length, status & 8, special), (100, 8, 0x2064));
    assert_eq!(bytes, frame(100));
    tagged[15] = 101;
    assert_eq!(machine.receive(&tagged), RxOutcome::Filtered);
    assert_eq!(machine.receive(&frame(100)), RxOutcome::Delivered);
}

#[test]
fn frames_loop_back_through_mac_and_phy() {
    for phy in [false, true] {
        let mut machine = Machine::new(Compat::Datasheet);
        if phy {
            machine.set(MDIC, 0b01 << 26 | 1 << 21 | 0x4140);
        } else {
            machine.set(RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC | 1 << RCTL_LBM_SHIFT);
        }
        let buffer = machine.place(&frame(80));
        let sent = machine.send(&[legacy(buffer, 80, EOP | RS)]);
        assert!(sent.is_empty(), "nothing on the wire");
        assert_eq!(machine.received(0).3, frame(80), "phy {phy}");
    }
}

#[test]
fn a_ring_goes_around() {
    let mut machine = Machine::new(Compat::Datasheet);
    for round in 0..100_u64 {
        let mut bytes = frame(64);
        bytes[20..28].copy_from_slice(&round.to_le_bytes());
        let buffer = machine.place(&bytes);
        assert_eq!(
            machine.send(&[legacy(buffer, 64, EOP | RS)]),
            [bytes.clone()]
        );
        assert_eq!(machine.receive(&bytes), RxOutcome::Delivered);
        let slot = round % u64::from(RING);
        assert_eq!(machine.received(slot).3, bytes);
        machine.set(RDT, u32::try_from(slot).unwrap());
    }
    assert_eq!(machine.nic.counts().tx_frames, 100);
}

/// A TCP segment with all its checksums.
fn sound(payload: usize) -> Vec<u8> {
    let mut machine = Machine::new(Compat::Datasheet);
    let mut segment = packet(payload);
    let total = u16::try_from(segment.len() - 14).unwrap();
    segment[16..18].copy_from_slice(&total.to_be_bytes());
    let length = u32::try_from(segment.len()).unwrap();
    let sum = u32::from(u16::from_be_bytes([segment[50], segment[51]])) + length - 34;
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    segment[50..52].copy_from_slice(&sum.to_be_bytes());
    let buffer = machine.place(&segment);
    let fields = common::ContextFields {
        command: 0,
        ..tcp(0, 0)
    };
    let sent = machine.send(&[context(fields), data(buffer, length, EOP | IFCS, 0b11)]);
    // What pads it is none of the packet's.
    assert_checksums(&sent[0][..segment.len()]);
    sent[0].clone()
}

/// Status and error bits, but for "done" and "end of packet".
fn checks_of(frame: &[u8], compat: Compat, control: u32) -> (u8, u8) {
    let mut machine = Machine::new(compat);
    machine.set(RXCSUM, control);
    let control = machine.get(RCTL);
    machine.set(RCTL, control | RCTL_UPE);
    assert_eq!(machine.receive(frame), RxOutcome::Delivered);
    let (_, status, _, _) = machine.received(0);
    (status & !0b11, machine.rx_errors(0))
}

#[test]
fn checksums_of_received_frames_are_told_as_rxcsum_asks() {
    const IXSM: u8 = 1 << 2;
    const TCPCS: u8 = 1 << 5;
    const IPCS: u8 = 1 << 6;
    let both = RXCSUM_IPOFL | RXCSUM_TUOFL;
    for payload in [0, 1, 100, 1460] {
        let frame = sound(payload);
        let checks = |control| checks_of(&frame, Compat::Datasheet, control);
        assert_eq!(checks(0), (IXSM, 0));
        assert_eq!(checks(RXCSUM_IPOFL), (IPCS, 0));
        assert_eq!(checks(RXCSUM_TUOFL), (TCPCS, 0));
        assert_eq!(checks(both), (IPCS | TCPCS, 0));
        assert_eq!(checks_of(&frame, Compat::Qemu, both), (IXSM, 0));
        for (at, errors) in [(22, IPCS), (26, IPCS | TCPCS), (53, TCPCS)] {
            let mut spoilt = frame.clone();
            spoilt[at] ^= 0x10;
            let found = checks_of(&spoilt, Compat::Datasheet, both);
            assert_eq!(found, (IPCS | TCPCS, errors), "byte {at}");
        }
    }
    let mut fragment = sound(100);
    fragment[20] |= 0x20;
    let (status, _) = checks_of(&fragment, Compat::Datasheet, both);
    assert_eq!(status, IPCS, "fragments are not summed");
    let other = checks_of(&frame(100), Compat::Datasheet, both);
    assert_eq!(other, (0, 0));
}
