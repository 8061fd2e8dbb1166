//! The paging structures of VT-d, which translate the addresses that devices use (VT-d specification 5.10,
//! chapter 3). The second stage (3.7 and 9.8) has a format of its own; the first is that of 4-level and
//! 5-level paging, and may lie over a second as a guest's tables over EPT.
//!
//! Root, context and PASID tables, which lead to these structures, are the IOMMU's.

mod first_stage;

pub use first_stage::FirstStage;

use crate::bits::bits;
use crate::format::Format;
use crate::nested::{Mapping, Purpose, StageAccess};
use crate::nine_bits::{self, ADDRESS, PAGE};
use crate::walk as generic;
use crate::x86::{AccessKind, PageSize};
use crate::{Gpa, Observer, Paging, TableMemory, WalkError};
pub use crate::{probe, walk};

/// What the unit can do, from its capability registers, and what the context or PASID entry asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// Host address width: bits of a physical address, 32 to 52.
    pub haw: u8,
    /// 2 MiB pages: CAP.SLLPS bit 0.
    pub mib_pages: bool,
    /// 1 GiB pages: CAP.SLLPS bit 1.
    pub gib_pages: bool,
    /// Snoop control: without it bit 11 of a leaf is reserved.
    pub snoop_control: bool,
    /// Accessed and dirty flags are enabled: SSADE of a scalable-mode PASID entry.
    pub flags: bool,
}

/// Everything a walk of second-stage structures needs besides memory.
#[derive(Clone, Debug)]
pub struct Context {
    root: Gpa,
    levels: u8,
    flags: bool,
    /// Reserved bits by level, then by bit 7, which maps a page.
    reserved: [[u64; 2]; 8],
}

impl Context {
    /// Takes the second-stage page-table pointer and the levels that the address width asks for: 3
    /// for 39 bits, 4 for 48, 5 for 57.
    ///
    /// # Panics
    ///
    /// Panics if the host address width is not 32 to 52, or the levels are not 3 to 5.
    pub fn new(capabilities: &Capabilities, root: Gpa, levels: u8) -> Self {
        assert!((32..=52).contains(&capabilities.haw), "HAW is 32 to 52");
        assert!((3..=5).contains(&levels), "3 to 5 levels");
        Self {
            root: Gpa(root.0 & ADDRESS),
            levels,
            flags: capabilities.flags,
            reserved: reserved(capabilities),
        }
    }

    fn is_valid(&self, level: u8, entry: u64) -> bool {
        let page = usize::from(nine_bits::is_leaf(level, entry));
        entry & (READ | WRITE) != 0 && entry & self.reserved[usize::from(level) % 8][page] == 0
    }
}

/// Where a device's address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Translation {
    /// The address of the byte.
    pub address: Gpa,
    /// Size of the page that the leaf maps: 4 KiB, 2 MiB or 1 GiB.
    pub size: PageSize,
    /// All entries permit reads.
    pub read: bool,
    /// All entries permit writes.
    pub write: bool,
    /// The leaf forces snooping.
    pub snoop: bool,
}

/// Why a request is blocked. The numbers are the fault reasons of legacy mode (VT-d 7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum Fault {
    /// The address is beyond the width of the structures.
    #[error("the address is beyond the width of the structures")]
    BeyondWidth = 0x4,
    /// An entry does not permit writes, or is not present.
    #[error("a write is not permitted")]
    WriteDenied = 0x5,
    /// An entry does not permit reads, or is not present.
    #[error("a read is not permitted")]
    ReadDenied = 0x6,
    /// A present entry sets reserved bits.
    #[error("an entry sets reserved bits")]
    Reserved = 0xc,
}

impl Fault {
    /// The fault reason that the unit records.
    pub fn reason(self) -> u8 {
        self as u8
    }

    fn denied(access: StageAccess) -> Self {
        match access.kind {
            AccessKind::Write => Self::WriteDenied,
            AccessKind::Read | AccessKind::Fetch => Self::ReadDenied,
        }
    }
}

impl Paging for Context {
    type Input = Gpa;
    type Access = StageAccess;
    type Translation = Translation;
    type Fault = Fault;

    /// A fetch counts as a read.
    fn translate<M: TableMemory, O: Observer, const MARKING: bool>(
        &self,
        memory: &M,
        input: Gpa,
        access: StageAccess,
        observer: &mut O,
    ) -> Result<Translation, WalkError<Fault, M::Error>> {
        let input = input.0;
        if self.flags {
            generic::walk::<SecondStage<true>, M, O, MARKING>(memory, self, input, access, observer)
        } else {
            generic::walk::<SecondStage<false>, M, O, MARKING>(
                memory, self, input, access, observer,
            )
        }
    }
}

impl From<Translation> for Mapping {
    fn from(translation: Translation) -> Self {
        Self {
            address: translation.address,
            inside_bits: translation.size as u8,
        }
    }
}

/// `FLAGS` is whether accessed and dirty flags are enabled.
struct SecondStage<const FLAGS: bool>;

impl<const FLAGS: bool> Format for SecondStage<FLAGS> {
    type Context = Context;
    type Entry = u64;
    type Access = StageAccess;
    type Translation = Translation;
    type Fault = Fault;

    const NOTHING_DENIED: u64 = 0;

    fn root(context: &Context, input: u64, _: StageAccess) -> Result<(u8, Gpa), Fault> {
        if nine_bits::is_within(input, context.levels) {
            Ok((context.levels, context.root))
        } else {
            Err(Fault::BeyondWidth)
        }
    }

    fn offset(input: u64, level: u8) -> u64 {
        nine_bits::offset(input, level)
    }

    fn passes(context: &Context, marking: bool, level: u8, entry: u64) -> bool {
        context.is_valid(level, entry) && (!FLAGS || !marking || entry & ACCESSED != 0)
    }

    fn refusal(
        context: &Context,
        _: u64,
        level: u8,
        entry: u64,
        access: StageAccess,
    ) -> Option<Fault> {
        if entry & (READ | WRITE) == 0 {
            Some(Fault::denied(access))
        } else {
            (!context.is_valid(level, entry)).then_some(Fault::Reserved)
        }
    }

    fn is_leaf(_: &Context, level: u8, entry: u64) -> bool {
        nine_bits::is_leaf(level, entry)
    }

    fn table(entry: u64) -> Gpa {
        nine_bits::table(entry)
    }

    fn deny(denied: u64, _: u8, entry: u64) -> u64 {
        denied | !entry
    }

    fn permits(_: &Context, denied: u64, _: u64, access: StageAccess) -> bool {
        let needed = match access.kind {
            // The flags of a first-stage entry are set by a read and a write.
            AccessKind::Write if access.purpose == Purpose::Table => READ | WRITE,
            AccessKind::Write => WRITE,
            AccessKind::Read | AccessKind::Fetch => READ,
        };
        denied & needed == 0
    }

    fn denial(_: &Context, _: u64, _: u64, _: u64, access: StageAccess) -> Fault {
        Fault::denied(access)
    }

    fn mark_table(entry: u64) -> u64 {
        if FLAGS { entry | ACCESSED } else { entry }
    }

    fn mark_leaf(leaf: u64, access: StageAccess) -> u64 {
        match (FLAGS, access.kind) {
            (false, _) => leaf,
            (true, AccessKind::Write) => leaf | ACCESSED | DIRTY,
            (true, AccessKind::Read | AccessKind::Fetch) => leaf | ACCESSED,
        }
    }

    fn translation(_: &Context, input: u64, level: u8, denied: u64, leaf: u64) -> Translation {
        let (address, size) = nine_bits::page(level, leaf, input);
        Translation {
            address,
            size,
            read: denied & READ == 0,
            write: denied & WRITE == 0,
            snoop: leaf & SNOOP != 0,
        }
    }
}

/// VT-d tables 41 to 47. Bits that are ignored are free; of a leaf bits 5:3 and 6 are a memory type, or
/// ignored. Bit 11 is a leaf's alone, and bit 62 (IW) only that of units with I/O rights of their own.
fn reserved(capabilities: &Capabilities) -> [[u64; 2]; 8] {
    let always = bits(capabilities.haw, 51) | IO_WRITE;
    let table = always | SNOOP;
    let snoop = if capabilities.snoop_control { 0 } else { SNOOP };
    let page = |supported, address| {
        if supported {
            always | address | snoop
        } else {
            PAGE
        }
    };
    let mut reserved = [[0; 2]; 8];
    reserved[5] = [table, PAGE];
    reserved[4] = [table, PAGE];
    reserved[3] = [table, page(capabilities.gib_pages, bits(12, 29))];
    reserved[2] = [table, page(capabilities.mib_pages, bits(12, 20))];
    reserved[1] = [always | snoop; 2];
    reserved
}

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const SNOOP: u64 = 1 << 11;
const IO_WRITE: u64 = 1 << 62;
