//! The 8254 programmable interval timer and the port 0x61 that gates and reads its channel 2.
//!
//! References: Intel 82C54 data sheet (231244-006); Intel 82371SB (PIIX3) data sheet, 2.5.4
//! (NMI status and control register).

pub(crate) mod channel;

use crate::accesses::{Accesses, each_byte_read, each_byte_write};
use crate::state_error::InvalidState;
use channel::{Channel, ChannelState};

/// Saved state of an [`I8254`]; untrusted until `TryFrom` accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct I8254State {
    /// The three counters.
    pub channels: [ChannelState; 3],
    /// CLK pulses since time zero.
    pub tick: u64,
    /// The writable bits of port 0x61: speaker data, parity and channel check enables.
    pub port_61: u8,
}

/// Three counters clocked at 105/88 MHz, with exact counting on the time handed in.
///
/// Registers: 0x40 to 0x43 and 0x61. Channel 0 drives IRQ 0 through [`irq`](Self::irq).
#[derive(Clone, Debug)]
pub struct I8254 {
    channels: [Channel; 3],
    tick: u64,
    port_61: u8,
    accesses: Accesses<5>,
    interrupts: u64,
}

impl Default for I8254 {
    fn default() -> Self {
        Self::new()
    }
}

impl I8254 {
    /// The port ranges of the device: first port and count.
    pub const PORTS: &'static [(u16, u16)] = &[(0x40, 4), (0x61, 1)];

    /// A timer that was never programmed, at time zero: no channel counts.
    #[must_use]
    pub fn new() -> Self {
        let mut channels = [Channel::new(), Channel::new(), Channel::new()];
        channels[2].set_gate(false);
        Self {
            channels,
            tick: 0,
            port_61: 0,
            accesses: Accesses::default(),
            interrupts: 0,
        }
    }

    /// Moves time to `now` nanoseconds; an earlier time than the last one changes nothing.
    ///
    /// Costs a few operations per channel however far time moves. [`irq`](Self::irq) shows the
    /// level at `now` only: to see every edge, advance to each [`next_deadline`](Self::next_deadline).
    pub fn advance(&mut self, now: u64) {
        let tick = ticks_at(now);
        let Some(elapsed) = tick.checked_sub(self.tick) else {
            return;
        };
        let before = self.irq();
        for channel in &mut self.channels {
            channel.advance(elapsed);
        }
        self.tick = tick;
        self.interrupts += u64::from(!before && self.irq());
    }

    /// When the level of [`irq`](Self::irq) changes next, in nanoseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let ticks = self.channels[0].ticks_to_output_change()?;
        Some(ns_of(self.tick.saturating_add(ticks)))
    }

    /// Reads bytes from consecutive ports; a port that is not the device's reads as 0xff.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        each_byte_read(port, data, |port| self.read_byte(port));
    }

    /// Writes bytes to consecutive ports; a port that is not the device's ignores them.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        each_byte_write(port, data, |port, value| self.write_byte(port, value));
    }

    /// OUT of channel 0, wired to IRQ 0.
    #[must_use]
    pub fn irq(&self) -> bool {
        self.channels[0].output()
    }

    /// What the speaker hears: OUT of channel 2 when port 0x61 bit 1 lets it through.
    #[must_use]
    pub fn speaker(&self) -> bool {
        self.port_61 & SPEAKER_DATA != 0 && self.channels[2].output()
    }

    /// Byte accesses by register: 0x40, 0x41, 0x42, 0x43, 0x61.
    #[must_use]
    pub fn accesses(&self) -> &Accesses<5> {
        &self.accesses
    }

    /// Rising edges of channel 0 that [`advance`](Self::advance) stopped at.
    #[must_use]
    pub fn interrupts(&self) -> u64 {
        self.interrupts
    }

    /// A copy of the architectural state.
    #[must_use]
    pub fn state(&self) -> I8254State {
        let channels = [0, 1, 2].map(|i: usize| self.channels[i].state());
        I8254State {
            channels,
            tick: self.tick,
            port_61: self.port_61,
        }
    }

    fn read_byte(&mut self, port: u16) -> u8 {
        let Some(register) = register_of(port) else {
            return 0xff;
        };
        self.accesses.count_read(register);
        match register {
            PORT_61 => self.read_port_61(),
            // "Counter and mode word: no-operation" on a read of the control word.
            CONTROL => 0xff,
            counter => self.channels[counter].read(),
        }
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        let Some(register) = register_of(port) else {
            return;
        };
        self.accesses.count_write(register);
        match register {
            PORT_61 => {
                self.port_61 = value & PORT_61_WRITABLE;
                self.channels[2].set_gate(value & GATE_2 != 0);
            }
            CONTROL => self.write_control(value),
            counter => self.channels[counter].write(value),
        }
    }

    fn write_control(&mut self, value: u8) {
        match usize::from(value >> 6) {
            READ_BACK => {
                for (i, channel) in self.channels.iter_mut().enumerate() {
                    if value & (2 << i) != 0 {
                        channel
                            .read_back(value & NO_LATCH_COUNT == 0, value & NO_LATCH_STATUS == 0);
                    }
                }
            }
            counter if value & RW_BITS == 0 => self.channels[counter].latch_count(),
            counter => self.channels[counter].set_control(value),
        }
    }

    fn read_port_61(&self) -> u8 {
        // The refresh request toggles each time channel 1 would ask for one, every 18 CLK pulses
        // (15 us), whatever the guest makes of channel 1: there is no DRAM to refresh.
        let refresh = if self.tick / REFRESH_TICKS % 2 == 1 {
            REFRESH_TOGGLE
        } else {
            0
        };
        let out2 = if self.channels[2].output() { OUT_2 } else { 0 };
        self.port_61 | refresh | out2
    }
}

impl TryFrom<I8254State> for I8254 {
    type Error = InvalidState;

    fn try_from(state: I8254State) -> Result<Self, InvalidState> {
        let [a, b, c] = state.channels;
        let channels = [
            Channel::restore(a)?,
            Channel::restore(b)?,
            Channel::restore(c)?,
        ];
        crate::state_error::check(
            state.port_61 & !PORT_61_WRITABLE == 0
                && (state.port_61 & GATE_2 != 0) == channels[2].state().gate,
            "8254",
            "port_61",
        )?;
        Ok(Self {
            channels,
            tick: state.tick,
            port_61: state.port_61,
            accesses: Accesses::default(),
            interrupts: 0,
        })
    }
}

/// CLK pulses from time zero to `ns`: 14.31818 MHz / 12 is 105/88 MHz exactly.
fn ticks_at(ns: u64) -> u64 {
    u64::try_from(u128::from(ns) * 105 / 88_000).unwrap_or(u64::MAX)
}

/// The first nanosecond at which pulse `tick` has happened.
fn ns_of(tick: u64) -> u64 {
    u64::try_from((u128::from(tick) * 88_000).div_ceil(105)).unwrap_or(u64::MAX)
}

fn register_of(port: u16) -> Option<usize> {
    match port {
        0x40..=0x43 => Some(usize::from(port - 0x40)),
        0x61 => Some(PORT_61),
        _ => None,
    }
}

const CONTROL: usize = 3;
const PORT_61: usize = 4;
// Control word, 82C54 "Programming": bits 7:6 select the counter, 11 is read-back.
const READ_BACK: usize = 3;
const RW_BITS: u8 = 0b11 << 4;
const NO_LATCH_COUNT: u8 = 1 << 5;
const NO_LATCH_STATUS: u8 = 1 << 4;
// NMI status and control, PIIX3 2.5.4.
const GATE_2: u8 = 1 << 0;
const SPEAKER_DATA: u8 = 1 << 1;
const PORT_61_WRITABLE: u8 = 0x0f;
const REFRESH_TOGGLE: u8 = 1 << 4;
const OUT_2: u8 = 1 << 5;
const REFRESH_TICKS: u64 = 18;

#[cfg(test)]
mod tests;
