#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

// So that tests in and beside the crate can share their models.
#[cfg(test)]
extern crate self as guest_paging;

mod address;
pub mod arm;
mod bits;
pub mod direct;
pub mod ept;
mod format;
mod memory;
pub mod nested;
mod nine_bits;
pub mod npt;
mod observer;
mod paging;
mod pinned;
pub mod shadow;
pub mod tlb;
pub mod vtd;
mod walk;
pub mod x86;

pub use address::{Gpa, Gva, Hpa};
pub use memory::{Exchange, Place, SearchedMemory, TableMemory, Unbacked};
pub use observer::{Observer, Reference, ReferenceKind};
pub use paging::{Paging, probe, walk};
pub use pinned::{PinError, PinnedMemory, PinnedRegion};
pub use vm_memory;
pub use walk::{RESTARTS_MAX, WalkError};
