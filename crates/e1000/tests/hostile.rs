//! What has bitten other models, by number: E1 to E13.

mod common;

use common::{EOP, Machine, RING, RS, RX_RING, TSE, TX_RING, context, data, frame, legacy, tcp};
use e1000::registers::*;
use e1000::vm_memory::{Bytes, GuestAddress};
use e1000::{Compat, E1000, PACKET_MAX, RxOutcome};

#[test]
fn e1_descriptors_of_nonsense_end_after_a_lap() {
    let mut machine = Machine::new(Compat::Datasheet);
    for slot in 0..u64::from(RING) {
        let at = GuestAddress(TX_RING + 16 * slot);
        machine.memory.write_obj([u64::MAX; 2], at).unwrap();
    }
    machine.set(TDT, RING);
    assert_eq!(machine.nic.counts().tx_descriptors, u64::from(RING));
}

#[test]
fn e2_a_tail_outside_the_ring_is_one_lap() {
    let mut machine = Machine::new(Compat::Datasheet);
    let buffer = machine.place(&frame(60));
    for slot in 0..u64::from(RING) {
        let at = GuestAddress(TX_RING + 16 * slot);
        machine
            .memory
            .write_obj(legacy(buffer, 60, EOP | RS), at)
            .unwrap();
    }
    machine.set(TDT, 0xffff);
    assert_eq!(machine.sent.len(), 8);
    assert_eq!(machine.get(TDH), 0);
}

#[test]
fn e2_heads_outside_their_rings_do_nothing() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(TDH, 0x1000);
    machine.set(TDT, 1);
    assert!(machine.sent.is_empty());
    assert_eq!(machine.nic.errors().bad_rings, 1);
    machine.set(RDH, 0xffff);
    assert_eq!(machine.receive(&frame(60)), RxOutcome::NoBuffers);
    machine.set(RDH, 0);
    machine.set(RDT, 0x8000);
    assert_eq!(machine.receive(&frame(60)), RxOutcome::NoBuffers);
}

#[test]
fn e3_a_ring_of_no_length_is_empty() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(TDLEN, 0);
    machine.set(RDLEN, 0);
    machine.set(TDT, 5);
    assert!(machine.sent.is_empty());
    assert_eq!(machine.receive(&frame(60)), RxOutcome::NoBuffers);
    machine.set(TDLEN, 127);
    assert_eq!(machine.get(TDLEN), 0, "lengths are multiples of 128");
    machine.set(TDLEN, u32::MAX);
    assert_eq!(machine.get(TDLEN), 0xf_ff80);
}

/// Segmentation of packets whose fields contradict each other: nothing, or bounded.
#[test]
fn e4_segmentation_that_makes_no_sense_sends_nothing() {
    // Header length, segment size, bytes in the packet.
    for (header, segment, length) in [(54, 0, 1000), (0, 100, 1000), (200, 100, 100), (255, 1, 0)] {
        let mut machine = Machine::new(Compat::Datasheet);
        let buffer = machine.place(&frame(2000));
        let mut fields = tcp(0xf_ffff, segment);
        fields.header = header;
        let sent = machine.send(&[context(fields), data(buffer, length, TSE | EOP | RS, 3)]);
        assert!(sent.is_empty(), "{header} {segment} {length}");
        assert_eq!(machine.nic.errors().bad_segmentation, 1);
        assert_eq!(machine.tx_status(1), 1, "the descriptor is done");
    }
}

/// The arithmetic of a packet begins anew at each end, even that of an empty descriptor.
#[test]
fn e4_an_empty_end_of_packet_resets_the_packet() {
    let mut machine = Machine::new(Compat::Datasheet);
    let buffer = machine.place(&frame(2000));
    let sent = machine.send(&[
        context(tcp(10, 100)),
        data(buffer, 0, TSE | EOP, 3),
        data(buffer, 60, EOP, 0),
    ]);
    assert_eq!(sent, [frame(60)]);
}

#[test]
fn e4_the_output_of_a_packet_is_bounded() {
    let mut machine = Machine::new(Compat::Datasheet);
    let buffer = machine.place(&frame(0x1_0000));
    let mut fields = tcp(0, 1);
    fields.header = 1;
    let sent = machine.send(&[context(fields), data(buffer, 0x1_0000, TSE | EOP, 3)]);
    assert_eq!(sent.len(), 0xffff);
    assert!(sent.iter().all(|frame| frame.len() == 60));
}

#[test]
fn e5_checksums_outside_the_frame_are_left_out() {
    let mut machine = Machine::new(Compat::Datasheet);
    let buffer = machine.place(&frame(60));
    let mut fields = tcp(0, 0);
    fields.command &= !TSE;
    for (ip, transport, end) in [([255, 255], [255, 255], 0), ([59, 59], [60, 60], 1)] {
        fields.ip = ip;
        fields.transport = transport;
        fields.transport_end = end;
        let sent = machine.send(&[context(fields), data(buffer, 60, EOP, 3)]);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0][..59], frame(60)[..59]);
    }
}

#[test]
fn e6_a_packet_without_end_is_dropped() {
    let mut machine = Machine::new(Compat::Datasheet);
    let buffer = machine.place(&frame(0x1_0000));
    let sent = machine.send(&[
        data(buffer, 0xffff, 0, 0),
        data(buffer, 0xffff, 0, 0),
        data(buffer, 60, EOP | RS, 0),
        data(buffer, 61, EOP | RS, 0),
    ]);
    assert_eq!(sent, [frame(61)], "the next packet is whole");
    assert_eq!(machine.nic.errors().long_packets, 1);
    assert!(machine.nic.state().transmitter.packet.len() <= PACKET_MAX);
}

#[test]
fn e7_no_frame_is_empty_or_shorter_than_the_wire_allows() {
    for (control, expected) in [(TCTL_EN | TCTL_PSP, &[60][..]), (TCTL_EN, &[][..])] {
        let mut machine = Machine::new(Compat::Datasheet);
        machine.set(TCTL, control);
        let buffer = machine.place(&frame(60));
        let sent = machine.send(&[legacy(buffer, 0, EOP | RS), legacy(buffer, 1, EOP | RS)]);
        let lengths: Vec<_> = sent.iter().map(Vec::len).collect();
        assert_eq!(lengths, expected);
    }
}

/// DMA reaches memory only, so that no descriptor can write a register; and loopback is a queue.
#[test]
fn e8_loopback_into_its_own_rings_ends() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(
        RCTL,
        RCTL_EN | RCTL_UPE | RCTL_MPE | RCTL_SECRC | 1 << RCTL_LBM_SHIFT,
    );
    // Every receive buffer is the transmit ring, and every frame is a descriptor that sends it.
    for slot in 0..u64::from(RING) {
        let at = GuestAddress(RX_RING + 16 * slot);
        machine.memory.write_obj([TX_RING, 0], at).unwrap();
        let at = GuestAddress(TX_RING + 16 * slot);
        machine
            .memory
            .write_obj(legacy(TX_RING, 128, EOP | RS), at)
            .unwrap();
    }
    machine.set(TDT, 0xffff);
    assert_eq!(machine.nic.counts().tx_frames, 8);
    assert_eq!(
        machine.nic.counts().rx_frames,
        7,
        "as many as there were buffers"
    );
    assert!(!machine.nic.has_work());
}

#[test]
fn e9_frames_that_do_not_fit_write_nothing() {
    let mut machine = Machine::new(Compat::Datasheet);
    assert_eq!(machine.receive(&frame(1519)), RxOutcome::BadLength);
    assert_eq!(machine.get(ROC), 1);
    assert_eq!(machine.receive(&frame(13)), RxOutcome::BadLength);
    assert_eq!(machine.receive(&[]), RxOutcome::BadLength);
    assert_eq!(machine.get(RUC), 2);
    machine.set(RCTL, RCTL_EN | RCTL_BAM | RCTL_LPE | 3 << RCTL_BSIZE_SHIFT);
    assert_eq!(machine.receive(&frame(16_381)), RxOutcome::BadLength);
    // Seven buffers of 256 bytes.
    assert_eq!(machine.receive(&frame(7 * 256 - 3)), RxOutcome::NoBuffers);
    assert_eq!(machine.received(0).0, 0, "nothing was begun");
    assert_eq!(machine.receive(&frame(7 * 256 - 4)), RxOutcome::Delivered);
    assert_eq!(
        machine.receive(&frame(60)),
        RxOutcome::NoBuffers,
        "head met tail"
    );
    assert!(!machine.nic.can_receive(60));
}

#[test]
fn e10_indices_of_eeprom_and_phy_are_masked() {
    let mut machine = Machine::new(Compat::Datasheet);
    for address in [64, 128, 255] {
        machine.set(EERD, address << 8 | 1);
        let word = machine.get(EERD) >> 16;
        machine.set(EERD, (address & 63) << 8 | 1);
        assert_eq!(machine.get(EERD) >> 16, word);
    }
    for phy in [0, 2, 31] {
        machine.set(MDIC, 0b10 << 26 | phy << 21 | 2 << 16);
        assert_eq!(machine.get(MDIC) >> 30, 1, "no PHY answers at {phy}");
    }
    machine.set(MDIC, 0b10 << 26 | 1 << 21 | 31 << 16);
    assert_eq!(machine.get(MDIC) >> 30, 0);
}

#[test]
fn e11_dma_outside_memory_drops_the_frame_and_finishes_the_descriptor() {
    for address in [0x10_0000 - 4, u64::MAX - 3, 0xfebc_0000] {
        let mut machine = Machine::new(Compat::Datasheet);
        let buffer = machine.place(&frame(60));
        let sent = machine.send(&[legacy(address, 60, EOP | RS), legacy(buffer, 60, EOP | RS)]);
        assert_eq!(sent, [frame(60)]);
        assert_eq!(machine.tx_status(0), 1);
        assert_eq!(machine.nic.errors().faults, 1);
        let at = GuestAddress(RX_RING);
        machine.memory.write_obj([address, 0], at).unwrap();
        machine.receive(&frame(60));
        assert_eq!(machine.nic.errors().faults, 2);
    }
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(TDBAH, u32::MAX);
    machine.set(TDT, 4);
    assert_eq!(machine.nic.errors().faults, 4, "rings outside memory");
}

#[test]
fn e12_a_reset_stops_the_timers_that_run() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(RDTR, 100);
    machine.set(IMS, ICR_RXT0);
    machine.receive(&frame(60));
    assert!(machine.nic.next_deadline().is_some());
    machine.set(CTRL, CTRL_RST);
    assert_eq!(machine.nic.next_deadline(), None);
    machine.nic.advance(1_000_000_000);
    assert_eq!((machine.get(ICR), machine.nic.interrupt()), (0, false));
}

#[test]
fn e12_states_that_no_adapter_was_in_are_refused() {
    let state = Machine::new(Compat::Datasheet).nic.state();
    let field = |change: &dyn Fn(&mut e1000::E1000State)| {
        let mut state = state.clone();
        change(&mut state);
        E1000::try_from(state)
            .map(|_| ())
            .map_err(|error| error.field)
    };
    assert_eq!(field(&|_| ()), Ok(()));
    assert_eq!(field(&|s| s.registers.truncate(9)), Err("registers"));
    assert_eq!(
        field(&|s| s.registers[RDLEN as usize / 4] = 1),
        Err("registers")
    );
    assert_eq!(
        field(&|s| s.registers[TDH as usize / 4] = 1 << 20),
        Err("registers")
    );
    assert_eq!(field(&|s| s.interrupts.line = true), Err("interrupts"));
    assert_eq!(field(&|s| s.interrupts.ims = u32::MAX), Err("interrupts"));
    assert_eq!(field(&|s| s.eeprom.words.truncate(63)), Err("eeprom"));
    assert_eq!(field(&|s| s.eeprom.bits_in = 99), Err("eeprom"));
    assert_eq!(field(&|s| s.phy.registers.push(0)), Err("phy"));
    let long = |s: &mut e1000::E1000State| s.transmitter.packet = vec![0; PACKET_MAX + 1];
    assert_eq!(field(&long), Err("transmitter"));
    assert_eq!(field(&|s| s.cable = false), Err("cable"));
}

/// Registers have 32 bits. What other accesses do is written at `E1000::read` and `write`.
#[test]
fn e13_accesses_of_other_sizes_are_total() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(FCAL, 0x1122_3344);
    machine.set(FCAH, 0x5566_7788);
    let mut eight = [0; 8];
    machine.nic.read(FCAL.into(), &mut eight);
    assert_eq!(u64::from_le_bytes(eight), 0x5566_7788_1122_3344);
    let mut byte = [0];
    machine.nic.read(u64::from(FCAL) + 2, &mut byte);
    assert_eq!(byte, [0x22]);
    let mut across = [0; 4];
    machine.nic.read(u64::from(FCAL) + 2, &mut across);
    assert_eq!(u32::from_le_bytes(across), 0x7788_1122);
    let before = machine.nic.errors().bad_accesses;
    for (offset, data) in [
        (0x28, &[1][..]),
        (0x29, &[1; 4]),
        (0x28, &[1; 2]),
        (0x28, &[1; 3]),
    ] {
        machine.nic.write(offset, data);
    }
    assert_eq!(machine.get(FCAL), 0x1122_3344);
    assert_eq!(machine.nic.errors().bad_accesses, before + 4);
    // Past the registers, past the BAR, past everything.
    for offset in [
        0x6000,
        E1000::MEMORY_LENGTH - 2,
        E1000::MEMORY_LENGTH,
        u64::MAX - 1,
    ] {
        let mut data = [0xaa; 8];
        machine.nic.read(offset, &mut data);
        assert!(data.iter().all(|&byte| byte == 0), "{offset:#x}");
        machine.nic.write(offset, &data);
    }
    machine.nic.read(0, &mut []);
    machine.nic.write(0, &[]);
}
