//! Jobs on processes of this host, whose workers are stopped, killed or robbed of their blocks by their own tasks.
//!
//! The workers are this binary, started again, so it has no test harness: only what nextest asks of one.
#![expect(clippy::print_stdout, reason = "the list of tests is read by nextest")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rdd::{Context, ProcessOptions, Processes, Rdd, RunCounts, serve_if_worker};

type Test = (&'static str, fn());

const TESTS: [Test; 4] = [
    ("nothing_happens_and_every_task_runs_once", undisturbed),
    ("a_stopped_worker_gets_a_backup", stopped),
    ("a_killed_worker_is_replaced", killed),
    ("deleted_shuffle_folders_are_made_again", deleted),
];

fn main() {
    serve_if_worker(|context| rdd::collect_job(&sums(context, signs(parent_id()))));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    if has("--list") {
        let listed = TESTS.iter().filter(|_| !has("--ignored"));
        listed.for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    for (name, test) in TESTS {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            test();
            println!("{name}: ok");
        }
    }
}

fn undisturbed() {
    let (counts, _) = run(None);
    assert_eq!((counts.attempts, counts.finished), (8, 8));
}

fn stopped() {
    let (counts, _) = run(Some("stop"));
    assert!(counts.backups > 0, "{counts:?}");
    assert_eq!(counts.workers_lost, 0);
}

fn killed() {
    let (counts, _) = run(Some("kill"));
    assert_eq!(counts.workers_lost, 1);
    assert!(counts.attempts > 8, "{counts:?}");
}

fn deleted() {
    let (counts, folder) = run(Some("delete"));
    assert!(counts.attempts > 8, "{counts:?}");
    assert_eq!((counts.workers_lost, counts.not_deterministic), (0, 0));
    let folder = PathBuf::from(folder);
    assert!(folder.is_absolute() && !folder.exists(), "{folder:?}");
}

/// Runs the job with one fault, checks the sums, and gives what the task that caused the fault left written.
fn run(fault: Option<&str>) -> (RunCounts, String) {
    let signs = signs(std::process::id());
    let _ = fs::remove_dir_all(&signs);
    fs::create_dir_all(&signs).expect("a folder");
    if let Some(fault) = fault {
        File::create(signs.join(fault)).expect("a sign");
    }
    let mut options = ProcessOptions::default();
    if fault != Some("stop") {
        // A busy machine may make any task look slow.
        options.limits.backup_percent = 0;
    }
    let processes = Arc::new(Processes::new(options).expect("a folder"));
    let context = Context::new(processes.clone(), 1);
    let found = sums(&context, signs.clone()).collect().expect("sums");
    let mut expected = BTreeMap::new();
    (0..VALUES).for_each(|n| *expected.entry(n % 10).or_insert(0) += n);
    assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), expected);

    let counts = processes.counts();
    drop((context, processes));
    let written = fs::read_to_string(signs.join("once")).unwrap_or_default();
    assert_eq!(fault.is_some(), !written.is_empty(), "{fault:?} happened");
    fs::remove_dir_all(&signs).expect("there");
    (counts, written)
}

/// Four maps and four reduces. The last map may stop or kill its process; a reduce may delete all blocks.
fn sums(context: &Context, signs: PathBuf) -> Rdd<(u64, u64)> {
    let at_reduce = signs.clone();
    let pairs = context.parallelize(0..VALUES, 4).map(move |n| {
        if n == VALUES - 1 {
            for (sign, signal) in [("stop", "STOP"), ("kill", "KILL")] {
                if signs.join(sign).exists() && first(&signs, signal) {
                    signal_self(signal);
                }
            }
        }
        (n % 10, n)
    });
    pairs.reduce_by_key(4, |a, b| a + b).map(move |sum| {
        if at_reduce.join("delete").exists() {
            delete_blocks(&at_reduce);
        }
        sum
    })
}

/// Where a driver puts what its workers are to do.
fn signs(driver: u32) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rdd-processes-{driver}"))
}

/// Whether nobody was here before.
fn first(signs: &Path, note: &str) -> bool {
    File::create_new(signs.join("once")).is_ok() && fs::write(signs.join("once"), note).is_ok()
}

fn signal_self(signal: &str) {
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{signal} {}", std::process::id())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    assert!(
        sent.is_ok_and(|status| status.success()),
        "{signal} is sent"
    );
    // Whoever is stopped or killed does not come back from here.
    loop {
        std::thread::park();
    }
}

/// Once; the others wait, so that every reduce that starts later finds nothing.
fn delete_blocks(signs: &Path) {
    let own = PathBuf::from(std::env::var_os("RDD_WORKER_FOLDER").expect("in a worker"));
    let all = own.parent().expect("the executor's");
    if first(signs, all.to_str().expect("UTF-8")) {
        for folder in fs::read_dir(all).expect("there").flatten() {
            // The other worker may be writing there again already.
            let _ = fs::remove_dir_all(folder.path());
        }
        File::create(signs.join("deleted")).expect("a sign");
    }
    while !signs.join("deleted").exists() {
        std::thread::yield_now();
    }
}

const VALUES: u64 = 4_000;
