//! The executor on processes of this host, for trying faults: each worker is the same binary, started again, that
//! builds the same lineage and is given tasks by number. No closure is ever sent.
//!
//! Frames on the pipes: a 32-bit little-endian length, then a postcard value. Shuffle blocks lie in files of their
//! worker's folder, so that a reader needs nobody's help.

mod map_file;
mod wire;
mod worker;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::block::Block;
use crate::context::Runner;
use crate::data::{RddId, ShuffleId};
use crate::executor::{Faults, NotDeterministic, RunCounts};
use crate::job::{Job, JobError};
use crate::scheduler::{Action, AttemptId, Event, Limits, Scheduler, WorkerId};
use wire::{FromWorker, Place, ToWorker};
pub use worker::serve_if_worker;

/// How [`Processes`] runs jobs.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// Processes, and tasks at a time.
    pub workers: u32,
    /// When to give up, when to start backups.
    pub limits: Limits,
    /// Breaks ties between workers.
    pub seed: u64,
    /// Faults to inject.
    pub faults: Faults,
}

impl Default for ProcessOptions {
    fn default() -> Self {
        Self {
            workers: 2,
            limits: Limits::default(),
            seed: 0,
            faults: Faults::default(),
        }
    }
}

/// Runs jobs on processes of this host. Workers start with each job and hold nothing between jobs.
///
/// The program must call [`serve_if_worker`] first thing, with a function that builds the lineage of its one job;
/// any other job is refused.
#[derive(Debug)]
pub struct Processes {
    options: ProcessOptions,
    counts: Mutex<RunCounts>,
    differed: Mutex<Vec<NotDeterministic>>,
    folder: tempfile::TempDir,
}

impl Processes {
    /// Makes the folder for blocks.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made.
    pub fn new(options: ProcessOptions) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("rdd-").tempdir()?;
        Ok(Self {
            options,
            counts: Mutex::default(),
            differed: Mutex::default(),
            folder,
        })
    }

    /// What was done so far.
    pub fn counts(&self) -> RunCounts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Outputs that were others when they were computed again; what was made from the first was made again, too.
    pub fn not_deterministic(&self) -> Vec<NotDeterministic> {
        self.differed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self, change: impl FnOnce(&mut RunCounts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Runner for Processes {
    fn run(&self, job: &Job) -> Result<Vec<Block>, JobError> {
        let (reports, reported) = channel();
        let mut driver = Driver {
            executor: self,
            job,
            scheduler: Scheduler::new(job.plan(), self.options.limits, self.options.seed),
            reports,
            workers: BTreeMap::new(),
            started: 0,
            places: HashMap::new(),
            results: HashMap::new(),
            committed: Vec::new(),
            outcome: None,
            began: Instant::now(),
        };
        driver.drive(&reported)
    }

    fn forget_shuffle(&self, _: ShuffleId) {}

    fn unpersist(&self, _: RddId) {}
}

type Report = (WorkerId, Option<FromWorker>);

struct Driver<'a> {
    executor: &'a Processes,
    job: &'a Job,
    scheduler: Scheduler,
    reports: Sender<Report>,
    workers: BTreeMap<WorkerId, Child>,
    started: u32,
    places: HashMap<(ShuffleId, usize), Place>,
    results: HashMap<AttemptId, Vec<u8>>,
    committed: Vec<Block>,
    outcome: Option<Result<(), JobError>>,
    began: Instant,
}

impl Driver<'_> {
    fn drive(&mut self, reported: &Receiver<Report>) -> Result<Vec<Block>, JobError> {
        (0..self.executor.options.workers).for_each(|_| self.start());
        while self.outcome.is_none() {
            let wait = self
                .scheduler
                .next_deadline()
                .unwrap_or(u64::MAX)
                .saturating_sub(self.now());
            match reported.recv_timeout(Duration::from_micros(wait.clamp(1_000, 1_000_000))) {
                Ok((worker, Some(report))) => self.report(worker, report),
                Ok((worker, None)) => self.lost(worker),
                Err(RecvTimeoutError::Timeout) => self.handle(Event::Tick, None),
                Err(RecvTimeoutError::Disconnected) => unreachable!("the driver holds a sender"),
            }
        }
        self.outcome
            .take()
            .unwrap_or(Ok(()))
            .map(|()| std::mem::take(&mut self.committed))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Starts a worker. It joins when it says that it has built the same lineage.
    fn start(&mut self) {
        let worker = WorkerId(self.started);
        self.started += 1;
        if let Err(error) = self.try_start(worker) {
            self.give_up(format!("a worker process does not start: {error}"));
        }
    }

    fn try_start(&mut self, worker: WorkerId) -> io::Result<()> {
        let folder = self.folder(worker);
        std::fs::create_dir_all(&folder)?;
        let slow = if worker.0 == 0 {
            self.executor.options.faults.slow_first_worker
        } else {
            0
        };
        let mut child = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(worker::FOLDER, &folder)
            .env(worker::SLOW, slow.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut from = io::BufReader::new(child.stdout.take().expect("piped"));
        let reports = self.reports.clone();
        std::thread::spawn(move || {
            while let Ok(Some(report)) = wire::receive(&mut from) {
                if reports.send((worker, Some(report))).is_err() {
                    return;
                }
            }
            // Nobody listens after the job.
            let _ = reports.send((worker, None));
        });
        self.workers.insert(worker, child);
        Ok(())
    }

    fn folder(&self, worker: WorkerId) -> PathBuf {
        self.executor
            .folder
            .path()
            .join(format!("worker-{}", worker.0))
    }

    fn lost(&mut self, worker: WorkerId) {
        let Some(mut child) = self.workers.remove(&worker) else {
            return;
        };
        // It may be dead already.
        let _ = child.kill();
        let _ = child.wait();
        let _ = std::fs::remove_dir_all(self.folder(worker));
        self.executor.count(|counts| counts.workers_lost += 1);
        self.handle(Event::WorkerLost { worker }, None);
        if self.outcome.is_none() {
            if self.started > LOST_FACTOR * self.executor.options.workers {
                self.give_up("worker processes die as often as they are started".to_owned());
            } else {
                self.start();
            }
        }
    }

    fn report(&mut self, worker: WorkerId, report: FromWorker) {
        match report {
            FromWorker::Ready { fingerprint } if fingerprint == self.job.fingerprint() => {
                self.handle(
                    Event::WorkerJoined {
                        worker,
                        slots: 1,
                        memory_bytes: u64::MAX,
                    },
                    None,
                );
                return;
            }
            FromWorker::Ready { .. } => {
                self.give_up("a worker process built another lineage".to_owned());
                return;
            }
            FromWorker::Progress { attempt, records } => {
                self.handle(
                    Event::Progress {
                        attempt: AttemptId(attempt),
                        records,
                    },
                    None,
                );
                return;
            }
            FromWorker::Done {
                attempt,
                records,
                digest,
                result,
            } => {
                let attempt = AttemptId(attempt);
                self.handle(
                    Event::Done {
                        attempt,
                        records,
                        digest: Some(digest),
                    },
                    Some(result),
                );
            }
            FromWorker::Lost {
                attempt,
                shuffle,
                map,
            } => {
                let attempt = AttemptId(attempt);
                match self.job.stage_of(ShuffleId(shuffle)) {
                    Some(stage) => self.handle(
                        Event::FetchFailed {
                            attempt,
                            stage,
                            partition: map,
                        },
                        None,
                    ),
                    None => self.handle(
                        Event::Failed {
                            attempt,
                            message: "an unknown shuffle".to_owned(),
                        },
                        None,
                    ),
                }
            }
            FromWorker::Failed { attempt, message } => {
                self.handle(
                    Event::Failed {
                        attempt: AttemptId(attempt),
                        message,
                    },
                    None,
                );
            }
        }
        self.executor.count(|counts| counts.finished += 1);
        if self.executor.options.faults.lose_worker_at == Some(self.executor.counts().finished) {
            self.lost(worker);
        }
    }

    fn handle(&mut self, event: Event, result: Option<Vec<u8>>) {
        let mut actions = Vec::new();
        self.scheduler.handle(event, self.now(), &mut actions);
        let mut result = result;
        for action in actions {
            self.act(action, &mut result);
        }
    }

    fn act(&mut self, action: Action, result: &mut Option<Vec<u8>>) {
        match action {
            Action::Launch {
                attempt,
                stage,
                partition,
                worker,
                backup,
            } => {
                self.executor.count(|counts| {
                    counts.attempts += 1;
                    counts.backups += u64::from(backup);
                });
                let places = self.places.values().cloned().collect();
                self.send(
                    worker,
                    &ToWorker::Run {
                        attempt: attempt.0,
                        stage: stage.0,
                        partition,
                        places,
                    },
                );
            }
            Action::Cancel { attempt, worker } => {
                self.send(worker, &ToWorker::Cancel { attempt: attempt.0 });
            }
            Action::Use {
                stage,
                partition,
                attempt,
                worker,
            } => match self.job.shuffle(stage) {
                Some(shuffle) => {
                    let path = map_file::path(&self.folder(worker), shuffle, partition, attempt);
                    let place = Place {
                        shuffle: shuffle.0,
                        map: partition,
                        path,
                    };
                    self.places.insert((shuffle, partition), place);
                }
                None => drop(
                    self.results
                        .insert(attempt, result.take().expect("only what is done is used")),
                ),
            },
            Action::NotDeterministic { stage, partition } => {
                self.executor.count(|counts| counts.not_deterministic += 1);
                let mut differed = self
                    .executor
                    .differed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                differed.push(NotDeterministic {
                    operator: self.job.name(stage).to_owned(),
                    partition,
                });
            }
            Action::Commit { attempt, .. } => {
                let bytes = self.results.remove(&attempt).expect("used before");
                self.committed.push(Block::Bytes(bytes.into()));
            }
            Action::JobDone => drop(self.outcome.get_or_insert(Ok(()))),
            Action::JobFailed(failure) => self.outcome = Some(Err(self.job.error(failure))),
        }
    }

    fn send(&mut self, worker: WorkerId, what: &ToWorker) {
        let stdin = self
            .workers
            .get_mut(&worker)
            .and_then(|child| child.stdin.as_mut());
        // A worker that cannot be written to is dead; the end of its output says so.
        let _ = stdin.map(|stdin| wire::send(stdin, what));
    }

    fn give_up(&mut self, message: String) {
        self.outcome = Some(Err(JobError::Executor { message }));
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        for child in self.workers.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Workers started before the job is given up, for each that was wanted.
const LOST_FACTOR: u32 = 8;

impl std::fmt::Debug for Driver<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("stages", &self.job)
            .finish_non_exhaustive()
    }
}
