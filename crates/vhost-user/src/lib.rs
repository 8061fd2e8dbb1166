#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod backend;
mod features;
mod header;
mod message;
mod region;

pub use backend::{Answer, Backend, Effect, Outcome, RingSetup, SessionError};
pub use features::{ProtocolFeatures, VHOST_USER_F_PROTOCOL_FEATURES};
pub use header::{Header, HeaderError, PAYLOAD_MAX};
pub use message::{Code, MessageError, Reply, Request, VringAddresses};
pub use region::{REGIONS_MAX, Region, RegionError, Regions};
