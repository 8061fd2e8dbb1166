//! Strings under keys, with get, put and append.

use crate::Model;

/// A map from keys to strings, each at first empty; every key is a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValue;

/// What a client asks of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyValueInput {
    /// The key.
    pub key: String,
    /// What to do with its value.
    pub request: KeyValueRequest,
}

/// What to do with a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyValueRequest {
    /// Tell it.
    Get,
    /// Replace it.
    Put(String),
    /// Add to its end.
    Append(String),
}

/// What a store answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyValueOutput {
    /// To a get: the value.
    Value(String),
    /// To a put or an append.
    Done,
}

impl Model for KeyValue {
    type Input = KeyValueInput;
    type Output = KeyValueOutput;
    type State = String;
    type Part = String;

    fn part(&self, input: &Self::Input) -> String {
        input.key.clone()
    }

    fn initial(&self) -> String {
        String::new()
    }

    fn step(
        &self,
        state: &String,
        input: &Self::Input,
        output: Option<&Self::Output>,
        next: &mut Vec<String>,
    ) {
        match (&input.request, output) {
            (KeyValueRequest::Get, Some(KeyValueOutput::Value(value))) if value != state => {}
            (KeyValueRequest::Get, Some(KeyValueOutput::Value(_)) | None) => {
                next.push(state.clone());
            }
            (KeyValueRequest::Put(value), Some(KeyValueOutput::Done) | None) => {
                next.push(value.clone());
            }
            (KeyValueRequest::Append(value), Some(KeyValueOutput::Done) | None) => {
                next.push([state, value.as_str()].concat());
            }
            // An answer to some other question.
            _ => {}
        }
    }

    fn never_changes(&self, input: &Self::Input, _: Option<&Self::Output>) -> bool {
        input.request == KeyValueRequest::Get
    }
}
