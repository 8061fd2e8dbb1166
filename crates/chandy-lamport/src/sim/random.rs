//! Runs by chance.

use super::check::Violation;
use super::world::{Setup, Step, World};

/// Numbers from a seed (Steele, Lea and Flood 2014, `SplitMix64`).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// One below this, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.draw() % end).unwrap_or(0)
    }
}

/// Spreads the bits of a number.
pub(super) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// How likely each kind of step is, so that in some runs the queues are long.
#[derive(Clone, Debug)]
pub struct Schedule {
    weights: [usize; 9],
    random: Random,
}

impl Schedule {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut weights = [0; 9];
        for weight in &mut weights[..5] {
            *weight = [1, 4, 16, 64][random.below(4)];
        }
        weights[5] = 2;
        weights[6] = 1;
        weights[7] = 2;
        weights[8] = 1;
        Self { weights, random }
    }

    fn choose(&mut self, steps: &[Step]) -> Option<Step> {
        let weight = |step: &Step| self.weights[kind(*step)];
        let total = steps.iter().map(weight).sum();
        let mut left = self.random.below(total);
        for step in steps {
            let weight = self.weights[kind(*step)];
            if left < weight {
                return Some(*step);
            }
            left -= weight;
        }
        None
    }
}

fn kind(step: Step) -> usize {
    match step {
        Step::Emit(_) => 0,
        Step::Next(..) => 1,
        Step::Transmit(..) => 2,
        Step::Arrive(..) => 3,
        Step::Control(_) => 4,
        Step::Snapshot(_) => 5,
        Step::Abort => 6,
        Step::Wait => 7,
        Step::Crash => 8,
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Steps taken.
    pub steps: u64,
    /// Snapshots completed, of which each was consistent.
    pub completed: u64,
}

/// Runs to the end, choosing by chance.
///
/// # Errors
///
/// The first rule that was broken.
pub fn run(setup: Setup, seed: u64) -> Result<Outcome, Violation> {
    let mut schedule = Schedule::new(seed);
    let mut world = World::new(setup);
    for steps in 0..STEPS_MAX {
        let Some(step) = schedule.choose(&world.steps()) else {
            world.judge()?;
            return Ok(Outcome {
                steps,
                completed: world.completed,
            });
        };
        world.step(step)?;
    }
    Err(Violation::Endless)
}

const STEPS_MAX: u64 = 100_000;
