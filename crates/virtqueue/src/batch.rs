//! When to flush: how many chains a device completes before it shows them to the driver.

use crate::{DeviceQueue, Fault, Notify, Ring};

/// What was completed since the last flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Chains.
    pub chains: u16,
    /// Bytes written to them.
    pub bytes: u64,
    /// When the first was completed, in the caller's unit of time.
    pub since: u64,
}

/// Decides when a batch is shown. A policy that waits owes a flush when the device goes idle, or when
/// [`deadline`](Self::deadline) comes.
pub trait BatchPolicy {
    /// Whether to flush `batch` at `now`.
    fn is_due(&self, batch: &Batch, now: u64) -> bool;

    /// When `batch` becomes due by time alone.
    fn deadline(&self, batch: &Batch) -> Option<u64> {
        let _ = batch;
        None
    }
}

/// Flushes each chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Immediate;

/// Flushes after this many chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EveryChains(
    /// Chains in a batch; 0 is as 1.
    pub u16,
);

/// Flushes when the first chain is this old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(
    /// Age in the caller's unit of time.
    pub u64,
);

impl BatchPolicy for Immediate {
    fn is_due(&self, _: &Batch, _: u64) -> bool {
        true
    }
}

impl BatchPolicy for EveryChains {
    fn is_due(&self, batch: &Batch, _: u64) -> bool {
        batch.chains >= self.0
    }
}

impl BatchPolicy for Window {
    fn is_due(&self, batch: &Batch, now: u64) -> bool {
        now.saturating_sub(batch.since) >= self.0
    }

    fn deadline(&self, batch: &Batch) -> Option<u64> {
        (batch.chains > 0).then(|| batch.since.saturating_add(self.0))
    }
}

impl Batch {
    /// Counts a chain that was completed at `now` with `written` bytes.
    pub fn add(&mut self, written: u32, now: u64) {
        if self.chains == 0 {
            self.since = now;
        }
        self.chains = self.chains.saturating_add(1);
        self.bytes += u64::from(written);
    }

    /// Flushes `queue` if `policy` says so, and begins a new batch then.
    ///
    /// # Errors
    ///
    /// Fails when the ring cannot be reached.
    pub fn flush_if_due<R: Ring>(
        &mut self,
        queue: &mut DeviceQueue<R>,
        policy: &impl BatchPolicy,
        now: u64,
    ) -> Result<Notify, Fault> {
        if self.chains == 0 || !policy.is_due(self, now) {
            return Ok(Notify::Idle);
        }
        *self = Self::default();
        queue.flush()
    }
}
