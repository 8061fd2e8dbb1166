//! All interleavings of a small graph.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::vec;
use std::vec::Vec;

use super::check::Violation;
use super::world::{Setup, Step, World};

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// States in which nothing more can happen.
    pub ends: usize,
    /// Whether these are all.
    pub complete: bool,
}

/// Looks at every state that can be reached, up to this many. States are told apart by 64 bits of a hash.
///
/// # Errors
///
/// The first rule that was broken, with the steps that led there.
pub fn explore(setup: Setup, states_max: usize) -> Result<Explored, (Violation, Vec<Step>)> {
    let hasher = RandomState::new();
    let mut seen = HashSet::new();
    let mut explored = Explored::default();
    let mut trail = Vec::new();
    let first = World::new(setup);
    seen.insert(hasher.hash_one(&first));
    let mut stack = vec![(first.steps(), first)];
    while let Some((steps, world)) = stack.last_mut() {
        let Some(step) = steps.pop() else {
            stack.pop();
            trail.pop();
            continue;
        };
        let mut next = world.clone();
        trail.push(step);
        if let Err(violation) = next.step(step) {
            return Err((violation, trail));
        }
        if !seen.insert(hasher.hash_one(&next)) {
            trail.pop();
            continue;
        }
        let steps = next.steps();
        if steps.is_empty() {
            explored.ends += 1;
            if let Err(violation) = next.judge() {
                return Err((violation, trail));
            }
        }
        if seen.len() >= states_max {
            explored.states = seen.len();
            return Ok(explored);
        }
        stack.push((steps, next));
    }
    explored.states = seen.len();
    explored.complete = true;
    Ok(explored)
}
