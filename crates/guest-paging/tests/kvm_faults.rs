//! The walker against accesses that a guest makes in KVM, at CPL 0 and CPL 3: page fault error code,
//! CR2, the physical address, and the flags of a successful access.
//!
//! Tables change only as the guest's own accesses change them: a KVM that keeps shadow page tables
//! does not see what its user writes to them.

#![expect(
    clippy::cast_possible_truncation,
    reason = "random numbers are cut to size"
)]

use guest_paging::PinnedMemory;
use guest_paging::x86::{Access, AccessKind, Privilege, Processor, Registers};
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuExit;
use support::arena::{self, Random};
use support::guest::Guest;
use support::model::{Image, Mapped, Outcome, Question};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

mod support {
    #[expect(dead_code, reason = "other formats are for other tests")]
    pub(crate) mod arena;
    pub(crate) mod guest;
    pub(crate) mod model;
}

/// What the guest met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// The access was made; the address if it left memory.
    Done(Option<u64>),
    PageFault {
        error_code: u32,
        cr2: u64,
    },
}

/// Counts of what both agreed on.
#[derive(Debug, Default)]
struct Agreed {
    done: u32,
    not_present: u32,
    reserved: u32,
    /// To a user-mode access, and to a supervisor-mode access.
    denied: [u32; 2],
    skipped: u32,
}

impl Agreed {
    fn add_fault(&mut self, error_code: u32, privilege: Privilege) {
        let supervisor = usize::from(privilege != Privilege::User);
        let count = match (error_code & 1 != 0, error_code & 8 != 0) {
            (false, _) => &mut self.not_present,
            (true, true) => &mut self.reserved,
            (true, false) => &mut self.denied[supervisor],
        };
        *count += 1;
    }
}

/// The guest's own pages, in a region after the arena's.
mod system {
    pub(crate) const BASE: u64 = 0x20_0000;
    pub(crate) const SIZE: usize = 0x9000;
    pub(crate) const PDPT: u64 = BASE;
    pub(crate) const PD: u64 = BASE + 0x1000;
    pub(crate) const PT: u64 = BASE + 0x2000;
    pub(crate) const CODE: u64 = BASE + 0x3000;
    pub(crate) const HANDLERS: u64 = BASE + 0x4000;
    pub(crate) const IDT: u64 = BASE + 0x5000;
    /// GDT, and the TSS at 0x100 in it.
    pub(crate) const GDT: u64 = BASE + 0x6000;
    pub(crate) const STACK: u64 = BASE + 0x7000;
    /// Where index 511 at each level leads: the page-table entry decides the page.
    pub(crate) const VIRTUAL: u64 = 0xffff_ffff_ffe0_0000;

    /// Page n of [`VIRTUAL`] is page n after [`CODE`]; page 5 is the code again, for CPL 3.
    pub(crate) fn gva(gpa: u64) -> u64 {
        VIRTUAL + (gpa - CODE)
    }
    pub(crate) const USER_CODE: u64 = VIRTUAL + 0x5000;
}

/// Access by access, one byte each; then a halt, which at CPL 3 is a #GP.
const READ: (u64, [u8; 3]) = (0x00, [0x8a, 0x03, 0xf4]);
const WRITE: (u64, [u8; 3]) = (0x10, [0x88, 0x03, 0xf4]);
const FETCH: (u64, [u8; 3]) = (0x20, [0xff, 0xe3, 0xf4]);
/// What a write writes.
const WRITTEN: u8 = 0x5a;

/// A handler is one halt; which one halted tells the vector.
const HALT: u8 = 0xf4;
const GENERAL_PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;

const KERNEL_CODE: u16 = 0x08;
const USER_CODE: u16 = 0x1b;
const USER_DATA: u16 = 0x23;
const TASK: u16 = 0x28;

/// Adds the guest's own pages, and makes them reachable from whatever page is the PML4.
fn add_system(image: &mut Image) {
    for (_, bytes) in &mut image.0 {
        for table in bytes.chunks_exact_mut(0x1000) {
            table[0xff8..].copy_from_slice(&(system::PDPT | 0x67).to_le_bytes());
        }
    }
    let mut bytes = vec![0; system::SIZE];
    let mut put = |at: u64, value: &[u8]| {
        let offset = (at - system::BASE) as usize;
        bytes[offset..offset + value.len()].copy_from_slice(value);
    };
    put(system::PDPT + 0xff8, &(system::PD | 0x67_u64).to_le_bytes());
    put(system::PD + 0xff8, &(system::PT | 0x67_u64).to_le_bytes());
    for page in 0..5 {
        let entry = (system::CODE + page * 0x1000) | 0x63;
        put(system::PT + page * 8, &entry.to_le_bytes());
    }
    put(system::PT + 5 * 8, &(system::CODE | 0x67_u64).to_le_bytes());
    for (offset, code) in [READ, WRITE, FETCH] {
        put(system::CODE + offset, &code);
    }
    for vector in [GENERAL_PROTECTION, PAGE_FAULT] {
        let handler = system::HANDLERS + vector * 16;
        put(handler, &[HALT]);
        put(system::IDT + vector * 16, &gate(system::gva(handler)));
    }
    // 64-bit code and data for CPL 0, the same for CPL 3, and a busy TSS with IST1.
    let tss = system::gva(system::GDT) + 0x100;
    let descriptors = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x67 | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56,
        tss >> 32,
    ];
    for (descriptor, index) in descriptors.into_iter().zip(0..) {
        put(system::GDT + index * 8, &u64::to_le_bytes(descriptor));
    }
    let stack_top = system::gva(system::STACK) + 0x1000;
    put(system::GDT + 0x100 + 0x24, &stack_top.to_le_bytes());
    image.0.push((system::BASE, bytes));
}

/// A 64-bit interrupt gate on IST1.
fn gate(handler: u64) -> [u8; 16] {
    let low = handler & 0xffff | u64::from(KERNEL_CODE) << 16 | 1 << 32 | 0x8e << 40;
    let mut gate = [0; 16];
    gate[..8].copy_from_slice(&(low | (handler >> 16 & 0xffff) << 48).to_le_bytes());
    gate[8..].copy_from_slice(&(handler >> 32).to_le_bytes());
    gate
}

/// Makes the access in the guest.
fn run(guest: &mut Guest, memory: &GuestMemoryMmap, question: &Question) -> Met {
    let user = question.access.privilege == Privilege::User;
    load(guest, &question.registers, user);
    let (offset, _) = match question.access.kind {
        AccessKind::Read => READ,
        AccessKind::Write => WRITE,
        AccessKind::Fetch => FETCH,
    };
    let code = if user {
        system::USER_CODE
    } else {
        system::gva(system::CODE)
    };
    let regs = kvm_regs {
        rip: code + offset,
        rbx: question.gva,
        rax: u64::from(WRITTEN),
        rflags: 2,
        rsp: system::gva(system::STACK) + 0x800,
        ..Default::default()
    };
    guest.vcpu.set_regs(&regs).unwrap();
    let error_code_at = GuestAddress(ERROR_CODE);
    memory.write_obj(NO_ERROR_CODE, error_code_at).unwrap();
    let mut outside = None;
    loop {
        match guest.vcpu.run().unwrap() {
            VcpuExit::MmioRead(at, data) => {
                data.fill(0);
                outside = Some(at);
            }
            VcpuExit::MmioWrite(at, _) => outside = Some(at),
            VcpuExit::Hlt => break,
            exit => panic!("{exit:?} after {question:x?}"),
        }
    }
    let rip = guest.vcpu.get_regs().unwrap().rip;
    let page_fault = system::gva(system::HANDLERS) + PAGE_FAULT * 16 + 1;
    if rip != page_fault {
        return Met::Done(outside);
    }
    // Below SS, RSP, RFLAGS, CS and RIP.
    let error_code = memory
        .read_obj(GuestAddress(system::STACK + 0x1000 - 6 * 8))
        .unwrap();
    Met::PageFault {
        error_code,
        cr2: guest.vcpu.get_sregs().unwrap().cr2,
    }
}

/// On the handler's stack, below SS, RSP, RFLAGS, CS and RIP.
const ERROR_CODE: u64 = system::STACK + 0x1000 - 6 * 8;
/// What lies there until a fault writes it.
const NO_ERROR_CODE: u64 = 0xdead;

fn load(guest: &Guest, registers: &Registers, user: bool) {
    let mut sregs = guest.vcpu.get_sregs().unwrap();
    let dpl = if user { 3 } else { 0 };
    let segment = |selector, type_| kvm_segment {
        selector,
        type_,
        base: 0,
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        dpl,
        ..Default::default()
    };
    let (code, data) = if user {
        (USER_CODE, USER_DATA)
    } else {
        (KERNEL_CODE, KERNEL_CODE + 8)
    };
    sregs.cs = kvm_segment {
        l: 1,
        ..segment(code, 0xb)
    };
    sregs.ss = kvm_segment {
        db: 1,
        ..segment(data, 3)
    };
    (sregs.ds, sregs.es) = (sregs.ss, sregs.ss);
    sregs.tr = kvm_segment {
        s: 0,
        g: 0,
        limit: 0x67,
        dpl: 0,
        ..segment(TASK, 0xb)
    };
    sregs.tr.base = system::gva(system::GDT) + 0x100;
    let table = |gpa, limit| kvm_dtable {
        base: system::gva(gpa),
        limit,
        ..Default::default()
    };
    (sregs.gdt, sregs.idt) = (table(system::GDT, 0x3f), table(system::IDT, 0xff));
    sregs.cr0 = registers.cr0 | 0x11;
    // The tables may be those of the last access, with an entry overwritten: another CR3 between the
    // two makes KVM forget what the processor has cached.
    sregs.cr3 = system::PDPT;
    sregs.cr4 = registers.cr4;
    sregs.efer = registers.efer | 1 << 8;
    guest.vcpu.set_sregs(&sregs).unwrap();
    sregs.cr3 = registers.cr3;
    guest.vcpu.set_sregs(&sregs).unwrap();
}

/// Asks one question of a guest and of the walker, which starts from the guest's tables.
fn compare(
    guest: &mut Guest,
    memory: &GuestMemoryMmap,
    question: &Question,
    shape: &Image,
    agreed: &mut Agreed,
) {
    let before = arena::read_back(memory, shape);
    let ours = arena::memory(&before);
    let walked = arena::walk(&PinnedMemory::new(&ours).unwrap(), question);
    if !can_be_run(&walked, question, &before) {
        agreed.skipped += 1;
        return;
    }
    let met = run(guest, memory, question);
    match walked {
        Outcome::Mapped(Mapped { gpa, .. }) => {
            let inside = holds(&before, gpa);
            let expected = if inside { None } else { Some(gpa) };
            assert_eq!(met, Met::Done(expected), "{question:x?} {walked:x?}");
            if inside && question.access.kind == AccessKind::Write {
                ours.write_obj(WRITTEN, GuestAddress(gpa)).unwrap();
            }
            let (ours, theirs) = (
                arena::read_back(&ours, shape),
                arena::read_back(memory, shape),
            );
            assert!(
                ours.0[..2] == theirs.0[..2],
                "flags differ after {question:x?}"
            );
            agreed.done += 1;
        }
        Outcome::PageFault { error_code, cr2 } => {
            assert_eq!(met, Met::PageFault { error_code, cr2 }, "{question:x?}");
            agreed.add_fault(error_code, question.access.privilege);
        }
        Outcome::Absent { .. } => unreachable!("not run"),
    }
}

/// Whether memory holds the byte at `gpa`.
fn holds(image: &Image, gpa: u64) -> bool {
    image
        .0
        .iter()
        .any(|(base, bytes)| (*base..*base + bytes.len() as u64).contains(&gpa))
}

/// A fetch that is permitted would run what it finds, and a write must leave the guest's own pages and
/// the entries that lead there.
fn can_be_run(walked: &Outcome, question: &Question, image: &Image) -> bool {
    match (walked, question.access.kind) {
        (Outcome::Absent { .. }, _) | (Outcome::Mapped(_), AccessKind::Fetch) => false,
        (Outcome::Mapped(Mapped { gpa, .. }), AccessKind::Write) => {
            !holds(image, *gpa) || (*gpa < system::BASE && gpa & 0xfff < 0xff8)
        }
        _ => true,
    }
}

fn question(random: &mut Random, processor: Processor) -> Question {
    let mut registers = arena::registers(random, 1 << 5, 1 << 10);
    registers.cr4 &= 1 << 5 | 1 << 7;
    registers.cr3 &= !0xfff;
    let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
    let kind = kinds[random.below(3) as usize];
    let privilege = [Privilege::User, Privilege::Supervisor][random.below(2) as usize];
    let canonical = (random.next() << 16).cast_signed() >> 16;
    // A KVM that runs CPL 3 beside its own kernel keeps a part of the upper half from it.
    let half = if privilege == Privilege::User {
        u64::MAX >> 17
    } else {
        u64::MAX
    };
    Question {
        processor,
        registers,
        gva: canonical.cast_unsigned() & half,
        access: Access::new(kind, privilege),
        marking: true,
    }
}

/// So many that one run takes about a second.
const ARENAS: u32 = 100;
const ACCESSES: u32 = 60;

#[test]
fn kvm_guests_meet_the_page_faults_that_the_walk_predicts() {
    let mut random = Random(0x6b76_6d03);
    let mut agreed = Agreed::default();
    for _ in 0..ARENAS {
        let mut image = arena::image(&mut random, arena::entry_64);
        add_system(&mut image);
        let memory = arena::memory(&image);
        let Some(mut guest) = Guest::new(&memory, None) else {
            return;
        };
        for _ in 0..ACCESSES {
            let question = question(&mut random, guest.processor);
            compare(&mut guest, &memory, &question, &image, &mut agreed);
        }
    }
    eprintln!("{agreed:?}");
    let Agreed {
        done,
        not_present,
        reserved,
        denied: [user, supervisor],
        ..
    } = agreed;
    assert!(
        [done, not_present, reserved, user, supervisor]
            .iter()
            .all(|&count| count > 100)
    );
}
