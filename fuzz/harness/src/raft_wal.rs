//! A durable log whose disk holds anything.

use arbitrary::{Result, Unstructured};
use raft_log::wal::{Fault, Memory, Storage, Wal};
use raft_log::{Boot, Entry, Membership, Options, Payload, Position, Raft, Write};

const CHANGES_MAX: usize = 20;
const SEGMENT_BYTES: u64 = 4096;

/// Hostile bytes instead of a log, or in one: recovery ends, a server starts from what it says, and what is written after
/// it is there when the log is opened again.
pub fn raft_wal(data: &[u8]) {
    // The end of the input is the end of the run.
    let _ended = play(&mut Unstructured::new(data)).is_err();
}

fn play(u: &mut Unstructured<'_>) -> Result<()> {
    let mut disk = if u.arbitrary()? {
        written(u)?
    } else {
        Memory::default()
    };
    for _ in 0..u.int_in_range(0..=CHANGES_MAX)? {
        change(u, &mut disk)?;
    }
    let Ok((mut wal, recovery)) = Wal::open(disk, SEGMENT_BYTES) else {
        return Ok(());
    };
    // Checksums that are right over a log that is wrong are refused, not fatal.
    let _refused = Raft::new(Options::new(1, 1), &recovery.boot, 0).is_err();
    let last = recovery.boot.entries.last().map(|entry| entry.at);
    let last = last.unwrap_or_else(|| recovery.boot.snapshot.last());
    let (Some(term), Some(index)) = (
        recovery.boot.hard_state.term.max(last.term).checked_add(1),
        last.index.checked_add(1),
    ) else {
        return Ok(());
    };
    let entry = Entry {
        at: Position { term, index },
        payload: Payload::Empty,
    };
    let write = Write {
        entries: [entry.clone()].into(),
        ..Write::default()
    };
    wal.append(write).expect("a log just opened");
    wal.sync().expect("a good disk");
    let disk = wal.into_storage();
    let (_, again) = Wal::open(disk, SEGMENT_BYTES).expect("a log just opened");
    assert_eq!(again.boot.entries.last(), Some(&entry));
    assert_eq!(again.boot.snapshot, recovery.boot.snapshot);
    Ok(())
}

/// A log of several segments, some of whose writes went wrong.
fn written(u: &mut Unstructured<'_>) -> Result<Memory> {
    let boot = Boot::first(Membership::of([1, 2, 3]));
    let mut wal = Wal::create(Memory::default(), SEGMENT_BYTES, &boot).expect("a good disk");
    for index in 1..=u.int_in_range(0..=20)? {
        let bytes = vec![7; u.int_in_range(0..=1000)?];
        let entry = Entry {
            at: Position { term: 1, index },
            payload: Payload::Command(bytes.into()),
        };
        if u.ratio(1, 8)? {
            let by = u.int_in_range(0..=5000)?;
            wal.storage_mut().fail(index % 4, Fault::Misdirected(by));
        }
        let write = Write {
            entries: [entry].into(),
            ..Write::default()
        };
        wal.append(write).expect("a good disk");
        wal.sync().expect("a disk that lies, but does not fail");
    }
    let mut disk = wal.into_storage();
    disk.crash(u.arbitrary()?);
    Ok(disk)
}

fn change(u: &mut Unstructured<'_>, disk: &mut Memory) -> Result<()> {
    let number: u8 = u.int_in_range(0..=3)?;
    let half = if u.arbitrary()? { "log" } else { "ids" };
    let name = format!("{number:016x}.{half}");
    match u.int_in_range(0..=3)? {
        0 => disk.put(&name, u.arbitrary()?),
        1 => {
            let _absent = disk.remove(&name).is_err();
        }
        _ => {
            if let Ok(bytes) = disk.len(&name) {
                disk.flip(&name, u.int_in_range(0..=bytes * 8)?);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(|u| {
            super::raft_wal(u.bytes(u.len())?);
            Ok(())
        })
        .budget_ms(1_000);
    }
}
