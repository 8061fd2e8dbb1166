//! Paging structures built page by page in a memory.

use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// What entries set: those that reference a table, and leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits {
    pub(crate) table: u64,
    pub(crate) leaf: u64,
}

/// Present, writable, user, accessed; leaves dirty.
pub(crate) const X86: Bits = Bits {
    table: 0x27,
    leaf: 0x67,
};
/// All rights, accessed; leaves write-back and dirty.
pub(crate) const EPT: Bits = Bits {
    table: 0x107,
    leaf: 0x337,
};

/// One tree. Its tables have addresses in a space that lies `offset` below the ground's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    pub(crate) root: u64,
    pub(crate) levels: u32,
    pub(crate) bits: Bits,
    pub(crate) offset: u64,
}

/// Hands out pages for tables.
#[derive(Debug)]
pub(crate) struct Pages<'m> {
    pub(crate) memory: &'m GuestMemoryMmap,
    pub(crate) next: u64,
}

impl Pages<'_> {
    pub(crate) fn page(&mut self) -> u64 {
        self.next += 0x1000;
        self.next - 0x1000
    }

    /// Where the entry of `level` for `input` lies on the ground; tables are added as needed.
    pub(crate) fn entry(&mut self, tree: &Tree, input: u64, level: u32) -> u64 {
        let mut table = tree.root;
        for above in (level + 1..=tree.levels).rev() {
            let at = GuestAddress(table + tree.offset + index(input, above) * 8);
            let mut entry: u64 = self.memory.read_obj(at).unwrap();
            if entry == 0 {
                entry = (self.page() - tree.offset) | tree.bits.table;
                self.memory.write_obj(entry, at).unwrap();
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
        table + tree.offset + index(input, level) * 8
    }

    /// Maps one page of 4 KiB.
    pub(crate) fn map(&mut self, tree: &Tree, input: u64, output: u64) {
        let at = self.entry(tree, input, 1);
        let entry = output | tree.bits.leaf;
        self.memory.write_obj(entry, GuestAddress(at)).unwrap();
    }
}

fn index(input: u64, level: u32) -> u64 {
    input >> (3 + 9 * level) & 511
}
