//! The device side of a packed queue: virtio 1.3, 2.8.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::chain::{Chain, ChainError};
use crate::descriptor::{INDIRECT, NEXT, PackedDescriptor, WRITE, used_flags};
use crate::device::{DeviceCounts, Head, QueueError, UsedError};
use crate::notify::{Notify, Pending};
use crate::packed_event::{PackedEvent, Position};
use crate::split_device::table_entries;
use crate::{ActiveConfig, Area, Fault, Ring, RingFeatures};

#[derive(Debug)]
pub(crate) struct PackedDevice<R> {
    pub(crate) ring: R,
    features: RingFeatures,
    size: u16,
    /// The next descriptor to look at.
    pub(crate) next_avail: Position,
    /// The next descriptor to write as used.
    pub(crate) next_used: Position,
    /// Slots popped and not written as used.
    busy: u16,
    /// Slots written as used since an interrupt was last considered. `None`: nobody knows.
    pub(crate) unsignalled: Option<u16>,
    /// The first used descriptor since the last flush, which the driver must see last.
    first: Option<(u16, u64)>,
    /// With `VIRTIO_F_IN_ORDER`, a used descriptor that may yet be skipped.
    held: Option<HeldDescriptor>,
    in_flight: Box<[bool]>,
    pub(crate) kicks_enabled: bool,
    pub(crate) counts: DeviceCounts,
}

/// A used descriptor that stands for all buffers of its batch.
#[derive(Clone, Copy, Debug)]
struct HeldDescriptor {
    at: Position,
    id: u16,
    written: u32,
    writable: u32,
}

impl<R: Ring> PackedDevice<R> {
    pub(crate) fn new(config: &ActiveConfig, ring: R) -> Self {
        let size = config.config().size;
        Self {
            ring,
            features: config.config().features,
            size,
            next_avail: Position::START,
            next_used: Position::START,
            busy: 0,
            unsignalled: Some(0),
            first: None,
            held: None,
            in_flight: vec![false; usize::from(size)].into_boxed_slice(),
            kicks_enabled: true,
            counts: DeviceCounts::default(),
        }
    }

    /// Goes on where a drained queue stopped.
    pub(crate) fn resume(&mut self, position: Position, signalled: bool) {
        self.next_avail = position;
        self.next_used = position;
        self.unsignalled = signalled.then_some(0);
    }

    #[inline(always)]
    pub(crate) fn pop(&mut self, chain: &mut Chain) -> Result<Option<Head>, QueueError> {
        let at = self.next_avail;
        let word = self.load(at.slot(), 1)?;
        let address_comes = PackedDescriptor::decode([0, word]);
        if !address_comes.is_available(at.wrap()) {
            return Ok(None);
        }
        let address = self.load(at.slot(), 0)?;
        let first = PackedDescriptor {
            address,
            ..address_comes
        };
        let walked = self.walk(first, chain);
        let (id, slots) = walked.map_err(|source| QueueError::Chain {
            head: at.slot(),
            source,
        })?;
        if slots > self.size - self.busy {
            return Err(QueueError::TooManyInFlight);
        }
        match self.in_flight.get_mut(usize::from(id)) {
            None => return Err(QueueError::HeadOutOfRange { head: id }),
            Some(true) => return Err(QueueError::HeadInFlight { head: id }),
            Some(in_flight) => *in_flight = true,
        }
        self.busy += slots;
        self.next_avail = at.advanced(slots, self.size);
        self.counts.chains += 1;
        Ok(Some(Head::new(
            id,
            at.slot(),
            slots,
            chain.writable_bytes(),
        )))
    }

    /// The buffer id and the slots of the chain that begins with `first`.
    #[inline(always)]
    fn walk(&self, first: PackedDescriptor, chain: &mut Chain) -> Result<(u16, u16), ChainError> {
        if first.flags & INDIRECT != 0 {
            self.walk_indirect(first, chain)?;
            return Ok((first.id, 1));
        }
        chain.begin(first.address, first.length, first.flags & WRITE != 0)?;
        if first.flags & NEXT == 0 {
            return Ok((first.id, 1));
        }
        self.walk_rest(chain)
    }

    /// The chain from its second descriptor on. [`Chain::push`] bounds the loop.
    fn walk_rest(&self, chain: &mut Chain) -> Result<(u16, u16), ChainError> {
        let mut at = self.next_avail;
        let mut slots = 1;
        loop {
            at = at.advanced(1, self.size);
            let load = |word| self.load(at.slot(), word).map_err(ChainError::Fault);
            let descriptor = PackedDescriptor::decode([load(0)?, load(1)?]);
            if !descriptor.is_available(at.wrap()) {
                // The driver's mistake, or the same descriptors a second time: a chain as long as
                // the ring comes around to slots of the lap before.
                return Err(ChainError::NotAvailable);
            }
            if descriptor.flags & INDIRECT != 0 {
                return Err(ChainError::IndirectInChain);
            }
            let write = descriptor.flags & WRITE != 0;
            chain.push(descriptor.address, descriptor.length, write)?;
            slots += 1;
            if descriptor.flags & NEXT == 0 {
                // 2.8.6: only the last descriptor's id counts.
                return Ok((descriptor.id, slots));
            }
        }
    }

    /// 2.8.8: all entries of a table, in order; of their flags only `WRITE` means anything.
    fn walk_indirect(&self, first: PackedDescriptor, chain: &mut Chain) -> Result<(), ChainError> {
        if !self.features.indirect {
            return Err(ChainError::IndirectNotNegotiated);
        }
        if first.flags & NEXT != 0 {
            return Err(ChainError::IndirectInChain);
        }
        let entries = table_entries(first.length, self.size)?;
        chain.clear();
        let mut table = std::mem::take(&mut chain.table);
        let copied = self.ring.read_table(first.address, &mut table[..entries]);
        let walked = copied
            .map_err(ChainError::Fault)
            .and_then(|()| walk_table(&table[..entries], chain));
        chain.table = table;
        walked
    }

    /// One word of a descriptor; flags are in the second, and order what is read after them.
    #[inline(always)]
    fn load(&self, slot: u16, word: usize) -> Result<u64, Fault> {
        let at = 2 * usize::from(slot) + word;
        self.ring.load_u64(Area::Descriptors, at, Acquire)
    }

    #[inline(always)]
    pub(crate) fn complete(&mut self, head: &Head, written: u32) -> Result<(), UsedError> {
        let in_flight = self.in_flight.get_mut(usize::from(head.id));
        let in_flight = in_flight.expect("a head of this queue");
        assert!(*in_flight, "a head of this queue, completed once");
        *in_flight = false;
        let at = self.next_used;
        if self.features.in_order {
            assert_eq!(head.position, at.slot(), "buffers are used in order");
            self.hold(head, at, written)?;
        } else {
            self.write_used(at, head.id, written, head.writable)?;
        }
        self.busy -= head.slots;
        self.next_used = at.advanced(head.slots, self.size);
        // More than a lap between flushes is no more than a lap.
        self.unsignalled = self
            .unsignalled
            .map(|slots| (slots + head.slots).min(self.size));
        Ok(())
    }

    /// Pops, serves and completes chains while there are any, at most `limit`; how many there were.
    #[inline]
    pub(crate) fn serve(
        &mut self,
        chain: &mut Chain,
        limit: u16,
        mut device: impl FnMut(&Chain) -> u32,
    ) -> Result<u16, QueueError> {
        for served in 0..limit {
            let Some(head) = self.pop(chain)? else {
                return Ok(served);
            };
            let written = device(chain);
            chain.assert_fits(written);
            match self.complete(&head, written) {
                Ok(()) => {}
                Err(UsedError::Ring(fault)) => return Err(fault.into()),
                Err(UsedError::TooLong { .. }) => unreachable!("it fits"),
            }
        }
        Ok(limit)
    }

    /// 2.8.9: one descriptor, with the id of its last buffer, does for a batch whose other buffers
    /// were used completely.
    fn hold(&mut self, head: &Head, at: Position, written: u32) -> Result<(), Fault> {
        let at = match self.held.take() {
            Some(held) if held.written == held.writable => held.at,
            Some(held) => {
                self.write_used(held.at, held.id, held.written, held.writable)?;
                at
            }
            None => at,
        };
        self.held = Some(HeldDescriptor {
            at,
            id: head.id,
            written,
            writable: head.writable,
        });
        Ok(())
    }

    #[inline(always)]
    fn write_used(
        &mut self,
        at: Position,
        id: u16,
        written: u32,
        writable: u32,
    ) -> Result<(), Fault> {
        // 2.8.4: the length means something only if the device wrote.
        let write = if writable > 0 { WRITE } else { 0 };
        let used = PackedDescriptor {
            address: 0,
            length: written,
            id,
            flags: used_flags(at.wrap()) | write,
        };
        let [_, word] = used.encode();
        if self.first.is_none() {
            self.first = Some((at.slot(), word));
            return Ok(());
        }
        self.ring
            .store_u64(Area::Descriptors, word_of(at.slot()), word, Release)
    }

    #[inline(always)]
    pub(crate) fn flush(&mut self) -> Result<Notify, Fault> {
        if let Some(held) = self.held.take() {
            self.write_used(held.at, held.id, held.written, held.writable)?;
        }
        let Some((slot, word)) = self.first.take() else {
            return Ok(Notify::Idle);
        };
        self.ring
            .store_u64(Area::Descriptors, word_of(slot), word, Release)?;
        // The driver writes its wish and then reads descriptors; one of the two must see the other.
        self.ring.fence()?;
        let wish = PackedEvent::decode(self.ring.load_u32(Area::Driver, 0, Relaxed)?);
        let notify = match (wish, self.unsignalled) {
            (PackedEvent::Descriptor(_), None) => Notify::Send,
            (wish, slots) => wish.decide(
                self.next_used,
                slots.unwrap_or(self.size),
                self.size,
                self.features.event_idx,
            ),
        };
        self.unsignalled = Some(0);
        Ok(self.counts.interrupts.count(notify))
    }

    pub(crate) fn disable_kicks(&mut self) -> Result<(), Fault> {
        self.kicks_enabled = false;
        self.wish(PackedEvent::Disable)
    }

    pub(crate) fn enable_kicks(&mut self) -> Result<Pending, QueueError> {
        self.kicks_enabled = true;
        self.wish(if self.features.event_idx {
            PackedEvent::Descriptor(self.next_avail)
        } else {
            PackedEvent::Enable
        })?;
        // The driver makes descriptors available and then reads this wish; one of the two must see
        // the other.
        self.ring.fence()?;
        let at = self.next_avail;
        let next = PackedDescriptor::decode([0, self.load(at.slot(), 1)?]);
        if next.is_available(at.wrap()) {
            Ok(Pending::More)
        } else {
            Ok(Pending::None)
        }
    }

    fn wish(&self, event: PackedEvent) -> Result<(), Fault> {
        self.ring
            .store_u32(Area::Device, 0, event.encode(), Relaxed)
    }

    /// Slots popped whose use the driver cannot see yet.
    pub(crate) fn outstanding(&self) -> u16 {
        if self.first.is_some() || self.held.is_some() {
            self.busy.max(1)
        } else {
            self.busy
        }
    }
}

fn word_of(slot: u16) -> usize {
    2 * usize::from(slot) + 1
}

fn walk_table(table: &[[u64; 2]], chain: &mut Chain) -> Result<(), ChainError> {
    for entry in table {
        let descriptor = PackedDescriptor::decode(*entry);
        if descriptor.flags & INDIRECT != 0 {
            return Err(ChainError::NestedIndirect);
        }
        let write = descriptor.flags & WRITE != 0;
        chain.push(descriptor.address, descriptor.length, write)?;
    }
    Ok(())
}
