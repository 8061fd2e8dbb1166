#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod action;
mod block;
mod combine;
mod context;
mod counter;
mod data;
#[cfg(any(feature = "threads", feature = "processes"))]
mod executor;
mod job;
mod lineage;
mod map_side;
mod narrow;
mod pair;
mod partitioner;
#[cfg(feature = "processes")]
mod processes;
mod rdd;
mod run_file;
pub mod scheduler;
mod source;
#[cfg(feature = "threads")]
mod store;
mod task;
#[cfg(feature = "threads")]
mod threads;
mod wide;

pub use action::collect_job;
pub use block::{Block, BlockError, decode, digest, encode};
pub use context::{Broadcast, Context, Runner};
pub use counter::{Counter, Counts};
pub use data::{Data, Key, RddId, ShuffleId};
#[cfg(any(feature = "threads", feature = "processes"))]
pub use executor::{Faults, RunCounts};
pub use job::{Job, JobError};
pub use lineage::{Dependency, Lineage, Shuffle};
pub use map_side::Pairs;
pub use pair::{Either, Groups};
pub use partitioner::{HashPartitioner, Partitioner, PartitionerId, Parts, RangePartitioner};
#[cfg(feature = "processes")]
pub use processes::{ProcessOptions, Processes, serve_if_worker};
pub use rdd::Rdd;
pub use run_file::RunReader;
pub use task::{FetchError, Output, StorageLevel, TaskContext, TaskEnv, TaskError};
#[cfg(feature = "threads")]
pub use threads::{ThreadOptions, Threads};
