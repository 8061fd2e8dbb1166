//! Guest memory with every region's host mapping looked up once.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the assertion below: usize is 64 bits wide"
)]

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vm_memory::bitmap::{BitmapSlice, WithBitmapSlice};
use vm_memory::{
    Address, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion, VolatileMemory, VolatileSlice,
};

use crate::Gpa;
use crate::memory::{Exchange, TableMemory, Unbacked, compare_exchange_u32, compare_exchange_u64};

const _: () = assert!(usize::BITS >= u64::BITS);

/// The regions of a guest memory, each with its host slice, the last one used tried first.
///
/// Borrowing the memory keeps the mappings alive; a region added later is not seen. Each vCPU's
/// thread pins its own: the type is cheap to make and not `Sync`.
#[derive(Clone, Debug)]
pub struct PinnedMemory<'m, B = ()> {
    regions: Vec<PinnedRegion<'m, B>>,
    /// Index into `regions`; always in range.
    last: Cell<usize>,
}

/// One contiguous piece of guest memory.
#[derive(Clone, Debug)]
pub struct PinnedRegion<'m, B = ()> {
    base: Gpa,
    slice: VolatileSlice<'m, B>,
}

/// Why a guest memory cannot be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The memory has no region at all.
    #[error("guest memory has no region")]
    Empty,
    /// The host cannot address the region as one slice.
    #[error("region at {base} has no host mapping")]
    Unmapped {
        /// Where the region begins.
        base: Gpa,
        /// What the memory answered.
        source: GuestMemoryError,
    },
    /// Entries would not be aligned: guest base, host address and length must be multiples of 8.
    #[error("region at {base} is not aligned to 8 bytes")]
    Misaligned {
        /// Where the region begins.
        base: Gpa,
    },
}

impl<'m, B: BitmapSlice> PinnedMemory<'m, B> {
    /// Looks up the host mapping of every region of `memory`.
    ///
    /// # Errors
    ///
    /// Fails on a memory without regions, and on one with a region that is not mapped or not
    /// aligned to 8 bytes.
    pub fn new<M>(memory: &'m M) -> Result<Self, PinError>
    where
        M: GuestMemoryBackend + ?Sized,
        M::R: GuestMemoryRegion<B: WithBitmapSlice<'m, S = B>>,
    {
        let regions = memory
            .iter()
            .map(PinnedRegion::new)
            .collect::<Result<Vec<_>, _>>()?;
        if regions.is_empty() {
            return Err(PinError::Empty);
        }
        Ok(Self {
            regions,
            last: Cell::new(0),
        })
    }

    /// The regions in ascending order.
    pub fn regions(&self) -> &[PinnedRegion<'m, B>] {
        &self.regions
    }

    /// The region that holds the byte at `gpa`.
    #[inline]
    pub fn region(&self, gpa: Gpa) -> Option<&PinnedRegion<'m, B>> {
        let last = &self.regions[self.last.get()];
        if last.contains(gpa) {
            Some(last)
        } else {
            self.search(gpa)
        }
    }

    #[cold]
    fn search(&self, gpa: Gpa) -> Option<&PinnedRegion<'m, B>> {
        let index = self
            .regions
            .iter()
            .position(|region| region.contains(gpa))?;
        self.last.set(index);
        self.regions.get(index)
    }
}

impl<'m, B: BitmapSlice> PinnedRegion<'m, B> {
    fn new<R>(region: &'m R) -> Result<Self, PinError>
    where
        R: GuestMemoryRegion<B: WithBitmapSlice<'m, S = B>>,
    {
        let base = Gpa(region.start_addr().raw_value());
        let slice = region.as_volatile_slice();
        let slice = slice.map_err(|source| PinError::Unmapped { base, source })?;
        let aligned = base.0.is_multiple_of(8)
            && slice.len().is_multiple_of(8)
            && slice.get_atomic_ref::<AtomicU64>(0).is_ok();
        if aligned {
            Ok(Self { base, slice })
        } else {
            Err(PinError::Misaligned { base })
        }
    }

    /// Where the region begins.
    pub fn base(&self) -> Gpa {
        self.base
    }

    /// Length in bytes; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> u64 {
        self.slice.len() as u64
    }

    /// The host mapping; offset 0 is [`base`](Self::base).
    pub fn slice(&self) -> &VolatileSlice<'m, B> {
        &self.slice
    }

    /// Offset in [`slice`](Self::slice) of a `gpa` in the region.
    #[inline]
    fn offset(&self, gpa: Gpa) -> usize {
        gpa.0.wrapping_sub(self.base.0) as usize
    }

    /// Whether the byte at `gpa` is in the region.
    #[inline]
    pub fn contains(&self, gpa: Gpa) -> bool {
        gpa.0.wrapping_sub(self.base.0) < self.len()
    }
}

impl<B: BitmapSlice> TableMemory for PinnedMemory<'_, B> {
    type Error = Unbacked;

    #[inline]
    fn load_u32(&self, at: Gpa) -> Result<u32, Unbacked> {
        let region = self.region(at).ok_or(Unbacked)?;
        let entry = region.slice.get_atomic_ref::<AtomicU32>(region.offset(at));
        entry
            .map(|entry| u32::from_le(entry.load(Ordering::Relaxed)))
            .map_err(|_| Unbacked)
    }

    #[inline]
    fn load_u64(&self, at: Gpa) -> Result<u64, Unbacked> {
        let region = self.region(at).ok_or(Unbacked)?;
        let entry = region.slice.get_atomic_ref::<AtomicU64>(region.offset(at));
        entry
            .map(|entry| u64::from_le(entry.load(Ordering::Relaxed)))
            .map_err(|_| Unbacked)
    }

    fn compare_exchange_u32(&self, at: Gpa, current: u32, new: u32) -> Exchange<u32, Unbacked> {
        let region = self.region(at).ok_or(Unbacked)?;
        compare_exchange_u32(&region.slice, region.offset(at), current, new)
    }

    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Unbacked> {
        let region = self.region(at).ok_or(Unbacked)?;
        compare_exchange_u64(&region.slice, region.offset(at), current, new)
    }
}
