//! The executor in this process: one thread for each worker, for as long as a job runs.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::block::Block;
use crate::context::{Context, Runner};
use crate::counter::Counts;
use crate::data::{RddId, ShuffleId};
use crate::executor::{Faults, NotDeterministic, RunCounts, digest_of, with_source};
use crate::job::{Job, JobError};
use crate::scheduler::{Action, AttemptId, Event, Limits, Scheduler, StageId, WorkerId};
use crate::store::{BlockStore, Kept};
use crate::task::{FetchError, Output, StorageLevel, TaskEnv, TaskError};

/// How [`Threads`] runs jobs.
#[derive(Clone, Debug)]
pub struct ThreadOptions {
    /// Threads, and tasks at a time.
    pub workers: u32,
    /// Bytes of shuffle blocks and persisted partitions in memory; the rest goes to disk.
    pub memory_bytes: usize,
    /// Bytes of the table one task combines in before it writes a run.
    pub table_bytes: usize,
    /// Where temporary files go; the system's folder for them when none is given.
    pub folder: Option<PathBuf>,
    /// Whether outputs are compared when they are computed again: costs encoding all of them.
    pub check_determinism: bool,
    /// When to give up, when to start backups.
    pub limits: Limits,
    /// Breaks ties between workers.
    pub seed: u64,
    /// Faults to inject.
    pub faults: Faults,
}

impl Default for ThreadOptions {
    /// 2 workers, 1 GiB for blocks, 256 MiB for a table, no faults.
    fn default() -> Self {
        Self {
            workers: 2,
            memory_bytes: 1 << 30,
            table_bytes: 256 << 20,
            folder: None,
            check_determinism: false,
            limits: Limits::default(),
            seed: 0,
            faults: Faults::default(),
        }
    }
}

/// Runs jobs on threads of this process.
#[derive(Debug)]
pub struct Threads {
    options: ThreadOptions,
    // Before the folder: its files go first.
    shared: Shared,
    counts: Mutex<RunCounts>,
    differed: Mutex<Vec<NotDeterministic>>,
    last_worker: AtomicU64,
    folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Shared {
    shuffles: RwLock<HashMap<(ShuffleId, usize), MapOutput>>,
    store: BlockStore,
}

#[derive(Debug)]
struct MapOutput {
    worker: WorkerId,
    blocks: Arc<Vec<Kept>>,
}

impl Context {
    /// A context that runs its jobs on this many threads, with the default [`ThreadOptions`].
    ///
    /// # Errors
    ///
    /// When no folder for temporary files can be made.
    pub fn local(workers: u32) -> io::Result<Self> {
        let threads = Threads::new(ThreadOptions {
            workers,
            ..ThreadOptions::default()
        })?;
        Ok(Self::new(Arc::new(threads), workers as usize))
    }
}

impl Threads {
    /// Makes the folder for temporary files; threads start with each job.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made.
    ///
    /// # Panics
    ///
    /// When there are no workers.
    pub fn new(options: ThreadOptions) -> io::Result<Self> {
        assert!(options.workers > 0, "somebody must do the work");
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("rdd-");
        let folder = match &options.folder {
            Some(folder) => builder.tempdir_in(folder),
            None => builder.tempdir(),
        }?;
        let store = BlockStore::new(folder.path(), options.memory_bytes);
        let last_worker = AtomicU64::new(u64::from(options.workers));
        let shared = Shared {
            shuffles: RwLock::default(),
            store,
        };
        Ok(Self {
            options,
            shared,
            counts: Mutex::default(),
            differed: Mutex::default(),
            last_worker,
            folder,
        })
    }

    /// What was done so far.
    pub fn counts(&self) -> RunCounts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of blocks in memory.
    pub fn memory_used(&self) -> usize {
        self.shared.store.used()
    }

    /// Where temporary files are.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
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

impl Runner for Threads {
    fn run(&self, job: &Job) -> Result<Vec<Block>, JobError> {
        let (reports, reported) = channel();
        std::thread::scope(|scope| {
            let mut driver = Driver::new(self, job);
            for thread in 0..self.options.workers as usize {
                let (tasks, given) = channel();
                let reports = reports.clone();
                let slow = if thread == 0 {
                    self.options.faults.slow_first_worker
                } else {
                    0
                };
                let worker = Worker {
                    threads: self,
                    job,
                    thread,
                    slow,
                };
                scope.spawn(move || worker.work(&given, &reports));
                driver.threads.push(tasks);
            }
            // Leaving drops the senders, which ends the workers.
            driver.drive(&reported)
        })
    }

    fn forget_shuffle(&self, shuffle: ShuffleId) {
        self.shared
            .shuffles
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(id, _), _| *id != shuffle);
    }

    fn unpersist(&self, rdd: RddId) {
        self.shared.store.unpersist(rdd);
    }
}

/// A task given to a thread.
struct Given {
    attempt: AttemptId,
    stage: StageId,
    partition: usize,
    signals: Arc<Signals>,
}

#[derive(Default)]
struct Signals {
    cancelled: AtomicBool,
    records: AtomicU64,
}

struct Report {
    attempt: AttemptId,
    result: Result<(Vec<Kept>, Counts), TaskError>,
    records: u64,
    digest: Option<u64>,
}

struct Driver<'a> {
    executor: &'a Threads,
    job: &'a Job,
    scheduler: Scheduler,
    threads: Vec<Sender<Given>>,
    thread_of: BTreeMap<WorkerId, usize>,
    running: HashMap<AttemptId, Arc<Signals>>,
    /// Outputs of the result stage, by attempt.
    results: HashMap<AttemptId, Arc<Vec<Kept>>>,
    counted: std::collections::HashSet<(StageId, usize)>,
    committed: Vec<Block>,
    outcome: Option<Result<(), JobError>>,
    began: Instant,
}

impl<'a> Driver<'a> {
    fn new(executor: &'a Threads, job: &'a Job) -> Self {
        let mut plan = job.plan();
        let shuffles = executor
            .shared
            .shuffles
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        for (s, stage) in plan.iter_mut().enumerate() {
            if let Some(shuffle) = job.shuffle(StageId(s)) {
                for (map, at) in stage.available.iter_mut().enumerate() {
                    *at = shuffles.get(&(shuffle, map)).map(|output| output.worker);
                }
            }
        }
        Self {
            executor,
            job,
            scheduler: Scheduler::new(plan, executor.options.limits, executor.options.seed),
            threads: Vec::new(),
            thread_of: BTreeMap::new(),
            running: HashMap::new(),
            results: HashMap::new(),
            counted: std::collections::HashSet::new(),
            committed: Vec::new(),
            outcome: None,
            began: Instant::now(),
        }
    }

    fn drive(&mut self, reported: &Receiver<Report>) -> Result<Vec<Block>, JobError> {
        for thread in 0..self.threads.len() {
            self.join(
                WorkerId(u32::try_from(thread).expect("as many as a u32 says")),
                thread,
            );
        }
        while self.outcome.is_none() {
            let wait = self
                .scheduler
                .next_deadline()
                .unwrap_or(u64::MAX)
                .saturating_sub(self.now());
            match reported.recv_timeout(Duration::from_micros(wait.clamp(1_000, 1_000_000))) {
                Ok(report) => self.report(report),
                Err(RecvTimeoutError::Timeout) => self.tick(),
                Err(RecvTimeoutError::Disconnected) => unreachable!("the executor holds a sender"),
            }
        }
        self.running
            .values()
            .for_each(|signals| signals.cancelled.store(true, Ordering::Relaxed));
        self.outcome
            .take()
            .unwrap_or(Ok(()))
            .map(|()| std::mem::take(&mut self.committed))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn join(&mut self, worker: WorkerId, thread: usize) {
        self.thread_of.insert(worker, thread);
        self.handle(
            Event::WorkerJoined {
                worker,
                slots: 1,
                memory_bytes: u64::MAX,
            },
            &mut None,
        );
    }

    fn tick(&mut self) {
        let progress: Vec<(AttemptId, u64)> = self
            .running
            .iter()
            .map(|(id, signals)| (*id, signals.records.load(Ordering::Relaxed)))
            .collect();
        for (attempt, records) in progress {
            self.handle(Event::Progress { attempt, records }, &mut None);
        }
        self.handle(Event::Tick, &mut None);
    }

    fn report(&mut self, report: Report) {
        let Report {
            attempt,
            result,
            records,
            digest,
        } = report;
        self.running.remove(&attempt);
        match result {
            Ok(done) => self.handle(
                Event::Done {
                    attempt,
                    records,
                    digest,
                },
                &mut Some(done),
            ),
            Err(TaskError::Fetch(lost)) => match self.job.stage_of(lost.shuffle) {
                Some(stage) => self.handle(
                    Event::FetchFailed {
                        attempt,
                        stage,
                        partition: lost.map,
                    },
                    &mut None,
                ),
                None => self.handle(
                    Event::Failed {
                        attempt,
                        message: lost.to_string(),
                    },
                    &mut None,
                ),
            },
            Err(error) => self.handle(
                Event::Failed {
                    attempt,
                    message: with_source(&error),
                },
                &mut None,
            ),
        }
        self.executor.count(|counts| counts.finished += 1);
        if self.executor.options.faults.lose_worker_at == Some(self.executor.counts().finished) {
            self.lose_a_worker();
        }
    }

    fn lose_a_worker(&mut self) {
        let Some((worker, thread)) = self.thread_of.pop_first() else {
            return;
        };
        let mut shuffles = self
            .executor
            .shared
            .shuffles
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        shuffles.retain(|_, output| output.worker != worker);
        drop(shuffles);
        self.executor.shared.store.lose(thread);
        self.executor.count(|counts| counts.workers_lost += 1);
        self.handle(Event::WorkerLost { worker }, &mut None);
        let number = self.executor.last_worker.fetch_add(1, Ordering::Relaxed);
        self.join(
            WorkerId(u32::try_from(number).expect("few workers are lost")),
            thread,
        );
    }

    fn handle(&mut self, event: Event, done: &mut Option<(Vec<Kept>, Counts)>) {
        let mut actions = Vec::new();
        self.scheduler.handle(event, self.now(), &mut actions);
        for action in actions {
            self.act(action, done);
        }
    }

    fn act(&mut self, action: Action, done: &mut Option<(Vec<Kept>, Counts)>) {
        match action {
            Action::Launch {
                attempt,
                stage,
                partition,
                worker,
                backup,
            } => {
                let signals = Arc::new(Signals::default());
                self.running.insert(attempt, signals.clone());
                self.executor.count(|counts| {
                    counts.attempts += 1;
                    counts.backups += u64::from(backup);
                });
                let thread = self.thread_of[&worker];
                let given = Given {
                    attempt,
                    stage,
                    partition,
                    signals,
                };
                self.threads[thread]
                    .send(given)
                    .expect("threads live as long as their job");
            }
            Action::Cancel { attempt, .. } => {
                if let Some(signals) = self.running.get(&attempt) {
                    signals.cancelled.store(true, Ordering::Relaxed);
                }
            }
            Action::Use {
                stage,
                partition,
                attempt,
                worker,
            } => {
                let (blocks, counts) = done.take().expect("only what is done is used");
                if self.counted.insert((stage, partition)) {
                    counts.apply();
                }
                self.publish(stage, partition, attempt, worker, Arc::new(blocks));
            }
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
            Action::Commit { attempt, .. } => match self.results[&attempt][0].block() {
                Some(block) => self.committed.push(block),
                None => {
                    let message = "a result's temporary file is gone".to_owned();
                    self.outcome = Some(Err(JobError::Executor { message }));
                }
            },
            Action::JobDone => {
                self.outcome.get_or_insert(Ok(()));
            }
            Action::JobFailed(failure) => self.outcome = Some(Err(self.job.error(failure))),
        }
    }

    fn publish(
        &mut self,
        stage: StageId,
        map: usize,
        attempt: AttemptId,
        worker: WorkerId,
        blocks: Arc<Vec<Kept>>,
    ) {
        match self.job.shuffle(stage) {
            Some(shuffle) => {
                let mut shuffles = self
                    .executor
                    .shared
                    .shuffles
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                shuffles.insert((shuffle, map), MapOutput { worker, blocks });
            }
            None => {
                self.results.insert(attempt, blocks);
            }
        }
    }
}

struct Worker<'a> {
    threads: &'a Threads,
    job: &'a Job,
    thread: usize,
    slow: u32,
}

impl Worker<'_> {
    fn work(&self, given: &Receiver<Given>, reports: &Sender<Report>) {
        while let Ok(task) = given.recv() {
            let env = Env {
                worker: self,
                signals: &task.signals,
                last: Mutex::new(Instant::now()),
            };
            let mut digest = None;
            let result = if task.signals.cancelled.load(Ordering::Relaxed) {
                Err(TaskError::Cancelled)
            } else {
                self.job
                    .run_task(task.stage, task.partition, &env)
                    .and_then(|(outputs, counts)| {
                        if self.threads.options.check_determinism {
                            digest = Some(digest_of(&outputs));
                        }
                        let store = &self.threads.shared.store;
                        let kept = outputs
                            .into_iter()
                            .map(|output| store.keep(output))
                            .collect::<io::Result<_>>();
                        let path = self.threads.folder.path();
                        Ok((
                            kept.map_err(|source| TaskError::Spill {
                                path: path.to_owned(),
                                source,
                            })?,
                            counts,
                        ))
                    })
            };
            let records = task.signals.records.load(Ordering::Relaxed);
            // The driver is gone when the job was given up; nobody wants the result then.
            let _ = reports.send(Report {
                attempt: task.attempt,
                result,
                records,
                digest,
            });
        }
    }
}

struct Env<'a> {
    worker: &'a Worker<'a>,
    signals: &'a Signals,
    last: Mutex<Instant>,
}

impl TaskEnv for Env<'_> {
    fn fetch(&self, shuffle: ShuffleId, map: usize, reduce: usize) -> Result<Block, FetchError> {
        let shuffles = self
            .worker
            .threads
            .shared
            .shuffles
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let blocks = shuffles
            .get(&(shuffle, map))
            .map(|output| output.blocks.clone());
        drop(shuffles);
        blocks
            .and_then(|blocks| blocks[reduce].block())
            .ok_or(FetchError {
                shuffle,
                map,
                reduce,
                source: None,
            })
    }

    fn cached(&self, rdd: RddId, partition: usize) -> Option<Block> {
        self.worker.threads.shared.store.cached(rdd, partition)
    }

    fn cache(&self, rdd: RddId, partition: usize, level: StorageLevel, values: Output) {
        let store = &self.worker.threads.shared.store;
        store.cache((rdd, partition), level, values, self.worker.thread);
    }

    fn cancelled(&self) -> bool {
        self.signals.cancelled.load(Ordering::Relaxed)
    }

    fn progress(&self, records: u64) {
        self.signals.records.store(records, Ordering::Relaxed);
        if self.worker.slow > 1 {
            self.straggle();
        }
    }

    fn table_bytes(&self) -> usize {
        self.worker.threads.options.table_bytes
    }

    fn spill_folder(&self) -> Option<PathBuf> {
        Some(self.worker.threads.folder.path().to_owned())
    }
}

impl Env<'_> {
    /// Waits as many times as long as the last batch took, in steps that a cancellation ends.
    fn straggle(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + last.elapsed() * (self.worker.slow - 1);
        while Instant::now() < until && !self.cancelled() {
            std::thread::sleep(
                Duration::from_millis(1).min(until.saturating_duration_since(Instant::now())),
            );
        }
        *last = Instant::now();
    }
}
