//! Continuous operators: tasks on threads, bounded channels with credits, snapshots while records flow. With the protocol
//! `StopTheWorld` it is the design that stops everything for each.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use chandy_lamport::{
    Action, Coordinator, Event, Options, Protocol, Schedule, SnapshotId, Storage, recover,
};

use super::channel::Ring;
use super::stopper::{Ended, Stopper};
use super::storekeeper::{Chore, Done, keep};
use super::worker::{Beat, News, Order, Worker};
use crate::persist::tasks;
use crate::{Job, TaskError};

/// Runs a job on threads of this process.
#[derive(Clone, Debug)]
pub struct Continuous {
    /// Threads that share the tasks.
    pub workers: usize,
    /// How snapshots are taken. [`Protocol::Aligned`] only without cycles; not [`Protocol::LaiYang`], which has no ends.
    pub protocol: Protocol,
    /// From one snapshot to the next.
    pub interval: Duration,
    /// After this long a snapshot is given up.
    pub timeout: Duration,
    /// How many increments build on each other before all state is written again.
    pub increments_max: usize,
    /// How many messages may wait in a channel, and at each of its ends.
    pub capacity: usize,
    /// So many snapshots in a row that fail end the job.
    pub failures_max: u32,
    /// The rule of the snapshot protocol to break.
    #[cfg(feature = "mutation")]
    pub mutation: Option<chandy_lamport::Mutation>,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub ended: Ended,
    /// The snapshot it went on from.
    pub restored: Option<SnapshotId>,
    /// How long finding and loading that took.
    pub restore: Duration,
    /// Damaged snapshots that were passed over.
    pub skipped: usize,
    /// How long each completed snapshot took, from asking for it until its manifest was durable.
    pub snapshots: Vec<Duration>,
    /// How long each task could not go on because of one.
    pub pauses: Vec<Duration>,
    /// Snapshots given up.
    pub failed: u32,
    /// Bytes of state and channels written.
    pub bytes: u64,
}

impl Continuous {
    /// Two workers, aligned barriers each second, increments.
    #[must_use]
    pub fn new() -> Self {
        Self {
            workers: 2,
            protocol: Protocol::AlignedCyclic,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(60),
            increments_max: 8,
            capacity: 16,
            failures_max: 3,
            #[cfg(feature = "mutation")]
            mutation: None,
        }
    }

    /// Runs a job to its end, or until it is stopped, from what the storage holds.
    ///
    /// # Errors
    ///
    /// Whatever stops a task or the storage. Nothing is lost: another run goes on from the last snapshot.
    pub fn run<S>(&self, job: &Job, storage: S, stopper: &Stopper) -> Result<Report, TaskError>
    where
        S: Storage + Send,
        S::Error: std::fmt::Display,
    {
        let mut storage = storage;
        let began = Instant::now();
        let schedule = self.schedule();
        let recovered = recover(&storage, &schedule).map_err(storage_failed("recovery"))?;
        let names = storage.names().map_err(storage_failed("recovery"))?;
        for name in recovered.unneeded(&names) {
            storage.delete(name).map_err(storage_failed("recovery"))?;
        }
        let snapshot = recovered
            .manifest
            .as_ref()
            .map(|manifest| (&storage, manifest));
        let tasks = tasks(job, &self.options(), &schedule, snapshot)?;
        let report = Report {
            ended: Ended::Stopped,
            restored: recovered
                .manifest
                .as_ref()
                .map(|manifest| SnapshotId(manifest.id)),
            restore: began.elapsed(),
            skipped: recovered.skipped.len(),
            snapshots: Vec::new(),
            pauses: Vec::new(),
            failed: 0,
            bytes: 0,
        };
        let coordinator = Coordinator::new(
            schedule,
            job.key_groups(),
            job.ids(),
            recovered.manifest,
            recovered.last,
            0,
        );
        self.drive(job, tasks, storage, coordinator, report, stopper)
    }

    fn drive<S>(
        &self,
        job: &Job,
        tasks: Vec<crate::Task>,
        mut storage: S,
        coordinator: Coordinator,
        report: Report,
        stopper: &Stopper,
    ) -> Result<Report, TaskError>
    where
        S: Storage + Send,
        S::Error: std::fmt::Display,
    {
        let began = Instant::now();
        let workers = self.workers.clamp(1, tasks.len().max(1));
        let worker_of: Vec<usize> = job.spread(workers);
        let (news_in, news) = mpsc::channel();
        let (chores, chores_out) = mpsc::channel();
        let (done_in, done) = mpsc::channel();
        let beats: Arc<Vec<Beat>> = Arc::new((0..workers).map(|_| Beat::default()).collect());
        let rings = job
            .links()
            .iter()
            .map(|link| Ring::new(if link.back { usize::MAX } else { self.capacity }));
        let rings: Arc<Vec<Ring>> = Arc::new(rings.collect());
        let (job, worker_of) = (Arc::new(job.clone()), Arc::new(worker_of));
        let mut parts: Vec<Vec<(usize, crate::Task)>> = (0..workers).map(|_| Vec::new()).collect();
        for (place, task) in tasks.into_iter().enumerate() {
            parts[worker_of[place]].push((place, task));
        }
        thread::scope(|scope| {
            let increments_max = self.increments_max;
            let storage = &mut storage;
            scope.spawn(move || keep(storage, increments_max, &chores_out, &done_in));
            let mut orders = Vec::new();
            for (own, tasks) in parts.into_iter().enumerate() {
                let (order, orders_out) = mpsc::channel();
                orders.push(order);
                let worker = Worker {
                    job: job.clone(),
                    stopped: vec![None; tasks.len()],
                    tasks,
                    rings: rings.clone(),
                    beats: beats.clone(),
                    own,
                    worker_of: worker_of.clone(),
                    orders: orders_out,
                    news: news_in.clone(),
                    began,
                    capacity: self.capacity,
                };
                scope.spawn(move || worker.run());
            }
            drop(news_in);
            let driver = Driver {
                options: self,
                job: &job,
                began,
                coordinator,
                orders,
                beats: &beats,
                chores,
                report,
                finished: 0,
                asked: Vec::new(),
                all_finished: false,
                last: Vec::new(),
                ordered: 0,
                quiet: None,
                failure: Arc::default(),
            };
            driver.run(&news, &done, stopper)
        })
    }

    fn options(&self) -> Options {
        let options = Options {
            // A cycle may hold more than its channels would.
            queue_max: 1 << 20,
            ..Options::new(self.protocol)
        };
        #[cfg(feature = "mutation")]
        let options = Options {
            mutation: self.mutation,
            ..options
        };
        options
    }

    fn schedule(&self) -> Schedule {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Schedule {
            timeout: millis(self.timeout),
            ..Schedule::every(millis(self.interval).max(1))
        }
    }
}

impl Default for Continuous {
    fn default() -> Self {
        Self::new()
    }
}

/// The thread that called: it coordinates.
struct Driver<'a> {
    options: &'a Continuous,
    job: &'a Job,
    began: Instant,
    coordinator: Coordinator,
    orders: Vec<Sender<Order>>,
    beats: &'a [Beat],
    chores: Sender<Chore>,
    report: Report,
    finished: usize,
    /// Snapshots asked for, and when.
    asked: Vec<(SnapshotId, Instant)>,
    /// All tasks have finished: a snapshot that is asked for now is the last.
    all_finished: bool,
    /// Those asked for since.
    last: Vec<SnapshotId>,
    /// Orders given to each worker.
    ordered: u64,
    /// What was under way when nothing seemed to move.
    quiet: Option<(u64, u64)>,
    failure: Arc<OnceLock<String>>,
}

impl Driver<'_> {
    fn run(
        mut self,
        news: &Receiver<News>,
        done: &Receiver<Done>,
        stopper: &Stopper,
    ) -> Result<Report, TaskError> {
        let result = self.rounds(news, done, stopper);
        for order in &self.orders {
            // A worker that has failed is gone already.
            _ = order.send(Order::Stop);
        }
        self.beats.iter().for_each(Beat::wake);
        let mut result = result;
        // What a worker says last may be that a sink cannot commit.
        while let Ok(late) = news.recv() {
            if let News::Failed(error) = late {
                result = result.and(Err(error));
            }
        }
        result.map(|ended| Report {
            ended,
            ..self.report
        })
    }

    fn rounds(
        &mut self,
        news: &Receiver<News>,
        done: &Receiver<Done>,
        stopper: &Stopper,
    ) -> Result<Ended, TaskError> {
        loop {
            if stopper.is_stopped() {
                return Ok(Ended::Stopped);
            }
            match news.recv_timeout(TICK) {
                Ok(first) => {
                    self.hear(first)?;
                    while let Ok(more) = news.try_recv() {
                        self.hear(more)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let gone = std::io::Error::other("all workers are gone");
                    return Err(TaskError::io("running")(gone));
                }
            }
            while let Ok(Done {
                event,
                bytes,
                error,
            }) = done.try_recv()
            {
                self.report.bytes = bytes;
                if let Some(error) = error {
                    // The first is the cause of the others.
                    _ = self.failure.set(error);
                }
                if self.coordinate(event) {
                    return Ok(Ended::Finished);
                }
            }
            self.coordinate(Event::Tick);
            self.check_failures()?;
            self.close_cycles();
            self.all_finished = self.finished == self.job.tasks();
            if self.all_finished && self.coordinator.under_way().next().is_none() {
                self.coordinate(Event::Trigger);
            }
        }
    }

    fn hear(&mut self, news: News) -> Result<(), TaskError> {
        match news {
            News::Captured(capture) => self.chore(Chore::Capture(capture)),
            News::Declined(id) => {
                self.coordinate(Event::Declined(id));
            }
            News::Finished => self.finished += 1,
            News::Failed(error) => return Err(error),
            News::Paused(time) => self.report.pauses.push(time),
        }
        Ok(())
    }

    /// Tells the coordinator, and does what it says. Whether a snapshot after the end is complete.
    fn coordinate(&mut self, event: Event) -> bool {
        let mut ended = false;
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.coordinator.step(now, event);
        let actions: Vec<_> = self.coordinator.actions().collect();
        for action in actions {
            match action {
                Action::Initiate(id) => {
                    self.asked.push((id, Instant::now()));
                    if self.all_finished {
                        self.last.push(id);
                    }
                    self.order(Order::Initiate(id));
                }
                Action::Abort(id) => {
                    self.report.failed += 1;
                    self.chore(Chore::Aborted(id));
                    self.order(Order::Abort(id));
                }
                Action::Write { id, name, bytes } => {
                    self.chore(Chore::Manifest { id, name, bytes });
                }
                Action::Completed(id) => {
                    ended |= self.completed(id);
                }
                Action::Rebase(task) => self.chore(Chore::Rebase(task)),
                Action::Delete(name) => self.chore(Chore::Delete(name)),
            }
        }
        ended
    }

    fn completed(&mut self, id: SnapshotId) -> bool {
        let asked = self.asked.iter().find(|(other, _)| *other == id);
        self.report
            .snapshots
            .extend(asked.map(|(_, at)| at.elapsed()));
        self.asked.retain(|(other, _)| *other > id);
        self.chore(Chore::Completed(id));
        self.order(Order::Completed(id));
        self.last.contains(&id)
    }

    fn check_failures(&self) -> Result<(), TaskError> {
        if self.coordinator.failures() < self.options.failures_max {
            return Ok(());
        }
        let why = self
            .failure
            .get()
            .map_or("snapshots do not complete", String::as_str);
        Err(TaskError::io("writing snapshots")(std::io::Error::other(
            why.to_owned(),
        )))
    }

    /// Nothing is under way if nothing moved between two looks, all workers have done as told and are idle, and all that was
    /// sent has come.
    fn close_cycles(&mut self) {
        if !self.job.has_cycle() {
            return;
        }
        let sum = |f: fn(&Beat) -> u64| self.beats.iter().map(f).sum::<u64>();
        let counts = (
            sum(|beat| beat.received.load(Ordering::Acquire)),
            sum(|beat| beat.sent.load(Ordering::Acquire)),
        );
        let idle = self.beats.iter().all(|beat| {
            beat.obeyed.load(Ordering::Acquire) == self.ordered && beat.idle.load(Ordering::Acquire)
        });
        if !idle || counts.0 != counts.1 || self.coordinator.under_way().next().is_some() {
            self.quiet = None;
            return;
        }
        if self.quiet == Some(counts) {
            self.order(Order::CloseCycles);
        }
        self.quiet = Some(counts);
    }

    fn order(&mut self, order: Order) {
        self.ordered += 1;
        for worker in &self.orders {
            // A worker that is gone has said why.
            _ = worker.send(order);
        }
        self.beats.iter().for_each(Beat::wake);
    }

    fn chore(&self, chore: Chore) {
        // The storekeeper lives as long as its chores can be sent.
        _ = self.chores.send(chore);
    }
}

fn storage_failed<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> TaskError + '_ {
    move |error| TaskError::io(what)(std::io::Error::other(error.to_string()))
}

const TICK: Duration = Duration::from_millis(1);
