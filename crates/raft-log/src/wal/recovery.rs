//! What a disk still says: what is whole, what never counted, and what must come back from the others.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::header::Header;
use super::record::Record;
use super::segment::{Scanned, Segment, numbers};
use super::{Found, State, Storage, WalError};
use crate::{Boot, Entry, HardState, Index, Position, Snapshot, Term};

/// What was found, and what to start a server from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Gives to [`Raft::new`](crate::Raft::new). Its entries end before the first that is damaged; if anything is, its
    /// floor is where the log ended, so the leader sends the rest again and no vote forgets it. It is
    /// applied as far as the snapshot: a state machine that keeps its own state may say more.
    pub boot: Boot,
    /// Entries after the damage, from snapshot on; kept on the disk until the leader sends others. `None` is one that was
    /// acknowledged and is lost, as its term was.
    pub log: BTreeMap<Index, (Term, Option<Entry>)>,
    /// What was acknowledged and is lost.
    pub damage: Vec<Damage>,
    /// What was lost and has been replaced since: the log is whole again.
    pub healed: Vec<Damage>,
    /// Everything that was read, the oldest first.
    pub segments: Vec<Report>,
}

/// Something acknowledged that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Damage {
    /// A record cannot be read; its header says what it was.
    #[error("record {sequence} is corrupt (entry {} of term {})", at.index, at.term)]
    Corrupt {
        /// Which.
        sequence: u64,
        /// The entry, or the last of the snapshot.
        at: Position,
    },
    /// Records without a trace, from this one on.
    #[error("record {sequence} and perhaps more after it are lost")]
    Lost {
        /// The first of them.
        sequence: u64,
    },
    /// A record continues another log than this.
    #[error("record {sequence} does not follow the one before it")]
    Foreign {
        /// Which.
        sequence: u64,
    },
    /// There is no snapshot to start from, not even the first.
    #[error("there is no snapshot")]
    NoSnapshot,
    /// The log once went further.
    #[error("the log ends before entry {} of term {}", .0.index, .0.term)]
    Short(Position),
    /// Something was written in a segment in which nothing can be read.
    #[error("segment {0:x} cannot be read")]
    Segment(u64),
}

/// A segment as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its number: the name of its files.
    pub number: u64,
    /// Bytes of its file of records.
    pub bytes: u64,
    /// Its records.
    pub records: Vec<Found>,
}

/// What opening needs besides.
pub(super) struct Recovered {
    pub(super) recovery: Recovery,
    pub(super) last: Position,
    pub(super) sequence: u64,
    pub(super) previous: u64,
    /// Headers to write again, and what segments without a record are in the way.
    pub(super) repairs: Vec<Header>,
    pub(super) void: Vec<u64>,
}

impl Recovery {
    /// Reads a log and changes nothing.
    ///
    /// # Errors
    ///
    /// [`WalError::Empty`] if there is no log, [`WalError::Unreadable`] if nothing of it is left, and what the disk says.
    pub fn read(storage: &impl Storage) -> Result<Self, WalError> {
        Ok(recover(storage)?.recovery)
    }

    /// Whether nothing acknowledged is lost.
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty()
    }
}

pub(super) fn recover(storage: &impl Storage) -> Result<Recovered, WalError> {
    let mut replay = Replay::default();
    let mut unreadable = Vec::new();
    let mut segments = Vec::new();
    let mut void = Vec::new();
    let mut next_first = None;
    // Backwards: how many records a segment has is known from the one after it.
    for number in numbers(storage)?.into_iter().rev() {
        let segment = Segment::read(storage, number)?;
        if segment.first.is_none() {
            let last = next_first.is_none();
            if last && segment.was_used() {
                unreadable.push(Damage::Segment(number));
            } else {
                void.push(number);
            }
        }
        let records = segment.scan(next_first);
        next_first = segment.first.or(next_first);
        let bytes = u64::try_from(segment.log.len()).unwrap_or(u64::MAX);
        segments.push((number, bytes, records));
    }
    segments.reverse();
    let mut reports = Vec::new();
    for (number, bytes, records) in segments {
        let found = records.iter().map(|scanned| scanned.found).collect();
        reports.push(Report {
            number,
            bytes,
            records: found,
        });
        for scanned in records {
            replay.take(scanned);
        }
    }
    // A log is made by two commits, of which the first holds nothing.
    let counts = |found: &&Found| found.state != State::Torn;
    let records = reports.iter().flat_map(|report| &report.records);
    match (replay.any, records.filter(counts).count()) {
        (false, _) if !unreadable.is_empty() => Err(WalError::Unreadable),
        (false, _) | (true, 0..=1) => Err(WalError::Empty),
        (true, _) => Ok(replay.finish(reports, void, unreadable)),
    }
}

#[derive(Default)]
struct Replay {
    any: bool,
    hard_state: HardState,
    /// Where the log must end.
    end: Position,
    snapshot: Option<Snapshot>,
    log: BTreeMap<Index, (Term, Option<Entry>)>,
    damage: Vec<Damage>,
    /// Of the next record.
    sequence: Option<u64>,
    /// The last record's checksum, if it is known.
    previous: Option<u64>,
    repairs: Vec<Header>,
}

impl Replay {
    fn take(&mut self, scanned: Scanned) {
        let Found {
            sequence, state, ..
        } = scanned.found;
        if state == State::Torn {
            return;
        }
        if let Some(expected) = self.sequence
            && expected < sequence
        {
            self.lose(Damage::Lost { sequence: expected });
        }
        self.sequence = Some(sequence.saturating_add(1));
        let Some(header) = scanned.header else {
            self.lose(Damage::Lost { sequence });
            return;
        };
        if self
            .previous
            .is_some_and(|previous| previous != header.previous)
        {
            self.lose(Damage::Foreign { sequence });
        }
        self.any = true;
        self.previous = Some(header.checksum());
        self.hard_state = header.hard_state;
        self.end = header.last;
        if state == State::Repairable {
            self.repairs.push(header);
        }
        match scanned.record {
            Some(record) => self.run(record),
            None => self.corrupt(&header),
        }
    }

    fn run(&mut self, record: Record) {
        match record {
            Record::HardState => {}
            Record::Entry(entry) => {
                let Position { term, index } = entry.at;
                self.log.split_off(&index);
                self.log.insert(index, (term, Some(entry)));
            }
            Record::Snapshot { snapshot, instead } => {
                match snapshot.last().index.checked_add(1) {
                    Some(next) if !instead => self.log = self.log.split_off(&next),
                    _ => self.log.clear(),
                }
                self.snapshot = Some(snapshot);
            }
        }
    }

    fn corrupt(&mut self, header: &Header) {
        let damage = Damage::Corrupt {
            sequence: header.sequence,
            at: header.at,
        };
        if header.kind.is_entry() {
            let Position { term, index } = header.at;
            self.log.split_off(&index);
            self.log.insert(index, (term, None));
            self.damage.push(damage);
        } else if header.kind == super::Kind::Snapshot {
            // The one before it and the log still agree with it.
            self.damage.push(damage);
        } else {
            self.lose(damage);
        }
    }

    /// What was lost may have replaced any entry so far: none of them counts.
    fn lose(&mut self, damage: Damage) {
        let goes_on = matches!(damage, Damage::Lost { .. })
            && matches!(self.damage.last(), Some(Damage::Lost { .. }))
            && self.previous.is_none();
        if !goes_on {
            self.damage.push(damage);
        }
        self.previous = None;
        for (_, entry) in self.log.values_mut() {
            *entry = None;
        }
    }

    fn finish(
        mut self,
        segments: Vec<Report>,
        void: Vec<u64>,
        mut damage: Vec<Damage>,
    ) -> Recovered {
        let snapshot = self.snapshot.unwrap_or_else(|| {
            damage.push(Damage::NoSnapshot);
            Boot::joining().snapshot
        });
        let mut last = snapshot.last();
        let mut entries: Vec<Entry> = Vec::new();
        while let Some((_, Some(entry))) = last
            .index
            .checked_add(1)
            .and_then(|next| self.log.get(&next))
        {
            last = entry.at;
            entries.push(entry.clone());
        }
        let after = self.log.split_off(&last.index.saturating_add(1));
        let acknowledged = self.end.max(self.hard_state.floor);
        if last < acknowledged {
            damage.push(Damage::Short(acknowledged));
        }
        let mut healed = Vec::new();
        if damage.is_empty() && after.is_empty() {
            healed = self.damage;
        } else {
            damage.append(&mut self.damage);
        }
        if !damage.is_empty() {
            self.hard_state.floor = acknowledged;
        }
        let applied = snapshot.last().index;
        Recovered {
            last: self.end,
            sequence: self.sequence.unwrap_or(0),
            previous: self.previous.unwrap_or(0),
            repairs: self.repairs,
            void,
            recovery: Recovery {
                boot: Boot {
                    hard_state: self.hard_state,
                    snapshot,
                    entries,
                    applied,
                },
                log: after,
                damage,
                healed,
                segments,
            },
        }
    }
}
