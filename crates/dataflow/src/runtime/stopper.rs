//! How runs end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends a run as a crash would.
#[derive(Clone, Debug, Default)]
pub struct Stopper(Arc<AtomicBool>);

impl Stopper {
    /// Every thread of the run is lost with all it has in memory. The next run goes on from the storage.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All sources have ended, and all that came of them is committed.
    Finished,
    /// It was stopped.
    Stopped,
}
