//! Checkpoints: lineage is cut, what is written is found again, and what is damaged is named.
#![cfg(feature = "threads")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rdd::{Context, Directory, Faults, JobError, Storage, ThreadOptions, Threads};

fn context() -> Context {
    Context::local(2).expect("a temporary folder")
}

fn directory(folder: &Path) -> Arc<dyn Storage> {
    Arc::new(Directory::new(folder).expect("a folder"))
}

fn parts(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a checkpoint");
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.filter(|path| !path.ends_with("manifest")).collect()
}

#[test]
fn a_checkpoint_has_no_ancestors_and_computes_nothing_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let context = context();
    let computed = context.accumulator();
    let count = computed.clone();
    let pairs = context.parallelize(0..100u64, 4).map(move |n| {
        count.add(1);
        (n % 7, n)
    });
    let sums = pairs.reduce_by_key(3, |a, b| a + b);
    let kept = sums
        .checkpoint(directory(folder.path()), "sums")
        .expect("written");
    assert_eq!(computed.value(), 100);
    assert_eq!(kept.lineage().ancestry().len(), 1);
    assert_eq!(kept.lineage().partitioner(), sums.lineage().partitioner());
    assert_eq!(
        kept.collect_as_map().expect("read"),
        sums.collect_as_map().expect("computed")
    );
    let before = computed.value();
    let joined = kept.join(&kept.map_values(|v| v + 1), 3);
    assert!(
        !joined.to_debug_string().contains("+-"),
        "still co-partitioned"
    );
    assert_eq!(joined.count(), Ok(7));
    assert_eq!(computed.value(), before);
}

#[test]
fn rounds_beyond_number_stay_shallow() {
    let folder = tempfile::tempdir().expect("a folder");
    let context = context();
    let mut numbers = context.parallelize(0..10u64, 2);
    for round in 0..3000 {
        numbers = numbers.map(|n| n + 1);
        if round % 100 == 99 {
            let name = format!("round-{round}");
            numbers = numbers
                .checkpoint(directory(folder.path()), &name)
                .expect("written");
        }
    }
    assert_eq!(numbers.collect(), Ok((3000..3010).collect()));
    assert_eq!(numbers.lineage().ancestry().len(), 1);
}

#[test]
fn a_worker_lost_afterwards_costs_nothing_before_the_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let faults = Faults {
        lose_worker_at: Some(9),
        ..Faults::default()
    };
    let options = ThreadOptions {
        faults,
        ..ThreadOptions::default()
    };
    let threads = Arc::new(Threads::new(options).expect("a folder"));
    let context = Context::new(threads.clone(), 2);
    let computed = context.accumulator();
    let count = computed.clone();
    let numbers = context.parallelize(0..100u64, 4).map(move |n| {
        count.add(1);
        (n % 5, n)
    });
    // Four tasks; then eight more, with the loss among them.
    let kept = numbers
        .checkpoint(directory(folder.path()), "numbers")
        .expect("written");
    let sums = kept.reduce_by_key(4, |a, b| a + b);
    assert_eq!(sums.values().reduce(|a, b| a + b), Ok(Some(4950)));
    assert_eq!(threads.counts().workers_lost, 1);
    assert_eq!(computed.value(), 100);
}

#[test]
fn a_later_program_restores_it_and_removes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let words = ["to", "be", "or", "not"].map(str::to_owned);
    let written = context()
        .parallelize(words.clone(), 3)
        .checkpoint(directory(folder.path()), "words")
        .map(drop);
    assert_eq!(written, Ok(()));

    let storage = directory(folder.path());
    let context = context();
    let again = context.restore::<String>(storage.clone(), "words");
    assert_eq!(again.expect("there").collect(), Ok(words.to_vec()));
    let other = context.restore::<u64>(storage.clone(), "words").map(drop);
    let error = other.expect_err("other elements").to_string();
    assert!(
        error.contains("its elements are alloc::string::String"),
        "{error}"
    );
    let twice = context
        .parallelize([1u8], 1)
        .checkpoint(storage.clone(), "words");
    let error = twice.map(drop).expect_err("taken").to_string();
    assert!(error.contains("one of this name"), "{error}");

    rdd::remove_checkpoint(&*storage, "words").expect("removed");
    assert_eq!(parts(&folder.path().join("words")), Vec::<PathBuf>::new());
    assert!(context.restore::<String>(storage, "words").is_err());
}

#[test]
fn a_damaged_or_absent_part_is_an_error_of_its_task() {
    let folder = tempfile::tempdir().expect("a folder");
    let context = context();
    let kept = context
        .parallelize(0..100u64, 1)
        .checkpoint(directory(folder.path()), "numbers")
        .expect("written");
    let part = parts(&folder.path().join("numbers")).remove(0);
    let mut bytes = std::fs::read(&part).expect("there");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&part, bytes).expect("written");
    let error = kept.count().expect_err("damaged");
    assert!(matches!(&error, JobError::Task { name, .. } if name == "checkpoint \"numbers\""));
    assert!(error.to_string().contains("checksum"), "{error}");
    std::fs::remove_file(&part).expect("removed");
    let error = kept.count().expect_err("absent").to_string();
    assert!(error.contains("numbers/part-00000"), "{error}");
}

#[test]
fn a_full_disk_leaves_no_checkpoint() {
    struct Full;

    impl Storage for Full {
        fn write(&self, _: &str, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn read(&self, _: &str) -> io::Result<Vec<u8>> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn remove(&self, _: &str) -> io::Result<()> {
            Ok(())
        }
    }

    let kept = context()
        .parallelize(0..4u8, 2)
        .checkpoint(Arc::new(Full), "n");
    let error = kept.map(drop).expect_err("full").to_string();
    assert!(error.contains("no storage space"), "{error}");
}
