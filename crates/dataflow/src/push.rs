//! Operators of one task: each hands whole batches to the next.

use chandy_lamport::SnapshotId;

use crate::body::{Captured, Emitter, Restored};
use crate::{Record, TaskError, Time};

/// An operator that takes records of this type.
pub trait Push<T>: Send {
    /// Some records.
    ///
    /// # Errors
    ///
    /// Whatever stops the task.
    fn batch(&mut self, records: Vec<T>, out: &mut Emitter) -> Result<(), TaskError>;

    /// No record of an earlier event time follows.
    ///
    /// # Errors
    ///
    /// Whatever stops the task.
    fn watermark(&mut self, time: Time, out: &mut Emitter) -> Result<(), TaskError>;

    /// Adds what this and the operators after it keep.
    ///
    /// # Errors
    ///
    /// As [`Body::capture`](crate::Body::capture).
    fn capture(&mut self, id: SnapshotId, into: &mut Captured) -> Result<(), TaskError>;

    /// Goes on from there.
    ///
    /// # Errors
    ///
    /// As [`Body::restore`](crate::Body::restore).
    fn restore(&mut self, from: &Restored<'_>) -> Result<(), TaskError>;

    /// As [`Body::completed`](crate::Body::completed).
    ///
    /// # Errors
    ///
    /// A sink that cannot commit.
    fn completed(&mut self, id: SnapshotId) -> Result<(), TaskError>;

    /// As [`Body::finish`](crate::Body::finish).
    ///
    /// # Errors
    ///
    /// A sink that cannot commit.
    fn finish(&mut self) -> Result<(), TaskError>;
}

/// What every operator without state does the same way.
macro_rules! pass_on {
    () => {
        fn watermark(&mut self, time: $crate::Time, out: &mut $crate::body::Emitter) -> Result<(), $crate::TaskError> {
            self.next.watermark(time, out)
        }
        $crate::push::pass_on!(but watermarks);
    };
    (but watermarks) => {
        fn capture(&mut self, id: chandy_lamport::SnapshotId, into: &mut $crate::body::Captured) -> Result<(), $crate::TaskError> {
            self.next.capture(id, into)
        }

        fn restore(&mut self, from: &$crate::body::Restored<'_>) -> Result<(), $crate::TaskError> {
            self.next.restore(from)
        }

        fn completed(&mut self, id: chandy_lamport::SnapshotId) -> Result<(), $crate::TaskError> {
            self.next.completed(id)
        }

        fn finish(&mut self) -> Result<(), $crate::TaskError> {
            self.next.finish()
        }
    };
}
pub(crate) use pass_on;

/// Makes several or no records of each.
pub(crate) struct FlatMap<F, U> {
    pub(crate) f: F,
    pub(crate) next: Box<dyn Push<U>>,
}

impl<T: Record, U: Record, F: FnMut(T, &mut Vec<U>) + Send> Push<T> for FlatMap<F, U> {
    fn batch(&mut self, records: Vec<T>, out: &mut Emitter) -> Result<(), TaskError> {
        let mut made = Vec::with_capacity(records.len());
        for record in records {
            (self.f)(record, &mut made);
        }
        self.next.batch(made, out)
    }

    pass_on!();
}

/// Makes one record of each.
pub(crate) struct Map<F, U> {
    pub(crate) f: F,
    pub(crate) next: Box<dyn Push<U>>,
}

impl<T: Record, U: Record, F: FnMut(T) -> U + Send> Push<T> for Map<F, U> {
    fn batch(&mut self, records: Vec<T>, out: &mut Emitter) -> Result<(), TaskError> {
        let made = records.into_iter().map(&mut self.f).collect();
        self.next.batch(made, out)
    }

    pass_on!();
}

/// Leaves records out.
pub(crate) struct Filter<F, T> {
    pub(crate) f: F,
    pub(crate) next: Box<dyn Push<T>>,
}

impl<T: Record, F: FnMut(&T) -> bool + Send> Push<T> for Filter<F, T> {
    fn batch(&mut self, mut records: Vec<T>, out: &mut Emitter) -> Result<(), TaskError> {
        records.retain(&mut self.f);
        self.next.batch(records, out)
    }

    pass_on!();
}

/// Says how far event time has come: as far as the latest record, less what may come late. It replaces the watermarks
/// from before it but for the last one.
pub(crate) struct EventTime<F, T> {
    pub(crate) time: F,
    pub(crate) late: Time,
    pub(crate) latest: Time,
    pub(crate) next: Box<dyn Push<T>>,
}

impl<T: Record, F: Fn(&T) -> Time + Send> Push<T> for EventTime<F, T> {
    fn batch(&mut self, records: Vec<T>, out: &mut Emitter) -> Result<(), TaskError> {
        let latest = records.iter().map(&self.time).max().unwrap_or(0);
        self.next.batch(records, out)?;
        if latest > self.latest {
            self.latest = latest;
            self.next.watermark(latest.saturating_sub(self.late), out)?;
        }
        Ok(())
    }

    fn watermark(&mut self, time: Time, out: &mut Emitter) -> Result<(), TaskError> {
        if time == Time::MAX {
            self.next.watermark(time, out)?;
        }
        Ok(())
    }

    pass_on!(but watermarks);
}
