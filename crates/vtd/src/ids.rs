//! The names that the unit knows devices, domains and address spaces by.

use std::fmt;

/// The requester id of a device: bus in bits 15:8, device in bits 7:3, function in bits 2:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SourceId(pub u16);

/// A process address space id: 20 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "u32"))]
pub struct Pasid(u32);

/// A domain id, which tags what the unit caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DomainId(pub u16);

/// An address as a device uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Iova(pub u64);

impl SourceId {
    /// The id of a function; the upper bits of `device` and `function` beyond five and three are dropped.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | (device as u16 & 31) << 3 | function as u16 & 7)
    }

    /// The bus number.
    #[must_use]
    pub fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Device and function number: the index into a context table.
    #[must_use]
    pub fn function(self) -> u8 {
        self.0.to_be_bytes()[1]
    }
}

impl Pasid {
    /// `None` beyond 20 bits.
    #[must_use]
    pub const fn new(pasid: u32) -> Option<Self> {
        if pasid >> 20 == 0 {
            Some(Self(pasid))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Takes the 20 bits that begin at bit `shift`.
    pub(crate) fn from_bits(word: u64, shift: u32) -> Self {
        Self(u32::try_from(word >> shift & 0xf_ffff).expect("20 bits"))
    }
}

/// The number has more than 20 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:#x} is no PASID: it has more than 20 bits")]
pub struct InvalidPasid(pub u32);

impl TryFrom<u32> for Pasid {
    type Error = InvalidPasid;

    fn try_from(pasid: u32) -> Result<Self, InvalidPasid> {
        Self::new(pasid).ok_or(InvalidPasid(pasid))
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let function = self.function();
        write!(
            f,
            "{:02x}:{:02x}.{}",
            self.bus(),
            function >> 3,
            function & 7
        )
    }
}

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Sixteen bits of `word` from bit `shift` on.
pub(crate) fn u16_at(word: u64, shift: u32) -> u16 {
    u16::try_from(word >> shift & 0xffff).expect("16 bits")
}

/// Thirty-two bits of `word` from bit `shift` on.
pub(crate) fn u32_at(word: u64, shift: u32) -> u32 {
    u32::try_from(word >> shift & 0xffff_ffff).expect("32 bits")
}
