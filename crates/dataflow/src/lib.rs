#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod body;
mod chain;
mod error;
#[cfg(feature = "files")]
mod files;
mod job;
mod keyed;
mod local;
mod message;
mod persist;
mod push;
mod router;
#[cfg(any(feature = "threads", feature = "micro-batch"))]
mod runtime;
mod sink;
mod skew;
mod source;
mod stream;
mod task;
mod window;

pub use body::{Body, Captured, Emitter, Place, Poll, Restored, Saved};
pub use error::TaskError;
#[cfg(feature = "files")]
pub use files::{FileOutput, Lines};
pub use job::{Job, Ports};
pub use local::{Local, LocalOutcome};
pub use message::{Batch, Message, Record};
pub use persist::{Persister, tasks};
pub use push::Push;
#[cfg(feature = "micro-batch")]
pub use runtime::{BatchReport, MicroBatch};
#[cfg(feature = "threads")]
pub use runtime::{Continuous, Replicated, ReplicatedReport, Report};
#[cfg(any(feature = "threads", feature = "micro-batch"))]
pub use runtime::{Ended, Stopper};
pub use sink::{Output, Shared};
pub use skew::{HeavyKeys, Weight};
pub use source::{Generator, Source};
pub use stream::{KeyedStream, Program, Stream};
pub use task::{Capture, Task, TaskEvent};
pub use window::Windows;

/// Time: of events in the unit of the program, of snapshots in the unit of whoever runs it.
pub type Time = u64;
