//! The durable log rule by rule: every byte, every crash, every failure.
#![cfg(feature = "wal")]

use std::sync::Arc;

use raft_log::wal::{Damage, Fault, Memory, Recovery, State, Storage, StorageError, Wal, WalError};
use raft_log::{
    Boot, Entry, HardState, Membership, Options, Payload, Position, Raft, Snapshot, Write,
};

const LOG: &str = "0000000000000000.log";
const IDS: &str = "0000000000000000.ids";

#[test]
fn what_was_written_is_read_again() {
    let disk = filled().into_storage();
    let (wal, recovery) = Wal::open(disk, 4096).expect("a good disk");
    assert!(recovery.is_whole() && recovery.log.is_empty() && recovery.healed.is_empty());
    assert_eq!(recovery.boot, image());
    let states = states(&recovery);
    assert_eq!(states, [State::Intact; 8]); // the hard state, the members, five entries, a vote
    Raft::new(Options::new(1, 1), &recovery.boot, 0).expect("a server that starts");
    assert_eq!(Recovery::read(wal.storage()).expect("a log").boot, image());
}

#[test]
fn each_byte_of_a_payload_is_missed_and_of_a_header_is_not() {
    let disk = filled().into_storage();
    let used = |name: &str| {
        let mut bytes = vec![0; usize::try_from(disk.len(name).expect("a file")).expect("small")];
        disk.read(name, 0, &mut bytes).expect("a file");
        let zeros = bytes.iter().rev().take_while(|&&byte| byte == 0).count();
        u64::try_from(bytes.len() - zeros).expect("small")
    };
    let mut damaged = 0;
    for (name, bytes) in [(LOG, used(LOG)), (IDS, used(IDS))] {
        for byte in 0..bytes {
            let mut disk = disk.clone();
            disk.flip(name, 8 * byte + byte % 8);
            let (_, recovery) = Wal::open(disk, 4096).expect("one flipped bit");
            assert_eq!(vote(&recovery.boot), vote(&image()));
            if recovery.is_whole() {
                assert_eq!(recovery.boot, image(), "byte {byte} of {name}");
            } else {
                damaged += 1;
                assert!(image().entries.starts_with(&recovery.boot.entries));
                assert_eq!(recovery.boot.hard_state.floor, at(2, 5));
            }
        }
    }
    // Five commands of 100 bytes, and the first members: three names and four sizes.
    assert_eq!(damaged, 500 + 56);
}

#[test]
fn a_corrupt_entry_is_kept_as_a_hole_with_those_after_it() {
    let mut disk = filled().into_storage();
    flip_payload_of(&mut disk, at(2, 3));
    let (_, recovery) = Wal::open(disk, 4096).expect("a hole");
    assert_eq!(recovery.boot.entries, image().entries[..2]);
    assert_eq!(recovery.boot.hard_state.floor, at(2, 5));
    let found: Vec<_> = recovery.log.iter().collect();
    assert_eq!(found[0], (&3, &(2, None)));
    assert_eq!(found[1], (&4, &(2, Some(image().entries[3].clone()))));
    assert_eq!(found.len(), 3);
    let corrupt = Damage::Corrupt {
        sequence: 4,
        at: at(2, 3),
    };
    assert!(recovery.damage.contains(&corrupt));
    Raft::new(Options::new(1, 1), &recovery.boot, 0).expect("a server that starts");
}

#[test]
fn a_hole_is_there_until_the_leader_fills_it() {
    let mut disk = filled().into_storage();
    flip_payload_of(&mut disk, at(2, 3));
    let (wal, _) = Wal::open(disk, 4096).expect("a hole");
    let (mut wal, again) = Wal::open(wal.into_storage(), 4096).expect("a hole");
    assert!(!again.is_whole());
    wal.append(write(9, image().entries[2..4].to_vec()))
        .expect("a write");
    wal.sync().expect("a good disk");
    let (mut wal, short) = Wal::open(wal.into_storage(), 4096).expect("a hole");
    assert_eq!(short.damage[0], Damage::Short(at(2, 5)));
    wal.append(write(10, image().entries[4..].to_vec()))
        .expect("a write");
    wal.sync().expect("a good disk");
    let (_, whole) = Wal::open(wal.into_storage(), 4096).expect("no hole");
    assert!(whole.is_whole());
    assert_eq!(whole.healed.len(), 1);
    assert_eq!(whole.boot.entries, image().entries);
}

/// A later leader may replace what was acknowledged by entries of an earlier term than it was.
#[test]
fn a_log_may_end_before_where_it_once_did() {
    let mut wal = filled();
    for (ticket, entries) in [(9, vec![entry(3, 6), entry(3, 7)]), (10, vec![entry(2, 6)])] {
        wal.append(write(ticket, entries)).expect("a write");
        wal.sync().expect("a good disk");
    }
    let recovery = Recovery::read(wal.storage()).expect("a log");
    assert!(recovery.is_whole(), "{:?}", recovery.damage);
    assert_eq!(recovery.boot.entries.last(), Some(&entry(2, 6)));
}

#[test]
fn a_header_lost_twice_is_noticed_if_anything_follows() {
    let mut disk = filled().into_storage();
    let found = find(&disk, at(2, 2));
    disk.flip(LOG, 8 * found.offset);
    disk.flip(IDS, 8 * 160 * found.sequence);
    let recovery = Recovery::read(&disk).expect("the rest");
    assert_eq!(recovery.boot.entries, []); // it may have replaced the first
    assert_eq!(recovery.boot.hard_state.floor, at(2, 5));
    assert!(recovery.damage.contains(&Damage::Lost { sequence: 3 }));
}

#[test]
fn a_whole_segment_lost_is_noticed() {
    let mut wal = filled();
    for term in 3..6 {
        let mut write = write(term, vec![entry(term, 3 + term)]);
        write.hard_state = Some(HardState {
            term,
            ..HardState::default()
        });
        wal = Wal::open(wal.into_storage(), 4096).expect("a good disk").0;
        wal.append(write).expect("a write");
        wal.sync().expect("a good disk");
    }
    let mut disk = wal.into_storage();
    for half in ["log", "ids"] {
        disk.remove(&format!("0000000000000002.{half}"))
            .expect("a file");
    }
    let recovery = Recovery::read(&disk).expect("the rest");
    assert!(matches!(
        recovery.damage[..],
        [Damage::Short(_), Damage::Lost { .. }] | [Damage::Lost { .. }]
    ));
    assert_eq!(recovery.boot.hard_state.floor, at(5, 8));
    assert_eq!(recovery.boot.hard_state.term, 5);
}

#[test]
fn each_crash_leaves_a_commit_whole_or_not_at_all() {
    let next = write(9, vec![entry(2, 6), entry(2, 7), entry(2, 8)]);
    let (mut before, mut after) = (0, 0);
    for seed in 0..200 {
        for operation in 0..4 {
            let mut wal = filled();
            wal.storage_mut().fail(operation, Fault::Failed);
            wal.append(next.clone()).expect("a write");
            let done = wal.sync().and_then(|_| wal.settle());
            done.expect_err("a disk that fails");
            let mut disk = wal.into_storage();
            disk.crash(seed);
            let (_, recovery) = Wal::open(disk, 4096).expect("a crash");
            assert!(recovery.is_whole(), "{:?}", recovery.damage);
            match recovery.boot.entries.len() {
                5 => before += 1,
                8 => after += 1,
                other => panic!("{other} entries"),
            }
        }
    }
    assert!(before > 200 && after > 200, "{before} {after}");
}

#[test]
fn what_another_commit_follows_was_acknowledged_and_the_last_one_once_settled() {
    for (follows, settles) in [(true, false), (false, true), (false, false)] {
        let mut wal = filled();
        wal.settle().expect("a good disk");
        for (index, wanted) in [(6, true), (7, follows)] {
            if wanted {
                wal.append(write(index, vec![entry(2, index)]))
                    .expect("a write");
                assert_eq!(wal.sync(), Ok(Some(index)));
            }
        }
        if settles {
            wal.settle().expect("a good disk");
        }
        let offset = find(wal.storage(), at(2, 6)).offset;
        let mut disk = wal.into_storage();
        if !settles {
            lose_unsynced_headers(&mut disk, 8);
        }
        disk.flip(LOG, 8 * (offset + 160 + 50));
        let (_, recovery) = Wal::open(disk, 4096).expect("a crash");
        assert_eq!(recovery.boot.entries, image().entries);
        assert_eq!(!recovery.is_whole(), follows || settles);
        let floor = if follows { at(2, 7) } else { at(2, 6) };
        let floor = if follows || settles { floor } else { at(0, 0) };
        assert_eq!(recovery.boot.hard_state.floor, floor);
    }
}

/// As if the power had gone.
fn lose_unsynced_headers(disk: &mut Memory, slot: usize) {
    let mut ids = vec![0; usize::try_from(disk.len(IDS).expect("a file")).expect("small")];
    disk.read(IDS, 0, &mut ids).expect("a file");
    ids[160 * slot..].fill(0);
    disk.put(IDS, &ids);
}

#[test]
fn a_failure_poisons_the_log() {
    for (fault, error) in [
        (Fault::NoSpace, StorageError::NoSpace),
        (Fault::Failed, StorageError::Failed { code: 5 }),
    ] {
        for operation in 0..4 {
            let mut wal = filled();
            wal.storage_mut().fail(operation, fault);
            wal.append(write(9, vec![entry(2, 6)])).expect("a write");
            let done = wal.sync().and_then(|_| wal.settle());
            assert_eq!(done, Err(WalError::Storage(error)));
            assert_eq!(wal.sync(), Err(WalError::Poisoned));
            assert_eq!(wal.settle(), Err(WalError::Poisoned));
            assert_eq!(wal.append(write(10, Vec::new())), Err(WalError::Poisoned));
        }
    }
}

#[test]
fn what_a_failed_sync_left_in_the_cache_is_durable_once_opened() {
    let mut wal = filled();
    wal.storage_mut().fail(1, Fault::Failed);
    wal.append(write(9, vec![entry(2, 6)])).expect("a write");
    wal.sync().expect_err("a disk that fails");
    let (wal, opened) = Wal::open(wal.into_storage(), 4096).expect("the cache");
    assert_eq!(opened.boot.entries.len(), 6);
    let mut disk = wal.into_storage();
    disk.crash(0);
    let (_, recovery) = Wal::open(disk, 4096).expect("a crash");
    assert_eq!(recovery.boot.entries.len(), 6);
    assert!(recovery.is_whole());
}

#[test]
fn repaired_headers_are_right() {
    let mut disk = filled().into_storage();
    disk.flip(IDS, 8 * 160 * 3);
    let found = find(&disk, at(2, 4));
    disk.flip(LOG, 8 * found.offset + 100);
    let (wal, recovery) = Wal::open(disk, 4096).expect("headers");
    let repairable = |state: &&State| **state == State::Repairable;
    assert_eq!(states(&recovery).iter().filter(repairable).count(), 2);
    let again = Recovery::read(wal.storage()).expect("a log");
    assert!(states(&again).iter().all(|&state| state == State::Intact));
}

#[test]
fn a_snapshot_frees_the_segments_it_covers() {
    let mut wal = filled();
    let mut last = 5;
    for ticket in 9..200 {
        let mut write = write(ticket, (1..=3).map(|more| entry(2, last + more)).collect());
        last += 3;
        if ticket % 20 == 0 {
            let members = Arc::new(Membership::of([1, 2, 3]));
            write.snapshot = Some(Snapshot::new(
                at(2, last - 5),
                members,
                Arc::from([1, 2, 3]),
            ));
        }
        wal.append(write).expect("a write");
        wal.sync().expect("a good disk");
        assert!(wal.storage().list().expect("names").len() <= 16);
    }
    let (_, recovery) = Wal::open(wal.into_storage(), 4096).expect("a log");
    assert!(recovery.is_whole());
    let first = recovery.boot.snapshot.last().index + 1;
    assert_eq!(recovery.boot.entries[0].at.index, first);
    assert_eq!(
        recovery.boot.entries.last().map(|entry| entry.at.index),
        Some(last)
    );
}

#[test]
fn a_log_is_made_once() {
    let disk = filled().into_storage();
    let boot = Boot::joining();
    assert_eq!(
        Wal::create(disk, 4096, &boot).map(|_| ()),
        Err(WalError::Exists)
    );
    assert_eq!(
        Wal::open(Memory::default(), 4096).map(|_| ()),
        Err(WalError::Empty)
    );
    // Nobody was told of a log whose making failed: it is made anew.
    for operation in 0..12 {
        let mut disk = Memory::default();
        disk.fail(operation, Fault::Failed);
        let mut kept = disk.clone();
        if Wal::create(Shared(&mut kept), 4096, &boot).is_err() {
            kept.crash(operation);
            match Wal::open(kept.clone(), 4096) {
                Ok((_, recovery)) => assert_eq!(recovery.boot, boot),
                Err(error) => {
                    assert_eq!(error, WalError::Empty);
                    Wal::create(kept, 4096, &boot).expect("a good disk");
                }
            }
        }
    }
}

#[test]
fn a_segment_in_which_nothing_can_be_read_may_have_held_a_vote() {
    let mut disk = filled().into_storage();
    disk.put(LOG, &[0xa5; 4096]);
    disk.put(IDS, &[0x5a; 1024]);
    assert_eq!(Recovery::read(&disk), Err(WalError::Unreadable));
    assert_eq!(Wal::open(disk, 4096).map(|_| ()), Err(WalError::Unreadable));
}

/// A disk that is still there when the log has failed.
#[derive(Debug)]
struct Shared<'a>(&'a mut Memory);

impl Storage for Shared<'_> {
    fn list(&self) -> Result<Vec<String>, StorageError> {
        self.0.list()
    }
    fn len(&self, name: &str) -> Result<u64, StorageError> {
        self.0.len(name)
    }
    fn read(&self, name: &str, offset: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        self.0.read(name, offset, bytes)
    }
    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.0.write(name, offset, bytes)
    }
    fn sync(&mut self, name: &str) -> Result<(), StorageError> {
        self.0.sync(name)
    }
    fn remove(&mut self, name: &str) -> Result<(), StorageError> {
        self.0.remove(name)
    }
}

/// Five entries and a vote, in one segment.
fn filled() -> Wal<Memory> {
    let boot = Boot::first(Membership::of([1, 2, 3]));
    let mut wal = Wal::create(Memory::default(), 1 << 14, &boot).expect("a good disk");
    let hard_state = Some(image().hard_state);
    let entries = image().entries;
    for (ticket, entries) in [(1, entries[..2].to_vec()), (2, entries[2..].to_vec())] {
        wal.append(Write {
            hard_state,
            ..write(ticket, entries)
        })
        .expect("a write");
        assert_eq!(wal.sync(), Ok(Some(ticket)));
    }
    wal.append(write(3, Vec::new())).expect("a write");
    assert_eq!(wal.sync(), Ok(Some(3)));
    wal
}

fn image() -> Boot {
    let mut boot = Boot::first(Membership::of([1, 2, 3]));
    boot.hard_state = HardState {
        term: 2,
        voted_for: Some(3),
        floor: Position::default(),
    };
    boot.entries = [(1, 1), (2, 2), (2, 3), (2, 4), (2, 5)]
        .map(|(term, index)| entry(term, index))
        .to_vec();
    boot
}

fn entry(term: u64, index: u64) -> Entry {
    let byte = u8::try_from(index % 250).expect("below 250");
    Entry {
        at: at(term, index),
        payload: Payload::Command(vec![byte; 100].into()),
    }
}

fn at(term: u64, index: u64) -> Position {
    Position { term, index }
}

fn write(ticket: u64, entries: Vec<Entry>) -> Write {
    Write {
        ticket,
        entries: entries.into(),
        ..Write::default()
    }
}

fn vote(boot: &Boot) -> (u64, Option<u64>) {
    (boot.hard_state.term, boot.hard_state.voted_for)
}

fn states(recovery: &Recovery) -> Vec<State> {
    let records = recovery
        .segments
        .iter()
        .flat_map(|segment| &segment.records);
    records.map(|found| found.state).collect()
}

fn find(disk: &Memory, at: Position) -> raft_log::wal::Found {
    let recovery = Recovery::read(disk).expect("a log");
    let mut records = recovery
        .segments
        .iter()
        .flat_map(|segment| &segment.records);
    *records.find(|found| found.at == at).expect("the entry")
}

fn flip_payload_of(disk: &mut Memory, at: Position) {
    let found = find(disk, at);
    disk.flip(LOG, 8 * (found.offset + 160 + found.length / 2));
}
