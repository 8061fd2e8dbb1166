//! Random paging structures in a small memory, from a seed.
#![expect(
    clippy::cast_possible_truncation,
    reason = "random numbers are cut to size"
)]

use guest_paging::x86::{self, Attributes, PageFault, Pdptes, Processor, Registers, Vendor};
use guest_paging::x86::{Context, Translation};
use guest_paging::{
    Gpa, Gva, Observer, PinnedMemory, Reference, SearchedMemory, TableMemory, Unbacked, WalkError,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::model::{Image, Mapped, Outcome, Question};

/// Two regions with a hole between them.
pub(crate) const REGIONS: [(u64, usize); 2] = [(0, 0x8000), (0x10_0000, 0x8000)];

/// Numbers that follow from a seed (`SplitMix64`, Steele et al. 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in `of_100` of 100 cases.
    pub(crate) fn chance(&mut self, of_100: u64) -> bool {
        self.below(100) < of_100
    }
}

/// A page that may hold a table; one in twenty lies where nothing is.
fn table_page(random: &mut Random) -> u64 {
    match random.below(20) {
        0 => random.next() & 0x000f_ffff_ffff_f000,
        n => {
            let (base, size) = REGIONS[(n % 2) as usize];
            base + random.below(size as u64 / 4096) * 4096
        }
    }
}

/// A 64-bit entry that is valid more often than not.
pub(crate) fn entry_64(random: &mut Random) -> u64 {
    let mut entry = table_page(random);
    for (bit, of_100) in [
        (0, 93),
        (1, 80),
        (2, 80),
        (5, 70),
        (6, 50),
        (7, 25),
        (8, 20),
        (63, 15),
    ] {
        entry |= u64::from(random.chance(of_100)) << bit;
    }
    if entry & 1 << 7 != 0 && random.chance(70) {
        // Most large pages are aligned, so that something is left of them.
        entry &= !0x3fff_e000;
    }
    entry |= (random.next() & random.next() & random.next()) & 0x0000_0000_0000_0e18;
    entry |= (random.next() & 15) << 59;
    if random.chance(4) {
        entry |= 1 << random.below(64);
    }
    entry
}

/// A 64-bit entry as PAE paging likes it: without protection key.
pub(crate) fn entry_pae(random: &mut Random) -> u64 {
    let mut entry = entry_64(random);
    if random.chance(96) {
        entry &= !(0x7ff << 52);
    }
    entry
}

/// A page-directory-pointer entry.
pub(crate) fn pdpte(random: &mut Random) -> u64 {
    let mut entry = table_page(random) & 0xf_ffff_ffff | u64::from(random.chance(95));
    if random.chance(5) {
        entry |= 1 << random.below(64);
    }
    entry
}

/// Puts page-directory-pointer entries at `at`, with only those bits that `allowed` has set: other
/// random entries make bad ones.
pub(crate) fn plant_pdptes(random: &mut Random, image: &mut Image, at: u64, allowed: u64) {
    let (base, bytes) = image.0.iter_mut().rfind(|(base, _)| *base <= at).unwrap();
    let offset = (at - *base) as usize;
    for pdpte in bytes[offset..offset + 32].chunks_exact_mut(8) {
        pdpte.copy_from_slice(&(self::pdpte(random) & allowed).to_le_bytes());
    }
}

/// A 32-bit entry, twice.
pub(crate) fn entries_32(random: &mut Random) -> u64 {
    let low = entry_64(random) & 0xffff_ffff;
    low | entry_64(random) << 32
}

/// The image of a memory full of entries of a kind.
pub(crate) fn image(random: &mut Random, entry: impl Fn(&mut Random) -> u64) -> Image {
    Image(
        REGIONS
            .iter()
            .map(|&(base, size)| {
                let entries = (0..size / 8).flat_map(|_| entry(random).to_le_bytes());
                (base, entries.collect())
            })
            .collect(),
    )
}

/// Paging registers of a mode, with everything else left to chance.
pub(crate) fn registers(random: &mut Random, cr4: u64, efer: u64) -> Registers {
    let (base, size) = REGIONS[random.below(2) as usize];
    let mut cr3 = base + random.below(size as u64 / 4096) * 4096;
    cr3 |= random.next() & 0xfff;
    let optional_cr4 = 1 << 4 | 1 << 7 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 24;
    Registers {
        cr0: 1 << 31 | 1 | (random.next() & 1 << 16),
        cr3,
        cr4: cr4 | random.next() & optional_cr4,
        efer: efer | if random.chance(80) { 1 << 11 } else { 0 },
        // Most keys allow most things.
        pkru: (random.next() & random.next()) as u32,
        pkrs: (random.next() & random.next()) as u32,
        pdptes: Pdptes::Memory,
    }
}

pub(crate) fn processor(random: &mut Random) -> Processor {
    Processor {
        vendor: if random.chance(50) {
            Vendor::Intel
        } else {
            Vendor::Amd
        },
        maxphyaddr: [36, 40, 46, 48, 52, 32][random.below(6) as usize],
        gib_pages: random.chance(70),
        pse36: random.chance(70),
    }
}

/// The image in a memory that can be walked.
pub(crate) fn memory(image: &Image) -> GuestMemoryMmap {
    let ranges: Vec<_> = image
        .0
        .iter()
        .map(|(base, bytes)| (GuestAddress(*base), bytes.len()))
        .collect();
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    store(&memory, image);
    memory
}

pub(crate) fn store(memory: &GuestMemoryMmap, image: &Image) {
    for (base, bytes) in &image.0 {
        memory.write_slice(bytes, GuestAddress(*base)).unwrap();
    }
}

/// What `memory` holds now, in the pieces of `like`.
pub(crate) fn read_back(memory: &GuestMemoryMmap, like: &Image) -> Image {
    let mut image = like.clone();
    for (base, bytes) in &mut image.0 {
        memory.read_slice(bytes, GuestAddress(*base)).unwrap();
    }
    image
}

/// The walker's result in the model's words.
pub(crate) fn outcome(walked: Result<Translation, WalkError<PageFault, Unbacked>>) -> Outcome {
    match walked {
        Ok(Translation {
            gpa,
            size,
            attributes,
            key,
        }) => Outcome::Mapped(Mapped {
            gpa: gpa.0,
            size: size.bytes(),
            writable: attributes.contains(Attributes::WRITE),
            user: attributes.contains(Attributes::USER),
            executable: attributes.contains(Attributes::EXECUTE),
            global: attributes.contains(Attributes::GLOBAL),
            dirty: attributes.contains(Attributes::DIRTY),
            key,
        }),
        Err(WalkError::Fault(fault)) => Outcome::PageFault {
            error_code: fault.error_code.bits(),
            cr2: fault.cr2.0,
        },
        Err(WalkError::Table { level, at, .. }) => Outcome::Absent { level, at: at.0 },
        Err(WalkError::Contended) => panic!("nobody else writes this memory"),
    }
}

/// The walker's answer to the model's question.
pub(crate) fn walk<M: TableMemory<Error = Unbacked>>(memory: &M, question: &Question) -> Outcome {
    walk_with(memory, question, &mut ())
}

fn walk_with<M, O>(memory: &M, question: &Question, observer: &mut O) -> Outcome
where
    M: TableMemory<Error = Unbacked>,
    O: Observer,
{
    let context = Context::new(&question.processor, &question.registers);
    let (gva, access) = (Gva(question.gva), question.access);
    outcome(if question.marking {
        x86::walk(memory, &context, gva, access, observer)
    } else {
        x86::probe(memory, &context, gva, access, observer)
    })
}

/// Asks walker and model the same and compares the answers and the memory afterwards: in each way
/// that the walker has to come to its answer.
///
/// # Panics
///
/// Panics with the question if they differ.
pub(crate) fn compare(memory: &GuestMemoryMmap, image: &mut Image, question: &Question) -> Outcome {
    let before = image.clone();
    let expected = question.answer(image);
    let mut seen: Vec<Reference> = Vec::new();
    let mut preferring = REGIONS.map(|_| PinnedMemory::new(memory).unwrap());
    for (pinned, (base, _)) in preferring.iter_mut().zip(REGIONS) {
        pinned.prefer(Gpa(base));
    }
    let [low, high] = preferring;
    let ways: [&mut dyn FnMut() -> Outcome; 4] = [
        &mut || walk(&low, question),
        &mut || walk(&high, question),
        &mut || walk(&SearchedMemory(memory), question),
        &mut || walk_with(&low, question, &mut seen),
    ];
    for (way, n) in ways.into_iter().zip(0..) {
        store(memory, &before);
        assert_eq!(way(), expected, "way {n}: {question:x?}");
        assert!(
            read_back(memory, image) == *image,
            "way {n}: flags differ after {question:x?}"
        );
    }
    expected
}
