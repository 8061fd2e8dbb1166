//! One chain of buffers, copied out of the ring and checked.

use std::iter;

use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError};

use crate::descriptor::RawDescriptor;
use crate::{ActiveConfig, Fault};

/// One buffer: a contiguous piece of guest memory, never empty. Whether memory backs it is only
/// known when it is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address of the first byte.
    pub address: GuestAddress,
    /// Length in bytes; `address` plus this does not wrap.
    pub length: u32,
}

/// The buffers of one chain, device-readable ones first, held in storage that is reused.
///
/// Filled by a pop; what the driver does to the ring afterwards changes nothing here.
#[derive(Clone, Debug)]
pub struct Chain {
    /// As many as the queue has descriptors; those from `extent.count()` on are left over.
    segments: Box<[Segment]>,
    extent: Extent,
    /// The private copy of an indirect table.
    pub(crate) table: Vec<RawDescriptor>,
}

/// What a driver got wrong in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// More buffers than the queue has descriptors, which a loop leads to as well.
    #[error("chain is longer than the queue or loops")]
    TooLong,
    /// The next field points outside the table.
    #[error("next descriptor {next} is not in the table")]
    NextOutOfRange {
        /// The index.
        next: u16,
    },
    /// A buffer for the device to read after one for it to write.
    #[error("readable buffer after a writable one")]
    ReadableAfterWritable,
    /// A buffer without a byte.
    #[error("buffer of length zero")]
    Empty,
    /// A buffer reaches past the end of the address space.
    #[error("buffer at {address:#x} wraps around")]
    Wraps {
        /// Where the buffer begins.
        address: u64,
    },
    /// 4 GiB or more in one chain, which a used length could not say.
    #[error("chain has 4 GiB or more")]
    TooLarge,
    /// An indirect descriptor in a queue without `VIRTIO_F_INDIRECT_DESC`.
    #[error("indirect descriptor was not negotiated")]
    IndirectNotNegotiated,
    /// An indirect descriptor in an indirect table.
    #[error("indirect descriptor in an indirect table")]
    NestedIndirect,
    /// An indirect descriptor that is not the only one of its chain.
    #[error("indirect descriptor with a next descriptor, or after another")]
    IndirectInChain,
    /// A table that is empty, no multiple of 16 bytes, or longer than the queue.
    #[error("indirect table of {bytes} bytes")]
    TableLength {
        /// Its length.
        bytes: u32,
    },
    /// A packed chain goes on in a descriptor that is not available.
    #[error("chain goes on in a descriptor that is not available")]
    NotAvailable,
    /// No memory behind an indirect table.
    #[error("indirect table cannot be read")]
    Fault(#[source] Fault),
}

impl Chain {
    /// Room for any chain of a queue. The only allocation there is.
    #[must_use]
    pub fn new(config: &ActiveConfig) -> Self {
        let limit = usize::from(config.config().size);
        let indirect = config.config().features.indirect;
        let nothing = Segment {
            address: GuestAddress(0),
            length: 0,
        };
        Self {
            segments: vec![nothing; limit].into_boxed_slice(),
            extent: Extent::default(),
            table: vec![[0; 2]; if indirect { limit } else { 0 }],
        }
    }

    /// Buffers that the device reads.
    #[must_use]
    pub fn readable(&self) -> &[Segment] {
        &self.segments[..self.extent.readable()]
    }

    /// Buffers that the device writes.
    #[must_use]
    pub fn writable(&self) -> &[Segment] {
        &self.segments[self.extent.readable()..self.extent.count()]
    }

    /// Sum of the lengths of [`readable`](Self::readable), below 4 GiB.
    #[must_use]
    #[inline(always)]
    pub fn readable_bytes(&self) -> u64 {
        self.extent.readable_bytes().into()
    }

    /// Sum of the lengths of [`writable`](Self::writable), below 4 GiB.
    #[must_use]
    #[inline(always)]
    pub fn writable_bytes(&self) -> u64 {
        self.extent.writable_bytes().into()
    }

    /// Copies from the readable buffers, `skip` bytes in. Answers how many bytes there were, at most
    /// the length of `into`.
    ///
    /// # Errors
    ///
    /// Fails when a buffer is not in memory; part of `into` may be filled then.
    pub fn read<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        skip: u64,
        into: &mut [u8],
    ) -> Result<usize, GuestMemoryError> {
        let mut done = 0;
        for (address, length) in pieces(self.readable(), skip, into.len()) {
            memory.read_slice(&mut into[done..done + length], address)?;
            done += length;
        }
        Ok(done)
    }

    /// Copies to the writable buffers, `skip` bytes in. Answers how many bytes there was room for.
    ///
    /// # Errors
    ///
    /// Fails when a buffer is not in memory; part of `from` may be written then.
    pub fn write<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        skip: u64,
        from: &[u8],
    ) -> Result<usize, GuestMemoryError> {
        let mut done = 0;
        for (address, length) in pieces(self.writable(), skip, from.len()) {
            memory.write_slice(&from[done..done + length], address)?;
            done += length;
        }
        Ok(done)
    }

    /// That the device wrote no more than there is room for.
    #[inline(always)]
    pub(crate) fn assert_fits(&self, written: u32) {
        assert!(
            written <= self.extent.writable_bytes(),
            "a device writes at most what is writable"
        );
    }

    /// Forgets what was there and takes the first buffer. Nothing old is read: most chains end here.
    #[inline(always)]
    pub(crate) fn begin(
        &mut self,
        address: u64,
        length: u32,
        write: bool,
    ) -> Result<(), ChainError> {
        self.segments[0] = Segment::new(address, length)?;
        self.extent = Extent::of_one(length, write);
        Ok(())
    }

    /// Forgets what was there.
    pub(crate) fn clear(&mut self) {
        self.extent = Extent::default();
    }

    /// Takes one more buffer. Refuses one too many, and so bounds whatever loop calls it.
    #[inline]
    pub(crate) fn push(
        &mut self,
        address: u64,
        length: u32,
        write: bool,
    ) -> Result<(), ChainError> {
        let place = self.segments.get_mut(self.extent.count());
        let place = place.ok_or(ChainError::TooLong)?;
        *place = Segment::new(address, length)?;
        self.extent = self.extent.with(length, write)?;
        Ok(())
    }
}

/// How many buffers there are and what they hold, in two words: each store to memory takes its time,
/// and most chains have one buffer.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    /// Readable buffers, and above them all buffers. At most 32768 each.
    buffers: u32,
    /// Their bytes: readable, and above them writable. Below 4 GiB together.
    bytes: u64,
}

impl Extent {
    #[inline(always)]
    fn of_one(length: u32, write: bool) -> Self {
        let length = u64::from(length);
        if write {
            Self {
                buffers: 1 << 16,
                bytes: length << 32,
            }
        } else {
            Self {
                buffers: 1 << 16 | 1,
                bytes: length,
            }
        }
    }

    /// With one buffer more.
    #[inline(always)]
    fn with(self, length: u32, write: bool) -> Result<Self, ChainError> {
        if !write && self.writable_bytes() != 0 {
            return Err(ChainError::ReadableAfterWritable);
        }
        let so_far = self.readable_bytes().checked_add(self.writable_bytes());
        let fits = so_far.and_then(|bytes| bytes.checked_add(length));
        fits.ok_or(ChainError::TooLarge)?;
        let more = Self::of_one(length, write);
        Ok(Self {
            buffers: self.buffers + more.buffers,
            bytes: self.bytes + more.bytes,
        })
    }

    #[inline(always)]
    fn readable(self) -> usize {
        usize::try_from(self.buffers & 0xffff).unwrap_or(0)
    }

    #[inline(always)]
    fn count(self) -> usize {
        usize::try_from(self.buffers >> 16).unwrap_or(0)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    fn readable_bytes(self) -> u32 {
        self.bytes as u32
    }

    #[inline(always)]
    fn writable_bytes(self) -> u32 {
        (self.bytes >> 32) as u32
    }
}

impl Segment {
    #[inline(always)]
    fn new(address: u64, length: u32) -> Result<Self, ChainError> {
        if length == 0 {
            return Err(ChainError::Empty);
        }
        if address.checked_add(u64::from(length)).is_none() {
            return Err(ChainError::Wraps { address });
        }
        Ok(Self {
            address: GuestAddress(address),
            length,
        })
    }
}

/// The contiguous pieces of at most `count` bytes that begin `skip` bytes into `segments`.
fn pieces(
    segments: &[Segment],
    mut skip: u64,
    mut count: usize,
) -> impl Iterator<Item = (GuestAddress, usize)> {
    let mut segments = segments.iter();
    iter::from_fn(move || {
        while count > 0 {
            let segment = segments.next()?;
            let length = u64::from(segment.length);
            if skip >= length {
                skip -= length;
                continue;
            }
            let address = GuestAddress(segment.address.0 + skip);
            let there = usize::try_from(length - skip).unwrap_or(usize::MAX);
            skip = 0;
            let taken = there.min(count);
            count -= taken;
            return Some((address, taken));
        }
        None
    })
}
