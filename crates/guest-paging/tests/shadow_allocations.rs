//! A shadow that is warm allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use guest_paging::shadow::{Config, Guest};
use guest_paging::x86::{Access, AccessKind, Privilege};
use guest_paging::{Gpa, Gva};
use support::random::Random;
use support::shadow_world::{FRAMES, Mode, World};

mod support {
    pub(crate) mod random;
    pub(crate) mod shadow_world;
}

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: both methods hand their arguments to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer comes from `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn events_allocate_nothing() {
    for mode in Mode::ALL {
        let mut random = Random(7);
        let mut world = World::new(Config::new(FRAMES, 24), mode);
        for _ in 0..1000 {
            world.step(&mut || Some(random.next())).unwrap().unwrap();
            let before = ALLOCATIONS.get();
            events(&mut world, &mut random);
            assert_eq!(ALLOCATIONS.get(), before);
        }
    }
}

/// One of each event that a monitor hands to the engine.
fn events(world: &mut World, random: &mut Random) {
    let guest = Guest {
        memory: &world.memory,
        map: &world.machine,
        context: &world.context,
    };
    let gva = Gva((random.next() % 24) << 12);
    for kind in [AccessKind::Write, AccessKind::Read] {
        let access = Access::new(kind, Privilege::Supervisor);
        world.shadow.fault(guest, gva, access);
    }
    let at = Gpa(((1 + random.next() % 12) << 12) + random.next() % 512 * 8);
    world.shadow.entry_written(guest, at, 8);
    world.shadow.invlpg(guest, gva);
    world.shadow.switch_root(guest, 7, true);
    world.shadow.invalidate_all(guest);
}
