//! Operators with a state for each key.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::Arc;

use chandy_lamport::{Keyed, SnapshotId, stable_hash};

use crate::body::{Captured, Emitter, Place, Restored};
use crate::push::Push;
use crate::{Record, TaskError, Time};

/// Keyed state and the numbers of its snapshots.
pub(crate) struct Backed<K, V> {
    pub(crate) state: Keyed<K, V>,
    epochs: BTreeMap<SnapshotId, u32>,
}

impl<K, V> Backed<K, V>
where
    K: Record + Hash + Eq + std::fmt::Debug,
    V: Record + std::fmt::Debug,
{
    pub(crate) fn new(place: &Place) -> Self {
        Self {
            state: Keyed::new(place.key_groups, place.groups.clone()),
            epochs: BTreeMap::new(),
        }
    }

    pub(crate) fn capture(&mut self, id: SnapshotId, into: &mut Captured) {
        let view = self.state.snapshot();
        self.epochs.insert(id, view.epoch());
        into.state = Some(Arc::new(view));
    }

    pub(crate) fn restore(&mut self, from: &Restored<'_>) -> Result<(), TaskError> {
        for file in &from.state {
            self.state.load(file).map_err(|_| TaskError::Snapshot)?;
        }
        Ok(())
    }

    pub(crate) fn completed(&mut self, id: SnapshotId) {
        if let Some(&epoch) = self.epochs.get(&id) {
            self.state.forget_removed(epoch);
        }
        self.epochs.retain(|other, _| *other > id);
    }
}

/// Changes the state of a record's key, and emits what comes of it.
pub(crate) struct Stateful<G, K, V, U, I, F> {
    pub(crate) key: G,
    pub(crate) backed: Backed<K, V>,
    pub(crate) first: I,
    pub(crate) change: F,
    pub(crate) next: Box<dyn Push<U>>,
}

impl<G, K, V, T, U, I, F> Push<T> for Stateful<G, K, V, U, I, F>
where
    G: Fn(&T) -> K + Send,
    K: Record + Hash + Eq + std::fmt::Debug,
    V: Record + std::fmt::Debug,
    T: Record,
    U: Record,
    I: Fn() -> V + Send,
    F: FnMut(&K, &mut V, T, &mut Vec<U>) + Send,
{
    fn batch(&mut self, records: Vec<T>, out: &mut Emitter) -> Result<(), TaskError> {
        let mut made = Vec::new();
        for record in records {
            let key = (self.key)(&record);
            let change = &mut self.change;
            self.backed
                .state
                .change_hashed(stable_hash(&key), &key, &self.first, |value| {
                    change(&key, value, record, &mut made);
                });
        }
        self.next.batch(made, out)
    }

    fn watermark(&mut self, time: Time, out: &mut Emitter) -> Result<(), TaskError> {
        self.next.watermark(time, out)
    }

    fn capture(&mut self, id: SnapshotId, into: &mut Captured) -> Result<(), TaskError> {
        self.backed.capture(id, into);
        self.next.capture(id, into)
    }

    fn restore(&mut self, from: &Restored<'_>) -> Result<(), TaskError> {
        self.backed.restore(from)?;
        self.next.restore(from)
    }

    fn completed(&mut self, id: SnapshotId) -> Result<(), TaskError> {
        self.backed.completed(id);
        self.next.completed(id)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.next.finish()
    }
}

/// As [`Stateful`], where records may go round again.
pub(crate) struct Looped<G, K, V, T, U, I, F> {
    pub(crate) key: G,
    pub(crate) backed: Backed<K, V>,
    pub(crate) first: I,
    pub(crate) change: F,
    pub(crate) again: crate::router::Edge<T>,
    pub(crate) next: Box<dyn Push<U>>,
}

impl<G, K, V, T, U, I, F> Push<T> for Looped<G, K, V, T, U, I, F>
where
    G: Fn(&T) -> K + Send,
    K: Record + Hash + Eq + std::fmt::Debug,
    V: Record + std::fmt::Debug,
    T: Record,
    U: Record,
    I: Fn() -> V + Send,
    F: FnMut(&K, &mut V, T, &mut Vec<T>, &mut Vec<U>) + Send,
{
    fn batch(&mut self, records: Vec<T>, out: &mut Emitter) -> Result<(), TaskError> {
        let (mut again, mut done) = (Vec::new(), Vec::new());
        for record in records {
            let key = (self.key)(&record);
            let change = &mut self.change;
            self.backed
                .state
                .change_hashed(stable_hash(&key), &key, &self.first, |value| {
                    change(&key, value, record, &mut again, &mut done);
                });
        }
        self.again.send(again, out);
        self.next.batch(done, out)
    }

    fn watermark(&mut self, time: Time, out: &mut Emitter) -> Result<(), TaskError> {
        self.next.watermark(time, out)
    }

    fn capture(&mut self, id: SnapshotId, into: &mut Captured) -> Result<(), TaskError> {
        self.backed.capture(id, into);
        self.next.capture(id, into)
    }

    fn restore(&mut self, from: &Restored<'_>) -> Result<(), TaskError> {
        self.backed.restore(from)?;
        self.next.restore(from)
    }

    fn completed(&mut self, id: SnapshotId) -> Result<(), TaskError> {
        self.backed.completed(id);
        self.next.completed(id)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.next.finish()
    }
}
