//! The driver side of a split queue: virtio 1.3, 2.7.13 and 2.7.14.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::chain::Segment;
use crate::descriptor::{INDIRECT, NEXT, RawDescriptor, SplitDescriptor, WRITE};
use crate::driver::{AddError, DeviceFault, DriverCounts, IndirectTables, Request, Used};
use crate::notify::{Notify, Pending, by_event, by_flag, passes};
use crate::split::{
    AVAIL_FLAGS, AVAIL_IDX, NO_INTERRUPT, NO_NOTIFY, USED_FLAGS, USED_IDX, avail_event, avail_slot,
    used_event, used_id, used_length,
};
use crate::{ActiveConfig, Area, Fault, Ring, RingFeatures};

#[derive(Debug)]
pub(crate) struct SplitDriver<R> {
    pub(crate) ring: R,
    features: RingFeatures,
    size: u16,
    mask: u16,
    tables: Option<IndirectTables>,
    /// Free descriptors, first in, first out: with `VIRTIO_F_IN_ORDER` that is ring order (2.7.13.1).
    free_head: u16,
    free_tail: u16,
    pub(crate) free: u16,
    /// What follows each descriptor, in its chain or in the free list. The device cannot see it.
    next: Box<[u16]>,
    chains: Box<[InFlight]>,
    /// Heads by position in the available ring.
    order: Box<[u16]>,
    /// The next entry of the available ring to write; ahead of `avail.idx` until a publication.
    next_avail: u16,
    published: u16,
    next_used: u16,
    /// `used.idx` as it was last read.
    seen_used: u16,
    /// With `VIRTIO_F_IN_ORDER`, the last buffer of a batch whose element was read.
    batch_end: Option<Used>,
    pub(crate) counts: DriverCounts,
}

#[derive(Clone, Copy, Debug, Default)]
struct InFlight {
    /// Descriptors in the ring; 0 when the device does not have the chain.
    slots: u16,
    tail: u16,
    writable: u32,
}

impl<R: Ring> SplitDriver<R> {
    pub(crate) fn new(
        config: &ActiveConfig,
        ring: R,
        tables: Option<IndirectTables>,
    ) -> Result<Self, Fault> {
        let size = config.config().size;
        let features = config.config().features;
        for place in [AVAIL_FLAGS, AVAIL_IDX] {
            ring.store_u16(Area::Driver, place, 0, Relaxed)?;
        }
        for place in [USED_FLAGS, USED_IDX] {
            ring.store_u16(Area::Device, place, 0, Relaxed)?;
        }
        if features.event_idx {
            ring.store_u16(Area::Driver, used_event(size), 0, Relaxed)?;
            ring.store_u16(Area::Device, avail_event(size), 0, Relaxed)?;
        }
        Ok(Self {
            ring,
            features,
            size,
            mask: size - 1,
            tables,
            free_head: 0,
            free_tail: size - 1,
            free: size,
            next: (0..size).map(|index| (index + 1) & (size - 1)).collect(),
            chains: vec![InFlight::default(); usize::from(size)].into_boxed_slice(),
            order: vec![0; usize::from(size)].into_boxed_slice(),
            next_avail: 0,
            published: 0,
            next_used: 0,
            seen_used: 0,
            batch_end: None,
            counts: DriverCounts::default(),
        })
    }

    #[inline(always)]
    pub(crate) fn add(
        &mut self,
        readable: &[Segment],
        writable: &[Segment],
    ) -> Result<u16, AddError> {
        let request = Request::new(readable, writable, self.size)?;
        let indirect = self.tables.filter(|_| request.buffers > 1);
        let needed = if indirect.is_some() {
            1
        } else {
            request.buffers
        };
        if needed > self.free {
            let free = self.free;
            return Err(AddError::Full { needed, free });
        }
        let head = self.free_head;
        let tail = match indirect {
            Some(tables) => self.write_indirect(tables, readable, writable, request.buffers)?,
            None => self.write_direct(readable, writable)?,
        };
        let position = self.next_avail & self.mask;
        self.ring
            .store_u16(Area::Driver, avail_slot(position), head, Relaxed)?;
        self.free_head = self.next[usize::from(tail)];
        self.free -= needed;
        self.order[usize::from(position)] = head;
        self.chains[usize::from(head)] = InFlight {
            slots: needed,
            tail,
            writable: request.writable,
        };
        self.next_avail = self.next_avail.wrapping_add(1);
        self.counts.chains += 1;
        Ok(head)
    }

    /// Writes a descriptor for each buffer from the head of the free list on; answers the last.
    #[inline(always)]
    fn write_direct(&self, readable: &[Segment], writable: &[Segment]) -> Result<u16, Fault> {
        let mut index = self.free_head;
        let mut left = readable.len() + writable.len();
        for (segment, flag) in flagged(readable, writable) {
            left -= 1;
            let next = self.next[usize::from(index)];
            let more = if left > 0 { NEXT } else { 0 };
            self.store(index, describe(segment, flag | more, next).encode())?;
            if left > 0 {
                index = next;
            }
        }
        Ok(index)
    }

    fn write_indirect(
        &self,
        tables: IndirectTables,
        readable: &[Segment],
        writable: &[Segment],
        entries: u16,
    ) -> Result<u16, AddError> {
        if entries > tables.entries {
            return Err(AddError::Malformed);
        }
        let head = self.free_head;
        let table = tables.table(head);
        for (index, (segment, flag)) in (0_u16..).zip(flagged(readable, writable)) {
            let more = if index + 1 < entries { NEXT } else { 0 };
            let entry = describe(segment, flag | more, index + 1).encode();
            self.ring
                .write_table(table + 16 * u64::from(index), &[entry])?;
        }
        let descriptor = SplitDescriptor {
            address: table,
            length: 16 * u32::from(entries),
            flags: INDIRECT,
            next: 0,
        };
        self.store(head, descriptor.encode())?;
        Ok(head)
    }

    #[inline(always)]
    fn store(&self, index: u16, [address, word]: RawDescriptor) -> Result<(), Fault> {
        let at = 2 * usize::from(index);
        self.ring
            .store_u64(Area::Descriptors, at, address, Relaxed)?;
        self.ring
            .store_u64(Area::Descriptors, at + 1, word, Relaxed)
    }

    #[inline(always)]
    pub(crate) fn publish(&mut self) -> Result<Notify, Fault> {
        let old = self.published;
        if self.next_avail == old {
            return Ok(Notify::Idle);
        }
        self.ring
            .store_u16(Area::Driver, AVAIL_IDX, self.next_avail, Release)?;
        self.published = self.next_avail;
        // The device writes its wish and then reads avail.idx; one of the two must see the other.
        self.ring.fence()?;
        let notify = if self.features.event_idx {
            let place = avail_event(self.size);
            let event = self.ring.load_u16(Area::Device, place, Relaxed)?;
            by_event(passes(event, old, self.published))
        } else {
            let flags = self.ring.load_u16(Area::Device, USED_FLAGS, Relaxed)?;
            by_flag(flags & NO_NOTIFY != 0)
        };
        Ok(self.counts.kicks.count(notify))
    }

    #[inline(always)]
    pub(crate) fn take_used(&mut self) -> Result<Option<Used>, DeviceFault> {
        if self.next_used == self.seen_used && self.look()? == 0 {
            return Ok(None);
        }
        let used = if self.features.in_order {
            self.next_in_order()?
        } else {
            self.element()?
        };
        let chain = self.chains[usize::from(used.id)];
        if used.written > chain.writable {
            return Err(DeviceFault::TooLong {
                written: used.written,
                writable: chain.writable,
            });
        }
        self.release(used.id, chain);
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(used))
    }

    /// Reads `used.idx` again; how many chains there are to take.
    #[inline(always)]
    fn look(&mut self) -> Result<u16, DeviceFault> {
        let index = self.ring.load_u16(Area::Device, USED_IDX, Acquire)?;
        let entries = index.wrapping_sub(self.next_used);
        if entries > self.published.wrapping_sub(self.next_used) {
            let next = self.next_used;
            return Err(DeviceFault::UsedIndexJump { index, next });
        }
        self.seen_used = index;
        Ok(entries)
    }

    /// The used element at the next position, which must name a chain that the device has.
    #[inline(always)]
    fn element(&self) -> Result<Used, DeviceFault> {
        let slot = self.next_used & self.mask;
        let ring = &self.ring;
        let id = ring.load_u32(Area::Device, used_id(slot), Relaxed)?;
        let written = ring.load_u32(Area::Device, used_length(slot), Relaxed)?;
        let known = u16::try_from(id).ok().filter(|&id| {
            let chain = self.chains.get(usize::from(id));
            chain.is_some_and(|chain| chain.slots > 0)
        });
        let id = known.ok_or(DeviceFault::UnknownId { id })?;
        Ok(Used { id, written })
    }

    /// 2.7.9: an element stands for all chains up to the one it names, whose buffers before it were
    /// used completely.
    fn next_in_order(&mut self) -> Result<Used, DeviceFault> {
        let end = match self.batch_end.take() {
            Some(end) => end,
            None => self.element()?,
        };
        let oldest = self.order[usize::from(self.next_used & self.mask)];
        if oldest == end.id {
            return Ok(end);
        }
        self.batch_end = Some(end);
        Ok(Used {
            id: oldest,
            written: self.chains[usize::from(oldest)].writable,
        })
    }

    #[inline(always)]
    fn release(&mut self, head: u16, chain: InFlight) {
        self.chains[usize::from(head)].slots = 0;
        if self.free == 0 {
            self.free_head = head;
        } else {
            self.next[usize::from(self.free_tail)] = head;
        }
        self.free_tail = chain.tail;
        self.free += chain.slots;
    }

    pub(crate) fn disable_interrupts(&mut self) -> Result<(), Fault> {
        if self.features.event_idx {
            // The flags stay 0 (2.7.10); what was passed already is passed again in 65536 entries.
            let passed = self.next_used.wrapping_sub(1);
            return self
                .ring
                .store_u16(Area::Driver, used_event(self.size), passed, Relaxed);
        }
        self.ring
            .store_u16(Area::Driver, AVAIL_FLAGS, NO_INTERRUPT, Relaxed)
    }

    /// Waits for more than `count` chains.
    pub(crate) fn enable_interrupts(&mut self, count: u16) -> Result<Pending, DeviceFault> {
        let count = if self.features.event_idx {
            let event = self.next_used.wrapping_add(count);
            self.ring
                .store_u16(Area::Driver, used_event(self.size), event, Relaxed)?;
            count
        } else {
            self.ring.store_u16(Area::Driver, AVAIL_FLAGS, 0, Relaxed)?;
            0
        };
        // The device writes used.idx and then reads this wish; one of the two must see the other.
        self.ring.fence()?;
        if self.look()? > count {
            Ok(Pending::More)
        } else {
            Ok(Pending::None)
        }
    }

    /// Chains that the device has.
    pub(crate) fn busy_chains(&self) -> u16 {
        self.published.wrapping_sub(self.next_used)
    }
}

impl IndirectTables {
    /// Where the table of buffer `id` begins.
    pub(crate) fn table(self, id: u16) -> u64 {
        let bytes = 16 * u64::from(self.entries);
        self.address.wrapping_add(u64::from(id) * bytes)
    }
}

/// All segments, each with the flag of its direction.
#[inline(always)]
pub(crate) fn flagged<'s>(
    readable: &'s [Segment],
    writable: &'s [Segment],
) -> impl Iterator<Item = (&'s Segment, u16)> {
    let readable = readable.iter().map(|segment| (segment, 0));
    readable.chain(writable.iter().map(|segment| (segment, WRITE)))
}

#[inline(always)]
fn describe(segment: &Segment, flags: u16, next: u16) -> SplitDescriptor {
    SplitDescriptor {
        address: segment.address.0,
        length: segment.length,
        flags,
        next,
    }
}
