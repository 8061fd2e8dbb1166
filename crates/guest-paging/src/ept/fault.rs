//! VM exits that an EPT walk causes.

use crate::Gpa;

bitflags::bitflags! {
    /// The exit qualification of an EPT violation (SDM table 27-7).
    ///
    /// Bits 11:9 (advanced information) and 12 (NMI unblocking) stay clear: the first is optional,
    /// the second is not known to a walk.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Qualification: u64 {
        /// A data read, or an access to a guest paging structure.
        const READ = 1 << 0;
        /// A data write; also any access to a guest paging structure if accessed and dirty flags are
        /// enabled, and the update of such a structure.
        const WRITE = 1 << 1;
        /// An instruction fetch.
        const FETCH = 1 << 2;
        /// All entries used permit reads.
        const READABLE = 1 << 3;
        /// All entries used permit writes.
        const WRITABLE = 1 << 4;
        /// All entries used permit fetches; with mode-based execute control, those from
        /// supervisor-mode linear addresses.
        const EXECUTABLE = 1 << 5;
        /// With mode-based execute control, all entries used permit fetches from user-mode linear
        /// addresses.
        const EXECUTABLE_USER = 1 << 6;
        /// The access belongs to a linear address.
        const LINEAR = 1 << 7;
        /// The access is to the translation of the linear address, not to a paging structure on the
        /// way to it.
        const TRANSLATED = 1 << 8;
    }
}

/// The VM exit of an access that EPT does not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// Exit reason 48: an entry is not present, or the rights do not suffice.
    #[error("EPT violation at {gpa}, qualification {:#x}", .qualification.bits())]
    Violation {
        /// The guest physical address as it was given to the walk.
        gpa: Gpa,
        /// The exit qualification.
        qualification: Qualification,
    },
    /// Exit reason 49: an entry that is present is malformed. It has no qualification.
    #[error("EPT misconfiguration at {gpa}")]
    Misconfiguration {
        /// The guest physical address as it was given to the walk.
        gpa: Gpa,
    },
}
