//! Where things lie in the rings of a split queue: virtio 1.3, 2.7.6 and 2.7.8.

// Available ring, in units of 16 bits.
pub(crate) const AVAIL_FLAGS: usize = 0;
pub(crate) const AVAIL_IDX: usize = 1;
// Used ring, in units of 16 bits.
pub(crate) const USED_FLAGS: usize = 0;
pub(crate) const USED_IDX: usize = 1;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
pub(crate) const NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`.
pub(crate) const NO_NOTIFY: u16 = 1;

/// `avail.ring[slot]`, in units of 16 bits.
#[inline(always)]
pub(crate) fn avail_slot(slot: u16) -> usize {
    2 + usize::from(slot)
}

/// `used_event`, in units of 16 bits of the driver area.
#[inline(always)]
pub(crate) fn used_event(size: u16) -> usize {
    2 + usize::from(size)
}

/// `avail_event`, in units of 16 bits of the device area.
#[inline(always)]
pub(crate) fn avail_event(size: u16) -> usize {
    2 + 4 * usize::from(size)
}

/// `used.ring[slot].id`, in units of 32 bits.
#[inline(always)]
pub(crate) fn used_id(slot: u16) -> usize {
    1 + 2 * usize::from(slot)
}

/// `used.ring[slot].len`, in units of 32 bits.
#[inline(always)]
pub(crate) fn used_length(slot: u16) -> usize {
    2 + 2 * usize::from(slot)
}

/// Where the device side of a split queue stands: four 16-bit counters of entries in one word.
///
/// One word, since a processor passes a store on to a load of the same width only, and since each
/// store to memory has to leave before the fence of a flush is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Positions(u64);

/// One of the counters.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
enum Place {
    NextAvail = 0,
    SeenAvail = 16,
    NextUsed = 32,
    Published = 48,
}

impl Positions {
    /// All at one place.
    pub(crate) fn all(position: u16) -> Self {
        let two = u64::from(position) | u64::from(position) << 16;
        Self(two | two << 32)
    }

    /// The next entry of the available ring to look at.
    #[inline(always)]
    pub(crate) fn next_avail(self) -> u16 {
        self.at(Place::NextAvail)
    }

    /// `avail.idx` as it was last read.
    #[inline(always)]
    pub(crate) fn seen_avail(self) -> u16 {
        self.at(Place::SeenAvail)
    }

    /// The next entry of the used ring to write; ahead of `used.idx` until a flush.
    #[inline(always)]
    pub(crate) fn next_used(self) -> u16 {
        self.at(Place::NextUsed)
    }

    /// `used.idx` as the driver sees it.
    #[inline(always)]
    pub(crate) fn published(self) -> u16 {
        self.at(Place::Published)
    }

    #[inline(always)]
    #[must_use]
    pub(crate) fn with_next_avail(self, value: u16) -> Self {
        self.with(Place::NextAvail, value)
    }

    #[inline(always)]
    #[must_use]
    pub(crate) fn with_seen_avail(self, value: u16) -> Self {
        self.with(Place::SeenAvail, value)
    }

    #[inline(always)]
    #[must_use]
    pub(crate) fn with_next_used(self, value: u16) -> Self {
        self.with(Place::NextUsed, value)
    }

    #[inline(always)]
    #[must_use]
    pub(crate) fn with_published(self, value: u16) -> Self {
        self.with(Place::Published, value)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "one counter is cut out")]
    fn at(self, place: Place) -> u16 {
        (self.0 >> place as u32) as u16
    }

    #[inline(always)]
    fn with(self, place: Place, value: u16) -> Self {
        let shift = place as u32;
        Self(self.0 & !(0xffff << shift) | u64::from(value) << shift)
    }
}
