//! The operations of one part and the states they lead to, with each state and each transition computed once.

use std::rc::Rc;

use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::{Model, Operation};

/// One operation, as both engines see it.
pub(crate) struct Entry<'a, M: Model> {
    /// Its index in the history.
    pub(crate) index: usize,
    pub(crate) input: &'a M::Input,
    pub(crate) output: Option<&'a M::Output>,
    pub(crate) invoked: u64,
    /// `None`: pending.
    pub(crate) returned: Option<u64>,
}

impl<'a, M: Model> Entry<'a, M> {
    pub(crate) fn new(index: usize, operation: &'a Operation<M::Input, M::Output>) -> Self {
        Self {
            index,
            input: &operation.input,
            output: operation.output(),
            invoked: operation.invoked,
            returned: operation.returned(),
        }
    }
}

impl<M: Model> Clone for Entry<'_, M> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

/// A state by its number.
pub(crate) type StateId = usize;

/// Where an operation leads from a state.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// It cannot answer so here.
    Nowhere,
    /// To one state.
    To(StateId),
    /// To those in this range of [`Machine::choice`]; at least two.
    Choices { first: usize, count: usize },
}

/// A part: entries in order of invocation, and what is known of the model on them.
pub(crate) struct Machine<'a, M: Model> {
    model: &'a M,
    pub(crate) entries: Vec<Entry<'a, M>>,
    /// By entry: leaves every state as it was.
    pure: Vec<bool>,
    /// By entry, pending ones only: the last one before it that asks the same.
    twin: Vec<Option<usize>>,
    states: Vec<Rc<M::State>>,
    ids: FxHashMap<Rc<M::State>, StateId>,
    transitions: FxHashMap<(StateId, usize), Next>,
    choices: Vec<StateId>,
    scratch: Vec<M::State>,
}

impl<'a, M: Model> Machine<'a, M> {
    /// Keeps those of `entries` that can matter: a pending operation that changes nothing explains nothing.
    pub(crate) fn new(model: &'a M, mut entries: Vec<Entry<'a, M>>) -> Self {
        entries.retain(|e| e.returned.is_some() || !model.never_changes(e.input, None));
        entries.sort_by_key(|e| e.invoked);
        let pure = entries
            .iter()
            .map(|e| model.never_changes(e.input, e.output))
            .collect();
        let mut last = FxHashMap::default();
        let mut twin = vec![None; entries.len()];
        for (op, entry) in entries
            .iter()
            .enumerate()
            .filter(|(_, e)| e.returned.is_none())
        {
            twin[op] = last.insert(entry.input, op);
        }
        let count = entries.len();
        Self {
            model,
            entries,
            pure,
            twin,
            states: Vec::with_capacity(count),
            ids: FxHashMap::with_capacity_and_hasher(count, FxBuildHasher),
            transitions: FxHashMap::with_capacity_and_hasher(2 * count, FxBuildHasher),
            choices: Vec::new(),
            scratch: Vec::new(),
        }
    }

    pub(crate) fn initial(&mut self) -> StateId {
        let initial = self.model.initial();
        self.intern(initial)
    }

    pub(crate) fn intern(&mut self, state: M::State) -> StateId {
        if let Some(&id) = self.ids.get(&state) {
            return id;
        }
        let state = Rc::new(state);
        self.states.push(Rc::clone(&state));
        self.ids.insert(state, self.states.len() - 1);
        self.states.len() - 1
    }

    pub(crate) fn state(&self, id: StateId) -> &M::State {
        &self.states[id]
    }

    /// Whether `op` leaves every state as it was.
    pub(crate) fn is_pure(&self, op: usize) -> bool {
        self.pure[op]
    }

    /// A pending operation that need not be tried before this one: they ask the same, so whichever comes first may as well
    /// be the one invoked first.
    pub(crate) fn twin(&self, op: usize) -> Option<usize> {
        self.twin[op]
    }

    pub(crate) fn next(&mut self, state: StateId, op: usize) -> Next {
        if let Some(&next) = self.transitions.get(&(state, op)) {
            return next;
        }
        let next = self.compute(state, op);
        self.transitions.insert((state, op), next);
        next
    }

    /// The `nth` state of `next`.
    pub(crate) fn choice(&self, next: Next, nth: usize) -> Option<StateId> {
        match next {
            Next::To(state) => (nth == 0).then_some(state),
            Next::Choices { first, count } => (nth < count).then(|| self.choices[first + nth]),
            Next::Nowhere => None,
        }
    }

    fn compute(&mut self, state: StateId, op: usize) -> Next {
        let mut nexts = std::mem::take(&mut self.scratch);
        let entry = &self.entries[op];
        self.model
            .step(&self.states[state], entry.input, entry.output, &mut nexts);
        let first = self.choices.len();
        if self.pure[op] {
            let answers = nexts.drain(..).next().is_some();
            self.scratch = nexts;
            return if answers {
                Next::To(state)
            } else {
                Next::Nowhere
            };
        }
        // What nobody saw and changed nothing need not have happened.
        let unseen = entry.returned.is_none();
        for next in nexts.drain(..) {
            let id = self.intern(next);
            let is_idle = unseen && id == state;
            if !is_idle && !self.choices[first..].contains(&id) {
                self.choices.push(id);
            }
        }
        self.scratch = nexts;
        match self.choices.len() - first {
            0 => Next::Nowhere,
            1 => Next::To(self.choices.pop().expect("one was pushed")),
            count => Next::Choices { first, count },
        }
    }
}

/// What an engine found out about a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Linearizable in this order of entries.
    Yes(Vec<usize>),
    /// Not linearizable; if known, not even up to the return of this entry, given the answers of what was open then.
    No(Option<usize>),
    /// Too many configurations.
    Full,
}

/// The bounds of one turn of an engine.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    /// What is left.
    pub(crate) steps: &'a mut u64,
    pub(crate) configurations: usize,
}

impl Turn<'_> {
    /// Pays for one step; false if nothing is left.
    pub(crate) fn pay(&mut self) -> bool {
        let left = self.steps.checked_sub(1);
        *self.steps = left.unwrap_or(0);
        left.is_some()
    }
}
