//! Both engines on one part, taking turns.

use crate::jit::Jit;
use crate::machine::{Answer, Entry, Machine, Turn};
use crate::wgl::Wgl;
use crate::{Budget, Engines, Model, Reason};

/// Steps of the first turn.
const FIRST_TURN: u64 = 4096;

/// The breadth-first engine gets one step for so many of the other, which is usually the first to know.
const BREADTH_FIRST_SHARE: u64 = 4;

/// A part and the engines at work on it.
pub(crate) struct Race<'a, M: Model> {
    machine: Machine<'a, M>,
    wgl: Option<Wgl>,
    jit: Option<Jit>,
    /// The breadth-first engine starts once the other has not been done in its first turn.
    jit_waits: bool,
}

impl<'a, M: Model> Race<'a, M> {
    pub(crate) fn new(model: &'a M, entries: Vec<Entry<'a, M>>, engines: Engines) -> Self {
        let mut machine = Machine::new(model, entries);
        Self {
            wgl: (engines != Engines::JustInTime).then(|| Wgl::new(&mut machine)),
            jit: None,
            jit_waits: engines != Engines::WingGongLowe,
            machine,
        }
    }

    /// Gives the engines `slice` steps of `steps`, one of them fewer; `None` if neither is done.
    pub(crate) fn turn(
        &mut self,
        slice: u64,
        steps: &mut u64,
        configurations: usize,
    ) -> Option<Result<Decision, Reason>> {
        let Self {
            machine,
            wgl,
            jit,
            jit_waits,
        } = self;
        run(wgl, slice, steps, configurations, |wgl, turn| {
            wgl.advance(machine, turn)
        })
        .or_else(|| {
            if std::mem::take(jit_waits) {
                *jit = Some(Jit::new(machine));
            }
            run(
                jit,
                slice / BREADTH_FIRST_SHARE,
                steps,
                configurations,
                |jit, turn| jit.advance(machine, turn),
            )
        })
        .map(|answer| Ok(self.decision(answer)))
        .or_else(|| self.is_over().then_some(Err(Reason::Configurations)))
    }

    fn is_over(&self) -> bool {
        self.wgl.is_none() && self.jit.is_none()
    }

    /// Speaks of the history's operations, where engines speak of entries.
    fn decision(&self, answer: Answer) -> Decision {
        let index = |op: usize| self.machine.entries[op].index;
        match answer {
            Answer::Yes(order) => Decision::Yes(order.into_iter().map(index).collect()),
            Answer::No(last) => Decision::No(last.and_then(|op| self.machine.entries[op].returned)),
            Answer::Full => unreachable!("full engines leave the race"),
        }
    }
}

/// What a race found out, in terms of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Linearizable, in this order of operations.
    Yes(Vec<usize>),
    /// Not; if known, not even up to the return at this time, given the answers of what was invoked by then.
    No(Option<u64>),
}

/// Lets one engine work; it leaves the race when it is full.
fn run<E>(
    engine: &mut Option<E>,
    slice: u64,
    steps: &mut u64,
    configurations: usize,
    advance: impl FnOnce(&mut E, &mut Turn<'_>) -> Option<Answer>,
) -> Option<Answer> {
    let mut left = slice.min(*steps);
    let granted = left;
    let mut turn = Turn {
        steps: &mut left,
        configurations,
    };
    let answer = advance(engine.as_mut()?, &mut turn);
    *steps -= granted - left;
    if answer == Some(Answer::Full) {
        *engine = None;
        return None;
    }
    answer
}

/// Races all parts at once, so that a contradiction in one ends the work on every other.
///
/// Answers each part's order, or which part contradicts itself.
///
/// # Errors
///
/// Why some part is undecided, while no other contradicts itself.
pub(crate) fn race<'a, M: Model>(
    model: &'a M,
    parts: Vec<Vec<Entry<'a, M>>>,
    engines: Engines,
    steps: &mut u64,
    budget: Budget,
) -> Result<Raced, Reason> {
    let mut orders = Vec::new();
    let mut full = None;
    let mut open: Vec<_> = parts
        .into_iter()
        .enumerate()
        .map(|(part, entries)| (part, Race::new(model, entries, engines)))
        .collect();
    let mut slice = FIRST_TURN;
    while !open.is_empty() {
        let mut still_open = Vec::new();
        for (part, mut race) in open {
            match race.turn(slice, steps, budget.configurations) {
                Some(Ok(Decision::Yes(order))) => orders.push(order),
                Some(Ok(Decision::No(until))) => return Ok(Raced::No { part, until }),
                Some(Err(reason)) => full = Some(reason),
                None if *steps == 0 => return Err(Reason::Steps),
                None => still_open.push((part, race)),
            }
        }
        open = still_open;
        slice = slice.saturating_mul(2);
    }
    full.map_or(Ok(Raced::Yes(orders)), Err)
}

/// What races on all parts found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Raced {
    /// All are linearizable, in these orders.
    Yes(Vec<Vec<usize>>),
    /// This one is not; `until` as in [`Decision::No`].
    No { part: usize, until: Option<u64> },
}
