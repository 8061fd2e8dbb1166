//! Base address registers (PCI 3.0, 6.2.5).

use crate::registers::*;

/// What a base address register claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere; takes up two registers.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

/// A base address register as the guest has set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// First address; a multiple of `size`.
    pub address: u64,
    /// Length in bytes, a power of two.
    pub size: u64,
    /// What is claimed.
    pub kind: BarKind,
    /// Whether the command register enables accesses of this kind.
    pub enabled: bool,
}

/// Why a base address register cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarError {
    /// There are registers 0 to 5, and a 64-bit one needs the next as well.
    #[error("base address register {index} does not exist or has no room beside it")]
    Index {
        /// The register asked for.
        index: usize,
    },
    /// Another BAR has the register.
    #[error("base address register {index} is taken")]
    Taken {
        /// The register asked for.
        index: usize,
    },
    /// Not a power of two, or out of 4 to 256 ports, 16 bytes to 2 GiB, or 16 bytes to 2^63.
    #[error("{size:#x} is not a size for such a base address register")]
    Size {
        /// The size asked for.
        size: u64,
    },
}

/// The two register values (low and high) that a BAR of this kind starts with, and their writable
/// bits.
pub(crate) struct Layout {
    pub(crate) flags: u32,
    pub(crate) writable: [u32; 2],
    pub(crate) registers: usize,
}

impl BarKind {
    pub(crate) fn layout(self, size: u64) -> Result<Layout, BarError> {
        let (smallest, largest, flags) = match self {
            Self::Io => (4, 256, BAR_IO),
            Self::Memory32 { prefetchable } => (16, 1 << 31, prefetch_flag(prefetchable)),
            Self::Memory64 { prefetchable } => {
                (16, 1 << 63, BAR_64_BIT | prefetch_flag(prefetchable))
            }
        };
        if !size.is_power_of_two() || !(smallest..=largest).contains(&size) {
            return Err(BarError::Size { size });
        }
        let mask = (!(size - 1)).to_le_bytes();
        let [a, b, c, d, e, f, g, h] = mask;
        let writable = [
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
        ];
        let registers = if matches!(self, Self::Memory64 { .. }) {
            2
        } else {
            1
        };
        Ok(Layout {
            flags,
            writable,
            registers,
        })
    }
}

fn prefetch_flag(prefetchable: bool) -> u32 {
    if prefetchable { BAR_PREFETCHABLE } else { 0 }
}
