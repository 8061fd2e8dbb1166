//! What can be chosen, and what is counted.

/// The sizes and choices of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// Guest frames, counted from address 0, holes included. An address above them is a device's.
    pub frames: u32,
    /// Shadow tables, at least [`TABLES_MIN`] and at most [`TABLES_LIMIT`]; 10,264 bytes each.
    pub tables_max: u32,
    /// Roots that survive a switch.
    pub roots: RootPolicy,
    /// Whether page tables may get out of step.
    pub sync: SyncPolicy,
    /// What becomes of an entry that the guest overwrote.
    pub writes: WritePolicy,
    /// A table that the guest writes to so often without an access through it is no table any more,
    /// and is given up. 0 gives up none.
    pub flood_writes: u16,
    /// Map 2 MiB at once where guest and machine both have large pages.
    pub large_pages: bool,
}

impl Config {
    /// Caches 16 roots, lets page tables get out of step, updates on a write, and uses large pages.
    pub fn new(frames: u32, tables_max: u32) -> Self {
        Self {
            frames,
            tables_max,
            roots: RootPolicy::Cache(16),
            sync: SyncPolicy::OutOfSync,
            writes: WritePolicy::Update,
            flood_writes: 0,
            large_pages: true,
        }
    }
}

/// Which shadow tables survive a load of CR3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RootPolicy {
    /// None: all are discarded and filled anew.
    DiscardOnSwitch,
    /// Those of so many roots, told apart by table and PCID, the longest unused going first. At least
    /// 1.
    Cache(u16),
}

/// How a guest's write to its page tables is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncPolicy {
    /// Each write traps.
    WriteProtect,
    /// The first write to a level 1 table traps and makes it writable. The shadow is brought into step
    /// when the guest flushes its TLB: by INVLPG one entry, by a load of CR3 the table, which is then
    /// write-protected again.
    OutOfSync,
}

/// What becomes of the shadow of a page-table entry that the guest wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WritePolicy {
    /// It becomes absent; the next access fills it.
    Zap,
    /// It follows at once, as an access is expected. Saves that access's fault.
    Update,
}

/// What an engine has done. Exits are what the processor had to leave the guest for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    /// Exits that ended with an entry filled.
    pub exits_filled: u64,
    /// Exits for a page fault that is the guest's own.
    pub exits_guest_fault: u64,
    /// Exits for a write to a guest table that must be emulated.
    pub exits_table_write: u64,
    /// Exits for a traced page.
    pub exits_trace: u64,
    /// Exits for a device, a read-only page, CR0.WP, or a table where no memory is.
    pub exits_other: u64,
    /// Exits for a load of CR3.
    pub exits_switch: u64,
    /// Exits for INVLPG and INVPCID.
    pub exits_invalidate: u64,
    /// Guest entries that were said to be written without an exit.
    pub announced_writes: u64,
    /// Entries written: pages.
    pub fills: u64,
    /// Entries written: references to tables.
    pub links: u64,
    /// Entries that followed a guest's write at once.
    pub updates: u64,
    /// Entries that a guest's write, or a table out of step, made absent.
    pub zaps: u64,
    /// Tables that were let out of step.
    pub unsyncs: u64,
    /// Tables brought into step.
    pub resyncs: u64,
    /// Entries made read-only, or absent, because their page became a table or was traced.
    pub protections: u64,
    /// Large pages of the guest mapped in pieces.
    pub splinters: u64,
    /// Tables given up as flooded with writes.
    pub floods: u64,
    /// Loads of CR3 that found their root.
    pub root_hits: u64,
    /// Loads of CR3 that did not.
    pub root_misses: u64,
    /// Roots given up for want of a slot or of tables.
    pub evictions: u64,
}

impl Counters {
    /// All exits.
    pub fn exits(&self) -> u64 {
        self.exits_filled
            + self.exits_guest_fault
            + self.exits_table_write
            + self.exits_trace
            + self.exits_other
            + self.exits_switch
            + self.exits_invalidate
    }
}

/// The fewest shadow tables: what one access needs, and as many again.
pub const TABLES_MIN: u32 = 16;
/// The most shadow tables.
pub const TABLES_LIMIT: u32 = 1 << 22;
