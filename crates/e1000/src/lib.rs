#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod device;
mod eeprom;
mod interrupts;
mod phy;
mod receive;
mod receive_checks;
#[expect(missing_docs, reason = "the names are the manual's")]
pub mod registers;
mod segment;
mod statistics;
mod transmit;

pub use device::{
    Compat, E1000, E1000Config, E1000Counts, E1000State, GuestErrors, InvalidState, RegisterExits,
};
pub use eeprom::EepromState;
pub use interrupts::{InterruptCounts, InterruptState};
pub use phy::PhyState;
pub use receive::RxOutcome;
pub use segment::{Context, Insert};
pub use transmit::{PACKET_MAX, TransmitState};
pub use vm_memory;
