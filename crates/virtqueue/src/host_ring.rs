//! A ring whose three areas were looked up once. All `unsafe` of the crate is in this file.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use vm_memory::{
    AtomicInteger, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, VolatileMemory,
    VolatileSlice,
};

use crate::config::{ActiveConfig, Area, ConfigError, Layout};
use crate::descriptor::RawDescriptor;
use crate::guest_ring::{read_table, write_table};
use crate::{Fault, Ring};

/// Loads and stores go straight to the host's mapping of each area.
///
/// Each area must lie in one region. The memory must have no dirty bitmap, since nothing would
/// mark it; use a [`GuestRing`](crate::GuestRing) then. The handle keeps the mappings alive: a region
/// that is unplugged later stays mapped until the ring is dropped.
#[derive(Debug)]
pub struct HostRing<H: MemoryHandle> {
    memory: H,
    descriptors: Words<AtomicU64>,
    // Two views of the same bytes each; a view that the layout does not use is empty.
    driver_u16: Words<AtomicU16>,
    driver_u32: Words<AtomicU32>,
    device_u16: Words<AtomicU16>,
    device_u32: Words<AtomicU32>,
}

impl<H: MemoryHandle> HostRing<H> {
    /// Looks up the areas of `config` in `memory`.
    ///
    /// # Errors
    ///
    /// Fails when an area is not in one region, and when the host's mapping of it is not aligned.
    pub fn new(config: &ActiveConfig, memory: H) -> Result<Self, ConfigError> {
        let backend = memory.backend();
        // The available ring of a split queue need not be aligned to more than two bytes.
        let (driver_u16, driver_u32) = match config.config().layout {
            Layout::Split => (Words::new(config, Area::Driver, backend)?, Words::EMPTY),
            Layout::Packed => (Words::EMPTY, Words::new(config, Area::Driver, backend)?),
        };
        Ok(Self {
            descriptors: Words::new(config, Area::Descriptors, backend)?,
            driver_u16,
            driver_u32,
            device_u16: Words::new(config, Area::Device, backend)?,
            device_u32: Words::new(config, Area::Device, backend)?,
            memory,
        })
    }

    /// The memory that the ring lies in.
    pub fn memory(&self) -> &H {
        &self.memory
    }

    #[inline(always)]
    fn u16_at(&self, area: Area, index: usize) -> Result<&AtomicU16, Fault> {
        let words = match area {
            Area::Descriptors => &Words::EMPTY,
            Area::Driver => &self.driver_u16,
            Area::Device => &self.device_u16,
        };
        words.at(area, index)
    }

    #[inline(always)]
    fn u32_at(&self, area: Area, index: usize) -> Result<&AtomicU32, Fault> {
        let words = match area {
            Area::Descriptors => &Words::EMPTY,
            Area::Driver => &self.driver_u32,
            Area::Device => &self.device_u32,
        };
        words.at(area, index)
    }

    #[inline(always)]
    fn u64_at(&self, area: Area, index: usize) -> Result<&AtomicU64, Fault> {
        let words = match area {
            Area::Descriptors => &self.descriptors,
            Area::Driver | Area::Device => &Words::EMPTY,
        };
        words.at(area, index)
    }
}

impl<H: MemoryHandle> Ring for HostRing<H> {
    #[inline(always)]
    fn load_u16(&self, area: Area, index: usize, order: Ordering) -> Result<u16, Fault> {
        Ok(u16::from_le(self.u16_at(area, index)?.load(order)))
    }

    #[inline(always)]
    fn load_u32(&self, area: Area, index: usize, order: Ordering) -> Result<u32, Fault> {
        Ok(u32::from_le(self.u32_at(area, index)?.load(order)))
    }

    #[inline(always)]
    fn load_u64(&self, area: Area, index: usize, order: Ordering) -> Result<u64, Fault> {
        Ok(u64::from_le(self.u64_at(area, index)?.load(order)))
    }

    #[inline(always)]
    fn store_u16(&self, area: Area, index: usize, value: u16, o: Ordering) -> Result<(), Fault> {
        self.u16_at(area, index)?.store(value.to_le(), o);
        Ok(())
    }

    #[inline(always)]
    fn store_u32(&self, area: Area, index: usize, value: u32, o: Ordering) -> Result<(), Fault> {
        self.u32_at(area, index)?.store(value.to_le(), o);
        Ok(())
    }

    #[inline(always)]
    fn store_u64(&self, area: Area, index: usize, value: u64, o: Ordering) -> Result<(), Fault> {
        self.u64_at(area, index)?.store(value.to_le(), o);
        Ok(())
    }

    #[inline(always)]
    fn load_descriptor(&self, index: u16) -> Result<RawDescriptor, Fault> {
        let at = 2 * usize::from(index);
        let words = self.descriptors.pair_at(Area::Descriptors, at)?;
        Ok([&words[0], &words[1]].map(|word| u64::from_le(word.load(Ordering::Relaxed))))
    }

    #[inline(always)]
    fn store_u32_pair(&self, area: Area, index: usize, values: [u32; 2]) -> Result<(), Fault> {
        let words = match area {
            Area::Descriptors => &Words::EMPTY,
            Area::Driver => &self.driver_u32,
            Area::Device => &self.device_u32,
        };
        let words = words.pair_at(area, index)?;
        words[0].store(values[0].to_le(), Ordering::Relaxed);
        words[1].store(values[1].to_le(), Ordering::Relaxed);
        Ok(())
    }

    #[inline(always)]
    fn fence(&self) -> Result<(), Fault> {
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn read_table(&self, table: u64, into: &mut [RawDescriptor]) -> Result<(), Fault> {
        read_table(self.memory.backend(), table, into)
    }

    fn write_table(&self, table: u64, from: &[RawDescriptor]) -> Result<(), Fault> {
        write_table(self.memory.backend(), table, from)
    }
}

/// A way to hold guest memory that keeps it where it is: `&M` or `Arc<M>`.
pub trait MemoryHandle: sealed::Sealed {
    /// The memory.
    type Backend: GuestMemoryBackend<R: GuestMemoryRegion<B = ()>>;

    /// The memory itself.
    fn backend(&self) -> &Self::Backend;
}

impl<M: GuestMemoryBackend<R: GuestMemoryRegion<B = ()>>> MemoryHandle for &M {
    type Backend = M;

    fn backend(&self) -> &M {
        self
    }
}

impl<M: GuestMemoryBackend<R: GuestMemoryRegion<B = ()>>> MemoryHandle for Arc<M> {
    type Backend = M;

    fn backend(&self) -> &M {
        self
    }
}

mod sealed {
    /// `HostRing` relies on a handle's memory staying borrowable for as long as the handle lives.
    #[expect(unnameable_types, reason = "nobody else may implement it")]
    pub trait Sealed {}
    impl<M> Sealed for &M {}
    impl<M> Sealed for std::sync::Arc<M> {}
}

/// An array of atomics in the host's mapping of guest memory. Private to this file: it is only ever
/// a field of a [`HostRing`], whose handle outlives every reference that [`words`](Self::words) gives out.
#[derive(Debug)]
struct Words<A>(NonNull<[A]>);

impl<A: AtomicInteger> Words<A> {
    const EMPTY: Self = Self(NonNull::slice_from_raw_parts(NonNull::dangling(), 0));

    fn new<M>(config: &ActiveConfig, area: Area, memory: &M) -> Result<Self, ConfigError>
    where
        M: GuestMemoryBackend<R: GuestMemoryRegion<B = ()>>,
    {
        let address = config.address(area);
        let slice: VolatileSlice<'_, ()> = memory
            .get_slice(GuestAddress(address), config.length(area))
            .map_err(|_| ConfigError::NotInMemory { area, address })?;
        // Checks the host's alignment; the guest's was checked on activation.
        let first = slice.get_atomic_ref::<A>(0);
        let first = first.map_err(|_| ConfigError::Misaligned {
            area,
            address,
            alignment: config.alignment(area),
        })?;
        let count = slice.len() / size_of::<A>();
        // The pointer is the slice's own, so that it may reach all of it.
        debug_assert_eq!(std::ptr::from_ref(first).cast(), slice.ptr_guard().as_ptr());
        let start = NonNull::new(slice.ptr_guard_mut().as_ptr().cast::<A>());
        let start = start.ok_or(ConfigError::NotInMemory { area, address })?;
        Ok(Self(NonNull::slice_from_raw_parts(start, count)))
    }

    #[inline(always)]
    fn at(&self, area: Area, index: usize) -> Result<&A, Fault> {
        let word = self.words().get(index);
        word.ok_or(Fault::Ring { area, index })
    }

    /// Two that follow each other, with one check.
    #[inline(always)]
    fn pair_at(&self, area: Area, index: usize) -> Result<&[A; 2], Fault> {
        let words = self.words().get(index..).and_then(<[A]>::first_chunk);
        words.ok_or(Fault::Ring { area, index })
    }

    #[inline(always)]
    fn words(&self) -> &[A] {
        // SAFETY: `new` took start and count from a slice of guest memory and checked the alignment
        // of `A`, for which every bit pattern is valid. The mapping stays: the `HostRing` holds a
        // `MemoryHandle`, that is a shared borrow of the memory or a share of its `Arc`, so nobody
        // can move or drop the memory. An empty slice may dangle. Shared access is sound because
        // `A` is an atomic, and whoever else writes there is the guest or goes through atomics.
        unsafe { self.0.as_ref() }
    }
}

// SAFETY: a `Words` is a shared reference to atomics, which are `Sync`; the memory they lie in is
// kept by the handle beside it, whose own `Send` the ring inherits.
unsafe impl<A: Sync> Send for Words<A> {}

// SAFETY: as above: all that `&Words` gives out is `&A`.
unsafe impl<A: Sync> Sync for Words<A> {}
