//! The walker against `KVM_TRANSLATE`, which walks 4-level tables in the kernel's own code.
//!
//! KVM checks structure, reserved bits and page sizes there, and sets accessed flags; it does not
//! check rights. A walk that fails leaves no flag in KVM, where this crate follows the SDM and
//! marks the tables it passed: then only KVM's verdict is compared.

use guest_paging::PinnedMemory;
use guest_paging::x86::{Access, AccessKind, Privilege, Registers};
use support::arena::{self, Random};
use support::guest::Guest;
use support::model::{Outcome, Question};

mod support {
    #[expect(dead_code, reason = "other formats are for other tests")]
    pub(crate) mod arena;
    pub(crate) mod guest;
    pub(crate) mod model;
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
        load(&guest, &registers);
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
            let translated = translate(&guest, question.gva);
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
                    assert!(
                        arena::read_back(&memory, &image) == image,
                        "marks: {question:x?}"
                    );
                    agreed.refused += 1;
                }
            }
            arena::store(&memory, &image);
        }
    }
    eprintln!("{agreed:?}");
    Some(agreed)
}

/// Enters the mode, without running.
fn load(guest: &Guest, registers: &Registers) {
    let mut sregs = guest.vcpu.get_sregs().unwrap();
    sregs.cr0 = registers.cr0 | 0x11;
    sregs.cr3 = registers.cr3;
    sregs.cr4 = registers.cr4;
    sregs.efer = registers.efer | 1 << 8;
    sregs.cs.l = 1;
    sregs.cs.db = 0;
    guest.vcpu.set_sregs(&sregs).unwrap();
}

fn translate(guest: &Guest, gva: u64) -> Option<u64> {
    let translation = guest.vcpu.translate_gva(gva).unwrap();
    (translation.valid == 1).then_some(translation.physical_address)
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
