//! The context: where datasets begin, and who runs their jobs.

use std::any::type_name;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::block::Block;
use crate::data::{Data, RddId, ShuffleId};
use crate::job::{Job, JobError};
use crate::lineage::{Dependency, Lineage, MapWork, Shuffle};
use crate::partitioner::PartitionerId;
use crate::rdd::{BATCH, Rdd};

/// Runs jobs. Executors implement it.
pub trait Runner: Send + Sync {
    /// Runs a job: the output of every partition of its last stage, in order.
    ///
    /// # Errors
    ///
    /// [`JobError`] when the job was given up.
    fn run(&self, job: &Job) -> Result<Vec<Block>, JobError>;

    /// Nobody can read this shuffle any more.
    fn forget_shuffle(&self, shuffle: ShuffleId);

    /// A dataset is no longer persisted.
    fn unpersist(&self, rdd: RddId);
}

/// Makes datasets. Datasets of two contexts cannot be combined.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    runner: Arc<dyn Runner>,
    parallelism: usize,
    rdds: AtomicU64,
    shuffles: AtomicU64,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("parallelism", &self.0.parallelism)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// A context whose jobs `runner` runs; `parallelism` is the number of partitions where none is given.
    ///
    /// # Panics
    ///
    /// When `parallelism` is 0.
    pub fn new(runner: Arc<dyn Runner>, parallelism: usize) -> Self {
        assert!(parallelism > 0, "a dataset has at least one partition");
        Self(Arc::new(Inner {
            runner,
            parallelism,
            rdds: AtomicU64::new(0),
            shuffles: AtomicU64::new(0),
        }))
    }

    /// The number of partitions where none is given.
    pub fn parallelism(&self) -> usize {
        self.0.parallelism
    }

    /// A dataset of these values, cut into `partitions` pieces of about the same size.
    ///
    /// # Panics
    ///
    /// When `partitions` is 0.
    pub fn parallelize<T: Data>(
        &self,
        values: impl IntoIterator<Item = T>,
        partitions: usize,
    ) -> Rdd<T> {
        assert!(partitions > 0, "a dataset has at least one partition");
        let values: Arc<Vec<T>> = Arc::new(values.into_iter().collect());
        self.rdd(
            "parallelize",
            partitions,
            vec![],
            None,
            move |partition, task, sink| {
                let bound = |i: usize| i * values.len() / partitions;
                for batch in values[bound(partition)..bound(partition + 1)].chunks(BATCH) {
                    task.took(batch.len())?;
                    sink(batch.to_vec())?;
                }
                Ok(())
            },
        )
    }

    /// A dataset whose partition `p` is what `make(p)` iterates over. Made again whenever it is asked for, so it
    /// must give the same values each time.
    ///
    /// # Panics
    ///
    /// When `partitions` is 0.
    pub fn generate<T: Data, I: IntoIterator<Item = T>>(
        &self,
        partitions: usize,
        make: impl Fn(usize) -> I + Send + Sync + 'static,
    ) -> Rdd<T> {
        assert!(partitions > 0, "a dataset has at least one partition");
        self.rdd(
            "generate",
            partitions,
            vec![],
            None,
            move |partition, task, sink| {
                let mut values = make(partition).into_iter();
                loop {
                    let batch: Vec<T> = values.by_ref().take(BATCH).collect();
                    if batch.is_empty() {
                        return Ok(());
                    }
                    task.took(batch.len())?;
                    sink(batch)?;
                }
            },
        )
    }

    /// A value that every task can read.
    pub fn broadcast<T>(&self, value: T) -> Broadcast<T> {
        Broadcast(Arc::new(value))
    }

    pub(crate) fn runner(&self) -> &Arc<dyn Runner> {
        &self.0.runner
    }

    pub(crate) fn rdd<T: Data>(
        &self,
        operator: &'static str,
        partitions: usize,
        dependencies: Vec<Dependency>,
        partitioner: Option<PartitionerId>,
        compute: impl Fn(
            usize,
            &crate::task::TaskContext<'_>,
            crate::rdd::Sink<'_, T>,
        ) -> Result<(), crate::task::Halt>
        + Send
        + Sync
        + 'static,
    ) -> Rdd<T> {
        let lineage = Arc::new(Lineage {
            id: RddId(self.0.rdds.fetch_add(1, Ordering::Relaxed)),
            operator,
            element: type_name::<T>(),
            partitions,
            dependencies,
            partitioner,
            level: AtomicU8::new(0),
            name: Mutex::new(None),
        });
        Rdd {
            context: self.clone(),
            lineage,
            compute: Arc::new(compute),
            lend: None,
        }
    }

    pub(crate) fn shuffle(
        &self,
        parent: Arc<Lineage>,
        reduces: usize,
        map: MapWork,
    ) -> Arc<Shuffle> {
        let id = ShuffleId(self.0.shuffles.fetch_add(1, Ordering::Relaxed));
        Arc::new(Shuffle {
            id,
            parent,
            reduces,
            map,
            runner: Arc::downgrade(&self.0.runner),
        })
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A value shared by all tasks. On one machine it is one copy.
#[derive(Debug)]
pub struct Broadcast<T>(Arc<T>);

impl<T> Clone for Broadcast<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Broadcast<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
