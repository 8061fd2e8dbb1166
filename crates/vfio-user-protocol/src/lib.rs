#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod bytes;
mod dma;
mod header;
mod interrupts;
mod message;
mod reply;
mod server;
mod version;

pub use dma::{DMA_REGIONS_MAX, DmaError, DmaRegion};
pub use header::{Header, HeaderError, Kind, PAYLOAD_MAX};
pub use interrupts::{InterruptAction, Interrupts, IrqError};
pub use message::{Access, DATA_MAX, Direction, DmaMap, Request, RequestError, SetIrqs};
pub use reply::{DeviceInfo, IrqInfo, RegionInfo, Reply, ReplyError};
pub use server::{Answer, Device, Effect, FDS_MAX, Outcome, Server, SessionError};
pub use version::{Capabilities, Version};

/// Regions that a PCI function has, by what they are (`linux/vfio.h`).
pub mod region {
    /// The first base address register's window; the others follow.
    pub const BAR0: u32 = 0;
    /// The expansion ROM.
    pub const ROM: u32 = 6;
    /// Configuration space.
    pub const CONFIG: u32 = 7;
    /// The ports and memory of a VGA.
    pub const VGA: u32 = 8;
    /// How many there are.
    pub const COUNT: u32 = 9;
}

/// Interrupts that a PCI function has, by what they are (`linux/vfio.h`).
pub mod irq {
    /// The pin, which masks itself whenever it has told of its level.
    pub const INTX: u32 = 0;
    /// Message signalled interrupts.
    pub const MSI: u32 = 1;
    /// Those of MSI-X.
    pub const MSIX: u32 = 2;
    /// Errors of the bus.
    pub const ERROR: u32 = 3;
    /// The device is asked back.
    pub const REQUEST: u32 = 4;
    /// How many there are.
    pub const COUNT: u32 = 5;
}

/// Error numbers of replies: those of Linux.
pub mod errno {
    /// The device failed.
    pub const EIO: u32 = 5;
    /// There is no such range.
    pub const ENOENT: u32 = 2;
    /// Something else is there.
    pub const EEXIST: u32 = 17;
    /// The message is wrong.
    pub const EINVAL: u32 = 22;
    /// There is no room for more.
    pub const ENOSPC: u32 = 28;
    /// The request is one that is not served.
    pub const ENOTSUP: u32 = 95;
}
