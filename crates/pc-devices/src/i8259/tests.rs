use super::*;

/// Both chips initialized as Linux does: vectors 0x30 and 0x38, all lines unmasked.
fn linux_pair() -> I8259Pair {
    let mut pic = I8259Pair::new();
    init(&mut pic, 0x01, 0x01);
    pic
}

fn init(pic: &mut I8259Pair, icw4_master: u8, icw4_slave: u8) {
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x30),
        (0x21, 0x04),
        (0x21, icw4_master),
        (0xa0, 0x11),
        (0xa1, 0x38),
        (0xa1, 0x02),
        (0xa1, icw4_slave),
    ] {
        out(pic, port, value);
    }
}

fn out(pic: &mut I8259Pair, port: u16, value: u8) {
    pic.write(port, &[value]);
}

fn inb(pic: &mut I8259Pair, port: u16) -> u8 {
    let mut data = [0];
    pic.read(port, &mut data);
    data[0]
}

fn pulse(pic: &mut I8259Pair, irq: u8) {
    pic.set_line(irq, false);
    pic.set_line(irq, true);
}

#[test]
fn an_uninitialized_pair_delivers_nothing() {
    let mut pic = I8259Pair::new();
    pic.set_line(0, true);
    assert!(!pic.intr());
}

#[test]
fn an_edge_is_delivered_once() {
    let mut pic = linux_pair();
    pic.set_line(0, true);
    assert!(pic.intr());
    assert_eq!(pic.acknowledge(), 0x30);
    out(&mut pic, 0x20, 0x20);
    assert!(!pic.intr(), "the line is still high but made no new edge");
    pulse(&mut pic, 0);
    assert!(pic.intr());
}

#[test]
fn a_level_is_delivered_again_after_eoi() {
    let mut pic = linux_pair();
    out(&mut pic, 0x4d0, 1 << 5);
    pic.set_line(5, true);
    assert_eq!(pic.acknowledge(), 0x35);
    assert!(!pic.intr(), "in service");
    out(&mut pic, 0x20, 0x65);
    assert!(pic.intr());
    pic.set_line(5, false);
    assert!(!pic.intr());
}

#[test]
fn elcr_keeps_the_edge_only_lines_edge() {
    let mut pic = linux_pair();
    pic.write(0x4d0, &[0xff, 0xff]);
    let mut data = [0; 2];
    pic.read(0x4d0, &mut data);
    assert_eq!(data, [0xf8, 0xde]);
}

#[test]
fn a_more_urgent_line_nests_and_a_less_urgent_one_waits() {
    let mut pic = linux_pair();
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), 0x34);
    pic.set_line(6, true);
    assert!(!pic.intr());
    pic.set_line(1, true);
    assert_eq!(pic.acknowledge(), 0x31);
    out(&mut pic, 0x20, 0x0b);
    assert_eq!(inb(&mut pic, 0x20), 0b1_0010, "ISR");
    out(&mut pic, 0x20, 0x20);
    assert_eq!(
        inb(&mut pic, 0x20),
        0b1_0000,
        "the non-specific EOI ended line 1"
    );
    out(&mut pic, 0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x36);
}

#[test]
fn the_slave_comes_through_line_2() {
    let mut pic = linux_pair();
    pic.set_line(8, true);
    assert_eq!(pic.acknowledge(), 0x38);
    out(&mut pic, 0x20, 0x0b);
    out(&mut pic, 0xa0, 0x0b);
    assert_eq!((inb(&mut pic, 0x20), inb(&mut pic, 0xa0)), (1 << 2, 1 << 0));
    // A less urgent slave line waits for both EOIs.
    pic.set_line(12, true);
    assert!(!pic.intr());
    out(&mut pic, 0xa0, 0x20);
    assert!(!pic.intr());
    out(&mut pic, 0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x3c);
}

#[test]
fn special_fully_nested_mode_lets_the_slave_nest() {
    let mut pic = I8259Pair::new();
    init(&mut pic, 0x11, 0x01);
    pic.set_line(12, true);
    assert_eq!(pic.acknowledge(), 0x3c);
    pic.set_line(8, true);
    assert!(pic.intr());
    assert_eq!(pic.acknowledge(), 0x38);
    let mut plain = linux_pair();
    plain.set_line(12, true);
    plain.acknowledge();
    plain.set_line(8, true);
    assert!(!plain.intr(), "fully nested mode holds line 2 back");
}

#[test]
fn an_edge_outlives_its_line() {
    let mut pic = linux_pair();
    pic.set_line(11, true);
    pic.set_line(11, false);
    assert!(pic.intr());
    assert_eq!(pic.acknowledge(), 0x3b);
    assert!(!pic.intr());
}

#[test]
fn a_level_that_drops_before_acknowledge_is_spurious() {
    let mut pic = linux_pair();
    pic.write(0x4d0, &[1 << 3]);
    pic.set_line(3, true);
    pic.set_line(3, false);
    assert!(!pic.intr());
    assert_eq!(pic.acknowledge(), 0x37);
    out(&mut pic, 0x20, 0x0b);
    assert_eq!(
        inb(&mut pic, 0x20),
        0,
        "no in-service bit for a spurious interrupt"
    );
    assert_eq!(pic.spurious(), 1);
}

#[test]
fn a_spurious_slave_request_sets_only_the_masters_bit() {
    let mut pic = linux_pair();
    pic.set_line(9, true);
    // The slave's request goes between the master's INTR and the acknowledge.
    pic.slave = Chip::new(ELCR_MASK_SLAVE);
    pic.slave.write(false, 0x11);
    pic.slave.write(true, 0x38);
    pic.slave.write(true, 2);
    pic.slave.write(true, 1);
    assert_eq!(pic.acknowledge(), 0x3f);
    out(&mut pic, 0x20, 0x0b);
    assert_eq!(inb(&mut pic, 0x20), 1 << 2);
}

#[test]
fn masked_lines_wait() {
    let mut pic = linux_pair();
    out(&mut pic, 0x21, 0xff);
    pic.set_line(4, true);
    assert!(!pic.intr());
    assert_eq!(inb(&mut pic, 0x20), 1 << 4, "IRR shows it");
    out(&mut pic, 0x21, 0xef);
    assert!(pic.intr());
    assert_eq!(inb(&mut pic, 0x21), 0xef);
}

#[test]
fn automatic_eoi_keeps_nothing_in_service() {
    let mut pic = I8259Pair::new();
    init(&mut pic, 0x03, 0x03);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x30);
    pulse(&mut pic, 0);
    assert!(pic.intr());
}

#[test]
fn two_slave_lines_in_automatic_eoi_are_both_delivered() {
    let mut pic = I8259Pair::new();
    init(&mut pic, 0x03, 0x03);
    pic.set_line(8, true);
    pic.set_line(12, true);
    assert_eq!((pic.acknowledge(), pic.acknowledge()), (0x38, 0x3c));
    assert!(!pic.intr());
}

#[test]
fn automatic_eoi_rotates_when_told() {
    let mut pic = I8259Pair::new();
    init(&mut pic, 0x03, 0x01);
    out(&mut pic, 0x20, 0x80);
    pulse(&mut pic, 0);
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x30);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x31, "line 0 is the least urgent now");
}

#[test]
fn rotate_on_eoi_makes_the_ended_line_the_least_urgent() {
    let mut pic = linux_pair();
    for irq in [3, 4] {
        pulse(&mut pic, irq);
    }
    assert_eq!(pic.acknowledge(), 0x33);
    out(&mut pic, 0x20, 0xa0);
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x34);
}

#[test]
fn set_priority_and_rotate_on_specific_eoi_move_the_bottom() {
    let mut pic = linux_pair();
    out(&mut pic, 0x20, 0xc5);
    pulse(&mut pic, 0);
    pulse(&mut pic, 6);
    assert_eq!(pic.acknowledge(), 0x36, "6 follows the bottom 5");
    out(&mut pic, 0x20, 0xe6);
    pulse(&mut pic, 7);
    assert_eq!(pic.acknowledge(), 0x37);
}

#[test]
fn special_mask_mode_lets_lower_levels_through() {
    let mut pic = linux_pair();
    pulse(&mut pic, 1);
    pic.acknowledge();
    pulse(&mut pic, 5);
    assert!(!pic.intr());
    out(&mut pic, 0x21, 1 << 1);
    out(&mut pic, 0x20, 0x68);
    assert_eq!(pic.acknowledge(), 0x35);
    // A non-specific EOI does not touch the masked level.
    out(&mut pic, 0x20, 0x20);
    out(&mut pic, 0x20, 0x0b);
    assert_eq!(inb(&mut pic, 0x20), 1 << 1);
    out(&mut pic, 0x20, 0x48);
    pulse(&mut pic, 5);
    assert!(!pic.intr());
}

#[test]
fn poll_acknowledges_without_a_vector() {
    let mut pic = linux_pair();
    pulse(&mut pic, 6);
    out(&mut pic, 0x20, 0x0c);
    assert_eq!(inb(&mut pic, 0x20), 0x86);
    out(&mut pic, 0x20, 0x0b);
    assert_eq!(inb(&mut pic, 0x20), 1 << 6);
    out(&mut pic, 0x20, 0x0c);
    assert_eq!(inb(&mut pic, 0x20), 0);
}

#[test]
fn icw1_needs_a_new_edge() {
    let mut pic = linux_pair();
    pic.set_line(1, true);
    init(&mut pic, 0x01, 0x01);
    assert!(!pic.intr());
    pulse(&mut pic, 1);
    assert!(pic.intr());
}

#[test]
fn single_mode_without_icw4_takes_one_word() {
    let mut pic = I8259Pair::new();
    out(&mut pic, 0x20, 0x12);
    out(&mut pic, 0x21, 0x48);
    out(&mut pic, 0x21, 0xfe);
    assert_eq!(inb(&mut pic, 0x21), 0xfe, "the second write is the mask");
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x48);
}

#[test]
fn hostile_state_is_turned_down() {
    let mut state = linux_pair().state();
    state.slave.lowest_priority = 8;
    let error = I8259Pair::try_from(state).unwrap_err();
    assert_eq!(
        error.to_string(),
        "8259A state: field lowest_priority is out of range"
    );
}

#[test]
fn state_survives_a_round_trip() {
    let mut pic = linux_pair();
    pic.set_line(12, true);
    pic.acknowledge();
    pic.set_line(1, true);
    let restored = I8259Pair::try_from(pic.state()).unwrap();
    assert_eq!(restored.state(), pic.state());
    assert!(restored.intr());
}
