//! What an entry costs three servers in one thread and in memory, beside raft-rs and, with its feature, openraft: CPU time,
//! allocations, messages.
//!
//! The two take turns; medians of five. The driver is the same for both: propose while less than a window of entries
//! waits, let each server do what it wants done, deliver every message. An argument is thousands of entries.

#[cfg(feature = "openraft")]
mod open_raft;
mod ours;
mod raft_rs;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system allocator's; the counters change nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on as they are.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` above, which is the system's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Three servers of which the first leads.
trait Cluster {
    fn new() -> Self;
    /// Proposes so many commands of so many bytes at once.
    fn propose(&mut self, count: u64, bytes: usize);
    /// Each server does what it wants done, and every message is delivered.
    fn turn(&mut self);
    /// Commands that the leader's state machine has run.
    fn applied(&self) -> u64;
    /// Messages sent so far.
    fn messages(&self) -> u64;
}

#[derive(Clone, Copy)]
struct Load {
    bytes: usize,
    batch: u64,
    window: u64,
}

#[derive(Clone, Copy)]
struct Cost {
    nanoseconds: f64,
    allocations: f64,
    bytes: f64,
    messages: f64,
}

fn main() {
    let argument = std::env::args().nth(1).and_then(|text| text.parse::<u64>().ok());
    if std::env::args().nth(2).is_some() {
        // For a profiler.
        let load = Load { bytes: 16, batch: 1, window: 1 };
        print("raft-log", load, &[measure::<ours::Cluster>(load, argument.unwrap_or(100) * 1_000)]);
        return;
    }
    let entries = argument.unwrap_or(100) * 1_000;
    let titles = ["CPU ns", "allocations", "bytes allocated", "messages"];
    let [time, allocations, bytes, messages] = titles;
    println!("{:<40} {time:>8} {allocations:>12} {bytes:>16} {messages:>9}   each per entry", "");
    for (bytes, batch, window) in [(16, 1, 1), (16, 1, 64), (16, 64, 1024), (1024, 1, 1), (1024, 64, 1024)] {
        let load = Load { bytes, batch, window };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            ours.push(measure::<ours::Cluster>(load, entries));
            theirs.push(measure::<raft_rs::Cluster>(load, entries));
        }
        let ours = print("raft-log", load, &ours);
        let theirs = print("raft-rs 0.7", load, &theirs);
        println!("{:<40} {:>7.2}x", "", ours / theirs);
        #[cfg(feature = "openraft")]
        println!("{:<40} {:>7.2}x", "", ours / print("openraft 0.10", load, &openraft(load, entries)));
    }
}

fn measure<C: Cluster>(load: Load, entries: u64) -> Cost {
    let mut cluster = C::new();
    let mut proposed = 0;
    let before = counters(&cluster);
    while cluster.applied() < entries {
        if proposed < entries && proposed - cluster.applied() < load.window {
            cluster.propose(load.batch, load.bytes);
            proposed += load.batch;
        }
        cluster.turn();
    }
    let after = counters(&cluster);
    let per = |counter: usize| (after[counter] - before[counter]) as f64 / entries as f64;
    Cost {
        nanoseconds: per(0),
        allocations: per(1),
        bytes: per(2),
        messages: per(3),
    }
}

/// Its driver is its own: tasks on one thread, a client for each entry of the window. It puts together what waits, and
/// counts no messages.
#[cfg(feature = "openraft")]
fn openraft(load: Load, entries: u64) -> Vec<Cost> {
    let cluster = open_raft::Cluster::new();
    let mut costs = Vec::new();
    for _ in 0..5 {
        let before = process();
        cluster.write(entries, load.bytes, load.window);
        let after = process();
        let per = |counter: usize| (after[counter] - before[counter]) as f64 / entries as f64;
        costs.push(Cost { nanoseconds: per(0), allocations: per(1), bytes: per(2), messages: f64::NAN });
    }
    costs
}

fn counters(cluster: &impl Cluster) -> [u64; 4] {
    let [nanoseconds, allocations, bytes] = process();
    [nanoseconds, allocations, bytes, cluster.messages()]
}

fn process() -> [u64; 3] {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanoseconds = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    [nanoseconds, read(&ALLOCATIONS), read(&BYTES)]
}

fn print(name: &str, load: Load, costs: &[Cost]) -> f64 {
    let median = |of: fn(&Cost) -> f64| {
        let mut all: Vec<_> = costs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let Load { bytes, batch, window } = load;
    let title = format!("{name}, {bytes} B, {batch} at once, window {window}");
    let time = median(|cost| cost.nanoseconds);
    println!(
        "{title:<40} {time:>8.0} {:>12.1} {:>16.0} {:>9.2}",
        median(|cost| cost.allocations),
        median(|cost| cost.bytes),
        median(|cost| cost.messages)
    );
    time
}
