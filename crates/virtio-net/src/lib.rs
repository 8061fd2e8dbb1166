#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod control;
mod device;
mod features;
mod header;
mod offload;

pub use control::{Ack, Filter};
pub use device::{NetCounts, PACKET_MAX, RxOutcome, VirtioNet};
pub use features::NetFeatures;
pub use virtqueue;
