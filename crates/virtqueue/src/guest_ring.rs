//! A ring reached through `GuestMemory` at each access.

use std::ops::Deref;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{AtomicAccess, Bytes, GuestAddress, GuestMemory};

use crate::descriptor::RawDescriptor;
use crate::{ActiveConfig, Area, Fault, Ring};

/// Looks every access up: for memory behind an IOMMU, with a dirty bitmap, or with areas that span
/// regions. Costs ten times and more of a [`HostRing`](crate::HostRing).
///
/// `H` is a reference or an `Arc`. A lookup that fails is a [`Fault`] of that access alone.
#[derive(Clone, Debug)]
pub struct GuestRing<H> {
    memory: H,
    areas: [u64; 3],
}

impl<H> GuestRing<H>
where
    H: Deref<Target: GuestMemory>,
{
    /// The ring that `config` places in `memory`. Nothing is looked up yet.
    pub fn new(config: &ActiveConfig, memory: H) -> Self {
        Self {
            memory,
            areas: Area::ALL.map(|area| config.address(area)),
        }
    }

    /// The memory that the ring lies in.
    pub fn memory(&self) -> &H {
        &self.memory
    }

    fn load<T: AtomicAccess>(&self, at: Place, order: Ordering) -> Result<T, Fault> {
        let address = at.address::<T>(&self.areas)?;
        self.memory.load(address, order).map_err(|_| at.fault())
    }

    fn store<T: AtomicAccess>(&self, at: Place, value: T, order: Ordering) -> Result<(), Fault> {
        let address = at.address::<T>(&self.areas)?;
        self.memory
            .store(value, address, order)
            .map_err(|_| at.fault())
    }
}

impl<H> Ring for GuestRing<H>
where
    H: Deref<Target: GuestMemory>,
{
    fn load_u16(&self, area: Area, index: usize, order: Ordering) -> Result<u16, Fault> {
        self.load(Place { area, index }, order).map(u16::from_le)
    }

    fn load_u32(&self, area: Area, index: usize, order: Ordering) -> Result<u32, Fault> {
        self.load(Place { area, index }, order).map(u32::from_le)
    }

    fn load_u64(&self, area: Area, index: usize, order: Ordering) -> Result<u64, Fault> {
        self.load(Place { area, index }, order).map(u64::from_le)
    }

    fn store_u16(&self, area: Area, index: usize, value: u16, o: Ordering) -> Result<(), Fault> {
        self.store(Place { area, index }, value.to_le(), o)
    }

    fn store_u32(&self, area: Area, index: usize, value: u32, o: Ordering) -> Result<(), Fault> {
        self.store(Place { area, index }, value.to_le(), o)
    }

    fn store_u64(&self, area: Area, index: usize, value: u64, o: Ordering) -> Result<(), Fault> {
        self.store(Place { area, index }, value.to_le(), o)
    }

    fn fence(&self) -> Result<(), Fault> {
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn read_table(&self, table: u64, into: &mut [RawDescriptor]) -> Result<(), Fault> {
        read_table(&*self.memory, table, into)
    }

    fn write_table(&self, table: u64, from: &[RawDescriptor]) -> Result<(), Fault> {
        write_table(&*self.memory, table, from)
    }
}

/// Where an access goes.
#[derive(Clone, Copy)]
struct Place {
    area: Area,
    index: usize,
}

impl Place {
    fn address<T>(self, areas: &[u64; 3]) -> Result<GuestAddress, Fault> {
        let base = areas[self.area as usize];
        // The widening is exact: usize has at most 64 bits.
        let offset = self.index as u64 * size_of::<T>() as u64;
        let address = base.checked_add(offset).ok_or_else(|| self.fault())?;
        Ok(GuestAddress(address))
    }

    fn fault(self) -> Fault {
        Fault::Ring {
            area: self.area,
            index: self.index,
        }
    }
}

/// Copies a table out of any memory.
pub(crate) fn read_table<M: GuestMemory + ?Sized>(
    memory: &M,
    table: u64,
    into: &mut [RawDescriptor],
) -> Result<(), Fault> {
    let bytes = into.as_flattened_mut();
    let mut at = table;
    // A word at a time through a buffer on the stack; a driver's tables are a few entries long.
    for words in bytes.chunks_mut(WORDS) {
        let mut buffer = [0; WORDS * 8];
        let filled = &mut buffer[..words.len() * 8];
        let read = memory.read_slice(filled, GuestAddress(at));
        read.map_err(|_| Fault::Table { table })?;
        for (word, bytes) in words.iter_mut().zip(filled.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let next = at.checked_add(filled.len() as u64);
        at = next.ok_or(Fault::Table { table })?;
    }
    Ok(())
}

/// Writes a table to any memory.
pub(crate) fn write_table<M: GuestMemory + ?Sized>(
    memory: &M,
    table: u64,
    from: &[RawDescriptor],
) -> Result<(), Fault> {
    let mut at = table;
    for words in from.as_flattened().chunks(WORDS) {
        let mut buffer = [0; WORDS * 8];
        for (word, bytes) in words.iter().zip(buffer.as_chunks_mut().0) {
            *bytes = word.to_le_bytes();
        }
        let filled = &buffer[..words.len() * 8];
        let written = memory.write_slice(filled, GuestAddress(at));
        written.map_err(|_| Fault::Table { table })?;
        let next = at.checked_add(filled.len() as u64);
        at = next.ok_or(Fault::Table { table })?;
    }
    Ok(())
}

/// Words that are copied at once.
const WORDS: usize = 32;
