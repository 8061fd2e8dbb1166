//! The page fault as the guest sees it.

use std::fmt;

use super::access::{Access, AccessKind};
use crate::Gva;

bitflags::bitflags! {
    /// The error code that #PF pushes (SDM 4.7).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ErrorCode: u32 {
        /// P: the entries were present; the access was not allowed, or a reserved bit was set.
        const PRESENT = 1 << 0;
        /// W/R: the access was a write.
        const WRITE = 1 << 1;
        /// U/S: the access was a user-mode access.
        const USER = 1 << 2;
        /// RSVD: a reserved bit was set in an entry.
        const RESERVED = 1 << 3;
        /// I/D: the access was an instruction fetch. Only with SMEP, or with PAE and NXE.
        const FETCH = 1 << 4;
        /// PK: the protection key does not allow the access.
        const PROTECTION_KEY = 1 << 5;
    }
}

/// A #PF to be delivered to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageFault {
    /// What the guest finds on its stack.
    pub error_code: ErrorCode,
    /// What the guest finds in CR2: the linear address as it was given to the walk.
    pub cr2: Gva,
}

impl fmt::Display for PageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "page fault at {}, error code {:#x}",
            self.cr2,
            self.error_code.bits()
        )
    }
}

impl ErrorCode {
    /// The flags that follow from the access alone.
    pub(super) fn of_access(access: Access, fetch_is_reported: bool) -> Self {
        let mut code = Self::empty();
        code.set(Self::WRITE, access.kind == AccessKind::Write);
        code.set(Self::USER, access.is_user());
        code.set(
            Self::FETCH,
            access.kind == AccessKind::Fetch && fetch_is_reported,
        );
        code
    }
}
