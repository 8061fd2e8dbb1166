//! What can go wrong in a task.

use std::io;

/// Why a task cannot go on. A job whose task fails begins again from its last snapshot, or ends.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A snapshot holds something else than this job would have written.
    #[error("the snapshot does not fit the job")]
    Snapshot,
    /// The snapshot was of another shape of job.
    #[error("the snapshot does not fit the job: {0}")]
    Plan(#[from] chandy_lamport::PlanError),
    /// A channel brought records of another type.
    #[error("records of another type than the channel's")]
    Type,
    /// A peer broke the protocol.
    #[error("a snapshot protocol was broken: {0}")]
    Protocol(#[from] chandy_lamport::StepError),
    /// A recorded message or an edge has no place in the graph.
    #[error("the graph does not fit: {0}")]
    Shape(#[from] chandy_lamport::ShapeError),
    /// A function of the program panicked.
    #[error("a function of the program panicked")]
    Panicked,
    /// A source or sink failed.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl TaskError {
    /// An I/O error, and what it happened to.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }
}
