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

/// A 16-bit counter of entries, kept in 32 bits: a processor passes a store on to a load of the same
/// width only, and compilers load 16-bit fields in pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counter(u32);

impl Counter {
    #[inline(always)]
    pub(crate) fn new(value: u16) -> Self {
        Self(u32::from(value))
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "it never exceeds 16 bits")]
    pub(crate) fn value(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub(crate) fn step(&mut self) {
        *self = Self::new(self.value().wrapping_add(1));
    }
}
