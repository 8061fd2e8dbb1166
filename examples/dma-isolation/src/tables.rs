//! Paging structures in some memory, as the host and the guest's driver make them.

use anyhow::Result;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::world::PAGE;

/// Makes tables from an address on.
#[derive(Debug)]
pub(crate) struct Tables<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

/// Bits of second-stage entries (VT-d 9.9): read and write.
pub(crate) const SECOND: u64 = 0b11;
/// Bits of first-stage entries (VT-d 9.7): present, write, user.
pub(crate) const FIRST: u64 = 0b111;
/// Without the right to write, in either.
pub(crate) const WRITE: u64 = 0b10;

impl<'a> Tables<'a> {
    pub(crate) fn new(memory: &'a GuestMemoryMmap, next: u64) -> Self {
        Self { memory, next }
    }

    /// An empty page.
    pub(crate) fn page(&mut self) -> u64 {
        let page = self.next;
        self.next += PAGE;
        page
    }

    pub(crate) fn set(&self, at: u64, words: &[u64]) -> Result<()> {
        for (at, &word) in (at..).step_by(8).zip(words) {
            self.memory.write_obj(word, GuestAddress(at))?;
        }
        Ok(())
    }

    /// Four levels under `top` lead the page `from` to `to`.
    pub(crate) fn map(&mut self, top: u64, from: u64, to: u64, bits: u64) -> Result<()> {
        // Tables permit all; the leaf decides.
        let table_bits = bits | WRITE;
        let mut table = top;
        for level in [4_u32, 3, 2] {
            let at = table + entry(from, level);
            let found: u64 = self.memory.read_obj(GuestAddress(at))?;
            if found & 1 == 0 {
                let next = self.page();
                self.set(at, &[next | table_bits])?;
                table = next;
            } else {
                table = found & !(PAGE - 1);
            }
        }
        self.set(table + entry(from, 1), &[to | bits])
    }
}

/// Offset of an address's entry in a table of `level`.
fn entry(address: u64, level: u32) -> u64 {
    (address >> (3 + 9 * level) & 0x1ff) * 8
}
