//! Guest RAM in KVM's memory slots.
#![expect(
    unsafe_code,
    reason = "KVM takes host addresses; this module holds the one call"
)]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::engine::EngineError;
use crate::kernel::Ram;

/// Maps every region of `ram` into `vm`. The caller keeps `ram` as long as `vm`.
pub(super) fn map(vm: &VmFd, ram: &Ram) -> Result<(), EngineError> {
    for (slot, region) in (0..).zip(ram.iter()) {
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(EngineError::Memory)?;
        let slot = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: u64::try_from(host.addr()).expect("host addresses have 64 bits"),
            flags: 0,
        };
        // SAFETY: `host` is the start of a mapping of `region.len()` bytes, which `KvmEngine` keeps
        // alive by its clone of `ram` until after its `vm`, and the regions do not overlap.
        unsafe { vm.set_user_memory_region(slot) }.map_err(|source| EngineError::Kvm {
            step: "map guest memory",
            source,
        })?;
    }
    Ok(())
}
