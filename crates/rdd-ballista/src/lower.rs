//! A job as Ballista plans: a tree of our nodes, cut by hash repartitions, for each thing that must be made by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::physical_expr::Partitioning;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::{BatchPartitioner, RepartitionExec};
use rdd::Job;
use rdd::scheduler::{StageId, StagePlan};

use crate::node::RddExec;
use crate::registry::Registry;
use crate::rows::{NO_SHUFFLE, Row, TOKEN, schema, to_batch};
use crate::work::Work;

/// Lowers one job.
pub(crate) struct Lowering<'a> {
    pub(crate) job: &'a Job,
    pub(crate) name: &'a str,
    pub(crate) arguments: &'a [u8],
    pub(crate) store: &'a str,
    pub(crate) registry: &'a Arc<Registry>,
}

impl Lowering<'_> {
    /// The plans, in the order they must run: those whose blocks go to the store, and the result's.
    pub(crate) fn plans(&self) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
        let stages = self.job.plan();
        let stored = self.stored(&stages);
        let last = stages.len() - 1;
        let mut tokens = BTreeMap::new();
        for stage in 0..last {
            if let Some(reduces) = self.reduces(stage) {
                tokens.entry(reduces).or_insert(token_table(reduces)?);
            }
        }
        let context = Stages {
            lowering: self,
            stages: &stages,
            stored: &stored,
            tokens: &tokens,
        };
        (0..=last)
            .filter(|stage| *stage == last || stored[*stage])
            .map(|stage| context.tree(stage, true))
            .collect()
    }

    /// Stages whose blocks go to the store. A plan is a tree, so what two stages read would be made twice; and a task
    /// is given only the blocks of its own partition, so whoever reads others reads them there.
    fn stored(&self, stages: &[StagePlan]) -> Vec<bool> {
        let mut readers = vec![0; stages.len()];
        let mut stored = vec![false; stages.len()];
        for stage in stages {
            for parent in &stage.parents {
                readers[parent.0] += 1;
                stored[parent.0] |=
                    readers[parent.0] > 1 || self.reduces(parent.0) != Some(stage.tasks);
            }
        }
        stored
    }

    fn reduces(&self, stage: usize) -> Option<usize> {
        self.job.reduces(self.job.shuffle(StageId(stage))?)
    }
}

struct Stages<'a> {
    lowering: &'a Lowering<'a>,
    stages: &'a [StagePlan],
    stored: &'a [bool],
    tokens: &'a BTreeMap<usize, Vec<i32>>,
}

impl Stages<'_> {
    fn tree(&self, stage: usize, root: bool) -> Result<Arc<dyn ExecutionPlan>> {
        let StagePlan { tasks, parents, .. } = &self.stages[stage];
        let mut children = Vec::new();
        for parent in parents.iter().filter(|parent| !self.stored[parent.0]) {
            let token = Arc::new(Column::new("token", TOKEN));
            children.push(Arc::new(RepartitionExec::try_new(
                self.tree(parent.0, false)?,
                Partitioning::Hash(vec![token], *tasks),
            )?) as Arc<dyn ExecutionPlan>);
        }
        if children.is_empty() {
            children.push(source(*tasks)?);
        }
        let Lowering {
            job,
            name,
            arguments,
            store,
            registry,
        } = self.lowering;
        let tokens = self
            .lowering
            .reduces(stage)
            .filter(|_| !root)
            .map_or_else(Vec::new, |reduces| self.tokens[&reduces].clone());
        let shuffle = |parent: &StageId| job.shuffle(*parent).map(|shuffle| shuffle.0);
        let work = Work {
            job: (*name).to_owned(),
            arguments: arguments.to_vec(),
            fingerprint: job.fingerprint(),
            stage,
            store: (*store).to_owned(),
            stored: parents
                .iter()
                .filter(|parent| self.stored[parent.0])
                .filter_map(shuffle)
                .collect(),
            tokens,
        };
        let node = RddExec::new(Arc::new(work), (*registry).clone(), children)?;
        Ok(Arc::new(node))
    }
}

/// A row for each task, which says only which one it is: Ballista restricts no other source to a task's own partition.
fn source(tasks: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let partition = |reduce: usize| {
        let row = Row {
            shuffle: NO_SHUFFLE,
            map: 0,
            reduce: u32::try_from(reduce).unwrap_or(u32::MAX),
            token: 0,
            block: Vec::new(),
        };
        Ok(vec![to_batch(&[row])?])
    };
    let partitions = (0..tasks).map(partition).collect::<Result<Vec<_>>>()?;
    Ok(MemorySourceConfig::try_new_exec(
        &partitions,
        schema(),
        None,
    )?)
}

/// For each partition the least token that is hashed to it.
fn token_table(partitions: usize) -> Result<Vec<i32>> {
    let token = Arc::new(Column::new("token", TOKEN));
    let mut table: Vec<Option<i32>> = vec![None; partitions];
    let mut next = 0;
    while table.contains(&None) {
        let rows: Vec<Row> = (next..next + TOKENS_AT_ONCE)
            .map(|token| Row {
                shuffle: NO_SHUFFLE,
                map: 0,
                reduce: 0,
                token,
                block: Vec::new(),
            })
            .collect();
        next += TOKENS_AT_ONCE;
        let hash = Partitioning::Hash(vec![token.clone()], partitions);
        let mut partitioner = BatchPartitioner::try_new(hash, Time::new(), 0, 1)?;
        partitioner.partition(to_batch(&rows)?, |partition, batch| {
            let mut sorted = BTreeMap::new();
            crate::rows::sort_in(&batch, &mut sorted)?;
            for row in sorted.into_values().flatten() {
                table[partition].get_or_insert(row.token);
            }
            Ok(())
        })?;
    }
    Ok(table.into_iter().flatten().collect())
}

const TOKENS_AT_ONCE: i32 = 1024;
