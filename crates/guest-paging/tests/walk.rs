//! What a walk does, rule by rule.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest_paging::x86::{
    self, Access, AccessKind, Attributes, Context, ErrorCode, PageFault, PageSize, PdpteError,
    Pdptes, Privilege, Processor, Registers, Translation, Vendor,
};
use guest_paging::{
    Exchange, Gpa, Gva, PinError, PinnedMemory, RESTARTS_MAX, Reference, ReferenceKind,
    TableMemory, Unbacked, WalkError,
};
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileMemory,
};

const PROCESSOR: Processor = Processor {
    vendor: Vendor::Intel,
    maxphyaddr: 46,
    gib_pages: true,
    pse36: true,
};
const LONG: Registers = Registers {
    cr0: 1 << 31 | 1 << 16,
    cr3: 0x1000,
    cr4: 1 << 5 | 1 << 7,
    efer: 1 << 10 | 1 << 11,
    pkru: 0,
    pkrs: 0,
    pdptes: Pdptes::Memory,
};
const PAE: Registers = Registers {
    efer: 1 << 11,
    ..LONG
};
const LEGACY: Registers = Registers {
    cr4: 1 << 4 | 1 << 7,
    efer: 0,
    ..LONG
};

const READ: Access = Access::new(AccessKind::Read, Privilege::Supervisor);
const WRITE: Access = Access::new(AccessKind::Write, Privilege::Supervisor);
const USER_WRITE: Access = Access::new(AccessKind::Write, Privilege::User);

type Walked = Result<Translation, WalkError>;

fn memory(entries: &[(u64, u64)]) -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    for &(at, entry) in entries {
        write(&memory, at, entry);
    }
    memory
}

fn write(memory: &GuestMemoryMmap, at: u64, entry: u64) {
    memory
        .store(entry, GuestAddress(at), Ordering::Relaxed)
        .unwrap();
}

fn read(memory: &GuestMemoryMmap, at: u64) -> u64 {
    memory.load(GuestAddress(at), Ordering::Relaxed).unwrap()
}

fn walk(memory: &GuestMemoryMmap, registers: &Registers, gva: u64, access: Access) -> Walked {
    let context = Context::new(&PROCESSOR, registers);
    x86::walk(
        &PinnedMemory::new(memory).unwrap(),
        &context,
        Gva(gva),
        access,
        &mut (),
    )
}

fn fault(error_code: ErrorCode, cr2: u64) -> WalkError {
    WalkError::Fault(PageFault {
        error_code,
        cr2: Gva(cr2),
    })
}

/// Entry 0 of four tables at 0x1000, 0x2000, 0x3000, 0x4000, and a page at 0x5000.
const FOUR_LEVELS: [(u64, u64); 4] = [
    (0x1000, 0x2007),
    (0x2000, 0x3007),
    (0x3000, 0x4007),
    (0x4000, 0x5007),
];

#[test]
fn a_first_write_loads_and_marks_level_by_level() {
    let memory = memory(&FOUR_LEVELS);
    let context = Context::new(&PROCESSOR, &LONG);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let mut seen: Vec<Reference> = Vec::new();
    x86::walk(&pinned, &context, Gva(0x123), WRITE, &mut seen).unwrap();
    let seen: Vec<_> = seen
        .iter()
        .map(|r| (r.level, r.at.0, r.entry, r.kind))
        .collect();
    use ReferenceKind::{Load, Update};
    assert_eq!(
        seen,
        [
            (4, 0x1000, 0x2007, Load),
            (4, 0x1000, 0x2007, Update(0x2027)),
            (3, 0x2000, 0x3007, Load),
            (3, 0x2000, 0x3007, Update(0x3027)),
            (2, 0x3000, 0x4007, Load),
            (2, 0x3000, 0x4007, Update(0x4027)),
            (1, 0x4000, 0x5007, Load),
            (1, 0x4000, 0x5007, Update(0x5067)),
        ]
    );
}

#[test]
fn a_second_write_only_loads() {
    let memory = memory(&FOUR_LEVELS);
    walk(&memory, &LONG, 0x123, WRITE).unwrap();
    let context = Context::new(&PROCESSOR, &LONG);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let mut seen: Vec<Reference> = Vec::new();
    x86::walk(&pinned, &context, Gva(0x123), WRITE, &mut seen).unwrap();
    assert_eq!(seen.len(), 4);
    assert!(
        seen.iter()
            .all(|reference| reference.kind == ReferenceKind::Load)
    );
}

#[test]
fn a_translation_tells_what_a_tlb_keeps() {
    let mut entries = FOUR_LEVELS;
    entries[3].1 = 0x5000 | 0x101 | 7 << 59 | 1 << 63;
    let memory = memory(&entries);
    let registers = Registers {
        cr4: LONG.cr4 | 1 << 22,
        ..LONG
    };
    let translation = walk(&memory, &registers, 0x123, READ).unwrap();
    assert_eq!(
        translation,
        Translation {
            gpa: Gpa(0x5123),
            size: PageSize::Size4K,
            attributes: Attributes::GLOBAL,
            key: 7
        }
    );
}

#[test]
fn tables_are_marked_before_a_later_entry_faults() {
    let mut entries = FOUR_LEVELS;
    entries[3].1 = 0;
    let memory = memory(&entries);
    assert_eq!(
        walk(&memory, &LONG, 0x123, WRITE),
        Err(fault(ErrorCode::WRITE, 0x123))
    );
    assert_eq!(
        [0x1000, 0x2000, 0x3000, 0x4000].map(|at| read(&memory, at)),
        [0x2027, 0x3027, 0x4027, 0]
    );
}

#[test]
fn a_denied_leaf_is_not_marked() {
    let mut entries = FOUR_LEVELS;
    entries[3].1 = 0x5005;
    let memory = memory(&entries);
    let denied = ErrorCode::PRESENT | ErrorCode::WRITE | ErrorCode::USER;
    assert_eq!(
        walk(&memory, &LONG, 0x123, USER_WRITE),
        Err(fault(denied, 0x123))
    );
    assert_eq!(read(&memory, 0x4000), 0x5005);
    assert_eq!(read(&memory, 0x3000), 0x4027);
}

#[test]
fn a_probe_writes_nothing_and_tells_of_the_dirty_flag() {
    let memory = memory(&FOUR_LEVELS);
    let context = Context::new(&PROCESSOR, &LONG);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let probed = x86::probe(&pinned, &context, Gva(0), WRITE, &mut ()).unwrap();
    assert!(!probed.attributes.contains(Attributes::DIRTY));
    assert_eq!(
        FOUR_LEVELS.map(|(at, _)| read(&memory, at)),
        FOUR_LEVELS.map(|(_, entry)| entry)
    );
    let walked = x86::walk(&pinned, &context, Gva(0), WRITE, &mut ()).unwrap();
    assert!(walked.attributes.contains(Attributes::DIRTY));
}

#[test]
fn an_entry_that_references_itself_is_every_level() {
    let memory = memory(&[(0x1000, 0x1003)]);
    let translation = walk(&memory, &LONG, 0x10, WRITE).unwrap();
    assert_eq!(translation.gpa, Gpa(0x1010));
    assert_eq!(read(&memory, 0x1000), 0x1063);
}

#[test]
fn a_table_in_absent_memory_is_not_a_page_fault() {
    let memory = memory(&[(0x1000, 0x2007), (0x2000, 0xdead_0000_0007)]);
    let unbacked = WalkError::Table {
        level: 2,
        at: Gpa(0xdead_0000_0ff8),
        source: Unbacked,
    };
    let processor = Processor {
        maxphyaddr: 52,
        ..PROCESSOR
    };
    let context = Context::new(&processor, &LONG);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let walked = x86::walk(&pinned, &context, Gva(511 << 21), READ, &mut ());
    assert_eq!(walked, Err(unbacked));
}

#[test]
fn paging_off_is_the_identity_on_32_bits() {
    let memory = memory(&[]);
    let translation = walk(&memory, &Registers::default(), 0x1_2345_6789, USER_WRITE).unwrap();
    assert_eq!(translation.gpa, Gpa(0x2345_6789));
    assert!(
        translation
            .attributes
            .contains(Attributes::WRITE | Attributes::DIRTY)
    );
}

#[test]
fn an_instruction_fetch_is_reported_only_where_it_can_be_denied() {
    let fetch = Access::new(AccessKind::Fetch, Privilege::User);
    let memory = memory(&[]);
    let code = |registers: &Registers| match walk(&memory, registers, 0, fetch) {
        Err(WalkError::Fault(fault)) => fault.error_code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&LONG), ErrorCode::USER | ErrorCode::FETCH);
    assert_eq!(
        code(&Registers {
            efer: 1 << 10,
            ..LONG
        }),
        ErrorCode::USER
    );
    assert_eq!(code(&LEGACY), ErrorCode::USER);
    // NXE without PAE says nothing; SMEP does.
    assert_eq!(
        code(&Registers {
            efer: 1 << 11,
            ..LEGACY
        }),
        ErrorCode::USER
    );
    let smep = Registers {
        cr4: 1 << 20,
        ..LEGACY
    };
    assert_eq!(code(&smep), ErrorCode::USER | ErrorCode::FETCH);
}

#[test]
fn pse_36_places_a_4_mib_page_above_4_gib() {
    // PDE 1: bits 20:13 are address bits 39:32.
    let memory = memory(&[(0x1000, 0x0080_0083 << 32 | 0x00a5 << (13 + 32))]);
    let processor = Processor {
        maxphyaddr: 40,
        ..PROCESSOR
    };
    let pinned = PinnedMemory::new(&memory).unwrap();
    let walk = |processor: &Processor, registers: &Registers| {
        x86::walk(
            &pinned,
            &Context::new(processor, registers),
            Gva(0x7f_ffff),
            READ,
            &mut (),
        )
    };
    let translation = walk(&processor, &LEGACY).unwrap();
    assert_eq!(
        (translation.gpa, translation.size),
        (Gpa(0xa5_00bf_ffff), PageSize::Size4M)
    );

    let reserved = Err(fault(ErrorCode::PRESENT | ErrorCode::RESERVED, 0x7f_ffff));
    assert_eq!(
        walk(
            &Processor {
                maxphyaddr: 39,
                ..PROCESSOR
            },
            &LEGACY
        ),
        reserved
    );
    assert_eq!(
        walk(
            &Processor {
                pse36: false,
                ..PROCESSOR
            },
            &LEGACY
        ),
        reserved
    );
    // Without CR4.PSE the bit means nothing and the PDE references a table, here an absent one.
    let no_pse = walk(&processor, &Registers { cr4: 0, ..LEGACY });
    assert!(
        matches!(no_pse, Err(WalkError::Table { level: 1, .. })),
        "{no_pse:?}"
    );
}

#[test]
fn latched_pdptes_outlive_their_memory() {
    let memory = memory(&[(0x1000, 0x2001), (0x2000, 0x3007), (0x3000, 0x5007)]);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let pdptes = x86::load_pdptes(&pinned, &PROCESSOR, 0x1000).unwrap();
    write(&memory, 0x1000, 0);
    let latched = Registers {
        pdptes: Pdptes::Latched(pdptes),
        ..PAE
    };
    assert_eq!(
        walk(&memory, &latched, 0x123, USER_WRITE).unwrap().gpa,
        Gpa(0x5123)
    );
    let reread = walk(&memory, &PAE, 0x123, USER_WRITE);
    assert_eq!(
        reread,
        Err(fault(ErrorCode::WRITE | ErrorCode::USER, 0x123))
    );
}

#[test]
fn a_pdpte_is_neither_marked_nor_does_it_deny() {
    let memory = memory(&[(0x1000, 0x2001), (0x2000, 0x3007), (0x3000, 0x5007)]);
    walk(&memory, &PAE, 0x123, USER_WRITE).unwrap();
    assert_eq!(
        [0x1000, 0x2000, 0x3000].map(|at| read(&memory, at)),
        [0x2001, 0x3027, 0x5067]
    );
}

#[test]
fn loading_a_pdpte_refuses_reserved_bits_unless_it_is_absent() {
    for bit in [1, 2, 5, 6, 7, 8, 46, 63] {
        let memory = memory(&[(0x1000, 1 << bit), (0x1010, 0x2001 | 1 << bit)]);
        let pinned = PinnedMemory::new(&memory).unwrap();
        let loaded = x86::load_pdptes(&pinned, &PROCESSOR, 0x1000);
        let entry = 0x2001 | 1 << bit;
        assert_eq!(
            loaded,
            Err(PdpteError::Reserved { index: 2, entry }),
            "bit {bit}"
        );
    }
    let memory = memory(&[]);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let loaded = x86::load_pdptes(&pinned, &PROCESSOR, 0xffe0);
    assert_eq!(loaded, Ok([0; 4]));
    let at = Gpa(0x1_0000);
    let loaded = x86::load_pdptes(&pinned, &PROCESSOR, 0x1_0000);
    assert_eq!(
        loaded,
        Err(PdpteError::Table {
            at,
            source: Unbacked
        })
    );
}

#[test]
fn setters_follow_what_guests_change_often() {
    let mut entries = FOUR_LEVELS.to_vec();
    entries.extend([(0x6000, 0x2007)]);
    entries[3].1 |= 3 << 59;
    let memory = memory(&entries);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let registers = Registers {
        cr4: LONG.cr4 | 1 << 22,
        cr3: 0x7000,
        ..LONG
    };
    let mut context = Context::new(&PROCESSOR, &registers);
    let walk = |context: &Context| x86::walk(&pinned, context, Gva(0), USER_WRITE, &mut ());
    assert_eq!(
        walk(&context),
        Err(fault(ErrorCode::WRITE | ErrorCode::USER, 0))
    );
    context.set_cr3(0x8000_0000_0000_6fff);
    walk(&context).unwrap();
    context.set_key_rights(2 << 6, 0);
    let denied =
        ErrorCode::PRESENT | ErrorCode::WRITE | ErrorCode::USER | ErrorCode::PROTECTION_KEY;
    assert_eq!(walk(&context), Err(fault(denied, 0)));
}

// Races. Another processor writes between the load of an entry and its marking.

/// Memory where something happens before each compare-exchange.
struct Racing<'m, F> {
    pinned: PinnedMemory<'m>,
    before_exchange: RefCell<F>,
}

impl<F: FnMut(Gpa)> TableMemory for Racing<'_, F> {
    type Error = Unbacked;

    fn load_u32(&self, at: Gpa) -> Result<u32, Unbacked> {
        self.pinned.load_u32(at)
    }

    fn load_u64(&self, at: Gpa) -> Result<u64, Unbacked> {
        self.pinned.load_u64(at)
    }

    fn compare_exchange_u32(&self, at: Gpa, current: u32, new: u32) -> Exchange<u32, Unbacked> {
        self.before_exchange.borrow_mut()(at);
        self.pinned.compare_exchange_u32(at, current, new)
    }

    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Unbacked> {
        self.before_exchange.borrow_mut()(at);
        self.pinned.compare_exchange_u64(at, current, new)
    }
}

/// The result, and how many loads were made for it.
fn race(memory: &GuestMemoryMmap, access: Access, rival: impl FnMut(Gpa)) -> (Walked, usize) {
    let pinned = PinnedMemory::new(memory).unwrap();
    let racing = Racing {
        pinned,
        before_exchange: RefCell::new(rival),
    };
    let context = Context::new(&PROCESSOR, &LONG);
    let mut seen: Vec<Reference> = Vec::new();
    let walked = x86::walk(&racing, &context, Gva(0), access, &mut seen);
    let loads = seen
        .iter()
        .filter(|reference| reference.kind == ReferenceKind::Load);
    (walked, loads.count())
}

#[test]
fn losing_to_another_walk_costs_one_restart() {
    let memory = memory(&FOUR_LEVELS);
    let (walked, loads) = race(&memory, WRITE, |at| {
        if at == Gpa(0x4000) {
            write(&memory, 0x4000, read(&memory, 0x4000) | 1 << 5);
        }
    });
    assert_eq!(walked.unwrap().gpa, Gpa(0x5000));
    assert_eq!(loads, 8);
    assert_eq!(read(&memory, 0x4000), 0x5067);
}

#[test]
fn a_page_unmapped_meanwhile_faults_and_stays_unmarked() {
    let memory = memory(&FOUR_LEVELS);
    let (walked, _) = race(&memory, WRITE, |at| {
        if at == Gpa(0x4000) {
            write(&memory, 0x4000, 0x1234_5000);
        }
    });
    assert_eq!(walked, Err(fault(ErrorCode::WRITE, 0)));
    assert_eq!(read(&memory, 0x4000), 0x1234_5000);
}

#[test]
fn a_page_write_protected_meanwhile_is_checked_again() {
    let memory = memory(&FOUR_LEVELS);
    let (walked, _) = race(&memory, USER_WRITE, |at| {
        if at == Gpa(0x4000) {
            write(&memory, 0x4000, 0x5025);
        }
    });
    let denied = ErrorCode::PRESENT | ErrorCode::WRITE | ErrorCode::USER;
    assert_eq!(walked, Err(fault(denied, 0)));
    assert_eq!(read(&memory, 0x4000), 0x5025);
}

#[test]
fn a_table_replaced_meanwhile_is_followed() {
    let mut entries = FOUR_LEVELS.to_vec();
    entries.extend([(0x7000, 0x8007)]);
    let memory = memory(&entries);
    let (walked, _) = race(&memory, READ, |at| {
        if at == Gpa(0x3000) && read(&memory, 0x3000) == 0x4007 {
            write(&memory, 0x3000, 0x7007);
        }
    });
    assert_eq!(walked.unwrap().gpa, Gpa(0x8000));
    assert_eq!(read(&memory, 0x4000), 0x5007);
}

#[test]
fn a_walk_that_loses_every_race_gives_up() {
    let memory = memory(&FOUR_LEVELS);
    let (walked, loads) = race(&memory, READ, |at| {
        let rival = read(&memory, at.0) ^ 1 << 9;
        write(&memory, at.0, rival);
    });
    assert_eq!(walked, Err(WalkError::Contended));
    assert_eq!(loads, usize::try_from(RESTARTS_MAX).unwrap());
}

/// What the guest's kernel puts in a PTE that is not present is its own.
#[test]
fn walks_never_write_an_entry_that_is_not_present() {
    const PRESENT: u64 = 0x5003;
    const SWAPPED: u64 = 0x00ab_c000;
    let memory = memory(&FOUR_LEVELS);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let walked = walk(&memory, &LONG, 0, WRITE);
                let unmapped = Err(fault(ErrorCode::WRITE, 0));
                assert!(
                    walked.is_ok() || walked == unmapped || walked == Err(WalkError::Contended)
                );
            }
        });
        let pinned = PinnedMemory::new(&memory).unwrap();
        let pte: &AtomicU64 = pinned.regions()[0].slice().get_atomic_ref(0x4000).unwrap();
        for _ in 0..20_000 {
            let present = pte.swap(PRESENT, Ordering::Relaxed);
            assert!([SWAPPED, FOUR_LEVELS[3].1 | 0x60, FOUR_LEVELS[3].1].contains(&present));
            std::thread::yield_now();
            let before = pte.swap(SWAPPED, Ordering::Relaxed);
            assert!([PRESENT, PRESENT | 0x60].contains(&before), "{before:#x}");
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
}

// Pinned memory.

#[test]
fn pinned_memory_finds_every_region() {
    let ranges = [
        (GuestAddress(0x1000), 0x1000),
        (GuestAddress(0x1_0000_0000), 0x2000),
    ];
    let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
    let pinned = PinnedMemory::new(&memory).unwrap();
    let region = |gpa| {
        pinned
            .region(Gpa(gpa))
            .map(|region| (region.base().0, region.len()))
    };
    for _ in 0..2 {
        assert_eq!(region(0xfff), None);
        assert_eq!(region(0x1000), Some((0x1000, 0x1000)));
        assert_eq!(region(0x1fff), Some((0x1000, 0x1000)));
        assert_eq!(region(0x2000), None);
        assert_eq!(region(0x1_0000_1fff), Some((0x1_0000_0000, 0x2000)));
        assert_eq!(region(0x1_0000_2000), None);
        assert_eq!(region(u64::MAX), None);
    }
    memory
        .write_obj(7_u64, GuestAddress(0x1_0000_0008))
        .unwrap();
    assert_eq!(pinned.load_u64(Gpa(0x1_0000_0008)), Ok(7));
    assert_eq!(pinned.load_u64(Gpa(0x1_0000_2000)), Err(Unbacked));
    assert_eq!(pinned.load_u32(Gpa(0xffc)), Err(Unbacked));
}

#[test]
fn regions_that_would_split_an_entry_cannot_be_pinned() {
    let ranges = [(GuestAddress(0x1004), 0x1000)];
    let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
    let pinned = PinnedMemory::new(&memory);
    assert!(matches!(
        pinned,
        Err(PinError::Misaligned { base: Gpa(0x1004) })
    ));
    let none = GuestMemoryMmap::<()>::new();
    assert!(matches!(PinnedMemory::new(&none), Err(PinError::Empty)));
}

#[test]
fn marking_an_entry_dirties_its_page_in_the_bitmap() {
    let ranges = [(GuestAddress(0), 0x1_0000)];
    let memory = GuestMemoryMmap::<AtomicBitmap>::from_ranges(&ranges).unwrap();
    let pinned = PinnedMemory::new(&memory).unwrap();
    for (at, entry) in FOUR_LEVELS {
        // Behind the bitmap's back.
        let at = usize::try_from(at).unwrap();
        let atomic: &AtomicU64 = pinned.regions()[0].slice().get_atomic_ref(at).unwrap();
        atomic.store(entry, Ordering::Relaxed);
    }
    let context = Context::new(&PROCESSOR, &LONG);
    x86::walk(&pinned, &context, Gva(0), WRITE, &mut ()).unwrap();
    let region = memory.find_region(GuestAddress(0)).unwrap();
    let dirty: Vec<_> = (0..0x10)
        .filter(|page| region.bitmap().dirty_at(page * 0x1000))
        .collect();
    assert_eq!(dirty, [1, 2, 3, 4]);
}
