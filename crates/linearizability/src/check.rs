//! The checker: parts, races, certificates.

use std::collections::BTreeMap;

use crate::machine::Entry;
use crate::race::{Raced, race};
use crate::shrink::shrink;
use crate::{Budget, Counterexample, History, Model, Outcome, Reason, Shortcut, Witness};

/// Which engines take part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engines {
    /// A model's [`Shortcut`] if it has one; else both, taking turns of growing length, until one is done.
    #[default]
    Race,
    /// Wing and Gong's depth-first search with Lowe's memory: good at finding an order.
    WingGongLowe,
    /// Lowe's just-in-time linearization, breadth first: good at long histories of few clients.
    JustInTime,
}

/// Decides whether `history` is linearizable with respect to `model`.
///
/// Deterministic: the same arguments give the same outcome. Its time follows [`Budget::steps`], its memory
/// [`Budget::configurations`] for each part and the model's states.
pub fn check<M: Model>(
    model: &M,
    history: &History<M::Input, M::Output>,
    budget: Budget,
) -> Outcome {
    check_with(model, history, budget, Engines::Race)
}

/// [`check`] with a choice of engines.
pub fn check_with<M: Model>(
    model: &M,
    history: &History<M::Input, M::Output>,
    budget: Budget,
    engines: Engines,
) -> Outcome {
    let shortcut = shortcut(model, history, engines);
    if let Shortcut::Linearizable(witness) = shortcut {
        return Outcome::Linearizable(witness);
    }
    let parts = split(model, history);
    let mut steps = budget.steps;
    match race(model, parts.clone(), engines, &mut steps, budget) {
        Ok(Raced::Yes(orders)) => Outcome::Linearizable(merge(history, &orders)),
        Ok(Raced::No { part, until }) => {
            let left = Budget { steps, ..budget };
            Outcome::NotLinearizable(shrink(model, &parts[part], until, left, engines))
        }
        Err(_) if shortcut == Shortcut::NotLinearizable => {
            Outcome::NotLinearizable(everything(history))
        }
        Err(reason) => Outcome::Unknown(reason),
    }
}

/// What needs no search, when both engines may be used: tests of one engine mean that engine.
fn shortcut<M: Model>(
    model: &M,
    history: &History<M::Input, M::Output>,
    engines: Engines,
) -> Shortcut {
    match engines {
        Engines::Race => model.shortcut(history),
        Engines::WingGongLowe | Engines::JustInTime => Shortcut::NotApplicable,
    }
}

/// The counterexample that is known without a search.
fn everything<I, O>(history: &History<I, O>) -> Counterexample {
    let is_answered = |index: &usize| history.operations()[*index].response.is_some();
    let (answered, unanswered) = (0..history.operations().len()).partition(is_answered);
    Counterexample {
        answered,
        unanswered,
        minimal: false,
    }
}

/// Decides without a certificate: the time goes into the search alone.
///
/// # Errors
///
/// Why there is no answer.
pub fn decide<M: Model>(
    model: &M,
    history: &History<M::Input, M::Output>,
    budget: Budget,
    engines: Engines,
) -> Result<bool, Reason> {
    match shortcut(model, history, engines) {
        Shortcut::Linearizable(_) => return Ok(true),
        Shortcut::NotLinearizable => return Ok(false),
        Shortcut::NotApplicable => {}
    }
    let mut steps = budget.steps;
    let raced = race(model, split(model, history), engines, &mut steps, budget)?;
    Ok(matches!(raced, Raced::Yes(_)))
}

fn split<'a, M: Model>(
    model: &M,
    history: &'a History<M::Input, M::Output>,
) -> Vec<Vec<Entry<'a, M>>> {
    let mut parts: BTreeMap<M::Part, Vec<Entry<'a, M>>> = BTreeMap::new();
    for (index, operation) in history.operations().iter().enumerate() {
        let part = model.part(&operation.input);
        parts
            .entry(part)
            .or_default()
            .push(Entry::new(index, operation));
    }
    parts.into_values().collect()
}

/// One order out of one for each part: each operation at the earliest time its part's order allows.
fn merge<I, O>(history: &History<I, O>, orders: &[Vec<usize>]) -> Witness {
    let operations = history.operations();
    let mut timed = Vec::new();
    for order in orders {
        let mut now = 0;
        for &index in order {
            now = operations[index].invoked.max(now);
            timed.push((now, index));
        }
    }
    // Stable, so equal times keep the order of their part.
    timed.sort_by_key(|&(time, _)| time);
    Witness {
        order: timed.into_iter().map(|(_, index)| index).collect(),
    }
}
