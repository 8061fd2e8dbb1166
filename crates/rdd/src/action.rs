//! Actions: operators that run a job and bring its result back.

use std::collections::HashMap;

use crate::block::Block;
use crate::data::{Data, Key};
use crate::job::{Job, JobError};
use crate::pair::owned;
use crate::partitioner::Parts;
use crate::rdd::Rdd;
use crate::task::{Halt, Output};

/// The job that [`Rdd::collect`] runs, for programs that rebuild it in another process.
pub fn collect_job<T: Data>(rdd: &Rdd<T>) -> Job {
    let last = rdd.clone();
    Job::new(
        &rdd.lineage,
        Box::new(move |p, task| Ok(Output::of(last.collected(p, task)?))),
    )
}

impl<T: Data> Rdd<T> {
    /// A job that gives `f` of each partition.
    pub fn job<U: Data>(&self, f: impl Fn(Vec<T>) -> U + Send + Sync + 'static) -> Job {
        let rdd = self.clone();
        let result = move |p: usize, task: &crate::task::TaskContext<'_>| {
            Ok(Output::of(vec![f(rdd.collected(p, task)?)]))
        };
        Job::new(&self.lineage, Box::new(result))
    }

    /// Runs `f` on each partition.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up. So for every action.
    pub fn run<U: Data>(
        &self,
        f: impl Fn(Vec<T>) -> U + Send + Sync + 'static,
    ) -> Result<Vec<U>, JobError> {
        self.results(&self.job(f))
    }

    /// All elements, partition by partition.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn collect(&self) -> Result<Vec<T>, JobError> {
        let rdd = self.clone();
        let job = Job::new(
            &self.lineage,
            Box::new(move |p, task| Ok(Output::of(rdd.collected(p, task)?))),
        );
        let outputs = self.context.runner().run(&job)?;
        let mut all = Vec::new();
        for output in outputs {
            crate::rdd::append(&mut all, owned(values(output)?));
        }
        Ok(all)
    }

    /// How many elements there are. They are not kept.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn count(&self) -> Result<u64, JobError> {
        Ok(self
            .folded(0u64, |count, batch| *count += batch.len() as u64)?
            .into_iter()
            .sum())
    }

    /// Whether there are no elements.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn is_empty(&self) -> Result<bool, JobError> {
        Ok(self.take(1)?.is_empty())
    }

    /// Joins all elements with `f`, which must be associative and commutative; `None` when there are none.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn reduce(
        &self,
        f: impl Fn(T, T) -> T + Send + Sync + Clone + 'static,
    ) -> Result<Option<T>, JobError> {
        let g = f.clone();
        let step = move |all: &mut Option<T>, batch: Vec<T>| {
            *all = batch.into_iter().fold(all.take(), |all, v| {
                Some(match all {
                    Some(a) => g(a, v),
                    None => v,
                })
            });
        };
        Ok(self.folded(None, step)?.into_iter().flatten().reduce(f))
    }

    /// Folds each partition into a copy of `zero` with `add`, and those with `merge`, in order of partitions.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn aggregate<C: Data>(
        &self,
        zero: C,
        add: impl Fn(&mut C, T) + Send + Sync + 'static,
        merge: impl Fn(&mut C, C),
    ) -> Result<C, JobError> {
        let step =
            move |all: &mut C, batch: Vec<T>| batch.into_iter().for_each(|value| add(all, value));
        let mut parts = self.folded(zero.clone(), step)?.into_iter();
        let mut all = parts.next().unwrap_or(zero);
        parts.for_each(|part| merge(&mut all, part));
        Ok(all)
    }

    /// As [`Self::aggregate`] with elements of the same type. `zero` is used once for each partition.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn fold(
        &self,
        zero: T,
        f: impl Fn(T, T) -> T + Send + Sync + Clone + 'static,
    ) -> Result<T, JobError> {
        let g = f.clone();
        self.aggregate(
            zero,
            move |a, b| *a = f(a.clone(), b),
            move |a, b| *a = g(a.clone(), b),
        )
    }

    /// The first `count` elements, in order of partitions. Computes as few partitions' ends as one job can: each
    /// partition stops after `count`.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn take(&self, count: usize) -> Result<Vec<T>, JobError> {
        let rdd = self.clone();
        let result = move |p: usize, task: &crate::task::TaskContext<'_>| {
            let mut first = Vec::new();
            let stopped = rdd.partition(p, task, &mut |batch| {
                first.extend(batch.into_iter().take(count - first.len()));
                if first.len() == count {
                    Err(Halt::Enough)
                } else {
                    Ok(())
                }
            });
            match stopped {
                Ok(()) | Err(Halt::Enough) => Ok(Output::of(first)),
                Err(failed) => Err(failed),
            }
        };
        let outputs = self
            .context
            .runner()
            .run(&Job::new(&self.lineage, Box::new(result)))?;
        let mut all = Vec::new();
        for output in outputs {
            all.extend(owned(values::<T>(output)?));
        }
        all.truncate(count);
        Ok(all)
    }

    /// The first element.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn first(&self) -> Result<Option<T>, JobError> {
        Ok(self.take(1)?.pop())
    }

    /// Runs `f` on each element in the tasks. It may run more than once for an element when a task is repeated.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn foreach(&self, f: impl Fn(T) + Send + Sync + 'static) -> Result<(), JobError> {
        self.folded((), move |(), batch| batch.into_iter().for_each(&f))
            .map(|_| ())
    }

    fn folded<C: Data>(
        &self,
        zero: C,
        step: impl Fn(&mut C, Vec<T>) + Send + Sync + 'static,
    ) -> Result<Vec<C>, JobError> {
        let rdd = self.clone();
        let result = move |p: usize, task: &crate::task::TaskContext<'_>| {
            let mut all = zero.clone();
            rdd.partition(p, task, &mut |batch| {
                step(&mut all, batch);
                Ok(())
            })?;
            Ok(Output::of(vec![all]))
        };
        self.results(&Job::new(&self.lineage, Box::new(result)))
    }

    fn results<U: Data>(&self, job: &Job) -> Result<Vec<U>, JobError> {
        let outputs = self.context.runner().run(job)?;
        let mut all = Vec::with_capacity(outputs.len());
        for output in outputs {
            all.extend(owned(values::<U>(output)?));
        }
        Ok(all)
    }
}

impl<T: Data + Ord> Rdd<T> {
    /// The greatest element.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn max(&self) -> Result<Option<T>, JobError> {
        self.reduce(Ord::max)
    }

    /// The least element.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn min(&self) -> Result<Option<T>, JobError> {
        self.reduce(Ord::min)
    }

    /// The `count` least elements, in order.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn take_ordered(&self, count: usize) -> Result<Vec<T>, JobError> {
        let least = move |mut all: Vec<T>| {
            all.sort();
            all.truncate(count);
            all
        };
        Ok(least(self.run(least)?.concat()))
    }

    /// The `count` greatest elements, greatest first.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn top(&self, count: usize) -> Result<Vec<T>, JobError> {
        let greatest = move |mut all: Vec<T>| {
            all.sort_by(|a, b| b.cmp(a));
            all.truncate(count);
            all
        };
        Ok(greatest(self.run(greatest)?.concat()))
    }
}

impl<T: Key> Rdd<T> {
    /// How often each element is there.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn count_by_value(&self) -> Result<HashMap<T, u64>, JobError> {
        let pairs = self
            .map(|value| (value, 1u64))
            .reduce_by_key(self.num_partitions(), |a, b| a + b);
        Ok(pairs.collect()?.into_iter().collect())
    }
}

impl<K: Key, V: Data> Rdd<(K, V)> {
    /// All pairs as a map; of several values for a key, one stays.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn collect_as_map(&self) -> Result<HashMap<K, V>, JobError> {
        Ok(self.collect()?.into_iter().collect())
    }

    /// How many pairs each key has.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn count_by_key(&self) -> Result<HashMap<K, u64>, JobError> {
        self.keys().count_by_value()
    }

    /// The values of one key.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn lookup(&self, key: K) -> Result<Vec<V>, JobError> {
        self.filter(move |(other, _)| *other == key)
            .map(|(_, value)| value)
            .collect()
    }

    /// Joins the values of each key with `f`, as a map.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn reduce_by_key_locally(
        &self,
        f: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> Result<HashMap<K, V>, JobError> {
        let parts: Parts<K> = self.num_partitions().into();
        self.reduce_by_key(parts, f).collect_as_map()
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "dropping the block here leaves its values to one owner"
)]
fn values<T: Data>(block: Block) -> Result<std::sync::Arc<Vec<T>>, JobError> {
    block.values().map_err(|error| JobError::Executor {
        message: error.to_string(),
    })
}
