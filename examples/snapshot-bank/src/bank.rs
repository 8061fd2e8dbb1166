//! Branches, what they pay each other, and what a snapshot counts.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Result, ensure};
use chandy_lamport::sim::{Graph, Random};
use chandy_lamport::{Input, Options, Output, Process, Protocol, SnapshotId, Wire};

/// A payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payment {
    number: usize,
    amount: u64,
}

/// What a snapshot found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) id: u64,
    pub(crate) in_branches: u64,
    pub(crate) under_way: u64,
    pub(crate) payments: u64,
}

impl Counted {
    pub(crate) fn total(&self) -> u64 {
        self.in_branches + self.under_way
    }
}

/// Something to draw, in the order in which it happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Paid { payment: usize, branch: usize },
    Received { payment: usize, branch: usize },
    Cut { id: u64, branch: usize },
    Recorded { payment: usize },
}

pub(crate) struct Bank {
    graph: Graph,
    random: Random,
    reorder: bool,
    branches: Vec<Process<Payment>>,
    balances: Vec<u64>,
    network: Vec<VecDeque<Wire<Payment>>>,
    payments: usize,
    payments_left: u32,
    between_snapshots: u32,
    snapshots: u64,
    snapshots_left: u32,
    counted: BTreeMap<SnapshotId, Counted>,
    /// Branches that have not completed their part.
    missing: BTreeMap<SnapshotId, usize>,
    events: Vec<Event>,
}

impl Bank {
    pub(crate) fn new(
        protocol: Protocol,
        seed: u64,
        payments: u32,
        snapshots: u32,
        reorder: bool,
    ) -> Result<Self> {
        let mut random = Random::new(seed);
        let graph = Graph::strongly_connected(&mut random);
        let branches = (0..graph.processes).map(|branch| {
            let inputs = graph.inputs(branch).map(|link| graph.links[link].edge);
            let outputs = graph.outputs(branch).count();
            Process::new(Options::new(protocol), inputs, outputs)
        });
        Ok(Self {
            branches: branches.collect::<Result<_, _>>()?,
            balances: vec![BEGINNING; graph.processes],
            network: vec![VecDeque::new(); graph.links.len()],
            payments: 0,
            payments_left: payments,
            between_snapshots: payments / (snapshots + 1),
            snapshots: 0,
            snapshots_left: snapshots,
            counted: BTreeMap::new(),
            missing: BTreeMap::new(),
            events: Vec::new(),
            graph,
            random,
            reorder,
        })
    }

    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }

    pub(crate) fn total(&self) -> u64 {
        self.balances.iter().sum()
    }

    pub(crate) fn counted(&self) -> Vec<Counted> {
        self.counted.values().copied().collect()
    }

    /// Lets things happen by chance until nothing more can.
    pub(crate) fn run(&mut self) -> Result<()> {
        while self.happen()? || self.snapshots_left > 0 {
            if self.is_due() {
                self.snapshot()?;
            }
        }
        ensure!(self.missing.is_empty(), "a snapshot never completes");
        Ok(())
    }

    fn happen(&mut self) -> Result<bool> {
        let (mut payers, mut choices) = (Vec::new(), Vec::new());
        for branch in 0..self.branches.len() {
            let process = &self.branches[branch];
            if self.payments_left > 0 && process.stopped().is_none() && self.balances[branch] > 0 {
                payers.push((branch, Choice::Pay));
            }
            let inputs = 0..self.graph.inputs(branch).count();
            let next = inputs.filter(|&from| process.is_ready(from));
            choices.extend(next.map(|from| (branch, Choice::Tell(Input::Next(from)))));
            let outputs = 0..self.graph.outputs(branch).count();
            let transmit = outputs.filter(|&to| process.has_output(to));
            choices.extend(transmit.map(|to| (branch, Choice::Tell(Input::Transmit(to)))));
        }
        let links = self.network.iter().enumerate();
        let loaded = links.filter(|(_, queue)| !queue.is_empty());
        choices.extend(loaded.map(|(link, _)| (link, Choice::Arrive)));
        // Payments are rarer than what comes of them, or all would be under way at once.
        if choices.is_empty() || (!payers.is_empty() && self.random.below(PAYMENT_ONE_IN) == 0) {
            choices = payers;
        }
        if choices.is_empty() {
            return Ok(false);
        }
        let (at, choice) = choices.swap_remove(self.random.below(choices.len()));
        match choice {
            Choice::Pay => self.pay(at)?,
            Choice::Arrive => self.arrive(at)?,
            Choice::Tell(input) => self.tell(at, input)?,
        }
        Ok(true)
    }

    fn pay(&mut self, branch: usize) -> Result<()> {
        let most = usize::try_from(self.balances[branch]).unwrap_or(usize::MAX);
        let amount = 1 + u64::try_from(self.random.below(most.min(30)))?;
        self.balances[branch] -= amount;
        let payment = self.payments;
        self.payments += 1;
        self.payments_left -= 1;
        self.events.push(Event::Paid { payment, branch });
        let message = Payment {
            number: payment,
            amount,
        };
        let to = self.random.below(self.graph.outputs(branch).count());
        self.tell(branch, Input::Send { to, message })
    }

    /// Snapshots are spread evenly over the payments, and one begins when the last is over.
    fn is_due(&self) -> bool {
        self.snapshots_left > 0
            && self.missing.is_empty()
            && self.payments_left <= self.snapshots_left * self.between_snapshots
    }

    /// One branch, whichever, begins.
    fn snapshot(&mut self) -> Result<()> {
        self.snapshots += 1;
        self.snapshots_left -= 1;
        let id = SnapshotId(self.snapshots);
        self.missing.insert(id, self.branches.len());
        self.counted.insert(
            id,
            Counted {
                id: id.0,
                ..Counted::default()
            },
        );
        let first = self.random.below(self.branches.len());
        self.tell(first, Input::Initiate(id))
    }

    fn arrive(&mut self, link: usize) -> Result<()> {
        let queue = &mut self.network[link];
        let place = if self.reorder {
            self.random.below(queue.len())
        } else {
            0
        };
        let Some(wire) = queue.remove(place) else {
            return Ok(());
        };
        let from = self.graph.input_of(link);
        self.tell(self.graph.links[link].to, Input::Arrive { from, wire })
    }

    fn tell(&mut self, branch: usize, input: Input<Payment>) -> Result<()> {
        self.branches[branch].step(0, input)?;
        let outputs: Vec<_> = self.branches[branch].outputs().collect();
        for output in outputs {
            match output {
                Output::Deliver { message, .. } => {
                    self.balances[branch] += message.amount;
                    let payment = message.number;
                    self.events.push(Event::Received { payment, branch });
                }
                Output::Transmit { to, wire } => {
                    if let Some(link) = self.graph.outputs(branch).nth(to) {
                        self.network[link].push_back(wire);
                    }
                }
                Output::TakeState(id) => {
                    self.counted.entry(id).or_default().in_branches += self.balances[branch];
                    self.events.push(Event::Cut { id: id.0, branch });
                }
                Output::Record { id, message, .. } => {
                    let counted = self.counted.entry(id).or_default();
                    counted.under_way += message.amount;
                    counted.payments += 1;
                    let payment = message.number;
                    self.events.push(Event::Recorded { payment });
                }
                Output::Complete(id) => self.complete(id)?,
                Output::Declined(_) | Output::Ended(_) => {}
            }
        }
        Ok(())
    }

    fn complete(&mut self, id: SnapshotId) -> Result<()> {
        let missing = self.missing.entry(id).or_default();
        *missing = missing.saturating_sub(1);
        if *missing == 0 {
            self.missing.remove(&id);
            for branch in 0..self.branches.len() {
                self.branches[branch].step(0, Input::Resume(id))?;
            }
        }
        Ok(())
    }
}

enum Choice {
    Pay,
    Arrive,
    Tell(Input<Payment>),
}

const BEGINNING: u64 = 100;
const PAYMENT_ONE_IN: usize = 4;
