//! The scripts by which etcd tests its Raft, run against this one.
//!
//! They are fetched, not kept here: `ETCD_SCRIPTS` names a folder with etcd's `raft` in it or the repository etcd-io/raft;
//! without it Debian's package is downloaded by `apt-get`. What cannot agree, and why, is in the README.

mod changes;
mod cluster;
mod compare;
mod fetch;
mod quorum;
mod reference;
mod script;

use fetch::scripts;

#[test]
fn etcd_counts_majorities_the_same() {
    for script in scripts("quorum/testdata") {
        quorum::run(&script);
    }
}

#[test]
fn etcd_changes_memberships_to_the_same() {
    for script in scripts("confchange/testdata") {
        changes::run(&script);
    }
}

#[test]
fn etcd_clusters_end_up_in_the_same_state() {
    let failed: Vec<_> = scripts("testdata")
        .iter()
        .filter_map(|script| cluster::run(script).err())
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
