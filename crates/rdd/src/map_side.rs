//! The map side of a shuffle that combines: a table while that pays, then only spreading, except for heavy keys.
//!
//! Each block is cut by hash into as many pieces as keep the tables of its reader within a processor's cache.

use std::borrow::Borrow;
use std::hash::Hash;

use rustc_hash::FxHashMap;

use crate::combine::Combiner;
use crate::data::{Data, Key, key_hash};
use crate::partitioner::Parts;
use crate::task::{Halt, Output, TaskContext};

/// Pieces of each block for a shuffle with this many partitions.
pub(crate) fn pieces(partitions: usize) -> usize {
    (PIECES / partitions).max(1)
}

/// What one map task hands over: for each partition its pairs, in pieces by hash.
pub(crate) struct Buckets<'a, K, C> {
    parts: &'a Parts<K>,
    by_hash: bool,
    pieces: usize,
    buckets: Vec<Vec<(K, C)>>,
}

impl<'a, K: Key, C: Data> Buckets<'a, K, C> {
    fn new(parts: &'a Parts<K>) -> Self {
        let partitions = parts.0.partitions();
        let pieces = pieces(partitions);
        Self {
            by_hash: parts.id() == Parts::<K>::from(partitions).id(),
            parts,
            pieces,
            buckets: vec![Vec::new(); partitions * pieces],
        }
    }

    fn push(&mut self, key: K, value: C) {
        // One hash serves both where the partition comes from it, too: the pieces cut its range further.
        let (before, ways) = if self.by_hash {
            (0, self.buckets.len())
        } else {
            (self.parts.0.partition(&key) * self.pieces, self.pieces)
        };
        self.buckets[before + scaled(key_hash(&key), ways)].push((key, value));
    }

    fn finish(self) -> Vec<Output> {
        let mut buckets = self.buckets.into_iter();
        (0..self.parts.0.partitions())
            .map(|_| Output::pieces(buckets.by_ref().take(self.pieces).collect()))
            .collect()
    }
}

/// A hash's place when its range is cut into `ways`.
pub(crate) fn scaled(hash: u64, ways: usize) -> usize {
    let scaled = (u128::from(hash) * ways as u128) >> 64;
    usize::try_from(scaled).expect("less than the number of ways")
}

/// Takes in pairs, and combines them where that pays.
pub(crate) struct MapSide<'a, K, C> {
    table: Option<Combiner<'a, K, C>>,
    /// Keys that were a good part of the trial's records; combined even when the others are not.
    heavy: FxHashMap<K, Option<C>>,
    sampled: FxHashMap<K, usize>,
    records: usize,
    buckets: Buckets<'a, K, C>,
}

impl<'a, K: Key, C: Data> MapSide<'a, K, C> {
    pub(crate) fn new(
        task: &TaskContext<'_>,
        parts: &'a Parts<K>,
        merge: &'a dyn Fn(&mut C, C),
    ) -> Self {
        Self {
            table: Some(Combiner::new(task, 0, merge)),
            heavy: FxHashMap::default(),
            sampled: FxHashMap::default(),
            records: 0,
            buckets: Buckets::new(parts),
        }
    }

    pub(crate) fn add_all<V>(
        &mut self,
        pairs: Vec<(K, V)>,
        create: &dyn Fn(V) -> C,
        add: &dyn Fn(&mut C, V),
    ) -> Result<(), Halt> {
        if let Some(table) = &mut self.table {
            for (key, value) in pairs {
                if self.records < TRIAL && self.records.is_multiple_of(SAMPLE_EVERY) {
                    *self.sampled.entry(key.clone()).or_insert(0) += 1;
                }
                self.records += 1;
                table.add(key, value, create, add)?;
            }
            return self.judge();
        }
        for (key, value) in pairs {
            match self.heavy.get_mut(&key) {
                Some(Some(sum)) => add(sum, value),
                Some(none) => *none = Some(create(value)),
                None => self.buckets.push(key, create(value)),
            }
        }
        Ok(())
    }

    /// As [`Self::add_all`] with one pair, whose key is copied only when it is not there yet.
    pub(crate) fn add_borrowed<Q, V>(
        &mut self,
        key: &Q,
        value: V,
        create: &impl Fn(V) -> C,
        add: &impl Fn(&mut C, V),
    ) -> Result<(), Halt>
    where
        K: Borrow<Q> + for<'q> From<&'q Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.records += 1;
        if let Some(table) = &mut self.table {
            if self.records <= TRIAL && self.records.is_multiple_of(SAMPLE_EVERY) {
                *self.sampled.entry(K::from(key)).or_insert(0) += 1;
            }
            return table.add_borrowed(key, value, create, add);
        }
        match self.heavy.get_mut(key) {
            Some(Some(sum)) => add(sum, value),
            Some(none) => *none = Some(create(value)),
            None => self.buckets.push(K::from(key), create(value)),
        }
        Ok(())
    }

    /// Gives up the table when more than half of the records were the first of their key: it costs more than it saves.
    pub(crate) fn judge(&mut self) -> Result<(), Halt> {
        let keys = self.table.as_ref().map_or(0, Combiner::keys);
        if self.records < TRIAL || keys <= self.records / 2 {
            return Ok(());
        }
        let samples: usize = self.sampled.values().sum();
        self.heavy = std::mem::take(&mut self.sampled)
            .into_iter()
            .filter(|(_, count)| count * HEAVY_PART >= samples && *count > 1)
            .map(|(key, _)| (key, None))
            .collect();
        self.spread()
    }

    pub(crate) fn finish(mut self) -> Result<Vec<Output>, Halt> {
        self.spread()?;
        for (key, sum) in self.heavy {
            if let Some(sum) = sum {
                self.buckets.push(key, sum);
            }
        }
        Ok(self.buckets.finish())
    }

    fn spread(&mut self) -> Result<(), Halt> {
        let Some(mut table) = self.table.take() else {
            return Ok(());
        };
        table.flush(&mut |batch| {
            for (key, sum) in batch {
                self.buckets.push(key, sum);
            }
            Ok(())
        })
    }
}

/// Receives the pairs of one element after the other. See [`crate::Rdd::reduce_pairs_by_key`].
pub struct Pairs<'a, 'm, K, V> {
    side: &'a mut MapSide<'m, K, V>,
    merge: &'a dyn Fn(&mut V, V),
    failed: Option<Halt>,
}

impl<K, V> std::fmt::Debug for Pairs<'_, '_, K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pairs").finish_non_exhaustive()
    }
}

impl<'a, 'm, K: Key, V: Data> Pairs<'a, 'm, K, V> {
    pub(crate) fn new(side: &'a mut MapSide<'m, K, V>, merge: &'a dyn Fn(&mut V, V)) -> Self {
        Self {
            side,
            merge,
            failed: None,
        }
    }

    /// Adds a pair.
    pub fn add<Q>(&mut self, key: &Q, value: V)
    where
        K: Borrow<Q> + for<'q> From<&'q Q>,
        Q: Hash + Eq + ?Sized,
    {
        if self.failed.is_some() {
            return;
        }
        let added = self
            .side
            .add_borrowed(key, value, &|first| first, &self.merge);
        self.failed = added.err();
    }

    pub(crate) fn finish(self) -> Result<(), Halt> {
        match self.failed {
            Some(failed) => Err(failed),
            None => self.side.judge(),
        }
    }
}

/// Pieces that the blocks of one map task are cut into, all together.
const PIECES: usize = 64;
/// Records after which the map side knows whether combining pays.
const TRIAL: usize = 32 * 1024;
/// One of so many records of the trial is looked at for heavy keys.
const SAMPLE_EVERY: usize = 16;
/// A key is heavy with one of so many samples.
const HEAVY_PART: usize = 64;
