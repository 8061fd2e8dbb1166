//! Two local APICs and an I/O APIC, wired together, under guests that write anything.

use ::apic::{
    IoApic, IoApicVersion, LocalApic, LocalApicConfig, Message, Output, deliver, msi_message,
};
use arbitrary::{Result, Unstructured};

use crate::hostile_state::hostile;

struct Interrupts {
    lapics: [LocalApic; 2],
    ioapic: IoApic,
    now: u64,
}

/// Drives the APICs with `data`.
pub fn apic(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let version = if data.len().is_multiple_of(2) {
        IoApicVersion::V11
    } else {
        IoApicVersion::V20
    };
    let mut interrupts = Interrupts {
        lapics: [LocalApic::new(config(0)), LocalApic::new(config(1))],
        ioapic: IoApic::new(2, version),
        now: 0,
    };
    // Running out of data ends the run.
    while !u.is_empty() && interrupts.step(&mut u).is_ok() {}
}

fn config(id: u32) -> LocalApicConfig {
    LocalApicConfig {
        id,
        bootstrap: id == 0,
        x2apic: true,
        virtual_wire: true,
        timer_hz: 1_000_000_000,
        tsc_hz: 2_000_000_000,
        physical_address_bits: 40,
    }
}

impl Interrupts {
    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let who = u.choose_index(2)?;
        match u.int_in_range(0..=9)? {
            0..=1 => self.access_page(u, who)?,
            2 => self.access_msr(u, who)?,
            3..=4 => self.access_ioapic(u)?,
            5 => self
                .ioapic
                .set_line(u.int_in_range(0..=23)?, u.arbitrary()?),
            6 => self.lapics[who].set_lint(u.choose_index(2)?, u.arbitrary()?),
            7 => self.pass(u, who)?,
            8 => self.signal(u)?,
            _ => self.restore(u, who)?,
        }
        self.settle();
        self.check(who);
        Ok(())
    }

    fn access_page(&mut self, u: &mut Unstructured<'_>, who: usize) -> Result<()> {
        let offset = if u.ratio(1, 10)? {
            u.arbitrary()?
        } else {
            u64::from(u.int_in_range(0..=63u8)?) * 16
        };
        if u.arbitrary()? {
            let data = if u.ratio(1, 10)? {
                u.bytes(3)?
            } else {
                u.bytes(4)?
            };
            let output = self.lapics[who].write(offset, data);
            self.route(output, who);
        } else {
            self.lapics[who].read(offset, &mut vec![0; u.int_in_range(0..=8)?]);
        }
        Ok(())
    }

    fn access_msr(&mut self, u: &mut Unstructured<'_>, who: usize) -> Result<()> {
        let index = match u.int_in_range(0..=3)? {
            0 => 0x1b,
            1 => 0x6e0,
            _ => 0x800 + u.int_in_range(0..=0x40u32)?,
        };
        if u.arbitrary()? {
            let value = if index == 0x1b && u.arbitrary()? {
                0xfee0_0000 | u64::from(u.int_in_range(0..=3u8)?) << 10
            } else {
                u.arbitrary()?
            };
            if let Ok(output) = self.lapics[who].write_msr(index, value) {
                self.route(output, who);
            }
        } else {
            let _ = self.lapics[who].read_msr(index);
        }
        Ok(())
    }

    fn access_ioapic(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let offset = *u.choose(&[0, 0x10, 0x40, 0x20, 0x11])?;
        let length = *u.choose(&[4, 4, 4, 1, 8, 0])?;
        self.ioapic.write(offset, u.bytes(length)?);
        self.ioapic.read(offset, &mut vec![0; length]);
        Ok(())
    }

    fn pass(&mut self, u: &mut Unstructured<'_>, who: usize) -> Result<()> {
        let deadline = self.lapics[who].next_deadline().filter(|_| !u.is_empty());
        self.now = match deadline {
            Some(deadline) => self.now.max(deadline),
            None => self.now.saturating_add(u.arbitrary::<u32>()?.into()),
        };
        for lapic in &mut self.lapics {
            lapic.advance(self.now);
        }
        let lapic = &self.lapics[who];
        if self.now < 1 << 62 && lapic.state().now <= self.now {
            let next = lapic.next_deadline();
            assert!(
                next.is_none_or(|next| next > self.now),
                "a deadline met must go away"
            );
        }
        Ok(())
    }

    fn signal(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let address = 0xfee0_0000 | u64::from(u.arbitrary::<u32>()? & 0xf_ffff);
        if let Some(message) = msi_message(address, u.arbitrary()?) {
            self.deliver(&message, None);
        }
        Ok(())
    }

    fn restore(&mut self, u: &mut Unstructured<'_>, who: usize) -> Result<()> {
        if u.arbitrary()? {
            let state = hostile(u, &self.lapics[who].state())?;
            let id = u32::try_from(who).expect("two of them");
            let restored = state.and_then(|state| LocalApic::restore(config(id), state).ok());
            if let Some(lapic) = restored {
                self.lapics[who] = lapic;
            }
        } else {
            let state = hostile(u, &self.ioapic.state())?;
            if let Some(ioapic) = state.and_then(|state| IoApic::try_from(state).ok()) {
                self.ioapic = ioapic;
            }
        }
        Ok(())
    }

    fn route(&mut self, output: Option<Output>, sender: usize) {
        match output {
            Some(Output::EndOfInterrupt(vector)) => self.ioapic.end_of_interrupt(vector),
            Some(Output::Message(message)) => self.deliver(&message, Some(sender)),
            None => {}
        }
    }

    fn deliver(&mut self, message: &Message, sender: Option<usize>) {
        assert!(deliver(message, &mut self.lapics, sender) <= 2);
    }

    fn settle(&mut self) {
        let Self { lapics, ioapic, .. } = self;
        // As writes, for remapping, pins send the same.
        let (mut writes, mut messages) = (Vec::new(), Vec::new());
        ioapic.clone().send_pending_writes(|address, data| {
            writes.extend(msi_message(address, data));
            false
        });
        ioapic.send_pending(|message| {
            messages.push(*message);
            deliver(message, lapics, None) > 0
        });
        assert_eq!(writes, messages);
        ioapic.send_pending(|_| panic!("each pin sends once until something happens"));
    }

    /// What the processor is offered is above its priority, and goes into service.
    fn check(&mut self, who: usize) {
        let lapic = &mut self.lapics[who];
        let before = lapic.processor_priority();
        if let Some(::apic::Pending::Vector(vector)) = lapic.acknowledge() {
            assert!(vector >= 16 && vector & 0xf0 > before & 0xf0);
            assert_eq!(lapic.processor_priority(), vector & 0xf0);
        }
        lapic.take_nmi();
        lapic.take_init();
        lapic.take_start_up();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            super::apic(u.bytes(u.len())?);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
