//! A program as tasks and channels.

use std::collections::BTreeMap;
use std::sync::Arc;

use chandy_lamport::{Channel, Edge, KeyGroups, Task as TaskId};

use crate::body::{Body, Place};
use crate::{Message, TaskError};

/// A job: what every runtime runs.
#[derive(Clone, Debug)]
pub struct Job {
    groups: KeyGroups,
    vertices: Vec<Vertex>,
    tasks: Vec<Site>,
    links: Vec<Link>,
}

/// Makes the body of a task.
pub(crate) type Make = Arc<dyn Fn(&Place, &Ports) -> Box<dyn Body> + Send + Sync>;

/// An operator, or several that need no exchange between them.
#[derive(Clone)]
pub(crate) struct Vertex {
    pub(crate) name: String,
    pub(crate) tasks: u32,
    pub(crate) inputs: Vec<Input>,
    pub(crate) make: Make,
}

/// Reads a channel's message from a snapshot.
pub(crate) type Decode = fn(&[u8]) -> Result<Message, TaskError>;

/// Where a vertex's records come from.
#[derive(Clone)]
pub(crate) struct Input {
    pub(crate) from: usize,
    pub(crate) shape: Shape,
    pub(crate) back: bool,
    pub(crate) decode: Decode,
}

/// Which tasks have channels to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Forward,
    All,
}

/// The channels of a task, for who makes its body.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    /// How many inputs are not back edges.
    pub(crate) forward_inputs: usize,
    /// Of each operator that it sends to: the first channel, how many there are, and whether it is a back edge.
    outputs: Vec<(Channel, u32, bool)>,
}

impl Ports {
    /// The channels that lead on.
    pub(crate) fn onward(&self) -> Vec<(Channel, u32)> {
        let onward = self.outputs.iter().filter(|(_, _, back)| !back);
        onward.map(|(first, tasks, _)| (*first, *tasks)).collect()
    }

    /// The channels that lead back to the task's own operator.
    pub(crate) fn back(&self) -> Option<(Channel, u32)> {
        let back = self.outputs.iter().find(|(_, _, back)| *back)?;
        Some((back.0, back.1))
    }
}

/// A task's place in the graph.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) id: TaskId,
    /// The links that come in and go out, by channel.
    pub(crate) inputs: Vec<usize>,
    pub(crate) outputs: Vec<usize>,
    ports: Ports,
}

/// A channel from task to task.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(crate) from: usize,
    pub(crate) output: Channel,
    pub(crate) to: usize,
    pub(crate) input: Channel,
    pub(crate) back: bool,
    pub(crate) decode: Decode,
}

impl Job {
    pub(crate) fn new(groups: KeyGroups, vertices: Vec<Vertex>) -> Self {
        let mut job = Self {
            groups,
            tasks: Vec::new(),
            links: Vec::new(),
            vertices,
        };
        let mut first_task = Vec::new();
        for (vertex, operator) in job.vertices.iter().zip(0..) {
            first_task.push(job.tasks.len());
            job.tasks.extend((0..vertex.tasks).map(|subtask| Site {
                id: TaskId { operator, subtask },
                inputs: Vec::new(),
                outputs: Vec::new(),
                ports: Ports::default(),
            }));
        }
        for to in 0..job.vertices.len() {
            for input in job.vertices[to].inputs.clone() {
                job.connect(&first_task, to, &input);
            }
        }
        job
    }

    fn connect(&mut self, first_task: &[usize], vertex: usize, input: &Input) {
        let count = |vertex: &Vertex| usize::try_from(vertex.tasks).unwrap_or(0);
        let receivers = self.vertices[vertex].tasks;
        for sender in 0..count(&self.vertices[input.from]) {
            let from = first_task[input.from] + sender;
            let channels = match input.shape {
                Shape::Forward => 1,
                Shape::All => receivers,
            };
            let first = self.tasks[from].outputs.len();
            let outputs = &mut self.tasks[from].ports.outputs;
            outputs.push((first, channels, input.back));
            for receiver in 0..count(&self.vertices[vertex]) {
                if input.shape == Shape::Forward && sender != receiver {
                    continue;
                }
                let to = first_task[vertex] + receiver;
                let link = self.links.len();
                self.links.push(Link {
                    from,
                    output: self.tasks[from].outputs.len(),
                    to,
                    input: self.tasks[to].inputs.len(),
                    back: input.back,
                    decode: input.decode,
                });
                self.tasks[from].outputs.push(link);
                self.tasks[to].inputs.push(link);
                self.tasks[to].ports.forward_inputs += usize::from(!input.back);
            }
        }
    }

    /// The name of each operator and how many tasks it has, in the order of their numbers.
    pub fn operators(&self) -> impl Iterator<Item = (&str, u32)> {
        self.vertices
            .iter()
            .map(|vertex| (&vertex.name[..], vertex.tasks))
    }

    /// How many tasks there are.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// How many key groups its state comes in.
    #[must_use]
    pub fn key_groups(&self) -> KeyGroups {
        self.groups
    }

    /// Whether records go round somewhere.
    #[must_use]
    pub fn has_cycle(&self) -> bool {
        self.links.iter().any(|link| link.back)
    }

    /// All tasks.
    pub fn ids(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.tasks.iter().map(|site| site.id)
    }

    /// A worker for each task: the tasks of an operator are spread, and those of the same number are together.
    #[cfg(feature = "threads")]
    pub(crate) fn spread(&self, workers: usize) -> Vec<usize> {
        let of = |site: &Site| usize::try_from(site.id.subtask).unwrap_or(0) % workers;
        self.tasks.iter().map(of).collect()
    }

    pub(crate) fn parallelism(&self) -> BTreeMap<u32, u32> {
        (0..)
            .zip(self.vertices.iter().map(|vertex| vertex.tasks))
            .collect()
    }

    pub(crate) fn site(&self, task: usize) -> &Site {
        &self.tasks[task]
    }

    pub(crate) fn links(&self) -> &[Link] {
        &self.links
    }

    pub(crate) fn edges(&self, task: usize) -> impl Iterator<Item = Edge> + '_ {
        let edge = |back| if back { Edge::Back } else { Edge::Forward };
        let inputs = self.tasks[task].inputs.iter();
        inputs.map(move |&link| edge(self.links[link].back))
    }

    /// Whether a task reads a source.
    pub(crate) fn is_source(&self, task: usize) -> bool {
        self.tasks[task].ports.forward_inputs == 0
    }

    pub(crate) fn body(&self, task: usize) -> Box<dyn Body> {
        let site = &self.tasks[task];
        let operator = usize::try_from(site.id.operator).unwrap_or(usize::MAX);
        let vertex = &self.vertices[operator];
        let place = Place {
            subtask: site.id.subtask,
            tasks: vertex.tasks,
            inputs: site.inputs.len(),
            groups: self.groups.range(site.id.subtask, vertex.tasks),
            key_groups: self.groups,
        };
        (vertex.make)(&place, &site.ports)
    }
}

impl std::fmt::Debug for Vertex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tasks of {}", self.tasks, self.name)
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}.{} -> {}.{}",
            self.from, self.output, self.to, self.input
        )
    }
}
