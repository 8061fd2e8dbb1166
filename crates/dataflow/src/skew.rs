//! Load that is not even: finding heavy keys, and aggregating before the exchange.

use std::collections::HashMap;
use std::hash::Hash;

use rustc_hash::FxHashMap;

use crate::body::Emitter;
use crate::push::{Push, pass_on};
use crate::{Record, TaskError};

/// Aggregates each batch by key.
pub(crate) struct Combine<G, K, A, I, F> {
    pub(crate) key: G,
    pub(crate) first: I,
    pub(crate) add: F,
    pub(crate) next: Box<dyn Push<(K, A)>>,
}

impl<G, K, A, T, I, F> Push<T> for Combine<G, K, A, I, F>
where
    G: Fn(&T) -> K + Send,
    K: Record + Hash + Eq,
    A: Record,
    T: Record,
    I: Fn() -> A + Send,
    F: Fn(&mut A, T) + Send,
{
    fn batch(&mut self, records: Vec<T>, out: &mut Emitter) -> Result<(), TaskError> {
        // In the order in which keys first come, so that two runs do the same.
        let mut places: FxHashMap<K, usize> = FxHashMap::default();
        let mut combined: Vec<(K, A)> = Vec::new();
        for record in records {
            let key = (self.key)(&record);
            let place = *places.entry(key).or_insert_with_key(|key| {
                combined.push((key.clone(), (self.first)()));
                combined.len() - 1
            });
            (self.add)(&mut combined[place].1, record);
        }
        self.next.batch(combined, out)
    }

    pass_on!();
}

/// The keys that most records have, in a fixed space (Metwally, Agrawal and El Abbadi 2005, Space-Saving).
///
/// A key that more than one of `capacity` records has is always among them; a count may be too high by its `error`.
#[derive(Clone, Debug)]
pub struct HeavyKeys<K> {
    capacity: usize,
    counts: HashMap<K, Weight>,
    total: u64,
}

/// How often a key came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// At most so often.
    pub count: u64,
    /// At least so much less often.
    pub error: u64,
}

impl<K: Hash + Eq + Clone> HeavyKeys<K> {
    /// Counts up to `capacity` keys at a time.
    ///
    /// # Panics
    ///
    /// If that is none.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "no keys can be counted");
        Self {
            capacity,
            counts: HashMap::with_capacity(capacity),
            total: 0,
        }
    }

    /// Counts a key. Costs as much as there are counters when a key is new, so give it a sample.
    pub fn add(&mut self, key: &K) {
        self.total += 1;
        if let Some(weight) = self.counts.get_mut(key) {
            weight.count += 1;
            return;
        }
        let mut weight = Weight { count: 1, error: 0 };
        if self.counts.len() >= self.capacity {
            let least = self.counts.iter().min_by_key(|(_, weight)| weight.count);
            if let Some((least, count)) = least.map(|(key, weight)| (key.clone(), weight.count)) {
                self.counts.remove(&least);
                weight = Weight {
                    count: count + 1,
                    error: count,
                };
            }
        }
        self.counts.insert(key.clone(), weight);
    }

    /// The keys that surely have more than this share of the records, the heaviest first. With `tasks` tasks, one with
    /// more than 1 / `tasks` keeps its task busier than all others together would be.
    #[must_use]
    pub fn above(&self, numerator: u64, denominator: u64) -> Vec<(K, Weight)> {
        let heavy = |weight: &Weight| {
            u128::from(weight.count - weight.error) * u128::from(denominator)
                > u128::from(self.total) * u128::from(numerator)
        };
        let all = self.counts.iter().filter(|(_, weight)| heavy(weight));
        let mut all: Vec<_> = all.map(|(key, weight)| (key.clone(), *weight)).collect();
        all.sort_by_key(|(_, weight)| std::cmp::Reverse(weight.count - weight.error));
        all
    }

    /// How many records were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heavy_key_is_found_among_many() {
        let mut heavy = HeavyKeys::new(20);
        for n in 0..10_000u64 {
            heavy.add(&if n % 4 == 0 { 0 } else { n });
        }
        let above = heavy.above(1, 8);
        assert_eq!(above.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [0]);
        assert!(above[0].1.count >= 2_500);
        assert!(above[0].1.count - above[0].1.error <= 2_500);
    }

    #[test]
    fn nothing_is_heavy_where_all_are_alike() {
        let mut heavy = HeavyKeys::new(20);
        (0..10_000u64).for_each(|n| heavy.add(&n));
        assert!(heavy.above(1, 8).is_empty());
    }
}
