//! Memory of one process that another has mapped.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost_user::Region;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

/// What rings and buffers lie in.
pub type Memory = GuestMemoryMmap<()>;

/// Maps what a front end shares.
///
/// # Errors
///
/// Fails when a file is shorter than its region says.
pub fn map(mut regions: Vec<(Region, OwnedFd)>) -> Result<Arc<Memory>> {
    regions.sort_by_key(|(region, _)| region.guest_address);
    let ranges = regions.into_iter().map(|(region, file)| {
        let size = usize::try_from(region.size)?;
        let file = FileOffset::new(File::from(file), region.file_offset);
        Ok((GuestAddress(region.guest_address), size, Some(file)))
    });
    let ranges = ranges.collect::<Result<Vec<_>>>()?;
    let memory = Memory::from_ranges_with_files(ranges);
    Ok(Arc::new(memory.context("mapping the front end's memory")?))
}

/// Memory to share, and the file behind it.
///
/// # Errors
///
/// Fails when there is none left.
pub fn shared(size: u64) -> Result<(Arc<Memory>, File)> {
    let file = memfd_create("vhost-user", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, size)?;
    let region = Region {
        guest_address: 0,
        size,
        user_address: 0,
        file_offset: 0,
    };
    let memory = map(vec![(region, file.try_clone()?)])?;
    Ok((memory, File::from(file)))
}
