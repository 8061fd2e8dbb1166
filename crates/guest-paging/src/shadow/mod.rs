//! Shadow paging: tables that lead from guest virtual to machine addresses, made from the guest's own
//! tables and kept in step with them.
//!
//! The guest's tables are write-protected once they are shadowed; the monitor is told of each write
//! that traps, and of those that a translator announces. Terms are those of KVM's `mmu.rst`: a table
//! is *out of sync* while the guest may write to it unseen, a *root* is what CR3 points at, a large
//! page is *splintered* when it is mapped in pieces.

mod checker;
mod engine;
mod entry;
mod fill;
mod path;
mod policy;
mod protection;
mod shape;
mod sink;
mod store;
mod sync;
#[cfg(test)]
mod tests;

pub use checker::Violation;
pub use engine::{Cause, Guest, Lookup, Resolution, Shadow, Switch};
pub use entry::ShadowEntry;
pub use policy::{Config, Counters, RootPolicy, SyncPolicy, TABLES_LIMIT, TABLES_MIN, WritePolicy};
pub use protection::{Trace, TraceError};
pub use sink::{Block, Flush, MachineMap, ShadowSink};
pub use store::TableId;
