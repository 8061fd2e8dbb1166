#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(feature = "model", feature = "sim", feature = "wal-files", test))]
extern crate std;

mod boot;
mod election;
mod entry;
mod error;
mod follower;
mod leader;
mod log;
mod membership;
mod message;
#[cfg(feature = "model")]
pub mod model;
mod mutation;
mod options;
mod progress;
mod propose;
mod raft;
mod read;
mod reconfigure;
mod replication;
mod rng;
mod role;
#[cfg(feature = "sim")]
pub mod sim;
mod snapshot;
mod transfer;
#[cfg(feature = "wal")]
pub mod wal;

pub use boot::Boot;
pub use entry::{Entries, Entry, HardState, Index, NodeId, Payload, Position, Term, Time};
pub use error::{BootError, ProposeError, ReadError, StepError};
pub use log::Log;
pub use membership::{Membership, MembershipError, Tally};
pub use message::{Action, Body, Message, SnapshotId, Ticket, Write};
#[cfg(feature = "mutation")]
pub use mutation::Mutation;
pub use options::{Options, OptionsError};
pub use progress::{Mode, Progress};
pub use raft::Raft;
pub use read::ReadMode;
pub use role::Standing;
pub use snapshot::Snapshot;
