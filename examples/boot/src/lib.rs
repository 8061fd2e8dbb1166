//! What `boot` shares with other examples: Debian's packages, and a RAM disk made of them.

pub mod debian;
mod guest;
pub mod initramfs;
pub mod scripted;

pub use guest::{Flavour, Net};
