//! A saved state survives as text, and the restored controller goes on as the first one does.
#![cfg(feature = "serde")]

use apic::{
    IoApic, IoApicState, IoApicVersion, LapicState, LocalApic, LocalApicConfig, Pending, deliver,
};

const CONFIG: LocalApicConfig = LocalApicConfig {
    id: 3,
    bootstrap: true,
    x2apic: true,
    virtual_wire: true,
    timer_hz: 1_000_000_000,
    tsc_hz: 1_000_000_000,
    physical_address_bits: 40,
};

#[test]
fn a_local_apic_goes_on_from_its_text() {
    let mut lapic = LocalApic::new(CONFIG);
    // A periodic timer with vector 0x40, half-way through its second period.
    for (offset, value) in [(0x3e0, 0b1011u32), (0x320, 0x2_0040), (0x380, 1000)] {
        assert_eq!(lapic.write(offset, &value.to_le_bytes()), None);
    }
    lapic.advance(1500);

    let text = serde_json::to_string(&lapic.state()).unwrap();
    let state: LapicState = serde_json::from_str(&text).unwrap();
    assert_eq!(state, lapic.state());
    let mut restored = LocalApic::restore(CONFIG, state).unwrap();
    assert_eq!(restored.next_deadline(), Some(2000));
    for lapic in [&mut lapic, &mut restored] {
        assert_eq!(lapic.acknowledge(), Some(Pending::Vector(0x40)));
        lapic.advance(2000);
    }
    assert_eq!(restored.state(), lapic.state());
}

#[test]
fn an_io_apic_goes_on_from_its_text() {
    let mut ioapic = IoApic::new(1, IoApicVersion::V20);
    // Pin 5: vector 0x55, level, to APIC 3; asserted and taken.
    for (select, value) in [(0x1b, 0x0300_0000u32), (0x1a, 0x8055)] {
        ioapic.write(0x00, &[select]);
        ioapic.write(0x10, &value.to_le_bytes());
    }
    ioapic.set_line(5, true);
    let mut lapics = [LocalApic::new(CONFIG)];
    ioapic.send_pending(|message| deliver(message, &mut lapics, None) > 0);

    let text = serde_json::to_string(&ioapic.state()).unwrap();
    let state: IoApicState = serde_json::from_str(&text).unwrap();
    assert_eq!(state, ioapic.state());
    let mut restored = IoApic::try_from(state).unwrap();
    restored.send_pending(|_| panic!("pin 5 waits for the end of its interrupt"));
    restored.end_of_interrupt(0x55);
    let mut sent = 0;
    restored.send_pending(|message| {
        sent += usize::from(message.vector == 0x55);
        true
    });
    assert_eq!(sent, 1, "still asserted");
}
