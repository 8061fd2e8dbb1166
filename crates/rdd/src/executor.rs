//! What the executors have in common.

/// Faults for examples and tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// After this many finished attempts, counted over all jobs, a worker loses all it holds; another takes its place.
    pub lose_worker_at: Option<u64>,
    /// The first worker takes this many times as long as it should. 0 and 1 change nothing.
    pub slow_first_worker: u32,
}

/// An output that was another one when it was computed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotDeterministic {
    /// The last operator of the stage that made it, and its name.
    pub operator: String,
    /// Which of its tasks.
    pub partition: usize,
}

/// What an executor has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunCounts {
    /// Attempts launched.
    pub attempts: u64,
    /// Of those, backups.
    pub backups: u64,
    /// Attempts that finished.
    pub finished: u64,
    /// Workers lost.
    pub workers_lost: u64,
    /// Outputs that differed when they were computed again.
    pub not_deterministic: u64,
}

/// An error and what caused it, in one line.
pub(crate) fn with_source(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(feature = "threads")]
/// Of all outputs of a task, in order.
pub(crate) fn digest_of(outputs: &[crate::task::Output]) -> u64 {
    outputs.iter().fold(0, |all: u64, output| {
        all.rotate_left(5) ^ crate::block::digest(&output.bytes())
    })
}
