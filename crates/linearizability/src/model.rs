//! What an object does, one operation at a time.

use std::collections::BTreeMap;
use std::hash::Hash;

use crate::{History, Witness};

/// A sequential specification: which states an operation may lead to, one operation at a time.
///
/// Histories over several independent objects name the object by [`part`](Self::part). Linearizability is local (Herlihy
/// and Wing 1990, theorem 1), so each part is checked alone, at a fraction of the cost.
pub trait Model {
    /// What a client asks for.
    type Input: Eq + Hash;
    /// What it is told.
    type Output;
    /// The state of one part.
    type State: Clone + Eq + Hash;
    /// Names an independent object; `()` if there is only one.
    type Part: Ord;

    /// Says which object `input` is for. It may not depend on anything but `input`.
    fn part(&self, input: &Self::Input) -> Self::Part;

    /// The state of every part before the first operation.
    fn initial(&self) -> Self::State;

    /// Pushes each state in which `input`, applied to `state`, may leave the part having answered `output`.
    ///
    /// Pushes nothing if `state` cannot answer so, and several states if the object is nondeterministic. `None` is the
    /// answer nobody saw: push the outcome of every answer that is possible.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
        next: &mut Vec<Self::State>,
    );

    /// Says that an operation that answered `output` leaves *every* state as it was.
    ///
    /// True for reads and for failed compare-and-sets; it may always be false, at the price of a longer search. Saying
    /// true of an operation that does change a state makes verdicts wrong.
    fn never_changes(&self, input: &Self::Input, output: Option<&Self::Output>) -> bool {
        let _ = (input, output);
        false
    }

    /// Decides histories of a kind that needs no search; by default, there is none.
    fn shortcut(&self, history: &History<Self::Input, Self::Output>) -> Shortcut {
        let _ = history;
        Shortcut::NotApplicable
    }
}

/// A decision without a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// Linearizable, in this order.
    Linearizable(Witness),
    /// Not linearizable.
    NotLinearizable,
    /// The history is not of the kind that can be decided so: search.
    NotApplicable,
}

/// The parts of a model checked together, as one object.
///
/// Slower and never more precise: for objects whose parts turn out not to be independent, and to test that they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Joined<M>(pub M);

impl<M> Model for Joined<M>
where
    M: Model,
    M::Part: Clone + Hash,
{
    type Input = M::Input;
    type Output = M::Output;
    type State = BTreeMap<M::Part, M::State>;
    type Part = ();

    fn part(&self, _: &Self::Input) {}

    fn initial(&self) -> Self::State {
        BTreeMap::new()
    }

    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
        next: &mut Vec<Self::State>,
    ) {
        let part = self.0.part(input);
        let mut nexts = Vec::new();
        match state.get(&part) {
            Some(inner) => self.0.step(inner, input, output, &mut nexts),
            None => self.0.step(&self.0.initial(), input, output, &mut nexts),
        }
        next.extend(nexts.into_iter().map(|inner| {
            let mut whole = state.clone();
            whole.insert(part.clone(), inner);
            whole
        }));
    }

    fn never_changes(&self, input: &Self::Input, output: Option<&Self::Output>) -> bool {
        self.0.never_changes(input, output)
    }
}
