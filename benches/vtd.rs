//! What does a translation that an IOTLB answers cost, beside vm-memory's own IOTLB, and does it stay so as
//! entries grow? What do a miss, an invalidation and a remapped interrupt cost?
//!
//! All are measured in turns in one run, in an order of pages that no prefetcher follows. The floor is one
//! load at a random place of an array as large as the entries.
#![expect(clippy::print_stdout, reason = "a bench reports")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use benches::Pages;
use vm_memory::iommu::Iotlb as Peer;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, Permissions};
use vtd::iotlb::{Entry, Iotlb, Kind, Rights, Space};
use vtd::{AccessKind, Capabilities, Iova, Request, SourceId, Unit, registers};

/// Counts allocations.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system allocator's; the counter changes nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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

/// Look-ups in one measurement.
const LOOKUPS: u64 = 4096;
const SPACE: Space = Space {
    domain: 1,
    pasid: 0,
    kind: Kind::Second,
};
const NIC: SourceId = SourceId::new(0, 2, 0);

fn main() {
    let test = std::env::args().any(|argument| argument == "--test");
    let rounds = if test { 1 } else { 201 };
    lookups(rounds);
    unit(rounds);
}

/// Where a page leads: never beside where its neighbour does, or vm-memory would merge the two.
fn target(page: u64) -> u64 {
    (page ^ 1) << 12 | 1 << 40
}

fn lookups(rounds: usize) {
    println!("look-up of a cached page, ns: best (median) of {rounds} rounds");
    println!("   pages            floor        ours, serial         ours      vm-memory   x best");
    for pages in [64, 4096, 32_768, 262_144_u64] {
        let mut ours = Iotlb::new(1 << 18, 16);
        if pages <= 2048 {
            ours = Iotlb::new(4096, 16);
        }
        let mut peer = Peer::new();
        for page in 0..pages {
            let entry = Entry {
                page: target(page),
                inside_bits: 12,
                rights: Rights::READ | Rights::WRITE,
            };
            ours.insert(SPACE, page << 12, entry);
            let (iova, to) = (GuestAddress(page << 12), GuestAddress(target(page)));
            peer.set_mapping(iova, to, 0x1000, Permissions::ReadWrite)
                .unwrap();
        }
        let words: Vec<[u64; 2]> = vec![[black_box(1); 2]; usize::try_from(pages).unwrap()];
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..rounds {
            times[0].push(time(LOOKUPS, || floor(&words, pages)));
            times[1].push(time(LOOKUPS, || serial(&mut ours, pages)));
            times[2].push(time(LOOKUPS, || independent(&mut ours, pages)));
            times[3].push(time(LOOKUPS, || through_peer(&peer, pages)));
        }
        let [floor, serial, ours, peer] = times.map(best_and_median);
        println!(
            "{pages:8}  {:6.2} ({:6.2})  {:6.2} ({:6.2})  {:6.2} ({:6.2})  {:6.1} ({:6.1})  {:5.1}",
            floor.0,
            floor.1,
            serial.0,
            serial.1,
            ours.0,
            ours.1,
            peer.0,
            peer.1,
            peer.0 / ours.0
        );
    }
}

fn floor(words: &[[u64; 2]], pages: u64) -> u64 {
    let mut order = Pages::new(pages);
    let mut sum = 0_u64;
    for _ in 0..LOOKUPS {
        let [tag, value] = words[usize::try_from(order.draw()).unwrap()];
        sum = sum.wrapping_add(tag ^ value);
    }
    sum
}

fn independent(iotlb: &mut Iotlb, pages: u64) -> u64 {
    let mut order = Pages::new(pages);
    let mut sum = 0_u64;
    for _ in 0..LOOKUPS {
        let iova = order.draw() << 12;
        let found = iotlb.lookup(SPACE, iova);
        sum = sum.wrapping_add(found.map_or(0, |entry| entry.translate(iova)));
    }
    sum
}

/// Each address needs the answer before.
fn serial(iotlb: &mut Iotlb, pages: u64) -> u64 {
    let mut order = Pages::new(pages);
    let mut last = 0;
    for _ in 0..LOOKUPS {
        let iova = (order.draw() << 12) + (last >> 63);
        let found = iotlb.lookup(SPACE, iova);
        last = found.map_or(0, |entry| entry.translate(iova));
    }
    last
}

fn through_peer(iotlb: &Peer, pages: u64) -> u64 {
    let mut order = Pages::new(pages);
    let mut sum = 0_u64;
    for _ in 0..LOOKUPS {
        let iova = GuestAddress(order.draw() << 12);
        let found = Peer::lookup(iotlb, iova, 64, Permissions::Read);
        let first = found.ok().and_then(|mut ranges| ranges.next());
        sum = sum.wrapping_add(first.map_or(0, |range| range.base.0));
    }
    sum
}

/// A unit with 4-level tables for `PAGES` pages.
struct Machine {
    unit: Unit,
    memory: GuestMemoryMmap,
}

const PAGES: u64 = 1024;

impl Machine {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let poke = |at, word: u64| memory.write_obj(word, GuestAddress(at)).unwrap();
        for (at, word) in [(0x1000, 0x2001), (0x2100, 0x3001), (0x2108, 0x102)] {
            poke(at, word);
        }
        for (at, word) in [
            (0x3000, 0x4003),
            (0x4000, 0x5003),
            (0x5000, 0x6003),
            (0x5008, 0x7003),
        ] {
            poke(at, word);
        }
        for page in 0..PAGES {
            poke(0x6000 + 8 * page, page << 12 | 3);
        }
        // An interrupt entry: vector 0x41, for 00:02.0 alone; a posted one.
        for (at, word) in [(0x8000, 0x41_0001), (0x8008, 1 << 18 | 0x10)] {
            poke(at, word);
        }
        for (at, word) in [(0x8010, 0x9000 << 32 | 0x41_8001), (0x8018, 0)] {
            poke(at, word);
        }
        let mut unit = Unit::new(Capabilities::scalable());
        unit.write(&memory, registers::RTADDR, &0x1000_u64.to_le_bytes());
        unit.write(&memory, registers::GCMD, &registers::SRTP.to_le_bytes());
        unit.write(&memory, registers::IRTA, &0x8807_u64.to_le_bytes());
        unit.write(&memory, registers::GCMD, &registers::SIRTP.to_le_bytes());
        let on = registers::TE | registers::IRE;
        unit.write(&memory, registers::GCMD, &on.to_le_bytes());
        Self { unit, memory }
    }

    fn translate(&mut self, pages: &mut Pages) -> u64 {
        let address = Iova(pages.draw() << 12);
        let request = Request::new(NIC, address, AccessKind::Read);
        self.unit.translate(&self.memory, &request).unwrap().address
    }

    fn hits(&mut self) -> u64 {
        let mut pages = Pages::new(PAGES);
        (0..LOOKUPS).fold(0, |sum, _| sum ^ self.translate(&mut pages))
    }

    /// Every one walks, for all is invalidated before.
    fn misses(&mut self) -> u64 {
        let mut pages = Pages::new(PAGES);
        let invalidate = (registers::IVT | 1 << 60).to_le_bytes();
        (0..LOOKUPS).fold(0, |sum, _| {
            self.unit.write(&self.memory, registers::IOTLB, &invalidate);
            sum ^ self.translate(&mut pages)
        })
    }

    /// Page-selective, of 2^`mask` pages.
    fn invalidations(&mut self, mask: u64) -> u64 {
        let mut pages = Pages::new(PAGES);
        let invalidate = (registers::IVT | 3 << 60 | 1 << 32).to_le_bytes();
        for _ in 0..LOOKUPS {
            let address = (pages.draw() << 12 | mask).to_le_bytes();
            self.unit.write(&self.memory, registers::IVA, &address);
            self.unit.write(&self.memory, registers::IOTLB, &invalidate);
        }
        0
    }

    /// The first throws away all pages; the time is the same however many they are.
    fn domain_invalidations(&mut self) -> u64 {
        let invalidate = (registers::IVT | 2 << 60 | 1 << 32).to_le_bytes();
        for _ in 0..LOOKUPS {
            self.unit.write(&self.memory, registers::IOTLB, &invalidate);
        }
        0
    }

    fn interrupts(&mut self, index: u64) -> u64 {
        for _ in 0..LOOKUPS {
            let remapped = self
                .unit
                .remap(&self.memory, NIC, 0xfee0_0010 | index << 5, 0);
            black_box(remapped).unwrap();
        }
        0
    }
}

fn unit(rounds: usize) {
    let mut machine = Machine::new();
    machine.hits();
    machine.interrupts(0);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    machine.misses();
    machine.interrupts(1);
    machine.invalidations(3);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    println!("{allocations} allocations in {} operations", 3 * LOOKUPS);
    assert_eq!(allocations, 0);
    type Run = fn(&mut Machine) -> u64;
    let runs: [(&str, Run); 8] = [
        ("translation, cached", Machine::hits),
        ("translation, invalidated and walked", Machine::misses),
        (
            "domain invalidation by register",
            Machine::domain_invalidations,
        ),
        ("invalidation of 1 page by register", |machine| {
            machine.invalidations(0)
        }),
        ("invalidation of 8 pages by register", |machine| {
            machine.invalidations(3)
        }),
        ("invalidation of 1,024 pages", |machine| {
            machine.invalidations(10)
        }),
        ("interrupt, remapped", |machine| machine.interrupts(0)),
        ("interrupt, posted", |machine| machine.interrupts(1)),
    ];
    let mut times = runs.map(|_| Vec::new());
    for _ in 0..rounds {
        for ((_, run), times) in runs.iter().zip(&mut times) {
            machine.hits();
            times.push(time(LOOKUPS, || run(&mut machine)));
        }
    }
    println!("ns each: best (median) of {rounds} rounds");
    for ((name, _), times) in runs.iter().zip(times) {
        let (best, median) = best_and_median(times);
        println!("  {name:<38} {best:8.2} ({median:8.2})");
    }
}

fn best_and_median(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

fn time(count: u64, run: impl FnOnce() -> u64) -> f64 {
    let began = Instant::now();
    black_box(run());
    began.elapsed().as_nanos() as f64 / count as f64
}
