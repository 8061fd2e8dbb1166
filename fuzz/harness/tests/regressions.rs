//! Replays `fuzz/regressions/<target>/`: one input for each bug that was found and fixed.

use std::fs;
use std::path::{Path, PathBuf};

type Target = fn(&[u8]);

const TARGETS: &[(&str, Target)] = &[
    ("apic", fuzz_harness::apic),
    ("e1000", fuzz_harness::e1000),
    ("histories", fuzz_harness::histories),
    ("interpreter", fuzz_harness::interpreter),
    ("native_unit", fuzz_harness::native_unit),
    ("nested_walk", fuzz_harness::nested_walk),
    ("page_walk", fuzz_harness::page_walk),
    ("pc_devices", fuzz_harness::pc_devices),
    ("pci_config", fuzz_harness::pci_config),
    ("rdd_blocks", fuzz_harness::rdd_blocks),
    ("kv_frames", fuzz_harness::kv_frames),
    ("raft_step", fuzz_harness::raft_step),
    ("raft_wal", fuzz_harness::raft_wal),
    ("shadow", fuzz_harness::shadow),
    ("snapshot_frames", fuzz_harness::snapshot_frames),
    ("snapshot_process", fuzz_harness::snapshot_process),
    ("snapshot_restore", fuzz_harness::snapshot_restore),
    ("vfio_user_messages", fuzz_harness::vfio_user_messages),
    ("vhost_user_messages", fuzz_harness::vhost_user_messages),
    ("virtio_net", fuzz_harness::virtio_net),
    ("virtqueue_device", fuzz_harness::virtqueue_device),
    ("virtqueue_driver", fuzz_harness::virtqueue_driver),
    ("vtd", fuzz_harness::vtd),
    ("sriov", fuzz_harness::sriov),
    ("two_stages", fuzz_harness::two_stages),
];

#[test]
fn fixed_bugs_stay_fixed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regressions");
    let mut replayed = 0;
    for folder in entries(&root) {
        let name = folder.file_name().expect("an entry has a name");
        let (_, target) = TARGETS
            .iter()
            .find(|(target, _)| name == *target)
            .unwrap_or_else(|| panic!("{} belongs to no target", folder.display()));
        for input in entries(&folder) {
            eprintln!("{}", input.display());
            target(&fs::read(&input).expect("a readable input"));
            replayed += 1;
        }
    }
    assert!(replayed > 0, "no inputs at {}", root.display());
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    paths.sort();
    paths
}
