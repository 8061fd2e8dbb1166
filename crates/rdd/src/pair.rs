//! Operators on pairs that move elements between partitions, or need them together.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::combine::Combiner;
use crate::data::{Data, Key};
use crate::lineage::{Dependency, MapWork, Shuffle};
use crate::map_side::{MapSide, Pairs, pieces};
use crate::partitioner::Parts;
use crate::rdd::{BATCH, Rdd};
use crate::task::{Halt, Output, TaskContext};

/// What `cogroup` pairs with a key: its values on the left and on the right.
pub type Groups<V, W> = (Vec<V>, Vec<W>);
/// What `full_outer_join` pairs with a key; at least one is there.
pub type Either<V, W> = (Option<V>, Option<W>);
type Merge<C> = dyn Fn(&mut C, C) + Send + Sync;

impl<K: Key, V: Data> Rdd<(K, V)> {
    /// Moves each pair to the partition its key belongs to. Nothing moves when it is there already.
    pub fn partition_by(&self, parts: impl Into<Parts<K>>) -> Self {
        let parts = parts.into();
        if self.lineage.partitioner.as_ref() == Some(&parts.0.id()) {
            return self.clone();
        }
        let shuffle = self.exchange(&parts);
        self.read(&shuffle, "partitionBy", &parts)
    }

    /// Combines the values of each key: `create` starts, `add` adds a value, `merge` joins what two tasks made.
    ///
    /// All three must not depend on the order of values.
    pub fn combine_by_key<C: Data>(
        &self,
        parts: impl Into<Parts<K>>,
        create: impl Fn(V) -> C + Send + Sync + 'static,
        add: impl Fn(&mut C, V) + Send + Sync + 'static,
        merge: impl Fn(&mut C, C) + Send + Sync + 'static,
    ) -> Rdd<(K, C)> {
        self.combine("combineByKey", &parts.into(), create, add, merge)
    }

    /// Joins the values of each key with `f`, which must be associative and commutative.
    ///
    /// Values are cloned once for each call; for values that own memory, [`Self::combine_by_key`] changes in place.
    pub fn reduce_by_key(
        &self,
        parts: impl Into<Parts<K>>,
        f: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> Self {
        let f = Arc::new(f);
        let g = f.clone();
        let into = move |a: &mut V, b| *a = f(a.clone(), b);
        self.combine(
            "reduceByKey",
            &parts.into(),
            |v| v,
            into,
            move |a: &mut V, b| *a = g(a.clone(), b),
        )
    }

    /// Folds the values of each key into a copy of `zero` with `add`; `merge` joins two of those.
    pub fn aggregate_by_key<C: Data>(
        &self,
        zero: C,
        parts: impl Into<Parts<K>>,
        add: impl Fn(&mut C, V) + Send + Sync + 'static,
        merge: impl Fn(&mut C, C) + Send + Sync + 'static,
    ) -> Rdd<(K, C)> {
        let add = Arc::new(add);
        let first = add.clone();
        let create = move |value| {
            let mut made = zero.clone();
            first(&mut made, value);
            made
        };
        self.combine(
            "aggregateByKey",
            &parts.into(),
            create,
            move |c: &mut C, v| add(c, v),
            merge,
        )
    }

    /// All values of each key. Values are not combined before they move: `reduce_by_key` moves less where it fits.
    pub fn group_by_key(&self, parts: impl Into<Parts<K>>) -> Rdd<(K, Vec<V>)> {
        let moved = self.partition_by(parts);
        moved.within(
            "groupByKey",
            |v| vec![v],
            Vec::push,
            |a, mut b| a.append(&mut b),
        )
    }

    /// For each key of either, its values here and there.
    pub fn cogroup<W: Data>(
        &self,
        other: &Rdd<(K, W)>,
        parts: impl Into<Parts<K>>,
    ) -> Rdd<(K, Groups<V, W>)> {
        let parts = parts.into();
        let (left, right) = (
            self.partition_by(parts.clone()),
            other.partition_by(parts.clone()),
        );
        let mut made = left.zip_whole("cogroup", &right, |left, right| {
            let mut table = FxHashMap::<K, (Vec<V>, Vec<W>)>::default();
            for (key, value) in left {
                table.entry(key).or_default().0.push(value);
            }
            for (key, value) in right {
                table.entry(key).or_default().1.push(value);
            }
            Ok(table.into_iter().collect())
        });
        made.set_partitioner(&parts);
        made
    }

    /// Every pair of a value here and a value there with the same key. Narrow when both sides already have the
    /// partitioner asked for.
    pub fn join<W: Data>(
        &self,
        other: &Rdd<(K, W)>,
        parts: impl Into<Parts<K>>,
    ) -> Rdd<(K, (V, W))> {
        let parts = parts.into();
        let (left, right) = (
            self.partition_by(parts.clone()),
            other.partition_by(parts.clone()),
        );
        left.same_context(&right);
        let dependencies = vec![
            Dependency::Narrow(left.lineage.clone()),
            Dependency::Narrow(right.lineage.clone()),
        ];
        let id = Some(parts.0.id());
        self.context.rdd(
            "join",
            left.num_partitions(),
            dependencies,
            id,
            move |p, task, sink| {
                let build = right.collected(p, task)?;
                let mut table = JoinTable::new(&build);
                for (at, (key, _)) in build.iter().enumerate() {
                    table.insert(key, at);
                }
                left.partition_ref(p, task, &mut |batch| {
                    let mut out = Vec::with_capacity(batch.len());
                    for (key, value) in batch {
                        table.matches(key, |at| {
                            out.push((key.clone(), (value.clone(), build[at].1.clone())));
                        });
                    }
                    if out.is_empty() { Ok(()) } else { sink(out) }
                })
            },
        )
    }

    /// As [`Self::join`], and each value here without a partner once with `None`.
    pub fn left_outer_join<W: Data>(
        &self,
        other: &Rdd<(K, W)>,
        parts: impl Into<Parts<K>>,
    ) -> Rdd<(K, (V, Option<W>))> {
        self.cogroup(other, parts).flat_map_values(|(left, right)| {
            left.into_iter()
                .flat_map(|v| or_none(&right).map(|w| (v.clone(), w)).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        })
    }

    /// As [`Self::join`], and each value there without a partner once with `None`.
    pub fn right_outer_join<W: Data>(
        &self,
        other: &Rdd<(K, W)>,
        parts: impl Into<Parts<K>>,
    ) -> Rdd<(K, (Option<V>, W))> {
        self.cogroup(other, parts).flat_map_values(|(left, right)| {
            right
                .into_iter()
                .flat_map(|w| or_none(&left).map(|v| (v, w.clone())).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        })
    }

    /// As [`Self::join`], and each value of either without a partner once.
    pub fn full_outer_join<W: Data>(
        &self,
        other: &Rdd<(K, W)>,
        parts: impl Into<Parts<K>>,
    ) -> Rdd<(K, Either<V, W>)> {
        self.cogroup(other, parts).flat_map_values(|(left, right)| {
            or_none(&left)
                .flat_map(|v| or_none(&right).map(|w| (v.clone(), w)).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        })
    }

    /// The pairs whose key is not there.
    pub fn subtract_by_key<W: Data>(
        &self,
        other: &Rdd<(K, W)>,
        parts: impl Into<Parts<K>>,
    ) -> Self {
        self.cogroup(other, parts)
            .flat_map_values(|(left, right)| if right.is_empty() { left } else { Vec::new() })
    }

    fn combine<C: Data>(
        &self,
        operator: &'static str,
        parts: &Parts<K>,
        create: impl Fn(V) -> C + Send + Sync + 'static,
        add: impl Fn(&mut C, V) + Send + Sync + 'static,
        merge: impl Fn(&mut C, C) + Send + Sync + 'static,
    ) -> Rdd<(K, C)> {
        if self.lineage.partitioner.as_ref() == Some(&parts.0.id()) {
            return self.within(operator, create, add, merge);
        }
        let merge: Arc<Merge<C>> = Arc::new(merge);
        let (parent, to, map_merge) = (self.clone(), parts.clone(), merge.clone());
        let map = move |p: usize, task: &TaskContext<'_>| {
            let mut side = MapSide::new(task, &to, &*map_merge);
            parent.partition(p, task, &mut |batch| side.add_all(batch, &create, &add))?;
            side.finish()
        };
        self.combined(operator, parts, Box::new(map), merge)
    }

    /// Combines where the keys of each partition are together already.
    fn within<C: Data>(
        &self,
        operator: &'static str,
        create: impl Fn(V) -> C + Send + Sync + 'static,
        add: impl Fn(&mut C, V) + Send + Sync + 'static,
        merge: impl Fn(&mut C, C) + Send + Sync + 'static,
    ) -> Rdd<(K, C)> {
        let parent = self.clone();
        self.narrow(
            operator,
            self.lineage.partitioner.clone(),
            move |p, task, sink| {
                let mut combiner = Combiner::new(task, 0, &merge);
                parent.partition(p, task, &mut |batch| {
                    batch
                        .into_iter()
                        .try_for_each(|(key, value)| combiner.add(key, value, &create, &add))
                })?;
                combiner.flush(sink)
            },
        )
    }

    fn exchange(&self, parts: &Parts<K>) -> Arc<Shuffle> {
        let (parent, to) = (self.clone(), parts.clone());
        let map = move |p: usize, task: &TaskContext<'_>| {
            let mut buckets: Vec<Vec<(K, V)>> = vec![Vec::new(); to.0.partitions()];
            parent.partition(p, task, &mut |batch| {
                for pair in batch {
                    buckets[to.0.partition(&pair.0)].push(pair);
                }
                Ok(())
            })?;
            Ok(buckets.into_iter().map(Output::of).collect())
        };
        self.context
            .shuffle(self.lineage.clone(), parts.0.partitions(), Box::new(map))
    }

    fn read(&self, shuffle: &Arc<Shuffle>, operator: &'static str, parts: &Parts<K>) -> Self {
        let shuffle = shuffle.clone();
        let dependencies = vec![Dependency::Wide(shuffle.clone())];
        let (count, id) = (parts.0.partitions(), Some(parts.0.id()));
        self.context
            .rdd(operator, count, dependencies, id, move |p, task, sink| {
                for map in 0..shuffle.maps() {
                    let block = fetch::<(K, V)>(&shuffle, map, p, task)?;
                    task.took(block.len())?;
                    match Arc::try_unwrap(block) {
                        Ok(own) => sink(own)?,
                        Err(shared) => shared
                            .chunks(BATCH)
                            .try_for_each(|batch| sink(batch.to_vec()))?,
                    }
                }
                Ok(())
            })
    }
}

impl<K: Key, V: Data + Ord> Rdd<(K, V)>
where
    K: Ord,
{
    /// Moves each pair to its partition and sorts there by key, then value.
    pub fn repartition_and_sort_within_partitions(&self, parts: impl Into<Parts<K>>) -> Self {
        let moved = self.partition_by(parts);
        let parent = moved.clone();
        moved.narrow(
            "sortWithinPartitions",
            moved.lineage.partitioner.clone(),
            move |p, task, sink| {
                let mut all = parent.collected(p, task)?;
                all.sort();
                sink(all)
            },
        )
    }
}

impl<T: Data> Rdd<T> {
    /// `flat_map` and `reduce_by_key` in one, without a copy of every key: `pairs` of an element adds its pairs, and
    /// a key is copied only when its task has not met it yet.
    ///
    /// ```
    /// # let context = rdd::Context::local(2)?;
    /// let lines = context.parallelize(["to be or", "not to be"].map(str::to_owned), 2);
    /// let counts = lines.reduce_pairs_by_key(
    ///     2,
    ///     |line, pairs| line.split(' ').for_each(|word| pairs.add(word, 1u64)),
    ///     |a, b| a + b,
    /// );
    /// assert_eq!(counts.collect_as_map()?["be"], 2);
    /// # let _: rdd::Rdd<(String, u64)> = counts;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reduce_pairs_by_key<K: Key, V: Data>(
        &self,
        parts: impl Into<Parts<K>>,
        pairs: impl Fn(&T, &mut Pairs<'_, '_, K, V>) + Send + Sync + 'static,
        f: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> Rdd<(K, V)> {
        let parts = parts.into();
        let merge: Arc<Merge<V>> = Arc::new(move |a: &mut V, b| *a = f(a.clone(), b));
        let (parent, to, map_merge) = (self.clone(), parts.clone(), merge.clone());
        let map = move |p: usize, task: &TaskContext<'_>| {
            let mut side = MapSide::new(task, &to, &*map_merge);
            parent.partition_ref(p, task, &mut |batch| {
                let mut into = Pairs::new(&mut side, &*map_merge);
                batch.iter().for_each(|value| pairs(value, &mut into));
                into.finish()
            })?;
            side.finish()
        };
        self.combined("reducePairsByKey", &parts, Box::new(map), merge)
    }

    /// What a shuffle hands over in pieces, combined.
    fn combined<K: Key, C: Data>(
        &self,
        operator: &'static str,
        parts: &Parts<K>,
        map: MapWork,
        merge: Arc<Merge<C>>,
    ) -> Rdd<(K, C)> {
        let (count, id) = (parts.0.partitions(), Some(parts.0.id()));
        let shuffle = self.context.shuffle(self.lineage.clone(), count, map);
        let dependencies = vec![Dependency::Wide(shuffle.clone())];
        self.context
            .rdd(operator, count, dependencies, id, move |p, task, sink| {
                let mut blocks = (0..shuffle.maps())
                    .map(|map| fetch::<Vec<(K, C)>>(&shuffle, map, p, task))
                    .collect::<Result<Vec<_>, _>>()?;
                let mut combiner: Option<Combiner<'_, K, C>> = None;
                for piece in 0..pieces(count) {
                    let lengths = blocks
                        .iter()
                        .filter_map(|block| block.get(piece))
                        .map(Vec::len);
                    let (total, expected) =
                        lengths.fold((0, 0), |(sum, max), length| (sum + length, length.max(max)));
                    let combiner =
                        combiner.get_or_insert_with(|| Combiner::new(task, expected, &*merge));
                    for block in &mut blocks {
                        take_piece(block, piece, |pair| {
                            combiner.add(pair.0, pair.1, &|c| c, &*merge)
                        })?;
                    }
                    task.took(total)?;
                    combiner.flush(&mut *sink)?;
                }
                Ok(())
            })
    }

    /// States how elements are spread. Only for a dataset nobody else has seen.
    fn set_partitioner<K>(&mut self, parts: &Parts<K>) {
        let lineage = Arc::get_mut(&mut self.lineage).expect("a new dataset is not shared");
        lineage.partitioner = Some(parts.0.id());
    }
}

pub(crate) fn fetch<T: Data>(
    shuffle: &Shuffle,
    map: usize,
    reduce: usize,
    task: &TaskContext<'_>,
) -> Result<Arc<Vec<T>>, Halt> {
    let block = task.env().fetch(shuffle.id(), map, reduce)?;
    // A block that cannot be read is as good as gone: whoever made it makes it again.
    block.values().map_err(|source| {
        crate::task::FetchError {
            shuffle: shuffle.id(),
            map,
            reduce,
            source: Some(source),
        }
        .into()
    })
}

/// One piece of a block: the values themselves where nobody else holds them, else copies, one at a time, since a block
/// may be read again by another attempt.
fn take_piece<T: Data, E>(
    block: &mut Arc<Vec<Vec<T>>>,
    piece: usize,
    f: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    match Arc::get_mut(block) {
        Some(own) => own
            .get_mut(piece)
            .map(std::mem::take)
            .into_iter()
            .flatten()
            .try_for_each(f),
        None => block
            .get(piece)
            .into_iter()
            .flatten()
            .cloned()
            .try_for_each(f),
    }
}

/// The values themselves where nobody else holds them, else copies: a block may be read again by another attempt.
pub(crate) fn owned<T: Data>(block: Arc<Vec<T>>) -> Vec<T> {
    Arc::try_unwrap(block).unwrap_or_else(|shared| shared.to_vec())
}

fn or_none<V: Clone>(values: &[V]) -> impl Iterator<Item = Option<V>> + '_ {
    let none = values.is_empty().then_some(None);
    values.iter().cloned().map(Some).chain(none)
}

/// Positions by key: the last one in the table, the others in a chain of positions.
struct JoinTable<K> {
    last: FxHashMap<K, u32>,
    before: Vec<u32>,
}

impl<K: Key> JoinTable<K> {
    fn new<W>(build: &[(K, W)]) -> Self {
        assert!(
            u32::try_from(build.len()).is_ok_and(|n| n < NONE),
            "a partition to join has under 2^32 - 1 elements"
        );
        let last = FxHashMap::with_capacity_and_hasher(build.len(), rustc_hash::FxBuildHasher);
        Self {
            last,
            before: vec![NONE; build.len()],
        }
    }

    fn insert(&mut self, key: &K, at: usize) {
        let number = u32::try_from(at).expect("checked when made");
        if let Some(before) = self.last.insert(key.clone(), number) {
            self.before[at] = before;
        }
    }

    fn matches(&self, key: &K, mut each: impl FnMut(usize)) {
        let mut at = self.last.get(key).copied().unwrap_or(NONE);
        while at != NONE {
            each(at as usize);
            at = self.before[at as usize];
        }
    }
}

const NONE: u32 = u32::MAX;
