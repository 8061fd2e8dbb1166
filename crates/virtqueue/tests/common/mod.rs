//! A small guest memory with one queue in it, seen from both sides.
#![allow(dead_code, reason = "each test binary uses its part")]

use virtqueue::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use virtqueue::{
    ActiveConfig, Chain, Config, DeviceQueue, DriverQueue, HostRing, IndirectTables, Layout,
    RingFeatures, Segment,
};

pub(crate) const DESCRIPTORS: u64 = 0x1_0000;
pub(crate) const DRIVER: u64 = 0x2_0000;
pub(crate) const DEVICE: u64 = 0x3_0000;
pub(crate) const TABLES: u64 = 0x4_0000;
pub(crate) const BUFFERS: u64 = 0x8_0000;
pub(crate) const MEMORY: usize = 0x20_0000;

pub(crate) type Ring<'m> = HostRing<&'m GuestMemoryMmap>;
pub(crate) type Device<'m> = DeviceQueue<Ring<'m>>;
pub(crate) type Driver<'m> = DriverQueue<Ring<'m>>;

pub(crate) fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()
}

pub(crate) fn config(layout: Layout, size: u16, features: RingFeatures) -> Config {
    Config {
        layout,
        size,
        descriptors: DESCRIPTORS,
        driver: DRIVER,
        device: DEVICE,
        features,
    }
}

pub(crate) fn plain(layout: Layout, size: u16) -> ActiveConfig {
    config(layout, size, RingFeatures::default())
        .activate()
        .unwrap()
}

pub(crate) fn device<'m>(
    config: &ActiveConfig,
    memory: &'m GuestMemoryMmap,
) -> (Device<'m>, Chain) {
    let ring = HostRing::new(config, memory).unwrap();
    (DeviceQueue::new(config, ring), Chain::new(config))
}

pub(crate) fn driver<'m>(config: &ActiveConfig, memory: &'m GuestMemoryMmap) -> Driver<'m> {
    DriverQueue::new(config, HostRing::new(config, memory).unwrap(), None).unwrap()
}

pub(crate) fn indirect_driver<'m>(
    config: &ActiveConfig,
    memory: &'m GuestMemoryMmap,
) -> Driver<'m> {
    let tables = IndirectTables {
        address: TABLES,
        entries: config.config().size,
    };
    let ring = HostRing::new(config, memory).unwrap();
    DriverQueue::new(config, ring, Some(tables)).unwrap()
}

pub(crate) fn segment(address: u64, length: u32) -> Segment {
    Segment {
        address: GuestAddress(address),
        length,
    }
}

/// A descriptor of a split queue, written as a hostile driver would.
pub(crate) fn split_descriptor(memory: &GuestMemoryMmap, table: u64, index: u16, fields: Fields) {
    let word =
        u64::from(fields.length) | u64::from(fields.flags) << 32 | u64::from(fields.next) << 48;
    write_descriptor(memory, table, index, fields.address, word);
}

/// A descriptor of a packed queue: `next` is the buffer id.
pub(crate) fn packed_descriptor(memory: &GuestMemoryMmap, table: u64, index: u16, fields: Fields) {
    let word =
        u64::from(fields.length) | u64::from(fields.next) << 32 | u64::from(fields.flags) << 48;
    write_descriptor(memory, table, index, fields.address, word);
}

fn write_descriptor(memory: &GuestMemoryMmap, table: u64, index: u16, address: u64, word: u64) {
    let at = table + 16 * u64::from(index);
    memory.write_obj(address, GuestAddress(at)).unwrap();
    memory.write_obj(word, GuestAddress(at + 8)).unwrap();
}

#[derive(Clone, Copy)]
pub(crate) struct Fields {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

pub(crate) fn fields(length: u32, flags: u16, next: u16) -> Fields {
    Fields {
        address: BUFFERS,
        length,
        flags,
        next,
    }
}

/// Puts heads into the available ring and sets `avail.idx`.
pub(crate) fn make_available(memory: &GuestMemoryMmap, heads: &[u16], index: u16) {
    for (slot, head) in (0_u64..).zip(heads) {
        let at = GuestAddress(DRIVER + 4 + 2 * slot);
        memory.write_obj(*head, at).unwrap();
    }
    memory.write_obj(index, GuestAddress(DRIVER + 2)).unwrap();
}

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
/// Available on the first lap of a packed ring.
pub(crate) const AVAIL: u16 = 1 << 7;
