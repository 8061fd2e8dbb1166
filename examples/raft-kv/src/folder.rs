//! A server's folder, and whose it is.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use raft_log::wal::{Files, Kind, Recovery, State, Wal, WalError};
use raft_log::{Boot, Membership, NodeId};

use crate::store::{Store, StoreError};

/// What a server finds when it starts.
#[derive(Debug)]
pub struct Opened {
    /// Its log.
    pub wal: Wal<Files>,
    /// Its state machine, as far as `boot` says.
    pub store: Store,
    /// For [`raft_log::Raft::new`].
    pub boot: Boot,
    /// Entries that were acknowledged and are lost, first and last.
    pub lost: Option<(u64, u64)>,
}

/// Opens the folder of server `id`, or makes it: with these first members, or none if it joins.
///
/// # Errors
///
/// If the folder belongs to another server, another process uses it, or nothing can be made of its log.
pub fn open(folder: &Path, cluster: &str, id: NodeId, members: &Membership) -> Result<Opened> {
    fs::create_dir_all(folder.join("log")).with_context(|| folder.display().to_string())?;
    let identity = folder.join("identity");
    let mine = format!("cluster {cluster}\nserver {id}\n");
    let known = identity.exists();
    if known {
        let found = fs::read_to_string(&identity)?;
        ensure!(
            found == mine,
            "{} belongs to {}, not to {}",
            folder.display(),
            found.trim_end().replace('\n', ", "),
            mine.trim_end().replace('\n', ", ")
        );
    }
    let mut store = open_state(&folder.join("state.redb"))?;
    let (wal, recovery) = open_log(&folder.join("log"), known, members)?;
    // Only now: a server whose log is gone must not come back under its name, for it may have voted.
    if !known {
        write_durably(folder, "identity", mine.as_bytes())?;
    }
    let mut boot = recovery.boot.clone();
    let lost = lost(&recovery);
    boot.applied = catch_up(&mut store, &boot)?;
    Ok(Opened {
        wal,
        store,
        boot,
        lost,
    })
}

/// A state that cannot be read, or was never finished, is made again from the log.
fn open_state(path: &Path) -> Result<Store> {
    match Store::open(path) {
        Err(StoreError::Locked) => bail!("another server uses {}", path.display()),
        Err(StoreError::Redb(_)) => {
            fs::remove_file(path)?;
            Ok(Store::open(path)?)
        }
        store => Ok(store?),
    }
}

fn open_log(folder: &Path, known: bool, members: &Membership) -> Result<(Wal<Files>, Recovery)> {
    let bytes = Wal::<Files>::SEGMENT_BYTES;
    match Wal::open(Files::new(folder), bytes) {
        Err(WalError::Empty) if !known => {
            let boot = Boot::first(members.clone());
            Wal::create(Files::new(folder), bytes, &boot)?;
            Ok(Wal::open(Files::new(folder), bytes)?)
        }
        Err(WalError::Empty | WalError::Unreadable) => bail!(
            "the log in {} is lost, and with it whom this server voted for: remove it from the cluster, and add one with \
             another name and an empty folder",
            folder.display()
        ),
        opened => opened.with_context(|| folder.display().to_string()),
    }
}

fn lost(recovery: &Recovery) -> Option<(u64, u64)> {
    let last = recovery.boot.entries.last();
    let last = last.map_or_else(|| recovery.boot.snapshot.last(), |entry| entry.at);
    let floor = recovery.boot.hard_state.floor;
    (last < floor).then_some((last.index + 1, floor.index))
}

/// How far the state machine is: as far as its file says where the log agrees, else as far as the snapshot.
fn catch_up(store: &mut Store, boot: &Boot) -> Result<u64> {
    let applied = store.applied();
    let covered = boot.snapshot.last();
    let in_log = boot.entries.iter().any(|entry| entry.at == applied);
    if applied == covered || in_log && applied.index > covered.index {
        return Ok(applied.index);
    }
    store.restore(covered, boot.snapshot.data())?;
    Ok(covered.index)
}

fn write_durably(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let (new, old): (PathBuf, PathBuf) = (folder.join("new"), folder.join(name));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, old)?;
    Ok(File::open(folder)?.sync_all()?)
}

/// Bytes of a record's header, before its payload.
const HEADER_BYTES: u64 = 160;

/// Flips a bit in the middle of what a stopped server's log says, as a disk may. Which entry that hits.
///
/// # Errors
///
/// If the log cannot be read, is damaged already, or has no entry.
pub fn flip_a_bit(folder: &Path) -> Result<u64> {
    let folder = folder.join("log");
    let found = Recovery::read(&Files::new(&folder))?;
    ensure!(found.is_whole(), "the log is damaged already");
    let covered = found.boot.snapshot.last().index;
    let segments = found.segments.iter().flat_map(|segment| {
        let records = segment.records.iter();
        records.map(|record| (segment.number, record))
    });
    let entries = segments.filter(|(_, record)| {
        record.kind == Some(Kind::Command)
            && record.state == State::Intact
            && record.at.index > covered
    });
    let entries: Vec<_> = entries.collect();
    let (segment, record) = entries.get(entries.len() / 2).context("the log is empty")?;
    let place = record.offset + HEADER_BYTES + record.length / 2;
    let name = folder.join(format!("{segment:016x}.log"));
    let file = File::options().read(true).write(true).open(name)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, place)?;
    file.write_all_at(&[byte[0] ^ 0x10], place)?;
    file.sync_all()?;
    let found = Recovery::read(&Files::new(&folder))?;
    ensure!(!found.is_whole(), "the flipped bit was not noticed");
    Ok(record.at.index)
}
