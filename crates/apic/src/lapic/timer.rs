//! The timer of the local APIC (SDM 11.5.4).

use super::registers::DIVIDE_WRITABLE;

/// Saved state of the timer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TimerState {
    /// Initial count register.
    pub initial_count: u32,
    /// Divide configuration register.
    pub divide: u32,
    /// The tick of the undivided clock at which the count reaches zero.
    pub expiry: Option<u64>,
    /// `IA32_TSC_DEADLINE`; zero when disarmed.
    pub tsc_deadline: u64,
}

/// The LVT timer entry's mode field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

/// Now, in the units of both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timebase {
    pub(super) now: u64,
    pub(super) timer_hz: u64,
    pub(super) tsc_hz: u64,
    pub(super) tsc_offset: u64,
}

pub(super) fn mode_of(entry: u32) -> Mode {
    match entry >> 17 & 3 {
        0 => Mode::OneShot,
        1 => Mode::Periodic,
        2 => Mode::TscDeadline,
        _ => Mode::Reserved,
    }
}

impl TimerState {
    pub(super) fn is_legal(&self) -> bool {
        self.divide & !DIVIDE_WRITABLE == 0 && (self.expiry.is_none() || self.initial_count != 0)
    }

    /// Lets what is due expire; answers whether an interrupt is due.
    pub(super) fn expire(&mut self, mode: Mode, at: Timebase) -> bool {
        match mode {
            Mode::TscDeadline => self.expire_deadline(at.tsc()),
            Mode::OneShot | Mode::Reserved => self.expire_count(at.tick()),
            Mode::Periodic => self.expire_period(at.tick()),
        }
    }

    /// When [`expire`](Self::expire) is next due, in nanoseconds.
    pub(super) fn deadline(&self, mode: Mode, at: Timebase) -> Option<u64> {
        if mode != Mode::TscDeadline {
            return self.expiry.map(|tick| ns_at(tick, at.timer_hz));
        }
        if self.tsc_deadline == 0 {
            return None;
        }
        let left = self.tsc_deadline.saturating_sub(at.tsc());
        Some(ns_at(ticks_at(at.now, at.tsc_hz).saturating_add(left), at.tsc_hz).max(at.now))
    }

    pub(super) fn set_initial_count(&mut self, mode: Mode, count: u32, at: Timebase) {
        // "In TSC-deadline mode, writes to the initial-count register are ignored".
        if mode == Mode::TscDeadline {
            return;
        }
        self.initial_count = count;
        self.expiry = (count != 0).then(|| at.tick().saturating_add(self.ticks_of(count)));
    }

    pub(super) fn current_count(&self, at: Timebase) -> u32 {
        let Some(expiry) = self.expiry else { return 0 };
        let left = expiry.saturating_sub(at.tick()).div_ceil(self.divisor());
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    pub(super) fn set_divide(&mut self, value: u32, at: Timebase) {
        let count = self.current_count(at);
        self.divide = value & DIVIDE_WRITABLE;
        if self.expiry.is_some() {
            self.expiry = Some(at.tick().saturating_add(self.ticks_of(count)));
        }
    }

    /// "A write to the LVT Timer Register that changes the timer mode disarms the local APIC
    /// timer", for changes from and to TSC-deadline mode.
    pub(super) fn mode_changed(&mut self, was: Mode, is: Mode) {
        if (was == Mode::TscDeadline) != (is == Mode::TscDeadline) {
            self.expiry = None;
            self.tsc_deadline = 0;
        }
    }

    fn expire_deadline(&mut self, tsc: u64) -> bool {
        let due = self.tsc_deadline != 0 && tsc >= self.tsc_deadline;
        if due {
            self.tsc_deadline = 0;
        }
        due
    }

    fn expire_count(&mut self, tick: u64) -> bool {
        let due = self.expiry.is_some_and(|expiry| tick >= expiry);
        if due {
            self.expiry = None;
        }
        due
    }

    /// Periods that passed together make one interrupt: IRR holds no more.
    fn expire_period(&mut self, tick: u64) -> bool {
        let Some(expiry) = self.expiry.filter(|&expiry| tick >= expiry) else {
            return false;
        };
        let period = self.ticks_of(self.initial_count);
        let periods = (tick - expiry) / period + 1;
        self.expiry = Some(expiry.saturating_add(periods.saturating_mul(period)));
        true
    }

    fn ticks_of(&self, count: u32) -> u64 {
        u64::from(count) * self.divisor()
    }

    /// Figure 11-10: bits 3, 1, 0 count up from "divide by 2"; 111 is "divide by 1".
    fn divisor(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        1 << ((code + 1) & 7)
    }
}

impl Timebase {
    fn tick(self) -> u64 {
        ticks_at(self.now, self.timer_hz)
    }

    pub(super) fn tsc(self) -> u64 {
        ticks_at(self.now, self.tsc_hz).wrapping_add(self.tsc_offset)
    }
}

/// Ticks from time zero to `ns`.
fn ticks_at(ns: u64, hz: u64) -> u64 {
    let ticks = u128::from(ns) * u128::from(hz) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// The first nanosecond at which `tick` has come.
fn ns_at(tick: u64, hz: u64) -> u64 {
    let ns = (u128::from(tick) * 1_000_000_000).div_ceil(u128::from(hz));
    u64::try_from(ns).unwrap_or(u64::MAX)
}
