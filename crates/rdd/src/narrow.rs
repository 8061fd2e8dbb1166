//! Operators that compute each partition from a bounded number of the parents'.

use std::sync::Arc;

use crate::data::Data;
use crate::lineage::Dependency;
use crate::rdd::{Rdd, batch_of};
use crate::task::TaskError;

impl<T: Data> Rdd<T> {
    /// Applies `f` to each element.
    pub fn map<U: Data>(&self, f: impl Fn(T) -> U + Send + Sync + 'static) -> Rdd<U> {
        let parent = self.clone();
        self.narrow("map", None, move |p, task, sink| {
            parent.partition(p, task, &mut |batch| {
                sink(batch.into_iter().map(&f).collect())
            })
        })
    }

    /// Applies `f` to each element and chains what it gives.
    pub fn flat_map<U: Data, I: IntoIterator<Item = U>>(
        &self,
        f: impl Fn(T) -> I + Send + Sync + 'static,
    ) -> Rdd<U> {
        let parent = self.clone();
        self.narrow("flatMap", None, move |p, task, sink| {
            let room = batch_of::<U>();
            parent.partition(p, task, &mut |batch| {
                let mut out = Vec::with_capacity(room);
                for made in batch.into_iter().flat_map(&f) {
                    out.push(made);
                    if out.len() == room {
                        sink(std::mem::replace(&mut out, Vec::with_capacity(room)))?;
                    }
                }
                sink(out)
            })
        })
    }

    /// Keeps the elements that `keep` holds for.
    pub fn filter(&self, keep: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        let parent = self.clone();
        self.narrow(
            "filter",
            self.lineage.partitioner.clone(),
            move |p, task, sink| {
                parent.partition(p, task, &mut |mut batch| {
                    batch.retain(&keep);
                    if batch.is_empty() {
                        Ok(())
                    } else {
                        sink(batch)
                    }
                })
            },
        )
    }

    /// Applies `f` to each partition as a whole.
    pub fn map_partitions<U: Data, I: IntoIterator<Item = U>>(
        &self,
        f: impl Fn(Vec<T>) -> I + Send + Sync + 'static,
    ) -> Rdd<U> {
        self.whole("mapPartitions", move |_, all| f(all))
    }

    /// Applies `f` to each partition as a whole and its index.
    pub fn map_partitions_with_index<U: Data, I: IntoIterator<Item = U>>(
        &self,
        f: impl Fn(usize, Vec<T>) -> I + Send + Sync + 'static,
    ) -> Rdd<U> {
        self.whole("mapPartitionsWithIndex", f)
    }

    /// One element for each partition: all its elements.
    pub fn glom(&self) -> Rdd<Vec<T>> {
        self.whole("glom", |_, all| [all])
    }

    /// Pairs each element with the key `f` gives.
    pub fn key_by<K: Data>(&self, f: impl Fn(&T) -> K + Send + Sync + 'static) -> Rdd<(K, T)> {
        self.map(move |value| (f(&value), value))
    }

    /// The elements of both, this one's partitions first.
    ///
    /// # Panics
    ///
    /// When the two belong to different contexts.
    pub fn union(&self, other: &Self) -> Self {
        self.same_context(other);
        let (left, right) = (self.clone(), other.clone());
        let count = left.num_partitions();
        let dependencies = vec![
            Dependency::Narrow(self.lineage.clone()),
            Dependency::Narrow(other.lineage.clone()),
        ];
        self.context.rdd(
            "union",
            count + right.num_partitions(),
            dependencies,
            None,
            move |p, task, sink| {
                if p < count {
                    left.partition(p, task, sink)
                } else {
                    right.partition(p - count, task, sink)
                }
            },
        )
    }

    /// Every pair of an element of this and one of the other.
    ///
    /// # Panics
    ///
    /// When the two belong to different contexts.
    pub fn cartesian<U: Data>(&self, other: &Rdd<U>) -> Rdd<(T, U)> {
        self.same_context(other);
        let (left, right) = (self.clone(), other.clone());
        let (count, dependencies) = (
            self.num_partitions() * other.num_partitions(),
            vec![
                Dependency::Narrow(self.lineage.clone()),
                Dependency::Narrow(other.lineage.clone()),
            ],
        );
        self.context.rdd(
            "cartesian",
            count,
            dependencies,
            None,
            move |p, task, sink| {
                let inner = right.collected(p % right.num_partitions(), task)?;
                left.partition(p / right.num_partitions(), task, &mut |batch| {
                    for value in batch {
                        sink(
                            inner
                                .iter()
                                .map(|other| (value.clone(), other.clone()))
                                .collect(),
                        )?;
                    }
                    Ok(())
                })
            },
        )
    }

    /// Pairs elements at the same position of the same partition.
    ///
    /// An action on it fails when two partitions differ in length.
    ///
    /// # Panics
    ///
    /// When the numbers of partitions differ, or the contexts.
    pub fn zip<U: Data>(&self, other: &Rdd<U>) -> Rdd<(T, U)> {
        self.zip_whole("zip", other, |left: Vec<T>, right: Vec<U>| {
            let lengths = (left.len(), right.len());
            if lengths.0 == lengths.1 {
                Ok(left.into_iter().zip(right).collect())
            } else {
                Err(TaskError::UnequalZip {
                    left: lengths.0,
                    right: lengths.1,
                })
            }
        })
    }

    /// Applies `f` to the partitions of both with the same index.
    ///
    /// # Panics
    ///
    /// When the numbers of partitions differ, or the contexts.
    pub fn zip_partitions<U: Data, V: Data>(
        &self,
        other: &Rdd<U>,
        f: impl Fn(Vec<T>, Vec<U>) -> Vec<V> + Send + Sync + 'static,
    ) -> Rdd<V> {
        self.zip_whole("zipPartitions", other, move |left, right| {
            Ok(f(left, right))
        })
    }

    /// Pairs the `i`-th element of partition `p` of `n` with `i * n + p`: unique, and no job is run.
    pub fn zip_with_unique_id(&self) -> Rdd<(T, u64)> {
        let n = self.num_partitions() as u64;
        self.whole("zipWithUniqueId", move |p, all| {
            let p = p as u64;
            all.into_iter()
                .enumerate()
                .map(move |(i, value)| (value, i as u64 * n + p))
                .collect::<Vec<_>>()
        })
    }

    /// Keeps each element with probability `fraction`, decided by `seed`, the partition and the position.
    ///
    /// # Panics
    ///
    /// When `fraction` is not between 0 and 1.
    pub fn sample(&self, fraction: f64, seed: u64) -> Self {
        assert!(
            (0.0..=1.0).contains(&fraction),
            "a fraction is between 0 and 1"
        );
        self.whole("sample", move |p, all| {
            let mut random = Random::new(seed, p as u64);
            all.into_iter()
                .filter(|_| random.unit() < fraction)
                .collect::<Vec<_>>()
        })
    }

    /// Splits by weight: each element goes to exactly one of the datasets.
    ///
    /// # Panics
    ///
    /// When the weights are not positive numbers.
    pub fn random_split(&self, weights: &[f64], seed: u64) -> Vec<Self> {
        let total: f64 = weights.iter().sum();
        assert!(
            total.is_finite() && weights.iter().all(|w| *w > 0.0),
            "weights are positive numbers"
        );
        let mut low = 0.0;
        let last = weights.len().saturating_sub(1);
        weights
            .iter()
            .enumerate()
            .map(|(i, weight)| {
                let range = (low, if i == last { 2.0 } else { low + weight / total });
                low = range.1;
                self.whole("randomSplit", move |p, all| {
                    let mut random = Random::new(seed, p as u64);
                    all.into_iter()
                        .filter(|_| {
                            let unit = random.unit();
                            range.0 <= unit && unit < range.1
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect()
    }

    /// Joins neighbouring partitions until `partitions` are left, without a shuffle. Never makes more.
    ///
    /// # Panics
    ///
    /// When `partitions` is 0.
    pub fn coalesce(&self, partitions: usize) -> Self {
        assert!(partitions > 0, "a dataset has at least one partition");
        let parent = self.clone();
        let (from, to) = (self.num_partitions(), partitions.min(self.num_partitions()));
        let dependencies = vec![Dependency::Narrow(self.lineage.clone())];
        self.context
            .rdd("coalesce", to, dependencies, None, move |p, task, sink| {
                (p * from / to..(p + 1) * from / to)
                    .try_for_each(|q| parent.partition(q, task, &mut *sink))
            })
    }

    pub(crate) fn whole<U: Data, I: IntoIterator<Item = U>>(
        &self,
        operator: &'static str,
        f: impl Fn(usize, Vec<T>) -> I + Send + Sync + 'static,
    ) -> Rdd<U> {
        let parent = self.clone();
        self.narrow(operator, None, move |p, task, sink| {
            let all = parent.collected(p, task)?;
            sink(f(p, all).into_iter().collect())
        })
    }

    pub(crate) fn zip_whole<U: Data, V: Data>(
        &self,
        operator: &'static str,
        other: &Rdd<U>,
        f: impl Fn(Vec<T>, Vec<U>) -> Result<Vec<V>, TaskError> + Send + Sync + 'static,
    ) -> Rdd<V> {
        self.same_context(other);
        assert_eq!(
            self.num_partitions(),
            other.num_partitions(),
            "{operator} needs equal numbers of partitions"
        );
        let (left, right) = (self.clone(), other.clone());
        let dependencies = vec![
            Dependency::Narrow(self.lineage.clone()),
            Dependency::Narrow(other.lineage.clone()),
        ];
        self.context.rdd(
            operator,
            self.num_partitions(),
            dependencies,
            None,
            move |p, task, sink| sink(f(left.collected(p, task)?, right.collected(p, task)?)?),
        )
    }

    pub(crate) fn same_context<U>(&self, other: &Rdd<U>) {
        assert!(
            self.context.is(&other.context),
            "datasets of two contexts cannot be combined"
        );
    }
}

impl<K: Data, V: Data> Rdd<(K, V)> {
    /// The keys.
    pub fn keys(&self) -> Rdd<K> {
        self.map(|(key, _)| key)
    }

    /// The values.
    pub fn values(&self) -> Rdd<V> {
        self.map(|(_, value)| value)
    }

    /// Applies `f` to each value. Keys stay where they are, so the partitioner does too.
    pub fn map_values<W: Data>(&self, f: impl Fn(V) -> W + Send + Sync + 'static) -> Rdd<(K, W)> {
        let parent = self.clone();
        self.narrow(
            "mapValues",
            self.lineage.partitioner.clone(),
            move |p, task, sink| {
                parent.partition(p, task, &mut |batch| {
                    sink(batch.into_iter().map(|(k, v)| (k, f(v))).collect())
                })
            },
        )
    }

    /// Applies `f` to each value and pairs all it gives with the key. The partitioner stays.
    pub fn flat_map_values<W: Data, I: IntoIterator<Item = W>>(
        &self,
        f: impl Fn(V) -> I + Send + Sync + 'static,
    ) -> Rdd<(K, W)> {
        let (parent, f) = (self.clone(), Arc::new(f));
        self.narrow(
            "flatMapValues",
            self.lineage.partitioner.clone(),
            move |p, task, sink| {
                parent.partition(p, task, &mut |batch| {
                    let mut out = Vec::with_capacity(batch.len());
                    for (key, value) in batch {
                        out.extend(f(value).into_iter().map(|w| (key.clone(), w)));
                    }
                    sink(out)
                })
            },
        )
    }
}

/// A small generator (`SplitMix64`), so that samples are the same in every attempt.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0.0..1.0`.
    pub(crate) fn unit(&mut self) -> f64 {
        let high = u32::try_from(self.next() >> 32).expect("32 bits");
        f64::from(high) / 4_294_967_296.0
    }
}
