//! Guest memory with every region's host mapping looked up once.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the assertion below: usize is 64 bits wide"
)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vm_memory::bitmap::{BitmapSlice, WithBitmapSlice};
use vm_memory::{
    Address, AtomicInteger, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
    VolatileMemory, VolatileSlice,
};

use crate::Gpa;
use crate::memory::{
    Exchange, Place, TableMemory, Unbacked, compare_exchange_u32, compare_exchange_u64,
};

const _: () = assert!(usize::BITS >= u64::BITS);

/// The regions of a guest memory, each with its host slice.
///
/// Loads from two of them pay no search: the one at address 0, and the largest of the others or that
/// chosen with [`prefer`](Self::prefer). Borrowing the memory keeps the mappings alive; a region added later is
/// not seen. Each vCPU's thread pins its own.
#[derive(Clone, Debug)]
pub struct PinnedMemory<'m, B = ()> {
    /// The region at address 0, or nothing. Tried first, for it takes no subtraction between the entry
    /// that holds a table's address and the load from the table.
    lowest: VolatileSlice<'m, B>,
    /// Tried next, and then all others.
    near: PinnedRegion<'m, B>,
    /// All of them, in ascending order.
    regions: Vec<PinnedRegion<'m, B>>,
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
        let mut regions = Vec::new();
        for region in memory.iter() {
            regions.push(PinnedRegion::new(region)?);
        }
        regions.sort_by_key(|region| region.base);
        let first: &PinnedRegion<'m, B> = regions.first().ok_or(PinError::Empty)?;
        let lowest = first.slice.clone();
        let lowest = if first.base.0 == 0 {
            lowest
        } else {
            lowest.subslice(0, 0).unwrap_or(lowest)
        };
        let others = regions.iter().filter(|region| region.base.0 != 0);
        let largest = others.max_by_key(|region| region.len()).unwrap_or(first);
        Ok(Self {
            lowest,
            near: largest.clone(),
            regions,
        })
    }

    /// Tries the region that holds `gpa` before all others from now on; for instance the one that
    /// CR3 points into, since tables tend to lie together. Changes nothing if no region does.
    pub fn prefer(&mut self, gpa: Gpa) {
        let Some(region) = self.region(gpa).cloned() else {
            return;
        };
        if region.base.0 != 0 {
            self.near = region;
        }
    }

    /// The regions in ascending order.
    pub fn regions(&self) -> &[PinnedRegion<'m, B>] {
        &self.regions
    }

    /// The region that holds the byte at `gpa`.
    #[inline]
    pub fn region(&self, gpa: Gpa) -> Option<&PinnedRegion<'m, B>> {
        if self.near.contains(gpa) {
            Some(&self.near)
        } else {
            self.search(gpa)
        }
    }

    /// Loads the entry at `at`.
    #[inline(always)]
    fn load<A: AtomicInteger>(&self, at: Gpa) -> Option<A::V> {
        let lowest = load::<A, B>(&self.lowest, at.0, 0);
        let near = lowest.or_else(|| self.near.load::<A>(at, 0));
        near.or_else(|| self.search(at)?.load::<A>(at, 0))
    }

    /// Loads the entry `offset` bytes into `table`, if it is in that place.
    #[inline(always)]
    fn peek<A: AtomicInteger>(&self, place: Place, table: Gpa, offset: u64) -> Option<A::V> {
        match place {
            Place::First => load::<A, B>(&self.lowest, table.0, offset),
            Place::Second => self.near.load::<A>(table, offset),
        }
    }

    #[cold]
    #[inline(never)]
    fn search(&self, gpa: Gpa) -> Option<&PinnedRegion<'m, B>> {
        let after = self.regions.partition_point(|region| region.base <= gpa);
        let region = &self.regions[after.checked_sub(1)?];
        region.contains(gpa).then_some(region)
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

    /// Whether the byte at `gpa` is in the region.
    #[inline]
    pub fn contains(&self, gpa: Gpa) -> bool {
        gpa.0.wrapping_sub(self.base.0) < self.len()
    }

    /// Loads the entry `offset` bytes into `table`, if it is in the region.
    #[inline(always)]
    fn load<A: AtomicInteger>(&self, table: Gpa, offset: u64) -> Option<A::V> {
        // Below the region this wraps to an offset that no slice has.
        load::<A, B>(&self.slice, table.0.wrapping_sub(self.base.0), offset)
    }

    /// Offset in [`slice`](Self::slice) of a `gpa` that is not before the region.
    fn offset(&self, gpa: Gpa) -> Option<usize> {
        gpa.0.checked_sub(self.base.0).map(|offset| offset as usize)
    }
}

/// Loads the entry `offset` bytes into the table at `table` in `slice`.
///
/// Worded for the compiler: what does not depend on `table` is computed ahead of it, and since all
/// addends are seen to be aligned, one test of the slice's own alignment does for all entries of a
/// walk.
#[inline(always)]
fn load<A: AtomicInteger, B: BitmapSlice>(
    slice: &VolatileSlice<'_, B>,
    table: u64,
    offset: u64,
) -> Option<A::V> {
    let misaligned = size_of::<A>() as u64 - 1;
    debug_assert_eq!(
        (table | offset) & misaligned,
        0,
        "entries are naturally aligned"
    );
    slice.get_atomic_ref::<A>(0).ok()?;
    let offset = (offset & !misaligned) as usize;
    let row = slice.subslice(offset, slice.len().checked_sub(offset)?);
    let row = row.ok()?;
    let entry: &A = row.get_atomic_ref((table & !misaligned) as usize).ok()?;
    Some(entry.load(Ordering::Relaxed))
}

// An entry's address leads to the next load, which orders the two: `Relaxed` is enough.
impl<B: BitmapSlice> TableMemory for PinnedMemory<'_, B> {
    type Error = Unbacked;

    #[inline]
    fn load_u32(&self, at: Gpa) -> Result<u32, Unbacked> {
        let entry = self.load::<AtomicU32>(at).ok_or(Unbacked)?;
        Ok(u32::from_le(entry))
    }

    #[inline]
    fn load_u64(&self, at: Gpa) -> Result<u64, Unbacked> {
        let entry = self.load::<AtomicU64>(at).ok_or(Unbacked)?;
        Ok(u64::from_le(entry))
    }

    #[inline(always)]
    fn peek_u32(&self, place: Place, table: Gpa, offset: u64) -> Option<u32> {
        let entry = self.peek::<AtomicU32>(place, table, offset)?;
        Some(u32::from_le(entry))
    }

    #[inline(always)]
    fn peek_u64(&self, place: Place, table: Gpa, offset: u64) -> Option<u64> {
        let entry = self.peek::<AtomicU64>(place, table, offset)?;
        Some(u64::from_le(entry))
    }

    fn compare_exchange_u32(&self, at: Gpa, current: u32, new: u32) -> Exchange<u32, Unbacked> {
        let region = self.region(at).ok_or(Unbacked)?;
        let offset = region.offset(at).ok_or(Unbacked)?;
        compare_exchange_u32(&region.slice, offset, current, new)
    }

    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Unbacked> {
        let region = self.region(at).ok_or(Unbacked)?;
        let offset = region.offset(at).ok_or(Unbacked)?;
        compare_exchange_u64(&region.slice, offset, current, new)
    }
}
