//! A replicated key-value store over `raft-log`: servers, clients, and what shows that they keep their word.
#![forbid(unsafe_code)]

pub mod client;
pub mod folder;
pub mod frame;
pub mod message;
pub mod protocol;
pub mod server;
pub mod store;
