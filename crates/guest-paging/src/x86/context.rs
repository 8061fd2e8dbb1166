//! The registers that govern paging, and what follows from them.

use super::access::Access;
use super::fault::{ErrorCode, PageFault};
use super::permission::{KeyRights, Permissions};
use super::spec::{
    ACCESSED, ADDRESS, CR0_PG, CR4_LA57, CR4_PAE, CR4_PGE, CR4_PKE, CR4_PKS, CR4_PSE, CR4_SMEP,
    EASY, EFER_LMA, EFER_NXE, GLOBAL, KEY_SHIFT, NO_EXECUTE, PAGE_SIZE, PRESENT,
};
use super::translation::{Attributes, Translation};
use crate::bits::bits;
use crate::{Gpa, Gva};

/// What CPUID tells of the processor and paging depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Processor {
    /// Whose reserved bits apply.
    pub vendor: Vendor,
    /// Bits of a physical address, 32 to 52.
    pub maxphyaddr: u8,
    /// 1 GiB pages.
    pub gib_pages: bool,
    /// 4 MiB pages above 4 GiB in 32-bit paging, with up to 40 address bits.
    pub pse36: bool,
}

/// Makers whose paging structures differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// Intel, and who follows the SDM.
    Intel,
    /// AMD and Hygon: bit 8 of a PML4E and PML5E must be zero (APM 5.3).
    Amd,
}

/// The registers that paging reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Registers {
    /// CR0: PG and WP count.
    pub cr0: u64,
    /// CR3. A PCID and the reserved bits are ignored.
    pub cr3: u64,
    /// CR4: PSE, PAE, PGE, LA57, SMEP, SMAP, PKE and PKS count.
    pub cr4: u64,
    /// `IA32_EFER`: LMA and NXE count. LME does not: it is LMA that says which mode is active.
    pub efer: u64,
    /// PKRU: rights of the keys of user pages. In force with CR4.PKE.
    pub pkru: u32,
    /// `IA32_PKRS`: rights of the keys of supervisor pages. In force with CR4.PKS.
    pub pkrs: u32,
    /// The page-directory-pointer entries of PAE paging.
    pub pdptes: Pdptes,
}

/// Where PAE paging takes its four page-directory-pointer entries from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pdptes {
    /// From memory at each walk, as a processor does that runs a guest under nested paging on AMD
    /// (APM 15.25.10). A reserved bit is then a page fault.
    #[default]
    Memory,
    /// From registers, loaded by the last MOV to CR3 (SDM 4.4.1).
    /// [`load_pdptes`](super::load_pdptes) reads them.
    Latched([u64; 4]),
}

/// The paging modes (SDM 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PagingMode {
    /// CR0.PG is clear: linear addresses are physical.
    Off,
    /// 32-bit paging: two levels of 32-bit entries.
    Legacy,
    /// PAE paging: three levels of 64-bit entries.
    Pae,
    /// 4-level paging: 48-bit linear addresses.
    FourLevel,
    /// 5-level paging: 57-bit linear addresses.
    FiveLevel,
}

/// Everything a walk needs besides memory: the registers, decided in advance.
///
/// Make it anew when CR0, CR4 or `IA32_EFER` change; the setters cover what guests change often.
#[derive(Clone, Debug)]
pub struct Context {
    mode: PagingMode,
    root: Gpa,
    pdptes: Pdptes,
    /// By level, then by [`PAGE_SIZE`]: the bits that must be as in [`EASY`], which are PRESENT and
    /// the reserved ones.
    refused: [[u64; 2]; REFUSED_COUNT],
    /// The same for a PDPTE of PAE paging, where R/W and U/S are reserved bits.
    refused_pdpte: u64,
    /// As `refused`, and ACCESSED.
    unmarked: [[u64; 2]; REFUSED_COUNT],
    permissions: Permissions,
    key_rights: KeyRights,
    /// The bits of a key that count: 0 or 15.
    key_mask: u8,
    /// Attributes that do not depend on control registers, and GLOBAL if it is in force.
    attribute_mask: Attributes,
    fetch_is_reported: bool,
    cr4: u64,
}

impl Context {
    /// Decides in advance all that follows from the registers.
    ///
    /// # Panics
    ///
    /// Panics if MAXPHYADDR is not 32 to 52.
    pub fn new(processor: &Processor, registers: &Registers) -> Self {
        assert!(
            (32..=52).contains(&processor.maxphyaddr),
            "MAXPHYADDR is 32 to 52"
        );
        let Registers { cr0, cr4, efer, .. } = *registers;
        let mode = PagingMode::new(cr0, cr4, efer);
        let keys = cr4 & (CR4_PKE | CR4_PKS) != 0 && mode.is_long();
        let mut attribute_mask = Attributes::all();
        attribute_mask.set(Attributes::GLOBAL, cr4 & CR4_PGE != 0);
        let key_rights = mode.key_rights(cr4, registers.pkru, registers.pkrs);
        let refused = refused(processor, mode, cr4, efer);
        let mut context = Self {
            mode,
            root: Gpa(0),
            pdptes: registers.pdptes,
            refused,
            refused_pdpte: pdpte_reserved(processor) | PRESENT,
            unmarked: refused.map(|by_page_size| by_page_size.map(|bits| bits | ACCESSED)),
            permissions: Permissions::new(cr0, cr4, key_rights),
            key_rights,
            key_mask: if keys { 15 } else { 0 },
            attribute_mask,
            fetch_is_reported: cr4 & CR4_SMEP != 0 || cr4 & CR4_PAE != 0 && efer & EFER_NXE != 0,
            cr4,
        };
        context.set_cr3(registers.cr3);
        context
    }

    /// Takes a new CR3. With latched PDPTEs, [`set_pdptes`](Self::set_pdptes) belongs to it.
    pub fn set_cr3(&mut self, cr3: u64) {
        self.root = Gpa(cr3 & self.mode.cr3_address());
    }

    /// Takes new page-directory-pointer entries.
    pub fn set_pdptes(&mut self, pdptes: Pdptes) {
        self.pdptes = pdptes;
    }

    /// Takes new PKRU and `IA32_PKRS`. They count only while CR4.PKE and CR4.PKS put them in force.
    pub fn set_key_rights(&mut self, pkru: u32, pkrs: u32) {
        let key_rights = self.mode.key_rights(self.cr4, pkru, pkrs);
        if key_rights != self.key_rights {
            self.key_rights = key_rights;
            self.permissions.set_key_rights(key_rights);
        }
    }

    /// Which paging mode the registers select.
    #[inline(always)]
    pub fn mode(&self) -> PagingMode {
        self.mode
    }

    /// Whether the page may be accessed so: what a TLB that kept the translation asks.
    ///
    /// Looks at rights and keys; [`Attributes::DIRTY`] is another question.
    #[inline(always)]
    pub fn permits(&self, translation: &Translation, access: Access) -> bool {
        self.rights_permit(translation.attributes.bits(), translation.key, access)
    }

    #[inline(always)]
    pub(crate) fn root(&self) -> Gpa {
        self.root
    }

    #[inline(always)]
    pub(crate) fn pdptes(&self) -> &Pdptes {
        &self.pdptes
    }

    /// Whether `entry` is present and sets no reserved bit.
    #[inline(always)]
    pub(crate) fn is_valid(&self, level: u8, entry: u64) -> bool {
        (entry ^ EASY) & bits_of(&self.refused, level, entry) == 0
    }

    /// Whether a PDPTE of PAE paging is present and sets no reserved bit.
    pub(super) fn is_valid_pdpte(&self, entry: u64) -> bool {
        (entry ^ PRESENT) & self.refused_pdpte == 0
    }

    /// Whether `entry` is valid and marked as accessed: one test for both.
    #[inline(always)]
    pub(crate) fn is_valid_and_accessed(&self, level: u8, entry: u64) -> bool {
        (entry ^ EASY) & bits_of(&self.unmarked, level, entry) == 0
    }

    /// Whether the low bits of `attributes` and the protection key permit the access.
    #[inline(always)]
    pub(super) fn rights_permit(&self, attributes: u8, key: u8, access: Access) -> bool {
        !self.permissions.deny(attributes, key, access)
    }

    #[inline(always)]
    pub(crate) fn key_of(&self, leaf: u64) -> u8 {
        (leaf >> KEY_SHIFT) as u8 & self.key_mask
    }

    /// Attributes without those that are not in force.
    #[inline(always)]
    pub(super) fn attributes(&self, bits: u8) -> Attributes {
        Attributes::from_bits_truncate(bits) & self.attribute_mask
    }

    #[inline(always)]
    pub(crate) fn page_size_extensions(&self) -> bool {
        self.cr4 & CR4_PSE != 0
    }

    /// The fault of an entry that is not valid (SDM 4.7).
    pub(super) fn refusal(&self, gva: u64, entry: u64, access: Access) -> PageFault {
        let mut error_code = ErrorCode::of_access(access, self.fetch_is_reported);
        // Reserved bits are not checked in an entry that is not present.
        if entry & PRESENT != 0 {
            error_code |= ErrorCode::PRESENT | ErrorCode::RESERVED;
        }
        PageFault {
            error_code,
            cr2: Gva(gva),
        }
    }

    /// The fault of an access that rights or key do not permit (SDM 4.7).
    pub(super) fn denial(&self, gva: u64, attributes: u8, key: u8, access: Access) -> PageFault {
        let mut error_code = ErrorCode::of_access(access, self.fetch_is_reported);
        error_code |= ErrorCode::PRESENT;
        // PK reports what the key says, whether or not the rights alone deny the access too.
        let user_page = attributes & Attributes::USER.bits() != 0;
        let KeyRights {
            user_pages,
            supervisor_pages,
        } = self.key_rights;
        let pairs = if user_page {
            user_pages
        } else {
            supervisor_pages
        };
        let keys_denying = self.permissions.keys_denying(pairs, access);
        error_code.set(ErrorCode::PROTECTION_KEY, keys_denying >> key & 1 != 0);
        PageFault {
            error_code,
            cr2: Gva(gva),
        }
    }
}

impl PagingMode {
    fn new(cr0: u64, cr4: u64, efer: u64) -> Self {
        if cr0 & CR0_PG == 0 {
            Self::Off
        } else if cr4 & CR4_PAE == 0 {
            Self::Legacy
        } else if efer & EFER_LMA == 0 {
            Self::Pae
        } else if cr4 & CR4_LA57 == 0 {
            Self::FourLevel
        } else {
            Self::FiveLevel
        }
    }

    fn is_long(self) -> bool {
        matches!(self, Self::FourLevel | Self::FiveLevel)
    }

    fn key_rights(self, cr4: u64, pkru: u32, pkrs: u32) -> KeyRights {
        let in_force = |bit| self.is_long() && cr4 & bit != 0;
        KeyRights {
            user_pages: if in_force(CR4_PKE) { pkru } else { 0 },
            supervisor_pages: if in_force(CR4_PKS) { pkrs } else { 0 },
        }
    }

    /// Where CR3 holds an address (SDM tables 4-3, 4-7 and 4-12).
    fn cr3_address(self) -> u64 {
        match self {
            Self::Off => 0,
            Self::Legacy => bits(12, 31),
            Self::Pae => bits(5, 31),
            Self::FourLevel | Self::FiveLevel => ADDRESS,
        }
    }
}

#[inline(always)]
fn bits_of(table: &[[u64; 2]; REFUSED_COUNT], level: u8, entry: u64) -> u64 {
    // At level 1 the bit is another one, and decides nothing.
    let page_size = level != 1 && entry & PAGE_SIZE != 0;
    table[usize::from(level) % REFUSED_COUNT][usize::from(page_size)]
}

/// One more than the highest level, rounded up so that a level needs no bound check.
const REFUSED_COUNT: usize = 8;

/// The bits that an entry must not set (SDM 4.3 to 4.5), and PRESENT, by level and page size.
fn refused(
    processor: &Processor,
    mode: PagingMode,
    cr4: u64,
    efer: u64,
) -> [[u64; 2]; REFUSED_COUNT] {
    let no_execute = if efer & EFER_NXE != 0 { 0 } else { NO_EXECUTE };
    let both = |bits| [bits, bits];
    let mut refused = [[0; 2]; REFUSED_COUNT];
    match mode {
        PagingMode::Off => {}
        PagingMode::Legacy => {
            refused[2] = [
                0,
                if cr4 & CR4_PSE != 0 {
                    pse_reserved(processor)
                } else {
                    0
                },
            ];
        }
        PagingMode::Pae => {
            let always = bits(processor.maxphyaddr, 62) | no_execute;
            refused[2] = [always, always | bits(13, 20)];
            refused[1] = both(always);
        }
        PagingMode::FourLevel | PagingMode::FiveLevel => {
            let always = bits(processor.maxphyaddr, 51) | no_execute;
            let top = always
                | PAGE_SIZE
                | if processor.vendor == Vendor::Amd {
                    GLOBAL
                } else {
                    0
                };
            refused[5] = both(top);
            refused[4] = both(top);
            let page = if processor.gib_pages {
                bits(13, 29)
            } else {
                PAGE_SIZE
            };
            refused[3] = [always, always | page];
            refused[2] = [always, always | bits(13, 20)];
            refused[1] = both(always);
        }
    }
    refused.map(|by_page_size| by_page_size.map(|bits| bits | PRESENT))
}

/// SDM table 4-8, APM 5.2.3: also bit 63, whatever NXE says.
pub(super) fn pdpte_reserved(processor: &Processor) -> u64 {
    bits(1, 2) | bits(5, 8) | bits(processor.maxphyaddr, 63)
}

/// SDM table 4-4: with M address bits, at most 40, bits 21:(M - 19) of a PDE for a 4 MiB page.
fn pse_reserved(processor: &Processor) -> u64 {
    if processor.pse36 {
        bits(processor.maxphyaddr.min(40) - 19, 21)
    } else {
        bits(13, 21)
    }
}
