//! What can be wrong with a history's text, and where.

use crate::EventError;

/// A place in a text and what is wrong there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct ReadError {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub problem: ReadProblem,
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadProblem {
    /// Something else belongs here.
    #[error("expected {0}")]
    Expected(&'static str),
    /// An integer does not fit 64 bits.
    #[error("the integer does not fit 64 bits")]
    IntegerTooLarge,
    /// Vectors and maps are nested more deeply than [`DEPTH_MAX`](crate::DEPTH_MAX).
    #[error("nested too deeply")]
    TooDeep,
    /// The event cannot follow those before it.
    #[error("{0}")]
    Event(EventError),
    /// The answer is to another question than its process asked.
    #[error("process {process} asked for something else")]
    WrongAnswer {
        /// The client.
        process: u64,
    },
}
