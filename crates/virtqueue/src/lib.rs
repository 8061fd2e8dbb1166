#![doc = include_str!("../README.md")]

mod batch;
mod chain;
mod config;
mod descriptor;
mod device;
mod driver;
mod guest_ring;
mod host_ring;
mod notify;
mod packed_device;
mod packed_driver;
mod packed_event;
mod queue_set;
mod ring;
mod split;
mod split_device;
mod split_driver;
mod state;

pub use batch::{Batch, BatchPolicy, EveryChains, Immediate, Window};
pub use chain::{Chain, ChainError, Segment};
pub use config::{ActiveConfig, Area, Config, ConfigError, Layout, RingFeatures};
pub use descriptor::RawDescriptor;
pub use device::{DeviceCounts, DeviceQueue, Head, QueueError, UsedError};
pub use driver::{AddError, DeviceFault, DriverCounts, DriverQueue, IndirectTables, Used};
pub use guest_ring::GuestRing;
pub use host_ring::{HostRing, MemoryHandle};
pub use notify::{Notify, NotifyCounts, Pending, Why};
pub use queue_set::QueueSet;
pub use ring::{Fault, Ring};
#[cfg(feature = "virtio-queue")]
pub use state::NoPackedQueues;
pub use state::{QueueState, RestoreError, Undrained};
pub use vm_memory;
