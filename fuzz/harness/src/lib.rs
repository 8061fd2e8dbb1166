//! The bodies of the fuzz targets, one module each, run for a second by the ordinary tests.

mod apic;
mod histories;
mod hostile_state;
mod interpreter;
mod native_unit;
mod nested_walk;
mod page_walk;
mod pc_devices;
mod pci_config;
mod raft_step;
mod rdd_blocks;
mod shadow;
mod two_stages;

pub use apic::apic;
pub use histories::histories;
pub use interpreter::interpreter;
pub use native_unit::native_unit;
pub use nested_walk::nested_walk;
pub use page_walk::page_walk;
pub use pc_devices::pc_devices;
pub use pci_config::pci_config;
pub use raft_step::raft_step;
pub use rdd_blocks::rdd_blocks;
pub use shadow::shadow;
pub use two_stages::two_stages;
