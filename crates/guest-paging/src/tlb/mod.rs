//! Models of what a processor keeps of its walks: TLBs and paging-structure caches (SDM 4.10, 28.4).
//!
//! A model keeps what a walk read until an instruction of the guest or the monitor invalidates it, as
//! the architecture lets a processor do. It serves to count references, and to find guests and
//! monitors that flush too little: they go wrong under it, and under walks from scratch they do not.

mod linear;
mod paging_structure;
mod stage;
mod tag;

pub use linear::{Tlb, TlbCounters, TlbSize};
pub use stage::StageCache;
pub use tag::{Invept, Invpcid, Invvpid, Tag};
