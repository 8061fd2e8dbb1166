//! What the benches share. Each `benches/<crate>.rs` answers questions about one crate.

use std::sync::atomic::{AtomicU64, Ordering};

/// Page numbers in an order that no prefetcher follows (Knuth's MMIX generator).
#[derive(Debug)]
pub struct Pages {
    state: u64,
    mask: u64,
}

impl Pages {
    /// Numbers below `pages`, a power of two. Begins where none has begun before, or else large tables would be in the
    /// cache already.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        static BEGUN: AtomicU64 = AtomicU64::new(0);
        Self {
            state: BEGUN.fetch_add(1, Ordering::Relaxed) << 40,
            mask: pages - 1,
        }
    }

    /// The next one.
    #[inline]
    pub fn draw(&mut self) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.state >> 33 & self.mask
    }
}
