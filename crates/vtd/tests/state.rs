//! Saved states.

mod common;

use common::{Guest, legacy};
use vtd::registers::*;
use vtd::{Capabilities, InvalidState, Unit, UnitState};

#[test]
fn a_restored_unit_goes_on() {
    let (mut guest, root) = legacy();
    guest.map(root, 4, 0x1000, 0x5000 | 3, 1);
    assert_eq!(guest.read(0x1000), Ok(0x5000));
    assert_eq!(guest.write(0x2000), Err(5));
    let state = guest.unit.state();
    let json = serde_json::to_string(&state).unwrap();
    let read: UnitState = serde_json::from_str(&json).unwrap();
    assert_eq!(read, state);
    guest.unit = Unit::restore(Capabilities::legacy(), &read).unwrap();
    assert_eq!(guest.unit.state(), state);
    assert_eq!(guest.get(FSTS), FSTS_PPF);
    assert_eq!(guest.read(0x1008), Ok(0x5008));
    assert!(guest.wait());
}

#[test]
fn forged_states_are_refused() {
    let good = Guest::new(Capabilities::legacy()).unit.state();
    let refused = |change: fn(&mut UnitState)| {
        let mut state = good.clone();
        change(&mut state);
        let refused = Unit::restore(Capabilities::legacy(), &state).err();
        let InvalidState(field) = refused.expect("a forged state");
        field
    };
    assert_eq!(refused(|s| s.registers[2] ^= 1), "registers", "CAP");
    assert_eq!(refused(|s| s.registers.truncate(3)), "registers");
    assert_eq!(
        refused(|s| s.registers[0x88 / 4] = 0x8_0000),
        "registers",
        "IQT"
    );
    assert_eq!(refused(|s| s.fault_records.truncate(3)), "fault_records");
    assert_eq!(refused(|s| s.next_fault = 8), "fault_records");
    assert_eq!(
        refused(|s| s.fault_records[0][1] = 1 << 20),
        "fault_records"
    );
    assert_eq!(refused(|s| s.root_table = 1), "root_table");
    assert_eq!(refused(|s| s.interrupt_table = 0x10), "interrupt_table");
    assert!(Unit::restore(Capabilities::scalable(), &good).is_err());
}
