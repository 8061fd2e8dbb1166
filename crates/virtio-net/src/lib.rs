#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod checksum;
mod control;
mod device;
mod features;
mod header;
mod offload;
mod state;

pub use control::{Ack, Filter};
pub use device::{NetCounts, PACKET_MAX, RxOutcome, VirtioNet};
pub use features::NetFeatures;
pub use state::{HeldChains, NetState, NetStateError};
pub use virtqueue;
