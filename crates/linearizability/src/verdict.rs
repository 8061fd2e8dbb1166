//! Answers and what backs them.

use crate::{History, Operation};

/// How much a check may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Operations tried on states, over all engines and including the search for a small counterexample.
    pub steps: u64,
    /// Configurations remembered by one engine on one part, each some tens of bytes; states come on top.
    pub configurations: usize,
}

impl Default for Budget {
    /// 100 million steps, some seconds; 4 million configurations, some hundred megabytes.
    fn default() -> Self {
        Self {
            steps: 100_000_000,
            configurations: 4_000_000,
        }
    }
}

/// The answer to "is this history linearizable?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is, by this order.
    Linearizable(Witness),
    /// It is not, and these operations show it.
    NotLinearizable(Counterexample),
    /// Nobody knows, and why.
    Unknown(Reason),
}

/// An order of operations that explains every answer; [`verify`](crate::verify) checks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Indexes into the history's operations. Pending ones that need not have happened are left out.
    pub order: Vec<usize>,
}

/// A part of a history that is not linearizable by itself.
///
/// Of all operations here, those in `answered` keep their times and answers; those in `unanswered` may have happened at any
/// time after they were invoked, or never. No order explains this weaker history, so none explains the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// Indexes of the operations whose answers contradict each other, ascending.
    pub answered: Vec<usize>,
    /// Indexes of the other operations that could have had a say, ascending.
    pub unanswered: Vec<usize>,
    /// Whether every one of `answered` is needed: without any single one, the rest is linearizable.
    ///
    /// False if the budget ended before that was known.
    pub minimal: bool,
}

impl Counterexample {
    /// The weaker history in question, to be checked by other means or drawn.
    ///
    /// # Panics
    ///
    /// If `history` is not the one that was checked.
    pub fn history<I: Clone, O: Clone>(&self, history: &History<I, O>) -> History<I, O> {
        let of = |&index: &usize| history.operations()[index].clone();
        let forget = |operation| Operation {
            response: None,
            ..operation
        };
        let unanswered = self.unanswered.iter().map(of).map(forget);
        let operations = self.answered.iter().map(of).chain(unanswered).collect();
        History::new(operations).expect("the times are those of a history")
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// [`Budget::steps`] are spent.
    #[error("the steps are spent")]
    Steps,
    /// Every engine has filled [`Budget::configurations`] on some part.
    #[error("too many configurations")]
    Configurations,
}
