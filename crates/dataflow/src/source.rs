//! Where streams begin: something that can be read again from a cursor.

use chandy_lamport::{Channel, SnapshotId};

use crate::body::{Body, Captured, Emitter, Poll, Restored};
use crate::push::Push;
use crate::{Message, Record, TaskError, Time};

/// A stream's beginning, read by one task.
pub trait Source: Send {
    /// What it gives.
    type Item;

    /// Adds the next records, at most this many. `Emitted` if there are any.
    ///
    /// # Errors
    ///
    /// A source that is gone. Nothing is lost by that: the job goes on from its last snapshot when it is back.
    fn read(&mut self, records: &mut Vec<Self::Item>, max: usize) -> Result<Poll, TaskError>;

    /// Where the next read goes on.
    fn cursor(&self) -> Vec<u8>;

    /// Goes on from a cursor.
    ///
    /// # Errors
    ///
    /// A cursor of something else, or a place that is no longer there.
    fn seek(&mut self, cursor: &[u8]) -> Result<(), TaskError>;
}

/// Records made from their number.
#[derive(Debug)]
pub struct Generator<F> {
    next: u64,
    step: u64,
    end: u64,
    make: F,
}

impl<T, F: FnMut(u64) -> T> Generator<F> {
    /// The records of these numbers below `end`: `first`, and each `step` further.
    pub fn new(first: u64, step: u64, end: u64, make: F) -> Self {
        Self {
            next: first,
            step: step.max(1),
            end,
            make,
        }
    }
}

impl<T, F: FnMut(u64) -> T + Send> Source for Generator<F> {
    type Item = T;

    fn read(&mut self, records: &mut Vec<T>, max: usize) -> Result<Poll, TaskError> {
        for _ in 0..max {
            if self.next >= self.end {
                break;
            }
            records.push((self.make)(self.next));
            self.next = self.next.saturating_add(self.step);
        }
        Ok(if records.is_empty() {
            Poll::Ended
        } else {
            Poll::Emitted
        })
    }

    fn cursor(&self) -> Vec<u8> {
        self.next.to_le_bytes().to_vec()
    }

    fn seek(&mut self, cursor: &[u8]) -> Result<(), TaskError> {
        let next = cursor.try_into().map_err(|_| TaskError::Snapshot)?;
        self.next = u64::from_le_bytes(next);
        Ok(())
    }
}

/// The task of a source.
pub(crate) struct SourceBody<S, T> {
    pub(crate) source: S,
    pub(crate) batch: usize,
    pub(crate) head: Box<dyn Push<T>>,
    pub(crate) ended: bool,
    pub(crate) polled: usize,
}

impl<T: Record, S: Source<Item = T>> Body for SourceBody<S, T> {
    fn message(&mut self, _: Channel, _: Message, _: &mut Emitter) -> Result<(), TaskError> {
        Err(TaskError::Type)
    }

    fn poll(&mut self, out: &mut Emitter) -> Result<Poll, TaskError> {
        if self.ended {
            return Ok(Poll::Ended);
        }
        let mut records = Vec::with_capacity(self.batch);
        let poll = self.source.read(&mut records, self.batch)?;
        self.polled = records.len();
        if !records.is_empty() {
            self.head.batch(records, out)?;
            return Ok(Poll::Emitted);
        }
        if poll == Poll::Ended {
            self.ended = true;
            self.head.watermark(Time::MAX, out)?;
        }
        Ok(poll)
    }

    fn polled(&self) -> usize {
        self.polled
    }

    fn poll_again(&mut self, count: usize, out: &mut Emitter) -> Result<Poll, TaskError> {
        let mut records = Vec::with_capacity(count);
        while records.len() < count {
            let missing = count - records.len();
            if self.source.read(&mut records, missing)? == Poll::Ended {
                // The other replica read more of the same source.
                return Err(TaskError::Snapshot);
            }
        }
        self.head.batch(records, out)?;
        Ok(Poll::Emitted)
    }

    fn ended(&mut self, _: Channel, _: &mut Emitter) -> Result<(), TaskError> {
        Ok(())
    }

    fn capture(&mut self, id: SnapshotId) -> Result<Captured, TaskError> {
        let mut captured = Captured {
            cursor: self.source.cursor(),
            ..Captured::default()
        };
        self.head.capture(id, &mut captured)?;
        Ok(captured)
    }

    fn restore(&mut self, from: &Restored<'_>) -> Result<(), TaskError> {
        match from.cursors[..] {
            [] => {}
            [cursor] => self.source.seek(cursor)?,
            // One source cannot go on from two places.
            _ => return Err(TaskError::Snapshot),
        }
        self.head.restore(from)
    }

    fn completed(&mut self, id: SnapshotId) -> Result<(), TaskError> {
        self.head.completed(id)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.head.finish()
    }
}
