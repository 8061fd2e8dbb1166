//! The checker finds a bug planted in each step.

use super::engine::Step;
use super::{Config, Violation};
use random::Random;
use world::{FRAMES, Mode, World};

#[path = "../../tests/support/random.rs"]
mod random;
#[path = "../../tests/support/shadow_world.rs"]
mod world;

/// Runs until a check fails; a panic of the world's own checks counts too.
fn finds(step: Step, mode: Mode, config: Config) -> bool {
    (0..RUNS_MAX).any(|seed| {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(config, mode);
            world.shadow.omitted = Some(step);
            run(&mut world, seed)
        });
        !matches!(outcome, Ok(Ok(())))
    })
}

fn run(world: &mut World, seed: u64) -> Result<(), Violation> {
    let mut random = Random(seed);
    for _ in 0..STEPS {
        world.step(&mut || Some(random.next())).expect("endless")?;
    }
    Ok(())
}

#[test]
fn a_bug_planted_in_each_step_is_found() {
    let steps = [
        Step::ProtectNewTable,
        Step::ProtectFill,
        Step::DirtyBeforeWritable,
        Step::AccessedBeforePresent,
        Step::RefreshWritten,
        Step::FreeOrphan,
        Step::ResyncOnSwitch,
        Step::ResyncOnInvlpg,
        Step::ResyncOnLink,
        Step::SplinterProtected,
        Step::HideTraced,
        Step::RightsOfTables,
        Step::ForgetMoved,
    ];
    for mode in Mode::ALL {
        for step in steps {
            assert!(
                finds(step, mode, Config::new(FRAMES, 64)),
                "{step:?} {mode:?}"
            );
        }
    }
    let of_one_mode = [
        (Step::ReloadPdptes, Mode::Pae),
        (Step::FollowBothHalves, Mode::Legacy),
    ];
    for (step, mode) in of_one_mode {
        assert!(finds(step, mode, Config::new(FRAMES, 64)), "{step:?}");
    }
}

#[test]
fn nothing_is_found_where_nothing_is_planted() {
    for mode in Mode::ALL {
        let mut stale = 0;
        for seed in 0..RUNS {
            let mut world = World::new(Config::new(FRAMES, 64), mode);
            run(&mut world, seed).unwrap();
            stale += world.met.stale;
        }
        assert!(stale > 100, "{mode:?}: the TLB was never behind: {stale}");
    }
}

/// Where nothing is planted.
const RUNS: u64 = 200;
/// Some bugs need a rare order of events.
const RUNS_MAX: u64 = 4000;
const STEPS: u32 = 300;
