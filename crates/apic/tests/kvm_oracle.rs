//! Random requests through this model and through KVM's in-kernel APICs, compared after each.
//!
//! Register accesses are made by a few instructions of guest code in long mode, so that KVM's own
//! register model is what answers. Skips loudly where there is no `/dev/kvm`.
//!
//! Left out because KVM differs from the SDM (September 2023, volume 3), which the model follows: ESR
//! and vectors below 16 (11.5.3: KVM keeps no ESR and takes the vectors), the trigger mode of ICR (11.6.1:
//! ignored but for INIT; KVM sets TMR by it), LVT delivery status and remote IRR (11.5.1: read only; KVM
//! lets software write them), and lowest-priority messages as said below. Timer counts are left out
//! because KVM's run on host time.

use std::ops::RangeInclusive;

use apic::{
    IoApic, IoApicVersion, LocalApic, LocalApicConfig, Output, Pending, deliver, msi_message,
};
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_MAX_CPUID_ENTRIES, kvm_irqchip, kvm_msi, kvm_regs, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};

#[derive(Clone, Debug)]
enum Step {
    /// Guest write to the local APIC page.
    Lapic(u64, u32),
    /// Guest write to half an I/O APIC entry of one of the pins.
    Entry(u8, bool, u32),
    /// Message signalled interrupt.
    Msi(u64, u32),
    /// A pin of the I/O APIC. The lower ones are the 8259A's as well.
    Line(u8, bool),
    /// The guest enables interrupts, takes all that are due, and disables them again.
    Accept,
}

fn step() -> impl Strategy<Value = Step> {
    let vector = 16u32..=255;
    let lvt = (0u64..6, vector.clone(), any::<bool>()).prop_map(|(entry, vector, masked)| {
        // Fixed delivery; LINT0 and LINT1 without a mode that the guest would take at once.
        Step::Lapic(0x320 + entry * 16, vector | u32::from(masked) << 16)
    });
    let icr = (vector.clone(), 0u32..=1, any::<bool>(), 0u32..=2).prop_map(
        |(vector, lowest, logical, shorthand)| {
            // A lowest-priority message has no shorthand.
            let shorthand = if lowest == 1 { 0 } else { shorthand };
            Step::Lapic(
                0x300,
                vector | lowest << 8 | u32::from(logical) << 11 | shorthand << 18,
            )
        },
    );
    // Lowest priority with several logical id bits is left out: KVM picks one by hashing the vector
    // and drops the message when nobody has it.
    let narrow = prop_oneof![Just(0u8), (0u8..4).prop_map(|bit| 1 << bit)];
    let single = prop_oneof![4 => narrow.clone(), 1 => Just(0xff)];
    let destination = (any::<u8>(), single.clone());
    let lapic = prop_oneof![
        4 => Just(Step::Lapic(0xb0, 0)),
        2 => any::<u8>().prop_map(|tpr| Step::Lapic(0x80, tpr.into())),
        // One logical id bit: for others KVM leaves its fast path, on which a message for nobody
        // sets remote IRR.
        1 => (0u32..4).prop_map(|bit| Step::Lapic(0xd0, 1 << (24 + bit))),
        1 => any::<bool>().prop_map(|flat| Step::Lapic(0xe0, if flat { !0 } else { !0 >> 4 })),
        1 => (vector.clone(), prop::bool::weighted(0.8))
            .prop_map(|(spurious, on)| Step::Lapic(0xf0, spurious | u32::from(on) << 8)),
        1 => single.clone().prop_map(|id| Step::Lapic(0x310, u32::from(id) << 24)),
        2 => icr,
        1 => lvt,
        1 => (0u32..16).prop_map(|divide| Step::Lapic(0x3e0, divide & 0b1011)),
    ];
    let msi = (destination, vector, any::<[bool; 4]>()).prop_map(
        |((any, single), vector, [logical, hint, lowest, level])| {
            let id = if lowest || hint { single } else { any };
            let address =
                LAPIC | u64::from(id) << 12 | u64::from(hint) << 3 | u64::from(logical) << 2;
            Step::Msi(
                address,
                vector | u32::from(lowest) << 8 | u32::from(level) << 14 | u32::from(level) << 15,
            )
        },
    );
    prop_oneof![
        6 => lapic,
        3 => entry_low(FIXED_PINS, 0..=0),
        1 => entry_high(FIXED_PINS, single),
        3 => entry_low(LOWEST_PINS, 0..=1),
        1 => entry_high(LOWEST_PINS, narrow),
        3 => msi,
        4 => (16u8..=23, any::<bool>()).prop_map(|(pin, level)| Step::Line(pin, level)),
        4 => Just(Step::Accept),
    ]
}

/// Pins whose entries never say lowest priority.
const FIXED_PINS: RangeInclusive<u8> = 16..=19;
/// Pins whose entries may, and are never broadcast: KVM sets remote IRR for such a message although
/// no local APIC takes it, where the 82093AA (3.2.4) sets it "when local APIC(s) accept".
const LOWEST_PINS: RangeInclusive<u8> = 20..=23;

fn entry_low(
    pins: RangeInclusive<u8>,
    delivery: RangeInclusive<u32>,
) -> impl Strategy<Value = Step> {
    (pins, 16u32..=255, delivery, any::<[bool; 4]>()).prop_map(
        |(pin, vector, delivery, [logical, low_active, level, masked])| {
            let low = vector
                | delivery << 8
                | u32::from(logical) << 11
                | u32::from(low_active) << 13
                | u32::from(level) << 15
                | u32::from(masked) << 16;
            Step::Entry(pin, false, low)
        },
    )
}

fn entry_high(
    pins: RangeInclusive<u8>,
    id: impl Strategy<Value = u8>,
) -> impl Strategy<Value = Step> {
    (pins, id).prop_map(|(pin, id)| Step::Entry(pin, true, u32::from(id) << 24))
}

/// This crate's APICs.
struct Model {
    lapics: [LocalApic; 1],
    ioapic: IoApic,
}

impl Model {
    fn new() -> Self {
        let lapic = LocalApic::new(LocalApicConfig {
            id: 0,
            bootstrap: true,
            x2apic: true,
            virtual_wire: false,
            timer_hz: 1_000_000_000,
            tsc_hz: 1_000_000_000,
            physical_address_bits: 40,
        });
        Self {
            lapics: [lapic],
            ioapic: IoApic::new(0, IoApicVersion::V11),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Lapic(offset, value) => {
                match self.lapics[0].write(offset, &value.to_le_bytes()) {
                    Some(Output::EndOfInterrupt(vector)) => self.ioapic.end_of_interrupt(vector),
                    Some(Output::Message(message)) => {
                        deliver(&message, &mut self.lapics, Some(0));
                    }
                    None => {}
                }
            }
            Step::Entry(pin, high, value) => {
                self.ioapic.write(0, &[0x10 + 2 * pin + u8::from(high)]);
                self.ioapic.write(0x10, &value.to_le_bytes());
            }
            Step::Msi(address, data) => {
                if let Some(message) = msi_message(address, data) {
                    deliver(&message, &mut self.lapics, None);
                }
            }
            Step::Line(pin, level) => self.ioapic.set_line(pin, level),
            Step::Accept => {
                while let Some(pending) = self.lapics[0].acknowledge() {
                    assert!(
                        matches!(pending, Pending::Vector(_)),
                        "LINT0 is never raised"
                    );
                }
            }
        }
        let Self { lapics, ioapic } = self;
        ioapic.send_pending(|message| deliver(message, lapics, None) > 0);
    }

    fn picture(&self) -> Picture {
        let page = self.lapics[0].register_page();
        let entries = self.ioapic.state().redirection;
        Picture::of(&page, self.lapics[0].processor_priority().into(), |pin| {
            entries[pin]
        })
    }
}

/// What is compared.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    /// Register offset and value.
    registers: Vec<(usize, u32)>,
    ppr: u32,
    entries: Vec<u64>,
}

impl Picture {
    fn of(page: &[u8; 1024], ppr: u32, entry: impl Fn(usize) -> u64) -> Self {
        let compared = [0x80, 0xd0, 0xe0, 0xf0, 0x300, 0x310, 0x3e0]
            .into_iter()
            .chain((0x100..0x280).step_by(16))
            .chain((0x320..0x380).step_by(16));

        Self {
            registers: compared.map(|at| (at, word(page, at))).collect(),
            ppr,
            entries: (16..24).map(entry).collect(),
        }
    }
}

/// KVM's APICs and a processor to reach them with.
struct Oracle {
    vcpu: VcpuFd,
    vm: VmFd,
    /// Whether a delivered interrupt stays in ISR until EOI. A software KVM was seen to end each
    /// interrupt as it delivers it.
    keeps_in_service: bool,
    _memory: GuestMemoryMmap<()>,
}

impl Oracle {
    fn new(kvm: &Kvm) -> Self {
        let vm = kvm.create_vm().unwrap();
        vm.set_tss_address(0xfffb_d000).unwrap();
        vm.create_irq_chip().unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_guest(&memory);
        let region = memory.iter().next().unwrap();
        let host = region.get_host_address(MemoryRegionAddress(0)).unwrap();
        let slot = kvm_userspace_memory_region {
            slot: 0,
            guest_phys_addr: 0,
            memory_size: region.len(),
            userspace_addr: u64::try_from(host.addr()).unwrap(),
            flags: 0,
        };
        // SAFETY: `host` starts a mapping of `region.len()` bytes that `_memory` keeps alive as long
        // as `vm`.
        unsafe { vm.set_user_memory_region(slot) }.unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap())
            .unwrap();
        enter_long_mode(&vcpu);
        let mut oracle = Self {
            vcpu,
            vm,
            keeps_in_service: true,
            _memory: memory,
        };
        // KVM starts LINT0 as ExtINT; the model starts it masked.
        oracle.write(LAPIC + 0x350, 0x1_0000);
        oracle
    }

    /// Delivers one interrupt in a fresh machine and looks where it went.
    fn probe_in_service(kvm: &Kvm) -> bool {
        let mut oracle = Self::new(kvm);
        oracle.take(&Step::Lapic(0xf0, 0x1ff));
        oracle.take(&Step::Msi(LAPIC, 0x41));
        oracle.accept();
        word(&oracle.page(), 0x120) == 1 << 1
    }

    fn accept(&mut self) {
        self.execute(ACCEPT, 0, 0);
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

    fn page(&self) -> [u8; 1024] {
        self.vcpu
            .get_lapic()
            .unwrap()
            .regs
            .map(|byte| byte.to_le_bytes()[0])
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Lapic(offset, value) => self.write(LAPIC + offset, value),
            Step::Entry(pin, high, value) => {
                self.write(IOAPIC, u32::from(0x10 + 2 * pin + u8::from(high)));
                self.write(IOAPIC + 0x10, value);
            }
            Step::Msi(address, data) => {
                let address_lo = u32::try_from(address).unwrap();
                // EPERM says that no APIC is meant.
                let _ = self.vm.signal_msi(kvm_msi {
                    address_lo,
                    data,
                    ..kvm_msi::default()
                });
            }
            Step::Line(pin, level) => self.vm.set_irq_line(pin.into(), level).unwrap(),
            Step::Accept if self.keeps_in_service => self.accept(),
            Step::Accept => self.accept_by_hand(),
        }
    }

    fn picture(&mut self) -> Picture {
        let ppr = self.execute(READ, LAPIC + 0xa0, 0);
        let page = self.page();
        let mut chip = kvm_irqchip {
            chip_id: KVM_IRQCHIP_IOAPIC,
            ..kvm_irqchip::default()
        };
        self.vm.get_irqchip(&mut chip).unwrap();
        // SAFETY: KVM filled in the chip that was asked for, which is the I/O APIC.
        let ioapic = unsafe { chip.chip.ioapic };
        // SAFETY: `bits` overlays all of an entry.
        Picture::of(&page, ppr, |pin| unsafe { ioapic.redirtbl[pin].bits })
    }

    fn write(&mut self, address: u64, value: u32) {
        self.execute(WRITE, address, value);
    }

    /// Runs the guest routine at `rip` to its `out` and answers EAX.
    fn execute(&mut self, rip: u64, rdi: u64, esi: u32) -> u32 {
        let rsi = esi.into();
        let regs = kvm_regs {
            rip,
            rdi,
            rsi,
            rsp: 0x8000,
            rflags: 2,
            ..kvm_regs::default()
        };
        self.vcpu.set_regs(&regs).unwrap();
        self.resume();
        let [a, b, c, d, ..] = self.vcpu.get_regs().unwrap().rax.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn resume(&mut self) {
        match self.vcpu.run().unwrap() {
            VcpuExit::IoOut(0x80, _) => {}
            exit => panic!("the guest left with {exit:?}"),
        }
    }
}

fn word(page: &[u8; 1024], at: usize) -> u32 {
    u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
}

const LAPIC: u64 = 0xfee0_0000;
const IOAPIC: u64 = 0xfec0_0000;
/// `mov [rdi], esi; out 0x80, al`
const WRITE: u64 = 0x1000;
/// `mov eax, [rdi]; out 0x80, al`
const READ: u64 = 0x1010;
/// `sti; nop; out 0x80, al; nop; cli; out 0x80, al`: a KVM that emulates ring 0 looks for interrupts
/// when it enters the guest.
const ACCEPT: u64 = 0x1020;
/// `iretq`
const HANDLER: u64 = 0x1030;
const GDT: u64 = 0x500;
const IDT: u64 = 0x2000;
const PAGE_TABLES: u64 = 0x9000;

fn write_guest(memory: &GuestMemoryMmap<()>) {
    let put = |at: u64, bytes: &[u8]| memory.write_slice(bytes, GuestAddress(at)).unwrap();
    put(WRITE, &[0x89, 0x37, 0xe6, 0x80]);
    put(READ, &[0x8b, 0x07, 0xe6, 0x80]);
    put(ACCEPT, &[0xfb, 0x90, 0xe6, 0x80, 0x90, 0xfa, 0xe6, 0x80]);
    put(HANDLER, &[0x48, 0xcf]);
    for (index, descriptor) in (0u64..).zip([0, 0, 0x00af_9b00_0000_ffffu64, 0x00cf_9300_0000_ffff])
    {
        put(GDT + index * 8, &descriptor.to_le_bytes());
    }
    // Present interrupt gates of ring 0 to the handler.
    let gate = HANDLER | 0x10 << 16 | 0x8e00 << 32;
    for vector in 0..256 {
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

#[test]
fn kvm_and_the_model_agree_after_every_request() {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return eprintln!("skipped: no /dev/kvm to compare with: {error}"),
    };
    let keeps_in_service = Oracle::probe_in_service(&kvm);
    if !keeps_in_service {
        eprintln!("this KVM keeps nothing in service: interrupts are accepted by KVM_SET_LAPIC");
    }
    let cases = std::env::var("KVM_ORACLE_CASES").map_or(100, |cases| cases.parse().unwrap());
    let config = Config {
        cases,
        max_shrink_iters: 500,
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    };
    let steps = prop::collection::vec(step(), 1..150);
    TestRunner::new(config)
        .run(&steps, |steps| {
            let (mut model, mut oracle) = (Model::new(), Oracle::new(&kvm));
            oracle.keeps_in_service = keeps_in_service;
            let enable = Step::Lapic(0xf0, 0x1ff);
            for (index, step) in std::iter::once(&enable).chain(&steps).enumerate() {
                model.take(step);
                oracle.take(step);
                prop_assert_eq!(
                    model.picture(),
                    oracle.picture(),
                    "after step {}: {:?}",
                    index,
                    step
                );
            }
            Ok(())
        })
        .unwrap();
}
