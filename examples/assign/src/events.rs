//! Event descriptors: counters of eight bytes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// A counter that is read without waiting.
pub(crate) fn new() -> io::Result<OwnedFd> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    Ok(eventfd(0, flags)?)
}

/// Whether the counter was counted up since the last time.
pub(crate) fn take(event: &OwnedFd) -> bool {
    let mut count = [0; 8];
    matches!(rustix::io::read(event, &mut count), Ok(8))
}

/// Counts up. Nobody is hurt if it cannot: whoever handed the descriptor over waits for it.
pub(crate) fn signal(event: impl AsFd) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

/// A stranger's descriptor may be anything: writing to it must not wait.
pub(crate) fn make_nonblocking(event: &OwnedFd) -> Result<(), Errno> {
    let flags = fcntl_getfl(event)?;
    fcntl_setfl(event, flags | OFlags::NONBLOCK)
}
