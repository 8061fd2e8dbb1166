//! The MC146818 real-time clock with its CMOS memory.
//!
//! References: Motorola MC146818A data sheet (1984); Intel 82371SB (PIIX3) data sheet, 2.5.3;
//! ACPI 6.5, 4.8.2.4 (century register).

mod calendar;

use crate::accesses::{Accesses, each_byte_read, each_byte_write};
use crate::state_error::{InvalidState, check};
use calendar::Calendar;

/// Saved state of an [`Mc146818`]; untrusted until `TryFrom` accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Mc146818State {
    /// Register selected through port 0x70, 0 to 127.
    pub index: u8,
    /// The 128 bytes: alarm, registers A and B, and memory. The time-of-day bytes are
    /// meaningful only while register B's SET bit holds the clock.
    pub ram: Vec<u8>,
    /// Flags of register C: PF, AF, UF.
    pub flags: u8,
    /// The clock's own time: seconds since 1970-01-01 00:00:00 as the clock shows it.
    pub seconds: i64,
    /// How far the guest set the day of the week from the calendar's, 0 to 6 days.
    pub weekday_offset: u8,
    /// When the current second began, in nanoseconds; it may lie up to a second before time zero.
    pub second_began: i64,
    /// The last time handed in, in nanoseconds.
    pub now: u64,
}

/// How much memory firmware would have noted in the CMOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySize {
    /// Bytes of RAM below 4 GiB, from address zero.
    pub below_4g: u64,
    /// Bytes of RAM above 4 GiB.
    pub above_4g: u64,
}

/// Time of day, alarm, periodic interrupt and 114 bytes of memory, at ports 0x70 and 0x71.
///
/// The clock runs on the time handed in; [`irq`](Self::irq) is wired to IRQ 8.
#[derive(Clone, Debug)]
pub struct Mc146818 {
    s: Mc146818State,
    accesses: Accesses<2>,
    interrupts: u64,
}

impl Mc146818 {
    /// The port range: first port and count.
    pub const PORTS: &'static [(u16, u16)] = &[(0x70, 2)];
    /// The byte that holds the century, for the FADT's CENTURY field.
    pub const CENTURY: u8 = 0x32;

    /// A running clock that shows `unix_seconds` at time zero, in 24-hour BCD.
    #[must_use]
    pub fn new(unix_seconds: i64) -> Self {
        let mut ram = vec![0; RAM_SIZE];
        ram[REGISTER_A] = 0x26;
        ram[REGISTER_B] = B_24_HOURS;
        let s = Mc146818State {
            index: 0,
            ram,
            flags: 0,
            seconds: unix_seconds.clamp(0, LAST_SECOND),
            weekday_offset: 0,
            second_began: 0,
            now: 0,
        };
        Self {
            s,
            accesses: Accesses::default(),
            interrupts: 0,
        }
    }

    /// Writes the memory sizes and the checksum that PC firmware keeps in CMOS.
    pub fn set_memory_size(&mut self, size: MemorySize) {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let extended = size.below_4g.saturating_sub(MIB) / KIB;
        let above_16m = size.below_4g.saturating_sub(16 * MIB) / (64 * KIB);
        self.put(0x15, size.below_4g.min(640 * KIB) / KIB, 2);
        self.put(0x17, extended.min(0xffff), 2);
        self.put(0x30, extended.min(0xffff), 2);
        self.put(0x34, above_16m.min(0xffff), 2);
        self.put(0x5b, (size.above_4g / (64 * KIB)).min(0xff_ffff), 3);
        let sum = self.s.ram[0x10..=0x2d]
            .iter()
            .map(|&byte| u64::from(byte))
            .sum::<u64>();
        let [low, high, ..] = sum.to_le_bytes();
        self.s.ram[0x2e] = high;
        self.s.ram[0x2f] = low;
    }

    fn put(&mut self, at: usize, value: u64, bytes: usize) {
        self.s.ram[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }

    /// Moves time to `now` nanoseconds; an earlier time than the last one changes nothing.
    ///
    /// Costs a few hundred operations at most, however far time moves.
    pub fn advance(&mut self, now: u64) {
        if now <= self.s.now {
            return;
        }
        let was_up = self.irq();
        let before = self.s.now;
        self.s.now = now;
        if self.divider_runs() {
            self.pass_periods(before);
            self.pass_seconds();
        }
        self.interrupts += u64::from(!was_up && self.irq());
    }

    /// When [`irq`](Self::irq) rises next by itself, in nanoseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if self.irq() || !self.divider_runs() {
            return None;
        }
        let enabled = |bit| self.s.ram[REGISTER_B] & bit != 0;
        let periodic = enabled(PF).then(|| self.next_period()).flatten();
        let update = (enabled(UF) && !self.is_set()).then(|| self.second_at(1));
        let alarm = (enabled(AF) && !self.is_set())
            .then(|| self.seconds_to_alarm())
            .flatten()
            .map(|seconds| self.second_at(seconds));
        [periodic, update, alarm].into_iter().flatten().min()
    }

    /// Reads bytes from consecutive ports; a port that is not the device's reads as 0xff.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        each_byte_read(port, data, |port| match port {
            0x70 => {
                self.accesses.count_read(0);
                0xff
            }
            0x71 => {
                self.accesses.count_read(1);
                self.read_register()
            }
            _ => 0xff,
        });
    }

    /// Writes bytes to consecutive ports; a port that is not the device's ignores them.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        each_byte_write(port, data, |port, value| match port {
            0x70 => {
                self.accesses.count_write(0);
                // Bit 7 masks NMI on a PC; no source of NMI goes through it here.
                self.s.index = value & 0x7f;
            }
            0x71 => {
                self.accesses.count_write(1);
                self.write_register(value);
            }
            _ => {}
        });
    }

    /// The IRQ output, a level until register C is read.
    #[must_use]
    pub fn irq(&self) -> bool {
        self.s.flags & self.s.ram[REGISTER_B] & (PF | AF | UF) != 0
    }

    /// Byte accesses by register: 0x70, 0x71.
    #[must_use]
    pub fn accesses(&self) -> &Accesses<2> {
        &self.accesses
    }

    /// Rising edges of [`irq`](Self::irq) that came with time.
    #[must_use]
    pub fn interrupts(&self) -> u64 {
        self.interrupts
    }

    /// The time of day the clock shows, in seconds since 1970.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        self.s.seconds
    }

    /// A copy of the architectural state.
    #[must_use]
    pub fn state(&self) -> Mc146818State {
        self.s.clone()
    }

    fn read_register(&mut self) -> u8 {
        let index = usize::from(self.s.index);
        match index {
            REGISTER_A => self.s.ram[REGISTER_A] | if self.updates() { A_UIP } else { 0 },
            REGISTER_C => {
                let irqf = if self.irq() { 0x80 } else { 0 };
                irqf | std::mem::take(&mut self.s.flags)
            }
            REGISTER_D => D_VALID,
            _ if !self.is_set() && is_time(index) => self.shown()[time_slot(index)],
            _ => self.s.ram[index],
        }
    }

    fn write_register(&mut self, value: u8) {
        let index = usize::from(self.s.index);
        match index {
            REGISTER_A => self.write_a(value),
            REGISTER_B => self.write_b(value),
            REGISTER_C | REGISTER_D => {}
            _ if !self.is_set() && is_time(index) => {
                self.store_shown();
                self.s.ram[index] = value;
                self.take_shown();
            }
            _ => self.s.ram[index] = value,
        }
    }

    fn write_a(&mut self, value: u8) {
        let ran = self.divider_runs();
        self.s.ram[REGISTER_A] = value & !A_UIP;
        if !ran && self.divider_runs() {
            // "The first update cycle begins one-half second later."
            self.s.second_began = signed(self.s.now) - HALF_SECOND;
        }
    }

    fn write_b(&mut self, value: u8) {
        let was_set = self.is_set();
        if !was_set && value & B_SET != 0 {
            self.store_shown();
        }
        // "SET ... UIE is cleared when the SET bit is written to a one."
        let value = if value & B_SET != 0 {
            value & !UF
        } else {
            value
        };
        self.s.ram[REGISTER_B] = value;
        if was_set && value & B_SET == 0 {
            self.take_shown();
        }
    }

    /// Writes the running time into the memory bytes.
    fn store_shown(&mut self) {
        for (&index, value) in TIME_BYTES.iter().zip(self.shown()) {
            self.s.ram[index] = value;
        }
    }

    /// The time bytes as a guest reads them, in the order of [`TIME_BYTES`].
    fn shown(&self) -> [u8; 8] {
        let time = Calendar::from_seconds(self.s.seconds);
        let weekday = (time.weekday + self.s.weekday_offset) % 7 + 1;
        let fields = [
            time.second,
            time.minute,
            weekday,
            time.day,
            time.month,
            time.year_of_century,
        ];
        let [second, minute, weekday, day, month, year] = fields.map(|field| self.coded(field));
        [
            second,
            minute,
            self.coded_hour(time.hour),
            weekday,
            day,
            month,
            year,
            self.coded(time.century),
        ]
    }

    /// Sets the clock from the memory bytes. Bytes out of range count as the nearest value.
    fn take_shown(&mut self) {
        let [second, minute, hour, weekday, day, month, year, century] =
            TIME_BYTES.map(|index| self.s.ram[index]);
        let time = Calendar {
            second: self.decoded(second),
            minute: self.decoded(minute),
            hour: self.decoded_hour(hour),
            weekday: 0,
            day: self.decoded(day),
            month: self.decoded(month),
            year_of_century: self.decoded(year),
            century: self.decoded(century),
        };
        self.s.seconds = time.to_seconds();
        let natural = Calendar::from_seconds(self.s.seconds).weekday;
        let wanted = self.decoded(weekday).clamp(1, 7) - 1;
        self.s.weekday_offset = (wanted + 7 - natural) % 7;
    }

    fn coded(&self, value: u8) -> u8 {
        if self.s.ram[REGISTER_B] & B_BINARY != 0 {
            value
        } else {
            (value / 10 * 16) + value % 10
        }
    }

    fn decoded(&self, raw: u8) -> u8 {
        if self.s.ram[REGISTER_B] & B_BINARY != 0 {
            return raw;
        }
        (raw >> 4).saturating_mul(10) + (raw & 0xf)
    }

    fn coded_hour(&self, hour: u8) -> u8 {
        if self.s.ram[REGISTER_B] & B_24_HOURS != 0 {
            return self.coded(hour);
        }
        let afternoon = if hour >= 12 { HOUR_PM } else { 0 };
        self.coded((hour + 11) % 12 + 1) | afternoon
    }

    fn decoded_hour(&self, raw: u8) -> u8 {
        if self.s.ram[REGISTER_B] & B_24_HOURS != 0 {
            return self.decoded(raw);
        }
        let afternoon = if raw & HOUR_PM != 0 { 12 } else { 0 };
        self.decoded(raw & !HOUR_PM) % 12 + afternoon
    }

    fn is_set(&self) -> bool {
        self.s.ram[REGISTER_B] & B_SET != 0
    }

    /// The 32.768 kHz time base is the only one a PC has; any other divider setting stops the clock.
    fn divider_runs(&self) -> bool {
        self.s.ram[REGISTER_A] & A_DIVIDER == A_DIVIDER_32768
    }

    /// Update in progress: 244 us ahead of the update and 1984 us through it.
    fn updates(&self) -> bool {
        let phase = signed(self.s.now) - self.s.second_began;
        self.divider_runs() && !self.is_set() && phase >= SECOND - UPDATE_NS
    }

    fn pass_periods(&mut self, before: u64) {
        let Some(period) = self.period_ticks() else {
            return;
        };
        if crystal_ticks(before) / period != crystal_ticks(self.s.now) / period {
            self.s.flags |= PF;
        }
    }

    fn pass_seconds(&mut self) {
        let passed = (signed(self.s.now) - self.s.second_began) / SECOND;
        if passed <= 0 {
            return;
        }
        self.s.second_began += passed * SECOND;
        if self.is_set() {
            return;
        }
        self.s.flags |= UF;
        if self.seconds_to_alarm().is_some_and(|at| at <= passed) {
            self.s.flags |= AF;
        }
        self.s.seconds = (self.s.seconds + passed).min(LAST_SECOND);
    }

    /// Seconds until the alarm bytes match, 1 to 86400; `None` when they never do.
    fn seconds_to_alarm(&self) -> Option<i64> {
        let matches = |index: usize, shown: u8| {
            let alarm = self.s.ram[index];
            alarm >= ALARM_ANY || alarm == shown
        };
        let mut ahead = 1;
        while ahead <= 86_400 {
            let of_day = (self.s.seconds + ahead).rem_euclid(86_400);
            let time = Calendar::from_seconds(of_day);
            if !matches(ALARM_HOUR, self.coded_hour(time.hour)) {
                ahead += 3600 - of_day % 3600;
            } else if !matches(ALARM_MINUTE, self.coded(time.minute)) {
                ahead += 60 - of_day % 60;
            } else if !matches(ALARM_SECOND, self.coded(time.second)) {
                ahead += 1;
            } else {
                return Some(ahead);
            }
        }
        None
    }

    /// When the `count`-th second from now begins.
    fn second_at(&self, count: i64) -> u64 {
        u64::try_from(self.s.second_began + count * SECOND).unwrap_or(0)
    }

    fn next_period(&self) -> Option<u64> {
        let period = self.period_ticks()?;
        let tick = (crystal_ticks(self.s.now) / period + 1) * period;
        u64::try_from((tick * 1_000_000_000).div_ceil(32_768)).ok()
    }

    /// Period of the periodic interrupt in ticks of the crystal (data sheet, table 5).
    fn period_ticks(&self) -> Option<u128> {
        match self.s.ram[REGISTER_A] & 0xf {
            0 => None,
            rate @ (1 | 2) => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }
}

impl TryFrom<Mc146818State> for Mc146818 {
    type Error = InvalidState;

    fn try_from(s: Mc146818State) -> Result<Self, InvalidState> {
        let ok = |valid, field| check(valid, "MC146818", field);
        ok(s.index < 0x80, "index")?;
        ok(s.ram.len() == RAM_SIZE, "ram")?;
        ok(s.flags & !(PF | AF | UF) == 0, "flags")?;
        ok((0..=LAST_SECOND).contains(&s.seconds), "seconds")?;
        ok(s.weekday_offset < 7, "weekday_offset")?;
        let phase = i128::from(s.now) - i128::from(s.second_began);
        ok(s.now <= LAST_NS, "now")?;
        // While the divider is stopped the phase may grow without bound.
        ok(phase >= 0 && s.second_began >= -SECOND, "second_began")?;
        Ok(Self {
            s,
            accesses: Accesses::default(),
            interrupts: 0,
        })
    }
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns.min(LAST_NS)).expect("below LAST_NS")
}

fn crystal_ticks(ns: u64) -> u128 {
    u128::from(ns) * 32_768 / 1_000_000_000
}

fn is_time(index: usize) -> bool {
    TIME_BYTES.contains(&index)
}

fn time_slot(index: usize) -> usize {
    TIME_BYTES
        .iter()
        .position(|&at| at == index)
        .expect("asked after is_time")
}

const RAM_SIZE: usize = 128;
// Data sheet, figure 8 (address map), and the century byte of the PC.
const TIME_BYTES: [usize; 8] = [0, 2, 4, 6, 7, 8, 9, 0x32];
const ALARM_SECOND: usize = 1;
const ALARM_MINUTE: usize = 3;
const ALARM_HOUR: usize = 5;
const REGISTER_A: usize = 0x0a;
const REGISTER_B: usize = 0x0b;
const REGISTER_C: usize = 0x0c;
const REGISTER_D: usize = 0x0d;
const A_UIP: u8 = 1 << 7;
const A_DIVIDER: u8 = 0b111 << 4;
const A_DIVIDER_32768: u8 = 0b010 << 4;
// Register B's enables and register C's flags sit at the same bits.
const PF: u8 = 1 << 6;
const AF: u8 = 1 << 5;
const UF: u8 = 1 << 4;
const B_SET: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
const D_VALID: u8 = 1 << 7;
const HOUR_PM: u8 = 1 << 7;
/// Alarm bytes from here up match any value ("don't care" codes).
const ALARM_ANY: u8 = 0xc0;
const SECOND: i64 = 1_000_000_000;
const HALF_SECOND: i64 = SECOND / 2;
const UPDATE_NS: i64 = (244 + 1984) * 1000;
/// 9999-12-31 23:59:59: the clock stays there.
const LAST_SECOND: i64 = 253_402_300_799;
/// 292 years: times beyond it count as it.
const LAST_NS: u64 = i64::MAX as u64 / 2;

#[cfg(test)]
mod tests;
