//! Numbers: sums, moments, histograms, and estimates of how many there are.

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::data::{Data, Key, key_hash};
use crate::job::JobError;
use crate::rdd::Rdd;

/// Count, mean, spread and ends of numbers. Two can be merged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// How many.
    pub count: u64,
    /// Their mean, 0 of none.
    pub mean: f64,
    /// The sum of squared distances from the mean.
    pub squares: f64,
    /// The least, infinite of none.
    pub min: f64,
    /// The greatest, minus infinite of none.
    pub max: f64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            count: 0,
            mean: 0.0,
            squares: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
        }
    }
}

impl Stats {
    /// Adds one number (Welford).
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        let off = value - self.mean;
        self.mean += off / self.count as f64;
        self.squares += off * (value - self.mean);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds what others counted (Chan, Golub and `LeVeque`).
    pub fn merge(&mut self, other: Self) {
        let (here, there) = (self.count as f64, other.count as f64);
        let off = other.mean - self.mean;
        self.count += other.count;
        if self.count > 0 {
            self.mean += off * there / (here + there);
            self.squares += other.squares + off * off * here * there / (here + there);
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The sum.
    pub fn sum(&self) -> f64 {
        self.mean * self.count as f64
    }

    /// The variance of the population; not a number of none.
    pub fn variance(&self) -> f64 {
        self.squares / self.count as f64
    }

    /// The variance estimated from a sample; not a number of less than two.
    pub fn sample_variance(&self) -> f64 {
        if self.count < 2 {
            f64::NAN
        } else {
            self.squares / (self.count - 1) as f64
        }
    }

    /// The standard deviation of the population.
    pub fn stdev(&self) -> f64 {
        self.variance().sqrt()
    }
}

impl<T: Data + Into<f64>> Rdd<T> {
    /// Count, mean, spread and ends.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up. So for the others.
    pub fn stats(&self) -> Result<Stats, JobError> {
        self.aggregate(
            Stats::default(),
            |stats, value| stats.add(value.into()),
            |stats, other| stats.merge(other),
        )
    }

    /// The sum.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn sum(&self) -> Result<f64, JobError> {
        self.aggregate(
            0.0,
            |sum, value| *sum += value.into(),
            |sum, other| *sum += other,
        )
    }

    /// The mean; 0 of none.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn mean(&self) -> Result<f64, JobError> {
        Ok(self.stats()?.mean)
    }

    /// The variance of the population.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn variance(&self) -> Result<f64, JobError> {
        Ok(self.stats()?.variance())
    }

    /// The standard deviation of the population.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn stdev(&self) -> Result<f64, JobError> {
        Ok(self.stats()?.stdev())
    }

    /// How many numbers are in each of the ranges between neighbours of `bounds`, the last one with its end.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    ///
    /// # Panics
    ///
    /// When `bounds` are not at least two numbers, each greater than the one before.
    pub fn histogram(&self, bounds: &[f64]) -> Result<Vec<u64>, JobError> {
        assert!(
            bounds.len() >= 2 && bounds.windows(2).all(|pair| pair[0] < pair[1]),
            "bounds ascend"
        );
        let bounds = bounds.to_vec();
        let last = bounds.len() - 2;
        self.aggregate(
            vec![0; bounds.len() - 1],
            move |counts: &mut Vec<u64>, value| {
                let value: f64 = value.into();
                let below = bounds.partition_point(|bound| *bound <= value);
                if below > 0 && value <= bounds[last + 1] {
                    counts[(below - 1).min(last)] += 1;
                }
            },
            |counts, other| counts.iter_mut().zip(other).for_each(|(a, b)| *a += b),
        )
    }
}

impl<T: Key> Rdd<T> {
    /// About how many different elements there are (`HyperLogLog` with 4096 registers: 1.6 % standard error).
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn count_approx_distinct(&self) -> Result<u64, JobError> {
        let registers = self.aggregate(
            vec![0u8; REGISTERS],
            |registers: &mut Vec<u8>, value| {
                let hash = XxHash3_64::oneshot(&key_hash(&value).to_le_bytes());
                let register = usize::try_from(hash % REGISTERS as u64).expect("a small number");
                let rank = ((hash / REGISTERS as u64) | (1 << 52)).trailing_zeros() + 1;
                let rank = u8::try_from(rank).expect("at most 53");
                registers[register] = registers[register].max(rank);
            },
            |registers, other| {
                let both = registers.iter_mut().zip(other);
                both.for_each(|(a, b)| *a = b.max(*a));
            },
        )?;
        Ok(estimate(&registers))
    }
}

/// Flajolet, Fusy, Gandouet and Meunier 2007, figure 3, with linear counting for small numbers.
fn estimate(registers: &[u8]) -> u64 {
    let m = registers.len() as f64;
    let sum: f64 = registers
        .iter()
        .map(|rank| (-f64::from(*rank)).exp2())
        .sum();
    let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
    let empty = registers.iter().filter(|rank| **rank == 0).count();
    let estimate = if raw <= 2.5 * m && empty > 0 {
        m * (m / empty as f64).ln()
    } else {
        raw
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive and below 2^64"
    )]
    let rounded = estimate.round() as u64;
    rounded
}

const REGISTERS: usize = 4096;
