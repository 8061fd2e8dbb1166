//! `raft-wal inspect FOLDER` says what a durable log holds and what of it is lost; it changes nothing.
#![expect(clippy::print_stdout, reason = "a command")]

use std::env;
use std::path::Path;
use std::process::ExitCode;

use raft_log::wal::{Files, Found, Kind, Recovery, State, WalError};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    match &arguments[..] {
        [command, folder] if command == "inspect" => inspect(Path::new(folder)),
        _ => {
            println!("usage: raft-wal inspect FOLDER");
            ExitCode::from(2)
        }
    }
}

/// 0 if everything acknowledged is there, 1 if something is lost, 2 if there is no log.
fn inspect(folder: &Path) -> ExitCode {
    match Recovery::read(&Files::new(folder)) {
        Ok(recovery) => {
            segments(&recovery);
            summary(&recovery);
            ExitCode::from(u8::from(!recovery.is_whole()))
        }
        Err(error @ WalError::Unreadable) => {
            println!("{error}: this server must not come back under its name");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("{}: {error}", folder.display());
            ExitCode::from(2)
        }
    }
}

fn segments(recovery: &Recovery) {
    for segment in &recovery.segments {
        println!(
            "segment {:x}: {} bytes, {} records",
            segment.number,
            segment.bytes,
            segment.records.len()
        );
        println!(
            "{:>9} {:>9} {:>8} {:>9} {:>7} {:17} state",
            "record", "offset", "bytes", "index", "term", "kind"
        );
        for found in &segment.records {
            record(found);
        }
    }
}

fn record(found: &Found) {
    let placed = found.kind.is_some_and(|kind| kind != Kind::HardState);
    let place = |number: u64| {
        if placed {
            number.to_string()
        } else {
            "-".into()
        }
    };
    println!(
        "{:>9} {:>9} {:>8} {:>9} {:>7} {:17} {}",
        found.sequence,
        found.offset,
        found.length,
        place(found.at.index),
        place(found.at.term),
        found.kind.map_or("?", kind),
        state(found.state)
    );
}

fn summary(recovery: &Recovery) {
    let boot = &recovery.boot;
    let vote = boot.hard_state.voted_for;
    println!(
        "term {}, vote {}, snapshot up to {}, {} entries after it",
        boot.hard_state.term,
        vote.map_or_else(|| "none".into(), |id| id.to_string()),
        boot.snapshot.last().index,
        boot.entries.len()
    );
    for damage in &recovery.healed {
        println!("was lost, and replaced: {damage}");
    }
    for damage in &recovery.damage {
        println!("lost: {damage}");
    }
    if recovery.is_whole() {
        println!("everything acknowledged is there");
    } else {
        let first = boot.snapshot.last().index;
        let last = boot.entries.last().map_or(first, |entry| entry.at.index);
        println!(
            "to come back from the others: entries {} to {}",
            last + 1,
            boot.hard_state.floor.index
        );
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::HardState => "hard state",
        Kind::Empty => "empty",
        Kind::Command => "command",
        Kind::Membership => "membership",
        Kind::Withheld => "withheld",
        Kind::Snapshot => "snapshot",
        Kind::SnapshotInstead => "snapshot, instead",
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Intact => "intact",
        State::Repairable => "one header lost",
        State::Torn => "torn, never acknowledged",
        State::Corrupt => "CORRUPT",
        State::Lost => "LOST",
    }
}
