//! Whole graphs from one seed: any protocol, any interleaving, crashes and restores, and what must hold of each cut.

mod check;
mod explorer;
mod graph;
mod job;
mod program;
mod random;
mod world;

pub use check::Violation;
pub use explorer::{Explored, explore};
pub use graph::{Graph, Link};
pub use job::{JobOutcome, JobViolation, run_job};
pub use program::{Item, Program, Seen};
pub use random::{Outcome, Random, Schedule, run};
pub use world::{Part, Recording, Setup, Step, World};
