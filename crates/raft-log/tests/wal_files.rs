//! The durable log in a folder.
#![cfg(feature = "wal-files")]

use std::fs;

use raft_log::wal::{Damage, Files, Recovery, Wal, WalError};
use raft_log::{Boot, Entry, Membership, Payload, Position, Write};

#[test]
fn a_folder_keeps_a_log_and_one_flipped_byte_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let boot = Boot::first(Membership::of([1, 2, 3]));
    let files = || Files::new(folder.path());
    let mut wal = Wal::create(files(), 1 << 16, &boot).expect("a new folder");
    let at = Position { term: 1, index: 1 };
    let entry = Entry {
        at,
        payload: Payload::Command(b"hello".as_slice().into()),
    };
    let write = Write {
        ticket: 1,
        entries: vec![entry.clone()],
        ..Write::default()
    };
    wal.append(write).expect("a write");
    assert_eq!(wal.sync(), Ok(Some(1)));
    let (_, recovery) = Wal::open(files(), 1 << 16).expect("a log");
    assert!(recovery.is_whole());
    assert_eq!(recovery.boot.entries, [entry]);

    let path = folder.path().join("0000000000000000.log");
    let mut bytes = fs::read(&path).expect("a segment");
    let hello = bytes.windows(5).position(|window| window == b"hello");
    bytes[hello.expect("the command")] ^= 1;
    fs::write(&path, bytes).expect("a segment");
    let (_, recovery) = Wal::open(files(), 1 << 16).expect("a log");
    assert!(recovery.boot.entries.is_empty());
    assert_eq!(recovery.boot.hard_state.floor, at);
    assert!(
        recovery
            .damage
            .contains(&Damage::Corrupt { sequence: 2, at })
    );
    assert_eq!(
        Wal::create(files(), 1 << 16, &boot).map(|_| ()),
        Err(WalError::Exists)
    );
}

#[test]
fn other_files_are_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("notes.log"), "not ours").expect("a file");
    let files = Files::new(folder.path());
    assert_eq!(Recovery::read(&files), Err(WalError::Empty));
    Wal::create(files, 1 << 16, &Boot::joining()).expect("no log yet");
    assert!(folder.path().join("notes.log").exists());
}
