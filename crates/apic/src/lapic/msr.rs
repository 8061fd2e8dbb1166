//! `IA32_APIC_BASE`, `IA32_TSC_DEADLINE` and the x2APIC registers (SDM 11.4.4, 11.5.4.1, 11.12).

use super::registers::*;
use super::{GeneralProtection, LapicMode, LocalApic, Output, mode_of, reset_registers, timer};
use crate::message::{Destination, Trigger};

impl LocalApic {
    /// Whether `index` is an MSR of the local APIC.
    #[must_use]
    pub fn owns_msr(index: u32) -> bool {
        matches!(
            index,
            IA32_APIC_BASE | IA32_TSC_DEADLINE | X2APIC_FIRST..=X2APIC_LAST
        )
    }

    /// RDMSR.
    ///
    /// # Errors
    ///
    /// #GP when there is no such register in the present mode.
    pub fn read_msr(&mut self, index: u32) -> Result<u64, GeneralProtection> {
        match index {
            IA32_APIC_BASE => Ok(self.s.apic_base),
            IA32_TSC_DEADLINE => Ok(self.s.timer.tsc_deadline),
            _ => {
                let register = self.x2apic_register(index)?;
                self.counters.reads[usize::from(register)] += 1;
                match register {
                    ID => Ok(self.config.id.into()),
                    LDR => Ok(self.x2apic_ldr().into()),
                    ICR_LOW => Ok(self.s.icr),
                    _ => self
                        .read_common(register)
                        .map(u64::from)
                        .ok_or(GeneralProtection { index }),
                }
            }
        }
    }

    /// WRMSR.
    ///
    /// # Errors
    ///
    /// #GP when there is no such register, it cannot be written, a reserved bit is set, or
    /// `IA32_APIC_BASE` would change mode in a way that SDM figure 11-27 does not have.
    pub fn write_msr(
        &mut self,
        index: u32,
        value: u64,
    ) -> Result<Option<Output>, GeneralProtection> {
        match index {
            IA32_APIC_BASE => self.write_base(value).map(|()| None),
            IA32_TSC_DEADLINE => {
                self.write_tsc_deadline(value);
                Ok(None)
            }
            _ => {
                let register = self.x2apic_register(index)?;
                self.counters.writes[usize::from(register)] += 1;
                self.write_x2apic(register, value)
                    .ok_or(GeneralProtection { index })
            }
        }
    }

    pub(super) fn is_legal_base(&self, value: u64) -> bool {
        let address = ((1u64 << self.config.physical_address_bits) - 1) & !0xfff;
        let x2apic = if self.config.x2apic { BASE_X2APIC } else { 0 };
        let known = address | BASE_BSP | BASE_ENABLED | x2apic;
        let extended_while_off = value & (BASE_ENABLED | BASE_X2APIC) == BASE_X2APIC;
        value & !known == 0 && !extended_while_off
    }

    fn write_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        let (was, is) = (self.mode(), mode_of(value));
        let forbidden = matches!(
            (was, is),
            (LapicMode::Disabled, LapicMode::X2Apic) | (LapicMode::X2Apic, LapicMode::XApic)
        );
        if forbidden || !self.is_legal_base(value) {
            return Err(GeneralProtection {
                index: IA32_APIC_BASE,
            });
        }
        self.s.apic_base = value;
        // "When [the APIC] is re-enabled its state is that of power-up or reset" (SDM 11.4.3).
        if is == LapicMode::Disabled {
            reset_registers(&mut self.s);
            self.s.xapic_id = self.config.id.to_le_bytes()[0];
        }
        Ok(())
    }

    /// "In other timer modes (LVT bit 18 = 0), the `IA32_TSC_DEADLINE` MSR reads zero and writes are
    /// ignored" (SDM 11.5.4.1).
    fn write_tsc_deadline(&mut self, value: u64) {
        if timer::mode_of(self.s.lvt[TIMER]) != timer::Mode::TscDeadline {
            return;
        }
        self.s.timer.tsc_deadline = value;
        let at = self.timebase();
        if self.s.timer.expire(timer::Mode::TscDeadline, at) {
            self.timer_expired();
        }
    }

    fn x2apic_register(&self, index: u32) -> Result<u8, GeneralProtection> {
        let register = index
            .checked_sub(X2APIC_FIRST)
            .and_then(|i| u8::try_from(i).ok());
        match register {
            Some(register @ 0..64) if self.mode() == LapicMode::X2Apic => Ok(register),
            _ => Err(GeneralProtection { index }),
        }
    }

    /// `None` is #GP.
    fn write_x2apic(&mut self, register: u8, value: u64) -> Option<Option<Output>> {
        if register == ICR_LOW {
            let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
            let low = u32::from_le_bytes([a, b, c, d]);
            if low & !ICR_WRITABLE != 0 {
                return None;
            }
            self.s.icr = value;
            let id = u32::from_le_bytes([e, f, g, h]);
            let destination = Destination::from_word(id, low & ICR_LOGICAL != 0);
            return Some(self.send(low, destination));
        }
        let value = u32::try_from(value).ok()?;
        if value & !x2apic_writable(register)? != 0 {
            return None;
        }
        match register {
            EOI => return Some(self.end_of_interrupt()),
            ESR => self.latch_errors(),
            SELF_IPI => drop(self.accept_vector(value.to_le_bytes()[0], Trigger::Edge)),
            _ => assert!(
                self.write_common(register, value),
                "x2apic_writable lists {register:#x}"
            ),
        }
        Some(None)
    }
}

/// The bits that may be written without #GP, `None` for a register that is read only or absent.
fn x2apic_writable(register: u8) -> Option<u32> {
    Some(match register {
        TPR | SELF_IPI => 0xff,
        EOI | ESR => 0,
        SVR => SVR_WRITABLE,
        LVT..=LVT_LAST => LVT_WRITABLE[usize::from(register - LVT)],
        INITIAL_COUNT => u32::MAX,
        DIVIDE => DIVIDE_WRITABLE,
        _ => return None,
    })
}
