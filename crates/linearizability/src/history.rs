//! What clients did, and when.

use std::collections::HashMap;

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<I, O> {
    /// The client; only shown to people, never used to decide.
    pub process: u64,
    /// What was asked for.
    pub input: I,
    /// When it was asked for, in any unit that all clients share.
    pub invoked: u64,
    /// What came back and when; `None` if nothing did, so that it may take effect at any later time or never.
    pub response: Option<Response<O>>,
}

impl<I, O> Operation<I, O> {
    /// The answer, if one came.
    pub fn output(&self) -> Option<&O> {
        self.response.as_ref().map(|response| &response.output)
    }

    /// When the answer came, if one did.
    pub fn returned(&self) -> Option<u64> {
        self.response.as_ref().map(|response| response.returned)
    }
}

/// The end of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<O> {
    /// The answer.
    pub output: O,
    /// When it came. An operation invoked at this very time still counts as concurrent.
    pub returned: u64,
}

/// Operations whose times are in order. Those without a response are pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History<I, O> {
    operations: Vec<Operation<I, O>>,
}

impl<I, O> History<I, O> {
    /// Takes operations in any order and keeps that order.
    ///
    /// # Errors
    ///
    /// [`ReturnsBeforeInvoked`] names the first operation that ends before it starts.
    pub fn new(operations: Vec<Operation<I, O>>) -> Result<Self, ReturnsBeforeInvoked> {
        let backwards = |o: &Operation<I, O>| o.returned().is_some_and(|end| end < o.invoked);
        match operations.iter().position(backwards) {
            Some(index) => Err(ReturnsBeforeInvoked { index }),
            None => Ok(Self { operations }),
        }
    }

    /// The operations; verdicts name them by their index here.
    pub fn operations(&self) -> &[Operation<I, O>] {
        &self.operations
    }
}

/// The operation at `index` ends before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operation {index} returns before it is invoked")]
pub struct ReturnsBeforeInvoked {
    /// Its place in the list.
    pub index: usize,
}

/// Builds a history from events in the order in which they happened; time is their count.
#[derive(Clone, Debug)]
pub struct Recorder<I, O> {
    operations: Vec<Option<Operation<I, O>>>,
    open: HashMap<u64, usize>,
    now: u64,
}

impl<I, O> Default for Recorder<I, O> {
    fn default() -> Self {
        Self {
            operations: Vec::new(),
            open: HashMap::new(),
            now: 0,
        }
    }
}

impl<I, O> Recorder<I, O> {
    /// `process` asks for `input`.
    ///
    /// # Errors
    ///
    /// [`EventError::Busy`] if it still waits for an answer.
    pub fn invoke(&mut self, process: u64, input: I) -> Result<(), EventError> {
        if self.open.contains_key(&process) {
            return Err(EventError::Busy { process });
        }
        self.open.insert(process, self.operations.len());
        let invoked = self.tick();
        self.operations.push(Some(Operation {
            process,
            input,
            invoked,
            response: None,
        }));
        Ok(())
    }

    /// `process` is answered `output`.
    ///
    /// # Errors
    ///
    /// [`EventError::Idle`] if it asked for nothing.
    pub fn respond(&mut self, process: u64, output: O) -> Result<(), EventError> {
        let index = self.close(process)?;
        let returned = self.tick();
        if let Some(operation) = &mut self.operations[index] {
            operation.response = Some(Response { output, returned });
        }
        Ok(())
    }

    /// `process` learns that its operation did not and will not take effect: the history forgets it.
    ///
    /// # Errors
    ///
    /// [`EventError::Idle`] if it asked for nothing.
    pub fn fail(&mut self, process: u64) -> Result<(), EventError> {
        let index = self.close(process)?;
        self.operations[index] = None;
        Ok(())
    }

    /// `process` gives up waiting: its operation may take effect at any later time, or never.
    ///
    /// # Errors
    ///
    /// [`EventError::Idle`] if it asked for nothing.
    pub fn abandon(&mut self, process: u64) -> Result<(), EventError> {
        self.close(process).map(|_| ())
    }

    /// What `process` waits for.
    pub fn waiting(&self, process: u64) -> Option<&I> {
        let operation = self.operations[*self.open.get(&process)?].as_ref();
        operation.map(|operation| &operation.input)
    }

    /// The history so far; who still waits is pending.
    pub fn finish(self) -> History<I, O> {
        History {
            operations: self.operations.into_iter().flatten().collect(),
        }
    }

    fn close(&mut self, process: u64) -> Result<usize, EventError> {
        self.open
            .remove(&process)
            .ok_or(EventError::Idle { process })
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

/// An event that cannot follow those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// A client asks again before it is answered.
    #[error("process {process} still waits for an answer")]
    Busy {
        /// The client.
        process: u64,
    },
    /// A client is answered what it never asked.
    #[error("process {process} has asked for nothing")]
    Idle {
        /// The client.
        process: u64,
    },
}
