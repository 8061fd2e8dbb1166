//! What the engine asks of the machine, and what it tells the processor.

use super::entry::ShadowEntry;
use super::store::TableId;
use crate::address::Hpa;
use crate::{Gpa, Gva};

/// Where guest frames lie in the machine.
pub trait MachineMap {
    /// The piece of the machine that holds `gpa`; `None` where the guest has no memory, as at a
    /// device.
    fn block(&self, gpa: Gpa) -> Option<Block>;
}

/// A page of guest memory as the machine has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Where the 4 KiB page of the address asked for lies.
    pub frame: Hpa,
    /// All 2 MiB around the address asked for lie in one aligned large page, and may be mapped so.
    pub large: bool,
    /// The guest may write to it.
    pub writable: bool,
}

/// Takes what the engine produces: a processor that walks the shadow tables, or a software TLB.
///
/// A processor needs [`write_entry`](Self::write_entry) in memory that it can walk; a software TLB
/// needs [`flush`](Self::flush) alone and asks [`Shadow::lookup`](super::Shadow::lookup) on a miss.
pub trait ShadowSink {
    /// An entry of a shadow table has changed. The entries of a table that was not heard of are all
    /// absent, and those of a freed table have become so one by one.
    fn write_entry(&mut self, table: TableId, index: u32, entry: ShadowEntry);

    /// Walks begin here from now on. `tag` stands for the root and can serve as hardware PCID: it is
    /// below the count of cached roots.
    fn load_root(&mut self, root: TableId, tag: u16);

    /// Translations in this scope that were read from the tables before must not be used any more.
    fn flush(&mut self, scope: Flush);
}

/// Which translations a TLB must forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flush {
    /// All of every root.
    All,
    /// All of the root with this tag.
    Root(u16),
    /// Those of addresses that an entry covers, in every root.
    Range {
        /// Where the range begins, as a canonical address.
        base: Gva,
        /// Bytes in it.
        size: u64,
    },
}

/// Listens to nothing.
impl ShadowSink for () {
    fn write_entry(&mut self, _: TableId, _: u32, _: ShadowEntry) {}
    fn load_root(&mut self, _: TableId, _: u16) {}
    fn flush(&mut self, _: Flush) {}
}
