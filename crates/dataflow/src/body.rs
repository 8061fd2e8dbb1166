//! What a task does, whoever runs it.

use std::sync::Arc;

use chandy_lamport::{Channel, SnapshotId, View};
use serde::Serialize;

use crate::{Message, TaskError, Time};

/// The operators of a task, fused.
pub trait Body: Send {
    /// A message of one of the inputs.
    ///
    /// # Errors
    ///
    /// Whatever stops the task.
    fn message(
        &mut self,
        input: Channel,
        message: Message,
        out: &mut Emitter,
    ) -> Result<(), TaskError>;

    /// Of a source: emits its next records.
    ///
    /// # Errors
    ///
    /// Whatever stops the task.
    fn poll(&mut self, _out: &mut Emitter) -> Result<Poll, TaskError> {
        Ok(Poll::Ended)
    }

    /// Of a source: how many records the last poll emitted.
    fn polled(&self) -> usize {
        0
    }

    /// Of a source: emits so many records as one batch, as another replica has; they are there.
    ///
    /// # Errors
    ///
    /// Whatever stops the task.
    fn poll_again(&mut self, _count: usize, _out: &mut Emitter) -> Result<Poll, TaskError> {
        Ok(Poll::Ended)
    }

    /// Nothing more comes from this input.
    ///
    /// # Errors
    ///
    /// Whatever stops the task.
    fn ended(&mut self, input: Channel, out: &mut Emitter) -> Result<(), TaskError>;

    /// What there is to keep, as it is now. Must be quick.
    ///
    /// # Errors
    ///
    /// A sink that cannot prepare what it has.
    fn capture(&mut self, id: SnapshotId) -> Result<Captured, TaskError>;

    /// Goes on from a snapshot's parts.
    ///
    /// # Errors
    ///
    /// A snapshot of another job, or a sink that cannot commit.
    fn restore(&mut self, from: &Restored<'_>) -> Result<(), TaskError>;

    /// The snapshot is complete: sinks commit what they prepared up to it.
    ///
    /// # Errors
    ///
    /// A sink that cannot commit.
    fn completed(&mut self, id: SnapshotId) -> Result<(), TaskError>;

    /// Everything has ended, and nothing will fail any more: sinks commit the rest.
    ///
    /// # Errors
    ///
    /// A sink that cannot commit.
    fn finish(&mut self) -> Result<(), TaskError>;
}

/// Whether a source has more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// It emitted something.
    Emitted,
    /// Not now, perhaps later.
    Idle,
    /// Never.
    Ended,
}

/// Messages that a task sends, by output.
#[derive(Debug, Default)]
pub struct Emitter {
    pub(crate) sends: Vec<(Channel, Message)>,
    /// Batches go out even when they are empty, so that a receiver can take its inputs in turn.
    pub(crate) keep_empty: bool,
}

impl Emitter {
    /// Sends a message.
    pub fn send(&mut self, to: Channel, message: Message) {
        self.sends.push((to, message));
    }

    /// What was sent, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = (Channel, Message)> + use<'_> {
        self.sends.drain(..)
    }
}

/// What a task keeps in a snapshot.
#[derive(Debug, Default)]
pub struct Captured {
    /// Where its source goes on.
    pub cursor: Vec<u8>,
    /// What its sink has prepared.
    pub transactions: Vec<u8>,
    /// Its keyed state, to be written when there is time.
    pub state: Option<Arc<dyn Saved>>,
    /// Small state beside that: watermarks.
    pub extra: Vec<u8>,
}

/// Keyed state as it was at a snapshot.
pub trait Saved: Send + Sync + std::fmt::Debug {
    /// Its number, for increments.
    fn epoch(&self) -> u32;
    /// All of it.
    fn whole(&self) -> Vec<u8>;
    /// What changed since the one of this number.
    fn since(&self, epoch: u32) -> Vec<u8>;
    /// How many keys.
    fn keys(&self) -> usize;
}

impl<K, V> Saved for View<K, V>
where
    K: Serialize + Send + Sync + std::fmt::Debug,
    V: Serialize + Send + Sync + std::fmt::Debug,
{
    fn epoch(&self) -> u32 {
        View::epoch(self)
    }

    fn whole(&self) -> Vec<u8> {
        View::whole(self)
    }

    fn since(&self, epoch: u32) -> Vec<u8> {
        View::since(self, epoch)
    }

    fn keys(&self) -> usize {
        self.len()
    }
}

/// What a task goes on from.
#[derive(Clone, Debug, Default)]
pub struct Restored<'a> {
    /// Where its sources go on.
    pub cursors: Vec<&'a [u8]>,
    /// What its sink must commit.
    pub commit: Vec<&'a [u8]>,
    /// Files of keyed state, bases before their increments.
    pub state: Vec<Vec<u8>>,
    /// Small state of all tasks whose keys this one has some of.
    pub extra: Vec<u8>,
    /// Whoever runs the task commits: sinks leave their outputs alone.
    pub detached: bool,
}

/// The place of a task, for whoever makes its body.
#[derive(Clone, Debug)]
pub struct Place {
    /// Which of its operator's tasks it is.
    pub subtask: u32,
    /// How many there are.
    pub tasks: u32,
    /// How many inputs it has.
    pub inputs: usize,
    /// Its key groups.
    pub groups: std::ops::Range<u32>,
    /// How many the job has.
    pub key_groups: chandy_lamport::KeyGroups,
}

/// The watermark of several inputs: the least of theirs.
#[derive(Clone, Debug)]
pub(crate) struct Watermarks {
    inputs: Vec<Time>,
    least: Time,
}

impl Watermarks {
    pub(crate) fn new(inputs: usize) -> Self {
        Self {
            inputs: vec![0; inputs],
            least: 0,
        }
    }

    /// The new watermark, if it has moved.
    pub(crate) fn advance(&mut self, input: Channel, time: Time) -> Option<Time> {
        let slot = self.inputs.get_mut(input)?;
        *slot = (*slot).max(time);
        let least = self.inputs.iter().copied().min()?;
        (least > self.least).then(|| {
            self.least = least;
            least
        })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.least.to_le_bytes().to_vec()
    }

    /// All inputs have come as far as the slowest of some other tasks had.
    pub(crate) fn restore(&mut self, bytes: &[u8]) -> Result<(), TaskError> {
        let (times, rest) = bytes.as_chunks();
        if !rest.is_empty() {
            return Err(TaskError::Snapshot);
        }
        let least = times.iter().map(|time| Time::from_le_bytes(*time)).min();
        self.least = least.unwrap_or(0);
        self.inputs.fill(self.least);
        Ok(())
    }
}
