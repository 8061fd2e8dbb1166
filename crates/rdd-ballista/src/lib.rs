#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod cluster;
mod error;
mod lower;
mod node;
mod registry;
mod rows;
mod serve;
mod work;

pub use cluster::Cluster;
pub use error::Error;
pub use registry::Registry;
pub use serve::{Executor, serve_executor, serve_scheduler};
