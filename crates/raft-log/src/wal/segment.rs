//! One segment: a file of records, and one of their headers. Neither is written in a place twice, but to repair it.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::header::{HEADER_BYTES, Header};
use super::record::Record;
use super::{Kind, Storage, WalError};
use crate::Position;

/// How a record was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Whole, as is its header in both places.
    Intact,
    /// Whole, but one of its headers is not; opening writes it anew. Either it was on its way, or the disk lost one.
    Repairable,
    /// Never acknowledged: the crash came before it was written.
    Torn,
    /// Acknowledged, and its payload is lost: it must come back from the quorum.
    Corrupt,
    /// Something was acknowledged here, and nothing is left of it but that others follow it.
    Lost,
}

/// A record as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Found {
    /// Its place among all records.
    pub sequence: u64,
    /// How it is.
    pub state: State,
    /// What it is; `None` if its header is lost.
    pub kind: Option<Kind>,
    /// The entry's position, or that of a snapshot's last.
    pub at: Position,
    /// Where its header starts in the segment.
    pub offset: u64,
    /// Bytes of its payload.
    pub length: u64,
}

/// A record with what it says, if that can be read.
pub(super) struct Scanned {
    pub(super) found: Found,
    pub(super) header: Option<Header>,
    /// Whether the header's second copy is there: then the record was durable once.
    pub(super) durable: bool,
    pub(super) record: Option<Record>,
}

/// The two files of a segment.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) log: Vec<u8>,
    pub(super) ids: Vec<u8>,
    /// The sequence of its first record; `None` if there is no record.
    pub(super) first: Option<u64>,
}

/// A longer file is no segment.
const FILE_BYTES_MAX: u64 = 1 << 32;

pub(super) fn log_name(number: u64) -> String {
    format!("{number:016x}.log")
}

pub(super) fn ids_name(number: u64) -> String {
    format!("{number:016x}.ids")
}

/// The segments that there are, in order; other files are left alone.
pub(super) fn numbers(storage: &impl Storage) -> Result<Vec<u64>, WalError> {
    let mut numbers = Vec::new();
    for name in storage.list()? {
        let stem = name
            .strip_suffix(".log")
            .or_else(|| name.strip_suffix(".ids"));
        let number = stem.and_then(|stem| u64::from_str_radix(stem, 16).ok());
        if let Some(number) = number
            && (name == log_name(number) || name == ids_name(number))
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

impl Segment {
    pub(super) fn read(storage: &impl Storage, number: u64) -> Result<Self, WalError> {
        let mut segment = Self {
            number,
            log: read_file(storage, &log_name(number))?,
            ids: read_file(storage, &ids_name(number))?,
            first: None,
        };
        let slots = (0..segment.slots()).filter_map(|slot| segment.id(slot));
        let first = slots
            .chain(segment.body(0, 0))
            .find_map(|header| header.sequence.checked_sub(header.slot));
        segment.first = first;
        Ok(segment)
    }

    /// Whether more was written than what a crash while it was made can leave.
    pub(super) fn was_used(&self) -> bool {
        let used = |file: &[u8]| {
            let rest = file.get(HEADER_BYTES..).unwrap_or_default();
            rest.iter().any(|&byte| byte != 0)
        };
        used(&self.log) || used(&self.ids)
    }

    /// Its records. The next segment knows how many there are; in the last one they end where the crash came.
    pub(super) fn scan(&self, next_first: Option<u64>) -> Vec<Scanned> {
        let Some(first) = self.first else {
            return Vec::new();
        };
        let limit = next_first.map(|next| next.saturating_sub(first));
        let named = (0..self.slots())
            .rev()
            .find(|&slot| self.id(slot).is_some());
        let mut durable = named.map_or(0, |slot| slot + 1);
        let mut records = Vec::new();
        let mut offset = Some(0);
        // Records lie one after the other, so that all of them together are no larger than the file.
        let mut end = 0;
        for slot in 0.. {
            if limit.is_some_and(|limit| slot >= limit) {
                break;
            }
            let known =
                slot < durable || (limit.is_some() && (offset.is_some() || slot < self.slots()));
            let mut scanned = self.record(first, slot, offset.ok_or(end), known);
            if !known && scanned.record.is_none() {
                durable = self.durable_before(first, end);
            }
            let known = known || slot < durable;
            if known {
                scanned = self.record(first, slot, offset.ok_or(end), known);
            }
            offset = scanned.header.and_then(|header| header.end());
            end = offset.unwrap_or(end);
            let ends = !known && scanned.record.is_none();
            if !ends || scanned.header.is_some() || self.is_written(scanned.found.offset) {
                records.push(scanned);
            }
            if ends {
                break;
            }
        }
        if limit.is_none() {
            end_at_commit(&mut records);
        }
        records
    }

    /// The record in `slot`; `known` if there was one without doubt.
    ///
    /// It starts at `offset`, or is not known to, but then not before that.
    fn record(&self, first: u64, slot: u64, offset: Result<u64, u64>, known: bool) -> Scanned {
        let sequence = first.saturating_add(slot);
        let id = self.id(slot).filter(|id| {
            let here = match offset {
                Ok(offset) => id.offset == offset,
                Err(least) => id.offset >= least,
            };
            id.sequence == sequence && here
        });
        let offset = id.map(|id| id.offset).or_else(|| offset.ok());
        let body = offset
            .and_then(|offset| self.body(offset, slot))
            .filter(|body| body.sequence == sequence && id.is_none_or(|id| id == *body));
        let header = id.or(body);
        let record = header
            .and_then(|header| Record::decode(header.kind, header.at, header.payload(&self.log)?));
        let state = match (&record, id.is_some() || (known && header.is_some())) {
            (Some(_), _) if id.is_some() && body.is_some() => State::Intact,
            (Some(_), _) => State::Repairable,
            (None, true) => State::Corrupt,
            (None, false) if known => State::Lost,
            (None, false) => State::Torn,
        };
        Scanned {
            found: Found {
                sequence,
                state,
                kind: header.map(|header| header.kind),
                at: header.map_or_else(Position::default, |header| header.at),
                offset: offset.unwrap_or(0),
                length: header.map_or(0, |header| header.length),
            },
            header,
            durable: id.is_some(),
            record,
        }
    }

    /// How many records were durable when the last commit began of which a header is after `offset`. A command that looks
    /// like one is found only behind damage, and then makes more seem lost than was.
    fn durable_before(&self, first: u64, offset: u64) -> u64 {
        let last = u64::try_from(self.log.len()).unwrap_or(u64::MAX);
        let places = (offset..last).step_by(8);
        let headers = places.filter_map(|offset| {
            let header = Header::read(&self.log, offset)?;
            let here = header.segment == self.number && header.offset == offset;
            (here && header.sequence == first.saturating_add(header.slot)).then_some(header)
        });
        let begun = headers.map(|header| header.slot.saturating_sub(header.done));
        begun.max().unwrap_or(0)
    }

    fn is_written(&self, offset: u64) -> bool {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(HEADER_BYTES);
        let found = self.log.get(start..end).unwrap_or_default();
        found.iter().any(|&byte| byte != 0)
    }

    fn slots(&self) -> u64 {
        u64::try_from(self.ids.len() / HEADER_BYTES).unwrap_or(u64::MAX)
    }

    fn id(&self, slot: u64) -> Option<Header> {
        let header = Header::read(&self.ids, slot.checked_mul(header_bytes())?)?;
        (header.segment == self.number && header.slot == slot).then_some(header)
    }

    fn body(&self, offset: u64, slot: u64) -> Option<Header> {
        let header = Header::read(&self.log, offset)?;
        let here = header.segment == self.number && header.slot == slot && header.offset == offset;
        here.then_some(header)
    }
}

pub(super) fn header_bytes() -> u64 {
    u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX)
}

/// The last commit is there whole or was never acknowledged. Second headers follow all of a commit to the disk: if one of
/// them is there and the rest of the commit is not, the rest was lost later.
fn end_at_commit(records: &mut Vec<Scanned>) {
    let mut end = records.len();
    while let Some(last) = end.checked_sub(1).map(|last| &mut records[last]) {
        let left = last.header.map_or(0, |header| header.left);
        let torn = last.found.state == State::Torn;
        if !torn && (left == 0 || last.durable) {
            break;
        }
        last.found.state = State::Torn;
        end -= 1;
    }
    let Some(last) = end.checked_sub(1).map(|last| &records[last]) else {
        return;
    };
    if last.header.is_some_and(|header| header.left > 0) {
        let lost = Found {
            sequence: last.found.sequence.saturating_add(1),
            state: State::Lost,
            kind: None,
            at: Position::default(),
            offset: 0,
            length: 0,
        };
        records.truncate(end);
        records.push(Scanned {
            found: lost,
            header: None,
            durable: false,
            record: None,
        });
    }
}

fn read_file(storage: &impl Storage, name: &str) -> Result<Vec<u8>, WalError> {
    let length = match storage.len(name) {
        // Its other half may have been removed, or not yet made.
        Err(super::StorageError::NotFound) => return Ok(Vec::new()),
        length => length?,
    };
    let length = (length <= FILE_BYTES_MAX)
        .then(|| usize::try_from(length).ok())
        .flatten()
        .ok_or(WalError::TooLong)?;
    let mut bytes = vec![0; length];
    storage.read(name, 0, &mut bytes)?;
    Ok(bytes)
}
