//! Heavy keys: found in a pass over the data, and split where they are joined.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::data::{Data, Key, key_hash};
use crate::job::JobError;
use crate::map_side::scaled;
use crate::partitioner::{Partitioner, PartitionerId, Parts};
use crate::rdd::Rdd;

/// Counts of the most frequent keys, each too low by at most `missed` (Misra and Gries).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "K: Key")]
struct Sketch<K> {
    counts: Vec<(K, u64)>,
    missed: u64,
    records: u64,
}

impl<K: Key> Sketch<K> {
    fn of(pairs: impl Iterator<Item = K>, room: usize) -> Self {
        let (mut counts, mut missed, mut records) = (FxHashMap::<K, u64>::default(), 0, 0);
        for key in pairs {
            records += 1;
            if let Some(count) = counts.get_mut(&key) {
                *count += 1;
            } else if counts.len() < room {
                counts.insert(key, 1);
            } else {
                missed += 1;
                counts.retain(|_, count| {
                    *count -= 1;
                    *count > 0
                });
            }
        }
        Self {
            counts: counts.into_iter().collect(),
            missed,
            records,
        }
    }
}

/// Pairs of values with equal keys.
pub type Joined<K, V, W> = Rdd<(K, (V, W))>;

impl<K: Key, V: Data> Rdd<(K, V)> {
    /// Every key that at least `share` of the pairs have, with a count that is too low by at most a tenth of that
    /// share. Runs a job over all pairs.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    ///
    /// # Panics
    ///
    /// When `share` is not above 0 and at most 1.
    pub fn heavy_keys(&self, share: f64) -> Result<Vec<(K, u64)>, JobError> {
        Ok(self.heavy(share)?.0)
    }

    /// The heavy keys, and how many pairs there are.
    fn heavy(&self, share: f64) -> Result<(Vec<(K, u64)>, u64), JobError> {
        assert!(share > 0.0 && share <= 1.0, "a share is above 0, at most 1");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and asks for a great deal of memory only for tiny shares"
        )]
        let room = (10.0 / share).ceil() as usize;
        let sketches =
            self.run(move |pairs| Sketch::of(pairs.into_iter().map(|(k, _)| k), room))?;
        let (mut counts, mut missed, mut records) = (FxHashMap::<K, u64>::default(), 0, 0);
        for sketch in sketches {
            missed += sketch.missed;
            records += sketch.records;
            for (key, count) in sketch.counts {
                *counts.entry(key).or_insert(0) += count;
            }
        }
        let heavy = counts
            .into_iter()
            .filter(|(_, count)| (count + missed) as f64 >= share * records as f64);
        Ok((heavy.collect(), records))
    }

    /// As [`Self::join`], with keys that are heavy here cut into pieces: their pairs here are dealt out to several
    /// partitions, and the other's pairs go to each of those. Runs a job that finds the keys. The result has no
    /// partitioner.
    ///
    /// # Errors
    ///
    /// [`JobError`] of that job.
    ///
    /// # Panics
    ///
    /// When `partitions` is 0, or the contexts differ.
    pub fn skew_join<W: Data>(
        &self,
        other: &Rdd<(K, W)>,
        partitions: usize,
    ) -> Result<Joined<K, V, W>, JobError> {
        assert!(partitions > 0, "a dataset has at least one partition");
        // What may be over half of an even share of the partitions is looked at.
        let (heavy, records) = self.heavy(0.5 / partitions as f64)?;
        let ways: FxHashMap<K, u32> = heavy
            .into_iter()
            .map(|(key, count)| (key, pieces(count, records, partitions)))
            .filter(|(_, pieces)| *pieces > 1)
            .collect();
        let ways = self.context().broadcast(ways);
        let there = ways.clone();
        let dealt = self.whole("deal", move |p, pairs| {
            let mut turn = u32::try_from(p).unwrap_or(0);
            let deal = |(key, value): (K, V)| {
                let piece = ways.get(&key).map_or(0, |ways| {
                    turn = turn.wrapping_add(1);
                    turn % ways
                });
                ((key, piece), value)
            };
            pairs.into_iter().map(deal).collect::<Vec<_>>()
        });
        let copied = other.flat_map(move |(key, value)| {
            let pieces = there.get(&key).copied().unwrap_or(1);
            (0..pieces)
                .map(|piece| ((key.clone(), piece), value.clone()))
                .collect::<Vec<_>>()
        });
        let parts: Parts<(K, u32)> = Arc::new(Pieces { partitions }).into();
        Ok(dealt
            .join(&copied, parts)
            .map(|((key, _), values)| (key, values)))
    }
}

/// So many that no piece is over an even share of the partitions.
fn pieces(count: u64, records: u64, partitions: usize) -> u32 {
    let even = records.div_ceil(partitions as u64).max(1);
    let most = u32::try_from(partitions).unwrap_or(u32::MAX);
    u32::try_from(count.div_ceil(even)).map_or(most, |pieces| pieces.min(most))
}

/// By the hash of the key, its pieces one after the other.
struct Pieces {
    partitions: usize,
}

impl<K: Key> Partitioner<(K, u32)> for Pieces {
    fn partitions(&self) -> usize {
        self.partitions
    }

    fn partition(&self, (key, piece): &(K, u32)) -> usize {
        (scaled(key_hash(key), self.partitions) + *piece as usize) % self.partitions
    }

    fn id(&self) -> PartitionerId {
        PartitionerId {
            kind: "hash and piece".to_owned(),
            partitions: self.partitions,
            digest: 0,
        }
    }
}
