//! Our e1000 as a PCI function of its own, with its cable and its clock.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use e1000::{Compat, E1000, E1000Config};
use machine::Wire;
use pci_config::{BarKind, ConfigSpace, Header, InterruptPin, Msi};
use vfio_user_protocol::{Device, IrqInfo, RegionInfo, irq, region};
use vm_memory::GuestMemory;

/// The adapter, in real time.
pub struct Nic {
    nic: E1000,
    space: ConfigSpace,
    wire: Box<dyn Wire>,
    started: Instant,
    waiting: VecDeque<Vec<u8>>,
    /// The level when it was last looked at: a message goes out when it rises.
    level: bool,
}

impl fmt::Debug for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nic")
            .field("nic", &self.nic)
            .finish_non_exhaustive()
    }
}

impl Nic {
    /// An adapter whose cable ends in `wire`.
    #[must_use]
    pub fn new(wire: Box<dyn Wire>) -> Self {
        Self {
            nic: E1000::new(config()),
            space: function(),
            wire,
            started: Instant::now(),
            waiting: VecDeque::new(),
            level: false,
        }
    }

    /// What its server says of it.
    #[must_use]
    pub fn description() -> Device {
        let size = |index| match index {
            0 => E1000::MEMORY_LENGTH,
            1 => E1000::IO_LENGTH,
            region::CONFIG => 256,
            _ => 0,
        };
        let region = |index| RegionInfo {
            index,
            read: size(index) > 0,
            write: size(index) > 0,
            size: size(index),
        };
        let interrupt = |index| IrqInfo {
            index,
            eventfd: true,
            maskable: index == irq::INTX,
            automasked: index == irq::INTX,
            count: u32::from(index <= irq::MSI),
        };
        Device {
            regions: (0..region::COUNT).map(region).collect(),
            irqs: (0..irq::COUNT).map(interrupt).collect(),
            resets: true,
        }
    }

    /// Frames that the guest sent, and that it received.
    #[must_use]
    pub fn frames(&self) -> (u64, u64) {
        let counts = self.nic.counts();
        (counts.tx_frames, counts.rx_frames)
    }

    /// Reads a region within its bounds.
    pub fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) {
        match region {
            0 => self.nic.read(offset, data),
            1 => self.nic.io_read(offset, data),
            region::CONFIG => self.space.read(config_offset(offset), data),
            _ => data.fill(0xff),
        }
    }

    /// Writes a region likewise.
    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) {
        match region {
            0 => self.nic.write(offset, data),
            1 => self.nic.io_write(offset, data),
            region::CONFIG => self.space.write(config_offset(offset), data),
            _ => {}
        }
    }

    /// As it was at first; its cable stays.
    pub fn reset(&mut self) {
        self.nic = E1000::new(config());
        self.space = function();
        self.waiting.clear();
        self.level = false;
    }

    /// Sends and receives what there is.
    pub fn work<M: GuestMemory + ?Sized>(&mut self, memory: &M) {
        let now = self.now();
        self.nic.advance(now);
        let master = self.space.is_bus_master();
        if self.nic.has_work() && master {
            let wire = &mut self.wire;
            self.nic.process(memory, &mut |frame| wire.send(frame, now));
        }
        self.wire.advance(now, &mut self.waiting);
        self.waiting.truncate(WAITING_MAX);
        while let Some(frame) = self.waiting.front() {
            if !master || !self.nic.can_receive(frame.len().max(SHORTEST)) {
                break;
            }
            self.nic.receive(memory, frame);
            self.waiting.pop_front();
        }
    }

    /// How long it has nothing to do by itself.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        let deadlines = [self.nic.next_deadline(), self.wire.next_deadline()];
        let deadline = deadlines.into_iter().flatten().min()?;
        Some(Duration::from_nanos(deadline.saturating_sub(self.now())))
    }

    /// The level of its pin.
    #[must_use]
    pub fn level(&self) -> bool {
        self.nic.interrupt()
    }

    /// Whether the level has risen since the last time.
    pub fn take_rise(&mut self) -> bool {
        let level = self.level();
        level && !std::mem::replace(&mut self.level, level)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn config() -> E1000Config {
    E1000Config {
        mac: [0x52, 0x54, 0x00, 0x65, 0x43, 0x21],
        compat: Compat::Datasheet,
    }
}

fn function() -> ConfigSpace {
    let mut space = ConfigSpace::new(Header {
        vendor: E1000::VENDOR,
        device: E1000::DEVICE,
        revision: 2,
        class: [0x02, 0x00, 0x00],
        subsystem_vendor: E1000::VENDOR,
        subsystem: 0x001e,
        ..Header::default()
    });
    let memory = BarKind::Memory32 {
        prefetchable: false,
    };
    space
        .add_bar(0, memory, E1000::MEMORY_LENGTH)
        .expect("a window of 128 KiB");
    space
        .add_bar(1, BarKind::Io, E1000::IO_LENGTH)
        .expect("64 ports");
    Msi::add(&mut space, 1).expect("room for a capability");
    space.set_interrupt_pin(InterruptPin::A);
    space
}

fn config_offset(offset: u64) -> u16 {
    u16::try_from(offset).expect("within 256 bytes, as the session has checked")
}

/// Frames for the guest that are kept; what comes on top is lost, as in a switch.
const WAITING_MAX: usize = 1024;
/// Bytes of the shortest frame, without its checksum.
const SHORTEST: usize = 60;
