#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod environment;
mod outcome;
mod scan;
mod table;

pub use environment::{Environment, Mode};
pub use iced_x86;
pub use outcome::{Difference, Outcome};
pub use scan::{Finding, scan};
#[cfg(feature = "elf")]
pub use scan::{ScanError, scan_elf};
pub use table::{Entry, Group, Guard, Kind, TABLE, classify};
