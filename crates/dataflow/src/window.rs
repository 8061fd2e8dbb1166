//! Windows of event time.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::sync::Arc;

use chandy_lamport::SnapshotId;

use crate::body::{Captured, Emitter, Restored};
use crate::keyed::Backed;
use crate::push::Push;
use crate::{Record, TaskError, Time};

/// Which windows there are: each so long, and one beginning at every multiple of the slide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Windows {
    size: Time,
    slide: Time,
}

impl Windows {
    /// Windows that follow each other.
    ///
    /// # Panics
    ///
    /// If `size` is 0.
    #[must_use]
    pub fn tumbling(size: Time) -> Self {
        Self::sliding(size, size)
    }

    /// Windows that overlap, or leave gaps.
    ///
    /// # Panics
    ///
    /// If one of the two is 0, or a time lies in more than 1,000 windows.
    #[must_use]
    pub fn sliding(size: Time, slide: Time) -> Self {
        assert!(size > 0 && slide > 0, "windows of {size} each {slide}");
        assert!(
            size / slide <= OVERLAP_MAX,
            "{size} is too long for a slide of {slide}"
        );
        Self { size, slide }
    }

    /// The beginnings of the windows that a time lies in, the last first.
    pub fn of(self, time: Time) -> impl Iterator<Item = Time> {
        let last = time - time % self.slide;
        let all = std::iter::successors(Some(last), move |start| start.checked_sub(self.slide));
        all.take_while(move |start| time - start < self.size)
    }

    /// The end of the window that begins there: the first time after it.
    #[must_use]
    pub fn end(self, start: Time) -> Time {
        start.saturating_add(self.size)
    }
}

/// Adds a record to what a window has.
pub(crate) type Add<A, T> = Arc<dyn Fn(&mut A, T) + Send + Sync>;

/// How a window's records become one value.
pub(crate) struct Aggregate<T, A> {
    pub(crate) time: Arc<dyn Fn(&T) -> Time + Send + Sync>,
    pub(crate) first: Arc<dyn Fn() -> A + Send + Sync>,
    pub(crate) add: Add<A, T>,
}

/// Aggregates by key and window, and emits each when the watermark passes its end. What comes later is left out.
pub(crate) struct Windowed<G, K, T, A> {
    pub(crate) key: G,
    pub(crate) windows: Windows,
    pub(crate) aggregate: Aggregate<T, A>,
    pub(crate) backed: Backed<K, Vec<(Time, A)>>,
    /// Keys by the ends of their windows. Made again from the state at a restore.
    pub(crate) due: BTreeMap<Time, BTreeSet<K>>,
    pub(crate) watermark: Time,
    pub(crate) next: Box<dyn Push<(K, Time, A)>>,
}

impl<G, K, T, A> Windowed<G, K, T, A>
where
    G: Fn(&T) -> K + Send,
    K: Record + Hash + Ord + std::fmt::Debug,
    T: Record,
    A: Record + std::fmt::Debug,
{
    fn add(&mut self, record: &T) {
        let time = (self.aggregate.time)(record);
        let key = (self.key)(record);
        for start in self.windows.of(time) {
            let end = self.windows.end(start);
            if end <= self.watermark {
                continue;
            }
            let Aggregate { first, add, .. } = &self.aggregate;
            let new = self.backed.state.change(&key, Vec::new, |open| {
                let at = open.iter().position(|(other, _)| *other == start);
                let place = at.unwrap_or(open.len());
                if at.is_none() {
                    open.push((start, first()));
                }
                add(&mut open[place].1, record.clone());
                at.is_none()
            });
            if new {
                self.due.entry(end).or_default().insert(key.clone());
            }
        }
    }

    /// What ends at or before the watermark, by end and key.
    fn close(&mut self) -> Vec<(K, Time, A)> {
        let mut closed = Vec::new();
        while let Some(entry) = self.due.first_entry() {
            if *entry.key() > self.watermark {
                break;
            }
            let (end, keys) = entry.remove_entry();
            for key in keys {
                let windows = self.windows;
                let empty = self.backed.state.change(&key, Vec::new, |open| {
                    let at = open
                        .iter()
                        .position(|(start, _)| windows.end(*start) == end);
                    if let Some(at) = at {
                        let (start, value) = open.remove(at);
                        closed.push((key.clone(), start, value));
                    }
                    open.is_empty()
                });
                if empty {
                    self.backed.state.remove(&key);
                }
            }
        }
        closed
    }
}

impl<G, K, T, A> Push<T> for Windowed<G, K, T, A>
where
    G: Fn(&T) -> K + Send,
    K: Record + Hash + Ord + std::fmt::Debug,
    T: Record,
    A: Record + std::fmt::Debug,
{
    fn batch(&mut self, records: Vec<T>, _out: &mut Emitter) -> Result<(), TaskError> {
        for record in &records {
            self.add(record);
        }
        Ok(())
    }

    fn watermark(&mut self, time: Time, out: &mut Emitter) -> Result<(), TaskError> {
        self.watermark = self.watermark.max(time);
        let closed = self.close();
        if !closed.is_empty() {
            self.next.batch(closed, out)?;
        }
        self.next.watermark(time, out)
    }

    fn capture(&mut self, id: SnapshotId, into: &mut Captured) -> Result<(), TaskError> {
        self.backed.capture(id, into);
        self.next.capture(id, into)
    }

    fn restore(&mut self, from: &Restored<'_>) -> Result<(), TaskError> {
        self.backed.restore(from)?;
        for (key, open) in self.backed.state.iter() {
            for (start, _) in open {
                let end = self.windows.end(*start);
                self.due.entry(end).or_default().insert(key.clone());
            }
        }
        let (times, _) = from.extra.as_chunks();
        let least = times.iter().map(|time| Time::from_le_bytes(*time)).min();
        self.watermark = least.unwrap_or(0);
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

const OVERLAP_MAX: Time = 1_000;
