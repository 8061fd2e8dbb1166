use super::*;

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;
/// 2000-02-29 12:34:56 UTC, a Tuesday.
const LEAP: i64 = 951_827_696;

fn get(rtc: &mut Mc146818, index: u8) -> u8 {
    rtc.write(0x70, &[index]);
    let mut data = [0];
    rtc.read(0x71, &mut data);
    data[0]
}

fn put(rtc: &mut Mc146818, index: u8, value: u8) {
    rtc.write(0x70, &[index, value]);
}

fn time(rtc: &mut Mc146818) -> [u8; 8] {
    [0, 2, 4, 6, 7, 8, 9, 0x32].map(|index| get(rtc, index))
}

#[test]
fn shows_the_time_in_bcd_and_binary() {
    let mut rtc = Mc146818::new(LEAP);
    assert_eq!(time(&mut rtc), [0x56, 0x34, 0x12, 3, 0x29, 2, 0, 0x20]);
    put(&mut rtc, 0x0b, 0x06);
    assert_eq!(time(&mut rtc), [56, 34, 12, 3, 29, 2, 0, 20]);
}

#[test]
fn twelve_hour_mode_marks_the_afternoon() {
    let mut rtc = Mc146818::new(LEAP);
    put(&mut rtc, 0x0b, 0x00);
    assert_eq!(get(&mut rtc, 4), 0x92, "12 PM is noon");
    rtc.advance(12 * 3600 * S);
    assert_eq!(get(&mut rtc, 4), 0x12, "12 AM is midnight");
    rtc.advance(13 * 3600 * S);
    assert_eq!(get(&mut rtc, 4), 0x01);
}

#[test]
fn time_passes_and_rolls_over_into_march() {
    let mut rtc = Mc146818::new(LEAP);
    rtc.advance(86_400 * S);
    assert_eq!(time(&mut rtc), [0x56, 0x34, 0x12, 4, 0x01, 3, 0, 0x20]);
}

#[test]
fn a_guest_sets_the_clock_under_set() {
    let mut rtc = Mc146818::new(LEAP);
    put(&mut rtc, 0x0b, 0x86);
    for (index, value) in [
        (0, 1),
        (2, 2),
        (4, 3),
        (6, 7),
        (7, 4),
        (8, 5),
        (9, 26),
        (0x32, 20),
    ] {
        put(&mut rtc, index, value);
    }
    rtc.advance(10 * S);
    assert_eq!(get(&mut rtc, 0), 1, "held");
    put(&mut rtc, 0x0b, 0x06);
    assert_eq!(time(&mut rtc), [1, 2, 3, 7, 4, 5, 26, 20]);
    rtc.advance(12 * S);
    assert_eq!(get(&mut rtc, 0), 3);
}

#[test]
fn uip_announces_the_update() {
    let mut rtc = Mc146818::new(LEAP);
    rtc.advance(S - 3 * MS);
    assert_eq!(get(&mut rtc, 0x0a), 0x26);
    rtc.advance(S - 2 * MS);
    assert_eq!(get(&mut rtc, 0x0a), 0xa6);
    rtc.advance(S);
    assert_eq!(get(&mut rtc, 0x0a), 0x26);
    assert_eq!(get(&mut rtc, 0), 0x57);
}

#[test]
fn the_update_interrupt_waits_for_register_c() {
    let mut rtc = Mc146818::new(LEAP);
    put(&mut rtc, 0x0b, 0x12);
    assert_eq!(rtc.next_deadline(), Some(S));
    rtc.advance(S);
    assert!(rtc.irq());
    assert_eq!(rtc.next_deadline(), None, "already up");
    assert_eq!(get(&mut rtc, 0x0c) & 0x90, 0x90);
    assert!(!rtc.irq());
    assert_eq!(get(&mut rtc, 0x0c), 0);
    assert_eq!(rtc.next_deadline(), Some(2 * S));
}

#[test]
fn the_periodic_interrupt_has_the_rate_of_register_a() {
    let mut rtc = Mc146818::new(LEAP);
    put(&mut rtc, 0x0b, 0x42);
    // Rate 6 is 1024 Hz.
    let mut count = 0;
    while let Some(at) = rtc.next_deadline().filter(|&at| at <= S) {
        rtc.advance(at);
        assert!(rtc.irq());
        get(&mut rtc, 0x0c);
        count += 1;
    }
    assert_eq!(count, 1024);
    put(&mut rtc, 0x0a, 0x21);
    let at = rtc.next_deadline().unwrap();
    assert_eq!(at, S + 3_906_250, "rate 1 is 256 Hz with this crystal");
}

#[test]
fn the_alarm_fires_at_its_time_and_with_dont_cares() {
    let mut rtc = Mc146818::new(LEAP);
    for (index, value) in [(1, 0x00), (3, 0x36), (5, 0x12), (0x0b, 0x22)] {
        put(&mut rtc, index, value);
    }
    assert_eq!(rtc.next_deadline(), Some(64 * S), "12:36:00");
    rtc.advance(64 * S);
    assert_eq!(
        get(&mut rtc, 0x0c),
        0xb0 | 0x40,
        "UF and PF are set whether enabled or not"
    );
    for index in [3, 5] {
        put(&mut rtc, index, 0xff);
    }
    assert_eq!(rtc.next_deadline(), Some(124 * S), "every minute");
    put(&mut rtc, 5, 0x99);
    assert_eq!(rtc.next_deadline(), None, "no such hour");
}

#[test]
fn a_stopped_divider_stops_the_clock() {
    let mut rtc = Mc146818::new(LEAP);
    put(&mut rtc, 0x0a, 0x76);
    rtc.advance(100 * S);
    assert_eq!(get(&mut rtc, 0), 0x56);
    put(&mut rtc, 0x0a, 0x26);
    rtc.advance(100 * S + 499 * MS);
    assert_eq!(get(&mut rtc, 0), 0x56);
    rtc.advance(100 * S + 500 * MS);
    assert_eq!(get(&mut rtc, 0), 0x57);
}

#[test]
fn memory_size_is_where_firmware_looks() {
    let mut rtc = Mc146818::new(0);
    rtc.set_memory_size(MemorySize {
        below_4g: 256 << 20,
        above_4g: 1 << 30,
    });
    assert_eq!([get(&mut rtc, 0x15), get(&mut rtc, 0x16)], [0x80, 0x02]);
    assert_eq!([get(&mut rtc, 0x17), get(&mut rtc, 0x18)], [0xff, 0xff]);
    assert_eq!([get(&mut rtc, 0x34), get(&mut rtc, 0x35)], [0x00, 0x0f]);
    assert_eq!(
        [0x5b, 0x5c, 0x5d].map(|i| get(&mut rtc, i)),
        [0x00, 0x40, 0x00]
    );
    rtc.set_memory_size(MemorySize {
        below_4g: 0,
        above_4g: u64::MAX,
    });
}

#[test]
fn time_may_jump_to_its_end() {
    let mut rtc = Mc146818::new(i64::MAX);
    put(&mut rtc, 0x0b, 0x72);
    rtc.advance(u64::MAX);
    rtc.advance(3);
    let _ = rtc.next_deadline();
    assert_eq!(get(&mut rtc, 9), 0x99);
}

#[test]
fn hostile_state_is_turned_down() {
    let good = Mc146818::new(LEAP).state();
    let bad = Mc146818State {
        ram: vec![0; 5],
        ..good.clone()
    };
    assert_eq!(Mc146818::try_from(bad).unwrap_err().field, "ram");
    let bad = Mc146818State {
        second_began: 1,
        ..good.clone()
    };
    assert_eq!(Mc146818::try_from(bad).unwrap_err().field, "second_began");
    assert!(Mc146818::try_from(good).is_ok());
}
