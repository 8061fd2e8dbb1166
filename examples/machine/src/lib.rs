//! The PC that the example VMMs share: composition only.
#![forbid(unsafe_code)]

mod board;
pub mod layout;

pub use board::{
    APIC_TIMER_HZ, Board, BoardConfig, Chipset, Console, Device, Exits, Outcome, TSC_HZ,
};
