//! Combining by key: in a table while it fits, in runs sorted by hash when it does not.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::path::PathBuf;

use rustc_hash::FxHashMap;

use crate::data::{Data, Key, key_hash};
use crate::rdd::{BATCH, Sink};
use crate::run_file::{RunFile, RunReader};
use crate::task::{Halt, TaskContext, TaskError};

/// Combines values by key.
pub(crate) struct Combiner<'a, K, C> {
    table: FxHashMap<K, C>,
    entries_max: usize,
    bytes_max: usize,
    folder: Option<PathBuf>,
    runs: Vec<RunFile>,
    merge: &'a dyn Fn(&mut C, C),
}

impl<'a, K: Key, C: Data> Combiner<'a, K, C> {
    /// With room for `expected` keys. The budget is the environment's, counted without what entries point at.
    pub(crate) fn new(
        task: &TaskContext<'_>,
        expected: usize,
        merge: &'a dyn Fn(&mut C, C),
    ) -> Self {
        let bytes_max = task.env().table_bytes();
        let entries_max = (bytes_max / size_of::<(K, C)>().max(1)).max(1);
        Self {
            table: FxHashMap::with_capacity_and_hasher(
                expected.min(entries_max),
                rustc_hash::FxBuildHasher,
            ),
            entries_max,
            bytes_max,
            folder: task.env().spill_folder(),
            runs: Vec::new(),
            merge,
        }
    }

    /// Adds one value: `create` makes the first of its key, `add` joins the others.
    pub(crate) fn add<V>(
        &mut self,
        key: K,
        value: V,
        create: &dyn Fn(V) -> C,
        add: &dyn Fn(&mut C, V),
    ) -> Result<(), Halt> {
        match self.table.entry(key) {
            Entry::Occupied(mut entry) => add(entry.get_mut(), value),
            Entry::Vacant(entry) => {
                entry.insert(create(value));
                if self.table.len() > self.entries_max {
                    self.spill()?;
                }
            }
        }
        Ok(())
    }

    /// As [`Self::add`], but the key is copied only when it is new.
    pub(crate) fn add_borrowed<Q, V>(
        &mut self,
        key: &Q,
        value: V,
        create: &impl Fn(V) -> C,
        add: &impl Fn(&mut C, V),
    ) -> Result<(), Halt>
    where
        K: Borrow<Q> + for<'q> From<&'q Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(sum) = self.table.get_mut(key) {
            add(sum, value);
            return Ok(());
        }
        self.table.insert(K::from(key), create(value));
        if self.table.len() > self.entries_max {
            self.spill()?;
        }
        Ok(())
    }

    /// Keys in the table now.
    pub(crate) fn keys(&self) -> usize {
        self.table.len()
    }

    /// Hands over everything, each key once, and is empty then. The table keeps its room.
    pub(crate) fn flush(&mut self, sink: Sink<'_, (K, C)>) -> Result<(), Halt> {
        if self.runs.is_empty() {
            return sink(self.table.drain().collect());
        }
        self.spill()?;
        let runs = std::mem::take(&mut self.runs);
        merge_runs(&runs, self.merge, sink)
    }

    fn spill(&mut self) -> Result<(), TaskError> {
        let folder = self.folder.as_deref().ok_or(TaskError::Budget {
            budget: self.bytes_max,
        })?;
        let mut run: Vec<(u64, (K, C))> = self
            .table
            .drain()
            .map(|(k, c)| (key_hash(&k), (k, c)))
            .collect();
        run.sort_by_key(|(hash, _)| *hash);
        self.runs.push(RunFile::write(folder, &run)?);
        Ok(())
    }
}

/// Merges runs sorted by hash: keys of one hash come together, and are told apart there.
fn merge_runs<K: Key, C: Data>(
    runs: &[RunFile],
    merge: &dyn Fn(&mut C, C),
    sink: Sink<'_, (K, C)>,
) -> Result<(), Halt> {
    type Reader<K, C> = RunReader<(u64, (K, C)), std::io::BufReader<std::fs::File>>;
    let mut readers: Vec<Reader<K, C>> =
        runs.iter().map(RunFile::read).collect::<Result<_, _>>()?;
    let mut heads: Vec<Option<(K, C)>> = Vec::new();
    let mut heap = BinaryHeap::new();
    for (i, reader) in readers.iter_mut().enumerate() {
        heads.push(None);
        if let Some(head) = reader.next().transpose()? {
            heap.push(Reverse((head.0, i)));
            heads[i] = Some(head.1);
        }
    }
    let (mut out, mut same, mut same_hash) = (Vec::new(), Vec::<(K, C)>::new(), None);
    while let Some(Reverse((hash, i))) = heap.pop() {
        if same_hash != Some(hash) {
            out.append(&mut same);
            same_hash = Some(hash);
            if out.len() >= BATCH {
                sink(std::mem::take(&mut out))?;
            }
        }
        let (key, value) = heads[i].take().expect("a run in the heap has a head");
        match same.iter_mut().find(|(other, _)| *other == key) {
            Some((_, into)) => merge(into, value),
            None => same.push((key, value)),
        }
        if let Some(head) = readers[i].next().transpose()? {
            heap.push(Reverse((head.0, i)));
            heads[i] = Some(head.1);
        }
    }
    out.append(&mut same);
    sink(out)
}
