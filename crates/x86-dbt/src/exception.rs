//! Exceptions as values. Intel SDM volume 3, chapter 6.

/// An exception's vector. Intel SDM volume 3, table 6-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the manual's")]
pub enum Vector {
    DivideError = 0,
    Debug = 1,
    Nmi = 2,
    Breakpoint = 3,
    Overflow = 4,
    BoundRange = 5,
    InvalidOpcode = 6,
    DeviceNotAvailable = 7,
    DoubleFault = 8,
    InvalidTss = 10,
    SegmentNotPresent = 11,
    StackFault = 12,
    GeneralProtection = 13,
    PageFault = 14,
    X87FloatingPoint = 16,
    AlignmentCheck = 17,
    SimdFloatingPoint = 19,
}

/// An exception an instruction raised; for #PF the address is in CR2 already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exception {
    /// Which exception.
    pub vector: Vector,
    /// The error code, for the vectors that push one.
    pub error: Option<u16>,
}

/// What an instruction, or a part of one, comes to.
pub(crate) type Result<T = ()> = core::result::Result<T, Exception>;

impl Exception {
    pub(crate) const fn plain(vector: Vector) -> Self {
        Self {
            vector,
            error: None,
        }
    }

    pub(crate) const fn coded(vector: Vector, error: u16) -> Self {
        Self {
            vector,
            error: Some(error),
        }
    }

    /// Whether it belongs to the contributory class of Intel SDM volume 3, table 6-4.
    fn is_contributory(self) -> bool {
        matches!(
            self.vector,
            Vector::DivideError
                | Vector::InvalidTss
                | Vector::SegmentNotPresent
                | Vector::StackFault
                | Vector::GeneralProtection
        )
    }

    /// What to deliver when delivering `self` raised `second`; `None` is a shutdown.
    /// Intel SDM volume 3, table 6-5.
    pub(crate) fn then(self, second: Self) -> Option<Self> {
        const DOUBLE_FAULT: Exception = Exception::coded(Vector::DoubleFault, 0);
        match self.vector {
            Vector::DoubleFault
                if second.is_contributory() || second.vector == Vector::PageFault =>
            {
                None
            }
            Vector::PageFault if second.is_contributory() || second.vector == Vector::PageFault => {
                Some(DOUBLE_FAULT)
            }
            _ if self.is_contributory() && second.is_contributory() => Some(DOUBLE_FAULT),
            _ => Some(second),
        }
    }
}

/// #UD.
pub(crate) const UD: Exception = Exception::plain(Vector::InvalidOpcode);
/// #NM.
pub(crate) const NM: Exception = Exception::plain(Vector::DeviceNotAvailable);
/// #DE.
pub(crate) const DE: Exception = Exception::plain(Vector::DivideError);
/// #DB; DR6 says why.
pub(crate) const DB: Exception = Exception::plain(Vector::Debug);
/// #MF.
pub(crate) const MF: Exception = Exception::plain(Vector::X87FloatingPoint);
/// #XM.
pub(crate) const XM: Exception = Exception::plain(Vector::SimdFloatingPoint);
/// #AC(0).
pub(crate) const AC: Exception = Exception::coded(Vector::AlignmentCheck, 0);
/// #GP(0).
pub(crate) const GP0: Exception = gp(0);
/// #SS(0).
pub(crate) const SS0: Exception = ss(0);

/// #GP with a selector's error code.
pub(crate) const fn gp(code: u16) -> Exception {
    Exception::coded(Vector::GeneralProtection, code)
}

/// #SS with a selector's error code.
pub(crate) const fn ss(code: u16) -> Exception {
    Exception::coded(Vector::StackFault, code)
}

/// #NP with a selector's error code.
pub(crate) const fn np(code: u16) -> Exception {
    Exception::coded(Vector::SegmentNotPresent, code)
}

/// #TS with a selector's error code.
pub(crate) const fn ts(code: u16) -> Exception {
    Exception::coded(Vector::InvalidTss, code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_double_fault_table_of_the_manual() {
        let pf = Exception::coded(Vector::PageFault, 0);
        let df = Exception::coded(Vector::DoubleFault, 0);
        assert_eq!(UD.then(GP0), Some(GP0));
        assert_eq!(GP0.then(pf), Some(pf));
        assert_eq!(GP0.then(GP0), Some(df));
        assert_eq!(pf.then(GP0), Some(df));
        assert_eq!(pf.then(pf), Some(df));
        assert_eq!(df.then(pf), None);
        assert_eq!(df.then(UD), Some(UD));
    }
}
