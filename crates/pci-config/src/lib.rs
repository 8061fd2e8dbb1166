#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod bar;
mod bus;
mod config_space;
mod ecam;
mod express;
mod mechanism_1;
mod msi;
mod msix;
mod registers;
mod sriov;

pub use bar::{Bar, BarError, BarKind};
pub use bus::{Bdf, Bus, Function, Occupied};
pub use config_space::{
    CapabilityError, ConfigSpace, ConfigSpaceState, Header, InterruptPin, InvalidState,
};
pub use ecam::Ecam;
pub use express::add_express;
pub use mechanism_1::{ConfigMechanism1, ConfigMechanism1Counters};
pub use msi::{Msi, MsiError, MsiMessage};
pub use msix::{MsixError, MsixState, MsixTable};
pub use sriov::{PhysicalFunction, PhysicalFunctionState, SriovConfig, SriovError};
