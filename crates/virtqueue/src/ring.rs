//! The accesses that a queue makes to memory it shares with its peer.

use std::sync::atomic::Ordering;

use crate::Area;
use crate::descriptor::RawDescriptor;

/// Memory of one queue, shared with a peer that may change it at any time.
///
/// An index counts units of the access's width from the start of the area. Values are those of the
/// processor; the ring itself is little-endian. Implemented by [`HostRing`](crate::HostRing) and
/// [`GuestRing`](crate::GuestRing); a checker of interleavings may bring its own.
pub trait Ring {
    /// Loads 16 bits.
    ///
    /// # Errors
    ///
    /// Fails when nothing backs the place, as do all others.
    fn load_u16(&self, area: Area, index: usize, order: Ordering) -> Result<u16, Fault>;
    /// Loads 32 bits.
    ///
    /// # Errors
    ///
    /// As [`load_u16`](Self::load_u16).
    fn load_u32(&self, area: Area, index: usize, order: Ordering) -> Result<u32, Fault>;
    /// Loads 64 bits.
    ///
    /// # Errors
    ///
    /// As [`load_u16`](Self::load_u16).
    fn load_u64(&self, area: Area, index: usize, order: Ordering) -> Result<u64, Fault>;
    /// Stores 16 bits.
    ///
    /// # Errors
    ///
    /// As [`load_u16`](Self::load_u16).
    fn store_u16(&self, area: Area, index: usize, value: u16, o: Ordering) -> Result<(), Fault>;
    /// Stores 32 bits.
    ///
    /// # Errors
    ///
    /// As [`load_u16`](Self::load_u16).
    fn store_u32(&self, area: Area, index: usize, value: u32, o: Ordering) -> Result<(), Fault>;
    /// Stores 64 bits.
    ///
    /// # Errors
    ///
    /// As [`load_u16`](Self::load_u16).
    fn store_u64(&self, area: Area, index: usize, value: u64, o: Ordering) -> Result<(), Fault>;
    /// Loads the two words of descriptor `index`, in no particular order.
    ///
    /// # Errors
    ///
    /// As [`load_u16`](Self::load_u16).
    #[inline(always)]
    fn load_descriptor(&self, index: u16) -> Result<RawDescriptor, Fault> {
        let at = 2 * usize::from(index);
        let load = |at| self.load_u64(Area::Descriptors, at, Ordering::Relaxed);
        Ok([load(at)?, load(at + 1)?])
    }
    /// Stores 32 bits and 32 bits after them, in no particular order.
    ///
    /// # Errors
    ///
    /// As [`load_u16`](Self::load_u16).
    #[inline(always)]
    fn store_u32_pair(&self, area: Area, index: usize, values: [u32; 2]) -> Result<(), Fault> {
        self.store_u32(area, index, values[0], Ordering::Relaxed)?;
        self.store_u32(area, index + 1, values[1], Ordering::Relaxed)
    }
    /// Orders all that came before it ahead of all that follows, stores ahead of loads included.
    ///
    /// # Errors
    ///
    /// None in real memory; a checker may stop a run here.
    fn fence(&self) -> Result<(), Fault>;
    /// Copies an indirect table, once, from anywhere in guest memory.
    ///
    /// # Errors
    ///
    /// Fails unless memory backs all of it.
    fn read_table(&self, table: u64, into: &mut [RawDescriptor]) -> Result<(), Fault>;
    /// Writes an indirect table.
    ///
    /// # Errors
    ///
    /// As [`read_table`](Self::read_table).
    fn write_table(&self, table: u64, from: &[RawDescriptor]) -> Result<(), Fault>;
}

/// Nothing backs a place that an access went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A place in one of the areas.
    #[error("no memory behind unit {index} of the {area:?} area")]
    Ring {
        /// Which area.
        area: Area,
        /// The index of the access.
        index: usize,
    },
    /// A table of indirect descriptors.
    #[error("no memory behind the indirect table at {table:#x}")]
    Table {
        /// Where the table was to begin.
        table: u64,
    },
}
