#![doc = include_str!("../README.md")]

pub mod native;
mod platform;

pub use platform::{Clock, InterruptSource, Mmio, Platform, PortIo};

/// One virtual processor.
#[derive(Debug)]
pub struct Cpu;
