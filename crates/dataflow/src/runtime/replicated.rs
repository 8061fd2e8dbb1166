//! Replicated operators: every task runs twice, as a replicated state machine. Replicas agree on the batches that they read,
//! and take their inputs in turn, so both write the same bytes to the same places, and either may be lost without anything
//! being done again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use chandy_lamport::{Options, Protocol, Wire};

use super::stopper::{Ended, Stopper};
use crate::task::Task;
use crate::{Job, Message, TaskError};

/// Runs a job as replicas, each on a thread.
#[derive(Clone, Debug)]
pub struct Replicated {
    /// How many.
    pub replicas: usize,
    /// How many reads of its sources a replica may be ahead of the slowest one.
    pub ahead_max: u64,
    /// How often outputs are written.
    pub interval: Duration,
}

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicatedReport {
    /// How the best replica ended.
    pub ended: Ended,
    /// How many replicas were lost.
    pub lost: usize,
}

/// What replicas know of each other.
#[derive(Debug)]
struct Peer {
    /// By task: how many reads of its source.
    reads: Vec<AtomicU64>,
    gone: AtomicBool,
}

/// What all replicas read of a source, in this order: whoever comes first says how many records a batch has. 0 is the end.
#[derive(Debug, Default)]
struct Agreed {
    batches: VecDeque<usize>,
    /// Batches that all have read and nobody needs any more.
    before: u64,
}

impl Replicated {
    /// Two replicas.
    #[must_use]
    pub fn new() -> Self {
        Self {
            replicas: 2,
            ahead_max: 64,
            interval: Duration::from_millis(10),
        }
    }

    /// Runs a job to its end. Each stopper loses a replica; if all are lost, so is what they had.
    ///
    /// # Errors
    ///
    /// Whatever stops the last replica.
    ///
    /// # Panics
    ///
    /// If the job has a cycle, whose order is not the same twice.
    pub fn run(&self, job: &Job, stoppers: &[Stopper]) -> Result<ReplicatedReport, TaskError> {
        assert!(!job.has_cycle(), "what goes round has no order");
        let peer = |_| Peer {
            reads: (0..job.tasks()).map(|_| AtomicU64::new(0)).collect(),
            gone: AtomicBool::new(false),
        };
        let peers: Arc<Vec<Peer>> = Arc::new((0..self.replicas).map(peer).collect());
        let agreed: Agreements = Arc::new((0..job.tasks()).map(|_| Mutex::default()).collect());
        let mut replicas = Vec::new();
        // All outputs are emptied before any is written.
        for own in 0..self.replicas {
            let stopper = stoppers.get(own).cloned().unwrap_or_default();
            let shared = (peers.clone(), agreed.clone());
            replicas.push(Replica::new(self, job, own, shared, stopper)?);
        }
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = replicas
                .into_iter()
                .map(|replica| scope.spawn(move || replica.run()))
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|result| result.unwrap_or(Err(TaskError::Panicked)))
                .collect()
        });
        let finished = |result: &Result<Ended, TaskError>| matches!(result, Ok(Ended::Finished));
        let lost = results.iter().filter(|result| !finished(result)).count();
        if lost < self.replicas {
            let ended = Ended::Finished;
            return Ok(ReplicatedReport { ended, lost });
        }
        for result in results {
            result?;
        }
        let ended = Ended::Stopped;
        Ok(ReplicatedReport { ended, lost })
    }
}

impl Default for Replicated {
    fn default() -> Self {
        Self::new()
    }
}

/// By task.
type Agreements = Arc<Vec<Mutex<Agreed>>>;

struct Replica<'a> {
    options: &'a Replicated,
    job: &'a Job,
    own: usize,
    peers: Arc<Vec<Peer>>,
    agreed: Agreements,
    stopper: Stopper,
    tasks: Vec<Task>,
    /// The input of each task whose turn it is.
    turns: Vec<usize>,
    links: Vec<VecDeque<Wire<Message>>>,
}

/// However it ends, the others must not wait for it.
impl Drop for Replica<'_> {
    fn drop(&mut self) {
        self.peers[self.own].gone.store(true, Ordering::Release);
    }
}

impl<'a> Replica<'a> {
    fn new(
        options: &'a Replicated,
        job: &'a Job,
        own: usize,
        (peers, agreed): (Arc<Vec<Peer>>, Agreements),
        stopper: Stopper,
    ) -> Result<Self, TaskError> {
        let mut tasks = Vec::new();
        for task in 0..job.tasks() {
            let options = Options {
                queue_max: usize::MAX,
                ..Options::new(Protocol::AlignedCyclic)
            };
            let mut task = Task::new(job, task, options, None)?;
            task.keep_empty_batches();
            tasks.push(task);
        }
        Ok(Self {
            options,
            job,
            own,
            peers,
            agreed,
            stopper,
            turns: vec![0; tasks.len()],
            tasks,
            links: vec![VecDeque::new(); job.links().len()],
        })
    }

    fn run(mut self) -> Result<Ended, TaskError> {
        let mut written = Instant::now();
        while !self.stopper.is_stopped() {
            let mut moved = false;
            for task in 0..self.tasks.len() {
                moved |= self.round(task)?;
            }
            let finished = self.tasks.iter().all(Task::is_finished);
            if finished || written.elapsed() >= self.options.interval {
                written = Instant::now();
                self.tasks.iter_mut().try_for_each(Task::commit_rest)?;
            }
            if finished {
                return Ok(Ended::Finished);
            }
            if !moved {
                thread::sleep(PAUSE);
            }
        }
        Ok(Ended::Stopped)
    }

    fn round(&mut self, task: usize) -> Result<bool, TaskError> {
        let job = self.job;
        let mut moved = false;
        if self.tasks[task].reads() {
            moved |= self.read(task)?;
        } else {
            for (input, &link) in job.site(task).inputs.iter().enumerate() {
                while let Some(wire) = self.links[link].pop_front() {
                    self.tasks[task].arrive(0, input, wire)?;
                }
            }
            while self.take_in_turn(task)? {
                moved = true;
            }
        }
        for (output, &link) in job.site(task).outputs.iter().enumerate() {
            while let Some(wire) = self.tasks[task].transmit(0, output)? {
                self.links[link].push_back(wire);
            }
        }
        Ok(moved)
    }

    /// One message of each input that has not ended, in turn.
    fn take_in_turn(&mut self, task: usize) -> Result<bool, TaskError> {
        let inputs = self.job.site(task).inputs.len();
        for _ in 0..inputs {
            let turn = self.turns[task];
            let next = (turn + 1) % inputs;
            if self.tasks[task].has_ended(turn) {
                self.turns[task] = next;
                continue;
            }
            if !self.tasks[task].take_from(0, turn)? {
                return Ok(false);
            }
            self.turns[task] = next;
            return Ok(true);
        }
        Ok(false)
    }

    fn read(&mut self, task: usize) -> Result<bool, TaskError> {
        let own = self.peers[self.own].reads[task].load(Ordering::Acquire);
        let reads = |peer: &Peer| peer.reads[task].load(Ordering::Acquire);
        let alive = self
            .peers
            .iter()
            .filter(|peer| !peer.gone.load(Ordering::Acquire));
        let slowest = alive.map(reads).min().unwrap_or(own);
        if own > slowest + self.options.ahead_max {
            // A replica is as fast as the slowest one.
            return Ok(false);
        }
        // A replica that was lost while it held this had not agreed to anything yet.
        let mut agreed = self.agreed[task]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while agreed.before < slowest {
            agreed.batches.pop_front();
            agreed.before += 1;
        }
        let place = usize::try_from(own - agreed.before).unwrap_or(usize::MAX);
        let known = agreed.batches.get(place).copied();
        if known.is_some() {
            drop(agreed);
            self.tasks[task].read_as(0, known)?;
        } else {
            let Some(count) = self.tasks[task].read_as(0, None)? else {
                return Ok(false);
            };
            agreed.batches.push_back(count);
        }
        self.peers[self.own].reads[task].fetch_add(1, Ordering::AcqRel);
        Ok(true)
    }
}

const PAUSE: Duration = Duration::from_micros(100);
