//! The invocations and returns of a part as a doubly linked list, from which an operation can be lifted and put back.

use crate::Model;
use crate::machine::Entry;

/// What a node stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Invocation(usize),
    Return(usize),
}

/// The events of all entries not yet lifted, in order of time; an invocation comes before a return at the same time.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    nodes: Vec<Node>,
    /// By node; the node after the last is both ends.
    after: Vec<usize>,
    before: Vec<usize>,
    /// By entry.
    invocation: Vec<usize>,
    returning: Vec<Option<usize>>,
}

impl Links {
    pub(crate) fn new<M: Model>(entries: &[Entry<'_, M>]) -> Self {
        let nodes = events(entries);
        let count = nodes.len();
        let mut invocation = vec![0; entries.len()];
        let mut returning = vec![None; entries.len()];
        for (place, node) in nodes.iter().enumerate() {
            match *node {
                Node::Invocation(op) => invocation[op] = place,
                Node::Return(op) => returning[op] = Some(place),
            }
        }
        Self {
            after: (1..=count).chain([0]).collect(),
            before: [count].into_iter().chain(0..count).collect(),
            nodes,
            invocation,
            returning,
        }
    }

    /// The first node, or [`end`](Self::end).
    pub(crate) fn first(&self) -> usize {
        self.after[self.end()]
    }

    pub(crate) fn end(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn after(&self, place: usize) -> usize {
        self.after[place]
    }

    /// The entry invoked at `place`; `None` at a return and at the end.
    pub(crate) fn invoked_at(&self, place: usize) -> Option<usize> {
        match self.nodes.get(place) {
            Some(&Node::Invocation(op)) => Some(op),
            _ => None,
        }
    }

    pub(crate) fn lift(&mut self, op: usize) {
        self.unlink(self.invocation[op]);
        if let Some(returning) = self.returning[op] {
            self.unlink(returning);
        }
    }

    /// Undoes [`lift`](Self::lift); the last lifted goes back first.
    pub(crate) fn put_back(&mut self, op: usize) {
        if let Some(returning) = self.returning[op] {
            self.link(returning);
        }
        self.link(self.invocation[op]);
    }

    fn unlink(&mut self, place: usize) {
        let (before, after) = (self.before[place], self.after[place]);
        self.after[before] = after;
        self.before[after] = before;
    }

    fn link(&mut self, place: usize) {
        let (before, after) = (self.before[place], self.after[place]);
        self.after[before] = place;
        self.before[after] = place;
    }
}

/// All events in order of time.
pub(crate) fn events<M: Model>(entries: &[Entry<'_, M>]) -> Vec<Node> {
    let mut events = Vec::with_capacity(2 * entries.len());
    for (op, entry) in entries.iter().enumerate() {
        events.push((entry.invoked, false, Node::Invocation(op)));
        events.extend(entry.returned.map(|time| (time, true, Node::Return(op))));
    }
    events.sort_by_key(|&(time, is_return, _)| (time, is_return));
    events.into_iter().map(|(_, _, node)| node).collect()
}
