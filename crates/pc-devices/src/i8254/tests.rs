use super::*;
use proptest::prelude::*;

fn out(pit: &mut I8254, port: u16, value: u8) {
    pit.write(port, &[value]);
}

fn inb(pit: &mut I8254, port: u16) -> u8 {
    let mut data = [0];
    pit.read(port, &mut data);
    data[0]
}

/// A channel in `mode` with `count` written low byte first.
fn channel(mode: u8, count: u16) -> Channel {
    let mut channel = Channel::new();
    channel.set_control(0x30 | mode << 1);
    for byte in count.to_le_bytes() {
        channel.write(byte);
    }
    channel
}

/// OUT after each of `pulses` pulses, as the data sheet's figures draw it.
fn waveform(channel: &mut Channel, pulses: usize) -> String {
    (0..pulses)
        .map(|_| {
            channel.pulse();
            if channel.output() { '-' } else { '_' }
        })
        .collect()
}

// The figures of the 82C54 data sheet use counts of 3, 4 and 5.
#[test]
fn mode_0_goes_high_n_plus_1_pulses_after_the_count() {
    assert_eq!(waveform(&mut channel(0, 4), 7), "____---");
}

#[test]
fn mode_0_counts_only_while_gate_is_high() {
    let mut channel = channel(0, 3);
    assert_eq!(waveform(&mut channel, 2), "__");
    channel.set_gate(false);
    assert_eq!(waveform(&mut channel, 3), "___");
    channel.set_gate(true);
    assert_eq!(waveform(&mut channel, 3), "_--");
}

#[test]
fn mode_0_first_byte_of_a_new_count_stops_counting() {
    let mut channel = channel(0, 2);
    assert_eq!(waveform(&mut channel, 3), "__-");
    channel.write(2);
    assert!(!channel.output());
    assert_eq!(waveform(&mut channel, 3), "___");
    channel.write(0);
    assert_eq!(waveform(&mut channel, 4), "__--");
}

#[test]
fn mode_1_is_low_for_n_pulses_after_each_trigger() {
    let mut channel = channel(1, 3);
    channel.set_gate(false);
    assert_eq!(waveform(&mut channel, 2), "--");
    channel.set_gate(true);
    assert_eq!(waveform(&mut channel, 2), "__");
    channel.set_gate(false);
    channel.set_gate(true);
    assert_eq!(waveform(&mut channel, 5), "___--", "retriggered");
}

#[test]
fn mode_2_is_low_for_the_last_pulse_of_each_period() {
    assert_eq!(waveform(&mut channel(2, 3), 9), "--_--_--_");
}

#[test]
fn mode_2_takes_a_new_count_at_the_end_of_the_period() {
    let mut channel = channel(2, 4);
    assert_eq!(waveform(&mut channel, 2), "--");
    channel.write(5);
    channel.write(0);
    assert_eq!(waveform(&mut channel, 8), "-_----_-");
}

#[test]
fn half_a_new_count_is_not_taken() {
    let mut channel = channel(2, 3);
    assert_eq!(waveform(&mut channel, 2), "--");
    channel.write(5);
    assert_eq!(waveform(&mut channel, 5), "_--_-");
    channel.write(0);
    assert_eq!(waveform(&mut channel, 7), "-_----_");
}

#[test]
fn mode_2_gate_forces_high_and_reloads() {
    let mut channel = channel(2, 3);
    assert_eq!(waveform(&mut channel, 3), "--_");
    channel.set_gate(false);
    assert!(channel.output());
    assert_eq!(waveform(&mut channel, 3), "---");
    channel.set_gate(true);
    assert_eq!(waveform(&mut channel, 4), "--_-");
}

#[test]
fn mode_3_halves_even_counts_and_gives_odd_ones_to_the_high_half() {
    assert_eq!(waveform(&mut channel(3, 4), 9), "--__--__-");
    assert_eq!(waveform(&mut channel(3, 5), 11), "---__---__-");
}

#[test]
fn mode_4_strobes_once_n_plus_1_pulses_after_the_count() {
    assert_eq!(waveform(&mut channel(4, 3), 8), "---_----");
}

#[test]
fn mode_5_strobes_after_a_trigger() {
    let mut channel = channel(5, 3);
    assert_eq!(waveform(&mut channel, 5), "-----");
    channel.set_gate(false);
    channel.set_gate(true);
    assert_eq!(waveform(&mut channel, 6), "---_--");
}

#[test]
fn zero_is_the_largest_count() {
    let mut binary = channel(0, 0);
    binary.advance(65_536);
    assert!(!binary.output());
    binary.advance(1);
    assert!(binary.output());
    let mut bcd = Channel::new();
    bcd.set_control(0x31);
    bcd.write(0);
    bcd.write(0);
    bcd.advance(10_000);
    assert!(!bcd.output());
    bcd.advance(1);
    assert!(bcd.output());
}

#[test]
fn stopping_where_the_largest_count_is_loaded_keeps_the_period() {
    for (mode, changes) in [(2, [1, 65_536, 65_537]), (3, [1, 32_769, 65_537])] {
        let mut channel = channel(mode, 0);
        let mut pulses = 0;
        for change in changes {
            channel.advance(change - pulses);
            pulses = change;
            assert_eq!(channel.output(), change != changes[1], "{pulses}");
        }
    }
}

#[test]
fn bcd_counts_in_decimal() {
    let mut pit = I8254::new();
    for (port, value) in [(0x43, 0x31), (0x40, 0x00), (0x40, 0x10)] {
        out(&mut pit, port, value);
    }
    pit.advance(ns_of(2));
    out(&mut pit, 0x43, 0x00);
    assert_eq!((inb(&mut pit, 0x40), inb(&mut pit, 0x40)), (0x99, 0x09));
}

#[test]
fn a_latched_count_holds_still_until_read() {
    let mut pit = I8254::new();
    for (port, value) in [(0x43, 0x34), (0x40, 0x00), (0x40, 0x80)] {
        out(&mut pit, port, value);
    }
    pit.advance(ns_of(1 + 0x10));
    out(&mut pit, 0x43, 0x00);
    pit.advance(ns_of(0x200));
    out(&mut pit, 0x43, 0x00);
    assert_eq!(inb(&mut pit, 0x40), 0xf0);
    assert_eq!(inb(&mut pit, 0x40), 0x7f);
    assert_eq!(
        (inb(&mut pit, 0x40), inb(&mut pit, 0x40)),
        (0x01, 0x7e),
        "live again"
    );
}

#[test]
fn read_back_latches_status_before_count() {
    let mut pit = I8254::new();
    out(&mut pit, 0x43, 0x34);
    out(&mut pit, 0x43, 0xe2);
    assert_eq!(
        inb(&mut pit, 0x40),
        0x80 | 0x40 | 0x34,
        "OUT high, null count"
    );
    out(&mut pit, 0x40, 0x00);
    out(&mut pit, 0x40, 0x10);
    pit.advance(ns_of(1));
    out(&mut pit, 0x43, 0xc2);
    assert_eq!(inb(&mut pit, 0x40), 0xb4);
    assert_eq!((inb(&mut pit, 0x40), inb(&mut pit, 0x40)), (0x00, 0x10));
}

#[test]
fn single_byte_modes_read_and_write_one_byte() {
    let mut pit = I8254::new();
    out(&mut pit, 0x43, 0x64);
    out(&mut pit, 0x41, 0x12);
    pit.advance(ns_of(1));
    assert_eq!(inb(&mut pit, 0x41), 0x12, "the high byte alone");
    pit.advance(ns_of(2));
    assert_eq!(inb(&mut pit, 0x41), 0x11);
    out(&mut pit, 0x43, 0x54);
    out(&mut pit, 0x41, 0x12);
    pit.advance(ns_of(3));
    assert_eq!((inb(&mut pit, 0x41), inb(&mut pit, 0x41)), (0x12, 0x12));
}

#[test]
fn port_61_gates_channel_2_and_shows_its_output() {
    let mut pit = I8254::new();
    // The calibration that Linux does: gate on, speaker off, mode 0, wait for OUT2.
    out(&mut pit, 0x61, 0x01);
    for (port, value) in [(0x43, 0xb0), (0x42, 0xff), (0x42, 0xff)] {
        out(&mut pit, port, value);
    }
    assert_eq!(inb(&mut pit, 0x61) & 0x2f, 0x01);
    pit.advance(ns_of(0xffff));
    assert_eq!(inb(&mut pit, 0x61) & 0x20, 0);
    pit.advance(ns_of(0x1_0000));
    assert_eq!(inb(&mut pit, 0x61) & 0x20, 0x20);
    assert!(!pit.speaker());
    out(&mut pit, 0x61, 0x03);
    assert!(pit.speaker());
}

#[test]
fn the_refresh_bit_toggles_every_15_microseconds() {
    let mut pit = I8254::new();
    let mut toggles = 0;
    let mut last = 0;
    for us in 0..1000 {
        pit.advance(us * 1000);
        let bit = inb(&mut pit, 0x61) & 0x10;
        toggles += u32::from(bit != last);
        last = bit;
    }
    assert_eq!(toggles, 66, "1 ms at 15.085 us");
}

#[test]
fn deadlines_meet_every_edge_of_irq_0() {
    let mut pit = I8254::new();
    // 100 Hz, as Linux programs it for HZ=100: 11932.
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        out(&mut pit, port, value);
    }
    let mut edges = 0;
    while let Some(deadline) = pit.next_deadline().filter(|&at| at <= 1_000_000_000) {
        let before = pit.irq();
        pit.advance(deadline);
        assert_ne!(before, pit.irq(), "a deadline is a change of level");
        edges += u32::from(pit.irq());
    }
    assert_eq!(edges, 99);
    assert_eq!(pit.interrupts(), 99);
}

#[test]
fn time_never_goes_back_and_never_overflows() {
    let mut pit = I8254::new();
    for (port, value) in [(0x43, 0x36), (0x40, 0x01), (0x40, 0x00)] {
        out(&mut pit, port, value);
    }
    pit.advance(u64::MAX);
    pit.advance(5);
    assert!(pit.next_deadline().is_some());
}

#[derive(Clone, Debug)]
enum Step {
    Control(u8),
    Write(u8),
    Gate(bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0x10u8..0x40).prop_map(Step::Control),
        3 => any::<u8>().prop_map(Step::Write),
        2 => (0u8..12).prop_map(Step::Write),
        2 => any::<bool>().prop_map(Step::Gate),
        3 => (0u64..40).prop_map(Step::Pass),
        2 => (0u64..200_000).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Jumping over many pulses is the same as living through each.
    #[test]
    fn jumping_equals_pulsing(steps in prop::collection::vec(step(), 1..40)) {
        let mut fast = Channel::new();
        let mut slow = Channel::new();
        for step in steps {
            match step {
                Step::Control(value) => { fast.set_control(value); slow.set_control(value); }
                Step::Write(value) => { fast.write(value); slow.write(value); }
                Step::Gate(level) => { fast.set_gate(level); slow.set_gate(level); }
                Step::Pass(pulses) => {
                    fast.advance(pulses);
                    (0..pulses).for_each(|_| slow.pulse());
                }
            }
            prop_assert_eq!(fast.state(), slow.state());
        }
    }

    /// The announced change of OUT is the first one.
    #[test]
    fn output_changes_when_announced(steps in prop::collection::vec(step(), 1..20)) {
        let mut channel = Channel::new();
        for step in steps {
            match step {
                Step::Control(value) => channel.set_control(value),
                Step::Write(value) => channel.write(value),
                Step::Gate(level) => channel.set_gate(level),
                Step::Pass(pulses) => channel.advance(pulses),
            }
            let announced = channel.ticks_to_output_change();
            let mut ahead = channel.clone();
            let found = (1..=140_000).find(|_| { ahead.pulse(); ahead.output() != channel.output() });
            prop_assert_eq!(announced, found);
        }
    }
}

#[test]
fn hostile_state_is_turned_down() {
    let mut state = I8254::new().state();
    state.channels[0].initial = 0;
    assert_eq!(I8254::try_from(state.clone()).unwrap_err().field, "initial");
    state = I8254::new().state();
    state.port_61 = 1;
    assert_eq!(I8254::try_from(state).unwrap_err().field, "port_61");
}
