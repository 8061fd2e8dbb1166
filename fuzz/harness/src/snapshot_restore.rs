//! Manifests, state files and whole storages, hostile and damaged.

use arbitrary::{Result, Unstructured};
use chandy_lamport::{
    File, KeyGroups, Keyed, Manifest, MemoryStorage, Part, Schedule, SnapshotId, Storage, Task,
    recover,
};

/// Reads `data` as it is, and restores from a storage that it damages: what is found is one of those that were written.
pub fn snapshot_restore(data: &[u8]) {
    if let Ok(manifest) = Manifest::from_bytes(data) {
        let again = Manifest::from_bytes(&manifest.to_bytes());
        assert_eq!(again, Ok(manifest));
    }
    let _refused = state().load(data).is_err();
    let _refused = state().load(&[b"CLKS\x01", data].concat()).is_err();
    let _ended = damage(&mut Unstructured::new(data)).is_err();
}

fn damage(u: &mut Unstructured<'_>) -> Result<()> {
    let mut storage = MemoryStorage::default();
    let written: Vec<_> = (1..=3).map(|id| write(&mut storage, id)).collect();
    let names = storage.names().unwrap_or_default();
    let changes = u.int_in_range(0..=4)?;
    for _ in 0..changes {
        let name = u.choose(&names)?;
        let mut bytes = storage.read(name).unwrap_or_default().unwrap_or_default();
        match u.int_in_range(0..=3)? {
            0 => {
                let Ok(()) = storage.delete(name);
                continue;
            }
            1 => bytes.truncate(u.int_in_range(0..=bytes.len())?),
            2 => bytes.push(u.arbitrary()?),
            _ if !bytes.is_empty() => {
                let at = u.choose_index(bytes.len())?;
                bytes[at] ^= 1 << u.int_in_range(0..=7)?;
            }
            _ => {}
        }
        let Ok(()) = storage.put(name, &bytes);
    }
    let Ok(recovered) = recover(&storage, &Schedule::every(1));
    if changes == 0 {
        assert_eq!(recovered.manifest.as_ref(), written.last());
    }
    if let Some(manifest) = recovered.manifest {
        assert!(
            written.contains(&manifest),
            "a snapshot that was never taken"
        );
        let mut state = state();
        for file in manifest.files() {
            let Ok(bytes) = storage.read(&file.name);
            state
                .load(&bytes.unwrap_or_default())
                .expect("what was written");
        }
        assert_eq!(state.get(&manifest.id), Some(&manifest.id));
        assert_eq!(state.len(), usize::try_from(manifest.id).unwrap_or(0));
    }
    Ok(())
}

/// Snapshot `id` has the keys up to it: the first in its base, each other one in an increment.
fn write(storage: &mut MemoryStorage, id: u64) -> Manifest {
    let mut files = Vec::new();
    for since in 1..=id {
        let mut state = state();
        state.change(&since, || since, |_| ());
        let bytes = state.snapshot().whole();
        let name = format!("state-0-{since}");
        let Ok(()) = storage.put(&name, &bytes);
        files.push(File::of(name, SnapshotId(since), &bytes));
    }
    let task = Task {
        operator: 0,
        subtask: 0,
    };
    let part = Part {
        groups: 0..8,
        state: files,
        ..Part::default()
    };
    let manifest = Manifest {
        id,
        key_groups: 8,
        parts: vec![(task, part)],
    };
    let Ok(()) = storage.put(&Manifest::name(SnapshotId(id)), &manifest.to_bytes());
    manifest
}

fn state() -> Keyed<u64, u64> {
    let groups = KeyGroups::new(8).expect("8 is allowed");
    Keyed::new(groups, 0..8)
}

#[test]
fn smoke() {
    arbtest::arbtest(|u| {
        snapshot_restore(u.bytes(u.len())?);
        Ok(())
    })
    .budget_ms(1000);
}
