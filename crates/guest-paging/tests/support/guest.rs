//! A KVM guest over a memory.
#![expect(
    clippy::cast_possible_truncation,
    reason = "CPUID packs fields of a byte"
)]

use guest_paging::x86::{Processor, Vendor};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

/// A virtual machine with one vCPU and the host's features.
pub(crate) struct Guest {
    pub(crate) vcpu: VcpuFd,
    pub(crate) processor: Processor,
    _vm: VmFd,
}

impl Guest {
    /// `None`, with the reason on stderr, where there is no KVM.
    pub(crate) fn new(memory: &GuestMemoryMmap, maxphyaddr: Option<u8>) -> Option<Self> {
        let kvm = Kvm::new()
            .map_err(|error| eprintln!("skipped: no /dev/kvm: {error}"))
            .ok()?;
        let vm = kvm.create_vm().unwrap();
        for (slot, region) in (0..).zip(memory.iter()) {
            let host = region.get_host_address(MemoryRegionAddress(0)).unwrap();
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: host as u64,
            };
            // SAFETY: the mapping belongs to `memory`, which outlives the virtual machine.
            unsafe { vm.set_user_memory_region(region) }.unwrap();
        }
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        let processor = set_up(&mut cpuid, maxphyaddr);
        vcpu.set_cpuid2(&cpuid).unwrap();
        Some(Self {
            vcpu,
            processor,
            _vm: vm,
        })
    }
}

/// Reads from CPUID what paging depends on, after setting MAXPHYADDR if one is asked for.
fn set_up(cpuid: &mut CpuId, maxphyaddr: Option<u8>) -> Processor {
    let mut processor = Processor {
        vendor: Vendor::Intel,
        maxphyaddr: 36,
        gib_pages: false,
        pse36: true,
    };
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            // "Auth"enticAMD and "Hygo"nGenuine.
            0 if [0x6874_7541, 0x6f67_7948].contains(&entry.ebx) => {
                processor.vendor = Vendor::Amd;
            }
            0x8000_0001 => processor.gib_pages = entry.edx & 1 << 26 != 0,
            0x8000_0008 => {
                if let Some(maxphyaddr) = maxphyaddr {
                    entry.eax = entry.eax & !0xff | u32::from(maxphyaddr);
                }
                processor.maxphyaddr = entry.eax as u8;
            }
            _ => {}
        }
    }
    processor
}
