//! `Rdd<T>`: a lazy dataset, and how a partition of it is computed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::context::Context;
use crate::data::Data;
use crate::lineage::{Dependency, Lineage};
use crate::partitioner::PartitionerId;
use crate::task::{Halt, Output, StorageLevel, TaskContext};

/// A dataset in partitions, described by how it is made. Nothing is computed until an action asks.
///
/// Cloning shares the description.
pub struct Rdd<T> {
    pub(crate) context: Context,
    pub(crate) lineage: Arc<Lineage>,
    pub(crate) compute: Arc<Compute<T>>,
    /// Where batches can be lent, and their memory used again.
    pub(crate) lend: Option<Arc<Lend<T>>>,
}

/// Receives a partition in batches. Narrow operators call each other through it once per batch, not per element.
pub(crate) type Sink<'a, T> = &'a mut dyn FnMut(Vec<T>) -> Result<(), Halt>;
pub(crate) type Compute<T> =
    dyn Fn(usize, &TaskContext<'_>, Sink<'_, T>) -> Result<(), Halt> + Send + Sync;
/// Receives batches that it may only look at.
pub(crate) type Reader<'a, T> = &'a mut dyn FnMut(&[T]) -> Result<(), Halt>;
pub(crate) type Lend<T> =
    dyn Fn(usize, &TaskContext<'_>, Reader<'_, T>) -> Result<(), Halt> + Send + Sync;

/// Elements in a batch made by a source: large enough to hide the call, small enough for the first-level cache.
pub(crate) const BATCH: usize = 1024;

/// As [`BATCH`], fewer where they are large: allocators treat what is over 64 KiB as something special.
pub(crate) fn batch_of<T>() -> usize {
    (32 * 1024 / size_of::<T>().max(1)).clamp(16, BATCH)
}

impl<T> Clone for Rdd<T> {
    fn clone(&self) -> Self {
        Self {
            context: self.context.clone(),
            lineage: self.lineage.clone(),
            compute: self.compute.clone(),
            lend: self.lend.clone(),
        }
    }
}

impl<T> std::fmt::Debug for Rdd<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.lineage.to_debug_string())
    }
}

impl<T: Data> Rdd<T> {
    /// How it is made.
    pub fn lineage(&self) -> &Arc<Lineage> {
        &self.lineage
    }

    /// The context it belongs to.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// How many partitions it has.
    pub fn num_partitions(&self) -> usize {
        self.lineage.partitions
    }

    /// The lineage as text. See [`Lineage::to_debug_string`].
    pub fn to_debug_string(&self) -> String {
        self.lineage.to_debug_string()
    }

    /// Names the dataset in errors and pictures.
    #[must_use]
    pub fn set_name(self, name: &str) -> Self {
        *self
            .lineage
            .name
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(name.to_owned());
        self
    }

    /// Keeps partitions once they are computed, in memory.
    #[must_use]
    pub fn cache(self) -> Self {
        self.persist(StorageLevel::MemoryOnly)
    }

    /// Keeps partitions once they are computed.
    #[must_use]
    pub fn persist(self, level: StorageLevel) -> Self {
        let number = match level {
            StorageLevel::None => 0,
            StorageLevel::MemoryOnly => 1,
            StorageLevel::MemoryAndDisk => 2,
            StorageLevel::DiskOnly => 3,
        };
        self.lineage.level.store(number, Ordering::Relaxed);
        self
    }

    /// Drops what was kept. It is computed again when it is asked for.
    pub fn unpersist(&self) {
        self.lineage.level.store(0, Ordering::Relaxed);
        self.context.runner().unpersist(self.lineage.id);
    }

    /// Computes one partition into `sink`, or reads it where it was kept.
    pub(crate) fn partition(
        &self,
        partition: usize,
        task: &TaskContext<'_>,
        sink: Sink<'_, T>,
    ) -> Result<(), Halt> {
        match self.kept(partition, task)? {
            None => (self.compute)(partition, task, sink),
            Some(values) => values.chunks(BATCH).try_for_each(|batch| {
                task.took(batch.len())?;
                sink(batch.to_vec())
            }),
        }
    }

    /// As [`Self::partition`], for readers that need no values of their own: what is kept is not copied.
    pub(crate) fn partition_ref(
        &self,
        partition: usize,
        task: &TaskContext<'_>,
        sink: Reader<'_, T>,
    ) -> Result<(), Halt> {
        match (self.kept(partition, task)?, &self.lend) {
            (None, Some(lend)) => lend(partition, task, sink),
            (None, None) => (self.compute)(partition, task, &mut |batch| sink(&batch)),
            (Some(values), _) => values.chunks(BATCH).try_for_each(|batch| {
                task.took(batch.len())?;
                sink(batch)
            }),
        }
    }

    /// A partition of a persisted dataset, computed now if it is not there.
    fn kept(&self, partition: usize, task: &TaskContext<'_>) -> Result<Option<Arc<Vec<T>>>, Halt> {
        let level = self.lineage.level();
        if level == StorageLevel::None {
            return Ok(None);
        }
        if let Some(values) = task
            .env()
            .cached(self.lineage.id, partition)
            .and_then(|block| block.values::<T>().ok())
        {
            return Ok(Some(values));
        }
        let values = Arc::new(self.computed(partition, task)?);
        task.env().cache(
            self.lineage.id,
            partition,
            level,
            Output::shared(values.clone()),
        );
        Ok(Some(values))
    }

    /// All of one partition.
    pub(crate) fn collected(
        &self,
        partition: usize,
        task: &TaskContext<'_>,
    ) -> Result<Vec<T>, Halt> {
        let mut all = Vec::new();
        self.partition(partition, task, &mut |batch| {
            append(&mut all, batch);
            Ok(())
        })?;
        Ok(all)
    }

    fn computed(&self, partition: usize, task: &TaskContext<'_>) -> Result<Vec<T>, Halt> {
        let mut all = Vec::new();
        (self.compute)(partition, task, &mut |batch| {
            append(&mut all, batch);
            Ok(())
        })?;
        Ok(all)
    }

    /// A dataset made from this one, partition by partition.
    pub(crate) fn narrow<U: Data>(
        &self,
        operator: &'static str,
        partitioner: Option<PartitionerId>,
        compute: impl Fn(usize, &TaskContext<'_>, Sink<'_, U>) -> Result<(), Halt>
        + Send
        + Sync
        + 'static,
    ) -> Rdd<U> {
        let dependencies = vec![Dependency::Narrow(self.lineage.clone())];
        self.context.rdd(
            operator,
            self.num_partitions(),
            dependencies,
            partitioner,
            compute,
        )
    }
}

/// Appends without copying where nothing is there yet.
pub(crate) fn append<T>(all: &mut Vec<T>, batch: Vec<T>) {
    if all.is_empty() && all.capacity() < batch.len() {
        *all = batch;
    } else {
        all.extend(batch);
    }
}
