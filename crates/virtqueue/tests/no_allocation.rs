//! Chains cost no allocation, counted by an allocator.

mod common;

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::cell::Cell;

use common::{BUFFERS, config, device, indirect_driver, memory, segment};
use virtqueue::{Layout, RingFeatures};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all calls go to the system's allocator as they come.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise about `block` is the one that is asked for here.
        unsafe { System.alloc(block) }
    }

    unsafe fn dealloc(&self, at: *mut u8, block: Block) {
        // SAFETY: `at` came from `alloc` above, that is from the system's allocator.
        unsafe { System.dealloc(at, block) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn chains_cost_no_allocation() {
    for layout in [Layout::Split, Layout::Packed] {
        let memory = memory();
        let features = RingFeatures {
            event_idx: true,
            indirect: true,
            in_order: true,
        };
        let config = config(layout, 64, features).activate().unwrap();
        let mut driver = indirect_driver(&config, &memory);
        let (mut device, mut chain) = device(&config, &memory);
        let buffers = [segment(BUFFERS, 64); 40];
        let before = ALLOCATIONS.with(Cell::get);
        for length in (1..=40).cycle().take(1_000) {
            driver.add(&buffers[..length], &[]).unwrap();
            let _ = driver.publish().unwrap();
            let head = device.pop(&mut chain).unwrap().unwrap();
            device.complete(head, 0).unwrap();
            let _ = device.flush().unwrap();
            driver.take_used().unwrap().unwrap();
        }
        let after = ALLOCATIONS.with(Cell::get);
        assert_eq!(after - before, 0, "{layout:?}");
        assert!(before > 0, "the allocator counts");
    }
}
