//! A disk in memory that fails as told.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::{Storage, StorageError};
use crate::rng::Rng;

/// Files in memory, which forget in a crash what was not synced, and any part of it may have arrived.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    files: BTreeMap<String, File>,
    /// The fault that the operation with this number meets.
    faults: BTreeMap<u64, Fault>,
    /// Writes and syncs so far.
    operations: u64,
}

/// What a disk does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// ENOSPC.
    NoSpace,
    /// EIO. A sync has then dropped what it should have written: the cache has it, the disk does not.
    Failed,
    /// It says that it has written, and has not.
    Lost,
    /// It writes in another place: this many bytes further on.
    Misdirected(u64),
}

#[derive(Clone, Debug, Default)]
struct File {
    /// What is read until the next crash.
    cache: Vec<u8>,
    durable: Vec<u8>,
    /// Written since the last sync.
    waiting: Vec<(usize, Vec<u8>)>,
    /// Whether a crash cannot take the file away.
    exists: bool,
}

/// Written whole or not at all.
const SECTOR: usize = 512;

impl Memory {
    /// Lets a write or sync fail, `after` as many have gone well.
    pub fn fail(&mut self, after: u64, fault: Fault) {
        self.faults.insert(self.operations + after, fault);
    }

    /// No fault that was told is met any more.
    pub fn heal(&mut self) {
        self.faults.clear();
    }

    /// Writes and syncs so far.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// The power goes. Of each write that was not synced any sectors arrive, in any order, by the choice of `seed`.
    pub fn crash(&mut self, seed: u64) {
        let mut rng = Rng(seed);
        for file in self.files.values_mut() {
            file.exists |= rng.below(2) == 0;
            for (offset, bytes) in core::mem::take(&mut file.waiting) {
                for (offset, sector) in sectors(offset, &bytes) {
                    if rng.below(2) == 0 {
                        put(&mut file.durable, offset, sector);
                    }
                }
            }
            file.cache.clone_from(&file.durable);
        }
        self.files.retain(|_, file| file.exists);
        self.faults.clear();
    }

    /// Inverts a bit of a file, if it is that long.
    pub fn flip(&mut self, name: &str, bit: u64) {
        let file = self.files.get_mut(name).expect("a file that exists");
        let place = usize::try_from(bit / 8).expect("a place in the file");
        for bytes in [&mut file.durable, &mut file.cache] {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Replaces a file, or makes it.
    pub fn put(&mut self, name: &str, bytes: &[u8]) {
        let file = File {
            cache: bytes.to_vec(),
            durable: bytes.to_vec(),
            waiting: Vec::new(),
            exists: true,
        };
        self.files.insert(name.to_string(), file);
    }

    fn next_fault(&mut self) -> Option<Fault> {
        let fault = self.faults.remove(&self.operations);
        self.operations += 1;
        fault
    }

    fn file(&self, name: &str) -> Result<&File, StorageError> {
        self.files.get(name).ok_or(StorageError::NotFound)
    }
}

impl Storage for Memory {
    fn list(&self) -> Result<Vec<String>, StorageError> {
        Ok(self.files.keys().cloned().collect())
    }

    fn len(&self, name: &str) -> Result<u64, StorageError> {
        Ok(u64::try_from(self.file(name)?.cache.len()).unwrap_or(u64::MAX))
    }

    fn read(&self, name: &str, offset: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        let cache = &self.file(name)?.cache;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = cache.get(start..start.saturating_add(bytes.len()));
        bytes.copy_from_slice(found.ok_or(StorageError::Failed { code: 0 })?);
        Ok(())
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let fault = self.next_fault();
        let file = self.files.entry(name.to_string()).or_default();
        let start = usize::try_from(offset).map_err(|_| StorageError::NoSpace)?;
        match fault {
            // Half of it may be there.
            Some(Fault::NoSpace | Fault::Failed) => {
                let half = &bytes[..bytes.len() / 2];
                put(&mut file.cache, start, half);
                file.waiting.push((start, half.to_vec()));
                return Err(failure(fault));
            }
            Some(Fault::Lost) => put(&mut file.cache, start, bytes),
            Some(Fault::Misdirected(by)) => {
                put(&mut file.cache, start, bytes);
                let wrong = start.saturating_add(usize::try_from(by).unwrap_or(0));
                // A disk has an end, and it is not far from where a file is.
                if wrong < file.cache.len() {
                    file.waiting.push((wrong, bytes.to_vec()));
                }
            }
            None => {
                put(&mut file.cache, start, bytes);
                file.waiting.push((start, bytes.to_vec()));
            }
        }
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<(), StorageError> {
        let fault = self.next_fault();
        let file = self.files.get_mut(name).ok_or(StorageError::NotFound)?;
        let waiting = core::mem::take(&mut file.waiting);
        match fault {
            Some(Fault::NoSpace | Fault::Failed) => return Err(failure(fault)),
            Some(Fault::Lost | Fault::Misdirected(_)) => {}
            None => {
                for (offset, bytes) in waiting {
                    put(&mut file.durable, offset, &bytes);
                }
            }
        }
        file.exists = true;
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        self.files
            .remove(name)
            .map(|_| ())
            .ok_or(StorageError::NotFound)
    }
}

fn failure(fault: Option<Fault>) -> StorageError {
    match fault {
        Some(Fault::NoSpace) => StorageError::NoSpace,
        // EIO.
        _ => StorageError::Failed { code: 5 },
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

/// The parts of a write that lie in different sectors.
fn sectors(mut offset: usize, mut bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let mut parts = vec![];
    while !bytes.is_empty() {
        let (part, rest) = bytes.split_at(bytes.len().min(SECTOR - offset % SECTOR));
        parts.push((offset, part));
        offset += part.len();
        bytes = rest;
    }
    parts
}
