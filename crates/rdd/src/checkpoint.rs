//! Checkpoints: a dataset written out, so that nothing before it is needed again.
//!
//! A checkpoint is one block for each partition, named by its digest, and a manifest that names them. The manifest is
//! written last: without it there is no checkpoint.

use std::any::type_name;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::block::{Block, decode, digest, encode};
use crate::context::Context;
use crate::data::Data;
use crate::job::{Job, JobError};
use crate::partitioner::PartitionerId;
use crate::rdd::{BATCH, Rdd};
use crate::task::{Output, TaskContext, TaskError};

/// Where checkpoints lie. It must outlive the workers.
pub trait Storage: Send + Sync {
    /// Writes all of `bytes` or nothing, lastingly. What had the name before is replaced.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Reads what was written.
    ///
    /// # Errors
    ///
    /// When it cannot be read; [`io::ErrorKind::NotFound`] when there is none.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Removes what was written.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    fn remove(&self, name: &str) -> io::Result<()>;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Manifest {
    element: String,
    /// The digest of each partition's block.
    digests: Vec<u64>,
}

impl Manifest {
    fn read(storage: &dyn Storage, name: &str) -> Result<Self, JobError> {
        let failed = |message: String| JobError::Checkpoint {
            name: name.to_owned(),
            message,
        };
        let bytes = storage
            .read(&manifest_name(name))
            .map_err(|error| failed(error.to_string()))?;
        let mut manifests: Vec<Self> = decode(&bytes).map_err(|error| failed(error.to_string()))?;
        manifests
            .pop()
            .filter(|manifest| !manifest.digests.is_empty())
            .ok_or_else(|| failed("the manifest names no partitions".to_owned()))
    }
}

impl<T: Data> Rdd<T> {
    /// Computes this dataset, writes it to `storage` under `name`, and gives it as one that is read from there: it
    /// has no ancestors, and its partitioner is the same.
    ///
    /// Unlike Spark's, it runs its own job, at once: persist the dataset if it is used otherwise, too.
    ///
    /// # Errors
    ///
    /// [`JobError`] of the job; [`JobError::Checkpoint`] when there is a complete one of that name.
    pub fn checkpoint(&self, storage: Arc<dyn Storage>, name: &str) -> Result<Self, JobError> {
        let failed = |message: &str| JobError::Checkpoint {
            name: name.to_owned(),
            message: message.to_owned(),
        };
        match storage.read(&manifest_name(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&error.to_string())),
            Ok(_) => return Err(failed("there is one of this name already")),
        }
        let (rdd, into, own_name) = (self.clone(), storage.clone(), name.to_owned());
        let write = move |p: usize, task: &TaskContext<'_>| {
            let bytes = encode(&rdd.collected(p, task)?);
            let digest = digest(&bytes);
            let part = part_name(&own_name, p, digest);
            into.write(&part, &bytes)
                .map_err(|source| TaskError::Storage { name: part, source })?;
            Ok(Output::of(vec![digest]))
        };
        let outputs = self
            .context
            .runner()
            .run(&Job::new(&self.lineage, Box::new(write)))?;
        let digests = digests(outputs).map_err(|error| failed(&error.to_string()))?;
        let manifest = Manifest {
            element: type_name::<T>().to_owned(),
            digests,
        };
        storage
            .write(
                &manifest_name(name),
                &encode(std::slice::from_ref(&manifest)),
            )
            .map_err(|error| failed(&error.to_string()))?;
        let partitioner = self.lineage.partitioner.clone();
        Ok(read(
            &self.context,
            storage,
            name,
            manifest.digests,
            partitioner,
        ))
    }
}

impl Context {
    /// A dataset that was checkpointed under `name`, perhaps by an earlier run of the program. How its elements are
    /// spread is not believed, since another build may have spread them.
    ///
    /// # Errors
    ///
    /// [`JobError::Checkpoint`] when there is none, or of another element type.
    pub fn restore<T: Data>(
        &self,
        storage: Arc<dyn Storage>,
        name: &str,
    ) -> Result<Rdd<T>, JobError> {
        let manifest = Manifest::read(&*storage, name)?;
        if manifest.element != type_name::<T>() {
            return Err(JobError::Checkpoint {
                name: name.to_owned(),
                message: format!("its elements are {}", manifest.element),
            });
        }
        Ok(read(self, storage, name, manifest.digests, None))
    }
}

/// Removes a checkpoint. Datasets that read it fail from now on.
///
/// # Errors
///
/// [`JobError::Checkpoint`] when there is none, or it cannot be removed.
pub fn remove_checkpoint(storage: &dyn Storage, name: &str) -> Result<(), JobError> {
    let manifest = Manifest::read(storage, name)?;
    let parts = manifest.digests.iter().enumerate();
    let parts = parts.map(|(p, digest)| part_name(name, p, *digest));
    // The manifest first: what is left of a checkpoint is then none.
    std::iter::once(manifest_name(name))
        .chain(parts)
        .try_for_each(|part| storage.remove(&part))
        .map_err(|error| JobError::Checkpoint {
            name: name.to_owned(),
            message: error.to_string(),
        })
}

fn read<T: Data>(
    context: &Context,
    storage: Arc<dyn Storage>,
    name: &str,
    digests: Vec<u64>,
    partitioner: Option<PartitionerId>,
) -> Rdd<T> {
    let own_name = name.to_owned();
    context
        .rdd(
            "checkpoint",
            digests.len(),
            vec![],
            partitioner,
            move |p, task, sink| {
                let part = part_name(&own_name, p, digests[p]);
                let bytes = storage
                    .read(&part)
                    .map_err(|source| TaskError::Storage { name: part, source })?;
                // Its own checksum says whether the block is whole, and its name that it is this one.
                let mut values = decode::<T>(&bytes)?.into_iter();
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
        .set_name(name)
}

fn digests(outputs: Vec<Block>) -> Result<Vec<u64>, crate::block::BlockError> {
    let mut all = Vec::with_capacity(outputs.len());
    for output in outputs {
        all.extend(output.values::<u64>()?.iter());
    }
    Ok(all)
}

fn manifest_name(name: &str) -> String {
    format!("{name}/manifest")
}

fn part_name(name: &str, partition: usize, digest: u64) -> String {
    format!("{name}/part-{partition:05}-{digest:016x}")
}
