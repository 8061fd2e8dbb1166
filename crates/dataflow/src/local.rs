//! A runtime without threads: one task at a time, chosen by chance from a seed, crashes included. It is what the tests
//! run, and it is small.

use std::collections::VecDeque;

use chandy_lamport::{
    Action, Coordinator, Event, MemoryStorage, Options, Protocol, Schedule, SnapshotId, Storage,
    Wire, recover,
};

use crate::persist::{Persister, tasks};
use crate::task::{Task, TaskEvent};
use crate::{Job, Message, TaskError};

/// Runs jobs from a seed.
#[derive(Clone, Debug)]
pub struct Local {
    /// How snapshots are taken.
    pub protocol: Protocol,
    /// What is chosen.
    pub seed: u64,
    /// Steps from one snapshot to the next.
    pub interval: u64,
    /// One step of so many is a crash, from which the job goes on; 0 for none.
    pub crash_one_in: u64,
    /// How many times it crashes at most.
    pub crashes_max: u64,
    /// How many increments build on each other.
    pub increments_max: usize,
    /// How much may be under way on a channel, or wait at an output.
    pub capacity: usize,
    /// The rule of the snapshot protocol to break.
    #[cfg(feature = "mutation")]
    pub mutation: Option<chandy_lamport::Mutation>,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalOutcome {
    /// Steps.
    pub steps: u64,
    /// Snapshots completed.
    pub completed: u64,
    /// Crashes.
    pub crashes: u64,
    /// Bytes of state and channels written.
    pub bytes: u64,
}

impl Local {
    /// A run without crashes.
    #[must_use]
    pub fn new(protocol: Protocol, seed: u64) -> Self {
        Self {
            protocol,
            seed,
            interval: 50,
            crash_one_in: 0,
            crashes_max: 10,
            increments_max: 3,
            capacity: 4,
            #[cfg(feature = "mutation")]
            mutation: None,
        }
    }

    /// Runs a job to its end.
    ///
    /// # Errors
    ///
    /// Whatever stops a task.
    pub fn run(&self, job: &Job) -> Result<LocalOutcome, TaskError> {
        self.run_on(job, &mut MemoryStorage::default())
    }

    /// As [`run`](Self::run), from what the storage holds.
    ///
    /// # Errors
    ///
    /// Whatever stops a task.
    pub fn run_on(
        &self,
        job: &Job,
        storage: &mut MemoryStorage,
    ) -> Result<LocalOutcome, TaskError> {
        let mut outcome = LocalOutcome::default();
        loop {
            let mut attempt = Attempt::begin(self, job, storage, outcome)?;
            let ended = attempt.run()?;
            outcome = attempt.outcome;
            if ended {
                return Ok(outcome);
            }
            outcome.crashes += 1;
        }
    }

    fn options(&self) -> Options {
        let options = Options::new(self.protocol);
        #[cfg(feature = "mutation")]
        let options = Options {
            mutation: self.mutation,
            ..options
        };
        options
    }

    fn schedule(&self) -> Schedule {
        Schedule::every(self.interval)
    }
}

/// A job from one crash to the next.
struct Attempt<'a> {
    local: &'a Local,
    job: &'a Job,
    storage: &'a mut MemoryStorage,
    tasks: Vec<Task>,
    links: Vec<VecDeque<Wire<Message>>>,
    coordinator: Coordinator,
    persister: Persister,
    random: u64,
    now: u64,
    last: Option<SnapshotId>,
    outcome: LocalOutcome,
}

impl<'a> Attempt<'a> {
    fn begin(
        local: &'a Local,
        job: &'a Job,
        storage: &'a mut MemoryStorage,
        outcome: LocalOutcome,
    ) -> Result<Self, TaskError> {
        let schedule = local.schedule();
        let Ok(recovered) = recover(storage, &schedule);
        let snapshot = recovered
            .manifest
            .as_ref()
            .map(|manifest| (&*storage, manifest));
        let tasks = tasks(job, &local.options(), &schedule, snapshot)?;
        let now = outcome.steps;
        let coordinator = Coordinator::new(
            schedule,
            job.key_groups(),
            job.ids(),
            recovered.manifest,
            recovered.last,
            now,
        );
        Ok(Self {
            links: vec![VecDeque::new(); job.links().len()],
            persister: Persister::new(local.increments_max),
            random: local.seed.wrapping_add(now),
            last: None,
            local,
            job,
            storage,
            tasks,
            coordinator,
            now,
            outcome,
        })
    }

    /// Runs to the end, or to a crash.
    fn run(&mut self) -> Result<bool, TaskError> {
        loop {
            self.now += 1;
            self.outcome.steps = self.now;
            let Local {
                crash_one_in: one_in,
                crashes_max,
                ..
            } = *self.local;
            if one_in > 0 && self.outcome.crashes < crashes_max && self.below(one_in) == 0 {
                return Ok(false);
            }
            self.coordinate(Event::Tick)?;
            let moved = self.step()?;
            if !moved && self.all_ended()? {
                return Ok(true);
            }
        }
    }

    /// Lets one task or link do something. Whether any could.
    fn step(&mut self) -> Result<bool, TaskError> {
        let (tasks, links) = (self.tasks.len(), self.links.len());
        let first = self.below(u64::try_from(tasks + 2 * links).unwrap_or(1));
        for offset in 0..tasks + 2 * links {
            let choice = (usize::try_from(first).unwrap_or(0) + offset) % (tasks + 2 * links);
            let moved = if choice < tasks {
                self.work(choice)?
            } else if choice < tasks + links {
                self.transmit(choice - tasks)?
            } else {
                self.arrive(choice - tasks - links)?
            };
            if moved {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn work(&mut self, task: usize) -> Result<bool, TaskError> {
        let outputs = &self.job.site(task).outputs;
        let full = |&link: &usize| {
            let link = self.job.links()[link];
            !link.back && self.tasks[task].queued_output(link.output) >= self.local.capacity
        };
        if outputs.iter().any(full) {
            return Ok(false);
        }
        let moved = self.tasks[task].work(self.now)?;
        self.listen(task)?;
        Ok(moved)
    }

    fn transmit(&mut self, link: usize) -> Result<bool, TaskError> {
        let ends = self.job.links()[link];
        if !ends.back && self.links[link].len() >= self.local.capacity {
            return Ok(false);
        }
        let wire = self.tasks[ends.from].transmit(self.now, ends.output)?;
        self.listen(ends.from)?;
        let moved = wire.is_some();
        self.links[link].extend(wire);
        Ok(moved)
    }

    fn arrive(&mut self, link: usize) -> Result<bool, TaskError> {
        let ends = self.job.links()[link];
        if !self.tasks[ends.to].has_room(ends.input, self.local.capacity) {
            return Ok(false);
        }
        let Some(wire) = self.links[link].pop_front() else {
            return Ok(false);
        };
        self.tasks[ends.to].arrive(self.now, ends.input, wire)?;
        self.listen(ends.to)?;
        Ok(true)
    }

    fn listen(&mut self, task: usize) -> Result<(), TaskError> {
        let events: Vec<_> = self.tasks[task].events().collect();
        for event in events {
            match event {
                TaskEvent::Captured(capture) => {
                    let Ok(acknowledged) = self.persister.write(self.storage, capture);
                    self.coordinate(acknowledged)?;
                }
                TaskEvent::Declined(id) => self.coordinate(Event::Declined(id))?,
                TaskEvent::Finished => {}
            }
        }
        Ok(())
    }

    fn coordinate(&mut self, event: Event) -> Result<(), TaskError> {
        self.coordinator.step(self.now, event);
        let actions: Vec<_> = self.coordinator.actions().collect();
        for action in actions {
            match action {
                Action::Initiate(id) => self.all(|task, now| task.initiate(now, id))?,
                Action::Abort(id) => {
                    self.persister.aborted(id);
                    self.all(|task, now| task.abort(now, id))?;
                }
                Action::Write { id, name, bytes } => {
                    let Ok(()) = self.storage.put(&name, &bytes);
                    self.coordinate(Event::Written(id))?;
                }
                Action::Completed(id) => {
                    self.last = Some(id);
                    self.outcome.completed += 1;
                    self.persister.completed(id);
                    self.all(|task, now| task.completed(now, id))?;
                }
                Action::Rebase(task) => self.persister.rebase(task),
                Action::Delete(name) => {
                    let Ok(()) = self.storage.delete(&name);
                }
            }
        }
        self.outcome.bytes = self.outcome.bytes.max(self.persister.bytes());
        Ok(())
    }

    fn all(
        &mut self,
        mut f: impl FnMut(&mut Task, u64) -> Result<(), TaskError>,
    ) -> Result<(), TaskError> {
        for task in 0..self.tasks.len() {
            f(&mut self.tasks[task], self.now)?;
            self.listen(task)?;
        }
        Ok(())
    }

    /// Nothing moves. What waits for cycles need not; then a last snapshot commits what is left.
    fn all_ended(&mut self) -> Result<bool, TaskError> {
        if self.coordinator.under_way().next().is_some() {
            return Ok(false);
        }
        let finished = self.tasks.iter().all(Task::is_finished);
        if !finished {
            if self.tasks.iter().all(|task| !task.reads()) {
                self.all(Task::close_cycles)?;
            }
            return Ok(false);
        }
        let before = self.last;
        self.coordinate(Event::Trigger)?;
        Ok(self.last > before)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let number = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (number ^ (number >> 31)) % end.max(1)
    }
}
