//! Operators on any element that need a shuffle.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::data::{Data, Key};
use crate::job::JobError;
use crate::lineage::Dependency;
use crate::narrow::Random;
use crate::partitioner::{Partitioner, PartitionerId, Parts, RangePartitioner};
use crate::rdd::Rdd;

impl<T: Data> Rdd<T> {
    /// Spreads the elements evenly over `partitions` partitions, by position.
    pub fn repartition(&self, partitions: usize) -> Self {
        let numbered = self.whole("repartition", |p, all| {
            all.into_iter()
                .enumerate()
                .map(move |(i, value)| (i as u64 + p as u64, value))
                .collect::<Vec<_>>()
        });
        numbered.partition_by(Arc::new(Modulo(partitions))).values()
    }

    /// Groups elements by the key `f` gives.
    pub fn group_by<K: Key>(
        &self,
        parts: impl Into<Parts<K>>,
        f: impl Fn(&T) -> K + Send + Sync + 'static,
    ) -> Rdd<(K, Vec<T>)> {
        self.key_by(f).group_by_key(parts)
    }

    /// Sorts by the key `f` gives: partitions in order, each sorted. Runs a job that samples the keys.
    ///
    /// # Errors
    ///
    /// [`JobError`] of that job.
    pub fn sort_by<K: Key + Ord>(
        &self,
        partitions: usize,
        descending: bool,
        f: impl Fn(&T) -> K + Send + Sync + Clone + 'static,
    ) -> Result<Self, JobError> {
        let g = f.clone();
        let keys = self.map(move |value| g(&value));
        let parts = keys.range_partitioner(partitions, descending)?;
        let bounds = parts.clone();
        let (parent, key, count) = (self.clone(), f.clone(), parts.0.partitions());
        let shuffle = self.context.shuffle(
            self.lineage.clone(),
            count,
            Box::new(move |p, task| {
                let mut buckets: Vec<Vec<T>> = vec![Vec::new(); bounds.0.partitions()];
                parent.partition(p, task, &mut |batch| {
                    for value in batch {
                        buckets[bounds.0.partition(&key(&value))].push(value);
                    }
                    Ok(())
                })?;
                Ok(buckets.into_iter().map(crate::task::Output::of).collect())
            }),
        );
        let dependencies = vec![Dependency::Wide(shuffle.clone())];
        Ok(self
            .context
            .rdd("sortBy", count, dependencies, None, move |p, task, sink| {
                let mut all = Vec::new();
                for map in 0..shuffle.maps() {
                    let block = crate::pair::fetch::<T>(&shuffle, map, p, task)?;
                    task.took(block.len())?;
                    all.extend(crate::pair::owned(block));
                }
                if descending {
                    all.sort_by_key(|value| Reverse(f(value)));
                } else {
                    all.sort_by_key(&f);
                }
                sink(all)
            }))
    }

    /// Elements each paired with its position in the whole. Runs a job that counts the partitions.
    ///
    /// # Errors
    ///
    /// [`JobError`] of that job.
    pub fn zip_with_index(&self) -> Result<Rdd<(T, u64)>, JobError> {
        let counts = self.run(|all: Vec<T>| all.len() as u64)?;
        let starts: Vec<u64> = counts
            .iter()
            .scan(0, |total, count| {
                let start = *total;
                *total += count;
                Some(start)
            })
            .collect();
        Ok(self.whole("zipWithIndex", move |p, all| {
            let start = starts[p];
            all.into_iter()
                .enumerate()
                .map(move |(i, value)| (value, start + i as u64))
                .collect::<Vec<_>>()
        }))
    }
}

impl<K: Key + Ord> Rdd<K> {
    /// Ranges of about the same size for these elements, from a sample.
    ///
    /// # Errors
    ///
    /// [`JobError`] of the job that samples.
    pub fn range_partitioner(
        &self,
        partitions: usize,
        descending: bool,
    ) -> Result<Parts<K>, JobError> {
        let wanted = (SAMPLE_PER_RANGE * partitions).div_ceil(self.num_partitions());
        let sampled = self.map_partitions_with_index(move |p, all| {
            let mut random = Random::new(SAMPLE_SEED, p as u64);
            let step = (all.len() / wanted).max(1) as u64;
            // One of each `step` neighbours: spread over the partition, blind to its order.
            all.chunks((all.len() / wanted).max(1))
                .map(|near| {
                    near[usize::try_from(random.next() % step).unwrap_or(0) % near.len()].clone()
                })
                .collect::<Vec<_>>()
        });
        Ok(Parts(Arc::new(RangePartitioner::from_sample(
            sampled.collect()?,
            partitions,
            descending,
        ))))
    }
}

impl<K: Key + Ord, V: Data> Rdd<(K, V)> {
    /// Sorts by key. See [`Rdd::sort_by`]; values of equal keys keep no particular order.
    ///
    /// # Errors
    ///
    /// [`JobError`] of the job that samples.
    pub fn sort_by_key(&self, partitions: usize, descending: bool) -> Result<Self, JobError> {
        let parts = self.keys().range_partitioner(partitions, descending)?;
        let moved = self.partition_by(parts);
        let parent = moved.clone();
        Ok(moved.narrow(
            "sortByKey",
            moved.lineage.partitioner.clone(),
            move |p, task, sink| {
                let mut all = parent.collected(p, task)?;
                if descending {
                    all.sort_by(|a, b| b.0.cmp(&a.0));
                } else {
                    all.sort_by(|a, b| a.0.cmp(&b.0));
                }
                sink(all)
            },
        ))
    }

    /// The pairs with keys in `low..=high`.
    pub fn filter_by_range(&self, low: K, high: K) -> Self {
        self.filter(move |(key, _)| low <= *key && *key <= high)
    }
}

impl<T: Key> Rdd<T> {
    /// Each element once.
    pub fn distinct(&self, partitions: usize) -> Self {
        self.map(|value| (value, ()))
            .reduce_by_key(partitions, |(), ()| ())
            .keys()
    }

    /// The elements that are in both, each once.
    pub fn intersection(&self, other: &Self, partitions: usize) -> Self {
        self.map(|v| (v, ()))
            .cogroup(&other.map(|v| (v, ())), partitions)
            .filter(|(_, (here, there))| !here.is_empty() && !there.is_empty())
            .keys()
    }

    /// The elements that are not in the other, as often as they are here.
    pub fn subtract(&self, other: &Self, partitions: usize) -> Self {
        self.map(|v| (v, ()))
            .subtract_by_key(&other.map(|v| (v, ())), partitions)
            .keys()
    }
}

/// By remainder: what `repartition` deals with.
struct Modulo(usize);

impl Partitioner<u64> for Modulo {
    fn partitions(&self) -> usize {
        self.0
    }

    fn partition(&self, key: &u64) -> usize {
        usize::try_from(key % self.0 as u64).expect("less than the number of partitions")
    }

    fn id(&self) -> PartitionerId {
        PartitionerId {
            kind: "remainder".to_owned(),
            partitions: self.0,
            digest: 0,
        }
    }
}

const SAMPLE_PER_RANGE: usize = 100;
const SAMPLE_SEED: u64 = 0x5eed;
