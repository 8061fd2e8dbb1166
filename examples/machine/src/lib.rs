//! The PC that the example VMMs share: composition only.
#![deny(unsafe_code)]

mod acpi;
mod board;
mod dbt;
mod engine;
pub mod kernel;
mod kvm;
pub mod layout;
mod lockstep;
mod probe;
mod processors;
mod start_state;
mod tap;
mod user_network;

pub use acpi::{PciRoot, acpi_tables};
pub use board::{
    APIC_TIMER_HZ, Adapter, AdapterKind, AssignError, AssignedConfig, AssignedCounts,
    AssignedDevice, Board, BoardConfig, CONFIGURATION, Chipset, Console, Device, DeviceMemory,
    DmaRange, Exits, IommuConfig, NetworkConfig, Outcome, Signalling, TSC_HZ, VirtioExits,
    VirtioPci, Wire,
};
pub use dbt::{CpuModel, DbtCost, DbtEngine};
pub use engine::{Decision, Engine, EngineChoice, EngineError, Stop};
pub use kvm::{Controllers, KvmEngine};
pub use lockstep::Lockstep;
pub use probe::Probe;
pub use vtd::iotlb::IotlbCounters;
pub use vtd::{Capabilities, Counters, Features};
pub use x86_dbt::PagingObserver;

pub use start_state::{DescriptorTable, Segment, StartState};
pub use tap::{Tap, TapError};
pub use user_network::{UserNetwork, UserNetworkCounts};
