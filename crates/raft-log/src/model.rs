//! Every order of events in a cluster of three, on this very code, within bounds.
//!
//! A timeout comes at any moment. A message comes at any later moment, any number of times, or never: the network forgets
//! nothing. A write reaches the disk at any later moment, and a crash loses any number of the last ones that have not.
//! After every event the rules of [`State::check`] are held to. States that differ only in what decides nothing (clocks,
//! random numbers, how writes are numbered) are one, and servers are named in the order in which they first stand for
//! election. Pre-votes and check-quorum are off: they only forbid elections, by the clock.

mod rules;
mod server;
mod state;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::hash::BuildHasherDefault;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, DefaultHasher, Hasher};

use state::Step;
pub use state::{Event, Packet, State};

/// How much may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Nobody stands for election beyond this term.
    pub terms: u64,
    /// Timeouts without a leader, each of which makes a candidate.
    pub elections: u64,
    /// Commands proposed, beside each leader's own entry.
    pub commands: u64,
    /// Reads asked for. They need heartbeats.
    pub reads: u64,
    /// Timeouts of leaders, each of which sends a heartbeat; with none, those that begin a term are lost too.
    pub heartbeats: u64,
    /// Crashes.
    pub crashes: u64,
    /// Writes reach the disk at any later moment, rather than at once.
    pub late_disks: bool,
    /// Which rule all servers break.
    #[cfg(feature = "mutation")]
    pub mutation: Option<crate::Mutation>,
}

impl Bounds {
    /// Terms up to this one with any candidates, and no more than they bring.
    pub const fn terms(terms: u64) -> Self {
        Self {
            terms,
            elections: u64::MAX,
            commands: 0,
            reads: 0,
            heartbeats: 0,
            crashes: 0,
            late_disks: false,
            #[cfg(feature = "mutation")]
            mutation: None,
        }
    }
}

/// What exploring found.
#[derive(Clone, Debug)]
pub struct Explored {
    /// States that differ, as far as they were seen.
    pub states: usize,
    /// Events tried.
    pub events: u64,
    /// The longest way without a state seen before.
    pub depth: usize,
    /// All states within the bounds were seen.
    pub complete: bool,
    /// The rule that was broken, and the way there.
    pub violation: Option<(String, Vec<Event>)>,
}

/// Goes through every state within `bounds`, up to the first broken rule or `states_max` states.
///
/// Of each state only 64 bits are kept: among 10^8, two are taken for one with a probability of 3 in 10,000.
pub fn explore(bounds: Bounds, states_max: usize) -> Explored {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let start = State::new(bounds);
    let mut seen = HashSet::with_hasher(BuildHasherDefault::<Already>::default());
    seen.insert(hasher.hash_one(&start));
    // What an event does to a server depends on nothing else, and comes up in many states.
    let mut steps = HashMap::<(u64, u64), Step>::new();
    let mut stack = vec![(start.events().into_iter(), start)];
    let mut path = Vec::new();
    let (mut events, mut depth) = (0, 0);
    let mut violation = None;
    while let Some((next_events, state)) = stack.last_mut() {
        let Some(event) = next_events.next() else {
            stack.pop();
            path.pop();
            continue;
        };
        events += 1;
        let step = steps.entry(state.cause(&event)).or_insert_with(|| {
            let known = state.known(event.server());
            known.step(&event, bounds)
        });
        let Some(next) = state.with(&event, step) else {
            continue;
        };
        if !seen.insert(hasher.hash_one(&next)) {
            continue;
        }
        path.push(event);
        depth = depth.max(path.len());
        if let Err(broken) = next.check() {
            violation = Some((broken, path));
            break;
        }
        if seen.len() >= states_max {
            break;
        }
        stack.push((next.events().into_iter(), next));
    }
    Explored {
        states: seen.len(),
        events,
        depth,
        complete: stack.is_empty(),
        violation,
    }
}

/// A hash is hashed already.
#[derive(Default)]
struct Already(u64);

impl Hasher for Already {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are kept");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
