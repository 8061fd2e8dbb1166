//! The same sum on threads, by the clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rdd::{Context, ThreadOptions, Threads};

/// How long sums took.
pub(crate) struct Measured {
    pub(crate) numbers: u64,
    pub(crate) workers: u32,
    /// A loop in one thread, without datasets.
    pub(crate) plain: Duration,
    pub(crate) time: Duration,
}

impl Measured {
    /// The plain loop's time over this one.
    pub(crate) fn speedup(&self) -> f64 {
        self.plain.as_secs_f64() / self.time.as_secs_f64()
    }

    pub(crate) fn efficiency(&self) -> f64 {
        self.speedup() / f64::from(self.workers)
    }
}

/// The fastest of `RUNS` runs: whatever else the machine does only makes them slower.
pub(crate) fn measure(numbers: u64, workers: u32) -> Result<Measured> {
    let threads = Threads::new(ThreadOptions {
        workers,
        ..ThreadOptions::default()
    })?;
    let context = Context::new(Arc::new(threads), workers as usize);
    let shares = u64::from(workers);
    let sum = context.generate(workers as usize, move |p| {
        let p = p as u64;
        (numbers * p / shares..numbers * (p + 1) / shares).map(number)
    });
    let (mut plain, mut time) = (Duration::MAX, Duration::MAX);
    for _ in 0..RUNS {
        let began = Instant::now();
        let expected = (0..numbers).map(number).fold(0, u64::wrapping_add);
        plain = plain.min(began.elapsed());
        let began = Instant::now();
        let found = sum.fold(0, u64::wrapping_add)?;
        time = time.min(began.elapsed());
        ensure!(found == expected, "the sum is {found}, not {expected}");
    }
    Ok(Measured {
        numbers,
        workers,
        plain,
        time,
    })
}

/// No compiler knows the sum of these without adding them.
fn number(n: u64) -> u64 {
    let mixed = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

const RUNS: usize = 9;
