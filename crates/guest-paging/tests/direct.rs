//! Direct paging: no guest gets a writable table or another's frame.

use std::cell::Cell;

use guest_paging::direct::{BatchError, Direct, FrameType, Refusal, Update};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use guest_paging::{Gva, Hpa, PinnedMemory, direct};
use proptest::prelude::*;
use support::random::Random;

mod support {
    pub(crate) mod random;
}

const FRAMES: u32 = 32;
const FIRST: u64 = 16;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 12)]).unwrap()
}

fn store(memory: &GuestMemoryMmap, frame: u64, slot: u64, entry: u64) {
    memory
        .write_obj(entry, GuestAddress((frame << 12) + slot * 8))
        .unwrap();
}

fn update(frame: u64, slot: u64, entry: u64) -> Update {
    Update {
        at: Hpa((frame << 12) + slot * 8),
        entry,
    }
}

/// Frames 16 to 19 as tables of levels 4 to 1, which map 19 read-only and 20 writable.
fn laid_out(memory: &GuestMemoryMmap) {
    for (frame, entry) in [(16, 0x1_1007), (17, 0x1_2007), (18, 0x1_3007)] {
        store(memory, frame, 0, entry);
    }
    store(memory, 19, 0, 0x1_3005);
    store(memory, 19, 1, 0x1_4007);
}

#[test]
fn a_root_types_all_that_it_reaches() {
    let memory = memory();
    laid_out(&memory);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let mut direct = Direct::new(FIRST, FRAMES, 256..512, || {});
    direct.load_root(&pinned, 16).unwrap();
    for (frame, level) in [(16, 4), (17, 3), (18, 2), (19, 1)] {
        assert_eq!(direct.frame_type(frame), FrameType::Table(level));
        assert_eq!(direct.references(frame), 1);
    }
    assert_eq!(direct.frame_type(20), FrameType::Writable);
    assert_eq!(direct.counters().validated_entries, 4 * 512);
    direct.check(&pinned).unwrap();
    let leaf = direct::leaf_entry(&pinned, 16, Gva(0x1234));
    assert_eq!(leaf, Some(Hpa(0x1_3008)));
}

#[test]
fn what_the_guest_must_not_have_is_refused() {
    let memory = memory();
    laid_out(&memory);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let mut direct = Direct::new(FIRST, FRAMES, 256..512, || {});
    direct.load_root(&pinned, 16).unwrap();
    let (table, writable) = (FrameType::Table(1), FrameType::Writable);
    let in_use = |frame, found, wanted| Refusal::InUse {
        frame,
        found,
        wanted,
    };
    for (wrong, refusal) in [
        (update(19, 2, 0x1_3007), in_use(19, table, writable)),
        (update(18, 1, 0x1_4007), in_use(20, writable, table)),
        (
            update(18, 1, 0x1_0007),
            in_use(16, FrameType::Table(4), table),
        ),
        (update(19, 2, 0xf007), Refusal::Foreign(15)),
        (update(19, 2, 0x3_0007), Refusal::Foreign(48)),
        (update(18, 1, 0x1_6087), Refusal::BadEntry(0x1_6087)),
        (update(20, 0, 0), Refusal::NotATable(Hpa(0x1_4000))),
        (update(16, 300, 0x1_1007), Refusal::Reserved(300)),
    ] {
        let outcome = direct.mmu_update(&pinned, &[update(19, 3, 0x1_5007), wrong]);
        assert_eq!(outcome, Err(BatchError { done: 1, refusal }));
        direct.check(&pinned).unwrap();
    }
    let misaligned = Update {
        at: Hpa(0x1_3001),
        entry: 0,
    };
    let outcome = direct.mmu_update(&pinned, &[misaligned]);
    let refusal = Refusal::Misaligned(Hpa(0x1_3001));
    assert_eq!(outcome, Err(BatchError { done: 0, refusal }));
}

#[test]
fn a_refused_validation_leaves_nothing_behind() {
    let memory = memory();
    laid_out(&memory);
    // The last entry of all is wrong.
    store(&memory, 19, 511, 0x1_3007);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let mut direct = Direct::new(FIRST, FRAMES, 256..512, || {});
    assert!(direct.load_root(&pinned, 16).is_err());
    for frame in 16..24 {
        assert_eq!(direct.frame_type(frame), FrameType::None, "{frame}");
    }
    direct.check(&pinned).unwrap();
}

#[test]
fn a_frame_changes_its_type_only_after_a_flush() {
    let memory = memory();
    laid_out(&memory);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let flushes = Cell::new(0);
    let flush = || flushes.set(flushes.get() + 1);
    let mut direct = Direct::new(FIRST, FRAMES, 256..512, flush);
    direct.load_root(&pinned, 16).unwrap();
    assert_eq!(flushes.get(), 0, "new frames are in no TLB");
    direct.mmu_update(&pinned, &[update(19, 1, 0)]).unwrap();
    direct.pin(&pinned, 20, 1).unwrap();
    assert_eq!(flushes.get(), 1);
    direct.unpin(&pinned, 20).unwrap();
    assert_eq!(direct.unpin(&pinned, 20), Err(Refusal::NotPinned(20)));
    direct
        .mmu_update(&pinned, &[update(19, 1, 0x1_4007)])
        .unwrap();
    assert_eq!(flushes.get(), 2, "a cached PDE may still lead there");
}

#[test]
fn an_entry_written_behind_its_back_is_found() {
    let memory = memory();
    laid_out(&memory);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let mut direct = Direct::new(FIRST, FRAMES, 256..512, || {});
    direct.load_root(&pinned, 16).unwrap();
    store(&memory, 19, 2, 0x1_3007);
    assert_eq!(direct.check(&pinned), Err(19));
}

#[test]
fn two_thousand_frames_take_less_than_20_kb() {
    let direct = Direct::new(0, 2048, 256..512, || {});
    assert!(direct.state_bytes() < 20_000, "{}", direct.state_bytes());
}

fn random_entry(random: &mut Random) -> u64 {
    let frame = 14 + random.next() % 36;
    let flags = random.next() & random.next() & 0xfff | random.next() & 7;
    frame << 12 | flags | u64::from(!random.next().is_multiple_of(4))
}

proptest! {
    #[test]
    fn types_and_counts_are_those_of_the_tables(seed: u64) {
        let mut random = Random(seed);
        let memory = memory();
        laid_out(&memory);
        let pinned = PinnedMemory::new(&memory).unwrap();
        let mut direct = Direct::new(FIRST, FRAMES, 256..512, || {});
        for _ in 0..60 {
            let frame = FIRST - 1 + random.next() % 12;
            match random.next() % 8 {
                0 => _ = direct.load_root(&pinned, frame),
                1 => {
 let level = u8::try_from(1 + random.next() % 4).unwrap();
 _ = direct.pin(&pinned, frame, level);
}
                2 => _ = direct.unpin(&pinned, frame),
                3 => {
                    // The guest writes to a page as it may, if that is no table.
                    if !matches!(direct.frame_type(frame), FrameType::Table(_)) {
                        store(&memory, frame, random.next() % 3, random_entry(&mut random));
                    }
                }
                _ => {
                    let updates = [0; 3].map(|_| {
                        let frame = FIRST + random.next() % 6;
                        update(frame, random.next() % 3, random_entry(&mut random))
                    });
                    _ = direct.mmu_update(&pinned, &updates);
                }
            }
            prop_assert_eq!(direct.check(&pinned), Ok(()));
        }
    }
}
