//! Registers against the manual's table, interrupts and their moderation, PHY and EEPROM.

mod common;

use common::{EOP, IDE, MAC, Machine, RS, frame, legacy};
use e1000::registers::*;
use e1000::{Compat, E1000, E1000State, RxOutcome};

/// Offset, value after reset, and what reads back after ones were written. From table 13-2 and the
/// sections of chapter 13.
const TABLE: [(&str, u32, u32, u32); 39] = [
    ("STATUS", STATUS, 0x0000_0783, 0x0000_0783),
    ("CTRL_EXT", CTRL_EXT, 0, u32::MAX),
    ("FCAL", FCAL, 0, u32::MAX),
    ("FCAH", FCAH, 0, u32::MAX),
    ("FCT", FCT, 0, u32::MAX),
    ("VET", VET, 0x8100, u32::MAX),
    ("LEDCTL", LEDCTL, 0x0706_8302, u32::MAX),
    ("PBA", PBA, 0x0010_0030, u32::MAX),
    ("ICR", ICR, 0, 0),
    ("ITR", ITR, 0, 0xffff),
    ("ICS", ICS, 0, 0),
    ("IMC", IMC, 0, 0),
    ("RCTL", RCTL, 0, 0x06df_bffe),
    ("FCTTV", FCTTV, 0, u32::MAX),
    ("FCRTL", FCRTL, 0, u32::MAX),
    ("FCRTH", FCRTH, 0, u32::MAX),
    ("RDBAL", RDBAL, 0, 0xffff_fff0),
    ("RDBAH", RDBAH, 0, u32::MAX),
    ("RDLEN", RDLEN, 0, 0x000f_ff80),
    ("RDH", RDH, 0, 0xffff),
    ("RDT", RDT, 0, 0xffff),
    ("RDTR", RDTR, 0, 0xffff),
    ("RADV", RADV, 0, 0xffff),
    ("TCTL", TCTL, 0, 0x037f_fffa),
    ("TIPG", TIPG, 0, u32::MAX),
    ("TDBAL", TDBAL, 0, 0xffff_fff0),
    ("TDBAH", TDBAH, 0, u32::MAX),
    ("TDLEN", TDLEN, 0, 0x000f_ff80),
    ("TIDV", TIDV, 0, 0xffff),
    ("TXDCTL", TXDCTL, 0, u32::MAX),
    ("TADV", TADV, 0, 0xffff),
    ("RXCSUM", RXCSUM, 0, u32::MAX),
    ("MTA[0]", MTA, 0, u32::MAX),
    ("MTA[127]", MTA + 0x1fc, 0, u32::MAX),
    ("RAL[0]", RAL, 0x1200_5452, u32::MAX),
    ("RAH[0]", RAL + 4, 0x8000_5634, 0x8003_ffff),
    ("RAH[15]", RAL + 0x7c, 0, 0x8003_ffff),
    ("VFTA[127]", VFTA + 0x1fc, 0, u32::MAX),
    ("WUC", WUC, 0, u32::MAX),
];

#[test]
fn every_register_has_its_reset_value_and_its_writable_bits() {
    for (name, register, reset, ones) in TABLE {
        let mut nic = E1000::new(e1000::E1000Config {
            mac: MAC,
            compat: Compat::Datasheet,
        });
        let mut value = [0; 4];
        nic.read(register.into(), &mut value);
        assert_eq!(u32::from_le_bytes(value), reset, "{name} after reset");
        nic.write(register.into(), &[0xff; 4]);
        nic.read(register.into(), &mut value);
        assert_eq!(u32::from_le_bytes(value), ones, "{name} after ones");
    }
}

#[test]
fn qemu_s_reset_values_are_those_measured() {
    let mut machine = Machine::new(Compat::Qemu);
    assert_eq!(machine.get(CTRL), 0x0014_0240);
    assert_eq!(machine.get(STATUS), 0x8008_0783);
    assert_eq!(machine.get(LEDCTL), 0x602);
    assert_eq!(machine.get(PBA), 0x0010_0030);
}

#[test]
fn icr_is_cleared_by_reading_and_masks_are_set_and_cleared() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(ICS, ICR_LSC | ICR_TXDW);
    assert!(!machine.nic.interrupt(), "nothing is enabled");
    machine.set(IMS, ICR_LSC);
    assert!(machine.nic.interrupt());
    assert_eq!(machine.get(ICR), ICR_LSC | ICR_TXDW);
    assert!(!machine.nic.interrupt());
    assert_eq!(machine.get(ICR), 0);
    machine.set(IMC, ICR_LSC);
    assert_eq!(machine.get(IMS), 0);
    assert_eq!(machine.nic.counts().interrupts.raised, 1);
}

#[test]
fn every_statistic_is_cleared_by_reading() {
    let mut machine = Machine::new(Compat::Datasheet);
    assert_eq!(machine.receive(&frame(100)), RxOutcome::Delivered);
    let expected = [(GPRC, 1), (BPRC, 1), (TPR, 1), (PRC64 + 4, 1)];
    for (register, value) in expected {
        assert_eq!(machine.get(register), value, "{register:#x}");
        assert_eq!(machine.get(register), 0, "{register:#x} a second time");
    }
    assert_eq!((machine.get(GORCL), machine.get(GORCH)), (104, 0));
    assert_eq!(machine.get(GORCL), 0, "reading the upper half clears both");
}

/// 13.4.18: no two interrupts closer than ITR * 256 ns.
#[test]
fn itr_spaces_interrupts() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(ITR, 100);
    machine.set(IMS, ICR_RXT0);
    machine.receive(&frame(60));
    assert!(machine.nic.interrupt(), "the first comes at once");
    machine.get(ICR);
    machine.receive(&frame(60));
    assert!(!machine.nic.interrupt());
    assert_eq!(machine.nic.next_deadline(), Some(25_600));
    machine.nic.advance(25_599);
    assert!(!machine.nic.interrupt());
    machine.nic.advance(25_600);
    assert!(machine.nic.interrupt());
    assert_eq!(machine.nic.counts().interrupts.raised, 2);
}

/// 13.4.30 and 13.4.31: RDTR restarts with each frame, RADV does not.
#[test]
fn rdtr_and_radv_delay_receive_interrupts() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(RDTR, 10);
    machine.set(RADV, 15);
    machine.set(IMS, ICR_RXT0);
    machine.receive(&frame(60));
    assert_eq!(machine.nic.next_deadline(), Some(10_240));
    machine.nic.advance(10_000);
    machine.receive(&frame(60));
    assert_eq!(machine.nic.next_deadline(), Some(15_360), "RADV bounds it");
    machine.nic.advance(15_359);
    assert!(!machine.nic.interrupt());
    machine.nic.advance(15_360);
    assert!(machine.nic.interrupt());
    assert_eq!(machine.get(ICR), ICR_RXT0);
    assert_eq!(machine.nic.next_deadline(), None);
    machine.receive(&frame(60));
    machine.set(RDTR, FLUSH | 10);
    let causes = machine.get(ICR);
    assert_eq!(causes & ICR_RXT0, ICR_RXT0, "the flush bit ends a delay");
}

#[test]
fn tidv_delays_only_descriptors_that_ask_for_it() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(TIDV, 10);
    machine.set(TADV, 12);
    let buffer = machine.place(&frame(60));
    machine.send(&[legacy(buffer, 60, EOP | RS | IDE)]);
    assert_eq!(machine.get(ICR) & ICR_TXDW, 0);
    machine.nic.advance(10_240);
    assert_eq!(machine.get(ICR) & ICR_TXDW, ICR_TXDW);
    machine.send(&[legacy(buffer, 60, EOP | RS)]);
    assert_eq!(machine.get(ICR) & ICR_TXDW, ICR_TXDW);
}

fn mdic(machine: &mut Machine, value: u32) -> u32 {
    machine.set(MDIC, value);
    machine.get(MDIC)
}

#[test]
fn the_phy_is_an_m88e1011_with_a_link() {
    let mut machine = Machine::new(Compat::Datasheet);
    let read = |register: u32| 0b10 << 26 | 1 << 21 | register << 16;
    assert_eq!(mdic(&mut machine, read(2)) & 0x1000_ffff, 0x1000_0141);
    assert_eq!(mdic(&mut machine, read(3)) & 0xffff, 0x0c20);
    assert_eq!(mdic(&mut machine, read(1)) & 0x24, 0x24, "link, negotiated");
}

#[test]
fn negotiation_takes_time_and_ends_with_lsc() {
    let mut machine = Machine::new(Compat::Datasheet);
    mdic(&mut machine, 0b01 << 26 | 1 << 21 | 0x1340);
    assert_eq!(machine.get(STATUS) & STATUS_LU, 0);
    machine.get(ICR);
    let at = machine.nic.next_deadline().expect("it ends");
    machine.nic.advance(at);
    assert_eq!(machine.get(STATUS) & STATUS_LU, STATUS_LU);
    assert_eq!(machine.get(ICR), ICR_LSC);
}

#[test]
fn a_cable_that_is_pulled_takes_the_link_down() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.nic.set_cable(false);
    assert_eq!(machine.get(STATUS) & STATUS_LU, 0);
    assert_eq!(machine.get(ICR), ICR_LSC);
    assert_eq!(machine.receive(&frame(60)), RxOutcome::Disabled);
    machine.nic.set_cable(true);
    assert_eq!(machine.receive(&frame(60)), RxOutcome::Delivered);
}

#[test]
fn the_io_ports_reach_the_registers() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.nic.io_write(0, &FCAL.to_le_bytes());
    machine.nic.io_write(4, &0x1234_5678_u32.to_le_bytes());
    assert_eq!(machine.get(FCAL), 0x1234_5678);
    let mut value = [0; 4];
    machine.nic.io_read(4, &mut value);
    assert_eq!(u32::from_le_bytes(value), 0x1234_5678);
}

#[test]
fn exits_are_counted_by_register() {
    let mut machine = Machine::new(Compat::Datasheet);
    let before: u64 = machine.nic.exits().map(|e| e.reads + e.writes).sum();
    machine.get(STATUS);
    machine.get(STATUS);
    machine.set(TDT, 0);
    let of = |machine: &Machine, register| {
        let mut exits = machine.nic.exits().filter(|e| e.register == register);
        exits.next().map(|e| (e.reads, e.writes))
    };
    assert_eq!(of(&machine, STATUS), Some((2, 0)));
    assert_eq!(of(&machine, TDT), Some((0, 1)));
    let after: u64 = machine.nic.exits().map(|e| e.reads + e.writes).sum();
    assert_eq!(after - before, 3);
}

#[test]
fn a_saved_adapter_goes_on() {
    let mut machine = Machine::new(Compat::Datasheet);
    machine.set(RDTR, 10);
    machine.set(IMS, ICR_RXT0);
    machine.receive(&frame(60));
    let json = serde_json::to_string(&machine.nic.state()).unwrap();
    let state: E1000State = serde_json::from_str(&json).unwrap();
    machine.nic = E1000::try_from(state.clone()).unwrap();
    assert_eq!(machine.nic.state(), state);
    machine.nic.advance(10_240);
    assert!(machine.nic.interrupt());
    assert_eq!(machine.receive(&frame(61)), RxOutcome::Delivered);
    assert_eq!(machine.received(1).0, 61);
}
