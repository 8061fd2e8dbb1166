//! Guest memory as the board's devices see it: what they write is noted, because the processor may
//! have decoded code there.

use std::cell::RefCell;

use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryResult, Permissions};

use crate::kernel::Ram;

/// RAM for devices.
#[derive(Debug)]
pub(super) struct Dma {
    ram: Ram,
    written: RefCell<Vec<Written>>,
}

/// A stretch of memory: first address and length.
pub(super) type Written = (u64, u64);

impl Dma {
    pub(super) fn new(ram: Ram) -> Self {
        Self {
            ram,
            written: RefCell::new(Vec::new()),
        }
    }

    /// A stretch that was written since it was last taken; `None` when all are.
    pub(super) fn take_written(&self) -> Option<Written> {
        self.written.borrow_mut().pop()
    }

    fn note(&self, start: u64, length: u64) {
        let mut written = self.written.borrow_mut();
        match written.last_mut() {
            Some(last) if last.0 + last.1 == start => last.1 += length,
            _ => written.push((start, length)),
        }
    }
}

impl GuestMemory for Dma {
    type PhysicalMemory = Ram;
    type Bitmap = ();

    fn check_range(&self, start: GuestAddress, count: usize, access: Permissions) -> bool {
        GuestMemory::check_range(&self.ram, start, count, access)
    }

    fn get_slices<'a>(
        &'a self,
        start: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> GuestMemoryResult<impl GuestMemorySliceIterator<'a, ()>> {
        let slices = GuestMemory::get_slices(&self.ram, start, count, access)?;
        if access.has_write() {
            self.note(start.0, count as u64);
        }
        Ok(slices)
    }
}

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
