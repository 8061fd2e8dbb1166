//! The shadow engine under random guests, with every policy.

use guest_paging::shadow::{Config, RootPolicy, SyncPolicy, WritePolicy};
use proptest::prelude::*;
use support::random::Random;
use support::shadow_world::{FRAMES, Met, Mode, World};

mod support {
    pub(crate) mod random;
    pub(crate) mod shadow_world;
}

fn config() -> impl Strategy<Value = Config> {
    let roots = prop_oneof![
        Just(RootPolicy::DiscardOnSwitch),
        (1..4_u16).prop_map(RootPolicy::Cache)
    ];
    let sync = prop_oneof![Just(SyncPolicy::WriteProtect), Just(SyncPolicy::OutOfSync)];
    let writes = prop_oneof![Just(WritePolicy::Zap), Just(WritePolicy::Update)];
    // With few tables they are given up all the time.
    let sizes = (16..80_u32, 0..4_u16, any::<bool>());
    (roots, sync, writes, sizes).prop_map(|(roots, sync, writes, sizes)| {
        let (tables_max, flood_writes, large_pages) = sizes;
        Config {
            roots,
            sync,
            writes,
            flood_writes,
            large_pages,
            ..Config::new(FRAMES, tables_max)
        }
    })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(Mode::ALL.as_slice())
}

fn run(config: Config, mode: Mode, seed: u64, steps: u32) -> World {
    let mut random = Random(seed);
    let mut world = World::new(config, mode);
    for step in 0..steps {
        let checked = world.step(&mut || Some(random.next())).expect("endless");
        if let Err(violation) = checked {
            panic!("step {step} of seed {seed}: {violation}");
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn a_shadow_grants_what_the_guest_does_and_no_more(config in config(), mode in mode(), seed: u64) {
        run(config, mode, seed, 200);
    }
}

#[test]
fn a_long_run_meets_everything() {
    for mode in Mode::ALL {
        meets_everything(mode);
    }
}

fn meets_everything(mode: Mode) {
    let world = run(
        Config {
            flood_writes: 3,
            roots: RootPolicy::Cache(4),
            ..Config::new(FRAMES, 24)
        },
        mode,
        1,
        20_000,
    );
    let Met {
        filled,
        faults,
        emulated,
        silent_writes,
        stale,
        large,
    } = world.met;
    let counters = *world.shadow.counters();
    for count in [filled, faults, emulated, silent_writes, stale, large] {
        assert!(count > 20, "{mode:?}: {:?}", world.met);
    }
    for count in [
        counters.unsyncs,
        counters.resyncs,
        counters.updates,
        counters.zaps,
        counters.splinters,
        counters.protections,
        counters.floods,
        counters.evictions,
        counters.root_hits,
        counters.root_misses,
    ] {
        assert!(count > 20, "{mode:?}: {counters:?}");
    }
}
