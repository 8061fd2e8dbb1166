//! PAE paging (SDM 4.4).

use super::access::Access;
use super::context::{Context, Pdptes, Processor, pdpte_reserved};
use super::fault::PageFault;
use super::long_mode::{attribute_bits, deny, mark_leaf, passes, refusal, translation};
use super::spec::{ACCESSED, PRESENT};
use super::translation::Translation;
use crate::format::Format;
use crate::{Gpa, TableMemory, nine_bits};

/// Why MOV to CR3, or another load of the PDPTEs, raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PdpteError<E> {
    /// A present entry sets a reserved bit.
    #[error("page-directory-pointer entry {index} sets reserved bits: {entry:#x}")]
    Reserved {
        /// Which of the four.
        index: u8,
        /// What it holds.
        entry: u64,
    },
    /// No memory backs the entry.
    #[error("the page-directory-pointer entry at {at} cannot be reached")]
    Table {
        /// Where the entry should lie.
        at: Gpa,
        /// What the memory answered.
        source: E,
    },
}

/// Reads the four page-directory-pointer entries at `cr3`, as MOV to CR3 does when PAE paging is
/// on (SDM 4.4.1), for [`Pdptes::Latched`].
///
/// # Errors
///
/// Fails where the processor raises #GP(0), and where no memory backs an entry.
pub fn load_pdptes<M: TableMemory>(
    memory: &M,
    processor: &Processor,
    cr3: u64,
) -> Result<[u64; 4], PdpteError<M::Error>> {
    let mut pdptes = [0; 4];
    for (index, pdpte) in (0..).zip(&mut pdptes) {
        let at = Gpa((cr3 & CR3_ADDRESS) + 8 * u64::from(index));
        let entry = memory
            .load_u64(at)
            .map_err(|source| PdpteError::Table { at, source })?;
        if entry & PRESENT != 0 && entry & pdpte_reserved(processor) != 0 {
            return Err(PdpteError::Reserved { index, entry });
        }
        *pdpte = entry;
    }
    Ok(pdptes)
}

/// PAE paging: the entries of 4-level paging under four PDPTEs that deny nothing and are never
/// marked.
pub(crate) struct Pae;

impl Format for Pae {
    type Context = Context;
    type Entry = u64;
    type Access = Access;
    type Translation = Translation;
    type Fault = PageFault;

    const NOTHING_DENIED: u64 = 0;

    fn root(context: &Context, input: u64, access: Access) -> Result<(u8, Gpa), PageFault> {
        match context.pdptes() {
            Pdptes::Memory => Ok((PDPTE, context.root())),
            Pdptes::Latched(pdptes) => {
                let pdpte = pdptes[(input >> 30 & 3) as usize];
                match Self::refusal(context, input, PDPTE, pdpte, access) {
                    Some(fault) => Err(fault),
                    None => Ok((PDPTE - 1, Self::table(pdpte))),
                }
            }
        }
    }

    fn offset(input: u64, level: u8) -> u64 {
        nine_bits::offset(input & 0xffff_ffff, level)
    }

    fn passes(context: &Context, marking: bool, level: u8, entry: u64) -> bool {
        if level == PDPTE {
            context.is_valid_pdpte(entry)
        } else {
            passes(context, marking, level, entry)
        }
    }

    fn refusal(
        context: &Context,
        input: u64,
        level: u8,
        entry: u64,
        access: Access,
    ) -> Option<PageFault> {
        if level == PDPTE {
            (!context.is_valid_pdpte(entry)).then(|| context.refusal(input, entry, access))
        } else {
            refusal(context, input, level, entry, access)
        }
    }

    fn is_leaf(_: &Context, level: u8, entry: u64) -> bool {
        nine_bits::is_leaf(level, entry)
    }

    fn table(entry: u64) -> Gpa {
        nine_bits::table(entry)
    }

    fn deny(denied: u64, level: u8, entry: u64) -> u64 {
        if level == PDPTE {
            denied
        } else {
            deny(denied, entry)
        }
    }

    fn permits(context: &Context, denied: u64, _: u64, access: Access) -> bool {
        context.rights_permit(attribute_bits(denied), 0, access)
    }

    #[cold]
    fn denial(context: &Context, input: u64, denied: u64, _: u64, access: Access) -> PageFault {
        context.denial(input, attribute_bits(denied), 0, access)
    }

    /// Never called for a PDPTE: each that is valid passes as it is.
    fn mark_table(entry: u64) -> u64 {
        entry | ACCESSED
    }

    fn mark_leaf(leaf: u64, access: Access) -> u64 {
        mark_leaf(leaf, access)
    }

    fn translation(
        context: &Context,
        input: u64,
        level: u8,
        denied: u64,
        leaf: u64,
    ) -> Translation {
        translation(context, input, level, denied, leaf, 0)
    }
}

/// The level of a page-directory-pointer-table entry.
const PDPTE: u8 = 3;
/// Where CR3 holds an address in PAE paging (SDM table 4-7).
const CR3_ADDRESS: u64 = 0xffff_ffe0;
