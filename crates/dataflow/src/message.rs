//! What goes from task to task: batches of records whose type the channel's two ends know, and watermarks.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{TaskError, Time};

/// A record: it can be sent to a thread, and written down with a snapshot.
pub trait Record: Clone + Send + Sync + Serialize + DeserializeOwned + 'static {}

impl<T: Clone + Send + Sync + Serialize + DeserializeOwned + 'static> Record for T {}

/// One message of a channel.
#[derive(Clone)]
pub enum Message {
    /// Records.
    Batch(Arc<dyn Batch>),
    /// No record of an earlier event time follows on this channel.
    Watermark(Time),
}

/// Records of some type.
pub trait Batch: Send + Sync {
    /// How many.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Their bytes, for a snapshot.
    fn to_bytes(&self) -> Vec<u8>;
    /// The vector of records.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<T: Record> Batch for Vec<T> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn to_bytes(&self) -> Vec<u8> {
        to_bytes(self)
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl Message {
    /// A batch of these.
    #[must_use]
    pub fn of<T: Record>(records: Vec<T>) -> Self {
        Self::Batch(Arc::new(records))
    }

    /// Its bytes: a watermark as `0` and its time, records as `1` and themselves.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Watermark(time) => [&[0][..], &time.to_le_bytes()].concat(),
            Self::Batch(batch) => [&[1][..], &batch.to_bytes()].concat(),
        }
    }

    /// From its bytes, where the channel has records of this type.
    ///
    /// # Errors
    ///
    /// Bytes of something else.
    pub fn from_bytes<T: Record>(bytes: &[u8]) -> Result<Self, TaskError> {
        match bytes.split_first() {
            Some((0, time)) => {
                let time = time.try_into().map_err(|_| TaskError::Snapshot)?;
                Ok(Self::Watermark(Time::from_le_bytes(time)))
            }
            Some((1, records)) => Ok(Self::of::<T>(from_bytes(records)?)),
            _ => Err(TaskError::Snapshot),
        }
    }
}

/// The records, without a copy where nobody else has them.
pub(crate) fn records<T: Record>(batch: Arc<dyn Batch>) -> Result<Vec<T>, TaskError> {
    let records = batch.into_any().downcast::<Vec<T>>();
    let records = records.map_err(|_| TaskError::Type)?;
    Ok(Arc::try_unwrap(records).unwrap_or_else(|shared| shared.to_vec()))
}

pub(crate) fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("a type that serde can write without names")
}

pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, TaskError> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|_| TaskError::Snapshot)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(TaskError::Snapshot)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(batch) => write!(f, "{} records", batch.len()),
            Self::Watermark(time) => write!(f, "watermark {time}"),
        }
    }
}
