//! Graphs to take snapshots of.

use std::vec::Vec;

use super::random::Random;
use crate::{Channel, Edge};

/// One channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// The sender.
    pub from: usize,
    /// The receiver.
    pub to: usize,
    /// What it is to the receiver.
    pub edge: Edge,
}

/// Processes, and the channels between them. The places of a process's inputs and outputs are in the order of the links.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Graph {
    /// How many processes.
    pub processes: usize,
    /// The channels.
    pub links: Vec<Link>,
}

impl Graph {
    /// These links, each (from, to); one that does not go to a higher number is a back edge.
    #[must_use]
    pub fn of(processes: usize, links: &[(usize, usize)]) -> Self {
        let link = |&(from, to): &(usize, usize)| Link {
            from,
            to,
            edge: if to > from { Edge::Forward } else { Edge::Back },
        };
        Self {
            processes,
            links: links.iter().map(link).collect(),
        }
    }

    /// A graph without cycles, in which each process but the first few has an input.
    #[must_use]
    pub fn acyclic(random: &mut Random) -> Self {
        let processes = 2 + random.below(6);
        let sources = 1 + random.below(processes.min(3) - 1);
        let mut links = Vec::new();
        for to in sources..processes {
            let inputs = 1 + random.below(3);
            links.extend((0..inputs).map(|_| (random.below(to), to)));
        }
        Self::of(processes, &links)
    }

    /// As [`acyclic`](Self::acyclic), with back edges.
    #[must_use]
    pub fn cyclic(random: &mut Random) -> Self {
        let mut graph = Self::acyclic(random);
        for _ in 0..=random.below(3) {
            let from = random.below(graph.processes);
            let to = random.below(from + 1);
            graph.links.push(Link {
                from,
                to,
                edge: Edge::Back,
            });
        }
        graph
    }

    /// A ring with chords: every process reaches every other.
    #[must_use]
    pub fn strongly_connected(random: &mut Random) -> Self {
        let processes = 2 + random.below(5);
        let mut links: Vec<_> = (0..processes).map(|p| (p, (p + 1) % processes)).collect();
        let chords = random.below(2 * processes);
        links.extend((0..chords).map(|_| (random.below(processes), random.below(processes))));
        Self::of(processes, &links)
    }

    /// The inputs of a process, as places in `links`.
    pub fn inputs(&self, process: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.links.len()).filter(move |&link| self.links[link].to == process)
    }

    /// The outputs of a process, as places in `links`.
    pub fn outputs(&self, process: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.links.len()).filter(move |&link| self.links[link].from == process)
    }

    /// Which of its sender's outputs a link is.
    #[must_use]
    pub fn output_of(&self, link: usize) -> Channel {
        let from = self.links[link].from;
        self.outputs(from)
            .take_while(|&other| other != link)
            .count()
    }

    /// Which of its receiver's inputs a link is.
    #[must_use]
    pub fn input_of(&self, link: usize) -> Channel {
        let to = self.links[link].to;
        self.inputs(to).take_while(|&other| other != link).count()
    }

    /// Whether nothing brings a barrier to this process by itself.
    #[must_use]
    pub fn is_source(&self, process: usize) -> bool {
        !self
            .inputs(process)
            .any(|link| self.links[link].edge == Edge::Forward)
    }

    /// Whether some edge goes back.
    #[must_use]
    pub fn has_cycle(&self) -> bool {
        self.links.iter().any(|link| link.edge == Edge::Back)
    }
}
