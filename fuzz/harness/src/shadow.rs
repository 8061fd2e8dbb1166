//! A guest that writes what it likes to its tables: after each step the shadow must keep its rules.

use arbitrary::{Result, Unstructured};
use guest_paging::shadow::{Config, RootPolicy, SyncPolicy, WritePolicy};
use shadow_world::{FRAMES, Mode, World};

#[path = "../../../crates/guest-paging/tests/support/shadow_world.rs"]
mod shadow_world;

/// Reads policies, then events, from `data`.
pub fn shadow(data: &[u8]) {
    // An input that ends early has said all that it had to say.
    let _ = run(&mut Unstructured::new(data));
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let roots = input.int_in_range(0..=3)?;
    let config = Config {
        roots: match roots {
            0 => RootPolicy::DiscardOnSwitch,
            count => RootPolicy::Cache(count),
        },
        sync: *input.choose(&[SyncPolicy::WriteProtect, SyncPolicy::OutOfSync])?,
        writes: *input.choose(&[WritePolicy::Zap, WritePolicy::Update])?,
        flood_writes: input.int_in_range(0..=4)?,
        large_pages: input.arbitrary()?,
        ..Config::new(FRAMES, input.int_in_range(16..=64)?)
    };
    let mut world = World::new(config, *input.choose(&Mode::ALL)?);
    for step in 0..STEPS_MAX {
        let mut next = || {
            // 4 bytes are as many as a number has meaning for.
            let number: u32 = (!input.is_empty()).then(|| input.arbitrary().ok())??;
            Some(number.into())
        };
        match world.step(&mut next) {
            None => break,
            Some(Ok(())) => {}
            Some(Err(violation)) => panic!("step {step}: {violation}"),
        }
    }
    Ok(())
}

const STEPS_MAX: u32 = 256;

#[cfg(test)]
mod tests {
    use super::shadow;

    #[test]
    fn smoke() {
        arbtest::arbtest(|input| {
            shadow(input.bytes(input.len())?);
            Ok(())
        })
        .budget_ms(1000);
    }
}
