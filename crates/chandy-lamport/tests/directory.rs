//! A folder as storage.
#![cfg(feature = "directory")]

use std::fs;

use chandy_lamport::{Directory, Manifest, Schedule, SnapshotId, Storage, Unusable, recover};

#[test]
fn what_is_put_is_read_until_it_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let mut storage = Directory::open(&folder.path().join("new")).unwrap();
    assert_eq!(storage.read("state-1").unwrap(), None);
    storage.put("state-1", b"one").unwrap();
    storage.put("state-1", b"two").unwrap();
    assert_eq!(
        storage.read("state-1").unwrap().as_deref(),
        Some(&b"two"[..])
    );
    assert_eq!(storage.names().unwrap(), ["state-1"]);
    storage.delete("state-1").unwrap();
    storage.delete("state-1").unwrap();
    assert!(storage.names().unwrap().is_empty());
}

#[test]
fn a_torn_manifest_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut storage = Directory::open(folder.path()).unwrap();
    for id in [1, 2] {
        let manifest = Manifest {
            id,
            key_groups: 1,
            parts: Vec::new(),
        };
        let name = Manifest::name(SnapshotId(id));
        storage.put(&name, &manifest.to_bytes()).unwrap();
    }
    let newest = folder.path().join(Manifest::name(SnapshotId(2)));
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() - 1]).unwrap();
    let recovered = recover(&storage, &Schedule::every(1)).unwrap();
    assert_eq!(recovered.manifest.map(|manifest| manifest.id), Some(1));
    assert!(matches!(
        recovered.skipped[..],
        [(SnapshotId(2), Unusable::Manifest(_))]
    ));
    assert_eq!(recovered.last, SnapshotId(2));
}

#[test]
fn a_folder_that_is_gone_is_an_error_and_no_empty_storage() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Directory::open(&folder.path().join("gone")).unwrap();
    fs::remove_dir(folder.path().join("gone")).unwrap();
    assert!(recover(&storage, &Schedule::every(1)).is_err());
}
