//! The bodies of the fuzz targets, one module each, run for a second by the ordinary tests.

mod apic;
mod e1000;
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
mod virtio_net;
mod virtqueue_device;
mod virtqueue_driver;

pub use apic::apic;
pub use e1000::e1000;
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
pub use virtio_net::virtio_net;
pub use virtqueue_device::virtqueue_device;
pub use virtqueue_driver::virtqueue_driver;
