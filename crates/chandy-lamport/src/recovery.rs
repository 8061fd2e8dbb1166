//! From what a storage holds to the snapshot to go on from.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use crate::coordinator::Schedule;
use crate::mutation::broken;
use crate::{KeyGroups, Manifest, ManifestError, Part, SnapshotId, Storage, Task};

/// Why a snapshot was passed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Its manifest is damaged.
    #[error("the manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// Its manifest is another one's.
    #[error("the manifest says it is of snapshot {0}")]
    Misnamed(u64),
    /// A file is not there.
    #[error("file {0} is missing")]
    Missing(String),
    /// A file has other bytes than were written.
    #[error("file {0} is damaged")]
    Damaged(String),
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The newest snapshot that is whole.
    pub manifest: Option<Manifest>,
    /// Newer ones that are not, the newest first.
    pub skipped: Vec<(SnapshotId, Unusable)>,
    /// The highest number seen, to count on from.
    pub last: SnapshotId,
}

/// Finds the newest snapshot whose manifest and files are all as they were written. Every file of it is read once.
///
/// # Errors
///
/// What the storage says. A storage that does not answer is no reason to fall back to an older snapshot.
pub fn recover<S: Storage>(storage: &S, schedule: &Schedule) -> Result<Recovered, S::Error> {
    let names = storage.names()?;
    let mut ids: Vec<_> = names
        .iter()
        .filter_map(|name| Manifest::id_of(name))
        .collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    let mut recovered = Recovered {
        last: last_number(&names),
        ..Recovered::default()
    };
    for id in ids {
        match load(storage, schedule, id)? {
            Ok(manifest) => {
                recovered.manifest = Some(manifest);
                break;
            }
            Err(unusable) => recovered.skipped.push((id, unusable)),
        }
    }
    Ok(recovered)
}

/// The highest snapshot that a name speaks of.
fn last_number(names: &[String]) -> SnapshotId {
    let ids = names.iter().filter_map(|name| {
        let numbers = name.split(['-', '.']).filter_map(|part| part.parse().ok());
        numbers
            .filter(|number| *number < ID_MAX)
            .max()
            .map(SnapshotId)
    });
    ids.max().unwrap_or_default()
}

impl Recovered {
    /// Which of these names nothing needs any more: all but the recovered snapshot's. None of them if there is no such
    /// snapshot but there were damaged ones, which somebody may want to look at.
    pub fn unneeded<'a>(&self, names: &'a [String]) -> Vec<&'a str> {
        let Some(manifest) = &self.manifest else {
            let names = names.iter().map(String::as_str);
            return names.filter(|_| self.skipped.is_empty()).collect();
        };
        let own = Manifest::name(SnapshotId(manifest.id));
        let mut needed: BTreeSet<_> = manifest.files().map(|file| &file.name).collect();
        needed.insert(&own);
        let unneeded = names.iter().filter(|name| !needed.contains(name));
        unneeded.map(String::as_str).collect()
    }
}

fn load<S: Storage>(
    storage: &S,
    schedule: &Schedule,
    id: SnapshotId,
) -> Result<Result<Manifest, Unusable>, S::Error> {
    let name = Manifest::name(id);
    let Some(bytes) = storage.read(&name)? else {
        return Ok(Err(Unusable::Missing(name)));
    };
    let manifest = if broken!(schedule, LoadTorn) {
        Manifest::parse(&bytes[..bytes.len().saturating_sub(8)])
    } else {
        Manifest::from_bytes(&bytes)
    };
    let manifest = match manifest {
        Ok(manifest) if manifest.id != id.0 => return Ok(Err(Unusable::Misnamed(manifest.id))),
        Ok(manifest) => manifest,
        Err(error) => return Ok(Err(error.into())),
    };
    for file in manifest.files() {
        match storage.read(&file.name)? {
            None => return Ok(Err(Unusable::Missing(file.name.clone()))),
            Some(bytes) if !file.matches(&bytes) && !broken!(schedule, LoadTorn) => {
                return Ok(Err(Unusable::Damaged(file.name.clone())));
            }
            Some(_) => {}
        }
    }
    Ok(Ok(manifest))
}

/// What a task starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore<'a> {
    /// The task.
    pub task: Task,
    /// The key groups it now has.
    pub groups: Range<u32>,
    /// The parts that hold state of these groups: the task takes of each what is its own.
    pub state: Vec<&'a Part>,
    /// The parts whose recorded channels it goes on with. Where the number of tasks has changed, messages are routed
    /// again by their keys: the first task of an operator has them all.
    pub channels: Vec<&'a Part>,
    /// The cursors of sources that it reads on from.
    pub cursors: Vec<&'a [u8]>,
    /// What it must commit before it does anything else, whether or not that was done before.
    pub commit: Vec<&'a [u8]>,
}

/// Why a snapshot does not fit a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// State of an operator that the job does not have.
    #[error("the snapshot has state of operator {0}, which the job does not have")]
    Operator(u32),
    /// Another number of key groups.
    #[error("the snapshot has {snapshot} key groups, the job has {job}")]
    KeyGroups {
        /// The snapshot's.
        snapshot: u32,
        /// The job's.
        job: u32,
    },
    /// An operator with no tasks.
    #[error("operator {0} has no tasks")]
    NoTasks(u32),
}

/// Who starts with what, when each operator has so many tasks now.
///
/// # Errors
///
/// A job that the snapshot is not of.
pub fn plan<'a>(
    manifest: &'a Manifest,
    schedule: &Schedule,
    groups: KeyGroups,
    operators: &BTreeMap<u32, u32>,
) -> Result<Vec<Restore<'a>>, PlanError> {
    if manifest.key_groups != groups.count() {
        return Err(PlanError::KeyGroups {
            snapshot: manifest.key_groups,
            job: groups.count(),
        });
    }
    if let Some((task, _)) = manifest
        .parts
        .iter()
        .find(|(task, _)| !operators.contains_key(&task.operator))
    {
        return Err(PlanError::Operator(task.operator));
    }
    let mut plan = Vec::new();
    for (&operator, &tasks) in operators {
        if tasks == 0 {
            return Err(PlanError::NoTasks(operator));
        }
        let parts = manifest
            .parts
            .iter()
            .filter(|(task, _)| task.operator == operator);
        let parts: Vec<_> = parts.collect();
        for subtask in 0..tasks {
            let task = Task { operator, subtask };
            plan.push(restore(task, tasks, groups, &parts, schedule));
        }
    }
    Ok(plan)
}

fn restore<'a>(
    task: Task,
    tasks: u32,
    groups: KeyGroups,
    parts: &[&'a (Task, Part)],
    schedule: &Schedule,
) -> Restore<'a> {
    let range = groups.range(task.subtask, tasks);
    let same = parts.len() == usize::try_from(tasks).unwrap_or(usize::MAX);
    let overlaps = |part: &Part| part.groups.start < range.end && range.start < part.groups.end;
    // Sources and sinks are handed on in turn.
    let mine = |of: &Task| of.subtask % tasks == task.subtask;
    let channels = |of: &Task| if same { *of == task } else { task.subtask == 0 };
    let all = || parts.iter().map(|(of, part)| (of, part));
    let commit = all().filter(|(of, part)| mine(of) && !part.transactions.is_empty());
    let cursors = all().filter(|(of, part)| mine(of) && !part.cursor.is_empty());
    let forget = broken!(schedule, ForgetCommit);
    Restore {
        task,
        state: all()
            .filter(|(_, part)| overlaps(part))
            .map(|(_, part)| part)
            .collect(),
        channels: all()
            .filter(|(of, _)| channels(of))
            .map(|(_, part)| part)
            .collect(),
        cursors: cursors.map(|(_, part)| &part.cursor[..]).collect(),
        commit: commit
            .filter(|_| !forget)
            .map(|(_, part)| &part.transactions[..])
            .collect(),
        groups: range,
    }
}

/// Snapshots have lower numbers than this.
pub(crate) const ID_MAX: u64 = 1 << 62;
