//! A job of a source, two counters with incremental state and a sink, its coordinator and its storage. Whatever
//! crashes, the sink's output has each record once.

use std::collections::{BTreeMap, VecDeque};
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use super::random::Random;
use crate::{
    Action, Coordinator, Event, File, KeyGroups, Manifest, MemoryStorage, Part, Schedule,
    SnapshotId, Storage, Task, Time, plan, recover,
};

/// What must not happen, and did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobViolation {
    /// The sink commits what it has committed, or leaves something out.
    #[error("the output reaches {output}, and {start} to {end} is committed")]
    Output {
        /// Where the output ends.
        output: u64,
        /// Where the transaction begins.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// The job goes on from elsewhere than where its output ends.
    #[error("the output reaches {output}, and the job goes on from {position}")]
    Position {
        /// Where the output ends.
        output: u64,
        /// Where the source goes on.
        position: u64,
    },
    /// A snapshot that was complete is not found.
    #[error("snapshot {wanted} is complete, and {found} is found")]
    Lost {
        /// The newest of which the tasks were told.
        wanted: u64,
        /// The one that was recovered, or 0.
        found: u64,
    },
    /// A counter's state is not that of its snapshot.
    #[error("the state of snapshot {0} is wrong")]
    State(u64),
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobOutcome {
    /// Snapshots completed.
    pub completed: u64,
    /// Crashes recovered from.
    pub recovered: u64,
    /// Damaged snapshots passed over.
    pub skipped: u64,
    /// Tasks told to write all of their state.
    pub rebased: u64,
}

/// Runs a job for some thousand events.
///
/// # Errors
///
/// The first rule that was broken.
pub fn run_job(schedule: &Schedule, seed: u64) -> Result<JobOutcome, JobViolation> {
    let mut job = Job::new(schedule, seed);
    for _ in 0..EVENTS {
        job.event()?;
    }
    job.crash()?;
    Ok(job.outcome)
}

/// What a task knows.
#[derive(Debug, Default)]
struct Worker {
    /// What it must still be told.
    control: VecDeque<Action>,
    /// Its parts by snapshot, and how far each reaches.
    parts: BTreeMap<u64, (Vec<File>, u64)>,
    /// What increments build on.
    base: (Vec<File>, u64),
    /// Of the sink: what is prepared and not committed.
    prepared: Vec<(u64, u64)>,
}

struct Job {
    schedule: Schedule,
    random: Random,
    now: Time,
    coordinator: Coordinator,
    storage: MemoryStorage,
    workers: Vec<Worker>,
    /// Parts to be taken: task, snapshot, position of the cut.
    to_take: Vec<(usize, SnapshotId, u64)>,
    /// Manifests to be written.
    to_write: Vec<(SnapshotId, String, Vec<u8>)>,
    position: u64,
    output: u64,
    newest_told: u64,
    outcome: JobOutcome,
}

impl Job {
    fn new(schedule: &Schedule, seed: u64) -> Self {
        Self {
            schedule: schedule.clone(),
            random: Random::new(seed),
            now: 0,
            coordinator: coordinator(schedule, None, SnapshotId::default(), 0),
            storage: MemoryStorage::default(),
            workers: (0..TASKS.len()).map(|_| Worker::default()).collect(),
            to_take: Vec::new(),
            to_write: Vec::new(),
            position: 0,
            output: 0,
            newest_told: 0,
            outcome: JobOutcome::default(),
        }
    }

    fn event(&mut self) -> Result<(), JobViolation> {
        match self.random.below(40) {
            0..10 => self.position += 1,
            10..15 => {
                self.now += 1;
                self.tell(Event::Tick);
            }
            15..28 => self.take()?,
            28..32 => self.write(),
            32..37 => self.control()?,
            37 => {
                let oldest = self.coordinator.under_way().next();
                if let Some(id) = oldest {
                    self.tell(Event::Declined(id));
                }
            }
            38 => self.tell(Event::Trigger),
            _ => {
                if self.random.below(8) == 0 {
                    self.crash()?;
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, event: Event) {
        self.coordinator.step(self.now, event);
        let actions: Vec<_> = self.coordinator.actions().collect();
        for action in actions {
            self.obey(action);
        }
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::Initiate(id) => {
                let all = 0..TASKS.len();
                self.to_take
                    .extend(all.map(|task| (task, id, self.position)));
            }
            Action::Abort(aborted) => self.to_take.retain(|(_, id, _)| *id != aborted),
            Action::Write { id, name, bytes } => self.to_write.push((id, name, bytes)),
            Action::Completed(_) => {
                for worker in &mut self.workers {
                    worker.control.push_back(action.clone());
                }
            }
            Action::Rebase(task) => {
                self.outcome.rebased += 1;
                let at = TASKS.iter().position(|of| *of == task).unwrap_or(0);
                self.workers[at].control.push_back(action);
            }
            Action::Delete(name) => {
                let Ok(()) = self.storage.delete(&name);
            }
        }
    }

    /// A task takes its part, writes its file, and acknowledges.
    fn take(&mut self) -> Result<(), JobViolation> {
        if self.to_take.is_empty() {
            return Ok(());
        }
        let any = self.to_take[self.random.below(self.to_take.len())].0;
        // Each task makes its cuts in order.
        let place = self.to_take.iter().position(|(at, ..)| *at == any);
        let (at, id, position) = self.to_take.remove(place.unwrap_or(0));
        let whole = self.random.below(4) == 0;
        let mut part = Part {
            groups: groups().range(TASKS[at].subtask, if (1..3).contains(&at) { 2 } else { 1 }),
            ..Part::default()
        };
        match at {
            SOURCE => part.cursor = position.to_le_bytes().to_vec(),
            SINK => {
                let worker = &mut self.workers[SINK];
                let start = worker.prepared.last().map_or(self.output, |(_, end)| *end);
                if position > start {
                    worker.prepared.push((start, position));
                }
                let upto = worker.prepared.iter().filter(|(_, end)| *end <= position);
                part.transactions = upto.flat_map(|(a, b)| encode(*a, *b)).collect();
            }
            _ => part.state = self.increment(at, id, position, whole),
        }
        let state = (part.state.clone(), position);
        self.workers[at].parts.insert(id.0, state);
        let task = TASKS[at];
        self.tell(Event::Acknowledged { task, id, part });
        Ok(())
    }

    fn increment(&mut self, at: usize, id: SnapshotId, position: u64, whole: bool) -> Vec<File> {
        let (mut files, from) = if whole {
            (Vec::new(), 0)
        } else {
            self.workers[at].base.clone()
        };
        if from == 0 {
            files.clear();
        }
        let bytes = encode(from, position);
        let name = format!("state-{at}-{}", id.0);
        let Ok(()) = self.storage.put(&name, &bytes);
        files.push(File::of(name, id, &bytes));
        files
    }

    fn write(&mut self) {
        if self.to_write.is_empty() {
            return;
        }
        let (id, name, bytes) = self.to_write.swap_remove(0);
        if self.random.below(8) == 0 {
            self.tear(&name, &bytes);
            self.tell(Event::NotWritten(id));
        } else {
            let Ok(()) = self.storage.put(&name, &bytes);
            let before = self.coordinator.retained().map(|m| m.id).max();
            self.tell(Event::Written(id));
            let after = self.coordinator.retained().map(|m| m.id).max();
            self.outcome.completed += u64::from(after > before);
        }
    }

    /// Leaves some of the bytes, and one of them wrong.
    fn tear(&mut self, name: &str, bytes: &[u8]) {
        let mut torn = bytes.to_vec();
        if self.random.below(2) == 0 {
            torn.truncate(self.random.below(bytes.len()));
        } else {
            let place = self.random.below(bytes.len());
            torn[place] ^= 1;
        }
        let Ok(()) = self.storage.put(name, &torn);
    }

    fn control(&mut self) -> Result<(), JobViolation> {
        let at = self.random.below(TASKS.len());
        match self.workers[at].control.pop_front() {
            Some(Action::Completed(id)) => {
                self.newest_told = self.newest_told.max(id.0);
                let Some((files, position)) = self.workers[at].parts.get(&id.0).cloned() else {
                    return Ok(());
                };
                if at == SINK {
                    return self.commit(position);
                }
                self.workers[at].base = (files, position);
            }
            Some(Action::Rebase(_)) => self.workers[at].base = (Vec::new(), 0),
            _ => {}
        }
        Ok(())
    }

    fn commit(&mut self, position: u64) -> Result<(), JobViolation> {
        let prepared = core::mem::take(&mut self.workers[SINK].prepared);
        for (start, end) in prepared {
            if end > position {
                self.workers[SINK].prepared.push((start, end));
            } else {
                self.publish(start, end)?;
            }
        }
        Ok(())
    }

    fn publish(&mut self, start: u64, end: u64) -> Result<(), JobViolation> {
        if start != self.output {
            let output = self.output;
            return Err(JobViolation::Output { output, start, end });
        }
        self.output = end;
        Ok(())
    }

    /// Everything but the storage is lost; then the job goes on from what that has.
    fn crash(&mut self) -> Result<(), JobViolation> {
        for (_, name, bytes) in core::mem::take(&mut self.to_write) {
            match self.random.below(3) {
                0 => self.tear(&name, &bytes),
                1 => {
                    let Ok(()) = self.storage.put(&name, &bytes);
                }
                _ => {}
            }
        }
        let Ok(recovered) = recover(&self.storage, &self.schedule);
        self.outcome.recovered += 1;
        self.outcome.skipped += u64::try_from(recovered.skipped.len()).unwrap_or(0);
        let found = recovered
            .manifest
            .as_ref()
            .map_or(0, |manifest| manifest.id);
        if found < self.newest_told {
            let wanted = self.newest_told;
            return Err(JobViolation::Lost { wanted, found });
        }
        let Ok(names) = self.storage.names();
        for name in recovered.unneeded(&names) {
            let Ok(()) = self.storage.delete(name);
        }
        self.workers = (0..TASKS.len()).map(|_| Worker::default()).collect();
        self.to_take.clear();
        self.position = 0;
        if let Some(manifest) = &recovered.manifest {
            self.restore(manifest)?;
        }
        if self.output != self.position {
            let (output, position) = (self.output, self.position);
            return Err(JobViolation::Position { output, position });
        }
        self.coordinator =
            coordinator(&self.schedule, recovered.manifest, recovered.last, self.now);
        Ok(())
    }

    fn restore(&mut self, manifest: &Manifest) -> Result<(), JobViolation> {
        let wrong = JobViolation::State(manifest.id);
        let operators = BTreeMap::from([(0, 1), (1, 2), (2, 1)]);
        let restores = plan(manifest, &self.schedule, groups(), &operators);
        let restores = restores.map_err(|_| wrong.clone())?;
        let cursor = restores.first().and_then(|restore| restore.cursors.first());
        let cursor = cursor.and_then(|bytes| bytes.first_chunk());
        self.position = u64::from_le_bytes(*cursor.ok_or_else(|| wrong.clone())?);
        for restore in &restores[1..3] {
            let files = restore.state.iter().flat_map(|part| &part.state);
            let mut reached = 0;
            for file in files {
                let Ok(bytes) = self.storage.read(&file.name);
                match decode(&bytes.unwrap_or_default())[..] {
                    [(start, end)] if start == reached => reached = end,
                    _ => return Err(wrong),
                }
            }
            if reached != self.position {
                return Err(wrong);
            }
        }
        for (start, end) in restores[SINK].commit.iter().flat_map(|bytes| decode(bytes)) {
            // What is committed already is recognized by its name: here, by its place.
            if end > self.output {
                self.publish(start, end)?;
            }
        }
        Ok(())
    }
}

fn coordinator(
    schedule: &Schedule,
    retained: Option<Manifest>,
    last: SnapshotId,
    now: Time,
) -> Coordinator {
    Coordinator::new(schedule.clone(), groups(), TASKS, retained, last, now)
}

fn groups() -> KeyGroups {
    KeyGroups::new(8).unwrap_or_else(|| unreachable!("8 is allowed"))
}

fn encode(start: u64, end: u64) -> Vec<u8> {
    let mut bytes = vec![];
    bytes.extend(start.to_le_bytes());
    bytes.extend(end.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Vec<(u64, u64)> {
    let (words, _) = bytes.as_chunks();
    let words: Vec<_> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    words
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect()
}

const TASKS: [Task; 4] = [task(0, 0), task(1, 0), task(1, 1), task(2, 0)];
const SOURCE: usize = 0;
const SINK: usize = 3;
const EVENTS: usize = 2_000;

const fn task(operator: u32, subtask: u32) -> Task {
    Task { operator, subtask }
}
