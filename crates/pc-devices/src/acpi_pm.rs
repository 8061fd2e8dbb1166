//! ACPI fixed hardware: `PM1a` event and control, the PM timer and an empty GPE block.
//!
//! Reference: ACPI 6.5, 4.8.3 (fixed hardware registers) and 4.8.4.1 (GPE blocks).

use crate::accesses::{Accesses, each_byte_read, each_byte_write};
use crate::state_error::{InvalidState, check};

/// Width of the PM timer's counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum TimerWidth {
    /// 24 bits: wraps after 4.7 s.
    Bits24,
    /// 32 bits: wraps after 20 minutes; the FADT says so with `TMR_VAL_EXT`.
    Bits32,
}

/// The fixed-feature buttons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Button {
    /// Power button, PM1 bit 8.
    Power,
    /// Sleep button, PM1 bit 9.
    Sleep,
}

/// Saved state of an [`AcpiPm`]; untrusted until `TryFrom` accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AcpiPmState {
    /// First port of the register block.
    pub base: u16,
    /// Width of the timer.
    pub width: TimerWidth,
    /// PM1 status.
    pub pm1_status: u16,
    /// PM1 enable.
    pub pm1_enable: u16,
    /// PM1 control, without `SLP_EN`.
    pub pm1_control: u16,
    /// Timer ticks since time zero.
    pub tick: u64,
    /// `SLP_TYP` of a request that the machine has not taken yet.
    pub sleep: Option<u8>,
}

/// The ACPI power-management register block.
///
/// | offset | register |
/// |---|---|
/// | 0 | `PM1a_STS` (2 bytes), `PM1a_EN` (2) |
/// | 4 | `PM1a_CNT` (2) |
/// | 8 | `PM_TMR` (4) |
/// | 12 | `GPE0_STS` (2), `GPE0_EN` (2): no event is wired |
#[derive(Clone, Debug)]
pub struct AcpiPm {
    s: AcpiPmState,
    accesses: Accesses<16>,
}

impl AcpiPm {
    /// Length of the register block in ports.
    pub const LENGTH: u16 = 16;
    /// Offset of `PM1a_CNT` in the block.
    pub const PM1A_CONTROL: u16 = 4;
    /// Offset of the timer in the block.
    pub const PM_TIMER: u16 = 8;
    /// Offset of the GPE0 block.
    pub const GPE0: u16 = 12;

    /// A block at port `base`, in ACPI mode already (`SCI_EN` set, as with no SMI command port).
    #[must_use]
    pub fn new(base: u16, width: TimerWidth) -> Self {
        let s = AcpiPmState {
            base,
            width,
            pm1_status: 0,
            pm1_enable: 0,
            pm1_control: SCI_EN,
            tick: 0,
            sleep: None,
        };
        Self {
            s,
            accesses: Accesses::default(),
        }
    }

    /// Moves time to `now` nanoseconds; an earlier time than the last one changes nothing.
    pub fn advance(&mut self, now: u64) {
        let tick = ticks_at(now);
        if tick <= self.s.tick {
            return;
        }
        // TMR_STS: "set any time the most significant bit of the counter changes".
        let half = 1u64 << (self.bits() - 1);
        if tick / half != self.s.tick / half {
            self.s.pm1_status |= TMR;
        }
        self.s.tick = tick;
    }

    /// When [`sci`](Self::sci) rises next by itself, in nanoseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let s = &self.s;
        if s.pm1_enable & TMR == 0 || s.pm1_status & TMR != 0 || s.pm1_control & SCI_EN == 0 {
            return None;
        }
        let half = 1u64 << (self.bits() - 1);
        Some(ns_of(
            (s.tick / half).saturating_add(1).saturating_mul(half),
        ))
    }

    /// Reads bytes from consecutive ports; a port that is not the device's reads as 0xff.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        each_byte_read(port, data, |port| self.read_byte(port));
    }

    /// Writes bytes to consecutive ports; a port that is not the device's ignores them.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        each_byte_write(port, data, |port, value| self.write_byte(port, value));
    }

    /// The system control interrupt, a level.
    #[must_use]
    pub fn sci(&self) -> bool {
        self.s.pm1_control & SCI_EN != 0 && self.s.pm1_status & self.s.pm1_enable != 0
    }

    /// Notes that a button was pressed.
    pub fn press(&mut self, button: Button) {
        self.s.pm1_status |= match button {
            Button::Power => PWRBTN,
            Button::Sleep => SLPBTN,
        };
    }

    /// Takes the sleep type (`SLP_TYP`, 0 to 7) of a request to sleep or power off.
    pub fn take_sleep(&mut self) -> Option<u8> {
        self.s.sleep.take()
    }

    /// The counter of the PM timer.
    #[must_use]
    pub fn timer(&self) -> u32 {
        let mask = (1u64 << self.bits()) - 1;
        u32::try_from(self.s.tick & mask).expect("masked to 32 bits")
    }

    /// Byte accesses by offset in the block.
    #[must_use]
    pub fn accesses(&self) -> &Accesses<16> {
        &self.accesses
    }

    /// A copy of the architectural state.
    #[must_use]
    pub fn state(&self) -> AcpiPmState {
        self.s.clone()
    }

    fn bits(&self) -> u32 {
        match self.s.width {
            TimerWidth::Bits24 => 24,
            TimerWidth::Bits32 => 32,
        }
    }

    fn offset_of(&self, port: u16) -> Option<usize> {
        let offset = port.checked_sub(self.s.base)?;
        (offset < Self::LENGTH).then(|| usize::from(offset))
    }

    fn read_byte(&mut self, port: u16) -> u8 {
        let Some(offset) = self.offset_of(port) else {
            return 0xff;
        };
        self.accesses.count_read(offset);
        let s = &self.s;
        match offset {
            0 | 1 => s.pm1_status.to_le_bytes()[offset],
            2 | 3 => s.pm1_enable.to_le_bytes()[offset - 2],
            4 | 5 => s.pm1_control.to_le_bytes()[offset - 4],
            8..=11 => self.timer().to_le_bytes()[offset - 8],
            _ => 0,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        let Some(offset) = self.offset_of(port) else {
            return;
        };
        self.accesses.count_write(offset);
        let high = offset % 2 == 1;
        let wide = u16::from(value) << if high { 8 } else { 0 };
        let kept = if high { 0x00ff } else { 0xff00 };
        let s = &mut self.s;
        match offset {
            // Status bits are cleared by writing ones.
            0 | 1 => s.pm1_status &= !wide,
            2 | 3 => s.pm1_enable = (s.pm1_enable & kept | wide) & ENABLES,
            // SCI_EN belongs to the hardware: "Software ... should preserve this bit".
            4 | 5 => {
                let written = (s.pm1_control & kept | wide) & CONTROL_WRITABLE;
                s.pm1_control = written | s.pm1_control & SCI_EN;
                if wide & SLP_EN != 0 {
                    s.sleep = Some(value >> 2 & 7);
                }
            }
            _ => {}
        }
    }
}

impl TryFrom<AcpiPmState> for AcpiPm {
    type Error = InvalidState;

    fn try_from(s: AcpiPmState) -> Result<Self, InvalidState> {
        let ok = |valid, field| check(valid, "ACPI PM", field);
        ok(s.base.checked_add(Self::LENGTH).is_some(), "base")?;
        ok(s.pm1_enable & !ENABLES == 0, "pm1_enable")?;
        ok(
            s.pm1_control & !(CONTROL_WRITABLE | SCI_EN) == 0,
            "pm1_control",
        )?;
        ok(s.pm1_status & !STATUSES == 0, "pm1_status")?;
        ok(s.sleep.is_none_or(|sleep| sleep < 8), "sleep")?;
        Ok(Self {
            s,
            accesses: Accesses::default(),
        })
    }
}

/// Ticks of the 3.579545 MHz clock, 315/88 MHz exactly.
fn ticks_at(ns: u64) -> u64 {
    u64::try_from(u128::from(ns) * 315 / 88_000).unwrap_or(u64::MAX)
}

fn ns_of(tick: u64) -> u64 {
    u64::try_from((u128::from(tick) * 88_000).div_ceil(315)).unwrap_or(u64::MAX)
}

// ACPI 6.5, tables 4.11 to 4.13.
const TMR: u16 = 1 << 0;
const GBL: u16 = 1 << 5;
const PWRBTN: u16 = 1 << 8;
const SLPBTN: u16 = 1 << 9;
const RTC: u16 = 1 << 10;
const WAK: u16 = 1 << 15;
const ENABLES: u16 = TMR | GBL | PWRBTN | SLPBTN | RTC;
const STATUSES: u16 = ENABLES | WAK;
const SCI_EN: u16 = 1 << 0;
const SLP_EN: u16 = 1 << 13;
const CONTROL_WRITABLE: u16 = 1 << 1 | 0b111 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn outw(pm: &mut AcpiPm, offset: u16, value: u16) {
        pm.write(0x600 + offset, &value.to_le_bytes());
    }

    fn inl(pm: &mut AcpiPm, offset: u16) -> u32 {
        let mut data = [0; 4];
        pm.read(0x600 + offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_timer_runs_at_3_579545_mhz() {
        let mut pm = AcpiPm::new(0x600, TimerWidth::Bits24);
        pm.advance(1_000_000_000);
        assert_eq!(inl(&mut pm, 8), 3_579_545);
        pm.advance(5_000_000_000);
        assert_eq!(inl(&mut pm, 8), 17_897_727 - (1 << 24), "wrapped");
    }

    #[test]
    fn a_32_bit_timer_wraps_later() {
        let mut pm = AcpiPm::new(0x600, TimerWidth::Bits32);
        pm.advance(5_000_000_000);
        assert_eq!(inl(&mut pm, 8), 17_897_727);
        pm.advance(u64::MAX);
        assert!(pm.next_deadline().is_none());
    }

    #[test]
    fn the_top_bit_raises_sci_when_enabled() {
        let mut pm = AcpiPm::new(0x600, TimerWidth::Bits24);
        outw(&mut pm, 2, 1);
        let deadline = pm.next_deadline().unwrap();
        pm.advance(deadline - 1);
        assert!(!pm.sci());
        pm.advance(deadline);
        assert!(pm.sci());
        assert_eq!(pm.timer(), 1 << 23);
        outw(&mut pm, 0, 1);
        assert!(!pm.sci());
    }

    #[test]
    fn the_power_button_raises_sci() {
        let mut pm = AcpiPm::new(0x600, TimerWidth::Bits24);
        pm.press(Button::Power);
        assert!(!pm.sci());
        outw(&mut pm, 2, 1 << 8);
        assert!(pm.sci());
        outw(&mut pm, 0, 1 << 8);
        assert!(!pm.sci());
    }

    #[test]
    fn slp_en_hands_out_the_sleep_type() {
        let mut pm = AcpiPm::new(0x600, TimerWidth::Bits24);
        outw(&mut pm, 4, 5 << 10);
        assert_eq!(pm.take_sleep(), None);
        outw(&mut pm, 4, 5 << 10 | 1 << 13);
        assert_eq!(pm.take_sleep(), Some(5));
        assert_eq!(pm.take_sleep(), None);
        assert_eq!(
            inl(&mut pm, 4),
            5 << 10 | 1,
            "SLP_EN reads as zero, SCI_EN stays"
        );
    }

    #[test]
    fn foreign_ports_are_ignored() {
        let mut pm = AcpiPm::new(0x600, TimerWidth::Bits24);
        let mut data = [0; 3];
        pm.read(0x5ff, &mut data[..1]);
        assert_eq!(data[0], 0xff);
        pm.read(0x60f, &mut data);
        assert_eq!(data, [0, 0xff, 0xff]);
        pm.write(0xffff, &[1, 2, 3, 4]);
    }

    #[test]
    fn hostile_state_is_turned_down() {
        let mut state = AcpiPm::new(0x600, TimerWidth::Bits24).state();
        state.sleep = Some(9);
        assert_eq!(AcpiPm::try_from(state).unwrap_err().field, "sleep");
    }
}
