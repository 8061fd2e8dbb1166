//! A device in another process, or one of the host's, in the hands of a guest.
#![deny(unsafe_code)]

mod client;
mod client_memory;
mod events;
mod guest;
mod link;
mod nic;
mod server;
mod socket;
mod vfio;

pub use client::{DmaWay, VfioUserDevice};
pub use client_memory::DmaCounts;
pub use guest::{Guest, Report};
pub use nic::Nic;
pub use server::{Session, serve};
pub use vfio::VfioPciDevice;
