//! Blocks kept by an executor within a byte budget: in memory while they fit, then on disk.
//!
//! Sizes are of the values without what they point at, so a budget for strings is a lower bound.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::block::Block;
use crate::data::RddId;
use crate::task::{Output, StorageLevel};

/// A block that is kept. Its memory or file is given back with it.
#[derive(Debug)]
pub(crate) enum Kept {
    Memory {
        output: Output,
        used: Arc<AtomicUsize>,
    },
    Disk(tempfile::TempPath),
}

impl Kept {
    /// Reads it; `None` when its file is gone.
    pub(crate) fn block(&self) -> Option<Block> {
        match self {
            Self::Memory { output, .. } => Some(output.block()),
            Self::Disk(path) => std::fs::read(path)
                .ok()
                .map(|bytes| Block::Bytes(bytes.into())),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Self::Memory { output, used } = self {
            used.fetch_sub(output.bytes_shallow(), Ordering::Relaxed);
        }
    }
}

/// The blocks of persisted datasets, and the budget that shuffle blocks share.
#[derive(Debug)]
pub(crate) struct BlockStore {
    folder: PathBuf,
    budget: usize,
    used: Arc<AtomicUsize>,
    cached: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    entries: HashMap<(RddId, usize), Entry>,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    kept: Kept,
    level: StorageLevel,
    /// The thread that computed it.
    thread: usize,
    used_at: u64,
}

impl BlockStore {
    pub(crate) fn new(folder: &Path, budget: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            budget,
            used: Arc::default(),
            cached: Mutex::default(),
        }
    }

    /// Keeps an output, on disk when memory is spent.
    pub(crate) fn keep(&self, output: Output) -> io::Result<Kept> {
        self.make_room(output.bytes_shallow(), None);
        if self.fits(output.bytes_shallow()) {
            Ok(self.in_memory(output))
        } else {
            self.on_disk(&output)
        }
    }

    pub(crate) fn cached(&self, rdd: RddId, partition: usize) -> Option<Block> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.clock += 1;
        let clock = cached.clock;
        let entry = cached.entries.get_mut(&(rdd, partition))?;
        entry.used_at = clock;
        entry.kept.block()
    }

    /// Keeps a partition of a persisted dataset as its level says. A full disk only means that it is not kept.
    pub(crate) fn cache(
        &self,
        (rdd, partition): (RddId, usize),
        level: StorageLevel,
        output: Output,
        thread: usize,
    ) {
        if level != StorageLevel::DiskOnly {
            self.make_room(output.bytes_shallow(), Some(rdd));
        }
        let in_memory = level != StorageLevel::DiskOnly && self.fits(output.bytes_shallow());
        let kept = match level {
            StorageLevel::None => return,
            _ if in_memory => self.in_memory(output),
            StorageLevel::MemoryOnly => return,
            StorageLevel::MemoryAndDisk | StorageLevel::DiskOnly => match self.on_disk(&output) {
                Ok(kept) => kept,
                Err(_) => return,
            },
        };
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.clock += 1;
        let used_at = cached.clock;
        cached.entries.insert(
            (rdd, partition),
            Entry {
                kept,
                level,
                thread,
                used_at,
            },
        );
    }

    pub(crate) fn unpersist(&self, rdd: RddId) {
        self.cached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entries
            .retain(|(other, _), _| *other != rdd);
    }

    /// Drops what a thread's tasks kept.
    pub(crate) fn lose(&self, thread: usize) {
        self.cached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entries
            .retain(|_, entry| entry.thread != thread);
    }

    /// Bytes in memory now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn fits(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes) <= self.budget
    }

    /// Drops or moves to disk what was used least recently, but nothing of the dataset that is being kept: it would
    /// push itself out partition by partition.
    fn make_room(&self, bytes: usize, of: Option<RddId>) {
        while !self.fits(bytes) {
            let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = cached
                .entries
                .iter()
                .filter(|((rdd, _), entry)| {
                    Some(*rdd) != of && matches!(entry.kept, Kept::Memory { .. })
                })
                .min_by_key(|(_, entry)| entry.used_at)
                .map(|(key, _)| *key);
            let Some(entry) = oldest.and_then(|key| cached.entries.remove(&key)) else {
                return;
            };
            if let (StorageLevel::MemoryAndDisk, Kept::Memory { output, .. }) =
                (entry.level, &entry.kept)
                && let (Ok(kept), Some(key)) = (self.on_disk(output), oldest)
            {
                cached.entries.insert(key, Entry { kept, ..entry });
            }
        }
    }

    fn in_memory(&self, output: Output) -> Kept {
        self.used
            .fetch_add(output.bytes_shallow(), Ordering::Relaxed);
        Kept::Memory {
            output,
            used: self.used.clone(),
        }
    }

    fn on_disk(&self, output: &Output) -> io::Result<Kept> {
        let mut file = tempfile::Builder::new()
            .prefix("rdd-block-")
            .tempfile_in(&self.folder)?;
        file.write_all(&output.bytes())?;
        Ok(Kept::Disk(file.into_temp_path()))
    }
}
