//! Random walks, ours beside Unicorn's (QEMU's TCG): the same registers, tables and accesses must give
//! the same physical address or the same refusal, and the same memory afterwards.
//!
//! Unicorn translates for an explicit supervisor-mode access with MAXPHYADDR 40 and 1 GiB pages. It
//! tells no error code and has no PKRU to set. In three points it does not follow the manuals, and they
//! are left out: it accepts the low reserved bits of a PDPTE, knows no vendor, and marks the entry of a
//! 1 GiB page as accessed before it has checked it.

use guest_paging::PinnedMemory;
use guest_paging::x86::{Access, AccessKind, Pdptes, Privilege, Processor, Registers, Vendor};
use unicorn_engine::{Arch, Mode, Prot, RegisterX86, Unicorn};

use arena::Random;
use model::{Image, Outcome, Question};

#[path = "../../crates/guest-paging/tests/support/arena.rs"]
#[expect(dead_code, reason = "other tests need it")]
mod arena;
#[path = "../../crates/guest-paging/tests/support/model.rs"]
mod model;

fn main() {
    let seed = std::env::args()
        .nth(1)
        .map_or(1, |seed| seed.parse().expect("a number"));
    for paging in PAGING {
        let agreed = paging.compare(&mut Random(seed));
        println!("{:<8} {agreed:?}", paging.name);
        assert!(
            agreed.mapped > 200 && agreed.refused > 200,
            "too few cases to tell anything"
        );
    }
}

struct Paging {
    name: &'static str,
    mode: Mode,
    cr4: u64,
    efer: u64,
    entry: fn(&mut Random) -> u64,
}

const PAGING: [Paging; 4] = [
    Paging {
        name: "32-bit",
        mode: Mode::MODE_32,
        cr4: 0,
        efer: 0,
        entry: arena::entries_32,
    },
    Paging {
        name: "PAE",
        mode: Mode::MODE_32,
        cr4: 1 << 5,
        efer: 0,
        entry: arena::entry_pae,
    },
    Paging {
        name: "4-level",
        mode: Mode::MODE_64,
        cr4: 1 << 5,
        efer: 1 << 10 | 1 << 8,
        entry: arena::entry_64,
    },
    Paging {
        name: "5-level",
        mode: Mode::MODE_64,
        cr4: 1 << 5 | 1 << 12,
        efer: 1 << 10 | 1 << 8,
        entry: arena::entry_64,
    },
];

const PROCESSOR: Processor = Processor {
    vendor: Vendor::Intel,
    maxphyaddr: 40,
    gib_pages: true,
    pse36: true,
};

/// Arenas for each mode, and accesses in each.
const ARENAS: u32 = 100;
const ACCESSES: u32 = 50;

#[derive(Debug, Default)]
struct Agreed {
    mapped: u32,
    refused: u32,
    /// Not asked: what absent memory answers is no rule of paging.
    absent: u32,
}

impl Paging {
    fn compare(&self, random: &mut Random) -> Agreed {
        let mut agreed = Agreed::default();
        let mut unicorn = Unicorn::new(Arch::X86, self.mode).expect("Unicorn");
        unicorn.ctl_set_cpu_model(ICELAKE_SERVER).expect("model");
        for (base, size) in arena::REGIONS {
            unicorn
                .mem_map(base, size as u64, Prot::ALL)
                .expect("memory");
        }
        for _ in 0..ARENAS {
            let mut image = arena::image(random, self.entry);
            let memory = arena::memory(&image);
            let pinned = PinnedMemory::new(&memory).expect("memory");
            for _ in 0..ACCESSES {
                let question = self.question(random, &mut image);
                arena::store(&memory, &image);
                let walked = arena::walk(&pinned, &question);
                if let Outcome::Absent { .. } = walked {
                    agreed.absent += 1;
                    continue;
                }
                let mut theirs = image.clone();
                let translated = translate(&mut unicorn, &question, &mut theirs);
                let ours = arena::read_back(&memory, &image);
                let same_flags = ours == theirs;
                match walked {
                    Outcome::Mapped(mapped) => {
                        assert_eq!(translated, Some(mapped.gpa), "{question:x?}");
                        assert!(same_flags, "flags differ after {question:x?}");
                        agreed.mapped += 1;
                    }
                    _ => {
                        assert_eq!(translated, None, "{question:x?} {walked:x?}");
                        let marks_unchecked = self.efer != 0;
                        assert!(
                            same_flags || marks_unchecked,
                            "flags differ after {question:x?}"
                        );
                        agreed.refused += 1;
                    }
                }
                image = ours;
            }
        }
        agreed
    }

    fn question(&self, random: &mut Random, image: &mut Image) -> Question {
        let mut registers = arena::registers(random, self.cr4, self.efer);
        // Neither keys: see above.
        registers.cr4 &= !(1 << 22 | 1 << 24);
        if self.name == "PAE" {
            arena::plant_pdptes(random, image, registers.cr3 & 0xffff_ffe0, !LOW_RESERVED);
        }
        let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
        let kind = kinds[random.below(3) as usize];
        let bits = if self.cr4 & 1 << 12 != 0 { 57 } else { 48 };
        let canonical = (random.next() << (64 - bits)).cast_signed() >> (64 - bits);
        let gva = canonical.cast_unsigned();
        Question {
            processor: PROCESSOR,
            registers: Registers {
                pdptes: Pdptes::Memory,
                ..registers
            },
            gva: if self.efer == 0 {
                gva & 0xffff_ffff
            } else {
                gva
            },
            access: Access::new(kind, Privilege::Supervisor).with_ac(random.chance(50)),
            marking: true,
        }
    }
}

/// Bits of a PDPTE that are reserved, and that Unicorn does not look at.
const LOW_RESERVED: u64 = 0b1_1110_0110;

/// Unicorn's number for the model, which has SMEP, SMAP and 5-level paging.
const ICELAKE_SERVER: i32 = 26;

const IA32_EFER: u32 = 0xc000_0080;

/// Lets Unicorn translate, from `image` as memory and to it.
fn translate(unicorn: &mut Unicorn<'_, ()>, question: &Question, image: &mut Image) -> Option<u64> {
    let Registers {
        cr0,
        cr3,
        cr4,
        efer,
        ..
    } = question.registers;
    // Paging off, so that the mode is entered anew.
    let write = |unicorn: &mut Unicorn<'_, ()>, register, value| {
        unicorn.reg_write(register, value).expect("register");
    };
    write(unicorn, RegisterX86::CR0, 1);
    write(unicorn, RegisterX86::CR4, cr4);
    write(unicorn, RegisterX86::CR3, cr3);
    let mut msr = [0; 16];
    msr[..4].copy_from_slice(&IA32_EFER.to_le_bytes());
    msr[8..].copy_from_slice(&efer.to_le_bytes());
    unicorn
        .reg_write_long(RegisterX86::MSR, &msr)
        .expect("IA32_EFER");
    write(unicorn, RegisterX86::CR0, cr0);
    write(
        unicorn,
        RegisterX86::EFLAGS,
        2 | u64::from(question.access.ac) << 18,
    );
    for (base, bytes) in &image.0 {
        unicorn.mem_write(*base, bytes).expect("memory");
    }
    unicorn.ctl_flush_tlb().expect("TLB");
    let access = match question.access.kind {
        AccessKind::Read => Prot::READ,
        AccessKind::Write => Prot::WRITE,
        AccessKind::Fetch => Prot::EXEC,
    };
    let translated = unicorn.vmem_translate(question.gva, access).ok();
    for (base, bytes) in &mut image.0 {
        unicorn.mem_read(*base, bytes).expect("memory");
    }
    translated
}
