//! What an interrupt costs under each design of its delivery: the exits that a guest's history would have made.
//!
//! A history is what a [`LocalApic`](crate::LocalApic) went through. A [`DeliveryModel`] replays it under another design, with
//! the [`VirtualApic`] page where the design has one, and counts why the guest would have been left.

use crate::virtual_apic::{ApicExit, VirtualApic, VirtualApicControls};

/// How interrupts get to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Design {
    /// The 8259A pair, whose ports exit.
    Pic,
    /// Every access to the page of registers is trapped and emulated.
    XApic,
    /// Registers are MSRs, and their accesses exit.
    X2Apic,
    /// The processor has a virtual-APIC page: it exits for ends of interrupts that an I/O APIC waits for.
    VirtualPage,
    /// And requests are posted by another processor, which takes the device's interrupt.
    Posted,
    /// And the IOMMU posts what devices send.
    RemappedPosted,
}

/// Where an interrupt came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A device, by a message or a pin.
    Device,
    /// The local APIC's timer, which the VMM keeps by a timer of its own.
    Timer,
    /// The guest itself, by the write that came before.
    Itself,
}

/// A step of a guest's history with its local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApicEvent {
    /// The guest reads a register: xAPIC offset / 16, MSR - 0x800.
    Read {
        /// Its number.
        register: u8,
    },
    /// The guest writes one.
    Write {
        /// Its number.
        register: u8,
        /// What is written.
        value: u64,
    },
    /// The guest accesses a port of the 8259A pair.
    Port {
        /// It ends an interrupt.
        end: bool,
    },
    /// A vector is requested.
    Request {
        /// The vector; [`EXTERNAL`](Self::EXTERNAL) for whatever an 8259A pair has.
        vector: u8,
        /// An I/O APIC waits for its end.
        level: bool,
        /// Where it came from.
        source: Source,
        /// The guest is running, rather than halted.
        running: bool,
    },
    /// The guest takes a vector.
    Take {
        /// The vector, as it was requested.
        vector: u8,
        /// It had to wait for the guest to allow it.
        waited: bool,
    },
}

impl ApicEvent {
    /// Stands for the vector that an 8259A pair delivers, by `ExtINT` or without a local APIC: no page has it, and the
    /// VMM injects it in every design.
    pub const EXTERNAL: u8 = 0;
}

/// Exits by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryCounters {
    /// Interrupts that the guest took.
    pub interrupts: u64,
    /// The guest was running when the VMM had to inject.
    pub interrupted: u64,
    /// The guest became ready for an interrupt that had waited.
    pub window: u64,
    /// Ends of interrupts.
    pub end_of_interrupt: u64,
    /// The task priority.
    pub task_priority: u64,
    /// The timer's registers.
    pub timer: u64,
    /// Interprocessor interrupts.
    pub interprocessor: u64,
    /// Other registers.
    pub other: u64,
    /// Interrupts that the host handled, on whichever processor.
    pub host_interrupts: u64,
    /// Requests and deliveries at which the page and the history disagreed. None should be.
    pub disagreements: u64,
}

impl DeliveryCounters {
    /// All exits.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.interrupted
            + self.window
            + self.end_of_interrupt
            + self.task_priority
            + self.timer
            + self.interprocessor
            + self.other
    }
}

/// Replays a guest's history under one [`Design`].
#[derive(Clone, Debug)]
pub struct DeliveryModel {
    design: Design,
    page: Option<VirtualApic>,
    counters: DeliveryCounters,
}

impl DeliveryModel {
    /// Before anything has happened.
    #[must_use]
    pub fn new(design: Design) -> Self {
        let controls = VirtualApicControls::TPR_SHADOW
            | VirtualApicControls::REGISTERS
            | VirtualApicControls::DELIVERY;
        let has_page = !matches!(design, Design::Pic | Design::XApic | Design::X2Apic);
        Self {
            design,
            page: has_page.then(|| VirtualApic::new(controls)),
            counters: DeliveryCounters::default(),
        }
    }

    /// The design.
    #[must_use]
    pub fn design(&self) -> Design {
        self.design
    }

    /// What it cost so far.
    #[must_use]
    pub fn counters(&self) -> DeliveryCounters {
        self.counters
    }

    /// The next event of the history.
    pub fn step(&mut self, event: ApicEvent) {
        match event {
            ApicEvent::Read { register } => self.read(register),
            ApicEvent::Write { register, value } => self.write(register, value),
            ApicEvent::Port { end } => {
                self.counters.end_of_interrupt += u64::from(end);
                self.counters.other += u64::from(!end);
            }
            ApicEvent::Request {
                vector,
                level,
                source,
                running,
            } => self.request(vector, level, source, running),
            ApicEvent::Take { vector, waited } => self.take(vector, waited),
        }
    }

    fn read(&mut self, register: u8) {
        let answer = self.page.as_ref().map(|page| page.read(register));
        if !matches!(answer, Some(Ok(_))) {
            self.exit_at(register);
        }
    }

    fn write(&mut self, register: u8, value: u64) {
        match self.page.as_mut().map(|page| page.write(register, value)) {
            Some(Ok(())) => {}
            Some(Err(ApicExit::EoiInduced { .. })) => self.counters.end_of_interrupt += 1,
            Some(Err(ApicExit::TprBelowThreshold)) => self.counters.task_priority += 1,
            // The VMM does what the processor does not, and the page has it.
            Some(Err(ApicExit::Access { .. } | ApicExit::Written { .. })) | None => {
                self.exit_at(register);
            }
        }
    }

    fn exit_at(&mut self, register: u8) {
        use crate::lapic::registers::*;
        let c = &mut self.counters;
        let counter = match register {
            EOI => &mut c.end_of_interrupt,
            TPR | PPR => &mut c.task_priority,
            INITIAL_COUNT | CURRENT_COUNT | DIVIDE | LVT => &mut c.timer,
            // One MSR holds both halves.
            ICR_HIGH if self.design == Design::X2Apic => return,
            ICR_LOW | ICR_HIGH | SELF_IPI => &mut c.interprocessor,
            _ => &mut c.other,
        };
        *counter += 1;
    }

    fn request(&mut self, vector: u8, level: bool, source: Source, running: bool) {
        if let Some(page) = &mut self.page {
            page.set_eoi_exit(vector, level);
            page.request(vector);
        }
        if source == Source::Itself {
            return;
        }
        let posts = source == Source::Device && vector != ApicEvent::EXTERNAL;
        let posted = posts && matches!(self.design, Design::Posted | Design::RemappedPosted);
        self.counters.interrupted += u64::from(running && !posted);
        let by_iommu = posts && self.design == Design::RemappedPosted;
        // A halted guest is woken by the host, whoever posted.
        self.counters.host_interrupts += u64::from(!(by_iommu && running));
    }

    fn take(&mut self, vector: u8, waited: bool) {
        self.counters.interrupts += 1;
        match &mut self.page {
            Some(page) if vector != ApicEvent::EXTERNAL => {
                let delivered = page.deliver();
                self.counters.disagreements += u64::from(delivered != Some(vector));
            }
            _ => self.counters.window += u64::from(waited),
        }
    }
}
