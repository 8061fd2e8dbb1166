//! All processes, their programs, and the network between them.

use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

use super::check::{self, Violation};
use super::graph::Graph;
use super::program::{self, Item, Program};
use crate::{Input, Options, Output, Place, Process, Protocol, SnapshotId, Time, Wire};

/// What a run is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Setup {
    /// The processes and channels.
    pub graph: Graph,
    /// The protocol, and the rule to break.
    pub options: Options,
    /// How many items each source emits.
    pub items: u64,
    /// How far each goes.
    pub hops: u8,
    /// Whether channels keep their order.
    pub fifo: bool,
    /// How many snapshots are taken.
    pub snapshots: u64,
    /// How many may be under way at a time.
    pub concurrent: usize,
    /// How often everything crashes.
    pub crashes: u32,
    /// How many snapshots are given up.
    pub aborts: u32,
    /// How much may wait at an output before its process stops.
    pub output_max: usize,
    /// Snapshots are asked of any one process instead of all.
    pub anywhere: bool,
}

/// One thing that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A source emits an item.
    Emit(usize),
    /// A process takes what is next at an input.
    Next(usize, usize),
    /// The network takes what is next at an output.
    Transmit(usize, usize),
    /// The network brings this one of what is under way on a link.
    Arrive(usize, usize),
    /// A process hears from the coordinator.
    Control(usize),
    /// The coordinator begins a snapshot at a process, or at all.
    Snapshot(usize),
    /// The coordinator gives the oldest snapshot up.
    Abort,
    /// Time passes until something is due.
    Wait,
    /// All processes are lost and begin again from the last snapshot.
    Crash,
}

/// One process's part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// Its state.
    pub program: Program,
    /// What was in its channels.
    pub recorded: Vec<(Place, Item)>,
    /// Nothing more will come.
    pub complete: bool,
}

/// A snapshot under way: the parts by process.
pub type Recording = BTreeMap<usize, Part>;

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub(super) setup: Setup,
    pub(super) processes: Vec<Process<Item>>,
    pub(super) programs: Vec<Program>,
    network: Vec<VecDeque<Wire<Item>>>,
    control: Vec<VecDeque<Input<Item>>>,
    under_way: BTreeMap<SnapshotId, Recording>,
    last: Option<Recording>,
    now: Time,
    begun: u64,
    crashed: u32,
    aborted: u32,
    pub(super) completed: u64,
    finished: Vec<bool>,
}

impl World {
    /// The beginning.
    ///
    /// # Panics
    ///
    /// If the protocol does not fit the graph.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let processes = 0..setup.graph.processes;
        let mut world = Self {
            programs: processes
                .clone()
                .map(|p| Program::new(&setup.graph, p))
                .collect(),
            network: Vec::new(),
            control: Vec::new(),
            processes: Vec::new(),
            under_way: BTreeMap::new(),
            last: None,
            now: 0,
            begun: 0,
            crashed: 0,
            aborted: 0,
            completed: 0,
            finished: Vec::new(),
            setup,
        };
        world.restart();
        world
    }

    /// The state of each process, for the judge of a finished run.
    #[must_use]
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// Everything that can happen next.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (at, process) in self.processes.iter().enumerate() {
            if self.may_emit(at) {
                steps.push(Step::Emit(at));
            }
            if self.has_room(at) {
                let inputs = 0..self.programs[at].received.len();
                steps.extend(
                    inputs
                        .filter(|&i| process.is_ready(i))
                        .map(|i| Step::Next(at, i)),
                );
            }
            let outputs = 0..self.programs[at].sent.len();
            steps.extend(
                outputs
                    .filter(|&o| process.has_output(o))
                    .map(|o| Step::Transmit(at, o)),
            );
            if !self.control[at].is_empty() {
                steps.push(Step::Control(at));
            }
        }
        for (link, queue) in self.network.iter().enumerate() {
            let choices = if self.setup.fifo {
                queue.len().min(1)
            } else {
                queue.len()
            };
            steps.extend((0..choices).map(|place| Step::Arrive(link, place)));
        }
        self.add_faults(&mut steps);
        steps
    }

    fn add_faults(&self, steps: &mut Vec<Step>) {
        if self.begun < self.setup.snapshots && self.under_way.len() < self.setup.concurrent {
            let anywhere = if self.setup.anywhere {
                self.processes.len()
            } else {
                1
            };
            steps.extend((0..anywhere).map(Step::Snapshot));
        }
        if self.aborted < self.setup.aborts && !self.under_way.is_empty() {
            steps.push(Step::Abort);
        }
        if self.crashed < self.setup.crashes {
            steps.push(Step::Crash);
        }
        if self.deadline().is_some() {
            steps.push(Step::Wait);
        }
    }

    fn deadline(&self) -> Option<Time> {
        self.processes
            .iter()
            .filter_map(Process::next_deadline)
            .min()
    }

    /// Lets something happen.
    ///
    /// # Errors
    ///
    /// What must not happen, and did.
    pub fn step(&mut self, step: Step) -> Result<(), Violation> {
        match step {
            Step::Emit(at) => {
                let cursor = self.programs[at].cursor;
                self.programs[at].cursor += 1;
                self.visit(at, program::item(at, cursor), self.setup.hops)?;
            }
            Step::Next(at, input) => self.tell(at, Input::Next(input))?,
            Step::Transmit(at, output) => self.tell(at, Input::Transmit(output))?,
            Step::Arrive(link, place) => {
                if let Some(wire) = self.network[link].remove(place) {
                    let to = self.setup.graph.links[link].to;
                    let from = self.setup.graph.input_of(link);
                    self.tell(to, Input::Arrive { from, wire })?;
                }
            }
            Step::Control(at) => {
                if let Some(input) = self.control[at].pop_front() {
                    self.tell(at, input)?;
                }
            }
            Step::Snapshot(at) => self.begin(at),
            Step::Abort => {
                self.aborted += 1;
                if let Some(&id) = self.under_way.keys().next() {
                    self.give_up(id);
                }
            }
            Step::Wait => {
                self.now = self.deadline().unwrap_or(self.now);
                for at in 0..self.processes.len() {
                    self.tell(at, Input::Tick)?;
                }
            }
            Step::Crash => {
                self.crashed += 1;
                self.restart();
            }
        }
        self.finish_ended()
    }

    fn may_emit(&self, at: usize) -> bool {
        program::emits(&self.setup.graph, at)
            && self.programs[at].cursor < self.setup.items
            && self.processes[at].stopped().is_none()
            && self.has_room(at)
    }

    fn has_room(&self, at: usize) -> bool {
        let mut outputs = 0..self.programs[at].sent.len();
        // A process of a cycle that waits for room may wait for itself.
        self.setup.graph.has_cycle()
            || outputs.all(|o| self.processes[at].queued_output(o) < self.setup.output_max)
    }

    fn visit(&mut self, at: usize, value: u64, hops: u8) -> Result<(), Violation> {
        if let Some((to, message)) = self.programs[at].visit(at, value, hops) {
            self.tell(at, Input::Send { to, message })?;
        }
        Ok(())
    }

    fn tell(&mut self, at: usize, input: Input<Item>) -> Result<(), Violation> {
        self.processes[at]
            .step(self.now, input)
            .map_err(Violation::Refused)?;
        let outputs: Vec<_> = self.processes[at].outputs().collect();
        for output in outputs {
            self.obey(at, output)?;
        }
        Ok(())
    }

    fn obey(&mut self, at: usize, output: Output<Item>) -> Result<(), Violation> {
        match output {
            Output::Deliver { from, message } => {
                if !self.programs[at].received[from].add(message.number) {
                    return Err(Violation::ReceivedTwice { process: at, from });
                }
                self.visit(at, message.value, message.hops)?;
            }
            Output::Transmit { to, wire } => {
                if let Some(link) = self.setup.graph.outputs(at).nth(to) {
                    self.network[link].push_back(wire);
                }
            }
            Output::TakeState(id) => {
                let part = Part {
                    program: self.programs[at].clone(),
                    recorded: Vec::new(),
                    complete: false,
                };
                if let Some(recording) = self.under_way.get_mut(&id) {
                    recording.insert(at, part);
                }
            }
            Output::Record { id, place, message } => {
                if let Some(recording) = self.under_way.get_mut(&id) {
                    let part = recording.get_mut(&at).ok_or(Violation::NoState(at))?;
                    part.recorded.push((place, message));
                }
            }
            Output::Complete(id) => self.complete(at, id)?,
            Output::Declined(id) => self.give_up(id),
            Output::Ended(_) => {}
        }
        Ok(())
    }

    fn complete(&mut self, at: usize, id: SnapshotId) -> Result<(), Violation> {
        let Some(recording) = self.under_way.get_mut(&id) else {
            return Ok(());
        };
        let part = recording.get_mut(&at).ok_or(Violation::NoState(at))?;
        part.complete = true;
        let complete = recording.values().filter(|part| part.complete).count();
        if complete < self.processes.len() {
            return Ok(());
        }
        check::consistent(&self.setup.graph, recording)?;
        if self.setup.fifo {
            check::ordered(&self.setup.graph, recording)?;
        }
        let moved = |(&process, part): (&usize, &Part)| self.programs[process] != part.program;
        if self.setup.options.protocol == Protocol::StopTheWorld && recording.iter().any(moved) {
            return Err(Violation::NotStopped(id));
        }
        self.last = self.under_way.remove(&id);
        self.completed += 1;
        for control in &mut self.control {
            control.push_back(Input::Resume(id));
        }
        Ok(())
    }

    fn begin(&mut self, at: usize) {
        self.begun += 1;
        let id = SnapshotId(self.begun);
        self.under_way.insert(id, Recording::new());
        for process in 0..self.processes.len() {
            let asked = process == at || !self.setup.anywhere;
            if asked {
                self.control[process].push_back(Input::Initiate(id));
            }
        }
    }

    fn give_up(&mut self, id: SnapshotId) {
        self.under_way.remove(&id);
        for control in &mut self.control {
            control.push_back(Input::Abort(id));
        }
    }

    /// In a graph without cycles, a process whose inputs have ended has nothing more to send.
    fn finish_ended(&mut self) -> Result<(), Violation> {
        if self.setup.graph.has_cycle() || self.setup.options.protocol == Protocol::LaiYang {
            return Ok(());
        }
        for at in 0..self.processes.len() {
            let emitted = !program::emits(&self.setup.graph, at)
                || self.programs[at].cursor == self.setup.items;
            if emitted && !self.finished[at] && self.processes[at].all_ended() {
                self.finished[at] = true;
                for output in 0..self.programs[at].sent.len() {
                    self.tell(at, Input::Finish(output))?;
                }
            }
        }
        Ok(())
    }

    /// Everything begins from the last complete snapshot, or from the beginning.
    fn restart(&mut self) {
        let graph = &self.setup.graph;
        let last = self.last.take().unwrap_or_default();
        self.processes.clear();
        for at in 0..graph.processes {
            let part = last.get(&at);
            let inputs = graph.inputs(at).map(|link| graph.links[link].edge);
            let recorded = part.map_or(&[] as &[_], |part| &part.recorded);
            let outputs = graph.outputs(at).count();
            let options = self.setup.options.clone();
            let process = Process::restore(options, inputs, outputs, recorded.iter().copied());
            self.processes
                .push(process.expect("the protocol fits the graph"));
            self.programs[at] = part.map_or_else(|| Program::new(graph, at), |p| p.program.clone());
        }
        self.network = std::vec![VecDeque::new(); graph.links.len()];
        self.control = std::vec![VecDeque::new(); graph.processes];
        self.finished = std::vec![false; graph.processes];
        self.under_way.clear();
        if !last.is_empty() {
            self.last = Some(last);
        }
    }

    /// What must hold when nothing more can happen.
    ///
    /// # Errors
    ///
    /// A snapshot that never completed, or a result that is not the one of an undisturbed run.
    pub fn judge(&self) -> Result<(), Violation> {
        if let Some((&id, _)) = self.under_way.iter().next() {
            return Err(Violation::Unfinished(id));
        }
        let expected = program::oracle(&self.setup.graph, self.setup.items, self.setup.hops);
        for (process, (program, expected)) in self.programs.iter().zip(expected).enumerate() {
            if (program.visits, program.digest) != expected {
                return Err(Violation::WrongResult { process });
            }
        }
        Ok(())
    }
}
