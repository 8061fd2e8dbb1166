//! What one stage's node does in an executor: runs tasks of the rebuilt job on the blocks it is given.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use rdd::scheduler::StageId;
use rdd::{
    Block, FetchError, Job, Objects, Output, RddId, ShuffleId, Storage, StorageLevel, TaskEnv,
};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::registry::Registry;
use crate::rows::{NO_SHUFFLE, Row};

/// A stage, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) job: String,
    pub(crate) arguments: Vec<u8>,
    pub(crate) fingerprint: u64,
    pub(crate) stage: usize,
    /// The object store that everybody reaches, and the folder of this run in it.
    pub(crate) store: String,
    /// Shuffles that lie there.
    pub(crate) stored: Vec<u64>,
    /// For each partition of the shuffle this stage writes, a token that Ballista hashes to it. Empty where the
    /// blocks go to the store.
    pub(crate) tokens: Vec<i32>,
}

impl Work {
    /// Runs the tasks that the rows are for.
    pub(crate) fn run(
        &self,
        registry: &Registry,
        rows: BTreeMap<u32, Vec<Row>>,
    ) -> Result<Vec<Row>, Error> {
        let job = registry.job(&self.job, &self.arguments)?;
        if job.fingerprint() != self.fingerprint {
            return Err(Error::OtherLineage {
                name: self.job.clone(),
            });
        }
        let store: Arc<dyn Storage> = Arc::new(open(&self.store)?);
        let mut made = Vec::new();
        for (partition, rows) in rows {
            let env = Env {
                work: self,
                partition: partition as usize,
                store: &*store,
                blocks: rows
                    .into_iter()
                    .map(|row| ((row.shuffle, row.map), row.block))
                    .collect(),
            };
            let (outputs, _) = job
                .run_task(StageId(self.stage), partition as usize, &env)
                .map_err(|source| Error::Task {
                    stage: self.stage,
                    name: job.name(StageId(self.stage)).to_owned(),
                    partition: partition as usize,
                    source,
                })?;
            made.extend(self.rows(&job, partition, &outputs, &*store)?);
        }
        Ok(made)
    }

    fn rows(
        &self,
        job: &Job,
        partition: u32,
        outputs: &[Output],
        store: &dyn Storage,
    ) -> Result<Vec<Row>, Error> {
        let row = |reduce: u32, shuffle, token, block| Row {
            shuffle,
            map: partition,
            reduce,
            token,
            block,
        };
        let Some(shuffle) = job.shuffle(StageId(self.stage)) else {
            let results = outputs.iter();
            return Ok(results
                .map(|output| row(partition, NO_SHUFFLE, 0, output.bytes()))
                .collect());
        };
        if self.tokens.is_empty() {
            for (reduce, output) in outputs.iter().enumerate() {
                let name = block_name(shuffle, partition as usize, reduce);
                store
                    .write(&name, &output.bytes())
                    .map_err(|source| self.store_error(source))?;
            }
            return Ok(vec![row(partition, NO_SHUFFLE, 0, Vec::new())]);
        }
        let blocks = (0u32..).zip(outputs).zip(&self.tokens);
        Ok(blocks
            .map(|((reduce, output), token)| row(reduce, shuffle.0, *token, output.bytes()))
            .collect())
    }

    fn store_error(&self, source: io::Error) -> Error {
        Error::Store {
            url: self.store.clone(),
            source,
        }
    }
}

pub(crate) fn open(url: &str) -> Result<Objects, Error> {
    Objects::at(url).map_err(|source| Error::Store {
        url: url.to_owned(),
        source,
    })
}

fn block_name(shuffle: ShuffleId, map: usize, reduce: usize) -> String {
    format!("shuffle-{}/{map}-{reduce}", shuffle.0)
}

struct Env<'a> {
    work: &'a Work,
    partition: usize,
    store: &'a dyn Storage,
    blocks: HashMap<(u64, u32), Vec<u8>>,
}

impl TaskEnv for Env<'_> {
    fn fetch(&self, shuffle: ShuffleId, map: usize, reduce: usize) -> Result<Block, FetchError> {
        let gone = FetchError {
            shuffle,
            map,
            reduce,
            source: None,
        };
        if self.work.stored.contains(&shuffle.0) {
            let name = block_name(shuffle, map, reduce);
            return match self.store.read(&name) {
                Ok(bytes) => Ok(Block::Bytes(bytes.into())),
                Err(_) => Err(gone),
            };
        }
        let found = u32::try_from(map)
            .ok()
            .filter(|_| reduce == self.partition)
            .and_then(|map| self.blocks.get(&(shuffle.0, map)));
        found
            .map(|bytes| Block::Bytes(bytes.as_slice().into()))
            .ok_or(gone)
    }

    /// Persisted partitions lie in the store, whatever their level says.
    fn cached(&self, rdd: RddId, partition: usize) -> Option<Block> {
        let bytes = self.store.read(&kept_name(rdd, partition)).ok()?;
        Some(Block::Bytes(bytes.into()))
    }

    fn cache(&self, rdd: RddId, partition: usize, _: StorageLevel, values: Output) {
        // What cannot be kept is computed again.
        let _ = self
            .store
            .write(&kept_name(rdd, partition), &values.bytes());
    }
}

fn kept_name(rdd: RddId, partition: usize) -> String {
    format!("rdd-{}/{partition}", rdd.0)
}
