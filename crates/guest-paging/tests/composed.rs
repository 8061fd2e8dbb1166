//! EPT, nested page tables and control blocks of nested guests, and traces on guest physical pages.

use guest_paging::nested::{
    self, Cause, Composed, ComposedEpt, ComposedNpt, ControlBlock, ControlBlocks, Ground, Layer,
    Operation, Purpose, Shadowing, Stage, StageAccess, StageFault, Traced,
};
use guest_paging::shadow::Trace;
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use guest_paging::x86::{AccessKind, Processor, Registers, Vendor};
use guest_paging::{Gpa, PinnedMemory, ept, npt};
use proptest::prelude::*;
use support::random::Random;

mod support {
    pub(crate) mod random;
}

const CAPABILITIES: ept::Capabilities = ept::Capabilities {
    maxphyaddr: 40,
    execute_only: true,
    mib_pages: true,
    gib_pages: true,
    mode_based_execute: false,
};

fn access(kind: AccessKind) -> StageAccess {
    StageAccess {
        kind,
        purpose: Purpose::Translated,
        user_address: false,
    }
}

/// EPT0-1 in pages 0 to 3, which maps 64 pages mostly where they are; EPT1-2 in the others, 8 pages for
/// each level above the first, the rest for that.
fn random_memory(random: &mut Random) -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 12)]).unwrap();
    let store = |page: u64, slot: u64, entry: u64| {
        memory
            .write_obj(entry, GuestAddress((page << 12) + slot * 8))
            .unwrap();
    };
    let rights = |random: &mut Random| {
        let some = [7, 7, 7, 7, 7, 7, 3, 1, 5, 4, 0, 2];
        some[usize::try_from(random.next() % 12).unwrap()] | random.next() & 0x300
    };
    for page in 0..3 {
        store(page, 0, (page + 1) << 12 | 7);
    }
    for page in 0..64 {
        let moved = if random.next().is_multiple_of(8) {
            random.next() % 66
        } else {
            page
        };
        let entry = moved << 12 | rights(random) | 6 << 3;
        store(3, page, if page < 28 { entry | 7 } else { entry });
    }
    for page in 4..64_u64 {
        for slot in 0..4 {
            let below = (page / 8 + 1) * 8;
            let entry = match (page / 8, random.next() % 16) {
                (2, 0) => 0xb0,
                (0..=2, _) => (below + random.next() % 8) << 12,
                _ => (random.next() % 66) << 12 | [0, 6][usize::try_from(slot % 2).unwrap()] << 3,
            };
            store(page, slot, entry | rights(random));
        }
    }
    memory
}

/// What both EPTs, walked from scratch and in full, make of an access.
fn from_scratch(
    memory: &PinnedMemory<'_>,
    upper: &ept::Context,
    lower: &ept::Context,
    gpa: Gpa,
    access: StageAccess,
) -> Result<Gpa, nested::Failure> {
    let ground = Stage::new(2, lower, Ground::new(memory, 2), ());
    Stage::new(1, upper, ground, ()).descend(gpa, access)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn what_is_composed_is_what_two_walks_give(seed: u64, flags: [bool; 2]) {
        let mut random = Random(seed);
        let memory = random_memory(&mut random);
        let pinned = PinnedMemory::new(&memory).unwrap();
        let eptp = |root: u64, flags: bool| root << 12 | u64::from(flags) << 6 | 3 << 3 | 6;
        let lower = ept::Context::new(&CAPABILITIES, eptp(0, flags[0]));
        let upper = ept::Context::new(&CAPABILITIES, eptp(4 + random.next() % 4, flags[1]));
        let mut composed = ComposedEpt::new(12);
        let hardware = ept::Context::new(&CAPABILITIES, ComposedEpt::EPTP);
        for _ in 0..40 {
            let gpa = (0..4).fold(0, |above, _| (above << 9) + random.next() % 4);
            let gpa = Gpa(gpa << 12 | 0x18);
            let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
            let access = access(kinds[usize::try_from(random.next() % 3).unwrap()]);
            let mut found = hardware_walk(&composed, &hardware, gpa, access);
            let outcome = found
                .is_none()
                .then(|| composed.violation(&pinned, &lower, &upper, gpa, access));
            // After the violation, so that it is the one to set flags.
            let expected = from_scratch(&pinned, &upper, &lower, gpa, access);
            match (outcome, &expected) {
                (None, _) => {}
                (Some(Composed::Filled), _) => {
                    found = hardware_walk(&composed, &hardware, gpa, access);
                }
                (Some(Composed::Reflect(fault)), Err(failure)) => {
                    prop_assert_eq!(failure.cause, Cause::Stage(StageFault::Ept(fault)));
                    prop_assert_eq!(failure.dimension, 1);
                }
                (Some(Composed::Own(own)), Err(failure)) => {
                    prop_assert_eq!(own.dimension, failure.dimension);
                }
                (outcome, expected) => prop_assert!(false, "{outcome:?}, {expected:?}"),
            }
            prop_assert_eq!(found, expected.ok());
        }
    }
}

/// Nested page tables in 4-level paging with this root.
fn npt_context(root: u64) -> npt::Context {
    let processor = Processor {
        vendor: Vendor::Amd,
        maxphyaddr: 40,
        gib_pages: true,
        pse36: true,
    };
    let registers = Registers {
        cr0: 1 << 31 | 1 << 16,
        cr3: root << 12,
        cr4: 1 << 5,
        efer: 1 << 10 | 1 << 11,
        ..Registers::default()
    };
    npt::Context::new(&processor, &registers)
}

/// As [`random_memory`], with entries of the x86 format.
fn random_npt_memory(random: &mut Random) -> GuestMemoryMmap {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 12)]).unwrap();
    let store = |page: u64, slot: u64, entry: u64| {
        memory
            .write_obj(entry, GuestAddress((page << 12) + slot * 8))
            .unwrap();
    };
    let rights = |random: &mut Random| {
        let some = [7, 7, 7, 7, 7, 7, 7, 5, 5, 3, 6, 0];
        let no_execute = u64::from(random.next().is_multiple_of(6)) << 63;
        some[usize::try_from(random.next() % 12).unwrap()] | random.next() & 0x60 | no_execute
    };
    for page in 0..3 {
        store(page, 0, (page + 1) << 12 | 7);
    }
    for page in 0..64 {
        let moved = if random.next().is_multiple_of(8) {
            random.next() % 66
        } else {
            page
        };
        let entry = moved << 12 | rights(random);
        // Every table of level 1 can be reached, and marked.
        let table = moved << 12 | 7;
        store(3, page, if page < 28 { table } else { entry });
    }
    for page in 4..64_u64 {
        for slot in 0..4 {
            let below = (page / 8 + 1) * 8;
            let entry = match (page / 8, random.next() % 16) {
                (2, 0) => 0x80,
                (0..=2, _) => (below + random.next() % 8) << 12,
                _ => (random.next() % 66) << 12,
            };
            store(page, slot, entry | rights(random));
        }
    }
    memory
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn composed_npt_is_what_two_walks_give(seed: u64) {
        composed_npt(seed)?;
    }
}

/// Runs accesses through composed tables and through both from scratch; gives how many were filled.
fn composed_npt(seed: u64) -> Result<u64, TestCaseError> {
    let mut random = Random(seed);
    let memory = random_npt_memory(&mut random);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let (lower, upper) = (npt_context(0), npt_context(4 + random.next() % 4));
    let mut composed = ComposedNpt::new(12);
    let hardware = ComposedNpt::context();
    let walk = |composed: &ComposedNpt, gpa, access| {
        let walked = npt::walk(composed, &hardware, gpa, access, &mut ());
        walked.ok().map(|translation| translation.gpa)
    };
    for _ in 0..40 {
        let gpa = (0..4).fold(0, |above, _| (above << 9) + random.next() % 4);
        let gpa = Gpa(gpa << 12 | 0x18);
        let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
        let access = access(kinds[usize::try_from(random.next() % 3).unwrap()]);
        let mut found = walk(&composed, gpa, access);
        let outcome = found
            .is_none()
            .then(|| composed.violation(&pinned, &lower, &upper, gpa, access));
        let ground = Stage::new(2, &lower, Ground::new(&pinned, 2), ());
        let expected = Stage::new(1, &upper, ground, ()).descend(gpa, access);
        match (outcome, &expected) {
            (None, _) => {}
            (Some(Composed::Filled), _) => found = walk(&composed, gpa, access),
            (Some(Composed::Reflect(fault)), Err(failure)) => {
                prop_assert_eq!(failure.cause, Cause::Stage(StageFault::Npt(fault)));
                prop_assert_eq!(failure.dimension, 1);
            }
            (Some(Composed::Own(own)), Err(failure)) => {
                prop_assert_eq!(own.dimension, failure.dimension);
            }
            (outcome, expected) => prop_assert!(false, "{outcome:?}, {expected:?}"),
        }
        prop_assert_eq!(found, expected.ok());
    }
    Ok(composed.counters().filled)
}

#[test]
fn random_nested_page_tables_map_something() {
    let filled: u64 = (0..100).map(|seed| composed_npt(seed).unwrap()).sum();
    assert!(filled > 50, "{filled}");
}

fn hardware_walk(
    composed: &ComposedEpt,
    context: &ept::Context,
    gpa: Gpa,
    access: StageAccess,
) -> Option<Gpa> {
    let walked = ept::walk(composed, context, gpa, access, &mut ());
    walked.ok().map(|translation| translation.address)
}

#[test]
fn a_write_to_a_clean_page_is_seen_by_both_dirty_flags() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x2_0000)]).unwrap();
    for (at, entry) in [
        // EPT1-2 from 0x1000, EPT0-1 from 0x8000, which maps all tables where they are.
        (0x1000, 0x2007),
        (0x2000, 0x3007),
        (0x3000, 0x4007),
        (0x4028, 0x5037_u64),
        (0x8000, 0x9007),
        (0x9000, 0xa007),
        (0xa000, 0xb007),
    ] {
        memory.write_obj(entry, GuestAddress(at)).unwrap();
    }
    for page in 0..16_u64 {
        memory
            .write_obj(page << 12 | 0x37, GuestAddress(0xb000 + 8 * page))
            .unwrap();
    }
    let pinned = PinnedMemory::new(&memory).unwrap();
    let lower = ept::Context::new(&CAPABILITIES, 0x8000 | 1 << 6 | 3 << 3 | 6);
    let upper = ept::Context::new(&CAPABILITIES, 0x1000 | 1 << 6 | 3 << 3 | 6);
    let mut composed = ComposedEpt::new(8);
    let hardware = ept::Context::new(&CAPABILITIES, ComposedEpt::EPTP);
    let (read, write) = (access(AccessKind::Read), access(AccessKind::Write));
    let leaf = || memory.read_obj::<u64>(GuestAddress(0x4028)).unwrap();
    assert_eq!(
        composed.violation(&pinned, &lower, &upper, Gpa(0x5000), read),
        Composed::Filled
    );
    assert_eq!(leaf() & 0x300, 0x100);
    assert_eq!(
        hardware_walk(&composed, &hardware, Gpa(0x5008), read),
        Some(Gpa(0x5008))
    );
    assert_eq!(
        hardware_walk(&composed, &hardware, Gpa(0x5008), write),
        None
    );
    assert_eq!(
        composed.violation(&pinned, &lower, &upper, Gpa(0x5000), write),
        Composed::Filled
    );
    assert_eq!(leaf() & 0x300, 0x300);
    assert_eq!(
        hardware_walk(&composed, &hardware, Gpa(0x5008), write),
        Some(Gpa(0x5008))
    );
    composed.invept();
    assert_eq!(hardware_walk(&composed, &hardware, Gpa(0x5008), read), None);
    assert_eq!(composed.table_bytes(), 4096);
}

#[test]
fn a_traced_page_stops_what_its_trace_says() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x2_0000)]).unwrap();
    for (at, entry) in [(0x8000, 0x9007), (0x9000, 0xa007), (0xa000, 0xb7_u64)] {
        memory.write_obj(entry, GuestAddress(at)).unwrap();
    }
    let pinned = PinnedMemory::new(&memory).unwrap();
    let ept = ept::Context::new(&CAPABILITIES, 0x8000 | 3 << 3 | 6);
    let traced = Traced::new(&ept);
    traced.trace(Gpa(0x5010)..Gpa(0x5020), Trace::Write);
    traced.trace(Gpa(0x6000)..Gpa(0x7000), Trace::ReadWrite);
    let stage = Stage::new(1, &traced, Ground::new(&pinned, 1), ());
    let stops = |gpa, kind| stage.descend(Gpa(gpa), access(kind)).is_err();
    assert!(!stops(0x5000, AccessKind::Read));
    assert!(stops(0x5fff, AccessKind::Write), "the whole page");
    assert!(!stops(0x4fff, AccessKind::Write));
    assert!(stops(0x6000, AccessKind::Read) && stops(0x6000, AccessKind::Fetch));
    let failure = stage
        .descend(Gpa(0x6008), access(AccessKind::Read))
        .unwrap_err();
    assert_eq!(
        failure.to_string(),
        "dimension 1: a read at 0x6008 meets a trace"
    );
    assert!(traced.untrace(&(Gpa(0x6000)..Gpa(0x7000)), Trace::ReadWrite));
    assert!(!traced.untrace(&(Gpa(0x6000)..Gpa(0x7000)), Trace::ReadWrite));
    assert!(!stops(0x6000, AccessKind::Read));
}

#[test]
fn the_hardware_runs_what_level_1_wants_and_returns_to_level_0() {
    let own = ControlBlock {
        guest_state: [1; 8],
        host_state: [2; 8],
        exits_on: 0b0011,
        nested_root: 0x1000,
        tsc_offset: 5,
    };
    let nested = ControlBlock {
        guest_state: [3; 8],
        host_state: [4; 8],
        exits_on: 0b0110,
        nested_root: 0x2000,
        tsc_offset: 7,
    };
    let mut blocks = ControlBlocks::new(own, nested, Shadowing::Memory);
    let hardware = ControlBlock {
        guest_state: [3; 8],
        host_state: [2; 8],
        exits_on: 0b0111,
        nested_root: 0x3000,
        tsc_offset: 12,
    };
    assert_eq!(blocks.compose(0x3000), hardware);
    assert_eq!(blocks.exit(0, [9; 8]), None, "level 0 alone asked for it");
    assert_eq!(blocks.exit(2, [8; 8]), Some([4; 8]));
    assert_eq!(blocks.compose(0x3000).guest_state, [8; 8]);
    assert_eq!(
        (blocks.counters().nested_exits, blocks.counters().reflected),
        (2, 1)
    );
}

#[test]
fn a_block_in_memory_makes_13_exits_2() {
    // The figures of the notes for CPUID: 13 exits become 2 where the block is memory.
    let operations = [Operation::Field; 11];
    let exits = |shadowing| {
        let block = ControlBlock {
            exits_on: 1,
            ..ControlBlock::default()
        };
        let mut blocks = ControlBlocks::new(ControlBlock::default(), block, shadowing);
        assert!(blocks.exit(0, [0; 8]).is_some());
        blocks.handled(&operations);
        blocks.counters().exits_for_each()
    };
    assert_eq!(exits(Shadowing::Trapping), 13);
    assert_eq!(exits(Shadowing::ShadowVmcs), 2);
    assert_eq!(exits(Shadowing::Memory), 2);
}
