//! A virtual machine with KVM's in-kernel APICs, and a processor in long mode to reach them with.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_MAX_CPUID_ENTRIES, kvm_irqchip, kvm_msi, kvm_regs, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};

pub(crate) struct Oracle {
    vcpu: VcpuFd,
    vm: VmFd,
    keeps_in_service: bool,
    _memory: GuestMemoryMmap<()>,
}

impl Oracle {
    pub(crate) fn new(host: &Host) -> Self {
        let kvm = &host.kvm;
        let vm = kvm.create_vm().unwrap();
        vm.set_tss_address(0xfffb_d000).unwrap();
        vm.create_irq_chip().unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_guest(&memory);
        let region = memory.iter().next().unwrap();
        let address = region.get_host_address(MemoryRegionAddress(0)).unwrap();
        let slot = kvm_userspace_memory_region {
            slot: 0,
            guest_phys_addr: 0,
            memory_size: region.len(),
            userspace_addr: u64::try_from(address.addr()).unwrap(),
            flags: 0,
        };
        // SAFETY: `address` starts a mapping of `region.len()` bytes that `_memory` keeps alive as long
        // as `vm`.
        unsafe { vm.set_user_memory_region(slot) }.unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap())
            .unwrap();
        enter_long_mode(&vcpu);
        let mut oracle = Self {
            vcpu,
            vm,
            keeps_in_service: host.keeps_in_service,
            _memory: memory,
        };
        // KVM starts LINT0 as ExtINT; the model starts it masked.
        oracle.write(LAPIC + 0x350, 0x1_0000);
        oracle
    }

    /// The guest writes a double word.
    pub(crate) fn write(&mut self, address: u64, value: u32) {
        let request = kvm_regs {
            rdi: address,
            rsi: value.into(),
            ..at(WRITE)
        };
        assert!(self.execute(request).is_some(), "#GP at {address:#x}");
    }

    /// The guest reads a double word.
    pub(crate) fn read(&mut self, address: u64) -> u32 {
        let request = kvm_regs {
            rdi: address,
            ..at(READ)
        };
        let answer = self.execute(request).expect("no #GP");
        low(answer.rax)
    }

    /// WRMSR; `false` is #GP.
    pub(crate) fn write_msr(&mut self, index: u32, value: u64) -> bool {
        let request = kvm_regs {
            rcx: index.into(),
            rax: value & 0xffff_ffff,
            rdx: value >> 32,
            ..at(WRMSR)
        };
        self.execute(request).is_some()
    }

    /// RDMSR; `None` is #GP.
    pub(crate) fn read_msr(&mut self, index: u32) -> Option<u64> {
        let request = kvm_regs {
            rcx: index.into(),
            ..at(RDMSR)
        };
        let answer = self.execute(request)?;
        Some(answer.rdx << 32 | answer.rax)
    }

    pub(crate) fn signal(&mut self, address: u64, data: u32) {
        let address_lo = u32::try_from(address).unwrap();
        // EPERM says that no APIC is meant.
        let _ = self.vm.signal_msi(kvm_msi {
            address_lo,
            data,
            ..kvm_msi::default()
        });
    }

    pub(crate) fn set_line(&mut self, pin: u8, level: bool) {
        self.vm.set_irq_line(pin.into(), level).unwrap();
    }

    /// Takes all interrupts that are due.
    pub(crate) fn accept(&mut self) {
        if self.keeps_in_service {
            self.accept_by_guest();
        } else {
            self.accept_by_hand();
        }
    }

    /// The register page, its registers where [`LocalApic::register_page`](apic::LocalApic) has them.
    pub(crate) fn page(&self) -> [u8; 1024] {
        let page = self.vcpu.get_lapic().unwrap().regs;
        page.map(|byte| byte.to_le_bytes()[0])
    }

    /// The I/O APIC's redirection table.
    pub(crate) fn redirection(&self) -> [u64; 24] {
        let mut chip = kvm_irqchip {
            chip_id: KVM_IRQCHIP_IOAPIC,
            ..kvm_irqchip::default()
        };
        self.vm.get_irqchip(&mut chip).unwrap();
        // SAFETY: KVM filled in the chip that was asked for, which is the I/O APIC.
        let ioapic = unsafe { chip.chip.ioapic };
        // SAFETY: `bits` overlays all of an entry.
        ioapic.redirtbl.map(|entry| unsafe { entry.bits })
    }

    fn accept_by_guest(&mut self) {
        self.execute(at(ACCEPT)).expect("no #GP");
        self.resume();
    }

    /// Moves what is due from IRR to ISR in the register page, by the rule of SDM 11.8.3.
    fn accept_by_hand(&mut self) {
        let mut page = self.page();
        let highest = |page: &[u8; 1024], base: usize| {
            (0..256)
                .rev()
                .find(|vector| word(page, base + vector / 32 * 16) & 1 << (vector % 32) != 0)
        };
        loop {
            let serving = highest(&page, 0x100).unwrap_or(0);
            let floor = (serving >> 4).max(usize::from(page[0x80] >> 4));
            let Some(vector) = highest(&page, 0x200).filter(|vector| vector >> 4 > floor) else {
                break;
            };
            let byte = vector / 32 * 16 + vector % 32 / 8;
            page[0x200 + byte] &= !(1 << (vector % 8));
            page[0x100 + byte] |= 1 << (vector % 8);
        }
        let mut lapic = self.vcpu.get_lapic().unwrap();
        lapic.regs = page.map(|byte| i8::from_le_bytes([byte]));
        self.vcpu.set_lapic(&lapic).unwrap();
    }

    /// Runs the guest from `request` to its `out` and answers the registers then; `None` after #GP.
    fn execute(&mut self, request: kvm_regs) -> Option<kvm_regs> {
        self.vcpu.set_regs(&request).unwrap();
        let done = self.resume();
        done.then(|| self.vcpu.get_regs().unwrap())
    }

    fn resume(&mut self) -> bool {
        match self.vcpu.run().unwrap() {
            VcpuExit::IoOut(DONE, _) => true,
            VcpuExit::IoOut(FAULT, _) => false,
            exit => panic!("the guest left with {exit:?}"),
        }
    }
}

/// The host's KVM.
pub(crate) struct Host {
    kvm: Kvm,
    /// Whether a delivered interrupt stays in ISR until EOI. A software KVM was seen to end each
    /// interrupt as it delivers it.
    keeps_in_service: bool,
}

impl Host {
    /// Opens KVM and looks what it does with an interrupt; `None` with the reason printed.
    pub(crate) fn open() -> Option<Self> {
        let kvm = Kvm::new()
            .inspect_err(|error| eprintln!("skipped: no /dev/kvm to compare with: {error}"))
            .ok()?;
        let mut host = Self {
            kvm,
            keeps_in_service: true,
        };
        host.keeps_in_service = host.probe_in_service();
        if !host.keeps_in_service {
            eprintln!(
                "this KVM keeps nothing in service: interrupts are accepted by KVM_SET_LAPIC"
            );
        }
        Some(host)
    }

    /// Delivers one interrupt in a fresh machine and looks where it went.
    fn probe_in_service(&self) -> bool {
        let mut oracle = Oracle::new(self);
        oracle.write(LAPIC + 0xf0, 0x1ff);
        oracle.signal(LAPIC, 0x41);
        oracle.accept();
        word(&oracle.page(), 0x120) == 1 << 1
    }
}

/// Registers to start the guest routine at `rip` with.
fn at(rip: u64) -> kvm_regs {
    kvm_regs {
        rip,
        rsp: 0x8000,
        rflags: 2,
        ..kvm_regs::default()
    }
}

fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

pub(crate) fn word(page: &[u8; 1024], at: usize) -> u32 {
    u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
}

pub(crate) const LAPIC: u64 = 0xfee0_0000;
pub(crate) const IOAPIC: u64 = 0xfec0_0000;
/// The guest's routines end with `out DONE, al`, and #GP with `out FAULT, al`.
const DONE: u16 = 0x80;
const FAULT: u16 = 0x81;
/// `mov [rdi], esi; out 0x80, al`
const WRITE: u64 = 0x1000;
/// `mov eax, [rdi]; out 0x80, al`
const READ: u64 = 0x1010;
/// `sti; nop; out 0x80, al; nop; cli; out 0x80, al`: a KVM that emulates ring 0 looks for interrupts
/// when it enters the guest.
const ACCEPT: u64 = 0x1020;
/// `wrmsr; out 0x80, al`
const WRMSR: u64 = 0x1030;
/// `rdmsr; out 0x80, al`
const RDMSR: u64 = 0x1040;
/// `iretq`
const INTERRUPT: u64 = 0x1050;
/// `out 0x81, al`
const GENERAL_PROTECTION: u64 = 0x1060;
const GDT: u64 = 0x500;
const IDT: u64 = 0x2000;
const PAGE_TABLES: u64 = 0x9000;

fn write_guest(memory: &GuestMemoryMmap<()>) {
    let put = |at: u64, bytes: &[u8]| memory.write_slice(bytes, GuestAddress(at)).unwrap();
    put(WRITE, &[0x89, 0x37, 0xe6, 0x80]);
    put(READ, &[0x8b, 0x07, 0xe6, 0x80]);
    put(ACCEPT, &[0xfb, 0x90, 0xe6, 0x80, 0x90, 0xfa, 0xe6, 0x80]);
    put(WRMSR, &[0x0f, 0x30, 0xe6, 0x80]);
    put(RDMSR, &[0x0f, 0x32, 0xe6, 0x80]);
    put(INTERRUPT, &[0x48, 0xcf]);
    put(GENERAL_PROTECTION, &[0xe6, 0x81]);
    for (index, descriptor) in (0u64..).zip([0, 0, 0x00af_9b00_0000_ffffu64, 0x00cf_9300_0000_ffff])
    {
        put(GDT + index * 8, &descriptor.to_le_bytes());
    }
    for vector in 0..256u64 {
        let handler = if vector == 13 {
            GENERAL_PROTECTION
        } else {
            INTERRUPT
        };
        // A present interrupt gate of ring 0.
        let gate = handler | 0x10 << 16 | 0x8e00 << 32;
        put(IDT + vector * 16, &gate.to_le_bytes());
    }
    // 4 GiB mapped to themselves in pages of 2 MiB.
    put(PAGE_TABLES, &(PAGE_TABLES + 0x1003).to_le_bytes());
    for index in 0..4u64 {
        let directory = PAGE_TABLES + 0x2000 + index * 0x1000;
        put(
            PAGE_TABLES + 0x1000 + index * 8,
            &(directory | 3).to_le_bytes(),
        );
    }
    for index in 0..2048u64 {
        put(
            PAGE_TABLES + 0x2000 + index * 8,
            &(index << 21 | 0x83).to_le_bytes(),
        );
    }
}

fn enter_long_mode(vcpu: &VcpuFd) {
    let code = kvm_segment {
        limit: u32::MAX,
        selector: 0x10,
        type_: 0xb,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let data = kvm_segment {
        selector: 0x18,
        type_: 3,
        l: 0,
        db: 1,
        ..code
    };
    let mut sregs = vcpu.get_sregs().unwrap();
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 31);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 4095);
    sregs.cr0 = 0x8000_0031;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = 0x20;
    sregs.efer = 0x500;
    vcpu.set_sregs(&sregs).unwrap();
}
