//! From device levels to the processor's INTR: the 8259A pair alone, or behind a local APIC with
//! an I/O APIC beside it.

use apic::{
    IoApic, IoApicVersion, LocalApic, LocalApicConfig, Message, Output, Pending, deliver,
    msi_message,
};
use pc_devices::I8259Pair;
use pci_config::{Bdf, MsiMessage};

use vtd::SourceId;

use super::remapping::Remapping;
use super::{APIC_TIMER_HZ, Chipset, TSC_HZ};
use crate::layout::{ASSIGNED_IRQ, IOAPIC, IOAPIC_ID, IOAPIC_SOURCE, NETWORK_IRQ, SCI};

#[derive(Debug)]
pub(super) struct Interrupts {
    pub(super) pic: I8259Pair,
    apics: Option<Apics>,
    lines: u32,
    /// INTR of the processor that runs.
    requested: bool,
}

#[derive(Debug)]
struct Apics {
    /// One for each processor, by its number, which is its id; the first is the bootstrap processor's.
    lapics: Vec<LocalApic>,
    /// The processor that runs: whose accesses these are.
    current: usize,
    ioapic: IoApic,
    /// What all but the local APICs' own messages go through.
    remapping: Option<Remapping>,
}

impl Interrupts {
    pub(super) fn new(
        chipset: Chipset,
        processors: u8,
        x2apic: bool,
        remapping: Option<Remapping>,
    ) -> Self {
        let mut pic = I8259Pair::new();
        let apics = (chipset == Chipset::M1).then(|| {
            // Firmware makes the SCI and PCI's interrupt level triggered.
            pic.write(0x4d0, &[1 << ASSIGNED_IRQ]);
            pic.write(0x4d1, &[1 << (SCI - 8) | 1 << (NETWORK_IRQ - 8)]);
            let lapic = |id: u8| {
                LocalApic::new(LocalApicConfig {
                    id: id.into(),
                    bootstrap: id == 0,
                    x2apic,
                    virtual_wire: id == 0,
                    timer_hz: APIC_TIMER_HZ,
                    tsc_hz: TSC_HZ,
                    physical_address_bits: 40,
                })
            };
            Apics {
                lapics: (0..processors).map(lapic).collect(),
                current: 0,
                ioapic: IoApic::new(IOAPIC_ID, IoApicVersion::V20),
                remapping,
            }
        });
        Self {
            pic,
            apics,
            lines: 0,
            requested: false,
        }
    }

    /// Drives the global system interrupts; the first 16 are the ISA lines.
    pub(super) fn set_lines(&mut self, lines: u32) {
        let changed = self.lines ^ lines;
        self.lines = lines;
        for irq in (0..24).filter(|irq| changed & 1 << irq != 0) {
            let level = lines & 1 << irq != 0;
            if irq < 16 {
                self.pic.set_line(irq, level);
            }
            if let Some(apics) = &mut self.apics {
                apics.ioapic.set_line(pin_of(irq), level);
            }
        }
        self.settle();
    }

    /// Delivers a write by a function to where local APICs listen; any other is lost.
    pub(super) fn send(&mut self, source: Bdf, message: MsiMessage) {
        let Some(apics) = &mut self.apics else { return };
        let message = match &apics.remapping {
            Some(remapping) => remapping.remap(SourceId(source.requester_id()), message),
            None => msi_message(message.address, message.data),
        };
        if let Some(message) = message {
            apics.deliver(&message, None);
        }
    }

    pub(super) fn lines(&self) -> u32 {
        self.lines
    }

    /// Carries pending messages and the 8259A's output to the processor.
    pub(super) fn settle(&mut self) {
        self.requested = match &mut self.apics {
            None => self.pic.intr(),
            Some(apics) => {
                apics.drain();
                // The 8259A pair is wired to the bootstrap processor alone.
                apics.lapics[0].set_lint(0, self.pic.intr());
                apics.lapic().pending().is_some()
            }
        };
    }

    pub(super) fn requested(&self) -> bool {
        self.requested
    }

    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let vector = match &mut self.apics {
            None => self.pic.intr().then(|| self.pic.acknowledge()),
            Some(apics) => match apics.lapic_mut().acknowledge() {
                Some(Pending::Vector(vector)) => Some(vector),
                Some(Pending::External) => Some(self.pic.acknowledge()),
                None => None,
            },
        };
        self.settle();
        vector
    }

    /// From now on accesses are `processor`'s.
    pub(super) fn select(&mut self, processor: usize) {
        if let Some(apics) = &mut self.apics {
            assert!(processor < apics.lapics.len(), "there is no such processor");
            apics.current = processor;
            self.requested = apics.lapic().pending().is_some();
        }
    }

    /// The local APIC of the processor that runs.
    pub(super) fn lapic(&self) -> Option<&LocalApic> {
        self.apics.as_ref().map(Apics::lapic)
    }

    pub(super) fn lapic_mut(&mut self) -> Option<&mut LocalApic> {
        self.apics.as_mut().map(Apics::lapic_mut)
    }

    /// Every processor's local APIC; none on a board without.
    pub(super) fn lapics(&self) -> &[LocalApic] {
        self.apics.as_ref().map_or(&[], |apics| &apics.lapics)
    }

    pub(super) fn lapics_mut(&mut self) -> &mut [LocalApic] {
        self.apics
            .as_mut()
            .map_or(&mut [], |apics| &mut apics.lapics)
    }

    /// Which of the memory-mapped controllers answers at `gpa`, and at which offset.
    pub(super) fn window(&self, gpa: u64) -> Option<(Window, u64)> {
        let apics = self.apics.as_ref()?;
        let within =
            |base: u64, length: u64| gpa.checked_sub(base).filter(|&offset| offset < length);
        let lapic = apics
            .lapic()
            .mmio_base()
            .and_then(|base| within(base, LocalApic::LENGTH));
        let ioapic = within(IOAPIC, IoApic::LENGTH);
        lapic
            .map(|offset| (Window::LocalApic, offset))
            .or_else(|| ioapic.map(|offset| (Window::IoApic, offset)))
    }

    pub(super) fn read(&mut self, window: Window, offset: u64, data: &mut [u8]) {
        let Some(apics) = &mut self.apics else { return };
        match window {
            Window::LocalApic => apics.lapic_mut().read(offset, data),
            Window::IoApic => apics.ioapic.read(offset, data),
        }
    }

    pub(super) fn write(&mut self, window: Window, offset: u64, data: &[u8]) {
        let Some(apics) = &mut self.apics else { return };
        match window {
            Window::LocalApic => {
                let output = apics.lapic_mut().write(offset, data);
                apics.route(output);
            }
            Window::IoApic => apics.ioapic.write(offset, data),
        }
        self.settle();
    }

    pub(super) fn read_msr(&mut self, index: u32) -> Option<u64> {
        self.lapic_mut()?.read_msr(index).ok()
    }

    pub(super) fn write_msr(&mut self, index: u32, value: u64) -> bool {
        let Some(apics) = &mut self.apics else {
            return false;
        };
        let Ok(output) = apics.lapic_mut().write_msr(index, value) else {
            return false;
        };
        apics.route(output);
        self.settle();
        true
    }
}

/// A memory-mapped interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    LocalApic,
    IoApic,
}

impl Apics {
    fn lapic(&self) -> &LocalApic {
        &self.lapics[self.current]
    }

    fn lapic_mut(&mut self) -> &mut LocalApic {
        &mut self.lapics[self.current]
    }

    fn route(&mut self, output: Option<Output>) {
        match output {
            Some(Output::EndOfInterrupt(vector)) => self.ioapic.end_of_interrupt(vector),
            Some(Output::Message(message)) => self.deliver(&message, Some(self.current)),
            None => {}
        }
    }

    fn drain(&mut self) {
        let Self {
            lapics,
            ioapic,
            remapping,
            ..
        } = self;
        let Some(remapping) = remapping else {
            return ioapic.send_pending(|message| deliver(message, lapics, None) > 0);
        };
        let source = SourceId(IOAPIC_SOURCE);
        ioapic.send_pending_writes(|address, data| {
            let message = remapping.remap(source, MsiMessage { address, data });
            message.is_some_and(|message| deliver(&message, lapics, None) > 0)
        });
        remapping.settle(|message| {
            deliver(&message, lapics, None);
        });
    }

    fn deliver(&mut self, message: &Message, sender: Option<usize>) {
        deliver(message, &mut self.lapics, sender);
    }
}

/// The I/O APIC pin of an ISA interrupt, as the MADT tells the guest.
fn pin_of(irq: u8) -> u8 {
    if irq == 0 { 2 } else { irq }
}
