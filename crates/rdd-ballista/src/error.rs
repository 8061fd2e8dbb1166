//! Errors.

use std::io;

use datafusion::error::DataFusionError;

/// Why a job gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody registered it.
    #[error("no job is registered as {name}")]
    UnknownJob {
        /// Its name.
        name: String,
    },
    /// An executor's binary builds another lineage under this name.
    #[error("this binary builds another lineage for {name}")]
    OtherLineage {
        /// The job.
        name: String,
    },
    /// A plan cannot be built, or Ballista gave the job up.
    #[error(transparent)]
    DataFusion(#[from] DataFusionError),
    /// The object store cannot be used.
    #[error("cannot use {url}")]
    Store {
        /// Where.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// A task of the lineage failed.
    #[error("stage {stage} ({name}), partition {partition}")]
    Task {
        /// The stage's number in the job.
        stage: usize,
        /// Its last operator.
        name: String,
        /// The partition.
        partition: usize,
        /// Why.
        source: rdd::TaskError,
    },
    /// Rows that are not ours, or partitions that are missing.
    #[error("{what}")]
    Rows {
        /// What is wrong.
        what: String,
    },
    /// Every submission was given up or hung.
    #[error("given up after {submissions} submissions")]
    Hung {
        /// How many.
        submissions: u32,
    },
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}
