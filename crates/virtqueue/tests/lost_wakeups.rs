//! Every interleaving of a driver and a device that sleep: no wake-up is lost.
//!
//! The shipping code of both sides runs over a ring of modelled memory. Each side's stores wait in a
//! buffer and reach memory later, in any order that release permits (a release store waits for all
//! that came before it, and stores to one place stay in order), which is weaker than what x86 does. A
//! side is a function of what its loads answered: to take it one access further, it is run again
//! from the start with the answers so far, and stopped at the access that comes next. All states are
//! visited; one in which nothing can move before the work is done is a lost wake-up.
//!
//! Not modelled: loads that are answered out of program order, which Acquire and the fences forbid
//! on the hosts that this runs on.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;

use virtqueue::vm_memory::GuestAddress;
use virtqueue::{
    ActiveConfig, Area, Chain, Config, DeviceQueue, DriverQueue, Fault, Layout, Pending,
    RawDescriptor, Ring, RingFeatures, Segment,
};

/// A place in the shared memory: area and byte.
type Place = (u8, usize);

/// What a side does next to the world outside itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Access {
    Load {
        place: Place,
        width: usize,
    },
    Store {
        place: Place,
        width: usize,
        value: u64,
        release: bool,
    },
    Fence,
    /// Sends a notification to the other side.
    Notify,
    /// Sleeps until a notification comes, and takes it.
    Wait,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Delayed {
    place: Place,
    width: usize,
    value: u64,
    release: bool,
}

/// One side: what its accesses were answered, what waits in its store buffer, and whether it was
/// notified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Side {
    answers: Vec<u64>,
    buffer: Vec<Delayed>,
    notified: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    memory: BTreeMap<Place, u8>,
    sides: [Side; 2],
}

/// The ring that a side is run on: gives back the answers so far, then stops the run.
struct Replay<'a> {
    answers: &'a [u64],
    next: Cell<usize>,
    stopped_at: RefCell<Option<Access>>,
    without_fences: bool,
    /// The driver writes zeros over zeros before `DRIVER_OK`: not a part of the race.
    initializing: Cell<bool>,
}

const STOP: Fault = Fault::Table { table: u64::MAX };

impl Replay<'_> {
    fn access(&self, access: Access) -> Result<u64, Fault> {
        let index = self.next.replace(self.next.get() + 1);
        match self.answers.get(index) {
            Some(&answer) => Ok(answer),
            None => {
                self.stopped_at.borrow_mut().get_or_insert(access);
                Err(STOP)
            }
        }
    }

    fn load(&self, area: Area, index: usize, width: usize) -> Result<u64, Fault> {
        let place = (area as u8, index * width);
        self.access(Access::Load { place, width })
    }

    fn store(
        &self,
        (area, index): (Area, usize),
        width: usize,
        value: u64,
        order: Ordering,
    ) -> Result<(), Fault> {
        if self.initializing.get() {
            assert_eq!(value, 0, "memory is zero already");
            return Ok(());
        }
        let place = (area as u8, index * width);
        let release = order != Ordering::Relaxed;
        let access = Access::Store {
            place,
            width,
            value,
            release,
        };
        self.access(access).map(drop)
    }

    fn notify(&self) -> Result<(), Fault> {
        self.access(Access::Notify).map(drop)
    }

    fn wait(&self) -> Result<(), Fault> {
        self.access(Access::Wait).map(drop)
    }
}

impl Ring for &Replay<'_> {
    fn load_u16(&self, area: Area, index: usize, _: Ordering) -> Result<u16, Fault> {
        Ok(self.load(area, index, 2)?.try_into().unwrap())
    }

    fn load_u32(&self, area: Area, index: usize, _: Ordering) -> Result<u32, Fault> {
        Ok(self.load(area, index, 4)?.try_into().unwrap())
    }

    fn load_u64(&self, area: Area, index: usize, _: Ordering) -> Result<u64, Fault> {
        self.load(area, index, 8)
    }

    fn store_u16(&self, area: Area, index: usize, value: u16, o: Ordering) -> Result<(), Fault> {
        self.store((area, index), 2, value.into(), o)
    }

    fn store_u32(&self, area: Area, index: usize, value: u32, o: Ordering) -> Result<(), Fault> {
        self.store((area, index), 4, value.into(), o)
    }

    fn store_u64(&self, area: Area, index: usize, value: u64, o: Ordering) -> Result<(), Fault> {
        self.store((area, index), 8, value, o)
    }

    fn fence(&self) -> Result<(), Fault> {
        if self.without_fences {
            return Ok(());
        }
        self.access(Access::Fence).map(drop)
    }

    fn read_table(&self, _: u64, _: &mut [RawDescriptor]) -> Result<(), Fault> {
        unreachable!("no indirect tables here")
    }

    fn write_table(&self, _: u64, _: &[RawDescriptor]) -> Result<(), Fault> {
        unreachable!("no indirect tables here")
    }
}

/// What the two sides do.
#[derive(Clone, Copy, Debug)]
struct Plan {
    config: ActiveConfig,
    /// Chains that the driver sends in all, this many at a time.
    chains: u16,
    at_once: u16,
    /// Whether the device completes all it finds before it flushes.
    batched: bool,
    /// Which side lacks its fences.
    unfenced: Option<usize>,
    /// Whether the sides look once more after they switched notifications on.
    rechecks: bool,
}

const DRIVER: usize = 0;
const DEVICE: usize = 1;

impl Plan {
    /// Runs one side as far as its answers go: the access it stopped at, or `None` at its end.
    fn run(&self, side: usize, answers: &[u64]) -> Option<Access> {
        let replay = Replay {
            answers,
            next: Cell::new(0),
            stopped_at: RefCell::new(None),
            without_fences: self.unfenced == Some(side),
            initializing: Cell::new(side == DRIVER),
        };
        let finished = match side {
            DRIVER => self.driver(&replay),
            _ => self.device(&replay),
        };
        let stopped_at = replay.stopped_at.into_inner();
        assert_eq!(finished.is_some(), stopped_at.is_none(), "errors are ours");
        stopped_at
    }

    /// Sends its chains and takes them back, asleep whenever there is nothing to take.
    fn driver(&self, ring: &Replay<'_>) -> Option<()> {
        let mut queue = DriverQueue::new(&self.config, ring, None).ok()?;
        ring.initializing.set(false);
        let (mut sent, mut back) = (0, 0);
        while back < self.chains {
            while sent < self.chains && sent - back < self.at_once && queue.free() > 0 {
                let buffer = Segment {
                    address: GuestAddress(0x1000),
                    length: 1,
                };
                queue.add(&[buffer], &[]).ok()?;
                sent += 1;
            }
            if queue.publish().ok()?.is_due() {
                ring.notify().ok()?;
            }
            queue.disable_interrupts().ok()?;
            while queue.take_used().ok()?.is_some() {
                back += 1;
            }
            let more = sent < self.chains && sent - back < self.at_once;
            if more || back == self.chains {
                continue;
            }
            if self.is_idle(queue.enable_interrupts().ok()?) {
                ring.wait().ok()?;
            }
        }
        Some(())
    }

    /// Uses all chains, asleep whenever there is none.
    fn device(&self, ring: &Replay<'_>) -> Option<()> {
        let mut queue = DeviceQueue::new(&self.config, ring);
        let mut chain = Chain::new(&self.config);
        let mut done = 0;
        while done < self.chains {
            queue.disable_kicks().ok()?;
            while let Some(head) = queue.pop(&mut chain).ok()? {
                queue.complete(head, 0).ok()?;
                done += 1;
                if !self.batched && queue.flush().ok()?.is_due() {
                    ring.notify().ok()?;
                }
            }
            if queue.flush().ok()?.is_due() {
                ring.notify().ok()?;
            }
            if done < self.chains && self.is_idle(queue.enable_kicks().ok()?) {
                ring.wait().ok()?;
            }
        }
        Some(())
    }

    fn is_idle(&self, pending: Pending) -> bool {
        pending == Pending::None || !self.rechecks
    }
}

/// What an exploration found.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Every run ends with all chains back.
    Complete { states: usize },
    /// A run in which both sides sleep for ever, or one does and the other is done.
    LostWakeup,
}

fn explore(plan: &Plan) -> Verdict {
    let start = World {
        memory: BTreeMap::new(),
        sides: <[Side; 2]>::default(),
    };
    let mut seen = HashSet::from([start.clone()]);
    let mut open = vec![start];
    let mut completions = 0;
    while let Some(world) = open.pop() {
        let next_accesses = [DRIVER, DEVICE].map(|side| plan.run(side, &world.sides[side].answers));
        let successors = world.successors(&next_accesses);
        if successors.is_empty() {
            if next_accesses.iter().any(Option::is_some) {
                return Verdict::LostWakeup;
            }
            completions += 1;
        }
        for next in successors {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    assert!(completions > 0, "some run ends");
    Verdict::Complete { states: seen.len() }
}

impl World {
    fn successors(&self, next_accesses: &[Option<Access>; 2]) -> Vec<Self> {
        let mut successors = Vec::new();
        for side in [DRIVER, DEVICE] {
            for index in 0..self.sides[side].buffer.len() {
                successors.extend(self.with_store_drained(side, index));
            }
            if let Some(access) = &next_accesses[side] {
                successors.extend(self.with_access(side, access));
            }
        }
        successors
    }

    /// The world after one delayed store reached memory, if it may now.
    fn with_store_drained(&self, side: usize, index: usize) -> Option<Self> {
        let buffer = &self.sides[side].buffer;
        let store = &buffer[index];
        let waits = buffer[..index]
            .iter()
            .any(|earlier| store.release || overlap(earlier, store.place, store.width));
        if waits {
            return None;
        }
        let mut next = self.clone();
        let store = next.sides[side].buffer.remove(index);
        for (offset, byte) in store.value.to_le_bytes()[..store.width].iter().enumerate() {
            let (area, at) = store.place;
            next.memory.insert((area, at + offset), *byte);
        }
        Some(next)
    }

    /// The world after a side's next access, if it can be made now.
    fn with_access(&self, side: usize, access: &Access) -> Option<Self> {
        let mut next = self.clone();
        let answer = match access {
            Access::Load { place, width } => self.load(side, *place, *width)?,
            &Access::Store {
                place,
                width,
                value,
                release,
            } => {
                let store = Delayed {
                    place,
                    width,
                    value,
                    release,
                };
                next.sides[side].buffer.push(store);
                0
            }
            Access::Fence if self.sides[side].buffer.is_empty() => 0,
            Access::Fence => return None,
            Access::Notify => {
                next.sides[1 - side].notified = true;
                0
            }
            Access::Wait if self.sides[side].notified => {
                next.sides[side].notified = false;
                0
            }
            Access::Wait => return None,
        };
        next.sides[side].answers.push(answer);
        Some(next)
    }

    /// A side sees its own delayed stores; `None` while one covers a part of what is loaded.
    fn load(&self, side: usize, place: Place, width: usize) -> Option<u64> {
        let mine = self.sides[side].buffer.iter().rev();
        let newest = mine.into_iter().find(|store| overlap(store, place, width));
        match newest {
            Some(store) if (store.place, store.width) == (place, width) => Some(store.value),
            Some(_) => None,
            None => {
                let mut bytes = [0; 8];
                for (offset, byte) in bytes[..width].iter_mut().enumerate() {
                    let (area, at) = place;
                    *byte = self.memory.get(&(area, at + offset)).copied().unwrap_or(0);
                }
                Some(u64::from_le_bytes(bytes))
            }
        }
    }
}

fn overlap(store: &Delayed, (area, at): Place, width: usize) -> bool {
    let (store_area, store_at) = store.place;
    store_area == area && store_at < at + width && at < store_at + store.width
}

fn plan(layout: Layout, event_idx: bool) -> Plan {
    let config = Config {
        layout,
        size: 2,
        descriptors: 0,
        driver: 0x100,
        device: 0x200,
        features: RingFeatures {
            event_idx,
            ..RingFeatures::default()
        },
    };
    Plan {
        config: config.activate().unwrap(),
        chains: 2,
        at_once: 2,
        batched: true,
        unfenced: None,
        rechecks: true,
    }
}

fn plans() -> impl Iterator<Item = Plan> {
    let layouts = [Layout::Split, Layout::Packed];
    layouts
        .into_iter()
        .flat_map(|layout| [false, true].map(|event_idx| plan(layout, event_idx)))
}

/// Every interleaving of one layout and one way of suppression.
fn loses_no_wakeup(layout: Layout, event_idx: bool) {
    let plan = plan(layout, event_idx);
    // Three chains come around the ring.
    for (chains, at_once, batched) in [(2, 1, true), (2, 2, false), (3, 2, true)] {
        let plan = Plan {
            chains,
            at_once,
            batched,
            ..plan
        };
        let verdict = explore(&plan);
        let Verdict::Complete { states } = verdict else {
            panic!("{plan:?}: a wake-up is lost");
        };
        eprintln!("{states} states: {plan:?}");
    }
}

#[test]
fn no_wakeup_is_lost_in_any_interleaving_of_split_flags() {
    loses_no_wakeup(Layout::Split, false);
}

#[test]
fn no_wakeup_is_lost_in_any_interleaving_of_split_events() {
    loses_no_wakeup(Layout::Split, true);
}

#[test]
fn no_wakeup_is_lost_in_any_interleaving_of_packed_flags() {
    loses_no_wakeup(Layout::Packed, false);
}

#[test]
fn no_wakeup_is_lost_in_any_interleaving_of_packed_events() {
    loses_no_wakeup(Layout::Packed, true);
}

/// The checker finds what it is for.
#[test]
fn without_the_fences_of_either_side_a_wakeup_is_lost() {
    for plan in plans() {
        for side in [DRIVER, DEVICE] {
            let plan = Plan {
                unfenced: Some(side),
                ..plan
            };
            assert_eq!(explore(&plan), Verdict::LostWakeup, "{plan:?}");
        }
    }
}

#[test]
fn without_a_second_look_a_wakeup_is_lost() {
    for plan in plans() {
        let plan = Plan {
            rechecks: false,
            ..plan
        };
        assert_eq!(explore(&plan), Verdict::LostWakeup, "{plan:?}");
    }
}
