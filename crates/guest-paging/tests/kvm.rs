//! The walker against `KVM_TRANSLATE`, which walks 4-level tables in the kernel's own code.
//!
//! KVM checks structure, reserved bits and page sizes there, and sets accessed flags; it does not
//! check rights. A walk that fails leaves no flag in KVM, where this crate follows the SDM and
//! marks the tables it passed: then only KVM's verdict is compared.

#![expect(
    clippy::cast_possible_truncation,
    reason = "random numbers are cut to size"
)]

use guest_paging::PinnedMemory;
use guest_paging::x86::{Access, AccessKind, Privilege, Processor, Registers, Vendor};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use support::arena::{self, Random};
use support::model::{Outcome, Question};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

mod support {
    #[expect(dead_code, reason = "other formats are for other tests")]
    pub(crate) mod arena;
    pub(crate) mod model;
}

/// A virtual machine that never runs.
struct Guest {
    vcpu: VcpuFd,
    processor: Processor,
    _vm: VmFd,
}

impl Guest {
    /// `None`, with the reason on stderr, where there is no KVM.
    fn new(memory: &GuestMemoryMmap, maxphyaddr: Option<u8>) -> Option<Self> {
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

    fn load(&self, registers: &Registers) {
        let mut sregs = self.vcpu.get_sregs().unwrap();
        sregs.cr0 = registers.cr0 | 0x11;
        sregs.cr3 = registers.cr3;
        sregs.cr4 = registers.cr4;
        sregs.efer = registers.efer | 1 << 8;
        sregs.cs.l = 1;
        sregs.cs.db = 0;
        self.vcpu.set_sregs(&sregs).unwrap();
    }

    fn translate(&self, gva: u64) -> Option<u64> {
        let translation = self.vcpu.translate_gva(gva).unwrap();
        (translation.valid == 1).then_some(translation.physical_address)
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

/// Counts of what both agreed on.
#[derive(Debug, Default)]
struct Agreed {
    mapped: u32,
    refused: u32,
}

fn compare(maxphyaddr: Option<u8>, seed: u64) -> Option<Agreed> {
    let mut random = Random(seed);
    let image = arena::image(&mut random, arena::entry_64);
    let memory = arena::memory(&image);
    let guest = Guest::new(&memory, maxphyaddr)?;
    let pinned = PinnedMemory::new(&memory).unwrap();
    let mut agreed = Agreed::default();
    for _ in 0..ARENAS {
        let image = arena::image(&mut random, arena::entry_64);
        let mut registers = arena::registers(&mut random, 1 << 5, 1 << 10);
        registers.cr4 &= 1 << 5 | 1 << 7;
        registers.cr3 &= !0xfff;
        arena::store(&memory, &image);
        guest.load(&registers);
        for _ in 0..ADDRESSES {
            let question = Question {
                processor: guest.processor,
                registers,
                gva: (random.next() << 16)
                    .cast_signed()
                    .wrapping_shr(16)
                    .cast_unsigned(),
                access: Access::new(AccessKind::Read, Privilege::Supervisor),
                marking: true,
            };
            let walked = arena::walk(&pinned, &question);
            let flags = arena::read_back(&memory, &image);
            arena::store(&memory, &image);
            let translated = guest.translate(question.gva);
            match walked {
                Outcome::Mapped(mapped) => {
                    assert_eq!(translated, Some(mapped.gpa), "{question:x?}");
                    assert!(
                        arena::read_back(&memory, &image) == flags,
                        "flags: {question:x?}"
                    );
                    agreed.mapped += 1;
                }
                _ => {
                    assert_eq!(translated, None, "{question:x?} {walked:x?}");
                    agreed.refused += 1;
                }
            }
            arena::store(&memory, &image);
        }
    }
    eprintln!("{agreed:?}");
    Some(agreed)
}

/// So many that one run takes about a second at 20 us for each translation.
const ARENAS: u32 = 400;
const ADDRESSES: u32 = 50;

#[test]
fn kvm_translates_four_levels_alike_with_its_own_maxphyaddr() {
    let Some(agreed) = compare(None, 0x6b76_6d01) else {
        return;
    };
    assert!(agreed.mapped > 2000 && agreed.refused > 2000, "{agreed:?}");
}

#[test]
fn kvm_translates_four_levels_alike_with_maxphyaddr_40() {
    let Some(agreed) = compare(Some(40), 0x6b76_6d02) else {
        return;
    };
    assert!(agreed.mapped > 2000 && agreed.refused > 2000, "{agreed:?}");
}
