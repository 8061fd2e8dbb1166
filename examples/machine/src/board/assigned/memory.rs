//! Memory as a device of somebody else's may ask for it.

use vm_memory::{Bytes, GuestAddress};

use crate::board::dma::Dma;

/// Memory behind whatever translates the device's addresses.
pub trait DeviceMemory {
    /// Reads; `false` when some of the range may not be read, and then `data` is worth nothing.
    fn read(&self, address: u64, data: &mut [u8]) -> bool;

    /// Writes; `false` when some of the range may not be written. The rest may have been.
    fn write(&self, address: u64, data: &[u8]) -> bool;
}

/// Memory of a function whose bus mastering is on or off.
pub(super) struct Gated<'a> {
    memory: &'a Dma,
    open: bool,
}

impl Dma {
    pub(super) fn gated(&self, open: bool) -> Gated<'_> {
        Gated { memory: self, open }
    }

    /// No memory at all.
    pub(super) fn denied(&self) -> Gated<'_> {
        self.gated(false)
    }
}

impl DeviceMemory for Gated<'_> {
    fn read(&self, address: u64, data: &mut [u8]) -> bool {
        self.open && self.memory.read_slice(data, GuestAddress(address)).is_ok()
    }

    fn write(&self, address: u64, data: &[u8]) -> bool {
        self.open && self.memory.write_slice(data, GuestAddress(address)).is_ok()
    }
}
