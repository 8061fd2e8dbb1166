#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod bits;
mod check;
mod edn;
mod edn_history;
mod history;
mod jepsen_log;
mod jit;
mod key_value;
mod links;
mod machine;
mod model;
mod online;
mod race;
mod read_error;
mod register;
mod shrink;
mod timeline;
mod unique;
mod verdict;
mod verify;
mod wgl;

pub use check::{Engines, check, check_with, decide};
pub use edn::DEPTH_MAX;
pub use edn_history::{
    KeyValueHistory, independent_registers, key_value_history, register_history,
};
pub use history::{EventError, History, Operation, Recorder, Response, ReturnsBeforeInvoked};
pub use jepsen_log::{RegisterHistory, jepsen_log};
pub use key_value::{KeyValue, KeyValueInput, KeyValueOutput, KeyValueRequest};
pub use model::{Joined, Model, Shortcut};
pub use online::{Online, OnlineError, OnlineLimits};
pub use read_error::{ReadError, ReadProblem};
pub use register::{Register, RegisterInput, RegisterOutput};
pub use timeline::timeline;
pub use unique::unique_writes;
pub use verdict::{Budget, Counterexample, Outcome, Reason, Witness};
pub use verify::{WitnessError, verify};
