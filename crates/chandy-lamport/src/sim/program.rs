//! What the processes compute. Where an item goes depends on nothing but the item, so the result is the same for every
//! interleaving, and known without any.

use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

use super::graph::Graph;
use super::random::mix;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item {
    /// Which of its channel's messages it is, from 0.
    pub number: u64,
    /// What it says.
    pub value: u64,
    /// How far it may still go.
    pub hops: u8,
}

/// The state of a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    /// How much of its input a source has emitted.
    pub cursor: u64,
    /// How many items came here.
    pub visits: u64,
    /// The sum of what they said.
    pub digest: u64,
    /// How much was sent on each output.
    pub sent: Vec<u64>,
    /// What was received on each input.
    pub received: Vec<Seen>,
}

/// Numbers of messages: all below one, and some above.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    below: u64,
    above: BTreeSet<u64>,
}

impl Seen {
    /// Adds a number. Whether it is new.
    pub fn add(&mut self, number: u64) -> bool {
        let new = number >= self.below && self.above.insert(number);
        while self.above.remove(&self.below) {
            self.below += 1;
        }
        new
    }

    /// Whether these are all of the numbers below this one, and no other.
    #[must_use]
    pub fn is_below(&self, end: u64) -> bool {
        self.below == end && self.above.is_empty()
    }
}

impl Program {
    /// The state before anything has happened.
    #[must_use]
    pub fn new(graph: &Graph, process: usize) -> Self {
        Self {
            cursor: 0,
            visits: 0,
            digest: 0,
            sent: vec![0; graph.outputs(process).count()],
            received: vec![Seen::default(); graph.inputs(process).count()],
        }
    }

    /// Counts an item, and says where it goes on and with which value.
    pub fn visit(&mut self, process: usize, value: u64, hops: u8) -> Option<(usize, Item)> {
        self.visits += 1;
        self.digest = self.digest.wrapping_add(mix(value));
        let (output, value) = route(process, value, hops, self.sent.len())?;
        let number = self.sent[output];
        self.sent[output] += 1;
        let hops = hops - 1;
        Some((
            output,
            Item {
                number,
                value,
                hops,
            },
        ))
    }
}

/// The first item a source makes of its place in the input.
pub(super) fn item(process: usize, cursor: u64) -> u64 {
    mix(mix(cursor) ^ u64::try_from(process).unwrap_or(u64::MAX))
}

/// Visits and digests of a run in which nothing fails.
pub(super) fn oracle(graph: &Graph, items: u64, hops: u8) -> Vec<(u64, u64)> {
    let mut programs: Vec<_> = (0..graph.processes)
        .map(|process| Program::new(graph, process))
        .collect();
    for source in 0..graph.processes {
        if !emits(graph, source) {
            continue;
        }
        for cursor in 0..items {
            let (mut at, mut value, mut left) = (source, item(source, cursor), hops);
            while let Some((output, next)) = programs[at].visit(at, value, left) {
                let link = graph.outputs(at).nth(output);
                at = link.map_or(at, |link| graph.links[link].to);
                (value, left) = (next.value, next.hops);
            }
        }
    }
    programs.iter().map(|p| (p.visits, p.digest)).collect()
}

/// Whether a process has an input of its own from outside.
pub(super) fn emits(graph: &Graph, process: usize) -> bool {
    graph.is_source(process)
}

fn route(process: usize, value: u64, hops: u8, outputs: usize) -> Option<(usize, u64)> {
    if hops == 0 || outputs == 0 {
        return None;
    }
    let value = mix(value.wrapping_add(u64::try_from(process).ok()?));
    let output = value % u64::try_from(outputs).ok()?;
    Some((usize::try_from(output).ok()?, value))
}
