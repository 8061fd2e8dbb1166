//! Descriptors as they lie in memory.
#![expect(
    clippy::cast_possible_truncation,
    reason = "a field is cut out of a wider word"
)]

/// The 16 bytes of a descriptor as two words. They mean the same in both layouts up to the last
/// four bytes: flags and next (virtio 1.3, 2.7.5), or buffer id and flags (2.8.13).
pub type RawDescriptor = [u64; 2];

/// A descriptor of a split queue, or an entry of its indirect tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SplitDescriptor {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// A descriptor of a packed queue, or an entry of its indirect tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedDescriptor {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) id: u16,
    pub(crate) flags: u16,
}

impl SplitDescriptor {
    #[inline(always)]
    pub(crate) fn decode([address, word]: RawDescriptor) -> Self {
        Self {
            address,
            length: word as u32,
            flags: (word >> 32) as u16,
            next: (word >> 48) as u16,
        }
    }

    #[inline(always)]
    pub(crate) fn encode(self) -> RawDescriptor {
        let word =
            u64::from(self.length) | u64::from(self.flags) << 32 | u64::from(self.next) << 48;
        [self.address, word]
    }
}

impl PackedDescriptor {
    #[inline(always)]
    pub(crate) fn decode([address, word]: RawDescriptor) -> Self {
        Self {
            address,
            length: word as u32,
            id: (word >> 32) as u16,
            flags: (word >> 48) as u16,
        }
    }

    #[inline(always)]
    pub(crate) fn encode(self) -> RawDescriptor {
        let word = u64::from(self.length) | u64::from(self.id) << 32 | u64::from(self.flags) << 48;
        [self.address, word]
    }

    /// Whether the driver made it available on the lap with wrap counter `wrap`: 2.8.1.
    #[inline(always)]
    pub(crate) fn is_available(self, wrap: bool) -> bool {
        (self.flags & AVAIL != 0) == wrap && (self.flags & USED != 0) != wrap
    }

    /// Whether the device used it on the lap with wrap counter `wrap`.
    #[inline(always)]
    pub(crate) fn is_used(self, wrap: bool) -> bool {
        (self.flags & AVAIL != 0) == wrap && (self.flags & USED != 0) == wrap
    }
}

/// The two flags that say "available" on the lap with wrap counter `wrap`.
#[inline(always)]
pub(crate) fn available_flags(wrap: bool) -> u16 {
    if wrap { AVAIL } else { USED }
}

/// The two flags that say "used".
#[inline(always)]
pub(crate) fn used_flags(wrap: bool) -> u16 {
    if wrap { AVAIL | USED } else { 0 }
}

// Descriptor flags: virtio 1.3, 2.7.5 and 2.8.1.
pub(crate) const NEXT: u16 = 1 << 0;
pub(crate) const WRITE: u16 = 1 << 1;
pub(crate) const INDIRECT: u16 = 1 << 2;
pub(crate) const AVAIL: u16 = 1 << 7;
pub(crate) const USED: u16 = 1 << 15;
