//! What one election timeout costs.

use anyhow::Result;

use crate::chance::Chance;
use crate::world::{Surroundings, World};

/// How often something goes wrong, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Troubles {
    /// From one crash of a leader to the next.
    pub(crate) crash_every: u64,
    /// From one pause of a server to its next, on average.
    pub(crate) pause_every: u64,
    /// How long a pause is: exponential, with this mean.
    pub(crate) pause: u64,
}

/// How much is simulated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Calls of servers' methods while nobody crashes.
    pub(crate) steps: u64,
    /// Crashes of leaders, pauses of leaders, pauses of others.
    pub(crate) crashes: u64,
    pub(crate) seed: u64,
}

/// What was found of one timeout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    /// In microseconds, as all times.
    pub(crate) timeout: u64,
    /// Elections in a minute, but for those after crashes.
    pub(crate) elections: f64,
    /// The part of the time without a leader, but for that after crashes.
    pub(crate) disturbed: f64,
    /// From a leader's crash until there is another, on average.
    pub(crate) outage: f64,
    /// The part of the time without a leader in all.
    pub(crate) unavailable: f64,
}

const MINUTE: f64 = 60e6;

/// What happens often is simulated for a while; what happens rarely, each time by itself, and weighed by how often it does.
///
/// A leader counts from when it has committed an entry until another term begins or it crashes. That a leader stands still
/// counts only if it costs it its term: the pause itself is no timeout's doing.
pub(crate) fn point(
    around: Surroundings,
    timeout: u64,
    troubles: Troubles,
    effort: Effort,
) -> Result<Point> {
    let (mut disturbed, mut elections) = calm(around, timeout, effort)?;
    let others = (around.servers - 1) as f64;
    for (leader, servers) in [(true, 1.0), (false, others)] {
        let paused = pauses(around, timeout, troubles, effort, leader)?;
        let rate = servers / troubles.pause_every as f64;
        disturbed += paused.0 * rate;
        elections += paused.1 * rate * MINUTE;
    }
    let disturbed = disturbed.min(1.0);
    let mut outages = 0.0;
    for number in 0..effort.crashes {
        outages += outage(around, timeout, effort.seed ^ (number + 1) << 32)?;
    }
    let outage = outages / effort.crashes as f64;
    let crashed = outage / (outage + troubles.crash_every as f64);
    Ok(Point {
        timeout,
        elections,
        disturbed,
        outage,
        unavailable: disturbed + (1.0 - disturbed) * crashed,
    })
}

/// Time without a leader and elections of one pause, on average.
///
/// Pauses below half of the timeout go unnoticed, as heartbeats are five times as frequent. The others are that long and
/// an exponential time more, for such times have no memory; they are as much rarer.
fn pauses(
    around: Surroundings,
    timeout: u64,
    troubles: Troubles,
    effort: Effort,
    leader: bool,
) -> Result<(f64, f64)> {
    let least = timeout / 2;
    let weight = (-(least as f64) / troubles.pause as f64).exp() / effort.crashes as f64;
    if weight < 1e-12 {
        return Ok((0.0, 0.0));
    }
    let (mut without, mut elections) = (0.0, 0.0);
    for number in 0..effort.crashes {
        let seed = effort.seed ^ (number + 1) << 32;
        let mut chance = Chance(!seed);
        let mut world = led(around, timeout, chance.next())?;
        let (term, steps) = (world.term, world.steps + STEPS_MAX);
        world.pause(leader, least + chance.exponential(troubles.pause));
        // Until all is as before, and has been for a while.
        let mut settled = world.resume;
        while world.steps < steps && world.now < settled.max(world.resume) + 5 * timeout {
            let led = world.leader.is_some();
            let passed = world.step()?;
            if !led {
                without += passed as f64;
                settled = world.now;
            }
        }
        elections += (world.term - term) as f64;
    }
    Ok((without * weight, elections * weight))
}

fn calm(around: Surroundings, timeout: u64, effort: Effort) -> Result<(f64, f64)> {
    let mut world = World::new(around, timeout, effort.seed)?;
    // The first election is not what is asked for.
    while world.leader.is_none() && world.steps < effort.steps / 10 {
        world.step()?;
    }
    let (began, term, steps) = (world.now, world.term, world.steps + effort.steps);
    let mut without = 0;
    while world.steps < steps {
        let led = world.leader.is_some();
        let passed = world.step()?;
        without += if led { 0 } else { passed };
    }
    let passed = (world.now - began) as f64;
    let elections = (world.term - term) as f64;
    Ok((without as f64 / passed, elections / passed * MINUTE))
}

/// Steps after which an outage is taken to last on.
const STEPS_MAX: u64 = 20_000;

fn outage(around: Surroundings, timeout: u64, seed: u64) -> Result<f64> {
    let mut world = led(around, timeout, seed)?;
    let crashed = world.now;
    world.crash_leader();
    let steps = world.steps + STEPS_MAX;
    while world.leader.is_none() && world.steps < steps {
        world.step()?;
    }
    Ok((world.now - crashed) as f64)
}

/// A cluster that has a leader, at any moment between two heartbeats.
fn led(around: Surroundings, timeout: u64, seed: u64) -> Result<World> {
    let mut world = World::new(around, timeout, seed)?;
    while world.leader.is_none() && world.steps < STEPS_MAX {
        world.step()?;
    }
    let moment = world.now + timeout + Chance(seed).below(timeout);
    while (world.now < moment || world.leader.is_none()) && world.steps < 2 * STEPS_MAX {
        world.step()?;
    }
    Ok(world)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAN: Surroundings = Surroundings {
        servers: 5,
        delay: 200,
        jitter: 300,
        slow_one_in: 1_000,
        slow: 20_000,
        disk: 300,
        restart: 30_000_000,
        plain: false,
    };

    #[test]
    fn a_crash_costs_between_one_and_two_timeouts_and_an_election() {
        for timeout in [500_000, 30 * 86_400_000_000] {
            for seed in 1..50 {
                let outage = outage(LAN, timeout, seed << 32).unwrap();
                let timeouts = outage / timeout as f64;
                // The last heartbeat may have been a fifth of a timeout ago.
                assert!((0.79..2.1).contains(&timeouts), "{timeouts}");
            }
        }
    }

    #[test]
    fn a_pause_deposes_the_leader_under_short_timeouts_only() {
        let troubles = Troubles {
            crash_every: 1,
            pause_every: 1,
            pause: 20_000,
        };
        let effort = Effort {
            steps: 1,
            crashes: 20,
            seed: 1,
        };
        let of = |timeout, leader| pauses(LAN, timeout, troubles, effort, leader).unwrap();
        assert!(of(2_000, true).1 > 0.5);
        assert!(of(1_000_000, true).1 < 1e-9);
        // Pre-vote: a follower that has slept does not disturb a leader that others hear.
        assert!(of(50_000, false).1 < 0.1);
    }
}
