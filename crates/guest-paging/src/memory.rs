//! What a walk asks of memory: aligned, atomic entries.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vm_memory::bitmap::{BS, BitmapSlice};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions, VolatileMemory, VolatileSlice};

use crate::Gpa;

/// What a compare-exchange answers: outside, whether memory is there; inside, `Ok` with the old value
/// if it was exchanged, `Err` with the value found if not.
pub type Exchange<V, E> = Result<Result<V, V>, E>;

/// The memory that paging structures lie in.
///
/// A walk asks only for naturally aligned addresses below 2^52 + 2^12. Values are the little-endian
/// entries as numbers. Another translation stage can be a `TableMemory` too: its error is then that
/// stage's fault.
pub trait TableMemory {
    /// Why an entry cannot be reached; [`Unbacked`] where nothing but absence is possible.
    type Error;

    /// Loads a 32-bit entry in one access.
    ///
    /// # Errors
    ///
    /// Returns the reason why no memory answers at `at`.
    fn load_u32(&self, at: Gpa) -> Result<u32, Self::Error>;

    /// Loads a 64-bit entry in one access.
    ///
    /// # Errors
    ///
    /// Returns the reason why no memory answers at `at`.
    fn load_u64(&self, at: Gpa) -> Result<u64, Self::Error>;

    /// Loads the 32-bit entry that lies `offset` bytes into `table` if that can be done at once.
    /// `None` says nothing of the memory: the walk asks again with [`load_u32`](Self::load_u32).
    #[inline(always)]
    fn peek_u32(&self, place: Place, table: Gpa, offset: u64) -> Option<u32> {
        let _ = place;
        self.load_u32(Gpa(table.0 + offset)).ok()
    }

    /// Loads the 64-bit entry that lies `offset` bytes into `table` if that can be done at once.
    /// `None` says nothing of the memory: the walk asks again with [`load_u64`](Self::load_u64).
    #[inline(always)]
    fn peek_u64(&self, place: Place, table: Gpa, offset: u64) -> Option<u64> {
        let _ = place;
        self.load_u64(Gpa(table.0 + offset)).ok()
    }

    /// Replaces the 32-bit entry by `new` if it still is `current`, in one access.
    ///
    /// # Errors
    ///
    /// Returns the reason why no memory answers at `at`.
    fn compare_exchange_u32(&self, at: Gpa, current: u32, new: u32) -> Exchange<u32, Self::Error>;

    /// Replaces the 64-bit entry by `new` if it still is `current`, in one access.
    ///
    /// # Errors
    ///
    /// Returns the reason why no memory answers at `at`.
    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Self::Error>;
}

/// Where a walk peeks: in one place for all its entries, and then in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Where tables are looked for first.
    First,
    /// Where they are if not there.
    Second,
}

impl<M: TableMemory + ?Sized> TableMemory for &M {
    type Error = M::Error;

    #[inline(always)]
    fn load_u32(&self, at: Gpa) -> Result<u32, Self::Error> {
        (**self).load_u32(at)
    }

    #[inline(always)]
    fn load_u64(&self, at: Gpa) -> Result<u64, Self::Error> {
        (**self).load_u64(at)
    }

    #[inline(always)]
    fn peek_u32(&self, place: Place, table: Gpa, offset: u64) -> Option<u32> {
        (**self).peek_u32(place, table, offset)
    }

    #[inline(always)]
    fn peek_u64(&self, place: Place, table: Gpa, offset: u64) -> Option<u64> {
        (**self).peek_u64(place, table, offset)
    }

    fn compare_exchange_u32(&self, at: Gpa, current: u32, new: u32) -> Exchange<u32, Self::Error> {
        (**self).compare_exchange_u32(at, current, new)
    }

    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Self::Error> {
        (**self).compare_exchange_u64(at, current, new)
    }
}

/// No memory backs the address. What a read of nothing gives is the machine's decision; a PC
/// answers with all ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("no memory backs the entry")]
pub struct Unbacked;

/// Any [`GuestMemory`], searched for the region at each access.
///
/// Several times slower than [`PinnedMemory`](crate::PinnedMemory), but sees regions come and go
/// and works behind an IOMMU.
#[derive(Clone, Copy, Debug)]
pub struct SearchedMemory<'m, M: ?Sized>(pub &'m M);

impl<'m, M: GuestMemory + ?Sized> SearchedMemory<'m, M> {
    fn slice(
        &self,
        at: Gpa,
        size: usize,
    ) -> Result<VolatileSlice<'m, BS<'m, M::Bitmap>>, Unbacked> {
        let slices = self
            .0
            .get_slices(GuestAddress(at.0), size, Permissions::ReadWrite);
        slices
            .ok()
            .and_then(|mut slices| slices.next()?.ok())
            .ok_or(Unbacked)
    }
}

impl<M: GuestMemory + ?Sized> TableMemory for SearchedMemory<'_, M> {
    type Error = Unbacked;

    fn load_u32(&self, at: Gpa) -> Result<u32, Unbacked> {
        let entry = self.0.load(GuestAddress(at.0), Ordering::Relaxed);
        entry.map(u32::from_le).map_err(|_| Unbacked)
    }

    fn load_u64(&self, at: Gpa) -> Result<u64, Unbacked> {
        let entry = self.0.load(GuestAddress(at.0), Ordering::Relaxed);
        entry.map(u64::from_le).map_err(|_| Unbacked)
    }

    fn compare_exchange_u32(&self, at: Gpa, current: u32, new: u32) -> Exchange<u32, Unbacked> {
        compare_exchange_u32(&self.slice(at, size_of::<u32>())?, 0, current, new)
    }

    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Unbacked> {
        compare_exchange_u64(&self.slice(at, size_of::<u64>())?, 0, current, new)
    }
}

/// `offset` is in bytes from the start of `slice`.
pub(crate) fn compare_exchange_u32<B: BitmapSlice>(
    slice: &VolatileSlice<'_, B>,
    offset: usize,
    current: u32,
    new: u32,
) -> Exchange<u32, Unbacked> {
    let entry: &AtomicU32 = slice.get_atomic_ref(offset).map_err(|_| Unbacked)?;
    let (current, new) = (current.to_le(), new.to_le());
    let exchanged = entry.compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed);
    if exchanged.is_ok() {
        slice.bitmap().mark_dirty(offset, size_of::<u32>());
    }
    Ok(exchanged.map(u32::from_le).map_err(u32::from_le))
}

/// `offset` is in bytes from the start of `slice`.
pub(crate) fn compare_exchange_u64<B: BitmapSlice>(
    slice: &VolatileSlice<'_, B>,
    offset: usize,
    current: u64,
    new: u64,
) -> Exchange<u64, Unbacked> {
    let entry: &AtomicU64 = slice.get_atomic_ref(offset).map_err(|_| Unbacked)?;
    let (current, new) = (current.to_le(), new.to_le());
    let exchanged = entry.compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed);
    if exchanged.is_ok() {
        slice.bitmap().mark_dirty(offset, size_of::<u64>());
    }
    Ok(exchanged.map(u64::from_le).map_err(u64::from_le))
}
