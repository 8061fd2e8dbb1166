//! Checking while the system under test still runs, in memory that does not grow with the history.

use std::collections::{BTreeMap, HashMap};

use rustc_hash::FxHashSet;

use crate::jit::Jit;
use crate::machine::{Answer, Entry, Machine, Turn};
use crate::{EventError, Model, Operation, Response};

/// Checks events as they come.
///
/// Each part keeps a window of operations. When none of them waits any more (each is answered or abandoned), the window is
/// checked from every state that was possible before it, and all that is kept is every state possible after it and the
/// abandoned operations. Feed events in the order in which they happened.
#[derive(Debug)]
pub struct Online<M: Model> {
    model: M,
    limits: OnlineLimits,
    parts: BTreeMap<M::Part, Part<M>>,
    open: HashMap<u64, M::Part>,
    now: u64,
}

/// [`OnlineError`] for a model's operations.
type Rejected<M> = OnlineError<<M as Model>::Input, <M as Model>::Output>;

/// Bounds on what one part may keep and cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnlineLimits {
    /// Operations in a window, with those abandoned before it.
    pub window: usize,
    /// Configurations, and states between windows.
    pub configurations: usize,
    /// Steps for a window.
    pub steps: u64,
}

impl Default for OnlineLimits {
    /// 10,000 operations, 100,000 configurations, 10 million steps.
    fn default() -> Self {
        Self {
            window: 10_000,
            configurations: 100_000,
            steps: 10_000_000,
        }
    }
}

struct Part<M: Model> {
    /// Abandoned operations first, in order of invocation.
    window: Vec<Slot<M>>,
    /// What may be before the window: a state, and which of the operations abandoned before it have happened.
    before: Vec<(M::State, Vec<usize>)>,
    waiting: HashMap<u64, usize>,
}

/// An operation; `None` once it is known never to have happened.
type Slot<M> = Option<Operation<<M as Model>::Input, <M as Model>::Output>>;

impl<M: Model> std::fmt::Debug for Part<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part")
            .field("window", &self.window.len())
            .field("before", &self.before.len())
            .field("waiting", &self.waiting)
            .finish()
    }
}

impl<M: Model> Online<M>
where
    M::Part: Clone,
{
    /// Nothing has happened yet.
    pub fn new(model: M, limits: OnlineLimits) -> Self {
        Self {
            model,
            limits,
            parts: BTreeMap::new(),
            open: HashMap::new(),
            now: 0,
        }
    }

    /// `process` asks for `input`.
    ///
    /// # Errors
    ///
    /// [`OnlineError::Event`] if it still waits; [`OnlineError::Window`] if the part is full: nothing is recorded then.
    pub fn invoke(&mut self, process: u64, input: M::Input) -> Result<(), Rejected<M>> {
        if self.open.contains_key(&process) {
            return Err(OnlineError::Event(EventError::Busy { process }));
        }
        let name = self.model.part(&input);
        let part = self
            .parts
            .entry(name.clone())
            .or_insert_with(|| Part::new(&self.model));
        if part.window.len() >= self.limits.window {
            return Err(OnlineError::Window);
        }
        self.now += 1;
        part.waiting.insert(process, part.window.len());
        part.window.push(Some(Operation {
            process,
            input,
            invoked: self.now,
            response: None,
        }));
        self.open.insert(process, name);
        Ok(())
    }

    /// `process` is answered `output`.
    ///
    /// # Errors
    ///
    /// As [`abandon`](Self::abandon).
    pub fn respond(&mut self, process: u64, output: M::Output) -> Result<(), Rejected<M>> {
        self.now += 1;
        let returned = self.now;
        self.end(process, |slot| {
            if let Some(operation) = slot {
                operation.response = Some(Response { output, returned });
            }
        })
    }

    /// `process` learns that its operation never takes effect.
    ///
    /// # Errors
    ///
    /// As [`abandon`](Self::abandon).
    pub fn fail(&mut self, process: u64) -> Result<(), Rejected<M>> {
        self.end(process, |slot| *slot = None)
    }

    /// `process` gives up waiting.
    ///
    /// # Errors
    ///
    /// [`OnlineError::Event`] if it asked for nothing. If this ends a window: [`OnlineError::Violation`] with the window if
    /// it is not linearizable, [`OnlineError::Steps`] or [`OnlineError::Configurations`] if that could not be found out.
    /// After the latter three the part starts afresh in the state where nothing has happened.
    pub fn abandon(&mut self, process: u64) -> Result<(), Rejected<M>> {
        self.end(process, |_| ())
    }

    /// Operations kept at present: the memory in use.
    pub fn kept(&self) -> usize {
        self.parts.values().map(|part| part.window.len()).sum()
    }

    /// Checks what is left, counting as abandoned whatever waits.
    ///
    /// # Errors
    ///
    /// As [`abandon`](Self::abandon), for the first part that has one.
    pub fn finish(mut self) -> Result<(), Rejected<M>> {
        for part in self.parts.values_mut() {
            part.retire(&self.model, self.limits)?;
        }
        Ok(())
    }

    fn end(&mut self, process: u64, end: impl FnOnce(&mut Slot<M>)) -> Result<(), Rejected<M>> {
        let idle = || OnlineError::Event(EventError::Idle { process });
        let name = self.open.remove(&process).ok_or_else(idle)?;
        let part = self
            .parts
            .get_mut(&name)
            .expect("an open operation has a part");
        let place = part
            .waiting
            .remove(&process)
            .expect("an open operation waits in its part");
        end(&mut part.window[place]);
        if part.waiting.is_empty() {
            let retired = part.retire(&self.model, self.limits);
            if retired.is_err() {
                self.parts.remove(&name);
            }
            return retired;
        }
        Ok(())
    }
}

impl<M: Model> Part<M> {
    fn new(model: &M) -> Self {
        Self {
            window: Vec::new(),
            before: vec![(model.initial(), Vec::new())],
            waiting: HashMap::new(),
        }
    }

    /// Checks the window and keeps what is possible after it.
    fn retire(&mut self, model: &M, limits: OnlineLimits) -> Result<(), Rejected<M>> {
        let entries = self.window.iter().enumerate();
        let entries = entries.filter_map(|(at, slot)| Some(Entry::new(at, slot.as_ref()?)));
        let mut machine = Machine::new(model, entries.collect());
        let kept: Vec<usize> = machine.entries.iter().map(|entry| entry.index).collect();
        let op = |place: &usize| kept.binary_search(place).expect("what was carried is kept");
        let before = self
            .before
            .drain(..)
            .map(|(state, happened)| (machine.intern(state), happened.iter().map(op).collect()));
        let before: Vec<(usize, Vec<usize>)> = before.collect();
        let mut jit = Jit::from_states(&machine, before);
        let mut steps = limits.steps;
        let mut turn = Turn {
            steps: &mut steps,
            configurations: limits.configurations,
        };
        let answer = jit.advance(&mut machine, &mut turn);
        match answer {
            Some(Answer::Yes(_)) => {}
            Some(Answer::No(_)) => {
                let window = std::mem::take(&mut self.window);
                return Err(OnlineError::Violation(
                    window.into_iter().flatten().collect(),
                ));
            }
            Some(Answer::Full) => return Err(OnlineError::Configurations),
            None => return Err(OnlineError::Steps),
        }
        // The abandoned entries move to the front; the states after name them by their new places.
        let mut moved = vec![0; machine.entries.len()];
        let mut pending = 0;
        for (op, entry) in machine.entries.iter().enumerate() {
            moved[op] = pending;
            pending += usize::from(entry.returned.is_none());
        }
        let after: FxHashSet<(usize, Vec<usize>)> = jit
            .ends()
            .map(|(state, mut happened)| {
                happened.iter_mut().for_each(|op| *op = moved[*op]);
                happened.sort_unstable();
                (state, happened)
            })
            .collect();
        let after = after
            .into_iter()
            .map(|(id, happened)| (machine.state(id).clone(), happened));
        self.before = after.collect();
        let mut at = 0;
        self.window.retain(|slot| {
            let stays = slot
                .as_ref()
                .is_some_and(|operation| operation.response.is_none());
            at += 1;
            stays && kept.binary_search(&(at - 1)).is_ok()
        });
        Ok(())
    }
}

/// Why an online check stops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnlineError<I, O> {
    /// The event cannot follow those before it.
    #[error("{0}")]
    Event(EventError),
    /// The part's window has [`OnlineLimits::window`] operations and some still wait or were abandoned.
    #[error("too many operations in a window")]
    Window,
    /// The window has more than [`OnlineLimits::configurations`].
    #[error("too many configurations")]
    Configurations,
    /// The window takes more than [`OnlineLimits::steps`].
    #[error("the steps are spent")]
    Steps,
    /// The part is not linearizable: no state possible before these operations explains their answers.
    #[error("not linearizable: {} operations have no explanation", .0.len())]
    Violation(Vec<Operation<I, O>>),
}
