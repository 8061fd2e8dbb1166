//! A task: one partition of one stage, computed against an environment that finds its inputs.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::block::{Block, BlockError, encode};
use crate::data::{Data, RddId, ShuffleId};

/// Where a task finds what other tasks made. The executor gives one to each attempt.
pub trait TaskEnv {
    /// The block that map task `map` of `shuffle` made for partition `reduce`.
    ///
    /// # Errors
    ///
    /// [`FetchError`] when it is gone or damaged: the scheduler then has it made again.
    fn fetch(&self, shuffle: ShuffleId, map: usize, reduce: usize) -> Result<Block, FetchError>;

    /// A partition kept by an earlier task, if it is still there.
    fn cached(&self, rdd: RddId, partition: usize) -> Option<Block>;

    /// Offers a computed partition of a persisted dataset. The environment may decline.
    fn cache(&self, rdd: RddId, partition: usize, level: StorageLevel, values: Output);

    /// Whether nobody waits for this attempt any more.
    fn cancelled(&self) -> bool {
        false
    }

    /// Called with the number of records taken in so far, now and then.
    fn progress(&self, records: u64) {
        let _ = records;
    }

    /// Bytes that tables of one task may take before they go to disk.
    fn table_bytes(&self) -> usize {
        usize::MAX
    }

    /// Where runs go when a table is full.
    fn spill_folder(&self) -> Option<PathBuf> {
        None
    }
}

/// How a persisted dataset is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageLevel {
    /// Not kept.
    #[default]
    None,
    /// As values; dropped, least recently used first, when the budget is spent.
    MemoryOnly,
    /// As values; moved to disk instead of dropped.
    MemoryAndDisk,
    /// Encoded, on disk only.
    DiskOnly,
}

/// What a running task knows of itself.
pub struct TaskContext<'a> {
    env: &'a dyn TaskEnv,
    partition: usize,
    records: Cell<u64>,
}

impl std::fmt::Debug for TaskContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskContext")
            .field("partition", &self.partition)
            .finish_non_exhaustive()
    }
}

impl<'a> TaskContext<'a> {
    /// A context for the task that computes `partition`.
    pub fn new(env: &'a dyn TaskEnv, partition: usize) -> Self {
        Self {
            env,
            partition,
            records: Cell::new(0),
        }
    }

    /// The partition this task makes.
    pub fn partition(&self) -> usize {
        self.partition
    }

    pub(crate) fn env(&self) -> &'a dyn TaskEnv {
        self.env
    }

    /// Counts records taken from a source or a shuffle, and stops a task that nobody waits for.
    pub(crate) fn took(&self, records: usize) -> Result<(), Halt> {
        self.records.set(self.records.get() + records as u64);
        self.env.progress(self.records.get());
        if self.env.cancelled() {
            Err(Halt::Failed(TaskError::Cancelled))
        } else {
            Ok(())
        }
    }
}

/// What a task hands over: values, and how to write them.
#[derive(Clone)]
pub struct Output {
    values: Arc<dyn Any + Send + Sync>,
    encode: fn(&(dyn Any + Send + Sync)) -> Vec<u8>,
    bytes_shallow: usize,
}

impl Output {
    /// Wraps values.
    pub fn of<T: Data>(values: Vec<T>) -> Self {
        Self::shared(Arc::new(values))
    }

    pub(crate) fn shared<T: Data>(values: Arc<Vec<T>>) -> Self {
        let bytes_shallow = values.len() * size_of::<T>();
        let encode = |any: &(dyn Any + Send + Sync)| {
            encode(any.downcast_ref::<Vec<T>>().expect("made from a Vec<T>"))
        };
        Self {
            values,
            encode,
            bytes_shallow,
        }
    }

    /// Values in pieces, which a reader gets as a `Vec<Vec<T>>`.
    pub(crate) fn pieces<T: Data>(pieces: Vec<Vec<T>>) -> Self {
        let bytes_shallow = pieces
            .iter()
            .map(|piece| size_of_val(piece.as_slice()))
            .sum();
        Self {
            bytes_shallow,
            ..Self::of(pieces)
        }
    }

    /// As a block of values.
    pub fn block(&self) -> Block {
        Block::Values(self.values.clone())
    }

    /// As the bytes of a block.
    pub fn bytes(&self) -> Vec<u8> {
        (self.encode)(&*self.values)
    }

    /// The size of the values, without what they point at.
    pub fn bytes_shallow(&self) -> usize {
        self.bytes_shallow
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output")
            .field("bytes_shallow", &self.bytes_shallow)
            .finish_non_exhaustive()
    }
}

/// A block that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {map} -> {reduce} of shuffle {} cannot be had", shuffle.0)]
pub struct FetchError {
    /// Whose block.
    pub shuffle: ShuffleId,
    /// Made by this map task.
    pub map: usize,
    /// For this partition.
    pub reduce: usize,
    /// Damaged rather than absent.
    pub source: Option<BlockError>,
}

/// Why an attempt of a task failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A closure of the program panicked.
    #[error("a closure panicked: {message}")]
    Panicked {
        /// The panic's text.
        message: String,
    },
    /// A source cannot be read.
    #[error("cannot read {}", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not UTF-8.
    #[error("{} is not UTF-8 in the line at byte {offset}", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Where the line starts.
        offset: u64,
    },
    /// A shuffle block is gone or damaged.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A part of a checkpoint cannot be written or read.
    #[error("cannot write or read {name}")]
    Storage {
        /// The part.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A table was over its budget and could not be written out.
    #[error("cannot spill to {}", path.display())]
    Spill {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A table was over its budget and there is nowhere to spill.
    #[error("a table needs more than {budget} bytes and there is no folder to spill to")]
    Budget {
        /// Bytes allowed.
        budget: usize,
    },
    /// A block that this task wrote or was given cannot be read.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Two sides of a zip differ in length.
    #[error("zip of partitions with {left} and {right} elements")]
    UnequalZip {
        /// Elements on the left.
        left: usize,
        /// Elements on the right.
        right: usize,
    },
    /// Another attempt was faster, or the job ended.
    #[error("the attempt was cancelled")]
    Cancelled,
}

/// Why a computation stops before its end.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The receiver has all it wants.
    Enough,
    /// It failed.
    Failed(TaskError),
}

impl<E: Into<TaskError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
