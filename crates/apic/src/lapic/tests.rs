use super::*;
use proptest::prelude::*;

const CONFIG: LocalApicConfig = LocalApicConfig {
    id: 0,
    bootstrap: true,
    x2apic: true,
    virtual_wire: false,
    timer_hz: 100_000_000,
    tsc_hz: 1_000_000_000,
    physical_address_bits: 40,
};

fn enabled() -> LocalApic {
    let mut lapic = LocalApic::new(CONFIG);
    out(&mut lapic, 0xf0, 0x1ff);
    lapic
}

fn x2apic() -> LocalApic {
    let mut lapic = enabled();
    lapic.write_msr(0x1b, 0xfee0_0d00).unwrap();
    lapic
}

fn out(lapic: &mut LocalApic, offset: u64, value: u32) -> Option<Output> {
    lapic.write(offset, &value.to_le_bytes())
}

fn get(lapic: &mut LocalApic, offset: u64) -> u32 {
    let mut data = [0; 4];
    lapic.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn fixed(vector: u8, trigger: Trigger) -> Message {
    Message {
        vector,
        delivery: DeliveryMode::Fixed,
        destination: Destination::Physical(0),
        shorthand: crate::Shorthand::None,
        trigger,
    }
}

#[test]
fn reset_values_are_the_manuals() {
    // SDM 11.4.7.1.
    let mut lapic = LocalApic::new(CONFIG);
    for (offset, value) in [
        (0x20, 0),
        (0x80, 0),
        (0xd0, 0),
        (0xe0, 0xffff_ffff),
        (0xf0, 0xff),
        (0x100, 0),
        (0x270, 0),
        (0x300, 0),
        (0x320, 0x1_0000),
        (0x350, 0x1_0000),
        (0x370, 0x1_0000),
        (0x380, 0),
        (0x390, 0),
        (0x3e0, 0),
    ] {
        assert_eq!(get(&mut lapic, offset), value, "{offset:#x}");
    }
    assert_eq!(lapic.read_msr(0x1b), Ok(0xfee0_0900));
}

#[test]
fn virtual_wire_lets_the_8259_through() {
    let mut lapic = LocalApic::new(LocalApicConfig {
        virtual_wire: true,
        ..CONFIG
    });
    assert_eq!(get(&mut lapic, 0x350), 0x700);
    lapic.set_lint(0, true);
    assert_eq!(lapic.acknowledge(), Some(Pending::External));
    lapic.set_lint(0, false);
    assert_eq!(lapic.pending(), None);
    lapic.set_lint(0, true);
    out(&mut lapic, 0x350, 0x1_0700);
    assert_eq!(lapic.pending(), None, "masked");
    lapic.set_lint(1, true);
    assert!(lapic.take_nmi());
}

#[test]
fn a_disabled_apic_passes_its_pins_on() {
    let mut lapic = LocalApic::new(CONFIG);
    lapic.write_msr(0x1b, 0xfee0_0100).unwrap();
    lapic.set_lint(0, true);
    lapic.set_lint(1, true);
    assert_eq!(lapic.pending(), Some(Pending::External));
    assert!(lapic.take_nmi());
    assert_eq!(get(&mut lapic, 0x30), u32::MAX);
    assert!(lapic.mmio_base().is_none());
}

#[test]
fn the_highest_vector_goes_first_and_blocks_its_class() {
    let mut lapic = enabled();
    for vector in [0x31, 0x45, 0x42] {
        lapic.accept(&fixed(vector, Trigger::Edge));
    }
    assert_eq!(lapic.acknowledge(), Some(Pending::Vector(0x45)));
    assert_eq!(get(&mut lapic, 0xa0), 0x40);
    assert_eq!(lapic.acknowledge(), None, "0x42 is of the same class");
    lapic.accept(&fixed(0x50, Trigger::Edge));
    assert_eq!(lapic.acknowledge(), Some(Pending::Vector(0x50)));
    assert_eq!(out(&mut lapic, 0xb0, 0), None);
    assert_eq!(out(&mut lapic, 0xb0, 0), None);
    assert_eq!(lapic.acknowledge(), Some(Pending::Vector(0x42)));
}

#[test]
fn the_task_priority_holds_back_its_class_and_below() {
    let mut lapic = enabled();
    lapic.accept(&fixed(0x45, Trigger::Edge));
    lapic.set_task_priority(4);
    assert_eq!(lapic.pending(), None);
    out(&mut lapic, 0x80, 0x3f);
    assert_eq!(lapic.task_priority(), 3);
    assert_eq!(lapic.pending(), Some(Pending::Vector(0x45)));
    assert_eq!(get(&mut lapic, 0xa0), 0x3f);
}

#[test]
fn eoi_of_a_level_interrupt_is_broadcast_unless_suppressed() {
    let mut lapic = enabled();
    lapic.accept(&fixed(0x61, Trigger::Level));
    lapic.acknowledge();
    assert_eq!(out(&mut lapic, 0xb0, 0), Some(Output::EndOfInterrupt(0x61)));
    out(&mut lapic, 0xf0, 0x11ff);
    lapic.accept(&fixed(0x61, Trigger::Level));
    lapic.acknowledge();
    assert_eq!(out(&mut lapic, 0xb0, 0), None);
    assert_eq!(out(&mut lapic, 0xb0, 0), None, "nothing in service");
}

#[test]
fn illegal_vectors_are_errors_that_esr_reports_after_a_write() {
    let mut lapic = enabled();
    out(&mut lapic, 0x370, 0xfe);
    lapic.accept(&fixed(15, Trigger::Edge));
    assert_eq!(get(&mut lapic, 0x280), 0);
    out(&mut lapic, 0x280, 0);
    assert_eq!(get(&mut lapic, 0x280), 1 << 6);
    assert_eq!(lapic.acknowledge(), Some(Pending::Vector(0xfe)));
    assert_eq!(out(&mut lapic, 0x300, 0x0f), None);
    assert_eq!(get(&mut lapic, 0x3f0), 0);
    out(&mut lapic, 0x280, 0);
    assert_eq!(get(&mut lapic, 0x280), 1 << 5 | 1 << 7);
    out(&mut lapic, 0x280, 0);
    assert_eq!(get(&mut lapic, 0x280), 0);
}

#[test]
fn an_illegal_error_vector_does_not_recurse() {
    let mut lapic = enabled();
    out(&mut lapic, 0x370, 0x05);
    lapic.accept(&fixed(3, Trigger::Edge));
    assert_eq!(lapic.state().esr_pending, 1 << 6);
}

#[test]
fn software_disabled_takes_no_vectors_and_keeps_the_table_masked() {
    let mut lapic = enabled();
    out(&mut lapic, 0x320, 0x40);
    out(&mut lapic, 0xf0, 0xff);
    lapic.accept(&fixed(0x55, Trigger::Edge));
    assert_eq!(lapic.pending(), None);
    assert_eq!(get(&mut lapic, 0x320), 0x1_0040);
    out(&mut lapic, 0x320, 0x40);
    assert_eq!(
        get(&mut lapic, 0x320),
        0x1_0040,
        "the mask cannot be cleared"
    );
    lapic.accept(&Message {
        delivery: DeliveryMode::Nmi,
        ..fixed(0, Trigger::Edge)
    });
    assert!(lapic.take_nmi());
}

#[test]
fn one_shot_counts_down_once() {
    let mut lapic = enabled();
    out(&mut lapic, 0x3e0, 0b1011);
    out(&mut lapic, 0x320, 0x40);
    out(&mut lapic, 0x380, 1000);
    assert_eq!(lapic.next_deadline(), Some(10_000), "1000 ticks of 10 ns");
    lapic.advance(4_000);
    assert_eq!(get(&mut lapic, 0x390), 600);
    lapic.advance(10_000);
    assert_eq!(lapic.acknowledge(), Some(Pending::Vector(0x40)));
    assert_eq!((get(&mut lapic, 0x390), lapic.next_deadline()), (0, None));
}

#[test]
fn every_divider_divides() {
    for (code, divisor) in [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (8, 32),
        (9, 64),
        (10, 128),
        (11, 1),
    ] {
        let mut lapic = enabled();
        out(&mut lapic, 0x3e0, code);
        out(&mut lapic, 0x320, 0x40);
        out(&mut lapic, 0x380, 10);
        assert_eq!(lapic.next_deadline(), Some(100 * divisor));
    }
}

#[test]
fn changing_the_divider_keeps_the_count() {
    let mut lapic = enabled();
    out(&mut lapic, 0x320, 0x40);
    out(&mut lapic, 0x3e0, 0b1011);
    out(&mut lapic, 0x380, 100);
    lapic.advance(500);
    out(&mut lapic, 0x3e0, 0b0000);
    assert_eq!(get(&mut lapic, 0x390), 50);
    assert_eq!(lapic.next_deadline(), Some(1500));
}

#[test]
fn periodic_stays_in_phase_and_merges_missed_periods() {
    let mut lapic = enabled();
    out(&mut lapic, 0x3e0, 0b1011);
    out(&mut lapic, 0x320, 0x2_0040);
    out(&mut lapic, 0x380, 100);
    lapic.advance(1_000);
    assert_eq!(lapic.next_deadline(), Some(2_000));
    lapic.advance(4_321);
    assert_eq!(lapic.next_deadline(), Some(5_000));
    assert_eq!(lapic.counters().timer_interrupts, 2);
    assert_eq!(get(&mut lapic, 0x390), 68);
}

#[test]
fn tsc_deadline_fires_once_at_its_count() {
    let mut lapic = enabled();
    lapic.write_msr(0x6e0, 500).unwrap();
    assert_eq!(lapic.read_msr(0x6e0), Ok(0), "ignored in another mode");
    out(&mut lapic, 0x320, 0x4_0040);
    out(&mut lapic, 0x380, 7);
    assert_eq!(get(&mut lapic, 0x380), 0, "ignored in this mode");
    lapic.set_tsc_offset(1000);
    lapic.write_msr(0x6e0, 1500).unwrap();
    assert_eq!(lapic.next_deadline(), Some(500));
    lapic.advance(500);
    assert_eq!(lapic.acknowledge(), Some(Pending::Vector(0x40)));
    assert_eq!(lapic.read_msr(0x6e0), Ok(0));
    out(&mut lapic, 0xb0, 0);
    lapic.write_msr(0x6e0, 3).unwrap();
    assert_eq!(
        lapic.acknowledge(),
        Some(Pending::Vector(0x40)),
        "already past"
    );
}

#[test]
fn a_deadline_that_the_tsc_offset_passed_expires_without_time_passing() {
    let mut lapic = enabled();
    out(&mut lapic, 0x320, 0x4_0040);
    lapic.write_msr(0x6e0, 1500).unwrap();
    lapic.advance(100);
    lapic.set_tsc_offset(2000);
    assert_eq!(lapic.next_deadline(), Some(100));
    lapic.advance(100);
    assert_eq!(lapic.acknowledge(), Some(Pending::Vector(0x40)));
    assert_eq!(lapic.next_deadline(), None);
}

#[test]
fn a_masked_timer_has_no_deadline() {
    let mut lapic = enabled();
    out(&mut lapic, 0x380, 100);
    assert_eq!(lapic.next_deadline(), None);
    lapic.advance(u64::MAX);
    assert_eq!(lapic.pending(), None);
}

#[test]
fn icr_describes_a_message() {
    let mut lapic = enabled();
    out(&mut lapic, 0x310, 0x0300_0000);
    let Some(Output::Message(message)) = out(&mut lapic, 0x300, 0x0000_0841) else {
        panic!()
    };
    assert_eq!(message.destination, Destination::Logical(3));
    assert_eq!(
        (message.vector, message.delivery),
        (0x41, DeliveryMode::Fixed)
    );
    // INIT assert is a message, deassert is not.
    assert!(out(&mut lapic, 0x300, 0x000c_c500).is_some());
    assert!(out(&mut lapic, 0x300, 0x000c_8500).is_none());
    assert_eq!(get(&mut lapic, 0x300), 0x000c_8500);
}

#[test]
fn level_lint0_is_sent_again_after_eoi() {
    let mut lapic = enabled();
    out(&mut lapic, 0x350, 0x8051);
    lapic.set_lint(0, true);
    assert_eq!(get(&mut lapic, 0x350), 0xc051);
    assert_eq!(lapic.acknowledge(), Some(Pending::Vector(0x51)));
    assert!(lapic.pending().is_none());
    out(&mut lapic, 0xb0, 0);
    assert_eq!(lapic.acknowledge(), Some(Pending::Vector(0x51)));
    lapic.set_lint(0, false);
    out(&mut lapic, 0xb0, 0);
    assert_eq!((lapic.pending(), get(&mut lapic, 0x350)), (None, 0x8051));
}

#[test]
fn apic_base_changes_mode_only_as_the_figure_allows() {
    let gp = Err(GeneralProtection { index: 0x1b });
    let mut lapic = LocalApic::new(CONFIG);
    assert_eq!(lapic.write_msr(0x1b, 0xfee0_0500), gp, "EXTD without EN");
    assert_eq!(lapic.write_msr(0x1b, 0xfee0_0901), gp, "reserved bit");
    assert_eq!(
        lapic.write_msr(0x1b, 1 << 40 | 0x900),
        gp,
        "past MAXPHYADDR"
    );
    lapic.write_msr(0x1b, 0xfee0_0d00).unwrap();
    assert_eq!(lapic.mode(), LapicMode::X2Apic);
    assert_eq!(lapic.write_msr(0x1b, 0xfee0_0900), gp, "x2APIC to xAPIC");
    lapic.write_msr(0x1b, 0xfee0_0100).unwrap();
    assert_eq!(lapic.write_msr(0x1b, 0xfee0_0d00), gp, "disabled to x2APIC");
    lapic.write_msr(0x1b, 0xfec0_0900).unwrap();
    assert_eq!(lapic.mmio_base(), Some(0xfec0_0000));
    let mut old = LocalApic::new(LocalApicConfig {
        x2apic: false,
        ..CONFIG
    });
    assert_eq!(old.write_msr(0x1b, 0xfee0_0d00), gp);
}

#[test]
fn x2apic_registers_check_what_is_written() {
    let mut lapic = x2apic();
    assert_eq!(lapic.read_msr(0x802), Ok(0));
    assert_eq!(lapic.read_msr(0x803), Ok(0x0105_0014));
    for absent in [0x800, 0x80b, 0x80e, 0x831, 0x83f] {
        assert_eq!(
            lapic.read_msr(absent),
            Err(GeneralProtection { index: absent })
        );
    }
    for (index, value) in [
        (0x802, 0),
        (0x808, 0x100),
        (0x80b, 1),
        (0x80d, 0),
        (0x80f, 1 << 31),
        (0x828, 1),
        (0x830, 1 << 12),
        (0x832, 1 << 8),
        (0x838, 1 << 32),
        (0x839, 0),
        (0x83e, 4),
        (0x83f, 0x100),
    ] {
        assert_eq!(
            lapic.write_msr(index, value),
            Err(GeneralProtection { index }),
            "{index:#x}"
        );
    }
    lapic.write_msr(0x83f, 0x77).unwrap();
    assert_eq!(lapic.acknowledge(), Some(Pending::Vector(0x77)));
    lapic.write_msr(0x80b, 0).unwrap();
    let sent = lapic.write_msr(0x830, 0x1234_0000_0041).unwrap();
    let Some(Output::Message(message)) = sent else {
        panic!()
    };
    assert_eq!(message.destination, Destination::Physical(0x1234));
    assert_eq!(get(&mut lapic, 0x20), u32::MAX, "no page in x2APIC mode");
}

#[test]
fn init_resets_but_keeps_the_base() {
    let mut lapic = enabled();
    lapic.accept(&fixed(0x55, Trigger::Edge));
    lapic.accept(&Message {
        delivery: DeliveryMode::Init,
        ..fixed(0, Trigger::Edge)
    });
    lapic.accept(&Message {
        delivery: DeliveryMode::StartUp,
        ..fixed(0x9a, Trigger::Edge)
    });
    assert!(lapic.take_init() && !lapic.take_init());
    assert_eq!(lapic.take_start_up(), Some(0x9a));
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.read_msr(0x1b), Ok(0xfee0_0900));
}

#[test]
fn init_takes_along_what_came_before_it() {
    let mut lapic = enabled();
    for (delivery, vector) in [
        (DeliveryMode::Nmi, 0),
        (DeliveryMode::StartUp, 0x10),
        (DeliveryMode::Init, 0),
    ] {
        lapic.accept(&Message {
            delivery,
            ..fixed(vector, Trigger::Edge)
        });
    }
    assert!(lapic.has_init() && !lapic.has_nmi() && !lapic.has_start_up());
    lapic.accept(&Message {
        delivery: DeliveryMode::StartUp,
        ..fixed(0x9a, Trigger::Edge)
    });
    assert!(lapic.has_start_up());
    assert_eq!(lapic.take_start_up(), Some(0x9a));
}

#[test]
fn the_id_can_be_written_where_there_is_no_x2apic_mode() {
    let with = |x2apic| {
        let mut lapic = LocalApic::new(LocalApicConfig {
            id: 3,
            x2apic,
            ..CONFIG
        });
        out(&mut lapic, 0x20, 0x0700_0000);
        lapic
    };
    let mut lapic = with(true);
    assert_eq!(get(&mut lapic, 0x20), 0x0300_0000);
    assert!(lapic.matches(Destination::Physical(3)));
    let mut lapic = with(false);
    assert_eq!(get(&mut lapic, 0x20), 0x0700_0000);
    assert!(lapic.matches(Destination::Physical(7)) && !lapic.matches(Destination::Physical(3)));
    lapic.init_reset();
    assert_eq!(get(&mut lapic, 0x20), 0x0700_0000);
    // Off and on again: as after reset.
    for base in [0xfee0_0000, 0xfee0_0800] {
        lapic.write_msr(0x1b, base).unwrap();
    }
    assert_eq!(get(&mut lapic, 0x20), 0x0300_0000);
    let mut forged = with(true).state();
    forged.xapic_id = 7;
    let config = LocalApicConfig { id: 3, ..CONFIG };
    assert!(LocalApic::restore(config, forged).is_err());
}

#[test]
fn odd_accesses_are_harmless() {
    let mut lapic = enabled();
    for offset in (0..0x420).chain([0xfff, 0x1000, u64::MAX]) {
        for length in 0..9 {
            let mut data = vec![0xa5; length];
            let _ = lapic.write(offset, &data);
            lapic.read(offset, &mut data);
        }
    }
    let mut data = [0; 2];
    lapic.read(0x32, &mut data);
    assert_eq!(data, [5, 1], "a word within the version register");
}

#[test]
fn hostile_state_is_turned_down() {
    let good = enabled().state();
    let refused = |state| LocalApic::restore(CONFIG, state).unwrap_err().field;
    assert_eq!(
        refused(LapicState {
            apic_base: 1,
            ..good.clone()
        }),
        "apic_base"
    );
    assert_eq!(
        refused(LapicState {
            svr: 0xff,
            lvt: [0; 6],
            ..good.clone()
        }),
        "lvt"
    );
    let timer = TimerState {
        expiry: Some(3),
        ..TimerState::default()
    };
    assert_eq!(
        refused(LapicState {
            timer,
            ..good.clone()
        }),
        "timer"
    );
    assert_eq!(
        LocalApic::restore(CONFIG, good.clone()).unwrap().state(),
        good
    );
}

proptest! {
    /// The vector taken is the highest of a higher class than everything in service and the TPR:
    /// the priority rule of SDM 11.8.3, said with a sorted list.
    #[test]
    fn delivery_follows_the_priority_rule(
        steps in prop::collection::vec((0u8..4, any::<u8>()), 1..200),
    ) {
        let mut lapic = enabled();
        let (mut requested, mut serving) = (std::collections::BTreeSet::new(), Vec::new());
        let mut tpr = 0;
        for (kind, value) in steps {
            match kind {
                0 | 1 => {
                    lapic.accept(&fixed(value, Trigger::Edge));
                    if value >= 16 { requested.insert(value); }
                }
                2 => {
                    tpr = value;
                    out(&mut lapic, 0x80, value.into());
                }
                _ => {
                    out(&mut lapic, 0xb0, 0);
                    serving.pop();
                }
            }
            let floor = serving.last().copied().unwrap_or(0).max(tpr) >> 4;
            let expected = requested.last().copied().filter(|vector| vector >> 4 > floor);
            prop_assert_eq!(lapic.acknowledge(), expected.map(Pending::Vector));
            if let Some(vector) = expected {
                requested.remove(&vector);
                serving.push(vector);
            }
        }
    }
}
