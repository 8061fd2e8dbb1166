//! The log in memory: entries since the last compaction, how far the disk has followed, and the memberships in force.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use crate::{Entries, Entry, Index, Membership, Payload, Position, Snapshot, Term, Ticket};

/// The log of one server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log {
    /// The place before the first entry kept.
    base: Position,
    entries: VecDeque<Entry>,
    snapshot: Snapshot,
    /// Up to here the disk holds what memory holds.
    durable: Index,
    /// Writes not yet confirmed, and how far each will bring the disk.
    writing: VecDeque<(Ticket, Index)>,
    /// Memberships and where they begin; the first is in force at `base`.
    memberships: VecDeque<(Index, Arc<Membership>)>,
}

impl Log {
    /// A log that starts after `snapshot` and is all on disk.
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self {
            base: snapshot.last(),
            entries: VecDeque::new(),
            durable: snapshot.last().index,
            writing: VecDeque::new(),
            memberships: VecDeque::from([(snapshot.last().index, snapshot.membership().clone())]),
            snapshot,
        }
    }

    /// The position of the last entry.
    pub fn last(&self) -> Position {
        self.entries.back().map_or(self.base, |entry| entry.at)
    }

    /// The position before the first entry kept.
    pub fn base(&self) -> Position {
        self.base
    }

    /// Up to here everything is on disk.
    pub fn durable(&self) -> Index {
        self.durable
    }

    /// The latest snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The term of the entry at `index`, if that is known.
    pub fn term(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.entry(index).map(|entry| entry.at.term)
    }

    /// The entry at `index`, if it is kept.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        let place = index.checked_sub(self.base.index)?.checked_sub(1)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    /// Whether this log has the entry at `at`.
    pub fn has(&self, at: Position) -> bool {
        self.term(at.index) == Some(at.term)
    }

    /// Entries from `first` to `last`, as many as fit into `bytes` and at least one; none if `first` is not kept.
    pub fn slice(&self, first: Index, last: Index, bytes: u64) -> Entries {
        let mut left = bytes;
        let fits = |entry: &&Entry| {
            let fits = entry.at.index == first || entry.size() <= left;
            left = left.saturating_sub(entry.size());
            fits
        };
        let start = first.checked_sub(self.base.index + 1);
        let start = start.and_then(|place| usize::try_from(place).ok());
        let start = start.map_or(self.entries.len(), |place| place.min(self.entries.len()));
        let kept = self.entries.range(start..);
        kept.take_while(|entry| entry.at.index <= last)
            .take_while(fits)
            .cloned()
            .collect()
    }

    /// The last place no later than `index` whose term is at most `term`: below it the logs may agree (section 5.3).
    pub(crate) fn agree_before(&self, index: Index, term: Term) -> Position {
        let mut at = index.min(self.last().index);
        while let Some(known) = self.term(at).filter(|_| at > self.base.index) {
            if known <= term {
                return Position {
                    term: known,
                    index: at,
                };
            }
            at -= 1;
        }
        self.base
    }

    /// The membership in force at the end.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.latest_membership().1
    }

    /// Where that one begins.
    pub(crate) fn membership_index(&self) -> Index {
        self.latest_membership().0
    }

    /// The membership in force at `index`.
    pub fn membership_at(&self, index: Index) -> &Arc<Membership> {
        self.membership_from(index).1
    }

    /// The same, and the index of the entry that brought it.
    pub(crate) fn membership_from(&self, index: Index) -> (Index, &Arc<Membership>) {
        let mut before = self.memberships.iter().rev();
        let found = before.find(|(from, _)| *from <= index);
        let (from, membership) = found.unwrap_or_else(|| self.latest_membership());
        (*from, membership)
    }

    fn latest_membership(&self) -> &(Index, Arc<Membership>) {
        self.memberships.back().expect("the one at the base stays")
    }

    /// Adds one entry at the end.
    pub(crate) fn push(&mut self, entry: Entry) {
        assert_eq!(
            entry.at.index,
            self.last().index + 1,
            "entries follow without a gap"
        );
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships
                .push_back((entry.at.index, membership.clone()));
        }
        self.entries.push_back(entry);
    }

    /// Drops everything after `last`; writes under way no longer say anything about it.
    pub(crate) fn truncate(&mut self, last: Index) {
        let keep = last.saturating_sub(self.base.index);
        self.entries
            .truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        while self.memberships.len() > 1 && self.membership_index() > last {
            self.memberships.pop_back();
        }
        self.durable = self.durable.min(last);
        for (_, reaches) in &mut self.writing {
            *reaches = last.min(*reaches);
        }
    }

    /// Forgets entries that `snapshot` covers, except the last `keep`.
    pub(crate) fn compact(&mut self, snapshot: Snapshot, keep: u64) {
        let upto = snapshot.last().index.saturating_sub(keep);
        while let Some(entry) = self.entries.front().filter(|entry| entry.at.index <= upto) {
            self.base = entry.at;
            self.entries.pop_front();
        }
        while self
            .memberships
            .get(1)
            .is_some_and(|(from, _)| *from <= self.base.index)
        {
            self.memberships.pop_front();
        }
        self.snapshot = snapshot;
    }

    /// Starts over from a snapshot that is not yet on disk.
    pub(crate) fn reset(&mut self, snapshot: Snapshot) {
        let writing = core::mem::take(&mut self.writing);
        *self = Self::new(snapshot);
        self.durable = 0;
        self.writing = writing.into_iter().map(|(ticket, _)| (ticket, 0)).collect();
    }

    /// The entries came from the disk.
    pub(crate) fn loaded(&mut self) {
        self.durable = self.last().index;
    }

    /// Everything in memory will be on disk once `ticket` is confirmed.
    pub(crate) fn writes(&mut self, ticket: Ticket) {
        self.writing.push_back((ticket, self.last().index));
    }

    /// Counts tickets from `stored` on, which is on disk.
    #[cfg(feature = "model")]
    pub(crate) fn forget_tickets(&mut self, stored: Ticket) {
        for (ticket, _) in &mut self.writing {
            *ticket -= stored;
        }
    }

    /// Everything up to `ticket` is on disk.
    pub(crate) fn stored(&mut self, ticket: Ticket) {
        while let Some((_, reaches)) = self.writing.front().filter(|(of, _)| *of <= ticket) {
            self.durable = self.durable.max(*reaches);
            self.writing.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: Term, index: Index) -> Entry {
        Entry {
            at: Position { term, index },
            payload: Payload::Command(Arc::from([0; 8])),
        }
    }

    fn log(terms: &[Term]) -> Log {
        let mut log = Log::new(Snapshot::new(
            Position::default(),
            Arc::default(),
            Arc::from([]),
        ));
        for (term, index) in terms.iter().zip(1..) {
            log.push(entry(*term, index));
        }
        log
    }

    #[test]
    fn a_write_confirmed_after_its_entries_were_replaced_says_nothing() {
        let mut log = log(&[1, 1, 1, 1]);
        log.writes(1);
        log.truncate(2);
        log.push(entry(2, 3));
        log.push(entry(2, 4));
        log.writes(2);
        log.stored(1);
        assert_eq!(log.durable(), 2);
        log.stored(2);
        assert_eq!(log.durable(), 4);
    }

    #[test]
    fn a_slice_holds_one_entry_however_large() {
        let log = log(&[1, 1, 1, 1]);
        assert_eq!(log.slice(2, 4, 0).len(), 1);
        assert_eq!(log.slice(2, 4, 64).len(), 2);
        assert_eq!(log.slice(2, 4, u64::MAX).len(), 3);
        assert!(log.slice(5, 9, u64::MAX).is_empty());
        assert!(log.slice(0, 9, u64::MAX).is_empty());
    }

    #[test]
    fn logs_may_agree_no_later_than_the_term_allows() {
        let log = log(&[1, 1, 3, 3, 5]);
        let agree = |index, term| log.agree_before(index, term).index;
        assert_eq!(agree(5, 4), 4);
        assert_eq!(agree(5, 2), 2);
        assert_eq!(agree(9, 9), 5);
        assert_eq!(agree(5, 0), 0);
    }

    #[test]
    fn a_membership_goes_with_its_entry() {
        let mut log = log(&[1]);
        let at = Position { term: 1, index: 2 };
        let membership = Arc::new(Membership::of([7]));
        log.push(Entry {
            at,
            payload: Payload::Membership(membership.clone()),
        });
        assert_eq!(log.membership(), &membership);
        assert_eq!(log.membership_at(1), &Arc::default());
        log.truncate(1);
        assert_eq!(log.membership(), &Arc::default());
    }
}
