//! Replicated operators: every task runs twice, as a replicated state machine. Both replicas take their inputs in the same
//! order, so both write the same bytes to the same places, and either may be lost without anything being done again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
#[derive(Debug, Default)]
struct Peer {
    reads: AtomicU64,
    gone: AtomicBool,
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
        let peers: Arc<Vec<Peer>> = Arc::new((0..self.replicas).map(|_| Peer::default()).collect());
        let mut replicas = Vec::new();
        // All outputs are emptied before any is written.
        for own in 0..self.replicas {
            let stopper = stoppers.get(own).cloned().unwrap_or_default();
            replicas.push(Replica::new(self, job, own, peers.clone(), stopper)?);
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

struct Replica<'a> {
    options: &'a Replicated,
    job: &'a Job,
    own: usize,
    peers: Arc<Vec<Peer>>,
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
        peers: Arc<Vec<Peer>>,
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
            if self.may_read() {
                moved |= self.tasks[task].work(0)?;
                self.peers[self.own]
                    .reads
                    .fetch_add(u64::from(moved), Ordering::AcqRel);
            }
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

    /// A replica is as fast as the slowest one.
    fn may_read(&self) -> bool {
        let own = self.peers[self.own].reads.load(Ordering::Acquire);
        self.peers.iter().all(|peer| {
            peer.gone.load(Ordering::Acquire)
                || own <= peer.reads.load(Ordering::Acquire) + self.options.ahead_max
        })
    }
}

const PAUSE: Duration = Duration::from_micros(100);
