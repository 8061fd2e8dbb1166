//! Jobs by name: an executor builds the lineage that the driver built, and no closure is ever sent.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rdd::{Block, Context, Job, JobError, RddId, Runner, ShuffleId};

use crate::error::Error;

type Build = dyn Fn(&Context, &[u8]) -> Job + Send + Sync;

/// The jobs that driver, scheduler and executors have in common. All must be built from the same source.
#[derive(Default)]
pub struct Registry {
    builds: BTreeMap<&'static str, Box<Build>>,
    built: Mutex<HashMap<(String, Vec<u8>), Arc<Job>>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.builds.keys()).finish()
    }
}

impl Registry {
    /// Without jobs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a job. `build` must make the same datasets in the same order for the same arguments, and run no action.
    #[must_use]
    pub fn with(
        mut self,
        name: &'static str,
        build: impl Fn(&Context, &[u8]) -> Job + Send + Sync + 'static,
    ) -> Self {
        self.builds.insert(name, Box::new(build));
        self
    }

    /// The job, built once for the same arguments.
    pub(crate) fn job(&self, name: &str, arguments: &[u8]) -> Result<Arc<Job>, Error> {
        let key = (name.to_owned(), arguments.to_vec());
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = built.get(&key) {
            return Ok(job.clone());
        }
        let build = self.builds.get(name).ok_or_else(|| Error::UnknownJob {
            name: name.to_owned(),
        })?;
        if built.len() >= BUILT_MAX {
            built.clear();
        }
        let job = Arc::new(build(&Context::new(Arc::new(NoJobs), 1), arguments));
        built.insert(key, job.clone());
        Ok(job)
    }
}

const BUILT_MAX: usize = 64;

/// A lineage that is only described runs nothing.
struct NoJobs;

impl Runner for NoJobs {
    fn run(&self, _: &Job) -> Result<Vec<Block>, JobError> {
        Err(JobError::Executor {
            message: "an action while a job is described".to_owned(),
        })
    }

    fn forget_shuffle(&self, _: ShuffleId) {}

    fn unpersist(&self, _: RddId) {}
}
