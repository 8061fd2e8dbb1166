//! The virtio network device as a PCI function: virtio 1.3, 4.1, without the legacy interface.
//!
//! One memory window holds the four structures and the MSI-X table. Interrupts are messages, one for
//! each queue, where the driver switches MSI-X on; else INTA# by way of the ISR register.

use std::fmt;
use std::rc::Rc;

use pci_config::{BarKind, ConfigSpace, Header, MsiMessage, MsixTable};
use virtio_net::{NetFeatures, RxOutcome, VirtioNet};
use virtqueue::{Config, Layout, Notify, QueueSet};

use super::dma::Dma;
use super::ring_memory::{AnyRing, RingMemory};

/// Exits by structure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioExits {
    /// Accesses to the common configuration.
    pub common: u64,
    /// Accesses to the device configuration.
    pub device: u64,
    /// Reads of the ISR register.
    pub isr: u64,
    /// Kicks, by queue: receive, transmit, control.
    pub kicks: [u64; 3],
}

/// The function's registers and queues.
pub struct VirtioPci {
    net: VirtioNet,
    rings: RingMemory,
    memory: Rc<Dma>,
    queues: QueueSet<AnyRing>,
    programmed: [Programmed; QUEUES],
    queue_select: u16,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    status: u8,
    isr: u8,
    /// Absent where the device interrupts by INTA# only.
    msix: Option<MsixTable>,
    config_vector: u16,
    /// Causes that were not delivered yet, a bit for each queue and one for the configuration.
    due: u8,
    /// Kicks that were not served yet, a bit for each queue.
    kicked: u8,
    exits: VirtioExits,
    interrupts: u64,
}

/// What the driver wrote about a queue.
#[derive(Clone, Copy, Debug)]
struct Programmed {
    size: u16,
    enabled: bool,
    vector: u16,
    addresses: [u64; 3],
}

impl VirtioPci {
    /// A device and its function. Without `messages` it has no MSI-X.
    pub(super) fn new(
        mac: [u8; 6],
        offered: NetFeatures,
        rings: RingMemory,
        memory: Rc<Dma>,
        messages: bool,
    ) -> (Self, ConfigSpace) {
        let mut function = Self::function();
        let msix = messages.then(|| {
            let table = u32::try_from(TABLE).expect("inside the window");
            let pending = u32::try_from(PENDING).expect("inside the window");
            MsixTable::add(&mut function, VECTORS, 0, table, pending)
                .expect("room for a capability")
        });
        let device = Self {
            net: VirtioNet::new(mac, offered),
            rings,
            memory,
            queues: QueueSet::new(VirtioNet::QUEUES),
            programmed: [Programmed::RESET; QUEUES],
            queue_select: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            status: 0,
            isr: 0,
            msix,
            config_vector: NO_VECTOR,
            due: 0,
            kicked: 0,
            exits: VirtioExits::default(),
            interrupts: 0,
        };
        (device, function)
    }

    /// The function's configuration space, with a capability for each structure: 4.1.4.
    fn function() -> ConfigSpace {
        let mut space = ConfigSpace::new(Header {
            vendor: 0x1af4,
            device: 0x1040 + VirtioNet::DEVICE_TYPE,
            revision: 1,
            class: [0x02, 0x00, 0x00],
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            ..Header::default()
        });
        let memory = BarKind::Memory32 {
            prefetchable: false,
        };
        space.add_bar(0, memory, WINDOW).expect("32 KiB");
        let structures = [
            (1, COMMON, 56),
            (3, ISR, 1),
            (
                4,
                DEVICE,
                u32::try_from(VirtioNet::CONFIG_LENGTH).unwrap_or(0),
            ),
            (2, NOTIFY, 4 * u32::from(VirtioNet::QUEUES)),
        ];
        for (kind, offset, length) in structures {
            let offset = u32::try_from(offset).unwrap_or(0);
            let mut contents = vec![0, kind, 0, 0, 0, 0];
            contents.extend(offset.to_le_bytes());
            contents.extend(length.to_le_bytes());
            if kind == 2 {
                contents.extend(NOTIFY_MULTIPLIER.to_le_bytes());
            }
            // cap_len counts the id and the link before it.
            contents[0] = u8::try_from(contents.len() + 2).unwrap_or(0);
            let read_only = vec![0; contents.len()];
            space
                .add_capability(VENDOR_SPECIFIC, &contents, &read_only)
                .expect("room for four capabilities");
        }
        space
    }

    /// The device behind the function.
    #[must_use]
    pub fn net(&self) -> &VirtioNet {
        &self.net
    }

    /// Exits by structure.
    #[must_use]
    pub fn exits(&self) -> &VirtioExits {
        &self.exits
    }

    /// Times that INTA# was asserted, and messages sent.
    #[must_use]
    pub fn interrupts(&self) -> u64 {
        self.interrupts
    }

    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            TABLE..PENDING => {
                if let Some(msix) = &self.msix {
                    msix.read_table(offset - TABLE, data);
                }
            }
            PENDING..WINDOW => {
                if let Some(msix) = &self.msix {
                    msix.read_pending(offset - PENDING, data);
                }
            }
            ISR..DEVICE => {
                self.exits.isr += 1;
                // 4.1.4.5: reading clears, and takes the interrupt away.
                if let Some(first) = data.first_mut() {
                    *first = std::mem::take(&mut self.isr);
                }
            }
            DEVICE..NOTIFY => {
                self.exits.device += 1;
                self.net.read_config(offset - DEVICE, data);
            }
            COMMON..ISR => {
                self.exits.common += 1;
                let value = self.read_common(offset).to_le_bytes();
                for (byte, value) in data.iter_mut().zip(value) {
                    *byte = value;
                }
            }
            _ => {}
        }
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 8];
        let length = data.len().min(8);
        bytes[..length].copy_from_slice(&data[..length]);
        let value = u64::from_le_bytes(bytes);
        match offset {
            NOTIFY..TABLE => self.kick(offset - NOTIFY),
            TABLE..PENDING => {
                if let Some(msix) = &mut self.msix {
                    msix.write_table(offset - TABLE, data);
                }
            }
            COMMON..ISR => {
                self.exits.common += 1;
                self.write_common(offset, value, length);
            }
            _ => {}
        }
    }

    /// 4.1.4.4: where the write goes says which queue, whatever it says.
    fn kick(&mut self, offset: u64) {
        let index = u32::try_from(offset / u64::from(NOTIFY_MULTIPLIER)).unwrap_or(u32::MAX);
        let Some(queue) = self.queues.running(index) else {
            return;
        };
        queue.count_kick();
        self.kicked |= 1 << index;
        if let Ok(index) = usize::try_from(index) {
            self.exits.kicks[index] += 1;
        }
    }

    pub(super) fn has_work(&self) -> bool {
        self.kicked & (1 << TRANSMIT | 1 << CONTROL) != 0 || self.net.transmit_is_pending()
    }

    /// Serves the transmit and the control queue.
    pub(super) fn process(&mut self, send: &mut dyn FnMut(&[u8])) {
        self.kicked = 0;
        let Self {
            net,
            memory,
            queues,
            ..
        } = self;
        let sent = queues
            .running(TRANSMIT)
            .map(|queue| net.transmit(queue, &**memory, send).ok());
        let controlled = queues
            .running(CONTROL)
            .map(|queue| net.control(queue, &**memory).ok());
        for (queue, notify) in [(TRANSMIT, sent), (CONTROL, controlled)] {
            if let Some(notify) = notify {
                self.after(queue, notify);
            }
        }
    }

    /// Whether the frame is gone: delivered or dropped. If not, the driver kicks when it has buffers.
    pub(super) fn receive(&mut self, frame: &[u8]) -> bool {
        let Self {
            net,
            memory,
            queues,
            ..
        } = self;
        let Some(queue) = queues.running(RECEIVE) else {
            return true;
        };
        match net.receive(queue, &**memory, frame) {
            Ok(outcome) => outcome != RxOutcome::NoBuffers,
            Err(_) => {
                self.after(RECEIVE, None);
                true
            }
        }
    }

    pub(super) fn flush_receive(&mut self) {
        let Self { net, queues, .. } = self;
        if let Some(queue) = queues.running(RECEIVE) {
            let notify = net.flush_receive(queue).ok();
            self.after(RECEIVE, notify);
        }
    }

    /// Delivers what is due: as messages, or as the level of INTA#, which is answered.
    pub(super) fn interrupt(
        &mut self,
        space: &ConfigSpace,
        send: &mut dyn FnMut(MsiMessage),
    ) -> bool {
        let due = std::mem::take(&mut self.due);
        match &mut self.msix {
            Some(msix) if msix.is_enabled(space) => {
                let queues = self.programmed.iter().map(|queue| queue.vector);
                let vectors = queues.chain([self.config_vector]);
                for (bit, vector) in vectors.enumerate() {
                    if due & 1 << bit != 0 && vector != NO_VECTOR {
                        let message = msix.raise(space, vector);
                        self.interrupts += u64::from(message.is_some());
                        message.map(&mut *send);
                    }
                }
                while let Some(message) = msix.next_unmasked(space) {
                    self.interrupts += 1;
                    send(message);
                }
                false
            }
            _ => {
                self.interrupts += u64::from(due != 0 && self.isr == 0);
                if due & !CONFIGURATION_DUE != 0 {
                    self.isr |= ISR_QUEUE;
                }
                if due & CONFIGURATION_DUE != 0 {
                    self.isr |= ISR_CONFIGURATION;
                }
                self.isr != 0
            }
        }
    }

    /// Interrupts the driver if it is due; a queue that broke asks for a reset (2.1.1).
    fn after(&mut self, queue: u32, notify: Option<Notify>) {
        match notify {
            Some(notify) if notify.is_due() => self.due |= 1 << queue,
            Some(_) => {}
            None if self.status & NEEDS_RESET != 0 => {}
            None => {
                self.status |= NEEDS_RESET;
                self.due |= CONFIGURATION_DUE;
            }
        }
    }

    fn read_common(&self, offset: u64) -> u64 {
        let queue = self.programmed.get(usize::from(self.queue_select));
        let address = |index: usize| queue.map_or(0, |queue| queue.addresses[index]);
        let half = |bits: u64, select: u32| match select {
            0 => bits & 0xffff_ffff,
            1 => bits >> 32,
            _ => 0,
        };
        match offset {
            0x00 => self.device_feature_select.into(),
            0x04 => half(self.net.offered().0, self.device_feature_select),
            0x08 => self.driver_feature_select.into(),
            0x0c => half(self.driver_features, self.driver_feature_select),
            0x10 => self.config_vector.into(),
            0x1a => queue.map_or(NO_VECTOR, |queue| queue.vector).into(),
            0x12 => VirtioNet::QUEUES.into(),
            0x14 => self.status.into(),
            0x16 => self.queue_select.into(),
            0x18 => queue.map_or(0, |queue| queue.size.into()),
            0x1c => queue.is_some_and(|queue| queue.enabled).into(),
            0x1e => self.queue_select.into(),
            0x20 => address(0),
            0x24 => address(0) >> 32,
            0x28 => address(1),
            0x2c => address(1) >> 32,
            0x30 => address(2),
            0x34 => address(2) >> 32,
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: u64, value: u64, length: usize) {
        let low = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let [byte, second, ..] = value.to_le_bytes();
        let word = u16::from_le_bytes([byte, second]);
        match offset {
            0x00 => self.device_feature_select = low,
            0x08 => self.driver_feature_select = low,
            0x0c => self.write_features(low),
            0x10 => self.config_vector = self.vector(word),
            0x14 => self.write_status(byte),
            0x16 => self.queue_select = word,
            _ => self.write_queue(offset, value, length),
        }
    }

    fn write_features(&mut self, low: u32) {
        // 3.1.1: fixed once FEATURES_OK is set.
        if self.status & FEATURES_OK != 0 {
            return;
        }
        let (kept, value) = match self.driver_feature_select {
            0 => (self.driver_features & !0xffff_ffff, u64::from(low)),
            1 => (self.driver_features & 0xffff_ffff, u64::from(low) << 32),
            _ => return,
        };
        self.driver_features = kept | value;
    }

    /// A vector that exists; 4.1.5.1.2.1: one that does not reads back as none.
    fn vector(&self, vector: u16) -> u16 {
        if self.msix.is_some() && vector < VECTORS {
            vector
        } else {
            NO_VECTOR
        }
    }

    fn write_queue(&mut self, offset: u64, value: u64, length: usize) {
        let index = usize::from(self.queue_select);
        let [a, b, ..] = value.to_le_bytes();
        let word = u16::from_le_bytes([a, b]);
        let vector = self.vector(word);
        let Some(queue) = self.programmed.get_mut(index) else {
            return;
        };
        // Where it interrupts is no part of what a queue is.
        if offset == 0x1a {
            queue.vector = vector;
        }
        if queue.enabled {
            return;
        }
        match offset {
            0x18 => queue.size = word,
            0x1c => {
                queue.enabled = value & 1 != 0;
                self.configure(index);
            }
            0x20 | 0x24 | 0x28 | 0x2c | 0x30 | 0x34 => {
                let which = if offset < 0x28 {
                    0
                } else if offset < 0x30 {
                    1
                } else {
                    2
                };
                let address = &mut queue.addresses[which];
                *address = match (offset & 4, length) {
                    (0, 8) => value,
                    (0, _) => *address & !0xffff_ffff | value & 0xffff_ffff,
                    _ => *address & 0xffff_ffff | value << 32,
                };
            }
            _ => {}
        }
    }

    fn configure(&mut self, index: usize) {
        let queue = self.programmed[index];
        let features = NetFeatures(self.driver_features);
        let [descriptors, driver, device] = queue.addresses;
        let config = Config {
            layout: if features.contains(NetFeatures::RING_PACKED) {
                Layout::Packed
            } else {
                Layout::Split
            },
            size: queue.size,
            descriptors,
            driver,
            device,
            features: features.ring(),
        };
        if queue.enabled {
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            // A queue that runs already is left alone: the write came too late.
            let _ = self.queues.configure(index, config);
        }
    }

    /// 2.1: bits are set one after the other; 0 resets.
    fn write_status(&mut self, status: u8) {
        if status == 0 {
            return self.reset();
        }
        let set = status & !self.status;
        self.status |= status & STATUS_WRITABLE;
        if set & FEATURES_OK != 0 && !self.net.negotiate(NetFeatures(self.driver_features)) {
            self.status &= !FEATURES_OK;
        }
        if set & DRIVER_OK != 0 && self.status & FEATURES_OK != 0 {
            let rings = &self.rings;
            let started = self.queues.start(|config| rings.ring(config));
            if let Err((queue, _)) = started {
                self.after(queue.into(), None);
            }
        }
    }

    fn reset(&mut self) {
        self.net.reset();
        self.queues.reset();
        self.programmed = [Programmed::RESET; QUEUES];
        self.queue_select = 0;
        self.driver_features = 0;
        self.status = 0;
        self.isr = 0;
        self.config_vector = NO_VECTOR;
        self.due = 0;
        self.kicked = 0;
    }
}

impl Programmed {
    const RESET: Self = Self {
        size: QUEUE_SIZE,
        enabled: false,
        vector: NO_VECTOR,
        addresses: [0; 3],
    };
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci")
            .field("net", &self.net)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

const QUEUES: usize = 3;
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const CONTROL: u32 = 2;
const QUEUE_SIZE: u16 = 256;
// Where the structures are in the window.
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x5000;
const WINDOW: u64 = 0x8000;
/// One for each queue and one for the configuration.
const VECTORS: u16 = 4;
/// The configuration's bit among the causes, after those of the queues.
const CONFIGURATION_DUE: u8 = 1 << 3;
/// Bytes between the places to kick two queues.
const NOTIFY_MULTIPLIER: u32 = 4;
/// PCI 3.0, appendix H.
const VENDOR_SPECIFIC: u8 = 0x09;
/// `VIRTIO_MSI_NO_VECTOR`.
const NO_VECTOR: u16 = 0xffff;
const ISR_QUEUE: u8 = 1 << 0;
const ISR_CONFIGURATION: u8 = 1 << 1;
// Device status, 2.1.
const DRIVER_OK: u8 = 1 << 2;
const FEATURES_OK: u8 = 1 << 3;
const NEEDS_RESET: u8 = 1 << 6;
const STATUS_WRITABLE: u8 = !NEEDS_RESET;

#[cfg(test)]
mod tests;
