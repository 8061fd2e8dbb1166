//! Guest RAM pinned once: what the soft TLB points into.
//!
//! This is the module through which guest addresses become host memory; a wrong pointer here is an escape.

use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::alu::Width;
use crate::code_pages::{CodePages, Seat};

/// Bytes in the pages that RAM is handed out by.
pub(crate) const PAGE: u64 = 4096;

/// The RAM of a machine, at fixed host addresses for as long as this value, or a clone of it, lives.
///
/// Clones are the same RAM. Give one to each processor of a machine: they take turns on one thread, and what one of
/// them, or a device, writes where another has decoded code, that one hears of before it runs again.
#[derive(Clone)]
pub struct Ram {
    regions: Vec<Pinned>,
    code: Rc<CodePages>,
    /// Keeps the mappings that `regions` points into.
    _memory: Rc<dyn Send>,
}

/// One region: `len` bytes at guest-physical `gpa`, mapped at host address `host`.
#[derive(Clone, Copy)]
struct Pinned {
    gpa: u64,
    len: u64,
    host: *mut u8,
}

/// A host page behind a guest page; only [`Ram`] makes one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostPage(*mut u8);

/// A region that RAM cannot be pinned from.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// Regions must start and end on page boundaries.
    #[error("the region at {gpa:#x} of {len:#x} bytes is not made of whole pages")]
    Unaligned {
        /// Where the region starts.
        gpa: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// The region has no single host mapping.
    #[error("the region at {gpa:#x} has no host address")]
    Unmapped {
        /// Where the region starts.
        gpa: u64,
    },
}

impl Ram {
    /// Pins every region of `memory`.
    ///
    /// # Errors
    ///
    /// [`RamError`] for a region that is not whole pages or has no host mapping.
    pub fn new<M>(memory: M) -> Result<Self, RamError>
    where
        M: GuestMemoryBackend + Send + 'static,
    {
        let mut regions = Vec::new();
        for region in memory.iter() {
            let (gpa, len) = (region.start_addr().0, region.len());
            if gpa % PAGE != 0 || len % PAGE != 0 {
                return Err(RamError::Unaligned { gpa, len });
            }
            let slice = region
                .as_volatile_slice()
                .map_err(|_| RamError::Unmapped { gpa })?;
            regions.push(Pinned {
                gpa,
                len,
                host: slice.ptr_guard_mut().as_ptr(),
            });
        }
        // The largest first: it is the one most walks and misses want.
        regions.sort_by_key(|region| std::cmp::Reverse(region.len));
        // The highest guest-physical address plus one.
        let ends = regions.iter().map(|region| region.gpa + region.len);
        let end = ends.max().unwrap_or(0);
        Ok(Self {
            regions,
            code: Rc::new(CodePages::new(end)),
            _memory: Rc::new(memory),
        })
    }

    /// Takes part in who has decoded code where.
    pub(crate) fn seat(&self) -> Seat {
        Seat::take(Rc::clone(&self.code))
    }

    /// The host page behind the guest page that holds `gpa`.
    #[inline]
    pub(crate) fn page(&self, gpa: u64) -> Option<HostPage> {
        let page = gpa & !(PAGE - 1);
        let region = self
            .regions
            .iter()
            .find(|region| page.wrapping_sub(region.gpa) < region.len)?;
        Some(HostPage(
            region.host.wrapping_add((page - region.gpa) as usize),
        ))
    }

    /// The naturally aligned 32-bit paging-structure entry at `gpa`.
    pub(crate) fn atomic_u32(&self, gpa: u64) -> Option<&AtomicU32> {
        let page = self.page(gpa)?;
        assert!(gpa.is_multiple_of(4));
        // SAFETY: the page is PAGE bytes of a mapping that `self` keeps, so an aligned word at `gpa` is inside it, and
        // guest RAM is never behind a Rust reference that is not atomic.
        Some(unsafe { AtomicU32::from_ptr(page.at(gpa % PAGE).cast()) })
    }

    /// The naturally aligned 64-bit paging-structure entry at `gpa`.
    pub(crate) fn atomic_u64(&self, gpa: u64) -> Option<&AtomicU64> {
        let page = self.page(gpa)?;
        assert!(gpa.is_multiple_of(8));
        // SAFETY: as in `atomic_u32`.
        Some(unsafe { AtomicU64::from_ptr(page.at(gpa % PAGE).cast()) })
    }
}

impl HostPage {
    /// Points nowhere; for TLB entries whose tags match nothing.
    pub(crate) const NONE: Self = Self(std::ptr::null_mut());

    #[inline(always)]
    fn at(self, offset: u64) -> *mut u8 {
        self.0.wrapping_add(offset as usize)
    }

    /// Loads the `T` at `offset`.
    #[inline(always)]
    pub(crate) fn load<T: Width>(self, offset: u64) -> T {
        debug_assert!(offset <= PAGE - T::BYTES as u64);
        // SAFETY: a `HostPage` spans PAGE bytes of a mapping that `Ram` keeps, and the callers in `tlb` and `memory`
        // check that `offset + T::BYTES` stays within it; `T` is a plain integer, any bytes are valid.
        unsafe { self.at(offset).cast::<T>().read_unaligned() }
    }

    /// Stores `value` at `offset`.
    #[inline(always)]
    pub(crate) fn store<T: Width>(self, offset: u64, value: T) {
        debug_assert!(offset <= PAGE - T::BYTES as u64);
        // SAFETY: as in `load`; guest RAM is never behind a Rust reference.
        unsafe {
            self.at(offset).cast::<T>().write_unaligned(value);
        }
    }

    /// Copies `bytes.len()` bytes at `offset` out of the page.
    pub(crate) fn read(self, offset: u64, bytes: &mut [u8]) {
        assert!(offset + bytes.len() as u64 <= PAGE);
        // SAFETY: the assertion keeps the source inside the page; `bytes` is not guest RAM, so they do not overlap.
        unsafe {
            self.at(offset)
                .copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len());
        }
    }

    /// Copies `bytes` into the page at `offset`.
    pub(crate) fn write(self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= PAGE);
        // SAFETY: as in `read`.
        unsafe {
            self.at(offset)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    /// Copies `len` bytes from `source` at `from` to `self` at `to`, in ascending order only where that is
    /// the same as a plain copy: the caller has excluded an overlap.
    pub(crate) fn copy_from(self, to: u64, source: Self, from: u64, len: usize) {
        assert!(to + len as u64 <= PAGE && from + len as u64 <= PAGE);
        // SAFETY: the assertion keeps both ranges inside their pages; `copy` allows any overlap.
        unsafe {
            self.at(to).copy_from(source.at(from), len);
        }
    }

    /// Fills `len` bytes at `offset` with `byte`.
    pub(crate) fn fill(self, offset: u64, byte: u8, len: usize) {
        assert!(offset + len as u64 <= PAGE);
        // SAFETY: the assertion keeps the range inside the page.
        unsafe { self.at(offset).write_bytes(byte, len) }
    }
}

impl fmt::Debug for Ram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let regions = self.regions.iter().map(|region| (region.gpa, region.len));
        f.debug_map().entries(regions).finish()
    }
}
