//! Whose a cached translation is, and which an instruction invalidates.

use crate::Gva;

/// Whose translations are cached, and used (SDM 4.10.1 and 28.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The VPID, or the ASID of an AMD processor; 0 is the host's.
    pub vpid: u16,
    /// The PCID; 0 without CR4.PCIDE.
    pub pcid: u16,
    /// The address of the root of EPT or of the nested page tables (EP4TA) that the translations
    /// combine with; 0 for linear mappings, which combine with none.
    pub nested_root: u64,
}

/// INVPCID: what it invalidates, in the current VPID (SDM 2, INVPCID).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invpcid {
    /// Type 0: an address in a PCID, except globals.
    Address(u16, Gva),
    /// Type 1: a PCID, except globals.
    SingleContext(u16),
    /// Type 2: everything.
    AllContexts,
    /// Type 3: everything except globals.
    AllExceptGlobals,
}

/// INVVPID: what it invalidates, in every PCID (SDM 3C, 30.3 INVVPID).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invvpid {
    /// Type 0: an address in a VPID.
    Address(u16, Gva),
    /// Type 1: a VPID.
    SingleContext(u16),
    /// Type 2: all VPIDs but 0.
    AllContexts,
    /// Type 3: a VPID, except globals.
    SingleExceptGlobals(u16),
}

/// INVEPT: what it invalidates, in every VPID and PCID (SDM 3C, 30.3 INVEPT).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invept {
    /// Type 1: what combines with the EPT at this root.
    SingleContext(u64),
    /// Type 2: all EPTs.
    AllContexts,
}
