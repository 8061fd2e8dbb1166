//! A durable log that tells a write the crash tore from an entry the disk lost.
//!
//! A commit writes payloads and headers into a segment of zeros and syncs it; then it may be acknowledged, and the headers
//! are written once more into a second file, which is synced when there is time. So a record that is damaged was
//! acknowledged if its second header is there or another commit follows, and is kept as a hole, which the quorum fills
//! (Alagappan and others, FAST 2018); otherwise it was never acknowledged and is cut off.

#[cfg(feature = "wal-files")]
mod files;
mod header;
mod memory;
mod record;
mod recovery;
mod segment;
mod storage;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

#[cfg(feature = "wal-files")]
pub use files::Files;
pub use header::Kind;
pub use memory::{Fault, Memory};
pub use recovery::{Damage, Recovery, Report};
pub use segment::{Found, State};
pub use storage::{Storage, StorageError};

use crate::{Boot, HardState, Index, Position, Ticket, Write};
use header::{HEADER_BYTES, Header, checksum};
use record::Record;
use recovery::{Recovered, recover};
use segment::{Segment, header_bytes, ids_name, log_name};

/// The log of one server.
///
/// Takes what [`Action::Write`](crate::Action::Write) says with [`append`](Self::append), makes it durable with
/// [`sync`](Self::sync), and returns the ticket for [`Raft::stored`](crate::Raft::stored).
#[derive(Debug)]
pub struct Wal<S> {
    storage: S,
    segment_bytes: u64,
    current: Current,
    /// Each segment's greatest index, the current one's too.
    segments: BTreeMap<u64, Index>,
    sequence: u64,
    previous: u64,
    /// The one of the last commit.
    hard_state: HardState,
    /// Where the log ends, or ended before it was damaged.
    last: Position,
    pending: Vec<Record>,
    pending_hard_state: HardState,
    ticket: Option<Ticket>,
    /// Second headers were written since the last sync of theirs.
    unsettled: bool,
    poisoned: bool,
}

/// Where the next record goes.
#[derive(Debug, Default)]
struct Current {
    number: u64,
    slot: u64,
    offset: u64,
    bytes: u64,
}

/// Why a log cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// There is no log here, or its making was not finished: make one.
    #[error("there is no log")]
    Empty,
    /// There is a log already.
    #[error("there is a log already")]
    Exists,
    /// The latest hard state may be lost, and the server's vote with it: it must not come back under its name.
    #[error("the hard state cannot be read")]
    Unreadable,
    /// A file is longer than any segment.
    #[error("a file is too long")]
    TooLong,
    /// A write or a sync has failed: what is durable is known only after opening anew (fsync, tried again, may say
    /// yes to what it has dropped).
    #[error("a write has failed before")]
    Poisoned,
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

impl<S: Storage> Wal<S> {
    /// Bytes of a segment unless told otherwise.
    pub const SEGMENT_BYTES: u64 = 16 << 20;

    /// Makes a log for a server that starts from `boot`. Segments have `segment_bytes`, 4 KiB at least; one that must hold a
    /// larger commit is larger.
    ///
    /// # Errors
    ///
    /// [`WalError::Exists`] if there is one, and what the disk says.
    pub fn create(storage: S, segment_bytes: u64, boot: &Boot) -> Result<Self, WalError> {
        let left = match recover(&storage) {
            Ok(_) => return Err(WalError::Exists),
            Err(WalError::Empty) => segment::numbers(&storage)?,
            Err(error) => return Err(error),
        };
        let mut wal = Self::over(storage, segment_bytes);
        wal.hard_state = boot.hard_state;
        wal.pending_hard_state = boot.hard_state;
        for number in left {
            wal.remove(number)?;
        }
        wal.start_segment(0, 0)?;
        let snapshot = boot.snapshot.clone();
        wal.pending.push(Record::Snapshot {
            snapshot,
            instead: true,
        });
        wal.pending
            .extend(boot.entries.iter().cloned().map(Record::Entry));
        wal.commit()?;
        wal.settle()?;
        Ok(wal)
    }

    /// Opens the log, writes anew what is there in one place only, and says what was found.
    ///
    /// # Errors
    ///
    /// [`WalError`]: [`Empty`](WalError::Empty) if there is none, [`Unreadable`](WalError::Unreadable) if it may have
    /// forgotten a vote.
    pub fn open(storage: S, segment_bytes: u64) -> Result<(Self, Recovery), WalError> {
        let recovered = recover(&storage)?;
        let unreadable = |damage: &Damage| matches!(damage, Damage::Segment(_));
        if recovered.recovery.damage.iter().any(unreadable) {
            return Err(WalError::Unreadable);
        }
        let mut wal = Self::over(storage, segment_bytes);
        wal.resume(&recovered)?;
        Ok((wal, recovered.recovery))
    }

    fn over(storage: S, segment_bytes: u64) -> Self {
        Self {
            storage,
            segment_bytes: segment_bytes.max(4096),
            current: Current::default(),
            segments: BTreeMap::new(),
            sequence: 0,
            previous: 0,
            hard_state: HardState::default(),
            last: Position::default(),
            pending: Vec::new(),
            pending_hard_state: HardState::default(),
            ticket: None,
            unsettled: false,
            poisoned: false,
        }
    }

    /// Never writes where something may be: the next record goes to a new segment.
    fn resume(&mut self, recovered: &Recovered) -> Result<(), WalError> {
        let recovery = &recovered.recovery;
        self.hard_state = recovery.boot.hard_state;
        self.pending_hard_state = self.hard_state;
        self.last = recovered.last;
        self.sequence = recovered.sequence;
        self.previous = recovered.previous;
        let numbers = recovery.segments.iter().map(|report| report.number);
        let next = numbers.max().unwrap_or(0).saturating_add(1);
        // Nobody writes that much.
        if next.max(self.sequence) > u64::MAX / 2 {
            return Err(WalError::Unreadable);
        }
        for &number in &recovered.void {
            self.remove(number)?;
        }
        for report in &recovery.segments {
            if !recovered.void.contains(&report.number) {
                let entries = report.records.iter().filter(|found| is_live_entry(found));
                let last = entries.map(|found| found.at.index).max();
                self.segments.insert(report.number, last.unwrap_or(0));
            }
        }
        self.repair(&recovered.repairs)?;
        if let Some((&last, _)) = self.segments.last_key_value() {
            self.rewrite(last)?;
        }
        self.start_segment(next, 0)
    }

    /// What was read may be in a cache only, which after a failed sync takes itself to be clean: writing makes it dirty.
    fn rewrite(&mut self, number: u64) -> Result<(), WalError> {
        let segment = Segment::read(&self.storage, number)?;
        for (name, bytes) in [
            (log_name(number), segment.log),
            (ids_name(number), segment.ids),
        ] {
            let zeros = bytes.iter().rev().take_while(|&&byte| byte == 0).count();
            self.storage
                .write(&name, 0, &bytes[..bytes.len() - zeros])?;
            self.storage.sync(&name)?;
        }
        Ok(())
    }

    fn repair(&mut self, headers: &[Header]) -> Result<(), WalError> {
        for header in headers {
            let log = log_name(header.segment);
            self.storage.write(&log, header.offset, &header.encode())?;
        }
        let mut segments: Vec<_> = headers.iter().map(|header| header.segment).collect();
        segments.dedup();
        for &segment in &segments {
            self.storage.sync(&log_name(segment))?;
        }
        for header in headers {
            let place = header.slot * header_bytes();
            let ids = ids_name(header.segment);
            self.storage.write(&ids, place, &header.encode())?;
        }
        for &segment in &segments {
            self.storage.sync(&ids_name(segment))?;
        }
        Ok(())
    }

    /// Takes a write; nothing happens before [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// [`WalError::Poisoned`].
    pub fn append(&mut self, write: Write) -> Result<(), WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        if let Some(hard_state) = write.hard_state {
            self.pending_hard_state = hard_state;
        }
        let instead = write.discard_log;
        let records = &mut self.pending;
        match write.snapshot {
            Some(snapshot) => records.push(Record::Snapshot { snapshot, instead }),
            None => assert!(!instead, "a log is discarded for a snapshot"),
        }
        records.extend(write.entries.into_iter().map(Record::Entry));
        if records.is_empty() {
            records.push(Record::HardState);
        }
        self.ticket = Some(write.ticket);
        Ok(())
    }

    /// Makes all that was appended durable, whole or not at all, and returns the last ticket, if there is a new one.
    /// Costs one sync, and a second one if the hard state changes. A snapshot among it frees the segments that it covers.
    ///
    /// # Errors
    ///
    /// [`WalError`] of the disk, after which there is only [`WalError::Poisoned`]: what was appended may be durable or
    /// not, and opening the log anew tells.
    pub fn sync(&mut self) -> Result<Option<Ticket>, WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        self.poisoned = true;
        if !self.pending.is_empty() {
            self.commit()?;
        }
        self.poisoned = false;
        Ok(self.ticket.take())
    }

    /// Makes the second headers durable too, if there are new ones: best when there is nothing else to do. Until then a
    /// crash of the machine that comes with damage to the last commit makes that look as if it had been torn.
    ///
    /// # Errors
    ///
    /// As [`sync`](Self::sync).
    pub fn settle(&mut self) -> Result<(), WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        if self.unsettled {
            self.poisoned = true;
            self.sync_ids()?;
            self.poisoned = false;
        }
        Ok(())
    }

    /// Whether [`settle`](Self::settle) has nothing to do.
    pub fn is_settled(&self) -> bool {
        !self.unsettled
    }

    fn sync_ids(&mut self) -> Result<(), WalError> {
        self.storage.sync(&ids_name(self.current.number))?;
        self.unsettled = false;
        Ok(())
    }

    /// The disk.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// The disk, for what a test does to it.
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.storage
    }

    /// Gives the disk back; what was not synced is forgotten.
    pub fn into_storage(self) -> S {
        self.storage
    }

    fn commit(&mut self) -> Result<(), WalError> {
        let records = core::mem::take(&mut self.pending);
        let payloads: Vec<_> = records.iter().map(Record::payload).collect();
        let bytes: u64 = payloads.iter().map(|payload| record_bytes(payload)).sum();
        let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
        if self.current.offset + bytes > self.current.bytes
            || (self.current.slot + count) * header_bytes() > ids_bytes(self.current.bytes)
        {
            let number = self.current.number + 1;
            self.start_segment(number, bytes.max(count * header_bytes() * 4))?;
        }
        let votes = self.hard_state != self.pending_hard_state;
        self.hard_state = self.pending_hard_state;
        self.last = records
            .iter()
            .fold(self.last, |last, record| record.end_of_log(last));
        self.write(&records, &payloads)?;
        // A vote has no copy elsewhere.
        if votes {
            self.sync_ids()?;
        }
        self.free_segments(&records)
    }

    /// A segment of zeros, so that later syncs need not make new lengths durable, and its first record.
    fn start_segment(&mut self, number: u64, needed: u64) -> Result<(), WalError> {
        if self.unsettled {
            self.sync_ids()?;
        }
        let bytes = self.segment_bytes.max(needed + 2 * header_bytes() * 4);
        let bytes = bytes.next_multiple_of(4096);
        for (name, bytes) in [
            (log_name(number), bytes),
            (ids_name(number), ids_bytes(bytes)),
        ] {
            let mut at = 0;
            while at < bytes {
                let part = ZEROS
                    .len()
                    .min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
                self.storage.write(&name, at, &ZEROS[..part])?;
                at += u64::try_from(part).unwrap_or(u64::MAX);
            }
        }
        self.current = Current {
            number,
            slot: 0,
            offset: 0,
            bytes,
        };
        self.segments.insert(number, 0);
        self.write(&[Record::HardState], &[Vec::new()])?;
        self.sync_ids()
    }

    /// Payloads with headers, synced, then the headers again.
    fn write(&mut self, records: &[Record], payloads: &[Vec<u8>]) -> Result<(), WalError> {
        let (mut bodies, mut ids) = (Vec::new(), Vec::new());
        let (start, slot) = (self.current.offset, self.current.slot);
        for (done, (record, payload)) in records.iter().zip(payloads).enumerate() {
            let header = self.header(record, payload, done, records.len());
            let encoded = header.encode();
            bodies.extend_from_slice(&encoded);
            bodies.extend_from_slice(payload);
            bodies.resize(bodies.len().next_multiple_of(8), 0);
            ids.extend_from_slice(&encoded);
            self.previous = header.checksum();
            self.sequence += 1;
            self.current.slot += 1;
            self.current.offset += record_bytes(payload);
            if header.kind.is_entry() {
                let last = self.segments.entry(self.current.number).or_default();
                *last = header.at.index.max(*last);
            }
        }
        let (log_name, ids_name) = (log_name(self.current.number), ids_name(self.current.number));
        self.storage.write(&log_name, start, &bodies)?;
        self.storage.sync(&log_name)?;
        // Never before: they say that the log has been synced.
        self.storage.write(&ids_name, slot * header_bytes(), &ids)?;
        self.unsettled = true;
        Ok(())
    }

    fn header(&self, record: &Record, payload: &[u8], done: usize, of: usize) -> Header {
        let count = |number| u64::try_from(number).unwrap_or(u64::MAX);
        Header {
            kind: record.kind(),
            segment: self.current.number,
            slot: self.current.slot,
            offset: self.current.offset,
            sequence: self.sequence,
            left: count(of - done - 1),
            done: count(done),
            length: u64::try_from(payload.len()).unwrap_or(u64::MAX),
            at: record.at(),
            last: self.last,
            hard_state: self.hard_state,
            previous: self.previous,
            payload_checksum: checksum(payload),
        }
    }

    /// Removes segments from the oldest on, as long as the snapshot just written covers them.
    fn free_segments(&mut self, records: &[Record]) -> Result<(), WalError> {
        let mut snapshots = records.iter().filter_map(|record| match record {
            Record::Snapshot { snapshot, instead } => Some((snapshot.last().index, *instead)),
            _ => None,
        });
        let Some((covered, instead)) = snapshots.next_back() else {
            return Ok(());
        };
        while let Some((&number, &last)) = self.segments.first_key_value()
            && number < self.current.number
            && (instead || last <= covered)
        {
            self.segments.remove(&number);
            self.remove(number)?;
        }
        Ok(())
    }

    /// The second headers first: records without them are whole, headers without records would be holes.
    fn remove(&mut self, number: u64) -> Result<(), WalError> {
        for name in [ids_name(number), log_name(number)] {
            match self.storage.remove(&name) {
                Ok(()) | Err(StorageError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn is_live_entry(found: &Found) -> bool {
    found.state != State::Torn && found.kind.is_some_and(Kind::is_entry)
}

fn record_bytes(payload: &[u8]) -> u64 {
    let bytes = (HEADER_BYTES + payload.len()).next_multiple_of(8);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Of the file of second headers beside a segment of this many bytes.
fn ids_bytes(segment_bytes: u64) -> u64 {
    segment_bytes / 4
}
