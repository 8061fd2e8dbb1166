//! Snapshots as files: what a capture becomes, and what a task begins with.

use std::collections::BTreeMap;

use chandy_lamport::{
    Event, File, Manifest, Part, Place, Restore, Schedule, SnapshotId, Storage, Task as TaskId,
    plan,
};

use crate::body::Restored;
use crate::message::{from_bytes, to_bytes};
use crate::task::{Capture, Task};
use crate::{Job, Message, TaskError};

/// Writes captures, as increments where there is something to build on.
#[derive(Debug, Default)]
pub struct Persister {
    tasks: BTreeMap<TaskId, Written>,
    /// After so many increments all is written again.
    increments_max: usize,
    bytes: u64,
}

/// What a task has written.
#[derive(Debug, Default)]
struct Written {
    /// By snapshot: the files, and the number of the state.
    parts: BTreeMap<SnapshotId, (Vec<File>, u32)>,
    /// The last complete one: what increments build on.
    base: Option<(Vec<File>, u32)>,
}

impl Persister {
    /// A persister that writes all of a task's state again after so many increments; with 0, always.
    #[must_use]
    pub fn new(increments_max: usize) -> Self {
        Self {
            increments_max,
            ..Self::default()
        }
    }

    /// How many bytes it has written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes a capture, and says what to tell the coordinator.
    ///
    /// # Errors
    ///
    /// What the storage says: the snapshot must then be given up.
    pub fn write<S: Storage>(
        &mut self,
        storage: &mut S,
        capture: Capture,
    ) -> Result<Event, S::Error> {
        let Capture { id, task, .. } = capture;
        let name = |what| format!("{what}-{}.{}-{}", task.operator, task.subtask, id.0);
        let mut part = Part {
            groups: capture.groups,
            cursor: capture.cursor,
            transactions: capture.transactions,
            ..Part::default()
        };
        if let Some(state) = capture.state {
            let written = self.tasks.entry(task).or_default();
            let base = written.base.as_ref();
            let base = base.filter(|(files, _)| files.len() <= self.increments_max);
            let (mut files, bytes) = match base {
                Some((files, epoch)) => (files.clone(), state.since(*epoch)),
                None => (Vec::new(), state.whole()),
            };
            storage.put(&name("state"), &bytes)?;
            files.push(File::of(name("state"), id, &bytes));
            self.bytes += u64::try_from(bytes.len()).unwrap_or(0);
            written.parts.insert(id, (files.clone(), state.epoch()));
            part.state = files;
        }
        if !capture.channels.is_empty() {
            let bytes = channels_to_bytes(&capture.channels);
            storage.put(&name("channels"), &bytes)?;
            part.channels.push(File::of(name("channels"), id, &bytes));
            self.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        }
        Ok(Event::Acknowledged { task, id, part })
    }

    /// A snapshot is complete: increments build on it.
    pub fn completed(&mut self, id: SnapshotId) {
        for written in self.tasks.values_mut() {
            if let Some(part) = written.parts.remove(&id) {
                written.base = Some(part);
            }
            written.parts.retain(|other, _| *other > id);
        }
    }

    /// A snapshot was given up.
    pub fn aborted(&mut self, id: SnapshotId) {
        for written in self.tasks.values_mut() {
            written.parts.remove(&id);
        }
    }

    /// What a task built on is gone.
    pub fn rebase(&mut self, task: TaskId) {
        if let Some(written) = self.tasks.get_mut(&task) {
            written.base = None;
        }
    }
}

/// All tasks of a job, at the beginning or as a snapshot had them.
///
/// # Errors
///
/// A snapshot of another job, or one whose files are gone.
pub fn tasks<S: Storage>(
    job: &Job,
    options: &chandy_lamport::Options,
    schedule: &Schedule,
    snapshot: Option<(&S, &Manifest)>,
) -> Result<Vec<Task>, TaskError> {
    let Some((storage, manifest)) = snapshot else {
        let all = 0..job.tasks();
        return all
            .map(|task| Task::new(job, task, options.clone(), None))
            .collect();
    };
    let restores = plan(manifest, schedule, job.key_groups(), &job.parallelism())?;
    let same = manifest.parts.len() == job.tasks();
    let mut tasks = Vec::new();
    for (task, restore) in restores.iter().enumerate() {
        let (restored, mut recorded) = load(job, task, storage, restore)?;
        if !same {
            // Channels have other numbers now. A job is stopped with an aligned snapshot before that is changed.
            if !recorded.is_empty() {
                return Err(TaskError::Snapshot);
            }
            recorded.clear();
        }
        tasks.push(Task::new(
            job,
            task,
            options.clone(),
            Some((&restored, recorded)),
        )?);
    }
    Ok(tasks)
}

type Recorded = Vec<(Place, Message)>;

fn load<'a, S: Storage>(
    job: &Job,
    task: usize,
    storage: &S,
    restore: &Restore<'a>,
) -> Result<(Restored<'a>, Recorded), TaskError> {
    let read = |file: &File| {
        let bytes = storage.read(&file.name).ok().flatten();
        bytes
            .filter(|bytes| file.matches(bytes))
            .ok_or(TaskError::Snapshot)
    };
    let source = job.is_source(task);
    let mut restored = Restored {
        commit: restore.commit.clone(),
        ..Restored::default()
    };
    if source {
        restored.cursors.clone_from(&restore.cursors);
    }
    for part in &restore.state {
        if !source {
            restored.extra.extend(&part.cursor);
        }
        for file in &part.state {
            restored.state.push(read(file)?);
        }
    }
    let mut recorded = Vec::new();
    for file in restore.channels.iter().flat_map(|part| &part.channels) {
        recorded.extend(channels_from_bytes(job, task, &read(file)?)?);
    }
    Ok((restored, recorded))
}

fn channels_to_bytes(channels: &[(Place, Message)]) -> Vec<u8> {
    let encode = |(place, message): &(Place, Message)| match place {
        Place::In(channel) => (true, *channel, message.to_bytes()),
        Place::Out(channel) => (false, *channel, message.to_bytes()),
    };
    to_bytes(&channels.iter().map(encode).collect::<Vec<_>>())
}

fn channels_from_bytes(job: &Job, task: usize, bytes: &[u8]) -> Result<Recorded, TaskError> {
    let site = job.site(task);
    let messages: Vec<(bool, usize, Vec<u8>)> = from_bytes(bytes)?;
    let decode = |(incoming, channel, bytes): (bool, usize, Vec<u8>)| {
        let links = if incoming {
            &site.inputs
        } else {
            &site.outputs
        };
        let link = *links.get(channel).ok_or(TaskError::Snapshot)?;
        let message = (job.links()[link].decode)(&bytes)?;
        let place = if incoming {
            Place::In(channel)
        } else {
            Place::Out(channel)
        };
        Ok((place, message))
    };
    messages.into_iter().map(decode).collect()
}
