//! A saved state survives as text, and the restored device goes on as the first one does.
#![cfg(feature = "serde")]

use std::fmt::Debug;

use pc_devices::{AcpiPm, Button, I8042, I8254, I8259Pair, Mc146818, TimerWidth};
use serde_json::{from_str, to_string};

/// Through text and back.
fn saved<S>(state: &S) -> S
where
    S: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug,
{
    let read = from_str(&to_string(state).unwrap()).unwrap();
    assert_eq!(&read, state);
    read
}

#[test]
fn an_8259_pair_keeps_what_is_requested_and_in_service() {
    let mut pic = I8259Pair::new();
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, 0x01)] {
        pic.write(port, &[value]);
    }
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), 0x34);
    pic.set_line(3, true);

    let mut restored = I8259Pair::try_from(saved(&pic.state())).unwrap();
    assert!(
        restored.intr(),
        "IRQ 3 is more urgent than IRQ 4 in service"
    );
    assert_eq!(restored.acknowledge(), 0x33);
}

#[test]
fn an_8254_keeps_its_phase() {
    let mut pit = I8254::new();
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        pit.write(port, &[value]);
    }
    pit.advance(7_000_000);

    let mut restored = I8254::try_from(saved(&pit.state())).unwrap();
    assert_eq!(restored.next_deadline(), pit.next_deadline());
    restored.advance(500_000_000);
    pit.advance(500_000_000);
    assert_eq!(restored.state(), pit.state());
}

#[test]
fn an_mc146818_keeps_time_and_cmos() {
    let mut rtc = Mc146818::new(951_827_696);
    rtc.write(0x70, &[0x40]);
    rtc.write(0x71, &[0xa5]);
    rtc.advance(1_500_000_000);

    let mut restored = Mc146818::try_from(saved(&rtc.state())).unwrap();
    let mut value = [0];
    restored.read(0x71, &mut value);
    assert_eq!(value, [0xa5]);
    restored.advance(2_500_000_000);
    rtc.advance(2_500_000_000);
    let state = restored.state();
    rtc.read(0x71, &mut value);
    assert_eq!(state, rtc.state());
}

#[test]
fn an_i8042_keeps_its_answers() {
    let mut kbc = I8042::new();
    kbc.write(0x64, &[0xaa]);
    kbc.advance(1_000_000);

    let mut restored = I8042::try_from(saved(&kbc.state())).unwrap();
    restored.advance(2_000_000);
    let mut value = [0];
    restored.read(0x60, &mut value);
    assert_eq!(value, [0x55], "self-test passed");
}

#[test]
fn acpi_power_management_keeps_the_pressed_button() {
    let mut pm = AcpiPm::new(0x600, TimerWidth::Bits24);
    pm.write(0x602, &[0x00, 0x01]);
    pm.write(0x604, &[0x01, 0x00]);
    pm.press(Button::Power);
    assert!(pm.sci());

    let restored = AcpiPm::try_from(saved(&pm.state())).unwrap();
    assert!(restored.sci());
}
