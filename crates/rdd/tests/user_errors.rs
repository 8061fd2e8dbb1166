//! What users get wrong: a clear error that names the place, no hang, no files left.
#![cfg(feature = "threads")]

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rdd::scheduler::StageId;
use rdd::{
    Block, Context, Faults, FetchError, JobError, Output, RddId, ShuffleId, StorageLevel, TaskEnv,
    TaskError, ThreadOptions, Threads,
};

#[test]
fn a_panic_in_a_closure_names_stage_partition_and_attempt() {
    let context = Context::local(2).expect("a folder");
    let pairs = context
        .parallelize(0..8u64, 4)
        .map(|n| if n == 5 { panic!("five") } else { (n, n) });
    let error = pairs
        .reduce_by_key(2, |a, b| a + b)
        .collect()
        .expect_err("a panic");
    let expected = JobError::Task {
        stage: 0,
        name: "map".to_owned(),
        partition: 2,
        attempt: 4,
        message: "a closure panicked: five".to_owned(),
    };
    assert_eq!(error, expected);
    assert_eq!(
        context.parallelize([1], 1).count(),
        Ok(1),
        "the context is still good"
    );
}

#[test]
fn an_absent_file_is_named() {
    let context = Context::local(2).expect("a folder");
    let error = context
        .text_file("no/such/file", 2)
        .count()
        .expect_err("no file")
        .to_string();
    assert!(
        error.contains("cannot read no/such/file: No such file"),
        "{error}"
    );
}

#[test]
fn a_line_that_is_not_utf8_is_located() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"good\nb\xffd\nmore\n").expect("written");
    let context = Context::local(2).expect("a folder");
    let error = context
        .text_file(file.path(), 2)
        .count()
        .expect_err("not UTF-8")
        .to_string();
    assert!(error.contains("not UTF-8 in the line at byte 5"), "{error}");
}

#[test]
fn a_folder_that_vanishes_is_an_error_of_the_task() {
    let options = ThreadOptions {
        table_bytes: 100,
        memory_bytes: 100,
        ..ThreadOptions::default()
    };
    let threads = Arc::new(Threads::new(options).expect("a folder"));
    std::fs::remove_dir_all(threads.folder()).expect("removed");
    let context = Context::new(threads, 2);
    let pairs = context.parallelize((0..100u64).map(|n| (n, n)), 2);
    let error = pairs
        .reduce_by_key(2, |a, b| a + b)
        .collect()
        .expect_err("nowhere to spill")
        .to_string();
    assert!(error.contains("cannot spill to"), "{error}");
}

#[test]
fn every_line_is_in_exactly_one_split() {
    let text = "one\n\ntwo\r\nthree is longer\n\nfour";
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    let context = Context::local(2).expect("a folder");
    for splits in 1..40 {
        let lines = context
            .text_file(file.path(), splits)
            .collect()
            .expect("runs");
        assert_eq!(lines, text.lines().collect::<Vec<_>>(), "{splits} splits");
    }
}

#[test]
fn a_worker_lost_at_any_moment_changes_no_result() {
    let run = |lose_worker_at| {
        let faults = Faults {
            lose_worker_at,
            ..Faults::default()
        };
        let threads = Arc::new(
            Threads::new(ThreadOptions {
                faults,
                ..ThreadOptions::default()
            })
            .expect("a folder"),
        );
        let context = Context::new(threads.clone(), 2);
        let pairs = context.parallelize((0..1000u64).map(|n| (n % 97, n)), 4);
        let sums = pairs
            .reduce_by_key(3, |a, b| a + b)
            .map(|(k, v)| (v % 7, k))
            .reduce_by_key(2, |a, b| a + b);
        let mut all = sums.collect().expect("runs");
        all.sort_unstable();
        (all, threads.counts())
    };
    let (plain, counts) = run(None);
    assert_eq!(counts.finished, 9);
    for moment in 1..=counts.finished {
        let (recovered, counts) = run(Some(moment));
        assert_eq!(recovered, plain, "lost at {moment}");
        assert!(counts.attempts <= 18, "{counts:?}");
    }
}

#[test]
fn a_lost_worker_takes_the_partitions_it_kept_and_no_others() {
    let faults = Faults {
        lose_worker_at: Some(8),
        ..Faults::default()
    };
    let options = ThreadOptions {
        faults,
        ..ThreadOptions::default()
    };
    let context = Context::new(Arc::new(Threads::new(options).expect("a folder")), 2);
    let computed = Arc::new(AtomicU64::new(0));
    let count = computed.clone();
    let kept = context
        .parallelize(0..8u64, 8)
        .map(move |n| {
            count.fetch_add(1, Ordering::Relaxed);
            // Neither thread can have done all of it while this one waits for the other.
            while n < 2 && count.load(Ordering::Relaxed) < 2 {
                std::thread::yield_now();
            }
            n
        })
        .cache();
    assert_eq!(kept.count(), Ok(8));
    let before = computed.load(Ordering::Relaxed);
    assert_eq!(kept.count(), Ok(8));
    let again = computed.load(Ordering::Relaxed) - before;
    assert!((1..8).contains(&again), "{again} of 8");
}

#[test]
fn a_table_over_its_budget_with_nowhere_to_spill_is_an_error() {
    struct Small;

    impl TaskEnv for Small {
        fn fetch(
            &self,
            shuffle: ShuffleId,
            map: usize,
            reduce: usize,
        ) -> Result<Block, FetchError> {
            Err(FetchError {
                shuffle,
                map,
                reduce,
                source: None,
            })
        }

        fn cached(&self, _: RddId, _: usize) -> Option<Block> {
            None
        }

        fn cache(&self, _: RddId, _: usize, _: StorageLevel, _: Output) {}

        fn table_bytes(&self) -> usize {
            160
        }
    }

    let context = Context::local(2).expect("a folder");
    let job = |keys: u64| {
        let pairs = context.parallelize((0..100u64).map(|n| (n % keys, n)), 1);
        rdd::collect_job(&pairs.reduce_by_key(1, |a, b| a + b))
    };
    // Ten entries of 16 bytes.
    assert!(job(10).run_task(StageId(0), 0, &Small).is_ok());
    let error = job(11).run_task(StageId(0), 0, &Small).map(drop);
    assert!(
        matches!(error, Err(TaskError::Budget { budget: 160 })),
        "{error:?}"
    );
}

#[test]
fn an_operator_that_is_not_deterministic_is_named_and_its_consumers_are_made_again() {
    let run = |lose_worker_at| {
        let options = ThreadOptions {
            check_determinism: true,
            workers: 1,
            faults: Faults {
                lose_worker_at,
                ..Faults::default()
            },
            ..ThreadOptions::default()
        };
        let threads = Arc::new(Threads::new(options).expect("a folder"));
        let context = Context::new(threads.clone(), 1);
        let turn = Arc::new(AtomicU64::new(0));
        // Each time another number, which both reduces are given.
        let drawn = context
            .parallelize([0u64, 1], 1)
            .map(move |key| (key, turn.fetch_add(1, Ordering::Relaxed) / 2))
            .set_name("draw");
        let mut sums = drawn
            .reduce_by_key(2, |a, b| a + b)
            .collect()
            .expect("a result");
        sums.sort_unstable();
        (sums, threads.not_deterministic())
    };
    assert_eq!(run(None), (vec![(0, 0), (1, 0)], vec![]));
    // The one worker dies with the blocks when the first reduce is done: both reduces see the second draw.
    let (sums, reports) = run(Some(2));
    assert_eq!(sums[0].1, sums[1].1, "{sums:?}");
    assert_eq!(reports.len(), 1);
    assert_eq!(
        (reports[0].operator.as_str(), reports[0].partition),
        ("map \"draw\"", 0)
    );
}

/// A file system of 64 KiB that goes with its folder; none without root.
struct TinyDisk(tempfile::TempDir);

impl TinyDisk {
    fn mounted() -> Option<Self> {
        let folder = tempfile::tempdir().ok()?;
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "none"])
            .arg(folder.path())
            .stderr(std::process::Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(folder))
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
    }
}

#[test]
fn a_full_disk_is_an_error_of_the_task_and_leaves_no_files() {
    let Some(disk) = TinyDisk::mounted() else {
        eprintln!("skipped: a small file system needs root");
        return;
    };
    // Tables that are too large, blocks that are too large.
    for (table_bytes, memory_bytes) in [(1000, usize::MAX), (usize::MAX, 1000)] {
        let options = ThreadOptions {
            table_bytes,
            memory_bytes,
            folder: Some(disk.0.path().into()),
            ..ThreadOptions::default()
        };
        let context = Context::new(Arc::new(Threads::new(options).expect("a folder")), 2);
        let pairs = context.generate(2, |p| {
            (0..100_000u64).map(move |n| (n * 2 + p as u64, [n; 4]))
        });
        let sums = pairs.reduce_by_key(2, |a, _| a);
        let error = sums.count().expect_err("a full disk").to_string();
        assert!(
            error.contains("cannot spill to") && error.contains("No space left"),
            "{error}"
        );
        assert_eq!(context.parallelize([1], 1).count(), Ok(1));
        drop((pairs, sums, context));
        let left = std::fs::read_dir(disk.0.path()).expect("mounted").count();
        assert_eq!(left, 0, "files are left");
    }
}
