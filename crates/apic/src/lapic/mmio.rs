//! The xAPIC register page (SDM 11.4.1), and what registers do in both modes.

use super::registers::*;
use super::{LapicMode, LocalApic, Output, timer};
use crate::message::{DeliveryMode, Destination, Message, Shorthand, Trigger};

impl LocalApic {
    /// Reads at `offset` of the register page.
    ///
    /// Registers answer whole or in part within their double word; the rest of each 16 bytes, and
    /// the page in any other mode than xAPIC, read as zero and all ones respectively.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        if self.mode() != LapicMode::XApic {
            return data.fill(0xff);
        }
        data.fill(0);
        let Some((register, within)) = split(offset) else {
            return;
        };
        let bytes = self.read_xapic(register).to_le_bytes();
        if let Some(part) = bytes.get(within..within + data.len()) {
            data.copy_from_slice(part);
        }
    }

    /// Writes at `offset` of the register page. Only aligned double words are taken: the effect of
    /// others is undefined (SDM 11.4.1).
    #[must_use = "the machine must route what the write sends"]
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Option<Output> {
        let word = <[u8; 4]>::try_from(data).map(u32::from_le_bytes).ok()?;
        let (register, within) = split(offset)?;
        if within != 0 || self.mode() != LapicMode::XApic {
            return None;
        }
        self.write_xapic(register, word)
    }

    fn read_xapic(&mut self, register: u8) -> u32 {
        self.counters.reads[usize::from(register)] += 1;
        match register {
            ID => u32::from(self.s.xapic_id) << 24,
            LDR => self.s.ldr,
            DFR => self.s.dfr,
            ICR_HIGH => high_word(self.s.icr),
            // Not kept by processors since the Pentium 4.
            APR | RRD | EOI => 0,
            _ => self.read_common(register).unwrap_or_else(|| {
                self.raise_error(ESR_ILLEGAL_REGISTER);
                0
            }),
        }
    }

    fn write_xapic(&mut self, register: u8, value: u32) -> Option<Output> {
        self.counters.writes[usize::from(register)] += 1;
        match register {
            LDR => self.s.ldr = value & LDR_BITS,
            DFR => self.s.dfr = value | !DFR_BITS,
            ESR => self.latch_errors(),
            EOI => return self.end_of_interrupt(),
            ICR_HIGH => {
                self.s.icr = u64::from(value & 0xff00_0000) << 32 | self.s.icr & 0xffff_ffff;
            }
            ICR_LOW => {
                self.s.icr = self.s.icr & !0xffff_ffff | u64::from(value & ICR_WRITABLE);
                let id = high_word(self.s.icr).to_le_bytes()[3];
                let destination = Destination::from_byte(id, value & ICR_LOGICAL != 0);
                return self.send(value, destination);
            }
            // "Processor model specific" (SDM 11.4.6); processors with x2APIC have it read only.
            ID if !self.config.x2apic => self.s.xapic_id = value.to_le_bytes()[3],
            // Read only; a write is no error of ESR's.
            ID | VERSION | APR | PPR | RRD | ISR..=IRR_LAST | CURRENT_COUNT => {}
            _ if self.write_common(register, value) => {}
            _ => self.raise_error(ESR_ILLEGAL_REGISTER),
        }
        None
    }

    /// Registers that read alike in both modes.
    pub(super) fn read_common(&self, register: u8) -> Option<u32> {
        let s = &self.s;
        Some(match register {
            VERSION => VERSION_VALUE,
            TPR => s.tpr.into(),
            PPR => self.processor_priority().into(),
            SVR => s.svr,
            ISR..=ISR_LAST => s.isr[usize::from(register - ISR)],
            TMR..=TMR_LAST => s.tmr[usize::from(register - TMR)],
            IRR..=IRR_LAST => s.irr[usize::from(register - IRR)],
            ESR => s.esr,
            ICR_LOW => low_word(s.icr),
            LVT..=LVT_LAST => s.lvt[usize::from(register - LVT)],
            INITIAL_COUNT => s.timer.initial_count,
            CURRENT_COUNT => s.timer.current_count(self.timebase()),
            DIVIDE => s.timer.divide,
            _ => return None,
        })
    }

    /// Registers that are written alike in both modes; `false` when there is no such register.
    pub(super) fn write_common(&mut self, register: u8, value: u32) -> bool {
        match register {
            TPR => self.s.tpr = value.to_le_bytes()[0],
            SVR => self.write_svr(value),
            LVT..=LVT_LAST => self.write_lvt(usize::from(register - LVT), value),
            INITIAL_COUNT => {
                let (mode, at) = (timer::mode_of(self.s.lvt[TIMER]), self.timebase());
                self.s.timer.set_initial_count(mode, value, at);
            }
            DIVIDE => {
                let at = self.timebase();
                self.s.timer.set_divide(value, at);
            }
            _ => return false,
        }
        true
    }

    /// "A write (of any value) to the ESR must be done ... to update its contents" (SDM 11.5.3).
    pub(super) fn latch_errors(&mut self) {
        self.s.esr = std::mem::take(&mut self.s.esr_pending);
    }

    /// Sends what the low word of ICR describes (SDM 11.6.1).
    pub(super) fn send(&mut self, low: u32, destination: Destination) -> Option<Output> {
        let [vector, mode, ..] = low.to_le_bytes();
        let delivery = DeliveryMode::from_bits(mode)?;
        match delivery {
            // "Init level de-assert" synchronised arbitration ids on old processors; it does nothing.
            DeliveryMode::Init if low & ICR_LEVEL != 0 && low & ICR_ASSERT == 0 => return None,
            DeliveryMode::ExtInt => return None,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < 16 => {
                self.raise_error(ESR_SEND_ILLEGAL_VECTOR);
                return None;
            }
            _ => {}
        }
        let shorthand = match low >> 18 & 3 {
            0 => Shorthand::None,
            1 => Shorthand::OnlySelf,
            2 => Shorthand::AllIncludingSelf,
            _ => Shorthand::AllExcludingSelf,
        };
        self.counters.messages += 1;
        let trigger = Trigger::Edge;
        Some(Output::Message(Message {
            vector,
            delivery,
            destination,
            shorthand,
            trigger,
        }))
    }

    fn write_svr(&mut self, value: u32) {
        self.s.svr = value & SVR_WRITABLE;
        if !self.is_software_enabled() {
            self.mask_all();
        }
    }
}

/// Register number and byte within its 16, when `offset` lies in the page's registers.
fn split(offset: u64) -> Option<(u8, usize)> {
    let register = u8::try_from(offset >> 4)
        .ok()
        .filter(|&register| register < 64)?;
    Some((register, usize::try_from(offset & 0xf).ok()?))
}

fn low_word(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn high_word(value: u64) -> u32 {
    low_word(value >> 32)
}
