//! Consistent snapshots.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(feature = "sim", test))]
extern crate std;

mod aligned;
mod cut;
mod error;
mod lai_yang;
mod mutation;
mod options;
mod overtaking;
mod process;
#[cfg(feature = "sim")]
pub mod sim;
mod vocabulary;
mod wire;

pub use error::{ShapeError, StepError};
#[cfg(feature = "mutation")]
pub use mutation::Mutation;
pub use options::{Options, Protocol};
pub use process::{Edge, Process};
pub use vocabulary::{Input, Output};
pub use wire::{Channel, Marker, Place, SnapshotId, Time, Wire};
