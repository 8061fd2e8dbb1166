//! The paging structures of EPT (SDM 28.3.2).

use super::context::{ACCESSED, Context, DIRTY, EXECUTE, EXECUTE_USER, READ, WRITE};
use super::fault::{Fault, Qualification};
use crate::format::Format;
use crate::nested::{Purpose, StageAccess};
use crate::x86::{AccessKind, PageSize};
use crate::{Gpa, nine_bits};

/// Where a guest physical address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Translation {
    /// The address of the byte in the space that EPT translates to.
    pub address: Gpa,
    /// Size of the page that the leaf maps: 4 KiB, 2 MiB or 1 GiB.
    pub size: PageSize,
    /// What all entries permit, and the leaf's dirty flag.
    pub rights: Rights,
    /// The leaf's memory type.
    pub memory_type: MemoryType,
    /// The leaf says that the guest's PAT does not count.
    pub ignore_pat: bool,
}

bitflags::bitflags! {
    /// Rights over all levels, and the dirty flag of the leaf.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Rights: u8 {
        /// Data reads.
        const READ = 1 << 0;
        /// Data writes.
        const WRITE = 1 << 1;
        /// Instruction fetches; with mode-based execute control from supervisor-mode addresses.
        const EXECUTE = 1 << 2;
        /// Instruction fetches from user-mode addresses. Clear without mode-based execute control.
        const EXECUTE_USER = 1 << 3;
        /// The dirty flag is set; clear where the EPTP does not enable it.
        const DIRTY = 1 << 4;
    }
}

/// EPT memory types (SDM 28.3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryType {
    /// UC.
    Uncacheable,
    /// WC.
    WriteCombining,
    /// WT.
    WriteThrough,
    /// WP.
    WriteProtected,
    /// WB.
    WriteBack,
}

/// An access in the format's terms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// The rights it needs, as entry bits.
    needed: u64,
    /// The flags that it sets in a leaf.
    marks: u64,
    qualification: Qualification,
}

impl Request {
    #[inline(always)]
    pub(super) fn new(context: &Context, access: StageAccess) -> Self {
        let (needed, kind) = match access.kind {
            _ if access.purpose == Purpose::Table && context.flags() => (
                READ | WRITE,
                Qualification::READ.union(Qualification::WRITE),
            ),
            AccessKind::Read => (READ, Qualification::READ),
            AccessKind::Write if access.purpose == Purpose::Table => (
                READ | WRITE,
                Qualification::READ.union(Qualification::WRITE),
            ),
            AccessKind::Write => (WRITE, Qualification::WRITE),
            AccessKind::Fetch if access.user_address && context.mode_based_execute() => {
                (EXECUTE_USER, Qualification::FETCH)
            }
            AccessKind::Fetch => (EXECUTE, Qualification::FETCH),
        };
        let linear = match access.purpose {
            Purpose::Translated => Qualification::LINEAR.union(Qualification::TRANSLATED),
            Purpose::Table => Qualification::LINEAR,
            Purpose::Physical => Qualification::empty(),
        };
        Self {
            needed,
            marks: match (context.flags(), needed & WRITE != 0) {
                (false, _) => 0,
                (true, false) => ACCESSED,
                (true, true) => ACCESSED | DIRTY,
            },
            qualification: kind.union(linear),
        }
    }

    fn violation(self, context: &Context, gpa: u64, permitted: u64) -> Fault {
        let mut qualification = self.qualification;
        qualification.set(Qualification::READABLE, permitted & READ != 0);
        qualification.set(Qualification::WRITABLE, permitted & WRITE != 0);
        qualification.set(Qualification::EXECUTABLE, permitted & EXECUTE != 0);
        qualification.set(
            Qualification::EXECUTABLE_USER,
            permitted & EXECUTE_USER != 0 && context.mode_based_execute(),
        );
        Fault::Violation {
            gpa: Gpa(gpa),
            qualification,
        }
    }
}

/// EPT of so many levels.
pub(super) struct Ept<const LEVELS: u8>;

impl<const LEVELS: u8> Format for Ept<LEVELS> {
    type Context = Context;
    type Entry = u64;
    type Access = Request;
    type Translation = Translation;
    type Fault = Fault;

    const NOTHING_DENIED: u64 = 0;

    /// An address beyond the width of the structures has no translation.
    #[inline(always)]
    fn root(context: &Context, input: u64, access: Request) -> Result<(u8, Gpa), Fault> {
        if nine_bits::is_within(input, LEVELS) {
            Ok((LEVELS, context.root()))
        } else {
            Err(access.violation(context, input, 0))
        }
    }

    #[inline(always)]
    fn offset(input: u64, level: u8) -> u64 {
        nine_bits::offset(input, level)
    }

    #[inline(always)]
    fn passes(context: &Context, marking: bool, level: u8, entry: u64) -> bool {
        context.is_present(entry)
            && !context.is_misconfigured(level, entry)
            && (!context.flags() || !marking || entry & ACCESSED != 0)
    }

    #[inline(always)]
    fn is_plain_table(context: &Context, _: bool, level: u8, entry: u64) -> bool {
        context.is_plain_table(level, entry)
    }

    #[inline(always)]
    fn is_plain_leaf(context: &Context, level: u8, entry: u64) -> bool {
        context.is_plain_leaf(level, entry)
    }

    fn refusal(
        context: &Context,
        input: u64,
        level: u8,
        entry: u64,
        access: Request,
    ) -> Option<Fault> {
        if !context.is_present(entry) {
            Some(access.violation(context, input, 0))
        } else if context.is_misconfigured(level, entry) {
            Some(Fault::Misconfiguration { gpa: Gpa(input) })
        } else {
            None
        }
    }

    #[inline(always)]
    fn is_leaf(_: &Context, level: u8, entry: u64) -> bool {
        nine_bits::is_leaf(level, entry)
    }

    #[inline(always)]
    fn table(entry: u64) -> Gpa {
        nine_bits::table(entry)
    }

    #[inline(always)]
    fn deny(denied: u64, _: u8, entry: u64) -> u64 {
        denied | !entry
    }

    #[inline(always)]
    fn permits(_: &Context, denied: u64, _: u64, access: Request) -> bool {
        denied & access.needed == 0
    }

    #[cold]
    fn denial(context: &Context, input: u64, denied: u64, _: u64, access: Request) -> Fault {
        access.violation(context, input, !denied)
    }

    /// Never called without flags: each entry that is valid passes then.
    fn mark_table(entry: u64) -> u64 {
        entry | ACCESSED
    }

    #[inline(always)]
    fn mark_leaf(leaf: u64, access: Request) -> u64 {
        leaf | access.marks
    }

    #[inline(always)]
    fn translation(
        context: &Context,
        input: u64,
        level: u8,
        denied: u64,
        leaf: u64,
    ) -> Translation {
        let (address, size) = nine_bits::page(level, leaf, input);
        let mut rights = Rights::empty();
        rights.set(Rights::READ, denied & READ == 0);
        rights.set(Rights::WRITE, denied & WRITE == 0);
        rights.set(Rights::EXECUTE, denied & EXECUTE == 0);
        rights.set(
            Rights::EXECUTE_USER,
            denied & EXECUTE_USER == 0 && context.mode_based_execute(),
        );
        rights.set(Rights::DIRTY, context.flags() && leaf & DIRTY != 0);
        Translation {
            address,
            size,
            rights,
            memory_type: memory_type(leaf),
            ignore_pat: leaf & IGNORE_PAT != 0,
        }
    }
}

/// Bits 5:3; other values are misconfigurations.
#[inline(always)]
fn memory_type(leaf: u64) -> MemoryType {
    match leaf >> 3 & 7 {
        0 => MemoryType::Uncacheable,
        1 => MemoryType::WriteCombining,
        4 => MemoryType::WriteThrough,
        5 => MemoryType::WriteProtected,
        _ => MemoryType::WriteBack,
    }
}

const IGNORE_PAT: u64 = 1 << 6;
