//! What a dataset may hold.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHasher;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An element of a dataset: it can be copied, sent to a task, and written to a block.
pub trait Data: Clone + Send + Sync + Serialize + DeserializeOwned + 'static {}

impl<T: Clone + Send + Sync + Serialize + DeserializeOwned + 'static> Data for T {}

/// A key: data with equality and a hash that is the same in every process of the same binary.
pub trait Key: Data + Eq + Hash {}

impl<T: Data + Eq + Hash> Key for T {}

/// Hashes a key the same way in every process and run, well spread over all 64 bits.
pub(crate) fn key_hash<K: Hash>(key: &K) -> u64 {
    let mut hasher = FxHasher::default();
    key.hash(&mut hasher);
    // Fx leaves structure in its bits; the tables in a partition take the same hash again, so this one is mixed apart.
    let hash = hasher.finish();
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Numbers a dataset within one context, by order of construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RddId(pub u64);

/// Numbers a shuffle within one context, by order of construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShuffleId(pub u64);
