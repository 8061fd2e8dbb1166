//! The DAG scheduler: events in, actions out. No threads, no clock, no data: it knows only which tasks there are,
//! where their outputs lie, and what time it is told.

mod backup;
mod state;

use std::collections::BTreeMap;

use state::{Attempt, Stage, Worker};

/// Numbers a stage within its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StageId(pub usize);

/// Numbers a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u32);

/// Numbers an attempt at a task, in order of launch, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId(pub u64);

/// A stage, as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagePlan {
    /// How many tasks it has.
    pub tasks: usize,
    /// The stages whose outputs every task reads; all have lower numbers.
    pub parents: Vec<StageId>,
    /// Who holds which output already, from an earlier job.
    pub available: Vec<Option<WorkerId>>,
    /// For each task, workers that hold its input.
    pub preferred: Vec<Vec<WorkerId>>,
    /// What one task may take of its worker's memory.
    pub memory_bytes: u64,
}

impl StagePlan {
    /// A stage with nothing done, no preference and no need of memory.
    pub fn new(tasks: usize, parents: Vec<StageId>) -> Self {
        Self {
            tasks,
            parents,
            available: vec![None; tasks],
            preferred: vec![Vec::new(); tasks],
            memory_bytes: 0,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker is there.
    WorkerJoined {
        /// Its number, never used before.
        worker: WorkerId,
        /// Tasks it runs at a time.
        slots: usize,
        /// Memory its tasks share.
        memory_bytes: u64,
    },
    /// A worker is gone with all outputs it held.
    WorkerLost {
        /// Which.
        worker: WorkerId,
    },
    /// An attempt has taken in this many records so far.
    Progress {
        /// Which.
        attempt: AttemptId,
        /// Since it began.
        records: u64,
    },
    /// An attempt has finished.
    Done {
        /// Which.
        attempt: AttemptId,
        /// Records it took in.
        records: u64,
        /// Of its outputs, where the executor computes one.
        digest: Option<u64>,
    },
    /// An attempt failed by itself, or has stopped after [`Action::Cancel`].
    Failed {
        /// Which.
        attempt: AttemptId,
        /// Why.
        message: String,
    },
    /// An attempt could not read an output of another stage, which is lost or damaged.
    FetchFailed {
        /// Which.
        attempt: AttemptId,
        /// The stage that made the output.
        stage: StageId,
        /// The task that made it.
        partition: usize,
    },
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run a task.
    Launch {
        /// The attempt's number.
        attempt: AttemptId,
        /// The stage.
        stage: StageId,
        /// The task.
        partition: usize,
        /// On this worker.
        worker: WorkerId,
        /// A second copy of a slow task.
        backup: bool,
    },
    /// Stop an attempt. Its slot is free once [`Event::Failed`] or [`Event::Done`] says so.
    Cancel {
        /// Which.
        attempt: AttemptId,
        /// Where it runs.
        worker: WorkerId,
    },
    /// This attempt's output is the one to read. A later one for the same task replaces it.
    Use {
        /// The stage.
        stage: StageId,
        /// The task.
        partition: usize,
        /// Who made it.
        attempt: AttemptId,
        /// Where.
        worker: WorkerId,
    },
    /// A recomputed output differs from the first: the operators of this stage are not deterministic. Whatever was
    /// made from the first is made again.
    NotDeterministic {
        /// The stage.
        stage: StageId,
        /// The task.
        partition: usize,
    },
    /// The result of a partition is this attempt's. Said once for each, when all are there.
    Commit {
        /// The result's partition.
        partition: usize,
        /// Who made it.
        attempt: AttemptId,
    },
    /// Nothing more will be asked for.
    JobDone,
    /// The job was given up.
    JobFailed(Failure),
}

/// Why a job was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A task failed as often as it may.
    Task {
        /// The stage.
        stage: StageId,
        /// The task.
        partition: usize,
        /// How often it failed.
        failures: u32,
        /// The last reason.
        message: String,
    },
    /// A task found its inputs missing too often.
    Fetch {
        /// The stage.
        stage: StageId,
        /// How often.
        times: u32,
    },
    /// A stage gave different outputs too often.
    Indeterminate {
        /// The stage.
        stage: StageId,
        /// The task.
        partition: usize,
    },
    /// No worker for longer than [`Limits::no_workers_for`].
    NoWorkers,
}

/// When the scheduler gives up, and when it starts backup tasks. Times are in the unit that `now` has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Failures of one task before the job is given up. Lost workers and inputs do not count.
    pub failures_max: u32,
    /// Times one task may find its inputs missing.
    pub fetch_failures_max: u32,
    /// Times a stage may turn out not to be deterministic.
    pub rollbacks_max: u32,
    /// How long to wait for a worker when there is none.
    pub no_workers_for: u64,
    /// A task gets a backup when it would take this many times what a fresh copy takes. 0: never.
    pub backup_percent: u64,
    /// Time between two looks for slow tasks.
    pub backup_interval: u64,
}

impl Default for Limits {
    /// 4 failures, 16 lost inputs, 4 rollbacks; times in microseconds: 10 s, 150 %, 20 ms.
    fn default() -> Self {
        Self {
            failures_max: 4,
            fetch_failures_max: 16,
            rollbacks_max: 4,
            no_workers_for: 10_000_000,
            backup_percent: 150,
            backup_interval: 20_000,
        }
    }
}

/// The scheduler of one job. The same events at the same times with the same seed give the same actions.
#[derive(Clone, Debug)]
pub struct Scheduler {
    limits: Limits,
    seed: u64,
    stages: Vec<Stage>,
    workers: BTreeMap<WorkerId, Worker>,
    attempts: BTreeMap<AttemptId, Attempt>,
    last_attempt: u64,
    no_workers_since: Option<u64>,
    looked_at: u64,
    rollbacks: u32,
    over: bool,
}

impl Scheduler {
    /// For a job whose last stage is the result's.
    ///
    /// # Panics
    ///
    /// When the plan is empty, a parent's number is not lower than its child's, or a list's length is not the
    /// number of tasks.
    pub fn new(plan: Vec<StagePlan>, limits: Limits, seed: u64) -> Self {
        assert!(!plan.is_empty(), "a job has a stage");
        for (i, stage) in plan.iter().enumerate() {
            assert!(
                stage.parents.iter().all(|parent| parent.0 < i),
                "parents come first"
            );
            assert!(
                stage.available.len() == stage.tasks && stage.preferred.len() == stage.tasks,
                "one for each task"
            );
        }
        Self {
            limits,
            seed,
            stages: plan.into_iter().map(Stage::new).collect(),
            workers: BTreeMap::new(),
            attempts: BTreeMap::new(),
            last_attempt: 0,
            no_workers_since: None,
            looked_at: 0,
            rollbacks: 0,
            over: false,
        }
    }

    /// Takes in one event and says what to do. Duplicate, late and unknown attempts are no error and change nothing.
    pub fn handle(&mut self, event: Event, now: u64, out: &mut Vec<Action>) {
        if self.over {
            return;
        }
        match event {
            Event::WorkerJoined {
                worker,
                slots,
                memory_bytes,
            } => {
                self.workers.entry(worker).or_insert(Worker {
                    slots,
                    memory_bytes,
                    running: 0,
                    memory_used: 0,
                });
            }
            Event::WorkerLost { worker } => self.lose_worker(worker),
            Event::Progress { attempt, records } => {
                if let Some(attempt) = self.attempts.get_mut(&attempt) {
                    attempt.records = attempt.records.max(records);
                }
            }
            Event::Done {
                attempt,
                records,
                digest,
            } => self.done(attempt, records, digest, now, out),
            Event::Failed { attempt, message } => self.failed(attempt, message, out),
            Event::FetchFailed {
                attempt,
                stage,
                partition,
            } => self.fetch_failed(attempt, stage, partition, out),
            Event::Tick => {}
        }
        if !self.over {
            self.wait_for_workers(now, out);
            self.finish(out);
        }
        if !self.over {
            self.launch(now, out);
            self.back_up(now, out);
        }
    }

    /// When to send [`Event::Tick`] if nothing else happens.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.over {
            return None;
        }
        let workers = self
            .no_workers_since
            .map(|since| since.saturating_add(self.limits.no_workers_for));
        let look = (!self.attempts.is_empty() && self.limits.backup_percent > 0)
            .then(|| self.looked_at.saturating_add(self.limits.backup_interval));
        [workers, look].into_iter().flatten().min()
    }

    /// Whether the job is done or given up.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Attempts launched so far.
    pub fn launched(&self) -> u64 {
        self.last_attempt
    }

    fn result(&self) -> StageId {
        StageId(self.stages.len() - 1)
    }

    fn give_up(&mut self, failure: Failure, out: &mut Vec<Action>) {
        self.cancel_all(out);
        out.push(Action::JobFailed(failure));
        self.over = true;
    }

    fn cancel_all(&mut self, out: &mut Vec<Action>) {
        for (id, attempt) in self
            .attempts
            .iter_mut()
            .filter(|(_, attempt)| !attempt.cancelled)
        {
            attempt.cancelled = true;
            out.push(Action::Cancel {
                attempt: *id,
                worker: attempt.worker,
            });
        }
    }

    fn wait_for_workers(&mut self, now: u64, out: &mut Vec<Action>) {
        if !self.workers.is_empty() {
            self.no_workers_since = None;
            return;
        }
        let since = *self.no_workers_since.get_or_insert(now);
        if now.saturating_sub(since) >= self.limits.no_workers_for {
            self.give_up(Failure::NoWorkers, out);
        }
    }

    fn finish(&mut self, out: &mut Vec<Action>) {
        let StageId(result) = self.result();
        if self.stages[result].missing > 0 {
            return;
        }
        self.cancel_all(out);
        for (partition, task) in self.stages[result].tasks.iter().enumerate() {
            let output = task.output.expect("none is missing");
            out.push(Action::Commit {
                partition,
                attempt: output.attempt,
            });
        }
        out.push(Action::JobDone);
        self.over = true;
    }
}
