//! Jobs: the stages an action needs, and the work of each task. Pure: running them is an executor's.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::counter::{Counts, counted};
use crate::data::ShuffleId;
use crate::lineage::{Dependency, Lineage, Shuffle};
use crate::scheduler::{Failure, StageId, StagePlan};
use crate::task::{Halt, Output, TaskContext, TaskEnv, TaskError};

/// The stages of one action: a stage for every shuffle in the lineage, and the result stage last.
pub struct Job {
    stages: Vec<Stage>,
    fingerprint: u64,
}

struct Stage {
    name: String,
    tasks: usize,
    parents: Vec<StageId>,
    work: Work,
}

enum Work {
    Shuffle(Arc<Shuffle>),
    Result(Box<ResultWork>),
}

pub(crate) type ResultWork = dyn Fn(usize, &TaskContext<'_>) -> Result<Output, Halt> + Send + Sync;

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stages = self.stages.iter().map(|s| (&s.name, s.tasks, &s.parents));
        f.debug_list().entries(stages).finish()
    }
}

/// Why a job gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// A task failed as often as it may.
    #[error("stage {stage} ({name}), partition {partition}, attempt {attempt}: {message}")]
    Task {
        /// The stage's number in the job.
        stage: usize,
        /// Its last operator.
        name: String,
        /// The task's partition.
        partition: usize,
        /// Failures of this task, this one included.
        attempt: u32,
        /// What the task said.
        message: String,
    },
    /// A recomputed block differs from the one whose consumers' results are already out.
    #[error(
        "stage {stage} ({name}), partition {partition} gave another result when computed again"
    )]
    Indeterminate {
        /// The stage's number in the job.
        stage: usize,
        /// Its last operator.
        name: String,
        /// The partition.
        partition: usize,
    },
    /// No worker is left.
    #[error("no worker is left")]
    NoWorkers,
    /// A stage lost its inputs too often.
    #[error("stage {stage} ({name}) lost its inputs {times} times")]
    FetchFailures {
        /// The stage's number in the job.
        stage: usize,
        /// Its last operator.
        name: String,
        /// How often.
        times: u32,
    },
    /// A checkpoint cannot be written or read.
    #[error("checkpoint {name}: {message}")]
    Checkpoint {
        /// Its name.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// The executor itself failed.
    #[error("the executor failed: {message}")]
    Executor {
        /// How.
        message: String,
    },
}

impl Job {
    pub(crate) fn new(last: &Arc<Lineage>, result: Box<ResultWork>) -> Self {
        let mut stages: Vec<Stage> = Vec::new();
        let mut numbers: BTreeMap<ShuffleId, StageId> = BTreeMap::new();
        // Parents first, so that a shuffle's own parents are numbered when it is.
        for rdd in last.ancestry() {
            for dependency in &rdd.dependencies {
                let Dependency::Wide(shuffle) = dependency else {
                    continue;
                };
                if numbers.contains_key(&shuffle.id) {
                    continue;
                }
                let parents = shuffles_below(&shuffle.parent)
                    .iter()
                    .map(|id| numbers[id])
                    .collect();
                numbers.insert(shuffle.id, StageId(stages.len()));
                let (name, tasks) = (shuffle.parent.label(), shuffle.maps());
                stages.push(Stage {
                    name,
                    tasks,
                    parents,
                    work: Work::Shuffle(shuffle.clone()),
                });
            }
        }
        let parents = shuffles_below(last).iter().map(|id| numbers[id]).collect();
        stages.push(Stage {
            name: last.label(),
            tasks: last.partitions,
            parents,
            work: Work::Result(result),
        });
        Self {
            stages,
            fingerprint: last.fingerprint(),
        }
    }

    /// What the scheduler needs to know; no output is there yet.
    pub fn plan(&self) -> Vec<StagePlan> {
        self.stages
            .iter()
            .map(|stage| StagePlan::new(stage.tasks, stage.parents.clone()))
            .collect()
    }

    /// The lineage's fingerprint: a worker that rebuilt it must find the same.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The shuffle that a stage writes, none for the result stage.
    pub fn shuffle(&self, stage: StageId) -> Option<ShuffleId> {
        match &self.stages[stage.0].work {
            Work::Shuffle(shuffle) => Some(shuffle.id),
            Work::Result(_) => None,
        }
    }

    /// How many partitions a shuffle of this job makes.
    pub fn reduces(&self, shuffle: ShuffleId) -> Option<usize> {
        self.stages.iter().find_map(|stage| match &stage.work {
            Work::Shuffle(other) if other.id == shuffle => Some(other.reduces),
            _ => None,
        })
    }

    /// The stage that writes a shuffle.
    pub fn stage_of(&self, shuffle: ShuffleId) -> Option<StageId> {
        (0..self.stages.len())
            .map(StageId)
            .find(|stage| self.shuffle(*stage) == Some(shuffle))
    }

    /// The last operator of a stage.
    pub fn name(&self, stage: StageId) -> &str {
        &self.stages[stage.0].name
    }

    /// A failure in terms of this job.
    pub fn error(&self, failure: Failure) -> JobError {
        match failure {
            Failure::Task {
                stage,
                partition,
                failures,
                message,
            } => JobError::Task {
                stage: stage.0,
                name: self.name(stage).to_owned(),
                partition,
                attempt: failures,
                message,
            },
            Failure::Fetch { stage, times } => JobError::FetchFailures {
                stage: stage.0,
                name: self.name(stage).to_owned(),
                times,
            },
            Failure::Indeterminate { stage, partition } => JobError::Indeterminate {
                stage: stage.0,
                name: self.name(stage).to_owned(),
                partition,
            },
            Failure::NoWorkers => JobError::NoWorkers,
        }
    }

    /// Runs one task: one output for each partition of the shuffle it writes, or the one result. A panic in a
    /// closure is an error of the task.
    ///
    /// # Errors
    ///
    /// The [`TaskError`] that stopped it.
    ///
    /// # Panics
    ///
    /// When the job has no such task.
    pub fn run_task(
        &self,
        stage: StageId,
        partition: usize,
        env: &dyn TaskEnv,
    ) -> Result<(Vec<Output>, Counts), TaskError> {
        let stage = &self.stages[stage.0];
        assert!(
            partition < stage.tasks,
            "the stage has {} tasks",
            stage.tasks
        );
        let task = TaskContext::new(env, partition);
        let run = || match &stage.work {
            Work::Shuffle(shuffle) => (shuffle.map)(partition, &task),
            Work::Result(result) => result(partition, &task).map(|output| vec![output]),
        };
        let (result, counts) = counted(|| catch_unwind(AssertUnwindSafe(run)));
        match result {
            Ok(Ok(outputs)) => Ok((outputs, counts)),
            Ok(Err(Halt::Failed(error))) => Err(error),
            Ok(Err(Halt::Enough)) => unreachable!("whoever has enough says so to nobody above it"),
            Err(panic) => Err(TaskError::Panicked {
                message: panic_text(&*panic),
            }),
        }
    }
}

/// The shuffles that a task of this dataset reads: the first on every way up.
fn shuffles_below(last: &Arc<Lineage>) -> Vec<ShuffleId> {
    let mut found = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut stack = vec![last.clone()];
    while let Some(rdd) = stack.pop() {
        if !seen.insert(rdd.id) {
            continue;
        }
        for dependency in &rdd.dependencies {
            match dependency {
                Dependency::Narrow(parent) => stack.push(parent.clone()),
                Dependency::Wide(shuffle) => found.push(shuffle.id),
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(no text)".to_owned())
}
