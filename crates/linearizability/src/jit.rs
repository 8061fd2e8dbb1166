//! The breadth-first engine: Lowe's just-in-time linearization.
//!
//! Events are taken in order of time. An operation happens only when its own return or that of a concurrent one demands
//! it, so a configuration is a state and which of the *open* operations have happened: memory follows the number of open
//! operations and not the length of the history.

use rustc_hash::FxHashSet;

use crate::Model;
use crate::links::{Node, events};
use crate::machine::{Answer, Machine, StateId, Turn};

/// The search, which can rest between any two steps.
#[derive(Debug)]
pub(crate) struct Jit {
    events: Vec<Node>,
    /// Events before this one are done.
    position: usize,
    /// Open entries by slot.
    slots: Vec<Option<usize>>,
    /// By entry, while it is open.
    slot_of: Vec<usize>,
    /// What is possible after the events done.
    configurations: Vec<Configuration>,
    expansion: Option<Expansion>,
    /// Every configuration's order, from its end.
    trace: Vec<Happened>,
}

/// A state and who of the open operations has happened.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) state: StateId,
    pub(crate) happened: Slots,
    /// The end of its order in [`Jit::trace`], if anything happened.
    last: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Happened {
    op: usize,
    before: Option<usize>,
}

/// The way to all configurations in which an entry has happened that now returns.
#[derive(Debug, Default)]
struct Expansion {
    to_expand: Vec<Configuration>,
    expanded: FxHashSet<(StateId, Slots)>,
    done: Vec<Configuration>,
    is_done: FxHashSet<(StateId, Slots)>,
}

impl Jit {
    pub(crate) fn new<M: Model>(machine: &mut Machine<'_, M>) -> Self {
        let state = machine.initial();
        Self::from_states(machine, [(state, Vec::new())])
    }

    /// Starts where any of `states` is possible, in which those entries have already happened.
    ///
    /// The entries named must be pending and be invoked before all others.
    pub(crate) fn from_states<M: Model>(
        machine: &Machine<'_, M>,
        states: impl IntoIterator<Item = (StateId, Vec<usize>)>,
    ) -> Self {
        let configurations = states.into_iter().map(|(state, happened)| {
            let mut slots = Slots::default();
            happened.into_iter().for_each(|op| slots.insert(op));
            Configuration {
                state,
                happened: slots,
                last: None,
            }
        });
        Self {
            events: events(&machine.entries),
            position: 0,
            slots: Vec::new(),
            slot_of: vec![0; machine.entries.len()],
            configurations: configurations.collect(),
            expansion: None,
            trace: Vec::new(),
        }
    }

    /// Searches until the turn's steps are spent (`None`) or the answer is found.
    pub(crate) fn advance<M: Model>(
        &mut self,
        machine: &mut Machine<'_, M>,
        turn: &mut Turn<'_>,
    ) -> Option<Answer> {
        while let Some(&event) = self.events.get(self.position) {
            match event {
                Node::Invocation(op) => self.open(op),
                Node::Return(op) => {
                    if let Some(stop) = self.expand(machine, turn, op) {
                        return stop;
                    }
                    self.close(op);
                    if self.configurations.is_empty() {
                        return Some(Answer::No(Some(op)));
                    }
                }
            }
            self.position += 1;
        }
        let last = self
            .configurations
            .first()
            .and_then(|configuration| configuration.last);
        Some(Answer::Yes(self.order(last)))
    }

    /// All that is possible after the last event, each with the pending entries that have happened.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (StateId, Vec<usize>)> {
        self.configurations.iter().map(|configuration| {
            let open = self.slots.iter().enumerate();
            let happened = open.filter(|(slot, _)| configuration.happened.contains(*slot));
            (
                configuration.state,
                happened.filter_map(|(_, op)| *op).collect(),
            )
        })
    }

    fn open(&mut self, op: usize) {
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(op);
        self.slot_of[op] = slot;
    }

    fn close(&mut self, op: usize) {
        self.slots[self.slot_of[op]] = None;
        self.configurations = self.expansion.take().expect("just expanded").done;
    }

    /// Finds every configuration in which `op` has happened; `Some` to stop before that.
    #[expect(
        clippy::option_option,
        reason = "stopping without an answer is not going on"
    )]
    fn expand<M: Model>(
        &mut self,
        machine: &mut Machine<'_, M>,
        turn: &mut Turn<'_>,
        op: usize,
    ) -> Option<Option<Answer>> {
        let configurations = &mut self.configurations;
        let expansion = self.expansion.get_or_insert_with(|| Expansion {
            to_expand: std::mem::take(configurations),
            ..Expansion::default()
        });
        let target = self.slot_of[op];
        let mut mover = Mover {
            machine,
            turn,
            slots: &self.slots,
            slot_of: &self.slot_of,
            trace: &mut self.trace,
        };
        while let Some(mut configuration) = expansion.to_expand.pop() {
            if mover.turn.pay() {
                mover.settle(&mut configuration);
            } else {
                expansion.to_expand.push(configuration);
                return Some(None);
            }
            if expansion.expanded.len() + expansion.done.len() >= mover.turn.configurations
                || mover.trace.len() / 4 >= mover.turn.configurations
            {
                return Some(Some(Answer::Full));
            }
            expansion.take(configuration, target, &mut mover);
        }
        None
    }

    fn order(&self, mut last: Option<usize>) -> Vec<usize> {
        let mut order = Vec::new();
        while let Some(place) = last {
            order.push(self.trace[place].op);
            last = self.trace[place].before;
        }
        order.reverse();
        order
    }
}

impl Expansion {
    /// Files `configuration` if its `target` has happened; else lets each open operation happen next.
    fn take<M: Model>(
        &mut self,
        mut configuration: Configuration,
        target: usize,
        mover: &mut Mover<'_, '_, '_, M>,
    ) {
        if configuration.happened.contains(target) {
            // The slot will be another's.
            configuration.happened.remove(target);
            if self
                .is_done
                .insert((configuration.state, configuration.happened.clone()))
            {
                self.done.push(configuration);
            }
        } else if self
            .expanded
            .insert((configuration.state, configuration.happened.clone()))
        {
            mover.successors(&configuration, &mut self.to_expand);
        }
    }
}

/// What moving a configuration needs.
struct Mover<'a, 'm, 't, M: Model> {
    machine: &'a mut Machine<'m, M>,
    turn: &'a mut Turn<'t>,
    slots: &'a [Option<usize>],
    slot_of: &'a [usize],
    trace: &'a mut Vec<Happened>,
}

impl<M: Model> Mover<'_, '_, '_, M> {
    /// Lets everything open happen that may happen now and never changes a state: whatever comes later, it can come first.
    fn settle(&mut self, configuration: &mut Configuration) {
        for (slot, op) in self.slots.iter().enumerate() {
            let Some(op) = op.filter(|op| self.machine.is_pure(*op)) else {
                continue;
            };
            if configuration.happened.contains(slot) {
                continue;
            }
            self.turn.pay();
            let next = self.machine.next(configuration.state, op);
            if self.machine.choice(next, 0).is_some() {
                configuration.happened.insert(slot);
                configuration.last = self.note(op, configuration.last);
            }
        }
    }

    fn successors(&mut self, from: &Configuration, to: &mut Vec<Configuration>) {
        for (slot, op) in self.slots.iter().enumerate() {
            let Some(op) = op.filter(|_| !from.happened.contains(slot)) else {
                continue;
            };
            let twin = self.machine.twin(op).map(|twin| self.slot_of[twin]);
            if self.machine.is_pure(op) || twin.is_some_and(|twin| !from.happened.contains(twin)) {
                continue;
            }
            self.turn.pay();
            let next = self.machine.next(from.state, op);
            let mut nth = 0;
            while let Some(state) = self.machine.choice(next, nth) {
                let mut happened = from.happened.clone();
                happened.insert(slot);
                let last = self.note(op, from.last);
                to.push(Configuration {
                    state,
                    happened,
                    last,
                });
                nth += 1;
            }
        }
    }

    fn note(&mut self, op: usize, before: Option<usize>) -> Option<usize> {
        self.trace.push(Happened { op, before });
        Some(self.trace.len() - 1)
    }
}

/// A set of slots; almost always there are fewer than 64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Slots {
    first: u64,
    /// Without zeros at its end, so that equal sets are equal.
    rest: Vec<u64>,
}

impl Slots {
    fn contains(&self, slot: usize) -> bool {
        self.word(slot / 64) >> (slot % 64) & 1 == 1
    }

    fn insert(&mut self, slot: usize) {
        let place = slot / 64;
        if place > self.rest.len() {
            self.rest.resize(place, 0);
        }
        *self.word_mut(place) |= 1 << (slot % 64);
    }

    fn remove(&mut self, slot: usize) {
        *self.word_mut(slot / 64) &= !(1 << (slot % 64));
        while self.rest.last() == Some(&0) {
            self.rest.pop();
        }
    }

    fn word(&self, place: usize) -> u64 {
        match place.checked_sub(1) {
            None => self.first,
            Some(place) => self.rest.get(place).copied().unwrap_or(0),
        }
    }

    fn word_mut(&mut self, place: usize) -> &mut u64 {
        match place.checked_sub(1) {
            None => &mut self.first,
            Some(place) => &mut self.rest[place],
        }
    }
}
