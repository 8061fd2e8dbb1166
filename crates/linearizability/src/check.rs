//! The checker: parts, races, certificates.

use std::collections::BTreeMap;

use crate::machine::Entry;
use crate::race::{Raced, race};
use crate::shrink::shrink;
use crate::{Budget, History, Model, Outcome, Witness};

/// Which engines take part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engines {
    /// Both, taking turns of growing length, until one is done: never slower than twice the faster.
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
    let parts = split(model, history);
    let mut steps = budget.steps;
    match race(model, parts.clone(), engines, &mut steps, budget) {
        Ok(Raced::Yes(orders)) => Outcome::Linearizable(merge(history, &orders)),
        Ok(Raced::No { part, until }) => {
            let left = Budget { steps, ..budget };
            Outcome::NotLinearizable(shrink(model, &parts[part], until, left, engines))
        }
        Err(reason) => Outcome::Unknown(reason),
    }
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
