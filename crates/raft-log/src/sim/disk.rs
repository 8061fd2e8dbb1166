//! A disk that takes its time, and forgets on a crash what it has not confirmed.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::bytes::Bytes;
use crate::rng::Rng;
use crate::wal::Recovery;
use crate::{Boot, Entry, Position, Ticket, Write};

/// What is on the platter, and what is on its way there.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) image: Boot,
    queue: VecDeque<Write>,
    /// The bytes behind the image, if there are any.
    bytes: Option<Bytes>,
    /// What recovery got wrong.
    pub(crate) broken: Option<String>,
}

impl Disk {
    pub(crate) fn new(image: Boot, seed: Option<u64>) -> Self {
        Self {
            bytes: seed.map(|seed| Bytes::new(&image, seed)),
            image,
            queue: VecDeque::new(),
            broken: None,
        }
    }

    pub(crate) fn write(&mut self, write: Write) {
        self.queue.push_back(write);
    }

    /// Everything up to `ticket` reaches the platter.
    pub(crate) fn store(&mut self, ticket: Ticket) {
        let later = self.queue.iter().position(|write| write.ticket > ticket);
        self.store_first(later.unwrap_or(self.queue.len()));
    }

    fn store_first(&mut self, count: usize) {
        let writes: Vec<_> = self.queue.drain(..count).collect();
        if let Some(bytes) = &mut self.bytes
            && !writes.is_empty()
        {
            bytes.store(&writes);
        }
        for write in writes {
            self.put(write);
        }
    }

    fn put(&mut self, write: Write) {
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
        let arrived = rng.below(waiting.saturating_add(1));
        self.store_first(usize::try_from(arrived).unwrap_or(0));
        let waiting: Vec<_> = self.queue.drain(..).collect();
        if let Some(bytes) = &mut self.bytes {
            let found = bytes.crash(&waiting);
            let before = self.image.clone();
            waiting.into_iter().for_each(|write| self.put(write));
            // A crash takes nothing that was acknowledged; what had been lost before may still be missing.
            self.recovered(found, |after, found| {
                let had_lost = |image: &Boot| last(image) < image.hard_state.floor;
                (says(&before, &found.boot) && (found.is_whole() || had_lost(&before)))
                    || (says(after, &found.boot) && (found.is_whole() || had_lost(after)))
            });
        }
    }

    /// An entry rots. Recovery keeps what comes before it and remembers how far the log once went.
    pub(crate) fn rot(&mut self, rng: &mut Rng) -> bool {
        let entries = &mut self.image.entries;
        let Some(last) = entries.last().map(|entry| entry.at) else {
            return false;
        };
        let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        let place = usize::try_from(rng.below(count)).unwrap_or(0);
        if let Some(bytes) = &mut self.bytes {
            let found = bytes.rot(entries[place].at);
            self.recovered(found, |image, found| {
                let floor = found.boot.hard_state.floor;
                found.is_whole() && says(image, &found.boot)
                    || image.entries.starts_with(&found.boot.entries) && floor >= last
            });
            return true;
        }
        entries.truncate(place);
        let floor = &mut self.image.hard_state.floor;
        *floor = last.max(*floor);
        true
    }

    /// Takes what recovery found for what is on the platter.
    fn recovered(
        &mut self,
        found: Result<Recovery, String>,
        is_right: impl Fn(&Boot, &Recovery) -> bool,
    ) {
        match found {
            Ok(found) => {
                if !is_right(&self.image, &found) {
                    let (wrong, right) = (summary(&found.boot), summary(&self.image));
                    let wrong = format!("{wrong} for {right}: {:?}", found.damage);
                    self.broken.get_or_insert(wrong);
                }
                self.image = found.boot;
            }
            Err(error) => {
                self.broken.get_or_insert(error);
            }
        }
    }

    /// Whether it has lost entries that it has not got back.
    pub(crate) fn has_lost(&self) -> bool {
        self.last() < self.image.hard_state.floor
    }

    pub(crate) fn last(&self) -> Position {
        last(&self.image)
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

fn last(image: &Boot) -> Position {
    let entries: &Vec<Entry> = &image.entries;
    entries
        .last()
        .map_or_else(|| image.snapshot.last(), |entry| entry.at)
}

/// The floor aside, which recovery may raise.
fn says(one: &Boot, other: &Boot) -> bool {
    let vote = |boot: &Boot| (boot.hard_state.term, boot.hard_state.voted_for);
    vote(one) == vote(other) && one.snapshot == other.snapshot && one.entries == other.entries
}

fn summary(image: &Boot) -> String {
    let entries: Vec<_> = image.entries.iter().map(|entry| entry.at).collect();
    let snapshot = image.snapshot.last();
    format!("{:?} {snapshot:?} {entries:?}", image.hard_state)
}
