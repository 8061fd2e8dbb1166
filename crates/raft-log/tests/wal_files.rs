//! The durable log in a folder.
#![cfg(feature = "wal-files")]

use std::fs;
use std::path::Path;
use std::process::Command;

use raft_log::wal::{Damage, Files, Recovery, Wal, WalError};
use raft_log::{Boot, Entry, Membership, Payload, Position, Write};

const AT: Position = Position { term: 1, index: 1 };

#[test]
fn a_folder_keeps_a_log_and_one_flipped_byte_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let entry = make(folder.path());
    let files = || Files::new(folder.path());
    let (_, recovery) = Wal::open(files(), 1 << 16).expect("a log");
    assert!(recovery.is_whole());
    assert_eq!(recovery.boot.entries, [entry]);

    flip_command(folder.path());
    let (_, recovery) = Wal::open(files(), 1 << 16).expect("a log");
    assert!(recovery.boot.entries.is_empty());
    assert_eq!(recovery.boot.hard_state.floor, AT);
    assert!(recovery.damage.contains(&Damage::Corrupt {
        sequence: 2,
        at: AT
    }));
    assert_eq!(
        Wal::create(files(), 1 << 16, &Boot::joining()).map(|_| ()),
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

#[test]
fn inspect_says_what_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a name");
    assert_eq!(inspect(&["inspect", path]).0, Some(2));
    assert_eq!(inspect(&["inspect", "/no/such/folder"]).0, Some(2));
    assert_eq!(inspect(&["inspect"]).0, Some(2));
    assert_eq!(inspect(&["repair", path]).0, Some(2));
    make(folder.path());
    let (code, said) = inspect(&["inspect", path]);
    assert_eq!(code, Some(0));
    assert!(said.contains("everything acknowledged is there"), "{said}");
    flip_command(folder.path());
    let (code, said) = inspect(&["inspect", path]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("lost: record 2 is corrupt (entry 1 of term 1)"),
        "{said}"
    );
    assert!(
        said.contains("to come back from the others: entries 1 to 1"),
        "{said}"
    );
}

fn inspect(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_raft-wal"))
        .args(arguments)
        .output();
    let output = output.expect("a command that starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), said)
}

/// A log with one entry.
fn make(folder: &Path) -> Entry {
    let boot = Boot::first(Membership::of([1, 2, 3]));
    let mut wal = Wal::create(Files::new(folder), 1 << 16, &boot).expect("a new folder");
    let entry = Entry {
        at: AT,
        payload: Payload::Command(b"hello".as_slice().into()),
    };
    let write = Write {
        ticket: 1,
        entries: [entry.clone()].into(),
        ..Write::default()
    };
    wal.append(write).expect("a write");
    assert_eq!(wal.sync(), Ok(Some(1)));
    entry
}

fn flip_command(folder: &Path) {
    let path = folder.join("0000000000000000.log");
    let mut bytes = fs::read(&path).expect("a segment");
    let hello = bytes.windows(5).position(|window| window == b"hello");
    bytes[hello.expect("the command")] ^= 1;
    fs::write(&path, bytes).expect("a segment");
}
