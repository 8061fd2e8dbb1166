//! Checks a witness without trusting whoever found it: a replay, no search.

use std::collections::{BTreeMap, HashSet};

use crate::{History, Model, Witness};

/// Checks that `witness` explains `history`: every answered operation once, no pending one twice, none before one that
/// returned before it was invoked, and answers as `model` gives them.
///
/// # Errors
///
/// The first of these that does not hold.
pub fn verify<M: Model>(
    model: &M,
    history: &History<M::Input, M::Output>,
    witness: &Witness,
) -> Result<(), WitnessError> {
    let operations = history.operations();
    let mut used = vec![false; operations.len()];
    let mut parts = BTreeMap::new();
    let mut latest_invoked = 0;
    for &index in &witness.order {
        let operation = operations
            .get(index)
            .ok_or(WitnessError::NoSuchOperation { index })?;
        if std::mem::replace(&mut used[index], true) {
            return Err(WitnessError::Repeated { index });
        }
        latest_invoked = operation.invoked.max(latest_invoked);
        if operation
            .returned()
            .is_some_and(|returned| returned < latest_invoked)
        {
            return Err(WitnessError::TooLate { index });
        }
        let states = parts
            .entry(model.part(&operation.input))
            .or_insert_with(|| HashSet::from([model.initial()]));
        let mut next = Vec::new();
        for state in states.iter() {
            model.step(state, &operation.input, operation.output(), &mut next);
        }
        if next.is_empty() {
            return Err(WitnessError::WrongAnswer { index });
        }
        *states = next.into_iter().collect();
    }
    let missing = |index: &usize| !used[*index] && operations[*index].response.is_some();
    match (0..operations.len()).find(missing) {
        Some(index) => Err(WitnessError::Missing { index }),
        None => Ok(()),
    }
}

/// Why an order explains nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WitnessError {
    /// The history has no such operation.
    #[error("there is no operation {index}")]
    NoSuchOperation {
        /// Its index.
        index: usize,
    },
    /// An operation is there twice.
    #[error("operation {index} happens twice")]
    Repeated {
        /// Its index.
        index: usize,
    },
    /// An operation follows one that was invoked only after it had returned.
    #[error("operation {index} had returned before one ahead of it was invoked")]
    TooLate {
        /// Its index.
        index: usize,
    },
    /// The model does not answer so at this place.
    #[error("operation {index} would not be answered so")]
    WrongAnswer {
        /// Its index.
        index: usize,
    },
    /// An operation that was answered is not in the order.
    #[error("operation {index} was answered but is left out")]
    Missing {
        /// Its index.
        index: usize,
    },
}
