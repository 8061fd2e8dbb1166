//! The walker against a slow model on random paging structures.

#![expect(
    clippy::cast_possible_truncation,
    reason = "random numbers are cut to size"
)]

use guest_paging::x86::{Access, Pdptes};
use proptest::prelude::*;
use support::arena::{self, Random};
use support::model::{Image, Outcome, Question};

mod support {
    pub(crate) mod arena;
    pub(crate) mod model;
}

/// What a run met, so that a test can tell that it has tested something.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    mapped: u32,
    not_present: u32,
    reserved: u32,
    denied: u32,
    absent: u32,
}

impl Met {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Mapped(_) => self.mapped += 1,
            Outcome::PageFault { error_code, .. } if error_code & 1 == 0 => self.not_present += 1,
            Outcome::PageFault { error_code, .. } if error_code & 8 != 0 => self.reserved += 1,
            Outcome::PageFault { .. } => self.denied += 1,
            Outcome::Absent { .. } => self.absent += 1,
        }
    }

    fn is_telling(&self) -> bool {
        let Self {
            mapped,
            not_present,
            reserved,
            denied,
            absent,
        } = *self;
        [mapped, not_present, reserved, denied, absent]
            .iter()
            .all(|&count| count >= 5)
    }
}

/// Asks `count` questions about one random arena.
fn run(seed: u64, cr4: u64, efer: u64, entry: fn(&mut Random) -> u64, count: u32) -> Met {
    let mut random = Random(seed);
    let mut image = arena::image(&mut random, entry);
    let memory = arena::memory(&image);
    let mut met = Met::default();
    for _ in 0..count {
        let question = question(&mut random, &mut image, cr4, efer);
        arena::store(&memory, &image);
        met.add(arena::compare(&memory, &mut image, &question));
    }
    met
}

fn question(random: &mut Random, image: &mut Image, cr4: u64, efer: u64) -> Question {
    let mut registers = arena::registers(random, cr4, efer);
    if cr4 & 1 << 5 != 0 && efer == 0 {
        arena::plant_pdptes(random, image, registers.cr3 & 0xffff_ffe0, u64::MAX);
        if random.chance(50) {
            registers.pdptes = Pdptes::Latched(std::array::from_fn(|_| arena::pdpte(random)));
        }
    }
    let access = Access::ALL[random.below(18) as usize];
    Question {
        processor: arena::processor(random),
        registers,
        gva: random.next(),
        access,
        marking: random.chance(80),
    }
}

const PAE: u64 = 1 << 5;
const LA57: u64 = 1 << 12;
const LMA: u64 = 1 << 10;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn legacy_paging_agrees_with_the_model(seed: u64) {
        run(seed, 0, 0, arena::entries_32, 50);
    }

    #[test]
    fn pae_paging_agrees_with_the_model(seed: u64) {
        run(seed, PAE, 0, arena::entry_pae, 50);
    }

    #[test]
    fn four_level_paging_agrees_with_the_model(seed: u64) {
        run(seed, PAE, LMA, arena::entry_64, 50);
    }

    #[test]
    fn five_level_paging_agrees_with_the_model(seed: u64) {
        run(seed, PAE | LA57, LMA, arena::entry_64, 50);
    }
}

#[test]
fn random_arenas_lead_to_every_outcome() {
    let legacy = run(1, 0, 0, arena::entries_32, 400);
    assert!(legacy.is_telling(), "{legacy:?}");
    let pae = run(2, PAE, 0, arena::entry_pae, 400);
    assert!(pae.is_telling(), "{pae:?}");
    let four = run(3, PAE, LMA, arena::entry_64, 400);
    assert!(four.is_telling(), "{four:?}");
    let five = run(4, PAE | LA57, LMA, arena::entry_64, 400);
    assert!(five.is_telling(), "{five:?}");
}
