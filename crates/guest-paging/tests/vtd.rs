//! VT-d's second stage beside a slow model.

use guest_paging::nested::{Ground, Layer, Purpose, Stage, StageAccess, StageFault};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use guest_paging::vtd::{self, Capabilities, Context, Fault};
use guest_paging::x86::AccessKind;
use guest_paging::{Gpa, PinnedMemory, Reference, WalkError};
use proptest::prelude::*;
use support::random::Random;

mod support {
    pub(crate) mod random;
}

const PAGES: u64 = 32;

fn access(kind: AccessKind) -> StageAccess {
    StageAccess {
        kind,
        purpose: Purpose::Translated,
        user_address: false,
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Mapped(u64, u64),
    Fault(u8),
    Absent,
}

/// The walk in the order of VT-d 3.7.1 with the entries of 9.8, entry by entry, with the flags that it sets.
fn model(
    words: &mut [u64],
    capabilities: &Capabilities,
    root: u64,
    levels: u32,
    input: u64,
    write: bool,
) -> Outcome {
    if input >= 1 << (12 + 9 * levels) {
        return Outcome::Fault(4);
    }
    let denied = Outcome::Fault(if write { 5 } else { 6 });
    let (mut table, mut readable, mut writable) = (root, true, true);
    for level in (1..=levels).rev() {
        let shift = 3 + 9 * level;
        let word = usize::try_from(table / 8 + (input >> shift) % 512).unwrap();
        let Some(&entry) = words.get(word) else {
            return Outcome::Absent;
        };
        if entry & 3 == 0 {
            return denied;
        }
        let leaf = level == 1 || entry >> 7 & 1 == 1;
        let mut must_be_zero = ((1 << 52) - (1 << capabilities.haw)) | (1 << 62);
        if !leaf || !capabilities.snoop_control {
            must_be_zero |= 1 << 11;
        }
        if leaf && level > 1 {
            must_be_zero |= (1 << shift) - (1 << 12);
            let has = [false, false, capabilities.mib_pages, capabilities.gib_pages];
            if !has.get(level as usize).copied().unwrap_or(false) {
                must_be_zero |= 1 << 7;
            }
        }
        if entry & must_be_zero != 0 {
            return Outcome::Fault(0xc);
        }
        readable &= entry & 1 != 0;
        writable &= entry & 2 != 0;
        let flags = u64::from(capabilities.flags);
        if !leaf {
            words[word] |= flags << 8;
            table = entry & 0xf_ffff_ffff_f000;
            continue;
        }
        if !(if write { writable } else { readable }) {
            return denied;
        }
        words[word] |= flags << 8 | (flags & u64::from(write)) << 9;
        let inside = (1 << shift) - 1;
        return Outcome::Mapped(
            entry & 0xf_ffff_ffff_f000 & !inside | input & inside,
            inside + 1,
        );
    }
    unreachable!("level 1 is a leaf")
}

fn random_words(random: &mut Random) -> Vec<u64> {
    (0..PAGES * 512)
        .map(|_| {
            let mut entry = (random.next() % (PAGES + 1)) << 12 | random.next() & 0x300;
            entry |= [3, 3, 3, 3, 1, 2, 0][usize::try_from(random.next() % 7).unwrap()];
            match random.next() % 12 {
                0 => entry = entry & !0x3fff_f000 | 0x80,
                1 => entry |= 0x80,
                2 => entry |= 1 << (random.next() % 64),
                _ => {}
            }
            entry
        })
        .collect()
}

fn memory(words: &[u64]) -> GuestMemoryMmap {
    let size = words.len() * 8;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write_slice(&bytes, GuestAddress(0)).unwrap();
    memory
}

proptest! {
    #[test]
    fn the_walk_is_the_model(
        seed: u64,
        haw in 36..=52_u8,
        features: [bool; 4],
        levels in 3..=5_u8,
    ) {
        let [mib_pages, gib_pages, snoop_control, flags] = features;
        let capabilities = Capabilities { haw, mib_pages, gib_pages, snoop_control, flags };
        let mut random = Random(seed);
        let mut words = random_words(&mut random);
        let memory = memory(&words);
        let pinned = PinnedMemory::new(&memory).unwrap();
        for _ in 0..200 {
            let root = (random.next() % PAGES) << 12;
            let context = Context::new(&capabilities, Gpa(root), levels);
            let beyond = random.next().is_multiple_of(16);
            let input = random.next() >> (if beyond { 4 } else { 64 - 12 - 9 * levels });
            let write = random.next().is_multiple_of(2);
            let kind = if write { AccessKind::Write } else { AccessKind::Read };
            let expected = model(&mut words, &capabilities, root, levels.into(), input, write);
            let walked = vtd::walk(&pinned, &context, Gpa(input), access(kind), &mut ());
            let found = match walked {
                Ok(found) => Outcome::Mapped(found.address.0, found.size.bytes()),
                Err(WalkError::Fault(fault)) => Outcome::Fault(fault.reason()),
                Err(_) => Outcome::Absent,
            };
            prop_assert_eq!(found, expected);
        }
        let mut bytes = vec![0; words.len() * 8];
        memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        let held = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        prop_assert!(held.eq(words), "flags differ");
    }
}

#[test]
fn it_is_a_stage_like_any_other() {
    let mut words = vec![0; 8 * 512];
    for (word, entry) in [(512, 0x2003), (1024, 0x3003), (1536, 0x7001)] {
        words[word] = entry;
    }
    let memory = memory(&words);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let capabilities = Capabilities {
        haw: 40,
        mib_pages: true,
        gib_pages: true,
        snoop_control: true,
        flags: false,
    };
    let context = Context::new(&capabilities, Gpa(0x1000), 3);
    let stage = Stage::new(1, &context, Ground::new(&pinned, 1), ());
    let read = stage.descend(Gpa(0x123), access(AccessKind::Read));
    assert_eq!(read, Ok(Gpa(0x7123)));
    let write = stage
        .descend(Gpa(0x123), access(AccessKind::Write))
        .unwrap_err();
    let denied = guest_paging::nested::Cause::Stage(StageFault::Vtd(Fault::WriteDenied));
    assert_eq!(write.cause, denied);
    let mut seen: Vec<Reference> = Vec::new();
    vtd::probe(
        &pinned,
        &context,
        Gpa(0x123),
        access(AccessKind::Read),
        &mut seen,
    )
    .unwrap();
    assert_eq!(seen.len(), 3);
}
