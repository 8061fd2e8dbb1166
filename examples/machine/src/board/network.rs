//! The network adapter as a PCI function: its windows, its interrupt, its memory and its wire.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use e1000::{Compat, E1000, E1000Config};
use pci_config::{BarKind, Bdf, Bus, ConfigSpace, Header, InterruptPin, Msi, MsiMessage};
use virtio_net::NetFeatures;
use vm_memory::{Bytes, GuestAddress};

use super::dma::{Dma, Written};
use super::remapping::Remapping;
use super::ring_memory::RingMemory;
use super::virtio_pci::VirtioPci;
use crate::kernel::Ram;
use crate::layout::{NETWORK_IRQ, NETWORK_MEMORY, NETWORK_PORTS, NETWORK_SLOT};

/// What is at the other end of the adapter's cable. Times are the board's, in nanoseconds.
pub trait Wire {
    /// Takes a frame that the guest sent.
    fn send(&mut self, frame: &[u8], now: u64);
    /// Works up to `now`, and puts frames for the guest into `frames`.
    fn advance(&mut self, now: u64, frames: &mut VecDeque<Vec<u8>>);
    /// When it next has something to do by itself.
    fn next_deadline(&self) -> Option<u64>;
}

/// Which adapter the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterKind {
    /// Intel's 82540EM.
    E1000,
    /// A virtio device that offers these features.
    Virtio(NetFeatures),
}

/// What a network is built with.
pub struct NetworkConfig {
    /// The adapter.
    pub adapter: AdapterKind,
    /// The adapter's address.
    pub mac: [u8; 6],
    /// Memory for its rings and buffers.
    pub ram: Ram,
    /// The other end of the cable.
    pub wire: Box<dyn Wire>,
    /// How long the adapter takes to begin with what the guest queued, in nanoseconds; 0 is at once.
    pub service_ns: u64,
    /// Whether the adapter can interrupt by messages: MSI, or MSI-X for virtio.
    pub messages: bool,
    /// A fault of the adapter's: with the first frame that it sends it writes to this address, and reads there.
    pub planted_dma: Option<u64>,
}

impl fmt::Debug for NetworkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkConfig")
            .field("adapter", &self.adapter)
            .field("mac", &self.mac)
            .field("service_ns", &self.service_ns)
            .field("messages", &self.messages)
            .field("planted_dma", &self.planted_dma)
            .finish_non_exhaustive()
    }
}

/// The adapter on the board.
#[derive(Debug)]
pub enum Adapter {
    /// Intel's 82540EM.
    E1000(Box<E1000>),
    /// A virtio device.
    Virtio(Box<VirtioPci>),
}

pub(super) struct Network {
    adapter: Adapter,
    memory: Rc<Dma>,
    wire: Box<dyn Wire>,
    service_ns: u64,
    service_at: Option<u64>,
    planted_dma: Option<u64>,
    /// The e1000's; virtio keeps its own table.
    msi: Option<Msi>,
    /// The e1000's level when it was last looked at: a message goes out when it rises.
    level: bool,
    /// Frames for the guest that found no buffers yet.
    waiting: VecDeque<Vec<u8>>,
}

impl Network {
    /// Puts the function on the bus, as firmware leaves it, and answers what is behind it.
    /// Without `remapping` its memory is memory as it is.
    pub(super) fn new(
        config: NetworkConfig,
        bus: &mut Bus<ConfigSpace>,
        remapping: Option<&Remapping>,
    ) -> Self {
        let memory = Rc::new(match remapping {
            Some(remapping) => remapping.memory_of(place()),
            None => Dma::new(config.ram.clone()),
        });
        let mut msi = None;
        let (adapter, function) = match config.adapter {
            AdapterKind::E1000 => {
                let compat = Compat::Datasheet;
                let mac = config.mac;
                let nic = Box::new(E1000::new(E1000Config { mac, compat }));
                let mut function = e1000_function();
                msi = config
                    .messages
                    .then(|| Msi::add(&mut function, 1).expect("room for a capability"));
                (Adapter::E1000(nic), function)
            }
            AdapterKind::Virtio(features) => {
                let memory = Rc::clone(&memory);
                let (rings, features) = match remapping {
                    Some(_) => (
                        RingMemory::Translated(Rc::clone(&memory)),
                        NetFeatures(features.0 | NetFeatures::ACCESS_PLATFORM.0),
                    ),
                    None => (RingMemory::Plain(Arc::new(config.ram)), features),
                };
                let (device, function) =
                    VirtioPci::new(config.mac, features, rings, memory, config.messages);
                (Adapter::Virtio(Box::new(device)), function)
            }
        };
        bus.insert(place(), wired(function))
            .expect("the slot is free on a new board");
        Self {
            adapter,
            memory,
            wire: config.wire,
            service_ns: config.service_ns,
            service_at: None,
            planted_dma: config.planted_dma,
            msi,
            level: false,
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// A stretch of memory that the adapter has written since it was last taken.
    pub(super) fn take_written(&self) -> Option<Written> {
        self.memory.take_written()
    }

    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) {
        match &mut self.adapter {
            Adapter::E1000(nic) => nic.read(offset, data),
            Adapter::Virtio(device) => device.read(offset, data),
        }
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8], now: u64, bus: &Bus<ConfigSpace>) {
        match &mut self.adapter {
            Adapter::E1000(nic) => nic.write(offset, data),
            Adapter::Virtio(device) => device.write(offset, data),
        }
        self.after_write(now, bus);
    }

    pub(super) fn port_read(&mut self, offset: u64, data: &mut [u8]) {
        match &mut self.adapter {
            Adapter::E1000(nic) => nic.io_read(offset, data),
            Adapter::Virtio(_) => data.fill(0xff),
        }
    }

    pub(super) fn port_write(
        &mut self,
        offset: u64,
        data: &[u8],
        now: u64,
        bus: &Bus<ConfigSpace>,
    ) {
        if let Adapter::E1000(nic) = &mut self.adapter {
            nic.io_write(offset, data);
        }
        self.after_write(now, bus);
    }

    /// Brings adapter and wire to `now`.
    pub(super) fn advance(&mut self, now: u64, bus: &Bus<ConfigSpace>) {
        if let Adapter::E1000(nic) = &mut self.adapter {
            nic.advance(now);
        }
        if self.service_at.is_some_and(|at| at <= now) {
            self.service_at = None;
            self.serve(now, bus);
        }
        self.exchange(now, bus);
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        let adapter = match &self.adapter {
            Adapter::E1000(nic) => nic.next_deadline(),
            Adapter::Virtio(_) => None,
        };
        let deadlines = [adapter, self.service_at, self.wire.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// The level of INTA#, by way of the function's status register; messages go to `send`.
    pub(super) fn interrupt(
        &mut self,
        bus: &mut Bus<ConfigSpace>,
        send: &mut dyn FnMut(MsiMessage),
    ) -> bool {
        let Some(space) = bus.function_mut(place()) else {
            return false;
        };
        let level = match &mut self.adapter {
            Adapter::E1000(nic) => {
                let level = nic.interrupt();
                match self.msi {
                    Some(msi) if msi.is_enabled(space) => {
                        let before = std::mem::replace(&mut self.level, level);
                        if level && !before {
                            msi.raise(space, 0).map(&mut *send);
                        }
                        msi.next_unmasked(space).map(&mut *send);
                        false
                    }
                    // Switched on later, it tells of what is there then.
                    _ => {
                        self.level = false;
                        level
                    }
                }
            }
            Adapter::Virtio(device) => device.interrupt(space, send),
        };
        space.set_interrupt_status(level);
        space.intx()
    }

    /// New work is begun after the service delay; new buffers may let frames in.
    fn after_write(&mut self, now: u64, bus: &Bus<ConfigSpace>) {
        if self.has_work() {
            if self.service_ns == 0 {
                self.serve(now, bus);
            } else {
                self.service_at
                    .get_or_insert_with(|| now.saturating_add(self.service_ns));
            }
        }
        self.exchange(now, bus);
    }

    fn has_work(&self) -> bool {
        match &self.adapter {
            Adapter::E1000(nic) => nic.has_work(),
            Adapter::Virtio(device) => device.has_work(),
        }
    }

    fn serve(&mut self, now: u64, bus: &Bus<ConfigSpace>) {
        if !is_bus_master(bus) {
            return;
        }
        if let Some(address) = self.planted_dma.take() {
            stray(&self.memory, GuestAddress(address));
        }
        let wire = &mut self.wire;
        let mut send = |frame: &[u8]| wire.send(frame, now);
        match &mut self.adapter {
            Adapter::E1000(nic) => nic.process(&*self.memory, &mut send),
            Adapter::Virtio(device) => device.process(&mut send),
        }
        // What was queued meanwhile is served after another delay.
        if self.has_work() {
            self.service_at = Some(now.saturating_add(self.service_ns.max(1)));
        }
    }

    /// Lets frames in as far as there are buffers. The network is told to wait by its own protocols.
    fn exchange(&mut self, now: u64, bus: &Bus<ConfigSpace>) {
        self.wire.advance(now, &mut self.waiting);
        self.waiting.truncate(WAITING_MAX);
        if !is_bus_master(bus) {
            return;
        }
        while let Some(frame) = self.waiting.front() {
            let taken = match &mut self.adapter {
                Adapter::E1000(nic) => {
                    let fits = nic.can_receive(frame.len().max(60));
                    fits.then(|| nic.receive(&*self.memory, frame)).is_some()
                }
                Adapter::Virtio(device) => device.receive(frame),
            };
            if !taken {
                break;
            }
            self.waiting.pop_front();
        }
        if let Adapter::Virtio(device) = &mut self.adapter {
            device.flush_receive();
        }
    }
}

/// What a broken adapter does; an adapter learns of no fault.
fn stray(memory: &Dma, address: GuestAddress) {
    let _ = memory.write_obj(u32::MAX, address);
    let _ = memory.read_obj::<u32>(address);
}

/// The offset of `address` in the function's memory window, where the guest put it.
pub(super) fn memory_offset(bus: &Bus<ConfigSpace>, address: u64) -> Option<u64> {
    offset_in(bus, 0, address)
}

/// The offset of a port in its port window.
pub(super) fn port_offset(bus: &Bus<ConfigSpace>, port: u16) -> Option<u64> {
    offset_in(bus, 1, port.into())
}

fn offset_in(bus: &Bus<ConfigSpace>, index: usize, address: u64) -> Option<u64> {
    let bar = bus.function(place())?.bar(index)?;
    let offset = address.checked_sub(bar.address)?;
    (bar.enabled && offset < bar.size).then_some(offset)
}

fn is_bus_master(bus: &Bus<ConfigSpace>) -> bool {
    bus.function(place())
        .is_some_and(ConfigSpace::is_bus_master)
}

pub(super) fn place() -> Bdf {
    Bdf::new(0, NETWORK_SLOT, 0).expect("device 3, function 0")
}

/// The 82540EM's configuration space.
fn e1000_function() -> ConfigSpace {
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
    space
}

/// The function with its windows where firmware would put them, not enabled, and its interrupt.
fn wired(mut space: ConfigSpace) -> ConfigSpace {
    space.write(0x10, &NETWORK_MEMORY.to_le_bytes());
    space.write(0x14, &u32::from(NETWORK_PORTS).to_le_bytes());
    space.set_interrupt_pin(InterruptPin::A);
    space.set_interrupt_line(NETWORK_IRQ);
    space
}

/// Frames for the guest that are kept; what comes on top is lost, as in a switch.
const WAITING_MAX: usize = 1024;
