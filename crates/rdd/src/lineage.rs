//! Lineage: how each dataset was made, without its element type.

use std::fmt::Write;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, Weak};

use twox_hash::XxHash3_64;

use crate::context::Runner;
use crate::data::{RddId, ShuffleId};
use crate::partitioner::PartitionerId;
use crate::task::{Halt, Output, StorageLevel, TaskContext};

/// One dataset in the lineage.
#[derive(Debug)]
pub struct Lineage {
    pub(crate) id: RddId,
    pub(crate) operator: &'static str,
    pub(crate) element: &'static str,
    pub(crate) partitions: usize,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) partitioner: Option<PartitionerId>,
    pub(crate) level: AtomicU8,
    pub(crate) name: Mutex<Option<String>>,
}

/// What a partition is computed from.
#[derive(Clone, Debug)]
pub enum Dependency {
    /// From a bounded number of partitions of the parent, in the same task.
    Narrow(Arc<Lineage>),
    /// From all partitions of the parent, through a shuffle.
    Wide(Arc<Shuffle>),
}

impl Dependency {
    /// The dataset depended on.
    pub fn parent(&self) -> &Arc<Lineage> {
        match self {
            Self::Narrow(parent) => parent,
            Self::Wide(shuffle) => &shuffle.parent,
        }
    }
}

impl Lineage {
    /// The dataset's number.
    pub fn id(&self) -> RddId {
        self.id
    }

    /// The operator that makes it.
    pub fn operator(&self) -> &'static str {
        self.operator
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> usize {
        self.partitions
    }

    /// What it is made from.
    pub fn dependencies(&self) -> &[Dependency] {
        &self.dependencies
    }

    /// How its elements are spread over the partitions, where that is known.
    pub fn partitioner(&self) -> Option<&PartitionerId> {
        self.partitioner.as_ref()
    }

    pub(crate) fn level(&self) -> StorageLevel {
        match self.level.load(Ordering::Relaxed) {
            1 => StorageLevel::MemoryOnly,
            2 => StorageLevel::MemoryAndDisk,
            3 => StorageLevel::DiskOnly,
            _ => StorageLevel::None,
        }
    }

    /// Every dataset this one comes from, itself included, parents first, each once.
    pub fn ancestry(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let mut done: Vec<Arc<Self>> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        // A stack of its own: lineages of iterative programs are thousands deep.
        let mut stack = vec![(self.clone(), false)];
        while let Some((rdd, parents_done)) = stack.pop() {
            if parents_done {
                done.push(rdd);
            } else if seen.insert(rdd.id) {
                stack.push((rdd.clone(), true));
                stack.extend(
                    rdd.dependencies
                        .iter()
                        .rev()
                        .map(|d| (d.parent().clone(), false)),
                );
            }
        }
        done
    }

    /// A number that two processes agree on only when they built the same lineage: operators, element types,
    /// partition counts, partitioners and edges.
    pub fn fingerprint(self: &Arc<Self>) -> u64 {
        let mut text = String::new();
        for rdd in self.ancestry() {
            let _ = write!(
                text,
                "{} {} {} {} {:?}",
                rdd.id.0, rdd.operator, rdd.element, rdd.partitions, rdd.partitioner
            );
            for dependency in &rdd.dependencies {
                let wide = matches!(dependency, Dependency::Wide(_));
                let _ = write!(text, " {wide} {}", dependency.parent().id.0);
            }
            text.push('\n');
        }
        XxHash3_64::oneshot(text.as_bytes())
    }

    /// The lineage as text, like Spark's `toDebugString`: the partition count in front, `+-` where a shuffle
    /// cuts stages, `|` where a task goes on. A dataset already written is named only.
    pub fn to_debug_string(self: &Arc<Self>) -> String {
        let mut text = String::new();
        let mut seen = std::collections::BTreeSet::new();
        let mut stack = vec![(self.clone(), 0usize, "")];
        while let Some((rdd, depth, edge)) = stack.pop() {
            let _ = write!(
                text,
                "{}{edge}({}) {} [{}]",
                "  ".repeat(depth),
                rdd.partitions,
                rdd.label(),
                rdd.id.0
            );
            if !seen.insert(rdd.id) {
                text.push_str(" as above\n");
                continue;
            }
            if rdd.level() != StorageLevel::None {
                let _ = write!(text, " {:?}", rdd.level());
            }
            text.push('\n');
            for dependency in rdd.dependencies.iter().rev() {
                let edge = if matches!(dependency, Dependency::Wide(_)) {
                    "+-"
                } else {
                    "| "
                };
                stack.push((dependency.parent().clone(), depth + 1, edge));
            }
        }
        text
    }

    /// The lineage as a graph for Graphviz: an arrow from each dataset to what is made from it, dashed where a
    /// shuffle lies between.
    pub fn to_dot(self: &Arc<Self>) -> String {
        let mut text = String::from("digraph lineage {\n  node [shape=box];\n");
        for rdd in self.ancestry() {
            let label = rdd.label().replace('\\', "\\\\").replace('"', "\\\"");
            let fill = if rdd.level() == StorageLevel::None {
                ""
            } else {
                ", style=filled"
            };
            let _ = writeln!(
                text,
                "  r{} [label=\"{label}\\n{} partitions\"{fill}];",
                rdd.id.0, rdd.partitions
            );
            for dependency in &rdd.dependencies {
                let style = if matches!(dependency, Dependency::Wide(_)) {
                    " [style=dashed]"
                } else {
                    ""
                };
                let _ = writeln!(
                    text,
                    "  r{} -> r{}{style};",
                    dependency.parent().id.0,
                    rdd.id.0
                );
            }
        }
        text.push_str("}\n");
        text
    }

    pub(crate) fn label(&self) -> String {
        match &*self
            .name
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
        {
            Some(name) => format!("{} \"{name}\"", self.operator),
            None => self.operator.to_owned(),
        }
    }
}

/// A shuffle: the map side's work, and who reads it. Its blocks go when it does.
pub struct Shuffle {
    pub(crate) id: ShuffleId,
    pub(crate) parent: Arc<Lineage>,
    pub(crate) reduces: usize,
    pub(crate) map: MapWork,
    pub(crate) runner: Weak<dyn Runner>,
}

pub(crate) type MapWork =
    Box<dyn Fn(usize, &TaskContext<'_>) -> Result<Vec<Output>, Halt> + Send + Sync>;

impl Shuffle {
    /// The shuffle's number.
    pub fn id(&self) -> ShuffleId {
        self.id
    }

    /// How many map tasks it has.
    pub fn maps(&self) -> usize {
        self.parent.partitions
    }

    /// How many partitions it makes.
    pub fn reduces(&self) -> usize {
        self.reduces
    }
}

impl Drop for Shuffle {
    fn drop(&mut self) {
        if let Some(runner) = self.runner.upgrade() {
            runner.forget_shuffle(self.id);
        }
    }
}

impl std::fmt::Debug for Shuffle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shuffle")
            .field("id", &self.id)
            .field("reduces", &self.reduces)
            .finish_non_exhaustive()
    }
}
