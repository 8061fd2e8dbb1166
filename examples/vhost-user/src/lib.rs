//! Both ends of vhost-user over real sockets: queues of `virtqueue`, messages of `vhost-user`.
#![forbid(unsafe_code)]

pub mod device;
pub mod driver;
pub mod frames;
pub mod layout;
pub mod memory;
pub mod server;
pub mod socket;
pub mod testpmd;
