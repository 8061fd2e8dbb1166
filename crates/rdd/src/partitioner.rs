//! Partitioners: which partition a key belongs to.

use std::any::type_name;
use std::sync::Arc;

use twox_hash::XxHash3_64;

use crate::block::encode;
use crate::data::{Data, Key, key_hash};
use crate::map_side::scaled;

/// Spreads keys over partitions. Two partitioners with equal ids must agree on every key: datasets that share one
/// are joined without a shuffle.
pub trait Partitioner<K>: Send + Sync {
    /// How many partitions there are, at least 1.
    fn partitions(&self) -> usize;

    /// The partition of `key`, below [`Self::partitions`].
    fn partition(&self, key: &K) -> usize;

    /// What identifies it.
    fn id(&self) -> PartitionerId;
}

/// Identifies a partitioner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionerId {
    /// `hash`, `range`, or the name of a custom one.
    pub kind: String,
    /// How many partitions.
    pub partitions: usize,
    /// Of whatever else decides where keys go, such as the bounds of ranges.
    pub digest: u64,
}

/// A partitioner that is shared, made from a number of partitions (by hash) or from any [`Partitioner`].
#[derive(Clone)]
pub struct Parts<K>(pub(crate) Arc<dyn Partitioner<K>>);

impl<K> std::fmt::Debug for Parts<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.id().fmt(f)
    }
}

impl<K> Parts<K> {
    pub(crate) fn id(&self) -> PartitionerId {
        self.0.id()
    }
}

impl<K: Key> From<usize> for Parts<K> {
    fn from(partitions: usize) -> Self {
        Self(Arc::new(HashPartitioner::new(partitions)))
    }
}

impl<K, P: Partitioner<K> + 'static> From<Arc<P>> for Parts<K> {
    fn from(partitioner: Arc<P>) -> Self {
        Self(partitioner)
    }
}

/// By the hash of the key.
#[derive(Clone, Copy, Debug)]
pub struct HashPartitioner {
    partitions: usize,
}

impl HashPartitioner {
    /// Over `partitions` partitions.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn new(partitions: usize) -> Self {
        assert!(partitions > 0, "a dataset has at least one partition");
        Self { partitions }
    }
}

impl<K: Key> Partitioner<K> for HashPartitioner {
    fn partitions(&self) -> usize {
        self.partitions
    }

    fn partition(&self, key: &K) -> usize {
        scaled(key_hash(key), self.partitions)
    }

    fn id(&self) -> PartitionerId {
        PartitionerId {
            kind: "hash".to_owned(),
            partitions: self.partitions,
            digest: 0,
        }
    }
}

/// By ranges of keys: partition `i` holds the keys up to and including bound `i`, the last one the rest.
#[derive(Clone, Debug)]
pub struct RangePartitioner<K> {
    bounds: Vec<K>,
    descending: bool,
}

impl<K: Data + Ord> RangePartitioner<K> {
    /// From bounds, sorted here; equal ones count once.
    pub fn new(mut bounds: Vec<K>, descending: bool) -> Self {
        bounds.sort();
        bounds.dedup();
        Self { bounds, descending }
    }

    /// From a sample of the keys, for at most `partitions` partitions of about the same size.
    ///
    /// # Panics
    ///
    /// When there are no partitions.
    pub fn from_sample(mut sample: Vec<K>, partitions: usize, descending: bool) -> Self {
        assert!(partitions > 0, "a dataset has at least one partition");
        sample.sort();
        let bounds = (1..partitions)
            .filter_map(|i| sample.get(i * sample.len() / partitions).cloned())
            .collect();
        Self::new(bounds, descending)
    }
}

impl<K: Data + Ord> Partitioner<K> for RangePartitioner<K> {
    fn partitions(&self) -> usize {
        self.bounds.len() + 1
    }

    fn partition(&self, key: &K) -> usize {
        let ascending = self.bounds.partition_point(|bound| bound < key);
        if self.descending {
            self.bounds.len() - ascending
        } else {
            ascending
        }
    }

    fn id(&self) -> PartitionerId {
        let digest = XxHash3_64::oneshot(&encode(&self.bounds)) ^ u64::from(self.descending);
        PartitionerId {
            kind: format!("range of {}", type_name::<K>()),
            partitions: self.bounds.len() + 1,
            digest,
        }
    }
}
