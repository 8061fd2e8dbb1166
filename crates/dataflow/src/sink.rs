//! Where streams end: outputs that have each record once.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chandy_lamport::SnapshotId;

use crate::body::{Captured, Emitter, Restored};
use crate::message::{from_bytes, to_bytes};
use crate::push::Push;
use crate::{Record, TaskError, Time};

/// Bytes that can be written at a place, again if need be.
pub trait Output: Send {
    /// Writes bytes at an offset, durably.
    ///
    /// # Errors
    ///
    /// What the system says. The job then ends, and writes them again after a restore.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Leaves this many bytes.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// Bytes in memory that others can look at.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    /// What has been committed.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        // Every change is a single call, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output for Shared {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let mut all = self.lock();
        let end = offset + bytes.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[offset..end].copy_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.lock().truncate(length);
        Ok(())
    }
}

/// Writes records in two phases: at a cut what was made since the last one goes into the snapshot, with its place in the
/// output; once the snapshot is complete it is written there. Done twice, this gives the same bytes.
pub(crate) struct Transactional<O, F> {
    output: O,
    format: F,
    made: Vec<u8>,
    /// Where `made` begins.
    offset: u64,
    prepared: VecDeque<Prepared>,
}

/// Bytes that belong at a place, once a snapshot is complete.
struct Prepared {
    id: SnapshotId,
    offset: u64,
    bytes: Vec<u8>,
}

/// The offset after all that is prepared, and that.
type Transactions = (u64, Vec<(u64, Vec<u8>)>);

impl<O: Output, F> Transactional<O, F> {
    pub(crate) fn new(output: O, format: F) -> Self {
        Self {
            output,
            format,
            made: Vec::new(),
            offset: 0,
            prepared: VecDeque::new(),
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), TaskError> {
        let written = self.output.write_at(offset, bytes);
        written.map_err(TaskError::io("writing the output"))
    }

    fn cut(&mut self, id: SnapshotId) {
        let bytes = std::mem::take(&mut self.made);
        if !bytes.is_empty() {
            let offset = self.offset;
            self.offset += u64::try_from(bytes.len()).unwrap_or(0);
            self.prepared.push_back(Prepared { id, offset, bytes });
        }
    }

    fn commit(&mut self, upto: SnapshotId) -> Result<(), TaskError> {
        while self.prepared.front().is_some_and(|first| first.id <= upto) {
            if let Some(first) = self.prepared.pop_front() {
                self.write(first.offset, &first.bytes)?;
            }
        }
        Ok(())
    }
}

impl<T: Record, O: Output, F: FnMut(&T, &mut Vec<u8>) + Send> Push<T> for Transactional<O, F> {
    fn batch(&mut self, records: Vec<T>, _out: &mut Emitter) -> Result<(), TaskError> {
        for record in &records {
            (self.format)(record, &mut self.made);
        }
        Ok(())
    }

    fn watermark(&mut self, _time: Time, _out: &mut Emitter) -> Result<(), TaskError> {
        Ok(())
    }

    fn capture(&mut self, id: SnapshotId, into: &mut Captured) -> Result<(), TaskError> {
        self.cut(id);
        let prepared = self.prepared.iter();
        let prepared = prepared
            .map(|one| (one.offset, one.bytes.clone()))
            .collect();
        let transactions: Transactions = (self.offset, prepared);
        into.transactions = to_bytes(&transactions);
        Ok(())
    }

    fn restore(&mut self, from: &Restored<'_>) -> Result<(), TaskError> {
        for bytes in &from.commit {
            let (offset, prepared): Transactions = from_bytes(bytes)?;
            for (offset, bytes) in prepared {
                if !from.detached {
                    self.write(offset, &bytes)?;
                }
            }
            self.offset = self.offset.max(offset);
        }
        if from.detached {
            return Ok(());
        }
        let truncated = self.output.truncate(self.offset);
        truncated.map_err(TaskError::io("truncating the output"))
    }

    fn completed(&mut self, id: SnapshotId) -> Result<(), TaskError> {
        self.commit(id)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.cut(SnapshotId(u64::MAX));
        self.commit(SnapshotId(u64::MAX))
    }
}

/// Calls a function with each batch as it comes: records may come again after a restore.
pub(crate) struct ForEach<F> {
    pub(crate) f: F,
}

impl<T: Record, F: FnMut(Vec<T>) + Send> Push<T> for ForEach<F> {
    fn batch(&mut self, records: Vec<T>, _out: &mut Emitter) -> Result<(), TaskError> {
        if !records.is_empty() {
            (self.f)(records);
        }
        Ok(())
    }

    fn watermark(&mut self, _time: Time, _out: &mut Emitter) -> Result<(), TaskError> {
        Ok(())
    }

    fn capture(&mut self, _id: SnapshotId, _into: &mut Captured) -> Result<(), TaskError> {
        Ok(())
    }

    fn restore(&mut self, _from: &Restored<'_>) -> Result<(), TaskError> {
        Ok(())
    }

    fn completed(&mut self, _id: SnapshotId) -> Result<(), TaskError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        Ok(())
    }
}
