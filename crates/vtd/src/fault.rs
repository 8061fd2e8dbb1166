//! Why a request is blocked (VT-d 7.1.3), and what of it is recorded.

use crate::ids::{Iova, Pasid, SourceId};

macro_rules! reasons {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// The reason of a [`Fault`]; the numbers are those that the unit records.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Reason {
            $(
                #[doc = concat!("`", stringify!($number), "`: ", $text, ".")]
                #[error($text)]
                $name = $number,
            )*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

reasons! {
    RootNotPresent = 0x1, "the root entry is not present";
    ContextNotPresent = 0x2, "the context entry is not present";
    ContextInvalid = 0x3, "the context entry asks for what the unit cannot do";
    BeyondWidth = 0x4, "the address is beyond the address width";
    WriteDenied = 0x5, "a write is not permitted";
    ReadDenied = 0x6, "a read is not permitted";
    TableInaccessible = 0x7, "a paging entry cannot be reached";
    RootInaccessible = 0x8, "the root entry cannot be reached";
    ContextInaccessible = 0x9, "the context entry cannot be reached";
    RootReserved = 0xa, "the root entry sets reserved bits";
    ContextReserved = 0xb, "the context entry sets reserved bits";
    TableReserved = 0xc, "a paging entry sets reserved bits";
    RequestTypeBlocked = 0xd, "the context entry blocks translated and translation requests";
    InterruptRange = 0xe, "the address is in the interrupt range";

    InterruptReserved = 0x20, "an interrupt request sets reserved bits";
    InterruptIndex = 0x21, "the interrupt index is beyond the table";
    InterruptNotPresent = 0x22, "the interrupt entry is not present";
    InterruptInaccessible = 0x23, "the interrupt entry cannot be reached";
    InterruptEntryReserved = 0x24, "the interrupt entry sets reserved bits";
    InterruptCompatibility = 0x25, "interrupts in compatibility format are blocked";
    InterruptSource = 0x26, "the interrupt entry is not for this source";
    PostedInaccessible = 0x27, "the posted-interrupt descriptor cannot be reached";
    PostedReserved = 0x28, "the posted-interrupt descriptor sets reserved bits";

    RootAddress = 0x30, "the root-table address sets reserved bits";
    PasidInLegacyMode = 0x31, "a request with PASID in legacy mode";
    PageRequestInLegacyMode = 0x32, "a page request in legacy mode";
    ScalableRootInaccessible = 0x38, "the scalable-mode root entry cannot be reached";
    ScalableRootNotPresent = 0x39, "the scalable-mode root entry is not present";
    ScalableRootReserved = 0x3a, "the scalable-mode root entry sets reserved bits";
    ScalableContextInaccessible = 0x40, "the scalable-mode context entry cannot be reached";
    ScalableContextNotPresent = 0x41, "the scalable-mode context entry is not present";
    ScalableContextReserved = 0x42, "the scalable-mode context entry sets reserved bits";
    ScalableContextInvalid = 0x43, "the scalable-mode context entry asks for what the unit cannot do";
    DeviceTlbDisabled = 0x44, "the context entry does not enable device TLBs";
    PasidDisabled = 0x45, "the context entry does not enable PASIDs";
    PasidBeyondDirectory = 0x46, "the PASID is beyond the directory";
    PageRequestDisabled = 0x47, "the context entry does not enable page requests";
    RidPasid = 0x48, "RID_PASID is beyond the directory";
    DirectoryInaccessible = 0x50, "the PASID directory entry cannot be reached";
    DirectoryNotPresent = 0x51, "the PASID directory entry is not present";
    DirectoryReserved = 0x52, "the PASID directory entry sets reserved bits";
    PasidInaccessible = 0x58, "the PASID entry cannot be reached";
    PasidNotPresent = 0x59, "the PASID entry is not present";
    PasidReserved = 0x5a, "the PASID entry sets reserved bits";
    PasidInvalid = 0x5b, "the PASID entry asks for what the unit cannot do";
    ExecuteDisabled = 0x5c, "the PASID entry does not enable requests to execute";
    PrivilegeDisabled = 0x5d, "the PASID entry does not enable privileged requests";
    FirstInaccessible = 0x70, "a first-stage entry cannot be reached";
    FirstNotPresent = 0x71, "a first-stage entry is not present";
    FirstReserved = 0x72, "a first-stage entry sets reserved bits";
    FirstTopInaccessible = 0x73, "the top first-stage entry cannot be reached";
    FirstBeyondSecond = 0x74, "a first-stage entry lies beyond the second stage";
    FirstTopUnreadable = 0x75, "the second stage does not permit reads of the top first-stage entry";
    FirstUnreadable = 0x76, "the second stage does not permit reads of a first-stage entry";
    FirstUnwritable = 0x77, "the second stage does not permit updates of a first-stage entry";
    SecondInaccessible = 0x78, "a second-stage entry cannot be reached";
    SecondNotPresent = 0x79, "a second-stage entry is not present";
    SecondReserved = 0x7a, "a second-stage entry sets reserved bits";
    SecondTopInaccessible = 0x7b, "the top second-stage entry cannot be reached";
    NotCanonical = 0x80, "the address is not canonical";
    UserDenied = 0x81, "the page is not for user requests";
    ExecuteDenied = 0x82, "requests to execute are not permitted";
    ScalableBeyondWidth = 0x83, "the address is beyond the width of the second stage";
    FirstResultBeyondSecond = 0x84, "the first stage leads beyond the second";
    ScalableWriteDenied = 0x85, "a write is not permitted by the stages";
    ScalableReadDenied = 0x86, "a read is not permitted by the stages";
    ScalableInterruptRange = 0x87, "the stages lead into the interrupt range";
    FirstUpdateFailed = 0x91, "a first-stage entry kept changing";
}

impl Reason {
    /// The number that is recorded.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Whether it is one of interrupt remapping.
    #[must_use]
    pub fn is_interrupt(self) -> bool {
        (0x20..0x30).contains(&self.number())
    }

    /// Whether a device that asked for a translation learns of it as a page that it may not use, and
    /// nothing is recorded: a page request may mend it (VT-d 4.2.3).
    #[must_use]
    pub(crate) fn is_recoverable(self) -> bool {
        matches!(
            self,
            Self::BeyondWidth
                | Self::WriteDenied
                | Self::ReadDenied
                | Self::FirstNotPresent
                | Self::FirstUnreadable
                | Self::FirstUnwritable
                | Self::FirstTopUnreadable
                | Self::FirstBeyondSecond
                | Self::SecondNotPresent
                | Self::NotCanonical
                | Self::UserDenied
                | Self::ExecuteDenied
                | Self::ScalableBeyondWidth
                | Self::FirstResultBeyondSecond
                | Self::ScalableWriteDenied
                | Self::ScalableReadDenied
        )
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Reads and writes in one: an `AtomicOp`.
    ReadWrite,
}

impl AccessKind {
    pub(crate) fn reads(self) -> bool {
        self != Self::Write
    }

    pub(crate) fn writes(self) -> bool {
        self != Self::Read
    }
}

/// A blocked request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{source_id} at {address}: {reason} ({:#x})", .reason.number())]
pub struct Fault {
    /// Why.
    #[source]
    pub reason: Reason,
    /// Who asked.
    pub source_id: SourceId,
    /// For which process, if the request said so.
    pub pasid: Option<Pasid>,
    /// The address of a DMA request; of an interrupt request its index, shifted up to bits 63:48.
    pub address: Iova,
    /// What was to be done; an interrupt request is a write.
    pub kind: AccessKind,
    /// The request asked for privilege.
    pub privileged: bool,
    /// FPD of the context, PASID or interrupt entry: the fault is not recorded.
    pub unrecorded: bool,
}

impl Fault {
    /// The fault recording register (VT-d 11.4.7.3): low and high half.
    pub(crate) fn record(&self) -> [u64; 2] {
        let bit = |set: bool, place: u32| u64::from(set) << place;
        let (low, is_read) = if self.reason.is_interrupt() {
            (self.address.0, false)
        } else {
            (self.address.0 & !0xfff, self.kind.reads())
        };
        let pasid = self.pasid.map_or(0, |pasid| {
            u64::from(pasid.number()) << 40 | 1 << 31 | bit(self.privileged, 29)
        });
        let high = RECORDED
            | bit(is_read, 62)
            | bit(self.kind == AccessKind::ReadWrite, 28)
            | u64::from(self.reason.number()) << 32
            | pasid
            | u64::from(self.source_id.0);
        [low, high]
    }
}

/// F of a fault recording register.
pub(crate) const RECORDED: u64 = 1 << 63;
