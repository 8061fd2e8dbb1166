//! The task of operators that have inputs.

use chandy_lamport::{Channel, SnapshotId};

use crate::body::{Body, Captured, Emitter, Restored, Watermarks};
use crate::message::records;
use crate::push::Push;
use crate::{Message, Record, TaskError, Time};

/// Operators of records of type `T`, from all inputs.
pub(crate) struct Chain<T> {
    head: Box<dyn Push<T>>,
    /// Of the inputs that are not back edges, which come first.
    watermarks: Watermarks,
    forward: usize,
}

impl<T: Record> Chain<T> {
    pub(crate) fn new(forward: usize, head: Box<dyn Push<T>>) -> Self {
        Self {
            head,
            watermarks: Watermarks::new(forward),
            forward,
        }
    }

    fn advance(&mut self, input: Channel, time: Time, out: &mut Emitter) -> Result<(), TaskError> {
        match self.watermarks.advance(input, time) {
            Some(time) => self.head.watermark(time, out),
            None => Ok(()),
        }
    }
}

impl<T: Record> Body for Chain<T> {
    fn message(
        &mut self,
        input: Channel,
        message: Message,
        out: &mut Emitter,
    ) -> Result<(), TaskError> {
        match message {
            Message::Batch(batch) => self.head.batch(records(batch)?, out),
            Message::Watermark(time) => self.advance(input, time, out),
        }
    }

    fn ended(&mut self, input: Channel, out: &mut Emitter) -> Result<(), TaskError> {
        if input < self.forward {
            self.advance(input, Time::MAX, out)?;
        }
        Ok(())
    }

    fn capture(&mut self, id: SnapshotId) -> Result<Captured, TaskError> {
        let mut captured = Captured {
            extra: self.watermarks.to_bytes(),
            ..Captured::default()
        };
        self.head.capture(id, &mut captured)?;
        Ok(captured)
    }

    fn restore(&mut self, from: &Restored<'_>) -> Result<(), TaskError> {
        if !from.extra.is_empty() {
            self.watermarks.restore(&from.extra)?;
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
