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
