//! Armv8-A translation tables, stage 1 and stage 2, with granules of 4, 16 and 64 KiB (Arm ARM, DDI
//! 0487, D8).
//!
//! Levels are counted as in the rest of this crate, from the leaf: level 1 is the manual's level 3, and
//! level 4 its level 0.

use crate::bits::bits;
use crate::format::Format;
use crate::nested::{Mapping, StageAccess, StageFault, Structures};
use crate::walk as generic;
use crate::x86::AccessKind;
use crate::{Gpa, Observer, Paging, TableMemory, WalkError};
pub use crate::{probe, walk};

/// The size of tables and of the smallest page. The discriminant is the count of address bits inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Granule {
    /// 4 KiB: 9 index bits a level; blocks of 2 MiB and 1 GiB.
    Size4K = 12,
    /// 16 KiB: 11 index bits; blocks of 32 MiB.
    Size16K = 14,
    /// 64 KiB: 13 index bits; blocks of 512 MiB.
    Size64K = 16,
}

/// Which stage, and what its control registers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Stage 1 of the EL1&0 regime.
    One {
        /// The range of addresses is the upper one: TTBR1.
        upper: bool,
        /// PSTATE.PAN: EL1 may not access data that EL0 may.
        pan: bool,
    },
    /// Stage 2.
    Two,
}

/// TCR or VTCR and TTBR or VTTBR, as far as the walk needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Registers {
    /// Which stage.
    pub stage: Stage,
    /// TG0 or TG1.
    pub granule: Granule,
    /// T0SZ or T1SZ: 64 less the bits of an input address; 16 to 39.
    pub tsz: u8,
    /// Bits of an output address: IPS or PS, 32 to 48.
    pub output_bits: u8,
    /// Levels of the walk. In stage 1 [`stage_1_levels`] follows from the others; in stage 2 SL0 chooses,
    /// and up to 16 tables may be concatenated at the top.
    pub levels: u8,
    /// The address in TTBR or VTTBR.
    pub table: Gpa,
    /// HA: the walk sets access flags. Without it a clear one is a fault.
    pub hardware_access: bool,
    /// HD: the walk makes writable what DBM permits. Counts only with HA.
    pub hardware_dirty: bool,
}

/// Levels that the input bits of stage 1 need.
pub fn stage_1_levels(granule: Granule, tsz: u8) -> u8 {
    let index_bits = granule as u8 - 3;
    (64 - tsz - granule as u8).div_ceil(index_bits)
}

/// An access to a translated address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What is done.
    pub kind: AccessKind,
    /// By EL0; else by EL1.
    pub el0: bool,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Translation {
    /// The address of the byte: an IPA after stage 1 of two, else physical.
    pub address: Gpa,
    /// Address bits inside the page or block.
    pub inside_bits: u8,
    /// The lower and upper attributes of the leaf, as they stand.
    pub leaf: u64,
}

/// Why there is no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{kind:?} fault at level {level}")]
pub struct Fault {
    /// What sort of fault.
    pub kind: FaultKind,
    /// The manual's level, 0 to 3.
    pub level: u8,
}

/// Sorts of faults (D8.15). The discriminant is the fault status code of level 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FaultKind {
    /// An address is wider than the output.
    AddressSize = 0b00_0000,
    /// A descriptor is invalid, or the input out of range.
    Translation = 0b00_0100,
    /// The access flag is clear.
    AccessFlag = 0b00_1000,
    /// The access is not permitted.
    Permission = 0b00_1100,
}

impl Fault {
    /// The fault status code that ESR takes.
    pub fn status_code(self) -> u8 {
        self.kind as u8 | self.level
    }

    fn at(kind: FaultKind, level: u8) -> Self {
        Self {
            kind,
            level: 4 - level,
        }
    }
}

/// Everything a walk needs besides memory.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    registers: Registers,
    /// Address bits that must be clear in a descriptor.
    too_wide: u64,
}

impl Context {
    /// Decides in advance what follows from the registers.
    ///
    /// # Panics
    ///
    /// Panics if a register is out of its range, or the levels do not fit the input bits: fewer than the
    /// granule and one table can resolve, or more than 16 tables concatenated.
    pub fn new(registers: &Registers) -> Self {
        assert!((16..=39).contains(&registers.tsz), "TSZ is 16 to 39");
        assert!(
            (32..=48).contains(&registers.output_bits),
            "output addresses have 32 to 48 bits"
        );
        let (granule, levels) = (registers.granule as u8, registers.levels);
        let needed = stage_1_levels(registers.granule, registers.tsz);
        let resolved = granule + (granule - 3) * levels;
        let concatenated = (64 - registers.tsz).saturating_sub(resolved);
        assert!(
            levels >= 1 && levels <= needed && levels <= 4 && concatenated <= 4,
            "the levels do not fit the input"
        );
        assert!(
            registers.stage == Stage::Two || levels == needed,
            "stage 1 concatenates no tables"
        );
        Self {
            registers: *registers,
            too_wide: bits(registers.output_bits, 47),
        }
    }

    fn request(&self, access: Access) -> Request {
        let registers = &self.registers;
        Request {
            access,
            marks_access: registers.hardware_access,
            marks_dirty: registers.hardware_access && registers.hardware_dirty,
            stage: registers.stage,
        }
    }
}

impl Paging for Context {
    type Input = u64;
    type Access = Access;
    type Translation = Translation;
    type Fault = Fault;

    /// The top byte must be a sign extension: tagged addresses are the caller's to strip.
    fn translate<M: TableMemory, O: Observer, const MARKING: bool>(
        &self,
        memory: &M,
        input: u64,
        access: Access,
        observer: &mut O,
    ) -> Result<Translation, WalkError<Fault, M::Error>> {
        let request = self.request(access);
        let Registers { stage, tsz, .. } = self.registers;
        let upper = matches!(stage, Stage::One { upper: true, .. });
        let beyond = if upper { !input } else { input } >> (64 - tsz);
        if beyond != 0 {
            return Err(WalkError::Fault(Fault::at(FaultKind::Translation, 4)));
        }
        let input = input & bits(0, 63 - tsz);
        match self.registers.granule {
            Granule::Size4K => {
                generic::walk::<Arm<12>, M, O, MARKING>(memory, self, input, request, observer)
            }
            Granule::Size16K => {
                generic::walk::<Arm<14>, M, O, MARKING>(memory, self, input, request, observer)
            }
            Granule::Size64K => {
                generic::walk::<Arm<16>, M, O, MARKING>(memory, self, input, request, observer)
            }
        }
    }
}

/// Stage 2, under the stage 1 of a guest: a read or an update of a descriptor of stage 1 needs the
/// right to read or write.
impl Structures for Context {
    fn walk<M: TableMemory, O: Observer, const MARKING: bool>(
        &self,
        memory: &M,
        input: Gpa,
        access: StageAccess,
        observer: &mut O,
    ) -> Result<Mapping, WalkError<StageFault, M::Error>> {
        let access = Access {
            kind: access.kind,
            el0: access.user_address,
        };
        self.translate::<M, O, MARKING>(memory, input.0, access, observer)
            .map(|translation| Mapping {
                address: translation.address,
                inside_bits: translation.inside_bits,
            })
            .map_err(|error| error.map_fault(StageFault::Arm))
    }
}

/// An access, and what the registers say of marking.
#[derive(Clone, Copy, Debug)]
struct Request {
    access: Access,
    marks_access: bool,
    marks_dirty: bool,
    stage: Stage,
}

impl Request {
    fn writes(self) -> bool {
        self.access.kind == AccessKind::Write
    }

    /// `tables` are the hierarchical attributes of stage 1 (D8.4.2).
    fn permits(self, tables: u64, leaf: u64) -> bool {
        let read_only = match self.stage {
            Stage::One { .. } => leaf & AP_READ_ONLY != 0,
            Stage::Two => leaf & S2AP_WRITE == 0,
        };
        let writable = !read_only || self.marks_dirty && leaf & DBM != 0;
        match self.stage {
            Stage::One { pan, .. } => self.stage_1_permits(tables, leaf, writable, pan),
            Stage::Two => self.stage_2_permits(leaf, writable),
        }
    }

    fn stage_1_permits(self, tables: u64, leaf: u64, writable: bool, pan: bool) -> bool {
        let writable = writable && tables & AP_TABLE_READ_ONLY == 0;
        let el0_accessible = leaf & AP_EL0 != 0 && tables & AP_TABLE_NO_EL0 == 0;
        let never = if self.access.el0 {
            leaf & UXN != 0 || tables & UXN_TABLE != 0
        } else {
            // What EL0 can write to, EL1 never executes.
            leaf & PXN != 0 || tables & PXN_TABLE != 0 || el0_accessible && writable
        };
        let accessible = if self.access.el0 {
            el0_accessible
        } else {
            !(pan && el0_accessible)
        };
        match self.access.kind {
            AccessKind::Read => accessible,
            AccessKind::Write => accessible && writable,
            AccessKind::Fetch => (!self.access.el0 || el0_accessible) && !never,
        }
    }

    fn stage_2_permits(self, leaf: u64, writable: bool) -> bool {
        match self.access.kind {
            AccessKind::Read => leaf & S2AP_READ != 0,
            AccessKind::Write => writable,
            // XN[1] alone, as without `FEAT_XNX`.
            AccessKind::Fetch => leaf & S2AP_READ != 0 && leaf & UXN == 0,
        }
    }
}

/// Translation tables with a granule of so many address bits.
struct Arm<const GRANULE: u8>;

impl<const GRANULE: u8> Arm<GRANULE> {
    const INDEX_BITS: u8 = GRANULE - 3;

    const fn shift(level: u8) -> u8 {
        GRANULE + Self::INDEX_BITS * (level - 1)
    }

    /// Whether the bits say that the descriptor maps a page or block, or references a table.
    const fn is_valid(level: u8, entry: u64) -> bool {
        match entry & 3 {
            3 => true,
            // Blocks: levels 2 and 3 here, of which the larger exists with 4 KiB alone.
            1 => level == 2 || level == 3 && GRANULE == 12,
            _ => false,
        }
    }

    const fn maps(level: u8, entry: u64) -> bool {
        level == 1 || entry & TABLE == 0
    }

    /// Address bits of a descriptor that the format does not use otherwise.
    const fn address(entry: u64) -> u64 {
        entry & bits(GRANULE, 47)
    }
}

impl<const GRANULE: u8> Format for Arm<GRANULE> {
    type Context = Context;
    type Entry = u64;
    type Access = Request;
    type Translation = Translation;
    type Fault = Fault;

    const NOTHING_DENIED: u64 = 0;

    /// Concatenated tables follow one another: index bits above those of one table choose among them.
    fn root(context: &Context, input: u64, _: Request) -> Result<(u8, Gpa), Fault> {
        let Registers {
            tsz, levels, table, ..
        } = context.registers;
        if table.0 & context.too_wide != 0 {
            return Err(Fault::at(FaultKind::AddressSize, 4));
        }
        let number = input
            .checked_shr(u32::from(Self::shift(levels) + Self::INDEX_BITS))
            .unwrap_or(0);
        let size = table_bytes(tsz, Self::shift(levels));
        let base = table.0 & bits(0, 47) & !(size - 1);
        Ok((levels, Gpa(base + (number << GRANULE))))
    }

    fn offset(input: u64, level: u8) -> u64 {
        // A glance asks for level 5 too, which no walk has.
        let shift = u32::from(GRANULE) + u32::from(Self::INDEX_BITS) * u32::from(level - 1);
        (input.checked_shr(shift).unwrap_or(0) & bits(0, Self::INDEX_BITS - 1)) << 3
    }

    fn passes(context: &Context, _: bool, level: u8, entry: u64) -> bool {
        Self::is_valid(level, entry)
            && Self::address(entry) & context.too_wide == 0
            && (!Self::maps(level, entry) || entry & ACCESS_FLAG != 0)
    }

    fn refusal(context: &Context, _: u64, level: u8, entry: u64, access: Request) -> Option<Fault> {
        let kind = if !Self::is_valid(level, entry) {
            FaultKind::Translation
        } else if Self::address(entry) & context.too_wide != 0 {
            FaultKind::AddressSize
        } else if Self::maps(level, entry) && entry & ACCESS_FLAG == 0 && !access.marks_access {
            FaultKind::AccessFlag
        } else {
            return None;
        };
        Some(Fault::at(kind, level))
    }

    fn is_leaf(_: &Context, level: u8, entry: u64) -> bool {
        Self::maps(level, entry)
    }

    fn table(entry: u64) -> Gpa {
        Gpa(Self::address(entry))
    }

    /// Of tables the hierarchical attributes; bits 8 to 11, which no table uses, keep the level of the
    /// leaf for the fault.
    fn deny(denied: u64, level: u8, entry: u64) -> u64 {
        if Self::maps(level, entry) {
            denied | u64::from(level) << 8
        } else {
            denied | entry & TABLE_ATTRIBUTES
        }
    }

    fn permits(_: &Context, denied: u64, leaf: u64, access: Request) -> bool {
        access.permits(denied, leaf)
    }

    fn denial(_: &Context, _: u64, denied: u64, _: u64, _: Request) -> Fault {
        let level = u8::try_from(denied >> 8 & 15).expect("four bits");
        Fault::at(FaultKind::Permission, level)
    }

    /// Tables have no access flag.
    fn mark_table(entry: u64) -> u64 {
        entry
    }

    fn mark_leaf(leaf: u64, access: Request) -> u64 {
        let mut marked = leaf;
        if access.marks_access {
            marked |= ACCESS_FLAG;
        }
        if access.marks_dirty && access.writes() && leaf & DBM != 0 {
            match access.stage {
                Stage::One { .. } => marked &= !AP_READ_ONLY,
                Stage::Two => marked |= S2AP_WRITE,
            }
        }
        marked
    }

    fn translation(_: &Context, input: u64, level: u8, _: u64, leaf: u64) -> Translation {
        let inside_bits = Self::shift(level);
        let inside = bits(0, inside_bits - 1);
        Translation {
            address: Gpa(Self::address(leaf) & !inside | input & inside),
            inside_bits,
            leaf,
        }
    }
}

/// Bytes of the table or tables at the top, to which TTBR must be aligned.
fn table_bytes(tsz: u8, top_shift: u8) -> u64 {
    8 << (64 - tsz).saturating_sub(top_shift)
}

// Descriptors, D8.3.
const TABLE: u64 = 1 << 1;
const AP_EL0: u64 = 1 << 6;
const AP_READ_ONLY: u64 = 1 << 7;
const S2AP_READ: u64 = 1 << 6;
const S2AP_WRITE: u64 = 1 << 7;
const ACCESS_FLAG: u64 = 1 << 10;
const DBM: u64 = 1 << 51;
const PXN: u64 = 1 << 53;
/// XN[1] in stage 2.
const UXN: u64 = 1 << 54;
const PXN_TABLE: u64 = 1 << 59;
const UXN_TABLE: u64 = 1 << 60;
const AP_TABLE_NO_EL0: u64 = 1 << 61;
const AP_TABLE_READ_ONLY: u64 = 1 << 62;
const TABLE_ATTRIBUTES: u64 = PXN_TABLE | UXN_TABLE | AP_TABLE_NO_EL0 | AP_TABLE_READ_ONLY;
