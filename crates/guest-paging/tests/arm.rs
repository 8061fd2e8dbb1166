//! Armv8 translation tables beside a slow model, with every granule.

use guest_paging::arm::{self, Access, Context, Fault, FaultKind, Granule, Registers, Stage};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use guest_paging::x86::AccessKind;
use guest_paging::{Gpa, PinnedMemory, Reference, WalkError};
use proptest::prelude::*;
use support::random::Random;

mod support {
    pub(crate) mod random;
}

/// 64 KiB pages in memory.
const PAGES: u64 = 8;
const WORDS: u64 = PAGES << 13;

#[derive(Debug, PartialEq)]
enum Outcome {
    Mapped(u64),
    Fault(u8),
    Absent,
}

/// D8.2 to D8.5, bit by bit. `level` is the manual's.
fn model(words: &mut [u64], r: &Registers, input: u64, access: Access) -> Outcome {
    let bit = |value: u64, n: u32| value >> n & 1 == 1;
    let granule = r.granule as u32;
    let index_bits = granule - 3;
    let input_bits = 64 - u32::from(r.tsz);
    let (stage_1, upper, pan) = match r.stage {
        Stage::One { upper, pan } => (true, upper, pan),
        Stage::Two => (false, false, false),
    };
    let top = input >> input_bits;
    if top != if upper { (1 << r.tsz) - 1 } else { 0 } {
        return Outcome::Fault(4);
    }
    let input = input & ((1 << input_bits) - 1);
    let mut table = r.table.0;
    let (mut no_el0, mut no_write, mut no_exec_0, mut no_exec_1) = (false, false, false, false);
    let first = 4 - u32::from(r.levels);
    for level in first..4 {
        let shift = granule + index_bits * (3 - level);
        let mut index = input >> shift;
        if level != first {
            index %= 1 << index_bits;
        }
        let Ok(word) = usize::try_from(table / 8 + index) else {
            return Outcome::Absent;
        };
        let Some(&entry) = words.get(word) else {
            return Outcome::Absent;
        };
        let code = |kind: u8| Outcome::Fault(kind | u8::try_from(level).unwrap());
        let table_or_page = bit(entry, 1);
        let block_here = level == 2 || level == 1 && granule == 12;
        if !bit(entry, 0) || !table_or_page && !block_here {
            return code(0b0100);
        }
        let address = (entry % (1 << 48)) >> granule << granule;
        if address >> r.output_bits != 0 {
            return code(0);
        }
        if level < 3 && table_or_page {
            no_el0 |= bit(entry, 61);
            no_write |= bit(entry, 62);
            no_exec_0 |= bit(entry, 60);
            no_exec_1 |= bit(entry, 59);
            table = address;
            continue;
        }
        if !bit(entry, 10) && !r.hardware_access {
            return code(0b1000);
        }
        let dirty_managed = r.hardware_access && r.hardware_dirty && bit(entry, 51);
        let allowed = if stage_1 {
            let el0 = bit(entry, 6) && !no_el0;
            let write = (!bit(entry, 7) || dirty_managed) && !no_write;
            match (access.kind, access.el0) {
                (AccessKind::Read, true) => el0,
                (AccessKind::Read, false) => !(pan && el0),
                (AccessKind::Write, true) => el0 && write,
                (AccessKind::Write, false) => write && !(pan && el0),
                (AccessKind::Fetch, true) => el0 && !bit(entry, 54) && !no_exec_0,
                (AccessKind::Fetch, false) => !(bit(entry, 53) || no_exec_1 || el0 && write),
            }
        } else {
            match access.kind {
                AccessKind::Read => bit(entry, 6),
                AccessKind::Write => bit(entry, 7) || dirty_managed,
                AccessKind::Fetch => bit(entry, 6) && !bit(entry, 54),
            }
        };
        if !allowed {
            return code(0b1100);
        }
        if r.hardware_access {
            words[word] |= 1 << 10;
        }
        if dirty_managed && access.kind == AccessKind::Write {
            words[word] = words[word] & !(1 << 7) | u64::from(!stage_1) << 7;
        }
        return Outcome::Mapped((address >> shift << shift) + input % (1 << shift));
    }
    unreachable!("level 3 maps or faults")
}

fn random_words(random: &mut Random) -> Vec<u64> {
    (0..WORDS)
        .map(|_| {
            let mut entry = (random.next() % (PAGES + 1)) << 16 | 3 | random.next() & 0x4c0;
            if !random.next().is_multiple_of(4) {
                entry |= 0x400;
            }
            // DBM, execute-never and the attributes of tables, seldom.
            entry |= random.next() & random.next() & random.next() & 0x7868_0000_0000_0000;
            match random.next() % 16 {
                0 => entry &= !2,
                1 => entry &= !1,
                2 => entry |= 1 << (random.next() % 48),
                _ => {}
            }
            entry
        })
        .collect()
}

fn registers(random: &mut Random, table: u64) -> Registers {
    let granules = [Granule::Size4K, Granule::Size16K, Granule::Size64K];
    let granule = granules[usize::try_from(random.next() % 3).unwrap()];
    let tsz = u8::try_from(16 + random.next() % 24).unwrap();
    let needed = arm::stage_1_levels(granule, tsz);
    let (index_bits, below) = (granule as u8 - 3, granule as u8);
    // A level less where 16 tables at the top can stand for it.
    let short = needed - 1;
    let fits = short >= 1 && 64 - tsz <= below + index_bits * short + 4;
    let two = random.next().is_multiple_of(2);
    let upper = random.next().is_multiple_of(2);
    let pan = random.next().is_multiple_of(2);
    Registers {
        stage: if two {
            Stage::Two
        } else {
            Stage::One { upper, pan }
        },
        granule,
        tsz,
        output_bits: [32, 36, 40, 48][usize::try_from(random.next() % 4).unwrap()],
        levels: if two && fits { short } else { needed },
        table: Gpa(table),
        hardware_access: random.next().is_multiple_of(2),
        hardware_dirty: random.next().is_multiple_of(2),
    }
}

/// Compares walks of random tables; says how many were mapped.
fn run(seed: u64) -> u32 {
    let mut random = Random(seed);
    let mut words = random_words(&mut random);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), bytes.len())]).unwrap();
    memory.write_slice(&bytes, GuestAddress(0)).unwrap();
    let pinned = PinnedMemory::new(&memory).unwrap();
    let mut mapped = 0;
    for _ in 0..100 {
        // Aligned for 8 tables of 64 KiB, which is more than is ever concatenated.
        let registers = registers(&mut random, 0);
        let context = Context::new(&registers);
        let upper = matches!(registers.stage, Stage::One { upper: true, .. });
        let spread = random.next() >> registers.tsz;
        let ones = if upper {
            !(u64::MAX >> registers.tsz)
        } else {
            0
        };
        let beyond = u64::from(random.next().is_multiple_of(16)) << 63;
        let input = (spread | ones) ^ beyond;
        let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
        let access = Access {
            kind: kinds[usize::try_from(random.next() % 3).unwrap()],
            el0: random.next().is_multiple_of(2),
        };
        let expected = model(&mut words, &registers, input, access);
        let found = match arm::walk(&pinned, &context, input, access, &mut ()) {
            Ok(found) => Outcome::Mapped(found.address.0),
            Err(WalkError::Fault(fault)) => Outcome::Fault(fault.status_code()),
            Err(_) => Outcome::Absent,
        };
        mapped += u32::from(matches!(found, Outcome::Mapped(_)));
        assert_eq!(
            found, expected,
            "{:x?} {:x?} {:x}",
            registers, access, input
        );
    }
    let mut held = vec![0; bytes.len()];
    memory.read_slice(&mut held, GuestAddress(0)).unwrap();
    let held = held
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    assert!(held.eq(words), "flags differ");
    mapped
}

proptest! {
    #[test]
    fn the_walk_is_the_model(seed: u64) {
        run(seed);
    }
}

#[test]
fn random_tables_map_pages_too() {
    let mapped: u32 = (0..10).map(run).sum();
    assert!(mapped > 100, "{mapped} of 1000");
}

#[test]
fn sixteen_concatenated_tables_stand_for_a_level() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x4_0000)]).unwrap();
    // 43 bits over 4 KiB: three levels, 16 tables from 0x1_0000. The last entry of the last one.
    for (at, entry) in [
        (0x1_fff8, 0x2_0003_u64),
        (0x2_0000, 0x2_1003),
        (0x2_1000, 0x5_57c3),
    ] {
        memory.write_obj(entry, GuestAddress(at)).unwrap();
    }
    let registers = Registers {
        stage: Stage::Two,
        granule: Granule::Size4K,
        tsz: 21,
        output_bits: 40,
        levels: 3,
        table: Gpa(0x1_0000),
        hardware_access: false,
        hardware_dirty: false,
    };
    let pinned = PinnedMemory::new(&memory).unwrap();
    let context = Context::new(&registers);
    let read = Access {
        kind: AccessKind::Read,
        el0: false,
    };
    let mut seen: Vec<Reference> = Vec::new();
    let input = 0x1fff << 30 | 0x123;
    let found = arm::probe(&pinned, &context, input, read, &mut seen).unwrap();
    assert_eq!((found.address, found.inside_bits), (Gpa(0x5_5123), 12));
    assert_eq!(seen.len(), 3);
    let beyond = arm::probe(&pinned, &context, 1 << 43, read, &mut ()).unwrap_err();
    let fault = Fault {
        kind: FaultKind::Translation,
        level: 0,
    };
    assert_eq!(beyond, WalkError::Fault(fault));
}
