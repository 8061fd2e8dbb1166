#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(feature = "sim", feature = "directory", test))]
extern crate std;

mod aligned;
mod coordinator;
mod cut;
#[cfg(feature = "directory")]
mod directory;
mod error;
pub mod frame;
mod key_group;
mod lai_yang;
mod manifest;
mod mutation;
mod options;
mod overtaking;
mod process;
mod recovery;
#[cfg(feature = "sim")]
pub mod sim;
mod state;
mod storage;
mod vocabulary;
mod wire;

pub use coordinator::{Action, Coordinator, Event, Schedule};
#[cfg(feature = "directory")]
pub use directory::Directory;
pub use error::{ShapeError, StepError};
pub use key_group::KeyGroups;
pub use manifest::{File, Manifest, ManifestError, NAME_MAX, Part, Task};
#[cfg(feature = "mutation")]
pub use mutation::Mutation;
pub use options::{Options, Protocol};
pub use process::{Edge, Process};
pub use recovery::{PlanError, Recovered, Restore, Unusable, plan, recover};
pub use state::{Keyed, StateError, View, stable_hash};
pub use storage::{MemoryStorage, Storage};
pub use vocabulary::{Input, Output};
pub use wire::{Channel, Marker, Place, SnapshotId, Time, Wire};
