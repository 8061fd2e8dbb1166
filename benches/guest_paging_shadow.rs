//! What do shadow fills and invalidations cost, how do they grow with the tables, and what does a walk
//! in two dimensions cost beside as many dependent loads?
#![expect(clippy::print_stdout, reason = "a bench reports")]

use std::hint::black_box;
use std::time::Instant;

use guest_paging::nested::{self, Ground, Stage};
use guest_paging::shadow::{
    Block, Config, Guest, MachineMap, Resolution, Shadow, SyncPolicy, WritePolicy,
};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use guest_paging::x86::{
    Access, AccessKind, Context, PageSize, Privilege, Processor, Registers, Vendor,
};
use guest_paging::{Gpa, Gva, Hpa, PinnedMemory, ept};

fn main() {
    let rounds = if std::env::args().any(|argument| argument == "--test") {
        1
    } else {
        31
    };
    println!(
        "mappings  table KiB  first fill  refill  follow  zap  invlpg  switch   (ns, best of {rounds})"
    );
    for mappings in [1 << 10, 1 << 15, 1 << 20] {
        shadow(mappings, rounds);
    }
    two_dimensions(rounds);
}

/// A guest of 8 GiB whose tables lie at its start.
struct Tables {
    memory: GuestMemoryMmap,
    context: Context,
}

const ROOT: u64 = 0x1000;
const DIRECTORIES: u64 = 0x3000;
const PAGES: u64 = 0x10_0000;
const FRAMES: u32 = 1 << 21;

impl Tables {
    fn new(mappings: u64) -> Self {
        let size = usize::try_from(PAGES + 8 * mappings.next_multiple_of(512)).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap();
        let fill = |at, count: u64, target| {
            for n in 0..count {
                let entry = target + n * 0x1000 + 0x67_u64;
                memory.write_obj(entry, GuestAddress(at + 8 * n)).unwrap();
            }
        };
        fill(ROOT, 1, 0x2000);
        fill(0x2000, mappings.div_ceil(1 << 18), DIRECTORIES);
        fill(DIRECTORIES, mappings.div_ceil(512), PAGES);
        // Data lies above the tables.
        fill(PAGES, mappings, 1 << 32);
        Self {
            memory,
            context: context(ROOT),
        }
    }
}

fn context(cr3: u64) -> Context {
    let registers = Registers {
        cr0: 1 << 31 | 1 << 16,
        cr3,
        cr4: 1 << 5,
        efer: 1 << 10 | 1 << 11,
        ..Registers::default()
    };
    let processor = Processor {
        vendor: Vendor::Intel,
        maxphyaddr: 46,
        gib_pages: true,
        pse36: true,
    };
    Context::new(&processor, &registers)
}

struct Identity;

impl MachineMap for Identity {
    fn block(&self, gpa: Gpa) -> Option<Block> {
        Some(Block {
            frame: Hpa(gpa.0 & !0xfff),
            large: false,
            writable: true,
        })
    }
}

/// Nanoseconds of each of `count` calls, the best of the rounds.
fn best(rounds: u32, count: u64, mut call: impl FnMut(u64)) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let begun = Instant::now();
        for n in 0..count {
            call(n);
        }
        best = best.min(begun.elapsed().as_secs_f64() * 1e9 / count as f64);
    }
    best
}

fn shadow(mappings: u64, rounds: u32) {
    let tables = Tables::new(mappings);
    let pinned = PinnedMemory::new(&tables.memory).unwrap();
    let guest = Guest {
        memory: &pinned,
        map: &Identity,
        context: &tables.context,
    };
    let write = Access::new(AccessKind::Write, Privilege::User);
    let config = Config {
        sync: SyncPolicy::WriteProtect,
        writes: WritePolicy::Zap,
        ..Config::new(FRAMES, 2200)
    };
    let mut shadow = Shadow::new(config, ());
    shadow.switch_root(guest, 0, true);
    // A stride that visits all pages, but not in the order of memory.
    let page = |n: u64| (n * 0x9e37) & (mappings - 1);
    let fill = |shadow: &mut Shadow<()>, n| {
        let filled = shadow.fault(guest, Gva(page(n) << 12), write);
        assert_eq!(filled, Resolution::Filled);
    };
    let first = best(1, mappings, |n| fill(&mut shadow, n));
    let kib = shadow.table_bytes() / 1024;
    let some = mappings.min(1 << 15);
    let (mut refill, mut zap) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..rounds {
        zap = zap.min(best(1, some, |n| {
            shadow.entry_written(guest, Gpa(PAGES + 8 * page(n)), 8);
        }));
        refill = refill.min(best(1, some, |n| fill(&mut shadow, n)));
    }
    let invlpg = best(rounds, some, |n| shadow.invlpg(guest, Gva(page(n) << 12)));
    let switch = best(rounds, 1000, |_| {
        black_box(shadow.switch_root(guest, 0, true));
    });
    let follow = follow(mappings, rounds, &tables, guest);
    println!(
        "{mappings:8}  {kib:9}  {first:10.0}  {refill:6.0}  {follow:6.0}  {zap:3.0}  {invlpg:6.0}  {switch:6.0}"
    );
}

/// A write that traps and is followed at once, with the entry changed each time.
fn follow(
    mappings: u64,
    rounds: u32,
    tables: &Tables,
    guest: Guest<'_, PinnedMemory<'_>, Identity>,
) -> f64 {
    let config = Config {
        writes: WritePolicy::Update,
        ..Config::new(FRAMES, 2200)
    };
    let mut shadow = Shadow::new(config, ());
    shadow.switch_root(guest, 0, true);
    let read = Access::new(AccessKind::Read, Privilege::User);
    let some = mappings.min(1 << 15);
    for n in 0..some {
        shadow.fault(guest, Gva(n << 12), read);
    }
    let mut frame = 0;
    best(rounds, some, |n| {
        frame += 0x1000;
        let at = PAGES + 8 * n;
        let entry = (1 << 32) + frame % (1 << 30) + 0x67_u64;
        tables.memory.write_obj(entry, GuestAddress(at)).unwrap();
        shadow.entry_written(guest, Gpa(at), 8);
    })
}

/// 4 levels over 4: 24 references, beside a chase of 24 dependent loads.
fn two_dimensions(rounds: u32) {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let store = |at: u64, entry: u64| memory.write_obj(entry, GuestAddress(at)).unwrap();
    for (at, entry) in [(0x1000, 0x2067), (0x2000, 0x3067), (0x3000, 0x4067_u64)] {
        store(at, entry);
    }
    for (at, entry) in [(0x8000, 0x9107), (0x9000, 0xa107), (0xa000, 0xb107_u64)] {
        store(at, entry);
    }
    for page in 0..256 {
        store(0x4000 + 8 * page, page << 12 | 0x67);
        store(0xb000 + 8 * page, page << 12 | 0x337);
    }
    let capabilities = ept::Capabilities {
        maxphyaddr: 46,
        execute_only: true,
        mib_pages: true,
        gib_pages: true,
        mode_based_execute: false,
    };
    let ept = ept::Context::new(&capabilities, 0x8000 | 3 << 3 | 6);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let stack = Stage::new(1, &ept, Ground::new(&pinned, 1), ());
    let context = context(ROOT);
    let read = Access::new(AccessKind::Read, Privilege::User);
    let chase: Vec<u64> = (0..512).map(|_| black_box(0)).collect();
    let (mut walk, mut floor) = (f64::INFINITY, f64::INFINITY);
    let mut last = 0;
    for _ in 0..rounds {
        let mut high = 0;
        walk = walk.min(best(1, 20_000, |n| {
            // Each address needs the last result, as each chase does: `high` is always 0.
            let gva = Gva(((n & 255) << 12) + high);
            let walked = nested::walk(&stack, &context, gva, read, &mut ()).unwrap();
            assert_eq!(walked.guest.size, PageSize::Size4K);
            high = walked.address.0 >> 51;
        }));
        black_box(high);
        floor = floor.min(best(1, 20_000, |n| {
            let row = usize::try_from(n & 255).unwrap();
            for _ in 0..24 {
                last = usize::try_from(chase[row..][last]).unwrap();
            }
        }));
    }
    black_box(last);
    println!(
        "walk of 24 references {walk:.1} ns, 24 dependent loads {floor:.1} ns: {:.2} x",
        walk / floor
    );
}
