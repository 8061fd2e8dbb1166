//! Ways to run a job with threads.

#[cfg(feature = "threads")]
mod channel;
#[cfg(feature = "threads")]
mod continuous;
#[cfg(feature = "threads")]
mod storekeeper;
#[cfg(feature = "threads")]
mod worker;

#[cfg(feature = "threads")]
pub use continuous::{Continuous, Ended, Report, Stopper};
