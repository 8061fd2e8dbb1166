//! The device side of a split queue: virtio 1.3, 2.7.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::chain::{Chain, ChainError};
use crate::descriptor::{INDIRECT, NEXT, SplitDescriptor, WRITE};
use crate::device::{DeviceCounts, Head, QueueError, UsedError};
use crate::notify::{Notify, Pending, by_event, by_flag, passes};
use crate::split::{
    AVAIL_FLAGS, AVAIL_IDX, NO_INTERRUPT, NO_NOTIFY, Positions, USED_FLAGS, USED_IDX, avail_event,
    avail_slot, used_event, used_id,
};
use crate::{ActiveConfig, Area, Fault, Ring, RingFeatures};

#[derive(Debug)]
pub(crate) struct SplitDevice<R> {
    pub(crate) ring: R,
    features: RingFeatures,
    size: u16,
    mask: u16,
    positions: Positions,
    signalled: Signalled,
    /// With `VIRTIO_F_IN_ORDER`, a used element that may yet be skipped.
    held: Option<HeldElement>,
    in_flight: Box<[bool]>,
    pub(crate) kicks_enabled: bool,
    pub(crate) counts: DeviceCounts,
}

/// `used.idx` when an interrupt was last considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signalled {
    /// At the last flush: what is published.
    AtFlush,
    /// As a saved state says; `None` when nobody knows.
    Restored(Option<u16>),
}

/// A used element that stands for all buffers of its batch.
#[derive(Clone, Copy, Debug)]
struct HeldElement {
    /// Where the batch begins, which is where the element goes.
    first: u16,
    id: u16,
    written: u32,
    /// Whether all writable bytes were written, as is taken for granted of skipped buffers.
    full: bool,
}

impl<R: Ring> SplitDevice<R> {
    pub(crate) fn new(config: &ActiveConfig, ring: R) -> Self {
        let size = config.config().size;
        Self {
            ring,
            features: config.config().features,
            size,
            mask: size - 1,
            positions: Positions::default(),
            signalled: Signalled::AtFlush,
            held: None,
            in_flight: vec![false; usize::from(size)].into_boxed_slice(),
            kicks_enabled: true,
            counts: DeviceCounts::default(),
        }
    }

    /// Goes on where a drained queue stopped.
    pub(crate) fn resume(&mut self, position: u16, signalled: Option<u16>) {
        self.positions = Positions::all(position);
        self.signalled = Signalled::Restored(signalled);
    }

    #[inline(always)]
    pub(crate) fn pop(&mut self, chain: &mut Chain) -> Result<Option<Head>, QueueError> {
        let mut positions = self.positions;
        let position = positions.next_avail();
        if position == positions.seen_avail() {
            let entries = self.look()?;
            if entries == 0 {
                return Ok(None);
            }
            positions = positions.with_seen_avail(position.wrapping_add(entries));
        }
        let slot = avail_slot(position & self.mask);
        let head = self.ring.load_u16(Area::Driver, slot, Relaxed)?;
        let Some(in_flight) = self.in_flight.get_mut(usize::from(head)) else {
            return Err(QueueError::HeadOutOfRange { head });
        };
        if *in_flight {
            return Err(QueueError::HeadInFlight { head });
        }
        *in_flight = true;
        self.walk(head, chain)
            .map_err(|source| QueueError::Chain { head, source })?;
        self.positions = positions.with_next_avail(position.wrapping_add(1));
        self.counts.chains += 1;
        Ok(Some(Head::new(head, position, 1, chain.writable_bytes())))
    }

    /// Reads `avail.idx` again; how many entries there are to pop.
    #[inline(always)]
    fn look(&self) -> Result<u16, QueueError> {
        let index = self.ring.load_u16(Area::Driver, AVAIL_IDX, Acquire)?;
        let next = self.positions.next_avail();
        let entries = index.wrapping_sub(next);
        // No more heads can be out than there are descriptors: those popped and not used yet count.
        let popped = next.wrapping_sub(self.positions.next_used());
        if entries > self.size - popped {
            return Err(QueueError::AvailIndexJump { index, next });
        }
        Ok(entries)
    }

    #[inline(always)]
    fn walk(&self, head: u16, chain: &mut Chain) -> Result<(), ChainError> {
        let first = self.descriptor(head)?;
        if first.flags & INDIRECT != 0 {
            return self.walk_indirect(first.address, first.length, first.flags, chain);
        }
        chain.begin(first.address, first.length, first.flags & WRITE != 0)?;
        if first.flags & NEXT != 0 {
            self.walk_rest(first.next, chain)?;
        }
        Ok(())
    }

    /// The chain from its second descriptor on. [`Chain::push`] bounds the loop.
    fn walk_rest(&self, mut next: u16, chain: &mut Chain) -> Result<(), ChainError> {
        loop {
            if next >= self.size {
                return Err(ChainError::NextOutOfRange { next });
            }
            let descriptor = self.descriptor(next)?;
            if descriptor.flags & INDIRECT != 0 {
                return Err(ChainError::IndirectInChain);
            }
            let write = descriptor.flags & WRITE != 0;
            chain.push(descriptor.address, descriptor.length, write)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            next = descriptor.next;
        }
    }

    #[inline(never)]
    fn walk_indirect(
        &self,
        address: u64,
        length: u32,
        flags: u16,
        chain: &mut Chain,
    ) -> Result<(), ChainError> {
        if !self.features.indirect {
            return Err(ChainError::IndirectNotNegotiated);
        }
        if flags & NEXT != 0 {
            return Err(ChainError::IndirectInChain);
        }
        let entries = table_entries(length, self.size)?;
        chain.clear();
        // A table that is taken out and put back leaves `chain` free for the walk.
        let mut table = std::mem::take(&mut chain.table);
        let copied = self.ring.read_table(address, &mut table[..entries]);
        let walked = copied
            .map_err(ChainError::Fault)
            .and_then(|()| walk_table(&table[..entries], chain));
        chain.table = table;
        walked
    }

    #[inline(always)]
    fn descriptor(&self, index: u16) -> Result<SplitDescriptor, ChainError> {
        let words = self.ring.load_descriptor(index);
        Ok(SplitDescriptor::decode(words.map_err(ChainError::Fault)?))
    }

    #[inline(always)]
    pub(crate) fn complete(&mut self, head: &Head, written: u32) -> Result<(), UsedError> {
        let in_flight = self.in_flight.get_mut(usize::from(head.id));
        let in_flight = in_flight.expect("a head of this queue");
        assert!(*in_flight, "a head of this queue, completed once");
        if self.features.in_order {
            // An order that the device promised, not the driver.
            assert_eq!(
                head.position,
                self.positions.next_used(),
                "buffers are used in order"
            );
            *in_flight = false;
            self.hold(head, written)?;
        } else {
            *in_flight = false;
            self.write_element(self.positions.next_used(), head.id, written)?;
        }
        let next_used = self.positions.next_used().wrapping_add(1);
        self.positions = self.positions.with_next_used(next_used);
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
        let count = self.look()?.min(limit);
        // Chains that were popped one by one may be out: their heads must not come again. With
        // VIRTIO_F_IN_ORDER elements are held back.
        let positions = self.positions;
        let in_step = positions.next_avail() == positions.next_used() && !self.features.in_order;
        let (served, result) = if in_step {
            self.serve_in_step(chain, count, &mut device)
        } else {
            self.serve_one_by_one(chain, count, &mut device)
        };
        self.counts.chains += u64::from(served);
        result.map(|()| served)
    }

    /// The case of a device that has no chain out: positions go together, and no head can be in
    /// flight.
    #[inline]
    fn serve_in_step(
        &mut self,
        chain: &mut Chain,
        count: u16,
        device: &mut impl FnMut(&Chain) -> u32,
    ) -> (u16, Result<(), QueueError>) {
        let from = self.positions.next_avail();
        let mut served = 0;
        let mut result = Ok(());
        while served < count {
            let position = from.wrapping_add(served);
            result = self.serve_at(position, chain, device);
            if result.is_err() {
                break;
            }
            served += 1;
        }
        let to = from.wrapping_add(served);
        let published = self.positions.published();
        // What lies between is looked for again.
        self.positions = Positions::all(to).with_published(published);
        (served, result)
    }

    #[inline(always)]
    fn serve_at(
        &self,
        position: u16,
        chain: &mut Chain,
        device: &mut impl FnMut(&Chain) -> u32,
    ) -> Result<(), QueueError> {
        let slot = avail_slot(position & self.mask);
        let head = self.ring.load_u16(Area::Driver, slot, Relaxed)?;
        if head >= self.size {
            return Err(QueueError::HeadOutOfRange { head });
        }
        self.walk(head, chain)
            .map_err(|source| QueueError::Chain { head, source })?;
        let written = device(chain);
        chain.assert_fits(written);
        Ok(self.write_element(position, head, written)?)
    }

    fn serve_one_by_one(
        &mut self,
        chain: &mut Chain,
        count: u16,
        device: &mut impl FnMut(&Chain) -> u32,
    ) -> (u16, Result<(), QueueError>) {
        for served in 0..count {
            match self.pop(chain) {
                Ok(Some(head)) => {
                    // Counted by the caller.
                    self.counts.chains -= 1;
                    let written = device(chain);
                    chain.assert_fits(written);
                    match self.complete(&head, written) {
                        Ok(()) => {}
                        Err(UsedError::Ring(fault)) => return (served, Err(fault.into())),
                        Err(UsedError::TooLong { .. }) => unreachable!("it fits"),
                    }
                }
                Ok(None) => return (served, Ok(())),
                Err(error) => return (served, Err(error)),
            }
        }
        (count, Ok(()))
    }

    /// Virtio 1.3, 2.7.9: one element, with the id of its last buffer, does for a batch whose other
    /// buffers were used completely.
    fn hold(&mut self, head: &Head, written: u32) -> Result<(), Fault> {
        let first = match self.held.take() {
            Some(held) if held.full => held.first,
            Some(held) => {
                self.write_element(held.first, held.id, held.written)?;
                self.positions.next_used()
            }
            None => self.positions.next_used(),
        };
        self.held = Some(HeldElement {
            first,
            id: head.id,
            written,
            full: written == head.writable,
        });
        Ok(())
    }

    #[inline(always)]
    fn write_element(&self, position: u16, id: u16, written: u32) -> Result<(), Fault> {
        let slot = position & self.mask;
        let element = [u32::from(id), written];
        self.ring
            .store_u32_pair(Area::Device, used_id(slot), element)
    }

    #[inline(always)]
    pub(crate) fn flush(&mut self) -> Result<Notify, Fault> {
        if self.features.in_order
            && let Some(held) = self.held.take()
        {
            self.write_element(held.first, held.id, held.written)?;
        }
        let (old, index) = (self.positions.published(), self.positions.next_used());
        if index == old {
            return Ok(Notify::Idle);
        }
        self.ring
            .store_u16(Area::Device, USED_IDX, index, Release)?;
        self.positions = self.positions.with_published(index);
        // The driver writes its wish and then reads used.idx; one of the two must see the other.
        self.ring.fence()?;
        let notify = self.decide(old, index)?;
        if self.signalled != Signalled::AtFlush {
            self.signalled = Signalled::AtFlush;
        }
        Ok(self.counts.interrupts.count(notify))
    }

    /// Whether the driver hears of the elements from `old` up to `new`.
    #[inline(always)]
    fn decide(&self, old: u16, new: u16) -> Result<Notify, Fault> {
        if !self.features.event_idx {
            let flags = self.ring.load_u16(Area::Driver, AVAIL_FLAGS, Relaxed)?;
            return Ok(by_flag(flags & NO_INTERRUPT != 0));
        }
        let place = used_event(self.size);
        let event = self.ring.load_u16(Area::Driver, place, Relaxed)?;
        let passed = match self.signalled {
            Signalled::AtFlush => passes(event, old, new),
            Signalled::Restored(Some(old)) => passes(event, old, new),
            Signalled::Restored(None) => true,
        };
        Ok(by_event(passed))
    }

    /// What a saved state says of the last interrupt.
    pub(crate) fn signalled(&self) -> Option<u16> {
        match self.signalled {
            Signalled::AtFlush => Some(self.positions.published()),
            Signalled::Restored(signalled) => signalled,
        }
    }

    pub(crate) fn disable_kicks(&mut self) -> Result<(), Fault> {
        self.kicks_enabled = false;
        // With VIRTIO_F_EVENT_IDX the flags stay 0 (2.7.10), and an avail_event that is left behind
        // is passed only once in 65536 entries.
        if self.features.event_idx {
            return Ok(());
        }
        self.ring
            .store_u16(Area::Device, USED_FLAGS, NO_NOTIFY, Relaxed)
    }

    pub(crate) fn enable_kicks(&mut self) -> Result<Pending, QueueError> {
        self.kicks_enabled = true;
        if self.features.event_idx {
            let place = avail_event(self.size);
            self.ring
                .store_u16(Area::Device, place, self.positions.next_avail(), Relaxed)?;
        } else {
            self.ring.store_u16(Area::Device, USED_FLAGS, 0, Relaxed)?;
        }
        // The driver writes avail.idx and then reads this wish; one of the two must see the other.
        self.ring.fence()?;
        match self.look()? {
            0 => Ok(Pending::None),
            _ => Ok(Pending::More),
        }
    }

    /// Chains popped whose use the driver cannot see yet.
    pub(crate) fn outstanding(&self) -> u16 {
        self.positions
            .next_avail()
            .wrapping_sub(self.positions.published())
    }

    /// The next entry to pop, and the next element to write.
    pub(crate) fn positions(&self) -> [u16; 2] {
        [self.positions.next_avail(), self.positions.next_used()]
    }
}

/// Entries of an indirect table of `bytes`.
pub(crate) fn table_entries(bytes: u32, size: u16) -> Result<usize, ChainError> {
    let entries = bytes / 16;
    if bytes.is_multiple_of(16) && (1..=u32::from(size)).contains(&entries) {
        Ok(usize::try_from(entries).unwrap_or(usize::MAX))
    } else {
        Err(ChainError::TableLength { bytes })
    }
}

/// Follows the next fields of a private copy. [`Chain::push`] bounds the loop.
fn walk_table(table: &[[u64; 2]], chain: &mut Chain) -> Result<(), ChainError> {
    let mut index = 0;
    loop {
        let entry = table.get(usize::from(index));
        let entry = entry.ok_or(ChainError::NextOutOfRange { next: index })?;
        let descriptor = SplitDescriptor::decode(*entry);
        if descriptor.flags & INDIRECT != 0 {
            return Err(ChainError::NestedIndirect);
        }
        let write = descriptor.flags & WRITE != 0;
        chain.push(descriptor.address, descriptor.length, write)?;
        if descriptor.flags & NEXT == 0 {
            return Ok(());
        }
        index = descriptor.next;
    }
}
