//! Programs: typed streams that become a job.

use std::cell::RefCell;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;

use chandy_lamport::KeyGroups;

use crate::body::{Body, Place};
use crate::chain::Chain;
use crate::job::{Input, Job, Ports, Shape, Vertex};
use crate::keyed::{Backed, Looped, Stateful};
use crate::push::{EventTime, Filter, FlatMap, Map, Push};
use crate::router::{Edge, Router, Spread, hash_all};
use crate::sink::{ForEach, Output, Transactional};
use crate::source::{Source, SourceBody};
use crate::window::{Aggregate, Windowed, Windows};
use crate::{Message, Record, Time};

/// A program under construction.
#[derive(Clone, Debug)]
pub struct Program {
    groups: KeyGroups,
    /// Filled when a stream's task ends; numbered when it begins, so that what comes before has a lower number.
    vertices: Rc<RefCell<Vec<Option<Vertex>>>>,
}

/// Makes the operators up to here, given those after them.
type Head<T> = Arc<dyn Fn(&Place, &Ports, Box<dyn Push<T>>) -> Box<dyn Body> + Send + Sync>;

/// Records of one type on their way. Operators that follow each other without an exchange run in one task.
pub struct Stream<T> {
    program: Program,
    vertex: usize,
    name: String,
    tasks: u32,
    inputs: Vec<Input>,
    head: Head<T>,
}

/// A stream whose records have keys.
pub struct KeyedStream<T, G> {
    stream: Stream<T>,
    key: G,
}

impl Program {
    /// An empty program, whose keyed state comes in so many groups.
    #[must_use]
    pub fn new(groups: KeyGroups) -> Self {
        Self {
            groups,
            vertices: Rc::default(),
        }
    }

    /// Reads sources, one by each task. Records go on in batches of at most `batch`.
    ///
    /// # Panics
    ///
    /// If there are no tasks.
    pub fn source<S>(
        &self,
        name: &str,
        tasks: u32,
        batch: usize,
        open: impl Fn(u32) -> S + Send + Sync + 'static,
    ) -> Stream<S::Item>
    where
        S: Source + 'static,
        S::Item: Record,
    {
        assert!(tasks > 0, "{name} has no tasks");
        let head: Head<S::Item> = Arc::new(move |place, _, head| {
            Box::new(SourceBody {
                source: open(place.subtask),
                batch: batch.max(1),
                head,
                ended: false,
                polled: 0,
            })
        });
        Stream {
            program: self.clone(),
            vertex: self.reserve(),
            name: name.into(),
            tasks,
            inputs: Vec::new(),
            head,
        }
    }

    /// The whole program, as tasks and channels.
    ///
    /// # Panics
    ///
    /// If there are no streams, or one of them has no end.
    #[must_use]
    pub fn job(self) -> Job {
        let vertices = self.vertices.take();
        let reserved = vertices.len();
        let vertices: Vec<_> = vertices.into_iter().flatten().collect();
        let ended = !vertices.is_empty() && vertices.len() == reserved;
        assert!(ended, "a stream without an end does nothing");
        Job::new(self.groups, vertices)
    }

    fn reserve(&self) -> usize {
        let mut vertices = self.vertices.borrow_mut();
        vertices.push(None);
        vertices.len() - 1
    }

    fn fill(&self, place: usize, vertex: Vertex) {
        self.vertices.borrow_mut()[place] = Some(vertex);
    }
}

impl<T: Record> Stream<T> {
    /// One record of each.
    #[must_use]
    pub fn map<U: Record>(self, f: impl Fn(T) -> U + Clone + Send + Sync + 'static) -> Stream<U> {
        self.then(move |_, _, next| Box::new(Map { f: f.clone(), next }))
    }

    /// Several records of each, or none.
    #[must_use]
    pub fn flat_map<U: Record>(
        self,
        f: impl Fn(T, &mut Vec<U>) + Clone + Send + Sync + 'static,
    ) -> Stream<U> {
        self.then(move |_, _, next| Box::new(FlatMap { f: f.clone(), next }))
    }

    /// Those for which this holds.
    #[must_use]
    pub fn filter(self, f: impl Fn(&T) -> bool + Clone + Send + Sync + 'static) -> Self {
        self.then(move |_, _, next| Box::new(Filter { f: f.clone(), next }))
    }

    /// Says when records happened, and how much later than the latest one another may come: the watermark is so far behind.
    #[must_use]
    pub fn event_time(
        self,
        time: impl Fn(&T) -> Time + Clone + Send + Sync + 'static,
        late: Time,
    ) -> Self {
        self.then(move |_, _, next| {
            Box::new(EventTime {
                time: time.clone(),
                late,
                latest: 0,
                next,
            })
        })
    }

    /// Gives records keys.
    #[must_use]
    pub fn key_by<K, G>(self, key: G) -> KeyedStream<T, G>
    where
        K: Record + Hash + Eq,
        G: Fn(&T) -> K + Clone + Send + Sync + 'static,
    {
        KeyedStream { stream: self, key }
    }

    /// Spreads batches evenly over so many tasks.
    #[must_use]
    pub fn rebalance(self, name: &str, tasks: u32) -> Self {
        self.exchange(name, tasks, Spread::Rebalance, 0)
    }

    /// Ends here, in outputs that have each record once whatever crashes: one for each task. Records get there when the
    /// snapshot after them is complete.
    pub fn sink<O: Output + 'static>(
        self,
        open: impl Fn(u32) -> O + Send + Sync + 'static,
        format: impl Fn(&T, &mut Vec<u8>) + Clone + Send + Sync + 'static,
    ) {
        self.end(move |place| Box::new(Transactional::new(open(place.subtask), format.clone())));
    }

    /// Ends here, in a function for each task. Batches come at once, and again after a restore.
    pub fn for_each<F: FnMut(Vec<T>) + Send + 'static>(
        self,
        make: impl Fn(u32) -> F + Send + Sync + 'static,
    ) {
        self.end(move |place| {
            Box::new(ForEach {
                f: make(place.subtask),
            })
        });
    }

    /// Puts an operator after those of this task.
    fn then<U: Record>(
        self,
        operator: impl Fn(&Place, &Ports, Box<dyn Push<U>>) -> Box<dyn Push<T>> + Send + Sync + 'static,
    ) -> Stream<U> {
        let head = self.head;
        Stream {
            program: self.program,
            vertex: self.vertex,
            name: self.name,
            tasks: self.tasks,
            inputs: self.inputs,
            head: Arc::new(move |place, ports, next| {
                head(place, ports, operator(place, ports, next))
            }),
        }
    }

    fn end(self, sink: impl Fn(&Place) -> Box<dyn Push<T>> + Send + Sync + 'static) {
        let head = self.head;
        let vertex = Vertex {
            name: self.name,
            tasks: self.tasks,
            inputs: self.inputs,
            make: Arc::new(move |place, ports| head(place, ports, sink(place))),
        };
        self.program.fill(self.vertex, vertex);
    }

    /// Ends the task here and begins another, whose inputs are these records. `loops` of its outputs are back edges.
    fn exchange(self, name: &str, tasks: u32, spread: Spread<T>, loops: usize) -> Self {
        assert!(tasks > 0, "{name} has no tasks");
        let (head, groups) = (self.head, self.program.groups);
        let shape = if matches!(spread, Spread::Forward) {
            Shape::Forward
        } else {
            Shape::All
        };
        let make = move |place: &Place, ports: &Ports| {
            let ports_on = ports.onward();
            let turn = usize::try_from(place.subtask).unwrap_or(0);
            let edge = |ports: &(usize, u32)| Edge::new(spread.clone(), *ports, groups, turn);
            let edges = ports_on.iter().map(edge).collect();
            head(place, ports, Box::new(Router { edges }))
        };
        let vertex = Vertex {
            name: self.name,
            tasks: self.tasks,
            inputs: self.inputs,
            make: Arc::new(make),
        };
        self.program.fill(self.vertex, vertex);
        let own = self.program.reserve();
        let input = Input {
            from: self.vertex,
            shape,
            back: false,
            decode: Message::from_bytes::<T>,
        };
        let mut inputs = vec![input];
        inputs.extend((0..loops).map(|_| Input {
            from: own,
            shape: Shape::All,
            back: true,
            decode: Message::from_bytes::<T>,
        }));
        Self {
            program: self.program,
            vertex: own,
            name: name.into(),
            tasks,
            inputs,
            head: Arc::new(move |_, ports, head| Box::new(Chain::new(ports.forward_inputs, head))),
        }
    }
}

impl<K, T, G> KeyedStream<T, G>
where
    K: Record + Hash + Eq + std::fmt::Debug,
    T: Record,
    G: Fn(&T) -> K + Clone + Send + Sync + 'static,
{
    /// Changes the key's value with each record, and emits what comes of it. The value begins as `first` says. All records
    /// of a key meet in one of so many tasks.
    #[must_use]
    pub fn stateful<V: Record + std::fmt::Debug, U: Record>(
        self,
        name: &str,
        tasks: u32,
        first: impl Fn() -> V + Clone + Send + Sync + 'static,
        change: impl Fn(&K, &mut V, T, &mut Vec<U>) + Clone + Send + Sync + 'static,
    ) -> Stream<U> {
        let key = self.key.clone();
        self.exchange(name, tasks, 0).then(move |place, _, next| {
            Box::new(Stateful {
                key: key.clone(),
                backed: Backed::new(place),
                first: first.clone(),
                change: change.clone(),
                next,
            })
        })
    }

    /// As [`stateful`](Self::stateful), where records may go round: those in the first vector come again, by their keys;
    /// those in the second go on. It must not go round for ever.
    #[must_use]
    pub fn iterate<V: Record + std::fmt::Debug, U: Record>(
        self,
        name: &str,
        tasks: u32,
        first: impl Fn() -> V + Clone + Send + Sync + 'static,
        change: impl Fn(&K, &mut V, T, &mut Vec<T>, &mut Vec<U>) + Clone + Send + Sync + 'static,
    ) -> Stream<U> {
        let key = self.key.clone();
        let groups = self.stream.program.groups;
        self.exchange(name, tasks, 1)
            .then(move |place, ports, next| {
                let hashed = key.clone();
                let back = ports.back().unwrap_or((0, 1));
                Box::new(Looped {
                    key: key.clone(),
                    backed: Backed::new(place),
                    first: first.clone(),
                    change: change.clone(),
                    again: Edge::new(Spread::Hash(hash_all(hashed)), back, groups, 0),
                    next,
                })
            })
    }

    /// Aggregates each key's records by windows of event time. A window goes on, with its key and beginning, when the
    /// watermark passes its end; later records are left out.
    #[must_use]
    pub fn window<A: Record + std::fmt::Debug>(
        self,
        name: &str,
        tasks: u32,
        windows: Windows,
        time: impl Fn(&T) -> Time + Send + Sync + 'static,
        first: impl Fn() -> A + Send + Sync + 'static,
        add: impl Fn(&mut A, T) + Send + Sync + 'static,
    ) -> Stream<(K, Time, A)>
    where
        K: Ord,
    {
        let key = self.key.clone();
        let (time, first, add) = (Arc::new(time), Arc::new(first), Arc::new(add));
        self.exchange(name, tasks, 0).then(move |place, _, next| {
            Box::new(Windowed {
                key: key.clone(),
                windows,
                aggregate: Aggregate {
                    time: time.clone(),
                    first: first.clone(),
                    add: add.clone(),
                },
                backed: Backed::new(place),
                due: std::collections::BTreeMap::new(),
                watermark: 0,
                next,
            })
        })
    }

    /// Aggregates in two phases: batch by batch where the records are, then by key. A key that many records have then
    /// costs its task one record a batch. `merge` must not mind the order.
    #[must_use]
    pub fn two_phase<A: Record + std::fmt::Debug, U: Record>(
        self,
        name: &str,
        tasks: u32,
        first: impl Fn() -> A + Clone + Send + Sync + 'static,
        add: impl Fn(&mut A, T) + Clone + Send + Sync + 'static,
        merge: impl Fn(&K, &mut A, A, &mut Vec<U>) + Clone + Send + Sync + 'static,
    ) -> Stream<U> {
        let key = self.key;
        let begin = first.clone();
        let combined = self.stream.then(move |_, _, next| {
            Box::new(crate::skew::Combine {
                key: key.clone(),
                first: begin.clone(),
                add: add.clone(),
                next,
            })
        });
        combined.key_by(|(key, _): &(K, A)| key.clone()).stateful(
            name,
            tasks,
            first,
            move |key, all, (_, part), out| {
                merge(key, all, part, out);
            },
        )
    }

    fn exchange(self, name: &str, tasks: u32, loops: usize) -> Stream<T> {
        let hash = hash_all(self.key);
        self.stream.exchange(name, tasks, Spread::Hash(hash), loops)
    }
}

impl<T> std::fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a stream of {} tasks of {}", self.tasks, self.name)
    }
}

impl<T, G> std::fmt::Debug for KeyedStream<T, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, with keys", self.stream)
    }
}
