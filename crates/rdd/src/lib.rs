#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod action;
mod block;
mod checkpoint;
mod combine;
mod context;
mod counter;
#[cfg(feature = "csv")]
mod csv;
mod data;
mod directory;
#[cfg(any(feature = "threads", feature = "processes"))]
mod executor;
mod heavy;
mod job;
mod lineage;
mod map_side;
mod more_actions;
mod narrow;
#[cfg(feature = "object-store")]
mod objects;
mod pair;
mod partitioner;
mod picture;
#[cfg(feature = "processes")]
mod processes;
mod rdd;
mod run_file;
pub mod scheduler;
mod source;
mod stats;
#[cfg(feature = "threads")]
mod store;
mod task;
#[cfg(feature = "threads")]
mod threads;
mod wide;

#[cfg(feature = "object-store")]
pub use object_store;
#[cfg(feature = "csv")]
pub use {arrow_array, arrow_csv, arrow_schema};

pub use action::collect_job;
pub use block::{Block, BlockError, decode, digest, encode};
pub use checkpoint::{Storage, remove_checkpoint};
pub use context::{Broadcast, Context, Runner};
pub use counter::{Counter, Counts};
pub use data::{Data, Key, RddId, ShuffleId};
pub use directory::Directory;
#[cfg(any(feature = "threads", feature = "processes"))]
pub use executor::{Faults, NotDeterministic, RunCounts};
pub use heavy::Joined;
pub use job::{Job, JobError};
pub use lineage::{Dependency, Lineage, Shuffle};
pub use map_side::Pairs;
#[cfg(feature = "object-store")]
pub use objects::Objects;
pub use pair::{Either, Groups};
pub use partitioner::{HashPartitioner, Partitioner, PartitionerId, Parts, RangePartitioner};
#[cfg(feature = "processes")]
pub use processes::{ProcessOptions, Processes, serve_if_worker};
pub use rdd::Rdd;
pub use run_file::RunReader;
pub use stats::Stats;
pub use task::{FetchError, Output, StorageLevel, TaskContext, TaskEnv, TaskError};
#[cfg(feature = "threads")]
pub use threads::{ThreadOptions, Threads};
