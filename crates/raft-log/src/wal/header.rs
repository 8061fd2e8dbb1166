//! What is said about a record, twice: before its payload and in the segment's second file.

use twox_hash::XxHash3_64;

use crate::{HardState, Position};

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 8 * FIELDS;
const FIELDS: usize = 20;
const MAGIC: u64 = u64::from_le_bytes(*b"RAFTWAL1");

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only what every header holds: the hard state.
    HardState,
    /// An entry that says nothing.
    Empty,
    /// An entry with a command.
    Command,
    /// An entry with members.
    Membership,
    /// An entry whose command a witness was not given.
    Withheld,
    /// A snapshot instead of the log up to its last entry.
    Snapshot,
    /// A snapshot instead of the whole log.
    SnapshotInstead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Where the record is: one that was written elsewhere does not count.
    pub(super) segment: u64,
    pub(super) slot: u64,
    pub(super) offset: u64,
    /// Counts all records of the log.
    pub(super) sequence: u64,
    /// How many records of the same commit follow. A commit counts whole or not at all.
    pub(super) left: u64,
    /// How many came before it. What came before those was durable when this commit began.
    pub(super) done: u64,
    pub(super) length: u64,
    /// Of the entry, or of the snapshot's last.
    pub(super) at: Position,
    /// Where the log ends after this commit: what is missing of it was lost.
    pub(super) last: Position,
    pub(super) hard_state: HardState,
    /// The checksum of the record before.
    pub(super) previous: u64,
    pub(super) payload_checksum: u64,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::HardState,
        Self::Empty,
        Self::Command,
        Self::Membership,
        Self::Withheld,
        Self::Snapshot,
        Self::SnapshotInstead,
    ];

    /// Whether it is a place in the log.
    pub fn is_entry(self) -> bool {
        matches!(
            self,
            Self::Empty | Self::Command | Self::Membership | Self::Withheld
        )
    }

    fn number(self) -> u64 {
        // 0 is what a disk is full of before anybody writes.
        (1..)
            .zip(Self::ALL)
            .find(|&(_, kind)| kind == self)
            .map_or(0, |(number, _)| number)
    }

    fn from_number(number: u64) -> Option<Self> {
        let place = usize::try_from(number.checked_sub(1)?).ok()?;
        Self::ALL.get(place).copied()
    }
}

impl Header {
    /// Little-endian words, the last one the checksum of those before.
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let vote = self.hard_state.voted_for;
        let words = [
            MAGIC,
            self.kind.number() | u64::from(vote.is_some()) << 32,
            self.segment,
            self.slot,
            self.offset,
            self.sequence,
            self.left,
            self.length,
            self.at.term,
            self.at.index,
            self.last.term,
            self.last.index,
            self.hard_state.term,
            self.done,
            vote.unwrap_or(0),
            self.hard_state.floor.term,
            self.hard_state.floor.index,
            self.previous,
            self.payload_checksum,
        ];
        let mut bytes = [0; HEADER_BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let sum = checksum(&bytes[..HEADER_BYTES - 8]);
        bytes[HEADER_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The header at `offset`, if one is there.
    pub(super) fn read(file: &[u8], offset: u64) -> Option<Self> {
        let start = usize::try_from(offset).ok()?;
        let bytes = file.get(start..start.checked_add(HEADER_BYTES)?)?;
        let mut words = [0; FIELDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        if words[0] != MAGIC || words[FIELDS - 1] != checksum(&bytes[..HEADER_BYTES - 8]) {
            return None;
        }
        let position = |term, index| Position { term, index };
        Some(Self {
            kind: Kind::from_number(words[1] & u64::from(u32::MAX))?,
            segment: words[2],
            slot: words[3],
            offset: words[4],
            sequence: words[5],
            left: words[6],
            done: words[13],
            length: words[7],
            at: position(words[8], words[9]),
            last: position(words[10], words[11]),
            hard_state: HardState {
                term: words[12],
                voted_for: (words[1] >> 32 != 0).then_some(words[14]),
                floor: position(words[15], words[16]),
            },
            previous: words[17],
            payload_checksum: words[18],
        })
    }

    /// What the next record's `previous` must be.
    pub(super) fn checksum(&self) -> u64 {
        checksum(&self.encode())
    }

    /// Where the next record starts, if that is a place at all.
    pub(super) fn end(&self) -> Option<u64> {
        let header = u64::try_from(HEADER_BYTES).ok()?;
        self.offset
            .checked_add(header)?
            .checked_add(self.length)?
            .checked_next_multiple_of(8)
    }

    /// The payload, if it is what it was.
    pub(super) fn payload<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        if self.length == 0 {
            return (checksum(&[]) == self.payload_checksum).then_some(&[]);
        }
        let start = usize::try_from(self.offset)
            .ok()?
            .checked_add(HEADER_BYTES)?;
        let length = usize::try_from(self.length).ok()?;
        let payload = file.get(start..start.checked_add(length)?)?;
        (checksum(payload) == self.payload_checksum).then_some(payload)
    }
}

pub(super) fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}
