//! Actions in several jobs or several stages, and those that write.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::data::{Data, Key};
use crate::job::JobError;
use crate::lineage::Dependency;
use crate::narrow::Random;
use crate::partitioner::Parts;
use crate::rdd::Rdd;
use crate::task::{Output, TaskContext, TaskError};

impl<T: Data> Rdd<T> {
    /// Exactly `count` elements, or all if there are fewer, each set of them equally likely for an unknown seed.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn take_sample(&self, count: usize, seed: u64) -> Result<Vec<T>, JobError> {
        // Each element draws a number; the lowest win.
        let lowest = move |mut drawn: Vec<(u64, T)>| {
            drawn.sort_by_key(|(number, _)| *number);
            drawn.truncate(count);
            drawn
        };
        let drawn = self.whole("takeSample", move |p, all| {
            let mut random = Random::new(seed, p as u64);
            lowest(all.into_iter().map(|v| (random.next(), v)).collect())
        });
        Ok(lowest(drawn.collect()?)
            .into_iter()
            .map(|(_, value)| value)
            .collect())
    }

    /// As [`Self::reduce`], with up to `depth` rounds of tasks that join partial results before the program does.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn tree_reduce(
        &self,
        depth: u32,
        f: impl Fn(T, T) -> T + Send + Sync + Clone + 'static,
    ) -> Result<Option<T>, JobError> {
        let g = f.clone();
        let join = move |a: Option<T>, b: Option<T>| match (a, b) {
            (Some(a), Some(b)) => Some(g(a, b)),
            (a, b) => a.or(b),
        };
        let parts = self.map_partitions(move |all| [all.into_iter().reduce(&f)]);
        Ok(parts.joined(depth, join)?.flatten())
    }

    /// As [`Self::aggregate`], with up to `depth` rounds of tasks that join partial results before the program does.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn tree_aggregate<C: Data>(
        &self,
        zero: C,
        depth: u32,
        add: impl Fn(&mut C, T) + Send + Sync + 'static,
        merge: impl Fn(&mut C, C) + Send + Sync + Clone + 'static,
    ) -> Result<C, JobError> {
        let none = zero.clone();
        let parts = self.map_partitions(move |all| {
            let mut sum = zero.clone();
            all.into_iter().for_each(|value| add(&mut sum, value));
            [sum]
        });
        let join = move |mut a: C, b: C| {
            merge(&mut a, b);
            a
        };
        Ok(parts.joined(depth, join)?.unwrap_or(none))
    }

    /// Joins the elements of a dataset with one in each partition.
    fn joined(
        &self,
        depth: u32,
        f: impl Fn(T, T) -> T + Send + Sync + Clone + 'static,
    ) -> Result<Option<T>, JobError> {
        // The root of the number of partitions: each round divides by it.
        let n = self.num_partitions();
        let fan_in = (2..n.max(2))
            .find(|fan_in| fan_in.saturating_pow(depth.max(1)) >= n)
            .unwrap_or_else(|| n.max(2));
        let mut parts = self.clone();
        for _ in 1..depth {
            let left = parts.num_partitions().div_ceil(fan_in);
            if left <= 1 {
                break;
            }
            let keyed = parts.whole("treeReduce", move |p, all| {
                all.into_iter()
                    .map(|value| (p / fan_in, value))
                    .collect::<Vec<_>>()
            });
            parts = keyed.reduce_by_key(left, f.clone()).values();
        }
        parts.reduce(f)
    }

    /// Runs `f` on each partition in the tasks. It may run more than once for a partition when a task is repeated.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    pub fn foreach_partition(
        &self,
        f: impl Fn(Vec<T>) + Send + Sync + 'static,
    ) -> Result<(), JobError> {
        self.run(f).map(|_| ())
    }

    /// The elements, partition by partition: each is computed by a job of its own when it is reached, so that one at a
    /// time is in memory.
    pub fn to_local_iterator(&self) -> impl Iterator<Item = Result<T, JobError>> + use<T> {
        let rdd = self.clone();
        (0..rdd.num_partitions()).flat_map(move |p| match rdd.only(p).collect() {
            Ok(values) => values.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }

    fn only(&self, partition: usize) -> Self {
        let parent = self.clone();
        let dependencies = vec![Dependency::Narrow(self.lineage.clone())];
        self.context
            .rdd("partition", 1, dependencies, None, move |_, task, sink| {
                parent.partition(partition, task, sink)
            })
    }
}

impl<T: Data + Display> Rdd<T> {
    /// Writes each partition as a file `part-00000` and so on in a new folder, a line for each element. An empty file
    /// `_SUCCESS` says that all are there.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up, or the folder exists.
    pub fn save_as_text_file(&self, folder: impl AsRef<Path>) -> Result<(), JobError> {
        let folder = folder.as_ref().to_owned();
        let failed = |error: io::Error| JobError::Executor {
            message: format!("cannot write {}: {error}", folder.display()),
        };
        fs::create_dir(&folder).map_err(failed)?;
        let (rdd, into) = (self.clone(), folder.clone());
        let write = move |p: usize, task: &TaskContext<'_>| {
            let path = into.join(format!("part-{p:05}"));
            let failed = |source| TaskError::Source {
                path: path.clone(),
                source,
            };
            // Under another name until it is whole, since two attempts may write at once.
            let mut builder = tempfile::Builder::new();
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            let mut file = builder
                .prefix(".part-")
                .tempfile_in(&into)
                .map_err(failed)?;
            let mut writer = io::BufWriter::new(file.as_file_mut());
            rdd.partition(p, task, &mut |batch| {
                for value in batch {
                    writeln!(writer, "{value}").map_err(failed)?;
                }
                Ok(())
            })?;
            writer.flush().map_err(failed)?;
            drop(writer);
            file.persist(&path).map_err(|error| failed(error.error))?;
            Ok(Output::of(vec![()]))
        };
        let job = crate::job::Job::new(&self.lineage, Box::new(write));
        self.context.runner().run(&job)?;
        fs::File::create(folder.join("_SUCCESS")).map_err(failed)?;
        Ok(())
    }
}

impl<K: Key, V: Data> Rdd<(K, V)> {
    /// Joins the values of each key, beginning with `zero` in each task.
    pub fn fold_by_key(
        &self,
        zero: V,
        parts: impl Into<Parts<K>>,
        f: impl Fn(V, V) -> V + Send + Sync + Clone + 'static,
    ) -> Self {
        let g = f.clone();
        self.aggregate_by_key(
            zero,
            parts,
            move |sum, value| *sum = f(sum.clone(), value),
            move |sum, other| *sum = g(sum.clone(), other),
        )
    }

    /// Keeps each pair with the probability that `fraction` gives for its key.
    pub fn sample_by_key(
        &self,
        fraction: impl Fn(&K) -> f64 + Send + Sync + 'static,
        seed: u64,
    ) -> Self {
        self.whole("sampleByKey", move |p, all| {
            let mut random = Random::new(seed, p as u64);
            all.into_iter()
                .filter(|(key, _)| random.unit() < fraction(key))
                .collect::<Vec<_>>()
        })
    }
}
