//! Why a nested walk gave no translation, and in which dimension.

use crate::x86::PageFault;
use crate::{Gpa, Unbacked, WalkError, arm, ept, npt, vtd};

/// The fault of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StageFault {
    /// Of EPT.
    #[error(transparent)]
    Ept(#[from] ept::Fault),
    /// Of nested page tables.
    #[error(transparent)]
    Npt(#[from] npt::NestedPageFault),
    /// Of VT-d's second stage.
    #[error("{0}")]
    Vtd(#[from] vtd::Fault),
    /// Of Arm's stage 2.
    #[error("{0}")]
    Arm(#[from] arm::Fault),
    /// Of a trace: [`Traced`](super::Traced).
    #[error("{} at {gpa} meets a trace", super::traced::describe(*.access))]
    Traced {
        /// The address as it was given to the stage.
        gpa: Gpa,
        /// What was to be done there.
        access: super::StageAccess,
    },
}

/// Why a nested walk gave no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("dimension {dimension}: {cause}")]
pub struct Failure<E = Unbacked> {
    /// Whose matter it is: 0 is the guest's, 1 that of the first stage, and so on; the ground has the
    /// dimension of the stage whose entry or page it lacks.
    pub dimension: u8,
    /// What happened there.
    pub cause: Cause<E>,
}

/// What happened in a dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Cause<E = Unbacked> {
    /// The guest's fault, in dimension 0.
    #[error("{0}")]
    PageFault(PageFault),
    /// The fault of an Arm guest's stage 1, in dimension 0.
    #[error("{0}")]
    Arm(arm::Fault),
    /// A stage's fault.
    #[error("{0}")]
    Stage(StageFault),
    /// The ground has no entry there.
    #[error("the entry at {at} cannot be reached")]
    Absent {
        /// The address on the ground.
        at: Gpa,
        /// What the memory answered.
        source: E,
    },
    /// See [`WalkError::Contended`].
    #[error("the paging structures kept changing during the walk")]
    Contended,
}

impl<E> Failure<E> {
    /// A table that cannot be reached is a failure below, and tells its own dimension.
    #[cold]
    pub(super) fn of_guest_walk<F>(error: WalkError<F, Self>) -> Self
    where
        Cause<E>: From<F>,
    {
        Self::of_walk(0, error, Cause::from)
    }

    #[cold]
    pub(super) fn of_stage_walk(dimension: u8, error: WalkError<StageFault, Self>) -> Self {
        Self::of_walk(dimension, error, Cause::Stage)
    }

    fn of_walk<F>(
        dimension: u8,
        error: WalkError<F, Self>,
        cause: impl FnOnce(F) -> Cause<E>,
    ) -> Self {
        match error {
            WalkError::Fault(fault) => Self {
                dimension,
                cause: cause(fault),
            },
            WalkError::Table { source, .. } => source,
            WalkError::Contended => Self {
                dimension,
                cause: Cause::Contended,
            },
        }
    }
}

impl<E> From<PageFault> for Cause<E> {
    fn from(fault: PageFault) -> Self {
        Self::PageFault(fault)
    }
}

impl<E> From<arm::Fault> for Cause<E> {
    fn from(fault: arm::Fault) -> Self {
        Self::Arm(fault)
    }
}

/// Gives back a cause that is none of an x86 guest's.
impl<E> TryFrom<Cause<E>> for PageFault {
    type Error = Cause<E>;

    fn try_from(cause: Cause<E>) -> Result<Self, Cause<E>> {
        match cause {
            Cause::PageFault(fault) => Ok(fault),
            other => Err(other),
        }
    }
}

/// Gives back a cause that is none of an Arm guest's.
impl<E> TryFrom<Cause<E>> for arm::Fault {
    type Error = Cause<E>;

    fn try_from(cause: Cause<E>) -> Result<Self, Cause<E>> {
        match cause {
            Cause::Arm(fault) => Ok(fault),
            other => Err(other),
        }
    }
}
