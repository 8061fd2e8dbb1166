//! One register with read, write and compare-and-set.

use std::hash::Hash;

use crate::{History, Model, Shortcut, unique_writes};

/// A register that holds a value or, at first, nothing. Several of them: see [`KeyValue`](crate::KeyValue) for how to part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Register<V> {
    /// What it holds before the first write.
    pub initial: Option<V>,
}

/// What a client asks of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegisterInput<V> {
    /// Tell the value.
    Read,
    /// Replace it.
    Write(V),
    /// Replace it if it is as expected.
    CompareAndSet {
        /// The value wanted before.
        expected: V,
        /// The value after.
        new: V,
    },
}

/// What a register answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegisterOutput<V> {
    /// To a read: the value, if there is one.
    Value(Option<V>),
    /// To a write.
    Written,
    /// To a compare-and-set: whether the value was as expected.
    Swapped(bool),
}

impl<V: Clone + Eq + Hash> Model for Register<V> {
    type Input = RegisterInput<V>;
    type Output = RegisterOutput<V>;
    type State = Option<V>;
    type Part = ();

    fn part(&self, _: &Self::Input) {}

    fn initial(&self) -> Self::State {
        self.initial.clone()
    }

    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
        next: &mut Vec<Self::State>,
    ) {
        let (answer, after) = match input {
            RegisterInput::Read => (RegisterOutput::Value(state.clone()), state.clone()),
            RegisterInput::Write(value) => (RegisterOutput::Written, Some(value.clone())),
            RegisterInput::CompareAndSet { expected, new } => {
                let equal = state.as_ref() == Some(expected);
                let after = if equal {
                    Some(new.clone())
                } else {
                    state.clone()
                };
                (RegisterOutput::Swapped(equal), after)
            }
        };
        if output.is_none_or(|output| *output == answer) {
            next.push(after);
        }
    }

    fn never_changes(&self, input: &Self::Input, output: Option<&Self::Output>) -> bool {
        *input == RegisterInput::Read || output == Some(&RegisterOutput::Swapped(false))
    }
    fn shortcut(&self, history: &History<Self::Input, Self::Output>) -> Shortcut {
        match self.initial {
            None => unique_writes(history),
            Some(_) => Shortcut::NotApplicable,
        }
    }
}
