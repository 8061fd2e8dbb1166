//! One counter of the 8254.
//!
//! Time passes in CLK pulses. Between two events (load, terminal count, reload, end of strobe)
//! a pulse only decrements, so [`Channel::advance`] jumps from event to event and lets
//! [`Channel::pulse`] do each event as the data sheet's mode definitions say.

use crate::state_error::{InvalidState, check};

/// A latched count: what reads of the counter answer until it is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Latch {
    /// The value in the counter's own code (binary or BCD).
    pub count: u16,
}

/// Saved state of one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ChannelState {
    /// The low six bits of the last control word: RW, mode, BCD.
    pub control: u8,
    /// Count register as written.
    pub count_register: u16,
    /// Initial count of the period under way: 1 to 65536.
    pub initial: u32,
    /// Counting element: 0 to 65536.
    pub counting_element: u32,
    /// OUT.
    pub out: bool,
    /// GATE.
    pub gate: bool,
    /// A whole count was written since the control word.
    pub count_written: bool,
    /// A count was loaded since the control word.
    pub loaded: bool,
    /// The count register is not yet in the counting element.
    pub null_count: bool,
    /// The next CLK pulse loads the counting element.
    pub load_pending: bool,
    /// Terminal count will still change OUT.
    pub armed: bool,
    /// The low byte of a count whose high byte is yet to be written.
    pub low_byte: Option<u8>,
    /// The next byte read is the high one.
    pub read_high_next: bool,
    /// Latched count.
    pub latched_count: Option<Latch>,
    /// Latched status byte.
    pub latched_status: Option<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Channel {
    s: ChannelState,
}

impl Channel {
    pub(crate) fn new() -> Self {
        Self {
            s: ChannelState {
                control: 0,
                count_register: 0,
                initial: 0x1_0000,
                counting_element: 0,
                out: false,
                gate: true,
                count_written: false,
                loaded: false,
                null_count: true,
                load_pending: false,
                armed: false,
                low_byte: None,
                read_high_next: false,
                latched_count: None,
                latched_status: None,
            },
        }
    }

    pub(crate) fn restore(s: ChannelState) -> Result<Self, InvalidState> {
        check(s.control < 0x40, "8254", "control")?;
        let channel = Self { s };
        let largest = channel.modulus();
        check((1..=largest).contains(&s.initial.into()), "8254", "initial")?;
        check(
            u64::from(s.counting_element) <= largest,
            "8254",
            "counting_element",
        )?;
        Ok(channel)
    }

    pub(crate) fn state(&self) -> ChannelState {
        self.s
    }

    pub(crate) fn output(&self) -> bool {
        self.s.out
    }

    /// A control word that is not a latch command ("Control Word Format").
    pub(crate) fn set_control(&mut self, value: u8) {
        let gate = self.s.gate;
        // "CRM and CRL are cleared when the Counter is programmed".
        self.s = ChannelState {
            control: value & 0x3f,
            gate,
            ..Self::new().s
        };
        self.s.out = self.mode() != 0;
    }

    pub(crate) fn write(&mut self, value: u8) {
        let whole = match (self.s.control & RW_BITS, self.s.low_byte.take()) {
            (RW_LOW, _) => u16::from(value),
            (RW_HIGH, _) => u16::from(value) << 8,
            (RW_BOTH, Some(low)) => u16::from_le_bytes([low, value]),
            (RW_BOTH, None) => {
                self.s.low_byte = Some(value);
                // Mode 0: "Writing the first byte disables counting. OUT is set low immediately".
                if self.mode() == 0 {
                    self.s.out = false;
                }
                return;
            }
            // Never programmed.
            _ => return,
        };
        self.s.count_register = whole;
        self.s.null_count = true;
        self.s.count_written = true;
        self.whole_count_written();
    }

    pub(crate) fn read(&mut self) -> u8 {
        if let Some(status) = self.s.latched_status.take() {
            return status;
        }
        let count = self
            .s
            .latched_count
            .map_or_else(|| self.coded_count(), |latch| latch.count);
        let [low, high] = count.to_le_bytes();
        let (byte, last) = match self.s.control & RW_BITS {
            RW_LOW => (low, true),
            RW_HIGH => (high, true),
            _ => {
                self.s.read_high_next = !self.s.read_high_next;
                if self.s.read_high_next {
                    (low, false)
                } else {
                    (high, true)
                }
            }
        };
        if last {
            self.s.latched_count = None;
        }
        byte
    }

    /// Counter latch command: ignored while an earlier one is unread.
    pub(crate) fn latch_count(&mut self) {
        if self.s.latched_count.is_none() {
            self.s.latched_count = Some(Latch {
                count: self.coded_count(),
            });
        }
    }

    /// Read-back command.
    pub(crate) fn read_back(&mut self, count: bool, status: bool) {
        if count {
            self.latch_count();
        }
        if status && self.s.latched_status.is_none() {
            let s = &self.s;
            let out = u8::from(s.out) << 7;
            self.s.latched_status = Some(out | u8::from(s.null_count) << 6 | s.control);
        }
    }

    pub(crate) fn set_gate(&mut self, gate: bool) {
        let rising = gate && !self.s.gate;
        let falling = !gate && self.s.gate;
        self.s.gate = gate;
        let mode = self.mode();
        // "Gate Pin Operations Summary". A trigger with no count ever written loads nothing.
        if rising && matches!(mode, 1 | 2 | 3 | 5) && self.s.count_written {
            self.s.load_pending = true;
        }
        if falling && matches!(mode, 2 | 3) {
            self.s.out = true;
        }
    }

    /// Lets `pulses` CLK pulses pass.
    pub(crate) fn advance(&mut self, mut pulses: u64) {
        while let Some(distance) = self.next_event() {
            if pulses < distance {
                return self.count_down(pulses);
            }
            self.count_down(distance - 1);
            self.pulse();
            pulses -= distance;
            // Past a reload the periods are all alike.
            if let Some(period) = self.period() {
                pulses %= period;
            }
        }
        self.count_down(pulses);
    }

    /// CLK pulses until OUT changes, `None` when it does not by itself.
    pub(crate) fn ticks_to_output_change(&self) -> Option<u64> {
        let mut ahead = self.clone();
        let mut pulses = 0;
        // Load, terminal count, end of strobe: more events never pass without a change of OUT,
        // except in mode 2 with the illegal count 1.
        for _ in 0..4 {
            let distance = ahead.next_event()?;
            ahead.count_down(distance - 1);
            ahead.pulse();
            pulses += distance;
            if ahead.s.out != self.s.out {
                return Some(pulses);
            }
        }
        None
    }

    /// One CLK pulse.
    pub(crate) fn pulse(&mut self) {
        if self.s.load_pending {
            return self.load();
        }
        let strobe_ends = matches!(self.mode(), 4 | 5) && !self.s.out;
        if strobe_ends {
            self.s.out = true;
        }
        if !self.counts() {
            return;
        }
        match self.mode() {
            2 => self.pulse_rate_generator(),
            3 => self.pulse_square_wave(),
            _ => self.pulse_one_shot(),
        }
    }

    fn pulse_one_shot(&mut self) {
        self.decrement(1);
        if self.s.armed && self.s.counting_element == 0 {
            self.s.armed = false;
            self.s.out = matches!(self.mode(), 0 | 1);
        }
    }

    fn pulse_rate_generator(&mut self) {
        if self.s.counting_element <= 1 {
            self.load();
        } else {
            self.decrement(1);
            self.s.out = self.s.counting_element != 1;
        }
    }

    fn pulse_square_wave(&mut self) {
        if self.pulses_left_in_half() > 1 {
            self.decrement(2);
            return;
        }
        let out = !self.s.out;
        self.load();
        self.s.out = out;
    }

    /// Moves the count register into the counting element.
    fn load(&mut self) {
        let initial = self.initial_count();
        let mode = self.mode();
        let s = &mut self.s;
        s.load_pending = false;
        s.null_count = false;
        s.loaded = true;
        s.initial = initial;
        s.armed = true;
        // Mode 3 counts by two from an even number.
        s.counting_element = if mode == 3 { initial & !1 } else { initial };
        match mode {
            0 | 1 => s.out = false,
            _ => s.out = true,
        }
    }

    fn whole_count_written(&mut self) {
        match self.mode() {
            0 => {
                self.s.out = false;
                self.s.load_pending = true;
            }
            4 => self.s.load_pending = true,
            // The current period goes on with the old count.
            2 | 3 if !self.s.loaded => self.s.load_pending = true,
            _ => {}
        }
    }

    /// CLK pulses until the next one that does more than decrement.
    fn next_event(&self) -> Option<u64> {
        let s = &self.s;
        let strobe = matches!(self.mode(), 4 | 5) && !s.out;
        if s.load_pending || strobe {
            return Some(1);
        }
        if !self.counts() {
            return None;
        }
        match self.mode() {
            2 if s.counting_element > 2 => Some(u64::from(s.counting_element - 1)),
            2 => Some(1),
            3 => Some(self.pulses_left_in_half()),
            _ if !s.armed => None,
            _ if s.counting_element == 0 => Some(self.modulus()),
            _ => Some(u64::from(s.counting_element)),
        }
    }

    /// Decrements for `pulses` that carry no event.
    fn count_down(&mut self, pulses: u64) {
        if !self.counts() {
            return;
        }
        self.decrement(match self.mode() {
            3 => pulses * 2,
            _ => pulses,
        });
    }

    fn decrement(&mut self, by: u64) {
        // The full count is another state than zero: its first pulse is still to come.
        if by == 0 {
            return;
        }
        let modulus = self.modulus();
        let from = u64::from(self.s.counting_element) + modulus;
        let to = (from - by % modulus) % modulus;
        self.s.counting_element = u32::try_from(to).expect("below the modulus");
    }

    /// The period of a periodic mode once the count register is in use.
    fn period(&self) -> Option<u64> {
        if self.s.null_count || self.s.load_pending {
            return None;
        }
        match self.mode() {
            2 => Some(u64::from(self.s.initial)),
            // A count of 1 gives two halves of one pulse each.
            3 => Some(u64::from(self.s.initial.max(2))),
            _ => None,
        }
    }

    fn pulses_left_in_half(&self) -> u64 {
        // "Odd counts: ... one CLK pulse after the count expires": the high half has one more.
        let extra = u64::from(self.s.out && self.s.initial % 2 == 1);
        (u64::from(self.s.counting_element) / 2 + extra).max(1)
    }

    fn counts(&self) -> bool {
        let s = &self.s;
        let enabled = match self.mode() {
            0 => s.gate && s.low_byte.is_none(),
            1 | 5 => true,
            _ => s.gate,
        };
        s.loaded && enabled
    }

    fn mode(&self) -> u8 {
        match (self.s.control >> 1) & 7 {
            // Modes 2 and 3 are decoded without the top bit.
            mode @ (6 | 7) => mode - 4,
            mode => mode,
        }
    }

    fn is_bcd(&self) -> bool {
        self.s.control & BCD != 0
    }

    fn modulus(&self) -> u64 {
        if self.is_bcd() { 10_000 } else { 0x1_0000 }
    }

    /// The count register as a number; zero is the largest count.
    fn initial_count(&self) -> u32 {
        let raw = self.s.count_register;
        match (raw, self.is_bcd()) {
            (0, true) => 10_000,
            (0, false) => 0x1_0000,
            (_, true) => from_bcd(raw),
            (_, false) => u32::from(raw),
        }
    }

    /// The counting element in the counter's own code.
    fn coded_count(&self) -> u16 {
        let value = u64::from(self.s.counting_element) % self.modulus();
        let value = u16::try_from(value).expect("below the modulus");
        if self.is_bcd() { to_bcd(value) } else { value }
    }
}

/// 1 to 10000. Digits above 9 count as that many of their place: the data sheet says nothing.
fn from_bcd(raw: u16) -> u32 {
    let sum = [12, 8, 4, 0]
        .iter()
        .fold(0, |sum, shift| sum * 10 + u32::from((raw >> shift) & 0xf));
    (sum - 1) % 10_000 + 1
}

fn to_bcd(value: u16) -> u16 {
    [1000, 100, 10, 1]
        .iter()
        .fold(0, |coded, place| (coded << 4) | (value / place % 10))
}

const RW_BITS: u8 = 0b11 << 4;
const RW_LOW: u8 = 0b01 << 4;
const RW_HIGH: u8 = 0b10 << 4;
const RW_BOTH: u8 = 0b11 << 4;
const BCD: u8 = 1 << 0;
