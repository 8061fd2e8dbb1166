//! A whole cluster in one thread, driven by one seed: network, clocks, crashes, disks, clients.
//!
//! After every step the invariants of the paper's figure 3 are checked, along with durability of every promise; at the
//! end the faults stop, the cluster must recover, and what the clients saw must be linearizable. [`shrink`] reduces a
//! scenario that fails.

mod bytes;
mod clients;
mod cluster;
mod disk;
mod invariants;
mod machine;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::rng::Rng;

/// One thing that goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Messages are lost.
    Lose,
    /// Messages arrive twice.
    Repeat,
    /// Messages take up to 20 times as long, and overtake each other.
    Delay,
    /// The network splits, in both directions or in one.
    Part,
    /// Servers stop and start again; what their disks had not confirmed is there or not.
    Crash,
    /// Servers stand still for a while and then go on with what arrived meanwhile.
    Pause,
    /// Clocks run up to 9 % too fast or too slow.
    Drift,
    /// Disks take up to several election timeouts.
    SlowDisk,
    /// An entry that a stopped server had acknowledged is unreadable when it starts.
    Rot,
    /// Members are replaced.
    Reconfigure,
    /// Leadership is handed over.
    Transfer,
    /// Logs are compacted, with few entries kept, so that snapshots are sent.
    Compact,
}

/// All of them.
pub const FAULTS: [Fault; 12] = [
    Fault::Lose,
    Fault::Repeat,
    Fault::Delay,
    Fault::Part,
    Fault::Crash,
    Fault::Pause,
    Fault::Drift,
    Fault::SlowDisk,
    Fault::Rot,
    Fault::Reconfigure,
    Fault::Transfer,
    Fault::Compact,
];

/// A run, determined entirely by these values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scenario {
    /// Where all chance comes from.
    pub seed: u64,
    /// Servers at the start, 1 to 7.
    pub servers: u64,
    /// One of them is a witness.
    pub witness: bool,
    /// Reads use leases.
    pub lease: bool,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Disks are bytes under a [`Wal`](crate::wal::Wal), which crashes tear and rot flips, loses and overwrites.
    pub bytes: bool,
    /// How long faults last, in milliseconds of the simulated world.
    pub duration: u64,
    /// Which rule all servers break.
    #[cfg(feature = "mutation")]
    pub mutation: Option<crate::Mutation>,
}

impl Scenario {
    /// Draws a scenario: a random half of the faults, so that each also happens without the others.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let servers = [3, 3, 3, 5, 2, 4, 1][usize::try_from(rng.below(7)).unwrap_or(0)];
        Self {
            seed,
            servers,
            witness: servers > 2 && rng.below(6) == 0,
            lease: rng.below(3) == 0,
            faults: FAULTS.into_iter().filter(|_| rng.below(2) == 0).collect(),
            bytes: false,
            duration: 4_000 + rng.below(8_000),
            #[cfg(feature = "mutation")]
            mutation: None,
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Calls of servers' methods.
    pub steps: u64,
    /// Entries committed.
    pub committed: u64,
    /// Operations that clients were answered.
    pub answered: u64,
    /// The first thing that should not have happened.
    pub violation: Option<Violation>,
}

/// Something that should not have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When, in milliseconds.
    pub at: u64,
    /// What.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} ms: {}", self.at, self.what)
    }
}

/// Runs a scenario to its end or to the first violation.
pub fn run(scenario: &Scenario) -> Outcome {
    cluster::Cluster::new(scenario).run(&mut |_| {})
}

/// The same, telling `trace` every event in the order in which they happen.
pub fn run_traced(scenario: &Scenario, trace: &mut dyn FnMut(fmt::Arguments<'_>)) -> Outcome {
    cluster::Cluster::new(scenario).run(trace)
}

/// Makes a failing scenario smaller in servers, faults and time while it fails in whatever way; one that does not fail
/// stays as it is.
pub fn shrink(scenario: &Scenario) -> Scenario {
    let mut best = scenario.clone();
    let Some(violation) = run(&best).violation else {
        return best;
    };
    best.duration = best.duration.min(violation.at + 1);
    if run(&best).violation.is_none() {
        best.duration = scenario.duration;
    }
    while let Some(smaller) = smaller(&best)
        .into_iter()
        .find(|smaller| run(smaller).violation.is_some())
    {
        best = smaller;
    }
    best
}

fn smaller(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    for place in 0..scenario.faults.len() {
        let mut less = scenario.clone();
        less.faults.remove(place);
        all.push(less);
    }
    let mut less = scenario.clone();
    less.witness = false;
    all.push(less.clone());
    less.servers = scenario.servers.saturating_sub(1).max(1);
    all.push(less.clone());
    less = scenario.clone();
    less.bytes = false;
    all.push(less.clone());
    less = scenario.clone();
    less.lease = false;
    all.push(less.clone());
    less = scenario.clone();
    less.duration = scenario.duration / 2;
    all.push(less);
    all.retain(|less| less != scenario);
    all
}
