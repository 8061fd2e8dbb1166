//! Every combination of few bits: rights, keys and control registers against every access.
//!
//! The idea is that of kvm-unit-tests' `access`; the cases and the expectations are the model's.

use guest_paging::x86::{Access, Pdptes, Processor, Registers, Vendor};
use guest_paging::{Gva, PinnedMemory};
use support::arena;
use support::model::{Image, Outcome, Question};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

mod support {
    #[expect(dead_code, reason = "random arenas are for other tests")]
    pub(crate) mod arena;
    pub(crate) mod model;
}

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PT: u64 = 0x4000;
const PAGE: u64 = 0x5000;
/// Index 1 at every level.
const GVA: u64 = 1 << 39 | 1 << 30 | 1 << 21 | 1 << 12 | 0xabc;

/// The entries that GVA uses, in memory and in an image.
struct Tables {
    memory: GuestMemoryMmap,
    image: Image,
    entries: [(u64, u64); 4],
}

impl Tables {
    fn new() -> Self {
        let image = Image(vec![(0, vec![0; 0x6000])]);
        let entries = [
            (PML4 + 8, PDPT | 0x27),
            (PDPT + 8, PD | 0x27),
            (PD + 8, PT | 0x27),
            (PT + 8, PAGE),
        ];
        Self {
            memory: arena::memory(&image),
            image,
            entries,
        }
    }

    /// Writes the entries as they are, so that flags of an earlier access are gone.
    fn restore(&mut self) {
        for (at, entry) in self.entries {
            self.memory.write_obj(entry, GuestAddress(at)).unwrap();
            let offset = usize::try_from(at).unwrap();
            self.image.0[0].1[offset..offset + 8].copy_from_slice(&entry.to_le_bytes());
        }
    }

    /// Compares answers and entries afterwards.
    fn ask(&mut self, question: &Question) -> Outcome {
        self.restore();
        let expected = question.answer(&mut self.image);
        let pinned = PinnedMemory::new(&self.memory).unwrap();
        assert_eq!(
            arena::walk(&pinned, question),
            expected,
            "{question:x?} {:x?}",
            self.entries
        );
        for (at, _) in self.entries {
            let offset = usize::try_from(at).unwrap();
            let entry: [u8; 8] = self.memory.read_obj(GuestAddress(at)).unwrap();
            assert_eq!(
                entry,
                self.image.0[0].1[offset..offset + 8],
                "{question:x?} at {at:#x}"
            );
        }
        expected
    }
}

/// Spreads the bits of `case` over the given places, lowest first.
fn spread(case: u64, places: &[u8]) -> u64 {
    places
        .iter()
        .enumerate()
        .fold(0, |all, (n, place)| all | (case >> n & 1) << place)
}

fn question(cr0_wp: u64, cr4: u64, nxe: u64, keys: [u32; 2], access: Access) -> Question {
    Question {
        processor: Processor {
            vendor: Vendor::Intel,
            maxphyaddr: 40,
            gib_pages: true,
            pse36: true,
        },
        registers: Registers {
            cr0: 1 << 31 | cr0_wp << 16,
            cr3: PML4,
            cr4: 1 << 5 | cr4,
            efer: 1 << 10 | nxe << 11,
            pkru: keys[0] << 10,
            pkrs: keys[1] << 10,
            pdptes: Pdptes::Memory,
        },
        gva: GVA,
        access,
        marking: true,
    }
}

/// R/W, U/S and XD of one upper and the leaf entry, under all of WP, NXE, SMEP and SMAP.
#[test]
fn rights_of_two_entries_under_every_control_bit() {
    let mut tables = Tables::new();
    let mut mapped = 0;
    for case in 0..1 << 6 {
        tables.entries[2].1 = PT | 0x21 | spread(case, &[1, 2, 63]);
        tables.entries[3].1 = PAGE | 0x61 | spread(case >> 3, &[1, 2, 63]);
        for control in 0..1 << 4 {
            for access in Access::ALL {
                let cr4 = spread(control, &[20, 21]);
                let asked = question(control >> 2 & 1, cr4, control >> 3, [0, 0], access);
                mapped += u32::from(matches!(tables.ask(&asked), Outcome::Mapped(_)));
            }
        }
    }
    assert!(mapped > 1000, "{mapped} of the accesses were permitted");
}

/// Both kinds of keys on user and supervisor pages, with and without R/W, under WP and SMAP.
#[test]
fn protection_keys_under_every_control_bit() {
    let mut tables = Tables::new();
    for case in 0..1 << 3 {
        tables.entries[3].1 = PAGE | 5 << 59 | 0x61 | spread(case, &[1, 2, 63]);
        for keys in 0..1 << 4 {
            for control in 0..1 << 4 {
                for access in Access::ALL {
                    let cr4 = spread(control, &[21, 22, 24]);
                    let keys = [keys & 3, keys >> 2];
                    tables.ask(&question(control >> 3, cr4, 1, keys, access));
                }
            }
        }
    }
}

/// P, A, D, G, PS and reserved bits of an upper and the leaf entry.
#[test]
fn flags_of_two_entries() {
    let mut tables = Tables::new();
    for case in 0..1 << 10 {
        tables.entries[2].1 = 0x6 | spread(case, &[0, 5, 7, 41]);
        if case & 4 == 0 {
            tables.entries[2].1 |= PT;
        }
        tables.entries[3].1 = PAGE | 0x4 | spread(case >> 4, &[0, 1, 5, 6, 8, 45]);
        for access in Access::ALL.into_iter().take(9) {
            for wp in 0..2 {
                let mut asked = question(wp, 1 << 7, 1, [0, 0], access);
                tables.ask(&asked);
                asked.marking = false;
                tables.ask(&asked);
            }
        }
    }
}

/// Which bit positions an entry of each level may set, for each vendor, MAXPHYADDR and NXE.
#[test]
fn each_single_bit_of_each_entry() {
    let mut tables = Tables::new();
    let (sound, read) = (tables.entries, Access::ALL[0]);
    for level in 0..4 {
        for bit in 0..64 {
            tables.entries = sound;
            tables.entries[3].1 |= 0x27;
            tables.entries[level].1 ^= 1 << bit;
            for vendor in [Vendor::Intel, Vendor::Amd] {
                for maxphyaddr in [32, 36, 39, 40, 48, 51, 52] {
                    for options in 0..1 << 2 {
                        let mut asked = question(0, 0, options & 1, [0, 0], read);
                        let gib_pages = options >> 1 == 1;
                        let pse36 = false;
                        asked.processor = Processor {
                            vendor,
                            maxphyaddr,
                            gib_pages,
                            pse36,
                        };
                        tables.ask(&asked);
                    }
                }
            }
        }
    }
}

/// What a TLB asks of a kept translation is what the walk would have said.
#[test]
fn a_kept_translation_permits_what_a_walk_does() {
    use guest_paging::x86::{AccessKind, Context, Privilege, walk};
    let mut tables = Tables::new();
    for case in 0..1 << 4 {
        tables.entries[3].1 = PAGE | 3 << 59 | 0x61 | spread(case, &[1, 2, 63]);
        for control in 0..1 << 6 {
            let cr4 = spread(control, &[20, 22, 24]);
            let asked = question(control >> 3 & 1, cr4, 1, [0; 2], Access::ALL[0]);
            let mut registers = asked.registers;
            registers.pkru = u32::try_from(control >> 4).unwrap() << 6;
            registers.pkrs = u32::try_from(control >> 4).unwrap() << 6;
            let context = Context::new(&asked.processor, &registers);
            tables.restore();
            let pinned = PinnedMemory::new(&tables.memory).unwrap();
            let fetch = Access::new(AccessKind::Fetch, Privilege::Supervisor);
            let user = Access::new(AccessKind::Fetch, Privilege::User);
            let kept = [fetch, user, Access::ALL[3], Access::ALL[0]]
                .iter()
                .find_map(|access| walk(&pinned, &context, Gva(GVA), *access, &mut ()).ok());
            let Some(kept) = kept else { continue };
            for access in Access::ALL {
                let walked = walk(&pinned, &context, Gva(GVA), access, &mut ()).is_ok();
                assert_eq!(
                    context.permits(&kept, access),
                    walked,
                    "{access:?} {registers:x?}"
                );
            }
        }
    }
}
