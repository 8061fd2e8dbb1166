//! A remapping unit under a guest that writes anything into registers, tables and the queue, with devices
//! that ask for anything under any source id.

use ::vtd::registers::*;
use ::vtd::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use ::vtd::{
    AccessKind, Capabilities, EVENTS_MAX, Event, Features, Iova, PageRequest, Pasid, Request,
    Shadow, SourceId, Unit,
};
use arbitrary::{Result, Unstructured};

use crate::hostile_state::hostile;

/// Pages of memory: few, so that tables meet each other.
const PAGES: u64 = 16;

struct Machine {
    unit: Unit,
    memory: GuestMemoryMmap,
    shadow: Shadow,
    mapped: Mapped,
}

/// Drives a unit with `data`.
pub fn vtd(data: &[u8]) {
    let mut u = Unstructured::new(data);
    // Running out of data ends the run.
    let Ok(mut machine) = Machine::new(&mut u) else {
        return;
    };
    while !u.is_empty() && machine.step(&mut u).is_ok() {}
}

impl Machine {
    fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        let mut capabilities = if u.arbitrary()? {
            Capabilities::scalable()
        } else {
            Capabilities::legacy()
        };
        capabilities
            .features
            .set(Features::CACHING_MODE, u.arbitrary()?);
        capabilities.fault_records = u.int_in_range(1..=8)?;
        capabilities.iotlb_entries = 1 << u.int_in_range(2..=8_u8)?;
        capabilities.domain_bits = 4;
        let size = usize::try_from(PAGES << 12).expect("small");
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]);
        let mut machine = Self {
            unit: Unit::new(capabilities),
            memory: memory.expect("a small memory"),
            shadow: Shadow::new(SourceId(0), 64),
            mapped: Mapped::default(),
        };
        machine.begin(u)?;
        Ok(machine)
    }

    /// As drivers begin, so that a run gets far.
    fn begin(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let scalable = u64::from(u.arbitrary::<bool>()?) << 10;
        for (register, value) in [
            (RTADDR, 0x1000 | scalable),
            (IQA, 0x2000 | scalable << 1),
            (IRTA, 0x3807),
            (PQA, 0x4000),
        ] {
            self.write_quad(register, value);
        }
        for command in [SRTP, SIRTP, QIE, TE | QIE, TE | QIE | IRE] {
            self.unit.write(&self.memory, GCMD, &command.to_le_bytes());
        }
        Ok(())
    }

    fn write_quad(&mut self, register: u64, value: u64) {
        self.unit
            .write(&self.memory, register, &value.to_le_bytes());
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=11)? {
            0..=2 => self.change_memory(u)?,
            3 => self.access_a_register(u)?,
            4 => self.submit(u)?,
            5..=6 => self.dma(u)?,
            7 => self.interrupt(u)?,
            8 => self.translate_for_a_device(u)?,
            9 => self.ask_for_a_page(u)?,
            10 => self.take_events(),
            _ => self.restore(u)?,
        }
        self.check();
        Ok(())
    }

    /// Mostly entries that lead on.
    fn change_memory(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let page = u.int_in_range(0..=PAGES - 1)?;
        let offset = if u.arbitrary()? {
            u.int_in_range(0..=15_u64)? * 8
        } else {
            u.int_in_range(0..=511_u64)? * 8
        };
        let target = u.int_in_range(0..=PAGES)? << 12;
        let word = match u.int_in_range(0..=5)? {
            0 => u.arbitrary()?,
            1 => 0,
            2 => 0x102,
            3 => target | u.int_in_range(0..=0xfff_u64)?,
            _ => target | 3,
        };
        let at = GuestAddress(page << 12 | offset);
        self.memory.write_obj::<u64>(word, at).expect("inside");
        Ok(())
    }

    fn access_a_register(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let offset = if u.ratio(1, 8)? {
            u.arbitrary()?
        } else {
            u.int_in_range(0..=0x90_u64)? * 4
        };
        let length = *u.choose(&[4, 8, 8, 1, 3])?;
        let data = u.bytes(length)?;
        self.unit.write(&self.memory, offset, data);
        self.unit.read(offset, &mut vec![0; length]);
        Ok(())
    }

    fn submit(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let mut tail = [0; 8];
        self.unit.read(IQT, &mut tail);
        let tail = u64::from_le_bytes(tail) & 0xff0;
        let kind = u64::from(u.int_in_range(1..=9_u8)?);
        let word = if u.ratio(1, 4)? {
            u.arbitrary()?
        } else {
            kind | u64::from(u.int_in_range(0..=3_u8)?) << 4
                | u64::from(u.int_in_range(0..=3_u8)?) << 16
        };
        let other = if u.arbitrary()? {
            u.arbitrary()?
        } else {
            0_u64
        };
        for (offset, word) in [(0, word), (8, other), (16, 0), (24, 0)] {
            let at = GuestAddress(0x2000 + (tail + offset) % 0x1000);
            self.memory.write_obj(word, at).expect("inside");
        }
        let step = if u.arbitrary()? { 16 } else { 32 };
        self.write_quad(IQT, (tail + step) % 0x1000);
        Ok(())
    }

    fn request(&self, u: &mut Unstructured<'_>) -> Result<Request> {
        let address = if u.ratio(1, 6)? {
            u.arbitrary()?
        } else {
            u64::from(u.int_in_range(0..=15_u8)?) << *u.choose(&[12, 21, 30, 39])?
        };
        Ok(Request {
            source_id: SourceId(u16::from(u.int_in_range(0..=3_u8)?)),
            pasid: if u.ratio(1, 3)? {
                Pasid::new(u.int_in_range(0..=70)?)
            } else {
                None
            },
            address: Iova(address),
            kind: *u.choose(&[AccessKind::Read, AccessKind::Write, AccessKind::ReadWrite])?,
            privileged: u.arbitrary()?,
        })
    }

    /// What goes through has the rights that it asked for, and is not in the interrupt range; and it goes through
    /// again.
    fn dma(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let request = self.request(u)?;
        let Ok(found) = self.unit.translate(&self.memory, &request) else {
            return Ok(());
        };
        assert!(found.read || request.kind == AccessKind::Write);
        assert!(found.write || request.kind == AccessKind::Read);
        assert!(found.contiguous() > 0);
        if self.unit.translates() {
            assert_ne!(found.address >> 20, 0xfee);
            let again = self.unit.translate(&self.memory, &request);
            assert_eq!(again.map(|found| found.address), Ok(found.address));
        }
        Ok(())
    }

    fn interrupt(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let address = 0xfee0_0000 | u64::from(u.arbitrary::<u32>()? & 0xf_ffff);
        let source = SourceId(u.int_in_range(0..=3)?);
        let _ = self
            .unit
            .remap(&self.memory, source, address, u.arbitrary()?);
        Ok(())
    }

    fn translate_for_a_device(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let request = self.request(u)?;
        if let Ok(found) = self.unit.translate_for_device(&self.memory, &request) {
            assert!(request.kind != AccessKind::Read || !found.write);
        }
        let (source, address) = (request.source_id, request.address.0);
        let _ = self
            .unit
            .check_translated(&self.memory, source, address, request.kind);
        Ok(())
    }

    fn ask_for_a_page(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let request = self.request(u)?;
        let asked = PageRequest {
            source_id: request.source_id,
            pasid: request.pasid,
            address: request.address,
            read: u.arbitrary()?,
            write: u.arbitrary()?,
            privileged: request.privileged,
            group: u.arbitrary()?,
            last: u.arbitrary()?,
        };
        let _ = self.unit.request_page(&self.memory, &asked);
        Ok(())
    }

    fn take_events(&mut self) {
        while let Some(event) = self.unit.next_event() {
            if let Event::MappingsChanged(scope) = event {
                let (unit, memory) = (&mut self.unit, &self.memory);
                let _ = self.shadow.update(unit, memory, scope, &mut self.mapped);
                assert_eq!(self.mapped.0, self.shadow.mappings().count());
            }
        }
        self.unit.process(&self.memory);
    }

    fn restore(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let state = hostile(u, &self.unit.state())?;
        let capabilities = *self.unit.capabilities();
        if let Some(state) = state
            && let Ok(unit) = Unit::restore(capabilities, &state)
        {
            self.unit = unit;
        }
        Ok(())
    }

    fn check(&self) {
        let state = self.unit.state();
        assert!(state.events.len() <= EVENTS_MAX + 16);
        let restored = Unit::restore(*self.unit.capabilities(), &state);
        assert!(
            restored.is_ok(),
            "a unit can restore its own state: {restored:?}"
        );
    }
}

/// Counts mappings.
#[derive(Default)]
struct Mapped(usize);

impl ::vtd::MappingObserver for Mapped {
    fn map(&mut self, _: Iova, _: ::vtd::Mapping) {
        self.0 += 1;
    }

    fn unmap(&mut self, _: Iova, _: ::vtd::Mapping) {
        self.0 -= 1;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            super::vtd(u.bytes(u.len())?);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
