//! A bus master for test guests: the registers of QEMU's `edu` device (its `docs/specs/edu.rst`), which
//! kvm-unit-tests drives remapping units with. DMA and factorials are done at once.

use pci_config::{BarKind, Bdf, Bus, ConfigSpace, Header, InterruptPin, Msi, MsiMessage};
use vm_memory::{Bytes, GuestAddress};

use super::dma::Dma;
use crate::layout::{EDU_IRQ, EDU_MEMORY, EDU_SLOT};

/// The function's device; its place is [`place`].
#[derive(Debug)]
pub(super) struct Edu {
    memory: Dma,
    msi: Msi,
    alive: u32,
    factorial: u32,
    interrupts: u32,
    status: u32,
    source: u64,
    destination: u64,
    count: u64,
    command: u64,
    buffer: Box<[u8; BUFFER_LENGTH]>,
    /// A message is due.
    raised: bool,
}

impl Edu {
    /// Puts the function on the bus, as firmware leaves it.
    pub(super) fn new(memory: Dma, bus: &mut Bus<ConfigSpace>) -> Self {
        let mut function = ConfigSpace::new(Header {
            vendor: 0x1234,
            device: 0x11e8,
            revision: 0x10,
            class: [0x00, 0xff, 0x00],
            ..Header::default()
        });
        let window = BarKind::Memory32 {
            prefetchable: false,
        };
        function.add_bar(0, window, WINDOW).expect("1 MiB");
        let msi = Msi::add(&mut function, 1).expect("room for a capability");
        function.write(0x10, &EDU_MEMORY.to_le_bytes());
        // Test guests come without firmware, and take the window for enabled.
        function.write(0x04, &[0x02, 0x00]);
        function.set_interrupt_pin(InterruptPin::A);
        function.set_interrupt_line(EDU_IRQ);
        bus.insert(place(), function)
            .expect("the slot is free on a new board");
        Self {
            memory,
            msi,
            alive: 0,
            factorial: 0,
            interrupts: 0,
            status: 0,
            source: 0,
            destination: 0,
            count: 0,
            command: 0,
            buffer: Box::new([0; BUFFER_LENGTH]),
            raised: false,
        }
    }

    /// The offset of `address` in the window, where the guest put it.
    pub(super) fn offset(bus: &Bus<ConfigSpace>, address: u64) -> Option<u64> {
        let bar = bus.function(place())?.bar(0)?;
        let offset = address.checked_sub(bar.address)?;
        (bar.enabled && offset < bar.size).then_some(offset)
    }

    pub(super) fn take_written(&self) -> Option<(u64, u64)> {
        self.memory.take_written()
    }

    /// Registers below 0x80 have four bytes, the others four or eight.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            0x00 => 0x0100_00ed,
            0x04 => (!self.alive).into(),
            0x08 => self.factorial.into(),
            0x20 => self.status.into(),
            0x24 => self.interrupts.into(),
            0x80 => self.source,
            0x88 => self.destination,
            0x90 => self.count,
            0x98 => self.command,
            _ => 0,
        };
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8], bus: &Bus<ConfigSpace>) {
        let mut bytes = [0; 8];
        let length = data.len().min(8);
        bytes[..length].copy_from_slice(&data[..length]);
        let value = u64::from_le_bytes(bytes);
        let word = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        match offset {
            0x04 => self.alive = word,
            0x08 => self.compute(word),
            0x20 => self.status = word & FACTORIAL_INTERRUPT,
            0x60 => self.raise(word),
            0x64 => self.interrupts &= !word,
            0x80 => self.source = value,
            0x88 => self.destination = value,
            0x90 => self.count = value,
            0x98 => self.start(value, bus),
            _ => {}
        }
    }

    /// Delivers a message that is due; the level of INTA#.
    pub(super) fn interrupt(
        &mut self,
        bus: &mut Bus<ConfigSpace>,
        send: &mut dyn FnMut(MsiMessage),
    ) -> bool {
        let Some(space) = bus.function_mut(place()) else {
            return false;
        };
        let raised = std::mem::take(&mut self.raised);
        let messages = self.msi.is_enabled(space);
        if messages {
            if raised {
                self.msi.raise(space, 0).map(&mut *send);
            }
            self.msi.next_unmasked(space).map(&mut *send);
        }
        space.set_interrupt_status(self.interrupts != 0 && !messages);
        space.intx()
    }

    fn raise(&mut self, causes: u32) {
        self.interrupts |= causes;
        self.raised |= causes != 0;
    }

    fn compute(&mut self, number: u32) {
        self.factorial = (1..=number)
            .take(FACTORIAL_STEPS)
            .fold(1, u32::wrapping_mul);
        if self.status & FACTORIAL_INTERRUPT != 0 {
            self.raise(1);
        }
    }

    fn start(&mut self, command: u64, bus: &Bus<ConfigSpace>) {
        let master = bus
            .function(place())
            .is_some_and(ConfigSpace::is_bus_master);
        if command & START != 0 && master {
            let to_memory = command & TO_MEMORY != 0;
            let (inside, outside) = if to_memory {
                (self.source, self.destination)
            } else {
                (self.destination, self.source)
            };
            self.transfer(inside, GuestAddress(outside), to_memory);
            if command & INTERRUPT != 0 {
                self.raise(DMA_CAUSE);
            }
        }
        self.command = command & !START;
    }

    /// A transfer that does not fit the buffer does nothing; of one that memory refuses nobody learns.
    fn transfer(&mut self, inside: u64, outside: GuestAddress, to_memory: bool) {
        let start = inside.checked_sub(BUFFER);
        let start = start.and_then(|start| usize::try_from(start).ok());
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        let Some(start) = start else { return };
        let end = start.saturating_add(count);
        let Some(bytes) = self.buffer.get_mut(start..end) else {
            return;
        };
        let _ = if to_memory {
            self.memory.write_slice(bytes, outside)
        } else {
            self.memory.read_slice(bytes, outside)
        };
    }
}

pub(super) fn place() -> Bdf {
    Bdf::new(0, EDU_SLOT, 0).expect("device 4, function 0")
}

const WINDOW: u64 = 1 << 20;
const BUFFER: u64 = 0x4_0000;
const BUFFER_LENGTH: usize = 4096;
const FACTORIAL_INTERRUPT: u32 = 0x80;
/// Beyond 34 a factorial is a multiple of 2^32.
const FACTORIAL_STEPS: usize = 34;
const START: u64 = 1 << 0;
const TO_MEMORY: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;
const DMA_CAUSE: u32 = 0x100;
