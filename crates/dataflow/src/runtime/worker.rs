//! A thread with some of a job's tasks.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use chandy_lamport::SnapshotId;

use super::channel::Ring;
use crate::task::{Capture, Task, TaskEvent};
use crate::{Job, TaskError, Time};

/// What a worker is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Initiate(SnapshotId),
    Abort(SnapshotId),
    Completed(SnapshotId),
    CloseCycles,
    Stop,
}

/// What a worker tells.
#[derive(Debug)]
pub(super) enum News {
    Captured(Capture),
    Declined(SnapshotId),
    Finished,
    Failed(TaskError),
    /// A task could not go on for so long because of a snapshot.
    Paused(Duration),
}

/// What others see of a worker.
#[derive(Debug, Default)]
pub(super) struct Beat {
    thread: OnceLock<Thread>,
    /// Messages given to channels and taken from them.
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    /// Orders carried out.
    pub(super) obeyed: AtomicU64,
    /// Its last round moved nothing, and none of its sources has more.
    pub(super) idle: AtomicBool,
}

impl Beat {
    pub(super) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

pub(super) struct Worker {
    pub(super) job: Arc<Job>,
    /// The tasks, and their places in the job.
    pub(super) tasks: Vec<(usize, Task)>,
    pub(super) rings: Arc<Vec<Ring>>,
    pub(super) beats: Arc<Vec<Beat>>,
    pub(super) own: usize,
    /// The worker of each task.
    pub(super) worker_of: Arc<Vec<usize>>,
    pub(super) orders: Receiver<Order>,
    pub(super) news: Sender<News>,
    pub(super) began: Instant,
    pub(super) capacity: usize,
    /// Since when each task has been stopped.
    pub(super) stopped: Vec<Option<Instant>>,
}

impl Worker {
    pub(super) fn run(mut self) {
        // Set once: this thread is the only one that does.
        _ = self.beats[self.own].thread.set(thread::current());
        let news = self.news.clone();
        // Nothing of a worker is used after a panic, but for its channels.
        let rounds = panic::catch_unwind(AssertUnwindSafe(|| self.rounds()));
        if let Err(error) = rounds.unwrap_or(Err(TaskError::Panicked)) {
            // Nobody listens when the job is being stopped.
            _ = news.send(News::Failed(error));
        }
    }

    fn rounds(&mut self) -> Result<(), TaskError> {
        loop {
            loop {
                match self.orders.try_recv() {
                    Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return Ok(()),
                    Ok(order) => {
                        self.obey(order)?;
                        self.not_idle();
                        self.beats[self.own].obeyed.fetch_add(1, Ordering::AcqRel);
                    }
                    Err(TryRecvError::Empty) => break,
                }
            }
            let mut moved = false;
            for at in 0..self.tasks.len() {
                moved |= self.round(at)?;
            }
            let reads = self.tasks.iter().any(|(_, task)| task.reads());
            self.beats[self.own]
                .idle
                .store(!moved && !reads, Ordering::Release);
            if !moved {
                thread::park_timeout(PARK);
            }
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), TaskError> {
        for at in 0..self.tasks.len() {
            self.timed(at, |task, now| match order {
                Order::Initiate(id) => task.initiate(now, id),
                Order::Abort(id) => task.abort(now, id),
                Order::Completed(id) => task.completed(now, id),
                Order::CloseCycles => task.close_cycles(now),
                Order::Stop => Ok(()),
            })?;
        }
        Ok(())
    }

    /// Lets a task take what has come, work, and send. Whether anything moved.
    fn round(&mut self, at: usize) -> Result<bool, TaskError> {
        let mut moved = self.arrive(at)?;
        for _ in 0..STEPS {
            if self.outputs_full(at) || !self.timed(at, Task::work)? {
                break;
            }
            moved = true;
        }
        Ok(self.transmit(at)? || moved)
    }

    fn arrive(&mut self, at: usize) -> Result<bool, TaskError> {
        let (job, rings) = (self.job.clone(), self.rings.clone());
        let mut received = 0;
        for (input, &link) in job.site(self.tasks[at].0).inputs.iter().enumerate() {
            while self.tasks[at].1.has_room(input, self.capacity) {
                let Some(wire) = rings[link].pop() else {
                    break;
                };
                received += 1;
                self.timed(at, |task, now| task.arrive(now, input, wire))?;
                let sender = self.worker_of[job.links()[link].from];
                if sender != self.own {
                    self.beats[sender].wake();
                }
            }
        }
        if received > 0 {
            self.not_idle();
            let beat = &self.beats[self.own];
            beat.received.fetch_add(received, Ordering::AcqRel);
        }
        Ok(received > 0)
    }

    /// Said before what there is to do is counted as having come: who sees the count sees this.
    fn not_idle(&self) {
        self.beats[self.own].idle.store(false, Ordering::Release);
    }

    fn outputs_full(&self, at: usize) -> bool {
        let (place, task) = &self.tasks[at];
        let mut outputs = self.job.site(*place).outputs.iter().enumerate();
        outputs.any(|(output, &link)| {
            !self.job.links()[link].back && task.queued_output(output) >= self.capacity
        })
    }

    fn transmit(&mut self, at: usize) -> Result<bool, TaskError> {
        let (job, rings) = (self.job.clone(), self.rings.clone());
        let mut moved = false;
        for (output, &link) in job.site(self.tasks[at].0).outputs.iter().enumerate() {
            let ends = job.links()[link];
            let mut sent = 0;
            while self.tasks[at].1.queued_output(output) > 0 && rings[link].has_room() {
                let wire = self.timed(at, |task, now| task.transmit(now, output))?;
                if let Some(wire) = wire {
                    // Counted first: what is under way must never look less than it is.
                    self.beats[self.own].sent.fetch_add(1, Ordering::AcqRel);
                    rings[link].push(wire);
                    sent += 1;
                }
            }
            let receiver = self.worker_of[ends.to];
            if sent > 0 && receiver != self.own {
                self.beats[receiver].wake();
            }
            moved |= sent > 0;
        }
        Ok(moved)
    }

    /// Calls a task, reports what happened, and how long it took where that was a snapshot.
    fn timed<R>(
        &mut self,
        at: usize,
        call: impl FnOnce(&mut Task, Time) -> Result<R, TaskError>,
    ) -> Result<R, TaskError> {
        let now = Instant::now();
        let millis = u64::try_from((now - self.began).as_millis()).unwrap_or(u64::MAX);
        let task = &mut self.tasks[at].1;
        let before = task.captures();
        let result = call(task, millis)?;
        let stopped = task.is_stopped();
        if task.captures() > before && !stopped {
            self.tell(News::Paused(now.elapsed()));
        }
        match self.stopped[at] {
            None if stopped => self.stopped[at] = Some(now),
            Some(since) if !stopped => {
                self.stopped[at] = None;
                self.tell(News::Paused(since.elapsed()));
            }
            _ => {}
        }
        let events: Vec<_> = self.tasks[at].1.events().collect();
        for event in events {
            self.tell(match event {
                TaskEvent::Captured(capture) => News::Captured(capture),
                TaskEvent::Declined(id) => News::Declined(id),
                TaskEvent::Finished => News::Finished,
            });
        }
        Ok(result)
    }

    fn tell(&self, news: News) {
        // Nobody listens when the job is being stopped.
        _ = self.news.send(news);
    }
}

const PARK: Duration = Duration::from_micros(500);
const STEPS: usize = 8;
