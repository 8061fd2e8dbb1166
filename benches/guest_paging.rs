//! What does a page walk cost beside the loads it cannot avoid?
//!
//! A 4-level walk is four loads, each of which needs the one before. The floor is a pointer chase with
//! as many dependent loads over memory of the same shape. Both are measured in turns in one run, and
//! their ratio is the result; criterion's own figures follow for the record. A second chase does the
//! arithmetic too that an entry cannot be without, and checks nothing: what lies between it and a walk is
//! what the walk could still save.
#![expect(clippy::print_stdout, reason = "a bench reports")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use benches::Pages;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use guest_paging::x86::{
    self, Access, AccessKind, Context, Privilege, Processor, Registers, Vendor,
};
use guest_paging::{Gva, Observer, PinnedMemory, Reference, SearchedMemory, TableMemory};

criterion_group!(benches, walks);

fn main() {
    let rounds = if std::env::args().any(|argument| argument == "--test") {
        1
    } else {
        101
    };
    report(rounds);
    benches();
    Criterion::default().configure_from_args().final_summary();
}

/// Pages mapped, by 4 KiB each: one page-table page, 512 KiB of them, 64 MiB of them.
const PAGES: [u64; 3] = [512, 1 << 16, 1 << 23];

/// Where an entry holds an address.
const ADDRESS: usize = 0x000f_ffff_ffff_f000;

/// Walks in one measurement.
const WALKS: u64 = 4096;

/// Identity-mapped pages, all flags set, so that a walk has nothing to write.
struct Tables {
    memory: GuestMemoryMmap,
    context: Context,
    pages: u64,
}

impl Tables {
    /// In a region that begins at `base`.
    fn new(pages: u64, base: u64) -> Self {
        let table_count = |entries: u64| entries.div_ceil(512);
        let (tables, directories) = (table_count(pages), table_count(table_count(pages)));
        let pml4 = base + 0x1000;
        let pdpt = pml4 + 0x1000;
        let directory = pdpt + 0x1000;
        let table = directory + directories * 0x1000;
        let size = usize::try_from(table - base + tables * 0x1000).unwrap();
        // Of a base above 0, the larger regions hold nothing: pinned memory looks there first.
        let other = if base == 0 { 1 << 40 } else { 0 };
        let ranges = [
            (GuestAddress(base.min(other)), size + 0x1000),
            (GuestAddress(base.max(other)), size),
        ];
        let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        fill(&memory, pml4, 1, pdpt);
        fill(&memory, pdpt, directories, directory);
        fill(&memory, directory, tables, table);
        fill(&memory, table, pages, 0);
        let registers = Registers {
            cr0: 1 << 31 | 1 << 16,
            cr3: pml4,
            cr4: 1 << 5 | 1 << 7 | 1 << 20 | 1 << 21 | 1 << 22,
            efer: 1 << 10 | 1 << 11,
            pkru: 0x5555_5554,
            ..Registers::default()
        };
        let processor = Processor {
            vendor: Vendor::Intel,
            maxphyaddr: 46,
            gib_pages: true,
            pse36: true,
        };
        Self {
            memory,
            context: Context::new(&processor, &registers),
            pages,
        }
    }

    fn pinned(&self) -> PinnedMemory<'_> {
        PinnedMemory::new(&self.memory).unwrap()
    }

    /// Bytes of page tables at level 1.
    fn bytes(&self) -> u64 {
        self.pages * 8
    }
}

/// Writes `count` entries at `at` that reference consecutive pages from `target` on.
fn fill(memory: &GuestMemoryMmap, at: u64, count: u64, target: u64) {
    for index in 0..count {
        let entry = (target + index * 0x1000) | 0x67;
        memory
            .write_obj(entry, GuestAddress(at + 8 * index))
            .unwrap();
    }
}

/// The floor: arrays of zeros in the shape of the tables.
struct Chase {
    levels: [Vec<usize>; 4],
    pages: u64,
}

impl Chase {
    fn new(pages: u64) -> Self {
        let entries = |pages_each: u64| {
            // Written, so that the pages are there and not all the same one.
            (0..pages.div_ceil(pages_each).next_multiple_of(512))
                .map(|_| black_box(0))
                .collect()
        };
        Self {
            levels: [
                entries(1),
                entries(1 << 9),
                entries(1 << 18),
                entries(1 << 27),
            ],
            pages,
        }
    }

    /// Four loads, each at an index that the one before decides. Where the row begins is known ahead.
    fn run(&self, count: u64) -> u64 {
        let mut pages = Pages::new(self.pages);
        let mut x = 0;
        for _ in 0..count {
            let page = pages.draw();
            for (level, shift) in [(3, 27), (2, 18), (1, 9), (0, 0)] {
                let first = usize::try_from(page >> shift).unwrap();
                x = self.levels[level][first..][x];
            }
        }
        x as u64
    }

    /// The same, each entry's flags masked off, and each address made of the last entry: a chain of
    /// walks without any check.
    fn run_as_walk(&self, count: u64) -> u64 {
        let mut pages = Pages::new(self.pages);
        let mut last = 0;
        for _ in 0..count {
            let gva = (pages.draw() << 12) + (last >> 51);
            let mut entry = 0;
            for (level, shift) in [(3, 39), (2, 30), (1, 21), (0, 12)] {
                let row = usize::try_from(gva >> shift).unwrap();
                entry = self.levels[level][(entry & ADDRESS) + row];
            }
            last = (entry & ADDRESS) as u64 | gva & 0xfff;
        }
        last
    }
}

/// Walks of which each address is known ahead, so that a processor may overlap them.
fn independent<M: TableMemory>(memory: &M, tables: &Tables, count: u64) -> u64 {
    let mut pages = Pages::new(tables.pages);
    let mut sum = 0_u64;
    for _ in 0..count {
        sum = sum.wrapping_add(walk(memory, tables, pages.draw() << 12, &mut ()));
    }
    sum
}

/// Walks of which each address needs the result of the one before.
fn serial<M: TableMemory>(memory: &M, tables: &Tables, count: u64) -> u64 {
    let mut pages = Pages::new(tables.pages);
    let mut last = 0;
    for _ in 0..count {
        // Always zero, which only the last walk knows: no page has an address so high.
        let nothing = last >> 51;
        last = walk(memory, tables, (pages.draw() << 12) + nothing, &mut ());
    }
    last
}

fn walk<M: TableMemory, O: Observer>(memory: &M, tables: &Tables, gva: u64, seen: &mut O) -> u64 {
    let access = Access::new(AccessKind::Read, Privilege::User);
    match x86::walk(memory, &tables.context, Gva(gva), access, seen) {
        Ok(translation) => translation.gpa.0,
        Err(_) => panic!("every page is mapped"),
    }
}

/// Counts references.
struct Count(u64);

impl Observer for Count {
    fn reference(&mut self, _: Reference) {
        self.0 += 1;
    }
}

fn references_per_walk<M: TableMemory>(memory: &M, tables: &Tables) -> f64 {
    let mut pages = Pages::new(tables.pages);
    let mut count = Count(0);
    for _ in 0..WALKS {
        walk(memory, tables, pages.draw() << 12, &mut count);
    }
    count.0 as f64 / WALKS as f64
}

/// Measures chase and walks in turns, so that a busy machine disturbs all of them alike. Each has a
/// memory of its own, or else those that share one would warm it for each other.
fn report(rounds: usize) {
    println!("ns for each walk: best (median) of {rounds} rounds; x: the chase's best and median");
    for pages in PAGES {
        let chase = Chase::new(pages);
        let [ahead, serially, searching] = [(); 3].map(|()| Tables::new(pages, 0));
        let elsewhere = Tables::new(pages, 1 << 40);
        let [pinned_ahead, pinned_serially] = [ahead.pinned(), serially.pinned()];
        let pinned_elsewhere = elsewhere.pinned();
        let searched = SearchedMemory(&searching.memory);
        let runs: [(&str, &dyn Fn() -> u64); 7] = [
            ("chase of 4 dependent loads", &|| chase.run(WALKS)),
            ("chase with a walk's arithmetic", &|| {
                chase.run_as_walk(WALKS)
            }),
            ("walk, address known ahead", &|| {
                independent(&pinned_ahead, &ahead, WALKS)
            }),
            ("walk, address from last walk", &|| {
                serial(&pinned_serially, &serially, WALKS)
            }),
            ("known ahead, other region", &|| {
                independent(&pinned_elsewhere, &elsewhere, WALKS)
            }),
            ("from last walk, other region", &|| {
                serial(&pinned_elsewhere, &elsewhere, WALKS)
            }),
            ("known ahead over GuestMemory", &|| {
                independent(&searched, &searching, WALKS)
            }),
        ];
        let mut times = runs.map(|_| Vec::new());
        for _ in 0..rounds {
            for ((_, run), times) in runs.iter().zip(&mut times) {
                times.push(nanoseconds(run));
            }
        }
        times
            .iter_mut()
            .for_each(|times| times.sort_by(f64::total_cmp));
        let references = references_per_walk(&pinned_ahead, &ahead);
        println!(
            "{} KiB of page tables, {references} references a walk",
            ahead.bytes() / 1024
        );
        let best_and_median = |times: &Vec<f64>| (times[0], times[times.len() / 2]);
        let (floor, floor_median) = best_and_median(&times[0]);
        for ((name, _), times) in runs.iter().zip(&times) {
            let (best, median) = best_and_median(times);
            let (x, x_median) = (best / floor, median / floor_median);
            println!("  {name:<30} {best:7.2} ({median:7.2})  {x:5.2} x ({x_median:5.2} x)");
        }
    }
}

fn nanoseconds(run: impl Fn() -> u64) -> f64 {
    let began = Instant::now();
    black_box(run());
    began.elapsed().as_nanos() as f64 / WALKS as f64
}

fn walks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("4-level walk");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    for pages in PAGES {
        let (tables, chase) = (Tables::new(pages, 0), Chase::new(pages));
        let pinned = tables.pinned();
        let searched = SearchedMemory(&tables.memory);
        let size = format!("{} KiB", tables.bytes() / 1024);
        type Run<'a> = (&'a str, &'a dyn Fn(u64) -> u64);
        let runs: [Run<'_>; 4] = [
            ("chase", &|count| chase.run(count)),
            ("pinned", &|count| independent(&pinned, &tables, count)),
            ("pinned, serial", &|count| serial(&pinned, &tables, count)),
            ("searched", &|count| independent(&searched, &tables, count)),
        ];
        for (name, run) in runs {
            group.bench_function(BenchmarkId::new(name, &size), |bencher| {
                bencher.iter_custom(|count| {
                    let began = Instant::now();
                    black_box(run(count));
                    began.elapsed()
                });
            });
        }
    }
}
