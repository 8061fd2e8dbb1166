//! Ways to run a job with threads.

#[cfg(feature = "threads")]
mod channel;
#[cfg(feature = "threads")]
mod continuous;
#[cfg(feature = "micro-batch")]
mod micro_batch;
#[cfg(feature = "threads")]
mod replicated;
mod stopper;
#[cfg(feature = "threads")]
mod storekeeper;
#[cfg(feature = "threads")]
mod worker;

#[cfg(feature = "threads")]
pub use continuous::{Continuous, Report};
#[cfg(feature = "micro-batch")]
pub use micro_batch::{BatchReport, MicroBatch};
#[cfg(feature = "threads")]
pub use replicated::{Replicated, ReplicatedReport};
pub use stopper::{Ended, Stopper};
