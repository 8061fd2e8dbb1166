//! The end of a task: where its records go.

use std::hash::Hash;
use std::sync::Arc;

use chandy_lamport::{Channel, KeyGroups, SnapshotId, stable_hash};

use crate::body::{Captured, Emitter, Restored};
use crate::push::Push;
use crate::{Message, Record, TaskError, Time};

/// Adds the hashes of all these records' keys: one call for a batch.
pub(crate) type HashAll<T> = Arc<dyn Fn(&[T], &mut Vec<u64>) + Send + Sync>;

/// Hashes by this key.
pub(crate) fn hash_all<T, K: Hash>(key: impl Fn(&T) -> K + Send + Sync + 'static) -> HashAll<T> {
    Arc::new(move |records, hashes| {
        hashes.extend(records.iter().map(|record| stable_hash(&key(record))));
    })
}

/// How records are spread over the tasks of the next operator.
pub(crate) enum Spread<T> {
    /// To the task of the same number.
    Forward,
    /// In turn, a batch each.
    Rebalance,
    /// By the key's group.
    Hash(HashAll<T>),
}

impl<T> Clone for Spread<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Forward => Self::Forward,
            Self::Rebalance => Self::Rebalance,
            Self::Hash(hash) => Self::Hash(hash.clone()),
        }
    }
}

/// Sends records to the tasks of the operators after this one.
pub(crate) struct Router<T> {
    pub(crate) edges: Vec<Edge<T>>,
}

/// One operator after this one.
pub(crate) struct Edge<T> {
    spread: Spread<T>,
    /// The first of its channels, which are in a row.
    first: Channel,
    /// How many there are.
    tasks: u32,
    groups: KeyGroups,
    /// Of those in turn: the next.
    turn: usize,
    /// The channel of each key group, from `first`.
    owners: Vec<u32>,
    hashes: Vec<u64>,
}

impl<T: Record> Edge<T> {
    pub(crate) fn new(
        spread: Spread<T>,
        (first, tasks): (Channel, u32),
        groups: KeyGroups,
        turn: usize,
    ) -> Self {
        let owners = match spread {
            Spread::Hash(_) => (0..groups.count())
                .map(|group| groups.owner(group, tasks))
                .collect(),
            _ => Vec::new(),
        };
        Self {
            spread,
            first,
            tasks,
            groups,
            turn,
            owners,
            hashes: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, records: Vec<T>, out: &mut Emitter) {
        let channels = usize::try_from(self.tasks).unwrap_or(usize::MAX);
        match &self.spread {
            Spread::Forward => self.put(0, records, out),
            Spread::Rebalance => {
                let to = self.turn % channels;
                self.turn = self.turn.wrapping_add(1);
                for other in (0..channels).filter(|other| *other != to) {
                    self.put(other, Vec::new(), out);
                }
                self.put(to, records, out);
            }
            Spread::Hash(_) if channels == 1 => self.put(0, records, out),
            Spread::Hash(hash) => {
                let expected = records.len() / channels + records.len() / 8;
                let mut buckets: Vec<Vec<T>> = Vec::with_capacity(channels);
                buckets.resize_with(channels, || Vec::with_capacity(expected));
                self.hashes.clear();
                hash(&records, &mut self.hashes);
                for (record, hash) in records.into_iter().zip(&self.hashes) {
                    let group = usize::try_from(self.groups.of_hash(*hash)).unwrap_or(0);
                    let owner = self.owners.get(group).copied().unwrap_or(0);
                    buckets[usize::try_from(owner).unwrap_or(0)].push(record);
                }
                for (to, bucket) in buckets.into_iter().enumerate() {
                    self.put(to, bucket, out);
                }
            }
        }
    }

    fn put(&self, to: Channel, records: Vec<T>, out: &mut Emitter) {
        if !records.is_empty() || out.keep_empty {
            out.send(self.first + to, Message::of(records));
        }
    }

    fn channels(&self) -> std::ops::Range<Channel> {
        self.first..self.first + usize::try_from(self.tasks).unwrap_or(0)
    }
}

impl<T: Record> Push<T> for Router<T> {
    fn batch(&mut self, records: Vec<T>, out: &mut Emitter) -> Result<(), TaskError> {
        let Some((last, others)) = self.edges.split_last_mut() else {
            return Ok(());
        };
        for edge in others {
            edge.send(records.clone(), out);
        }
        last.send(records, out);
        Ok(())
    }

    fn watermark(&mut self, time: Time, out: &mut Emitter) -> Result<(), TaskError> {
        for to in self.edges.iter().flat_map(Edge::channels) {
            out.send(to, Message::Watermark(time));
        }
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
