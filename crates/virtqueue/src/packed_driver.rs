//! The driver side of a packed queue: virtio 1.3, 2.8.21.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::chain::Segment;
use crate::descriptor::{INDIRECT, NEXT, PackedDescriptor, available_flags};
use crate::driver::{AddError, DeviceFault, DriverCounts, IndirectTables, Request, Used};
use crate::notify::{Notify, Pending};
use crate::packed_event::{PackedEvent, Position};
use crate::split_driver::flagged;
use crate::{ActiveConfig, Area, Fault, Ring, RingFeatures};

#[derive(Debug)]
pub(crate) struct PackedDriver<R> {
    pub(crate) ring: R,
    features: RingFeatures,
    size: u16,
    tables: Option<IndirectTables>,
    next_avail: Position,
    next_used: Position,
    /// Slots that neither side has anything in.
    pub(crate) free: u16,
    /// Ids with the device in the order they were made available, from `oldest` on; then the free
    /// ones. A ring: there are as many ids as slots.
    ids: Box<[u16]>,
    oldest: u16,
    busy: u16,
    chains: Box<[InFlight]>,
    /// The first descriptor since the last publication, which the device must see last.
    first: Option<(u16, u64)>,
    /// Slots added since a kick was last considered.
    added: u16,
    /// With `VIRTIO_F_IN_ORDER`, the last buffer of a batch whose descriptor was read.
    batch_end: Option<Used>,
    pub(crate) counts: DriverCounts,
}

#[derive(Clone, Copy, Debug, Default)]
struct InFlight {
    /// Slots in the ring; 0 when the device does not have the chain.
    slots: u16,
    /// Where in `ids` it is.
    place: u16,
    writable: u32,
}

impl<R: Ring> PackedDriver<R> {
    pub(crate) fn new(
        config: &ActiveConfig,
        ring: R,
        tables: Option<IndirectTables>,
    ) -> Result<Self, Fault> {
        let size = config.config().size;
        for word in 0..2 * usize::from(size) {
            ring.store_u64(Area::Descriptors, word, 0, Relaxed)?;
        }
        ring.store_u32(Area::Driver, 0, PackedEvent::Enable.encode(), Relaxed)?;
        ring.store_u32(Area::Device, 0, PackedEvent::Enable.encode(), Relaxed)?;
        Ok(Self {
            ring,
            features: config.config().features,
            size,
            tables,
            next_avail: Position::START,
            next_used: Position::START,
            free: size,
            ids: (0..size).collect(),
            oldest: 0,
            busy: 0,
            chains: vec![InFlight::default(); usize::from(size)].into_boxed_slice(),
            first: None,
            added: 0,
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
        let place = self.place(self.busy);
        let id = self.ids[usize::from(place)];
        match indirect {
            Some(tables) => {
                self.write_indirect(tables, id, readable, writable, request.buffers)?;
            }
            None => self.write_direct(id, readable, writable)?,
        }
        self.chains[usize::from(id)] = InFlight {
            slots: needed,
            place,
            writable: request.writable,
        };
        self.busy += 1;
        self.free -= needed;
        self.added = (self.added + needed).min(self.size);
        self.next_avail = self.next_avail.advanced(needed, self.size);
        self.counts.chains += 1;
        Ok(id)
    }

    /// Writes the chain's descriptors, its first one last.
    #[inline(always)]
    fn write_direct(
        &mut self,
        id: u16,
        readable: &[Segment],
        writable: &[Segment],
    ) -> Result<(), Fault> {
        let mut at = self.next_avail;
        let mut left = readable.len() + writable.len();
        let mut first = None;
        for (segment, flag) in flagged(readable, writable) {
            left -= 1;
            let more = if left > 0 { NEXT } else { 0 };
            let descriptor = PackedDescriptor {
                address: segment.address.0,
                length: segment.length,
                id,
                flags: flag | more | available_flags(at.wrap()),
            };
            let [address, word] = descriptor.encode();
            self.store(at.slot(), 0, address)?;
            match first {
                None => first = Some((at.slot(), word)),
                Some(_) => self.store(at.slot(), 1, word)?,
            }
            at = at.advanced(1, self.size);
        }
        let (slot, word) = first.expect("a chain has a buffer");
        self.show(slot, word)
    }

    fn write_indirect(
        &mut self,
        tables: IndirectTables,
        id: u16,
        readable: &[Segment],
        writable: &[Segment],
        entries: u16,
    ) -> Result<(), AddError> {
        if entries > tables.entries {
            return Err(AddError::Malformed);
        }
        let table = tables.table(id);
        for (index, (segment, flags)) in (0_u64..).zip(flagged(readable, writable)) {
            let entry = PackedDescriptor {
                address: segment.address.0,
                length: segment.length,
                id: 0,
                flags,
            };
            self.ring
                .write_table(table + 16 * index, &[entry.encode()])?;
        }
        let at = self.next_avail;
        let descriptor = PackedDescriptor {
            address: table,
            length: 16 * u32::from(entries),
            id,
            flags: INDIRECT | available_flags(at.wrap()),
        };
        let [address, word] = descriptor.encode();
        self.store(at.slot(), 0, address)?;
        Ok(self.show(at.slot(), word)?)
    }

    /// Makes a chain available, unless it is the first of its batch.
    #[inline(always)]
    fn show(&mut self, slot: u16, word: u64) -> Result<(), Fault> {
        if self.first.is_none() {
            self.first = Some((slot, word));
            return Ok(());
        }
        self.store(slot, 1, word)
    }

    #[inline(always)]
    fn store(&self, slot: u16, word: usize, value: u64) -> Result<(), Fault> {
        let at = 2 * usize::from(slot) + word;
        self.ring.store_u64(Area::Descriptors, at, value, Release)
    }

    #[inline(always)]
    pub(crate) fn publish(&mut self) -> Result<Notify, Fault> {
        let Some((slot, word)) = self.first.take() else {
            return Ok(Notify::Idle);
        };
        self.store(slot, 1, word)?;
        // The device writes its wish and then reads descriptors; one of the two must see the other.
        self.ring.fence()?;
        let wish = PackedEvent::decode(self.ring.load_u32(Area::Device, 0, Relaxed)?);
        let added = std::mem::take(&mut self.added);
        let notify = wish.decide(self.next_avail, added, self.size, self.features.event_idx);
        Ok(self.counts.kicks.count(notify))
    }

    #[inline(always)]
    pub(crate) fn take_used(&mut self) -> Result<Option<Used>, DeviceFault> {
        let end = match self.batch_end.take() {
            Some(end) => end,
            None => match self.element()? {
                Some(used) => used,
                None => return Ok(None),
            },
        };
        let used = self.in_batch(end);
        let chain = self.chains[usize::from(used.id)];
        if used.written > chain.writable {
            return Err(DeviceFault::TooLong {
                written: used.written,
                writable: chain.writable,
            });
        }
        self.release(used.id, chain);
        Ok(Some(used))
    }

    /// The used descriptor at the next position, which must name a chain that the device has.
    #[inline(always)]
    fn element(&self) -> Result<Option<Used>, DeviceFault> {
        let at = self.next_used;
        let word = 2 * usize::from(at.slot()) + 1;
        let word = self.ring.load_u64(Area::Descriptors, word, Acquire)?;
        let used = PackedDescriptor::decode([0, word]);
        // A slot of the driver's own that no chain is in may say anything.
        if self.busy == 0 || !used.is_used(at.wrap()) {
            return Ok(None);
        }
        let id = used.id;
        let chain = self.chains.get(usize::from(id));
        let Some(chain) = chain.filter(|chain| chain.slots > 0) else {
            return Err(DeviceFault::UnknownId { id: id.into() });
        };
        // 2.8.4: a length without the flag means nothing.
        let written = if chain.writable == 0 { 0 } else { used.length };
        Ok(Some(Used { id, written }))
    }

    /// 2.8.9: with `VIRTIO_F_IN_ORDER` a descriptor stands for all chains up to the one it names.
    #[inline(always)]
    fn in_batch(&mut self, end: Used) -> Used {
        if !self.features.in_order {
            return end;
        }
        let oldest = self.ids[usize::from(self.oldest)];
        if oldest == end.id {
            return end;
        }
        self.batch_end = Some(end);
        Used {
            id: oldest,
            written: self.chains[usize::from(oldest)].writable,
        }
    }

    #[inline(always)]
    fn release(&mut self, id: u16, chain: InFlight) {
        // The oldest id takes the place of the one that goes, which becomes the last free one.
        let oldest = self.ids[usize::from(self.oldest)];
        self.ids[usize::from(chain.place)] = oldest;
        self.chains[usize::from(oldest)].place = chain.place;
        self.ids[usize::from(self.oldest)] = id;
        self.chains[usize::from(id)].slots = 0;
        self.oldest = self.place(1);
        self.busy -= 1;
        self.free += chain.slots;
        self.next_used = self.next_used.advanced(chain.slots, self.size);
    }

    /// The place in `ids` that is `count` after the oldest.
    #[inline(always)]
    fn place(&self, count: u16) -> u16 {
        let to_end = self.size - self.oldest;
        if count < to_end {
            self.oldest + count
        } else {
            count - to_end
        }
    }

    pub(crate) fn disable_interrupts(&mut self) -> Result<(), Fault> {
        self.wish(PackedEvent::Disable)
    }

    /// Waits for more than `count` slots.
    pub(crate) fn enable_interrupts(&mut self, count: u16) -> Result<Pending, DeviceFault> {
        self.wish(if self.features.event_idx {
            PackedEvent::Descriptor(self.next_used.advanced(count, self.size))
        } else {
            PackedEvent::Enable
        })?;
        // The device writes used descriptors and then reads this wish; one of the two must see the
        // other.
        self.ring.fence()?;
        // Whatever was used before the wish was there may have gone past it: a slot in the middle of
        // a chain is never written. So any used chain counts.
        if self.batch_end.is_some() || self.element()?.is_some() {
            Ok(Pending::More)
        } else {
            Ok(Pending::None)
        }
    }

    fn wish(&self, event: PackedEvent) -> Result<(), Fault> {
        self.ring
            .store_u32(Area::Driver, 0, event.encode(), Relaxed)
    }

    /// Slots that the device has.
    pub(crate) fn busy_slots(&self) -> u16 {
        self.size - self.free
    }
}
