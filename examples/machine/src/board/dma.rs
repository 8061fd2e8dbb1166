//! Guest memory as the board's devices see it: through the remapping unit, where there is one. What they
//! write is noted, because the processor may have decoded code there.

use std::iter::FusedIterator;
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::guest_memory::{GuestMemoryBackendSliceIterator, GuestMemorySliceIterator};
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, GuestMemoryResult, Iommu,
    Permissions, VolatileSlice,
};
use vtd::{DeviceView, SourceId, Unit};

use crate::kernel::Ram;

/// RAM for devices.
#[derive(Debug)]
pub(super) struct Dma {
    ram: Ram,
    view: Option<DeviceView<Ram>>,
    written: Mutex<Vec<Written>>,
}

/// A stretch of memory: first address and length.
pub(super) type Written = (u64, u64);

impl Dma {
    /// Memory as it is.
    pub(super) fn new(ram: Ram) -> Self {
        Self {
            ram,
            view: None,
            written: Mutex::new(Vec::new()),
        }
    }

    /// Memory as `source` sees it through `unit`.
    pub(super) fn behind(unit: Arc<Mutex<Unit>>, ram: Ram, source: SourceId) -> Self {
        let view = DeviceView::new(unit, ram.clone(), source);
        Self {
            view: Some(view),
            ..Self::new(ram)
        }
    }

    /// A stretch that was written since it was last taken; `None` when all are.
    pub(super) fn take_written(&self) -> Option<Written> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.pop()
    }

    /// Says that a stretch was written, by whoever did.
    pub(super) fn note(&self, start: u64, length: u64) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match written.last_mut() {
            Some(last) if last.0 + last.1 == start => last.1 += length,
            _ => written.push((start, length)),
        }
    }

    /// Where a range leads to, piece by piece.
    fn pieces(
        &self,
        start: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> GuestMemoryResult<Pieces> {
        let Some(view) = &self.view else {
            return Ok(Pieces::Whole(Some((start, count))));
        };
        let found = view.translate(start, count, access);
        let found = found.map_err(GuestMemoryError::IommuError)?;
        let pieces: Vec<_> = found.map(|piece| (piece.base, piece.length)).collect();
        Ok(Pieces::Several(pieces.into_iter()))
    }
}

impl GuestMemory for Dma {
    type PhysicalMemory = Ram;
    type Bitmap = ();

    fn check_range(&self, start: GuestAddress, count: usize, access: Permissions) -> bool {
        self.pieces(start, count, access).is_ok_and(|mut pieces| {
            pieces.all(|(at, length)| GuestMemory::check_range(&self.ram, at, length, access))
        })
    }

    fn get_slices<'a>(
        &'a self,
        start: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> GuestMemoryResult<impl GuestMemorySliceIterator<'a, ()>> {
        Ok(Slices {
            memory: self,
            pieces: self.pieces(start, count, access)?,
            current: None,
            writes: access.has_write(),
        })
    }
}

/// Pieces of guest-physical memory: first address and length.
enum Pieces {
    Whole(Option<(GuestAddress, usize)>),
    Several(std::vec::IntoIter<(GuestAddress, usize)>),
}

impl Iterator for Pieces {
    type Item = (GuestAddress, usize);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Whole(piece) => piece.take(),
            Self::Several(pieces) => pieces.next(),
        }
    }
}

/// The host's slices of some pieces.
struct Slices<'a> {
    memory: &'a Dma,
    pieces: Pieces,
    current: Option<GuestMemoryBackendSliceIterator<'a, Ram>>,
    writes: bool,
}

impl<'a> Iterator for Slices<'a> {
    type Item = GuestMemoryResult<VolatileSlice<'a, ()>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(slice) = self.current.as_mut().and_then(Iterator::next) {
                if slice.is_err() {
                    (self.current, self.pieces) = (None, Pieces::Whole(None));
                }
                return Some(slice);
            }
            let (start, length) = self.pieces.next()?;
            if self.writes {
                self.memory.note(start.0, length as u64);
            }
            let ram = &self.memory.ram;
            self.current = Some(GuestMemoryBackend::get_slices(ram, start, length));
        }
    }
}

impl FusedIterator for Slices<'_> {}
impl<'a> GuestMemorySliceIterator<'a, ()> for Slices<'a> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::allocate_ram;
    use vm_memory::Bytes;

    #[test]
    fn writes_are_noted_and_reads_are_not() {
        let memory = Dma::new(allocate_ram(1 << 20).unwrap());
        let _: u32 = memory.read_obj(GuestAddress(0x100)).unwrap();
        assert_eq!(memory.take_written(), None);
        memory.write_slice(&[1, 2, 3], GuestAddress(0x200)).unwrap();
        memory.write_obj(7u16, GuestAddress(0x203)).unwrap();
        memory.write_obj(7u16, GuestAddress(0x300)).unwrap();
        assert_eq!(memory.take_written(), Some((0x300, 2)));
        assert_eq!(memory.take_written(), Some((0x200, 5)));
        assert_eq!(memory.take_written(), None);
        memory
            .write_obj(7u16, GuestAddress(1 << 20))
            .expect_err("past the end of RAM");
    }
}
