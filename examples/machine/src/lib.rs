//! The PC that the example VMMs share: composition only.
#![forbid(unsafe_code)]

mod acpi;
mod board;
pub mod kernel;
pub mod layout;
mod start_state;

pub use acpi::acpi_tables;
pub use board::{
    APIC_TIMER_HZ, Board, BoardConfig, Chipset, Console, Device, Exits, Outcome, TSC_HZ,
};
pub use start_state::{DescriptorTable, Segment, StartState};
