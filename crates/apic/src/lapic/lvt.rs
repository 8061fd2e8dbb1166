//! The local vector table and the two interrupt pins (SDM 11.5.1).

use super::registers::*;
use super::{LapicState, LocalApic, timer};
use crate::message::{DeliveryMode, Trigger};

impl LocalApic {
    pub(super) fn write_lvt(&mut self, index: usize, value: u32) {
        let old = self.s.lvt[index];
        let mut entry = value & LVT_WRITABLE[index] | old & LVT_REMOTE_IRR;
        // SDM 11.4.7.2: while software disabled, "attempts to reset [mask bits] will be ignored".
        if !self.is_software_enabled() {
            entry |= LVT_MASKED;
        }
        if entry & LVT_LEVEL == 0 {
            entry &= !LVT_REMOTE_IRR;
        }
        self.s.lvt[index] = entry;
        match index {
            TIMER => {
                let (was, is) = (timer::mode_of(old), timer::mode_of(entry));
                self.s.timer.mode_changed(was, is);
            }
            LINT0 | LINT1 if entry & LVT_LEVEL != 0 => self.lint_level(index - LINT0),
            _ => {}
        }
    }

    /// Masks every entry, as clearing the software enable bit does.
    pub(super) fn mask_all(&mut self) {
        for entry in &mut self.s.lvt {
            *entry |= LVT_MASKED;
        }
    }

    pub(super) fn lint_rose(&mut self, pin: usize) {
        if self.mode() == super::LapicMode::Disabled {
            self.s.nmi |= pin == 1;
            return;
        }
        let entry = self.s.lvt[LINT0 + pin];
        if entry & LVT_MASKED != 0 {
            return;
        }
        match delivery_of(entry) {
            Some(DeliveryMode::Fixed) if is_level(pin, entry) => self.lint_level(pin),
            Some(DeliveryMode::Fixed) => {
                self.accept_vector(entry.to_le_bytes()[0], Trigger::Edge);
            }
            Some(DeliveryMode::Smi) => self.s.smi = true,
            Some(DeliveryMode::Nmi) => self.s.nmi = true,
            Some(DeliveryMode::Init) => {
                self.init_reset();
                self.s.init = true;
            }
            // ExtINT follows the level of the pin.
            _ => {}
        }
    }

    /// Sends a level-triggered pin that is asserted, unmasked and not being served.
    fn lint_level(&mut self, pin: usize) {
        let entry = self.s.lvt[LINT0 + pin];
        let fixed = delivery_of(entry) == Some(DeliveryMode::Fixed);
        let free = entry & (LVT_MASKED | LVT_REMOTE_IRR) == 0;
        if self.s.lint[pin] && is_level(pin, entry) && fixed && free {
            self.s.lvt[LINT0 + pin] |= LVT_REMOTE_IRR;
            self.accept_vector(entry.to_le_bytes()[0], Trigger::Level);
        }
    }

    pub(super) fn lint_ended(&mut self, vector: u8) {
        for pin in 0..2 {
            let entry = &mut self.s.lvt[LINT0 + pin];
            if entry.to_le_bytes()[0] == vector && *entry & LVT_REMOTE_IRR != 0 {
                *entry &= !LVT_REMOTE_IRR;
                self.lint_level(pin);
            }
        }
    }
}

pub(super) fn is_external(entry: u32) -> bool {
    entry & LVT_MASKED == 0 && delivery_of(entry) == Some(DeliveryMode::ExtInt)
}

pub(super) fn is_legal(s: &LapicState) -> bool {
    let enabled = s.svr & SVR_ENABLED != 0;
    (0..).zip(s.lvt).all(|(index, entry): (usize, u32)| {
        let remote = if matches!(index, LINT0 | LINT1) {
            LVT_REMOTE_IRR
        } else {
            0
        };
        entry & !(LVT_WRITABLE[index] | remote) == 0
            && (enabled || entry & LVT_MASKED != 0)
            && (entry & LVT_LEVEL != 0 || entry & LVT_REMOTE_IRR == 0)
    })
}

/// "The local interrupt LINT1 ... does not support level sensitive interrupts" (SDM 11.5.1).
fn is_level(pin: usize, entry: u32) -> bool {
    pin == 0 && entry & LVT_LEVEL != 0
}

fn delivery_of(entry: u32) -> Option<DeliveryMode> {
    DeliveryMode::from_bits(((entry & LVT_DELIVERY) >> 8).to_le_bytes()[0])
}
