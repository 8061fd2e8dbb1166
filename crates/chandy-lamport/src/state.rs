//! Keyed state whose snapshot takes a time that does not depend on how many keys there are.

mod file;
mod hash;
mod table;

pub use file::StateError;
pub use hash::stable_hash;
pub use table::{Keyed, View};
