//! The driver: submits a job's plans one after the other, and again when one hangs.

use std::sync::Arc;
use std::time::Duration;

use ballista_core::config::BallistaConfig;
use ballista_core::execution_plans::execute_physical_plan;
use ballista_core::extension::SessionConfigExt;
use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result as PlanResult;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures::TryStreamExt;
use rdd::{Block, Data};

use crate::error::Error;
use crate::lower::Lowering;
use crate::node::Codec;
use crate::registry::Registry;
use crate::rows::sort_in;

/// A scheduler, and how patient to be with it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Such as `http://localhost:50050`.
    pub scheduler: String,
    /// A URL of an object store that driver and executors reach, and a folder there for this run alone. What two
    /// stages read, and what is persisted, goes there, and stays.
    pub store: String,
    /// A plan that takes longer is submitted again.
    pub hung_after: Duration,
    /// Times a plan is submitted before the job is given up.
    pub submissions_max: u32,
}

impl Cluster {
    /// Runs a job of the registry that gives elements, such as one of `rdd::collect_job`: all of them, partition by
    /// partition.
    ///
    /// # Errors
    ///
    /// [`Error`] when the job was given up.
    pub async fn collect<T: Data>(
        &self,
        registry: &Arc<Registry>,
        name: &str,
        arguments: &[u8],
    ) -> Result<Vec<T>, Error> {
        let mut all = Vec::new();
        for block in self.run(registry, name, arguments).await? {
            let values = block.values::<T>().map_err(|error| Error::Rows {
                what: error.to_string(),
            })?;
            all.extend(values.iter().cloned());
        }
        Ok(all)
    }

    /// Runs a job of the registry: the block of each partition.
    ///
    /// # Errors
    ///
    /// [`Error`] when the job was given up.
    pub async fn run(
        &self,
        registry: &Arc<Registry>,
        name: &str,
        arguments: &[u8],
    ) -> Result<Vec<Block>, Error> {
        let job = registry.job(name, arguments)?;
        let lowering = Lowering {
            job: &job,
            name,
            arguments,
            store: &self.store,
            registry,
        };
        let mut last = Vec::new();
        for plan in lowering.plans()? {
            last = self.submit(registry, name, plan).await?;
        }
        let mut rows = std::collections::BTreeMap::new();
        last.iter()
            .try_for_each(|batch| sort_in(batch, &mut rows))?;
        let tasks = job.plan().last().map_or(0, |stage| stage.tasks);
        let whole = rows.len() == tasks && rows.values().all(|rows| rows.len() == 1);
        if !whole {
            return Err(Error::Rows {
                what: format!("{tasks} partitions were asked for, {} came", rows.len()),
            });
        }
        let blocks = rows.into_values().flatten();
        Ok(blocks.map(|row| Block::Bytes(row.block.into())).collect())
    }

    /// Runs one plan. What earlier plans put into the store is there, so that only this one is run again.
    async fn submit(
        &self,
        registry: &Arc<Registry>,
        name: &str,
        plan: Arc<dyn ExecutionPlan>,
    ) -> Result<Vec<RecordBatch>, Error> {
        for submission in 1..=self.submissions_max {
            let ran = self.try_submit(registry, plan.clone());
            match tokio::time::timeout(self.hung_after, ran).await {
                Ok(Ok(batches)) => return Ok(batches),
                Ok(Err(error)) if submission == self.submissions_max => return Err(error.into()),
                Ok(Err(error)) => log::warn!("{name}: submission {submission} failed: {error}"),
                Err(_) => log::warn!("{name}: submission {submission} hangs"),
            }
        }
        Err(Error::Hung {
            submissions: self.submissions_max,
        })
    }

    async fn try_submit(
        &self,
        registry: &Arc<Registry>,
        plan: Arc<dyn ExecutionPlan>,
    ) -> PlanResult<Vec<RecordBatch>> {
        let session = SessionConfig::new_with_ballista()
            .with_ballista_adaptive_query_planner(false)
            .with_ballista_coalesce_enabled(false)
            .with_ballista_grpc_client_max_message_size(MESSAGE_BYTES);
        let config: BallistaConfig = session.ballista_config();
        let codec = Codec::new(registry.clone());
        let stream = execute_physical_plan::<PhysicalPlanNode>(
            self.scheduler.clone(),
            &config,
            plan,
            &codec,
            uuid::Uuid::now_v7().to_string(),
            session,
        )
        .await?;
        stream.try_collect().await
    }
}

/// A block must fit into one message.
pub(crate) const MESSAGE_BYTES: usize = 1 << 30;
