//! The worker's side: builds the lineage, runs the tasks it is told.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::map_file;
use super::wire::{FromWorker, Place, ToWorker, receive, send};
use crate::block::{Block, digest};
use crate::context::{Context, Runner};
use crate::data::{RddId, ShuffleId};
use crate::executor::with_source;
use crate::job::{Job, JobError};
use crate::scheduler::{AttemptId, StageId};
use crate::task::{FetchError, Output, StorageLevel, TaskEnv, TaskError};

/// In a process that [`super::Processes`] started, builds the job, serves its tasks and ends the process. Elsewhere
/// returns at once.
///
/// `build` must make the same datasets in the same order as the program does in its own context, and run no action.
pub fn serve_if_worker(build: impl FnOnce(&Context) -> Job) {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let slow = std::env::var(SLOW)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let job = build(&Context::new(Arc::new(NoJobs), 1));
    // The driver is gone, or its pipe is: there is nobody to tell.
    let _ = serve(&job, Path::new(&folder), slow);
    std::process::exit(0);
}

pub(super) const FOLDER: &str = "RDD_WORKER_FOLDER";
pub(super) const SLOW: &str = "RDD_WORKER_SLOW";

fn serve(job: &Job, folder: &Path, slow: u32) -> io::Result<()> {
    let cancelled = Arc::new(Mutex::new(HashSet::new()));
    let (tasks, given) = channel();
    let told = cancelled.clone();
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        while let Ok(Some(message)) = receive(&mut stdin) {
            match message {
                ToWorker::Run {
                    attempt,
                    stage,
                    partition,
                    places,
                } => {
                    let _ = tasks.send((attempt, stage, partition, places));
                }
                ToWorker::Cancel { attempt } => {
                    told.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(attempt);
                }
            }
        }
        // The driver is gone, whatever task is running.
        std::process::exit(0);
    });
    let mut stdout = io::stdout().lock();
    send(
        &mut stdout,
        &FromWorker::Ready {
            fingerprint: job.fingerprint(),
        },
    )?;
    let cache = Mutex::new(HashMap::new());
    while let Ok((attempt, stage, partition, places)) = given.recv() {
        let places = places
            .into_iter()
            .map(|place: Place| ((ShuffleId(place.shuffle), place.map), place.path))
            .collect();
        let env = Env {
            attempt,
            places,
            job,
            cancelled: &cancelled,
            cache: &cache,
            slow,
            state: Mutex::new(State::new(&mut stdout)),
        };
        let ran = job.run_task(StageId(stage), partition, &env);
        let records = env
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .records;
        let report = report(
            job,
            folder,
            (attempt, stage, partition),
            records,
            ran.map(|(outputs, _)| outputs),
        );
        send(&mut stdout, &report)?;
    }
    Ok(())
}

fn report(
    job: &Job,
    folder: &Path,
    (attempt, stage, partition): (u64, usize, usize),
    records: u64,
    ran: Result<Vec<Output>, TaskError>,
) -> FromWorker {
    let failed = |error: &TaskError| FromWorker::Failed {
        attempt,
        message: with_source(error),
    };
    let mut blocks: Vec<Vec<u8>> = match ran {
        Ok(outputs) => outputs.iter().map(Output::bytes).collect(),
        Err(TaskError::Fetch(lost)) => {
            return FromWorker::Lost {
                attempt,
                shuffle: lost.shuffle.0,
                map: lost.map,
            };
        }
        Err(error) => return failed(&error),
    };
    let digest = blocks
        .iter()
        .fold(0, |all: u64, block| all.rotate_left(5) ^ digest(block));
    let Some(shuffle) = job.shuffle(StageId(stage)) else {
        return FromWorker::Done {
            attempt,
            records,
            digest,
            result: blocks.swap_remove(0),
        };
    };
    let path = map_file::path(folder, shuffle, partition, AttemptId(attempt));
    match remade(folder).and_then(|()| map_file::write(&path, &blocks)) {
        Ok(()) => FromWorker::Done {
            attempt,
            records,
            digest,
            result: Vec::new(),
        },
        Err(source) => failed(&TaskError::Spill { path, source }),
    }
}

/// The worker's folder is there, perhaps for the second time. The one it lies in is this user's alone, so that one is
/// not made again.
fn remade(folder: &Path) -> io::Result<()> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

struct Env<'a> {
    attempt: u64,
    places: HashMap<(ShuffleId, usize), PathBuf>,
    job: &'a Job,
    cancelled: &'a Mutex<HashSet<u64>>,
    cache: &'a Mutex<HashMap<(RddId, usize), Output>>,
    slow: u32,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    stdout: &'a mut io::StdoutLock<'static>,
    records: u64,
    told_at: Instant,
    last: Instant,
}

impl<'a> State<'a> {
    fn new(stdout: &'a mut io::StdoutLock<'static>) -> Self {
        Self {
            stdout,
            records: 0,
            told_at: Instant::now(),
            last: Instant::now(),
        }
    }
}

impl TaskEnv for Env<'_> {
    fn fetch(&self, shuffle: ShuffleId, map: usize, reduce: usize) -> Result<Block, FetchError> {
        let gone = FetchError {
            shuffle,
            map,
            reduce,
            source: None,
        };
        let (Some(path), Some(reduces)) =
            (self.places.get(&(shuffle, map)), self.job.reduces(shuffle))
        else {
            return Err(gone);
        };
        map_file::read(path, reduce, reduces)
            .map(|bytes| Block::Bytes(bytes.into()))
            .map_err(|_| gone)
    }

    fn cached(&self, rdd: RddId, partition: usize) -> Option<Block> {
        self.cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(rdd, partition))
            .map(Output::block)
    }

    fn cache(&self, rdd: RddId, partition: usize, _: StorageLevel, values: Output) {
        self.cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((rdd, partition), values);
    }

    fn cancelled(&self) -> bool {
        self.cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&self.attempt)
    }

    fn progress(&self, records: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.records = records;
        if self.slow > 1 {
            let until = Instant::now() + state.last.elapsed() * (self.slow - 1);
            while Instant::now() < until && !self.cancelled() {
                std::thread::sleep(
                    Duration::from_millis(1).min(until.saturating_duration_since(Instant::now())),
                );
            }
            state.last = Instant::now();
        }
        if state.told_at.elapsed() > Duration::from_millis(20) {
            state.told_at = Instant::now();
            // If the pipe is closed, the reader of the other one ends this process.
            let _ = send(
                state.stdout,
                &FromWorker::Progress {
                    attempt: self.attempt,
                    records,
                },
            );
        }
    }
}

/// A worker's own context runs nothing.
struct NoJobs;

impl Runner for NoJobs {
    fn run(&self, _: &Job) -> Result<Vec<Block>, JobError> {
        Err(JobError::Executor {
            message: "an action in a worker process".to_owned(),
        })
    }

    fn forget_shuffle(&self, _: ShuffleId) {}

    fn unpersist(&self, _: RddId) {}
}
