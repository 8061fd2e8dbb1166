//! Small batches on `rdd` (Zaharia et al. 2013, discretized streams): state is taken out of the tasks and goes from batch to
//! batch as data, so that a lost or slow task is simply run again.

use std::time::{Duration, Instant};

use chandy_lamport::{File, Manifest, Part, Schedule, SnapshotId, Storage, plan, recover};
use serde::{Deserialize, Serialize};

use super::stopper::{Ended, Stopper};
use crate::body::{Captured, Emitter, Poll, Restored};
use crate::job::Job;
use crate::{Message, TaskError};

/// Runs a job in small batches.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// Where tasks run.
    pub context: rdd::Context,
    /// How long records are gathered before a batch is run.
    pub interval: Duration,
    /// How many reads of each source a batch has at most.
    pub reads_max: usize,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct BatchReport {
    /// How it ended.
    pub ended: Ended,
    /// The snapshot it went on from.
    pub restored: Option<SnapshotId>,
    /// How long finding and loading that took.
    pub restore: Duration,
    /// How long each batch took to compute and to make durable.
    pub batches: Vec<Duration>,
    /// Bytes of state written.
    pub bytes: u64,
}

/// What a task has between batches.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    cursor: Vec<u8>,
    transactions: Vec<u8>,
    state: Vec<u8>,
}

/// What a task of a batch is given: data, so that it can be run anywhere and again.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Given {
    task: usize,
    kept: Kept,
    messages: Vec<(usize, Vec<u8>)>,
    /// Nothing more comes.
    ended: bool,
    reads: usize,
}

/// What it gives back.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Made {
    Done {
        kept: Kept,
        messages: Vec<(usize, Vec<u8>)>,
        ended: bool,
    },
    Failed(String),
}

impl MicroBatch {
    /// Runs a job to its end, or until it is stopped, from what the storage holds.
    ///
    /// # Errors
    ///
    /// Whatever stops a task, the storage, or a job of a batch.
    ///
    /// # Panics
    ///
    /// If the job has a cycle: a batch would have no end.
    pub fn run<S>(
        &self,
        job: &Job,
        storage: &mut S,
        stopper: &Stopper,
    ) -> Result<BatchReport, TaskError>
    where
        S: Storage,
        S::Error: std::fmt::Display,
    {
        assert!(!job.has_cycle(), "small batches cannot go round");
        let began = Instant::now();
        let mut run = Run::begin(self, job, storage)?;
        run.report.restore = began.elapsed();
        while !stopper.is_stopped() {
            let began = Instant::now();
            let ended = run.batch()?;
            run.keep()?;
            run.report.batches.push(began.elapsed());
            if ended {
                run.report.ended = Ended::Finished;
                break;
            }
            std::thread::sleep(self.interval.saturating_sub(began.elapsed()));
        }
        Ok(run.report)
    }
}

struct Run<'a, S> {
    options: &'a MicroBatch,
    job: &'a Job,
    storage: &'a mut S,
    kept: Vec<Kept>,
    last: SnapshotId,
    /// What the last snapshot is made of, to be deleted when the next is there.
    names: Vec<String>,
    report: BatchReport,
}

impl<'a, S> Run<'a, S>
where
    S: Storage,
    S::Error: std::fmt::Display,
{
    fn begin(options: &'a MicroBatch, job: &'a Job, storage: &'a mut S) -> Result<Self, TaskError> {
        let schedule = Schedule::every(1);
        let recovered = recover(storage, &schedule).map_err(failed)?;
        let mut kept = vec![Kept::default(); job.tasks()];
        let mut names = Vec::new();
        if let Some(manifest) = &recovered.manifest {
            names.push(Manifest::name(SnapshotId(manifest.id)));
            names.extend(manifest.files().map(|file| file.name.clone()));
            let restores = plan(manifest, &schedule, job.key_groups(), &job.parallelism())?;
            for (kept, restore) in kept.iter_mut().zip(&restores) {
                // State goes on from the snapshots of this runtime: one part, one file each.
                let [part] = restore.state[..] else {
                    return Err(TaskError::Snapshot);
                };
                if part.state.len() > 1 || !part.channels.is_empty() {
                    return Err(TaskError::Snapshot);
                }
                for file in &part.state {
                    let bytes = storage.read(&file.name).map_err(failed)?;
                    kept.state = bytes.ok_or(TaskError::Snapshot)?;
                }
                kept.cursor.clone_from(&part.cursor);
                kept.transactions.clone_from(&part.transactions);
            }
        }
        let run = Self {
            options,
            job,
            storage,
            kept,
            last: recovered.last,
            names,
            report: BatchReport {
                ended: Ended::Stopped,
                restored: recovered.manifest.map(|manifest| SnapshotId(manifest.id)),
                restore: Duration::ZERO,
                batches: Vec::new(),
                bytes: 0,
            },
        };
        run.commit()?;
        Ok(run)
    }

    /// Runs all operators once, in order. Whether there will be no more.
    fn batch(&mut self) -> Result<bool, TaskError> {
        let mut waiting: Vec<Vec<(usize, Vec<u8>)>> = vec![Vec::new(); self.job.tasks()];
        let mut ended = vec![false; self.job.tasks()];
        let mut first = 0;
        let tasks: Vec<_> = self.job.operators().map(|(_, tasks)| tasks).collect();
        for count in tasks {
            let end = first + usize::try_from(count).unwrap_or(0);
            let given = (first..end).map(|task| {
                let inputs = &self.job.site(task).inputs;
                Given {
                    task,
                    kept: std::mem::take(&mut self.kept[task]),
                    messages: std::mem::take(&mut waiting[task]),
                    ended: inputs
                        .iter()
                        .all(|&link| ended[self.job.links()[link].from]),
                    reads: self.options.reads_max,
                }
            });
            let given: Vec<_> = given.collect();
            let job = self.job.clone();
            let partitions = given.len();
            let made = self.options.context.parallelize(given, partitions);
            let made = made.map(move |given| {
                let task = given.task;
                (
                    task,
                    run_task(&job, &given).unwrap_or_else(|error| Made::Failed(error.to_string())),
                )
            });
            for (task, made) in made.collect().map_err(failed)? {
                match made {
                    Made::Done {
                        kept,
                        messages,
                        ended: no_more,
                    } => {
                        self.kept[task] = kept;
                        ended[task] = no_more;
                        for (output, message) in messages {
                            let link = self.job.links()[self.job.site(task).outputs[output]];
                            waiting[link.to].push((link.input, message));
                        }
                    }
                    Made::Failed(why) => return Err(failed(why)),
                }
            }
            first = end;
        }
        Ok(ended.iter().all(|ended| *ended))
    }

    /// Makes what the tasks have durable, and then what their sinks have made visible.
    fn keep(&mut self) -> Result<(), TaskError> {
        self.last = SnapshotId(self.last.0 + 1);
        let (id, mut parts, mut names) = (self.last, Vec::new(), Vec::new());
        let parallelism = self.job.parallelism();
        for (task, kept) in self.job.ids().zip(&self.kept) {
            let mut part = Part {
                groups: self
                    .job
                    .key_groups()
                    .range(task.subtask, parallelism[&task.operator]),
                cursor: kept.cursor.clone(),
                transactions: kept.transactions.clone(),
                ..Part::default()
            };
            if !kept.state.is_empty() {
                let name = format!("state-{}.{}-{}", task.operator, task.subtask, id.0);
                self.storage.put(&name, &kept.state).map_err(failed)?;
                self.report.bytes += u64::try_from(kept.state.len()).unwrap_or(0);
                part.state.push(File::of(name.clone(), id, &kept.state));
                names.push(name);
            }
            parts.push((task, part));
        }
        let manifest = Manifest {
            id: id.0,
            key_groups: self.job.key_groups().count(),
            parts,
        };
        let name = Manifest::name(id);
        self.storage
            .put(&name, &manifest.to_bytes())
            .map_err(failed)?;
        names.insert(0, name);
        self.commit()?;
        for name in std::mem::replace(&mut self.names, names) {
            self.storage.delete(&name).map_err(failed)?;
        }
        Ok(())
    }

    fn commit(&self) -> Result<(), TaskError> {
        for (task, kept) in self.kept.iter().enumerate() {
            // Without any, an output is made empty.
            let restored = Restored {
                commit: commit_of(kept),
                ..Restored::default()
            };
            self.job.body(task).restore(&restored)?;
        }
        Ok(())
    }
}

fn commit_of(kept: &Kept) -> Vec<&[u8]> {
    let made = !kept.transactions.is_empty();
    made.then_some(&kept.transactions[..]).into_iter().collect()
}

/// One task of a batch, from nothing but data.
fn run_task(job: &Job, given: &Given) -> Result<Made, TaskError> {
    let mut body = job.body(given.task);
    let source = job.is_source(given.task);
    let Kept { cursor, state, .. } = &given.kept;
    let has = |bytes: &Vec<u8>| !bytes.is_empty();
    let restored = Restored {
        cursors: [&cursor[..]]
            .into_iter()
            .filter(|c| source && !c.is_empty())
            .collect(),
        commit: commit_of(&given.kept),
        state: [state.clone()].into_iter().filter(has).collect(),
        extra: if source { Vec::new() } else { cursor.clone() },
        detached: true,
    };
    body.restore(&restored)?;
    let mut out = Emitter::default();
    let site = job.site(given.task);
    for (input, message) in &given.messages {
        let link = job.links()[site.inputs[*input]];
        body.message(*input, (link.decode)(message)?, &mut out)?;
    }
    let mut ended = given.ended;
    if source {
        ended = false;
        for _ in 0..given.reads {
            match body.poll(&mut out)? {
                Poll::Emitted => {}
                Poll::Idle => break,
                Poll::Ended => {
                    ended = true;
                    break;
                }
            }
        }
    } else if ended {
        for input in 0..site.inputs.len() {
            body.ended(input, &mut out)?;
        }
    }
    let Captured {
        cursor,
        transactions,
        state,
        extra,
    } = body.capture(SnapshotId(1))?;
    Ok(Made::Done {
        kept: Kept {
            cursor: if source { cursor } else { extra },
            transactions,
            state: state.map_or_else(Vec::new, |state| state.whole()),
        },
        messages: out
            .drain()
            .map(|(to, m): (usize, Message)| (to, m.to_bytes()))
            .collect(),
        ended,
    })
}

fn failed<E: std::fmt::Display>(error: E) -> TaskError {
    TaskError::io("running a batch")(std::io::Error::other(error.to_string()))
}
