//! A disk that takes its time, and forgets on a crash what it has not confirmed.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::rng::Rng;
use crate::{Boot, Entry, Position, Ticket, Write};

/// What is on the platter, and what is on its way there.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) image: Boot,
    queue: VecDeque<Write>,
}

impl Disk {
    pub(crate) fn new(image: Boot) -> Self {
        Self {
            image,
            queue: VecDeque::new(),
        }
    }

    pub(crate) fn write(&mut self, write: Write) {
        self.queue.push_back(write);
    }

    /// Everything up to `ticket` reaches the platter.
    pub(crate) fn store(&mut self, ticket: Ticket) {
        while self
            .queue
            .front()
            .is_some_and(|write| write.ticket <= ticket)
        {
            self.store_next();
        }
    }

    fn store_next(&mut self) {
        let Some(write) = self.queue.pop_front() else {
            return;
        };
        if let Some(hard) = write.hard_state {
            self.image.hard_state = hard;
        }
        if write.discard_log {
            self.image.entries.clear();
        }
        if let Some(snapshot) = write.snapshot {
            let covered = snapshot.last().index;
            self.image.entries.retain(|entry| entry.at.index > covered);
            self.image.applied = covered;
            self.image.snapshot = snapshot;
        }
        if let Some(first) = write.entries.first() {
            let first = first.at.index;
            self.image.entries.retain(|entry| entry.at.index < first);
        }
        let covered = self.image.snapshot.last().index;
        let kept = write
            .entries
            .into_iter()
            .filter(|entry| entry.at.index > covered);
        self.image.entries.extend(kept);
    }

    /// Of the writes on their way, any number may have arrived.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        let waiting = u64::try_from(self.queue.len()).unwrap_or(u64::MAX);
        for _ in 0..rng.below(waiting.saturating_add(1)) {
            self.store_next();
        }
        self.queue.clear();
    }

    /// An entry rots. Recovery keeps what comes before it and remembers how far the log once went.
    pub(crate) fn rot(&mut self, rng: &mut Rng) -> bool {
        let entries = &mut self.image.entries;
        let Some(last) = entries.last().map(|entry| entry.at) else {
            return false;
        };
        let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        entries.truncate(usize::try_from(rng.below(count)).unwrap_or(0));
        let floor = &mut self.image.hard_state.floor;
        *floor = last.max(*floor);
        true
    }

    /// Whether it has lost entries that it has not got back.
    pub(crate) fn has_lost(&self) -> bool {
        self.last() < self.image.hard_state.floor
    }

    pub(crate) fn last(&self) -> Position {
        let entries: &Vec<Entry> = &self.image.entries;
        entries
            .last()
            .map_or_else(|| self.image.snapshot.last(), |entry| entry.at)
    }

    /// Whether it holds the entry, or held it and counts it in every vote.
    pub(crate) fn vouches_for(&self, at: Position) -> bool {
        let found = self
            .image
            .entries
            .iter()
            .rev()
            .find(|entry| entry.at.index == at.index);
        match found {
            Some(entry) => entry.at.term == at.term,
            None => {
                at.index <= self.image.snapshot.last().index || at <= self.image.hard_state.floor
            }
        }
    }
}
