//! The MSI capability (PCI 3.0, 6.8.1): 64-bit address, per-vector masking.

use crate::config_space::{CapabilityError, ConfigSpace};
use crate::registers::CAPABILITY_MSI;

/// A memory write that is an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// Why an MSI capability cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MsiError {
    /// A function has 1, 2, 4, 8, 16 or 32 vectors.
    #[error("{vectors} is not a number of MSI vectors")]
    Vectors {
        /// Asked for.
        vectors: u8,
    },
    /// The configuration space has no room.
    #[error("the MSI capability does not fit")]
    Capability(#[source] CapabilityError),
}

/// Where a function's MSI capability lies. The registers are in its [`ConfigSpace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    at: usize,
}

impl Msi {
    /// Adds the capability for `vectors` messages to `space`.
    ///
    /// # Errors
    ///
    /// When the number is not a power of two up to 32 or the space is full.
    pub fn add(space: &mut ConfigSpace, vectors: u8) -> Result<Self, MsiError> {
        if !vectors.is_power_of_two() || vectors > 32 {
            return Err(MsiError::Vectors { vectors });
        }
        let capable = u16::try_from(vectors.trailing_zeros()).expect("at most 5") << 1;
        let [low, high] = (CONTROL_64_BIT | CONTROL_MASKING | capable).to_le_bytes();
        let mask = u32::MAX >> (32 - u32::from(vectors));
        let mut contents = [0; 22];
        contents[..2].copy_from_slice(&[low, high]);
        let mut writable = [0; 22];
        writable[..2].copy_from_slice(&CONTROL_WRITABLE.to_le_bytes());
        writable[2..6].copy_from_slice(&0xffff_fffcu32.to_le_bytes());
        writable[6..12].fill(0xff);
        writable[14..18].copy_from_slice(&mask.to_le_bytes());
        let at = space
            .add_capability(CAPABILITY_MSI, &contents, &writable)
            .map_err(MsiError::Capability)?;
        let msi = Self { at: at.into() };
        space.let_device_change(msi.at + PENDING, mask);
        Ok(msi)
    }

    /// Whether the guest has enabled MSI, which silences `INTx`.
    #[must_use]
    pub fn is_enabled(self, space: &ConfigSpace) -> bool {
        space.u16(self.at + CONTROL) & CONTROL_ENABLE != 0
    }

    /// Raises `vector`: the message to send, or `None` when MSI is off or the vector is masked, in
    /// which case it is pending.
    ///
    /// Vectors beyond those the guest enabled fall onto the enabled ones, low bits deciding.
    pub fn raise(self, space: &mut ConfigSpace, vector: u8) -> Option<MsiMessage> {
        if !self.is_enabled(space) {
            return None;
        }
        let vector = u32::from(vector) & (self.enabled_vectors(space) - 1);
        if space.u32(self.at + MASK) & 1 << vector != 0 {
            let pending = space.u32(self.at + PENDING) | 1 << vector;
            space.set_u32(self.at + PENDING, pending);
            return None;
        }
        Some(self.message(space, vector))
    }

    /// Takes a pending message that the guest has unmasked; ask again until `None` after each
    /// write to the configuration space.
    pub fn next_unmasked(self, space: &mut ConfigSpace) -> Option<MsiMessage> {
        let pending = space.u32(self.at + PENDING);
        let ready = pending & !space.u32(self.at + MASK);
        if ready == 0 || !self.is_enabled(space) {
            return None;
        }
        let vector = ready.trailing_zeros();
        space.set_u32(self.at + PENDING, pending & !(1 << vector));
        Some(self.message(space, vector))
    }

    fn message(self, space: &ConfigSpace, vector: u32) -> MsiMessage {
        let low = u64::from(space.u32(self.at + ADDRESS));
        let address = u64::from(space.u32(self.at + ADDRESS + 4)) << 32 | low;
        let data = u32::from(space.u16(self.at + DATA));
        MsiMessage {
            address,
            data: data & !(self.enabled_vectors(space) - 1) | vector,
        }
    }

    /// The guest may ask for more than the function has; it gets what there is.
    fn enabled_vectors(self, space: &ConfigSpace) -> u32 {
        let control = space.u16(self.at + CONTROL);
        let (capable, enabled) = (control >> 1 & 7, control >> 4 & 7);
        1 << enabled.min(capable)
    }
}

// Offsets into the capability, 6.8.1.
const CONTROL: usize = 2;
const ADDRESS: usize = 4;
const DATA: usize = 12;
const MASK: usize = 16;
const PENDING: usize = 20;
// 6.8.1.3, message control.
const CONTROL_ENABLE: u16 = 1 << 0;
const CONTROL_64_BIT: u16 = 1 << 7;
const CONTROL_MASKING: u16 = 1 << 8;
const CONTROL_WRITABLE: u16 = 0x0071;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Header;

    fn put(space: &mut ConfigSpace, offset: u16, value: u32) {
        space.write(offset, &value.to_le_bytes());
    }

    #[test]
    fn vectors_fill_the_low_bits_of_the_data() {
        let mut space = ConfigSpace::new(Header::default());
        let msi = Msi::add(&mut space, 4).unwrap();
        assert_eq!(msi.raise(&mut space, 1), None, "off");
        put(&mut space, 0x44, 0xfee0_1000);
        put(&mut space, 0x4c, 0x40);
        put(&mut space, 0x40, 0x0021_0000);
        let message = msi.raise(&mut space, 3).unwrap();
        assert_eq!(
            message,
            MsiMessage {
                address: 0xfee0_1000,
                data: 0x43
            }
        );
        put(&mut space, 0x40, 0x0001_0000);
        assert_eq!(
            msi.raise(&mut space, 3).unwrap().data,
            0x40,
            "one vector enabled"
        );
        put(&mut space, 0x40, 0x0071_0000);
        assert_eq!(
            msi.raise(&mut space, 7).unwrap().data,
            0x43,
            "never more than it has"
        );
    }

    #[test]
    fn masked_vectors_wait() {
        let mut space = ConfigSpace::new(Header::default());
        let msi = Msi::add(&mut space, 2).unwrap();
        put(&mut space, 0x40, 0x0011_0000);
        put(&mut space, 0x50, 0b10);
        assert_eq!(msi.raise(&mut space, 1), None);
        assert_eq!(space.u32(0x54), 0b10);
        assert_eq!(msi.next_unmasked(&mut space), None);
        let mut fresh = ConfigSpace::new(Header::default());
        Msi::add(&mut fresh, 2).unwrap();
        fresh.restore(&space.state()).unwrap();
        assert_eq!(fresh.u32(0x54), 0b10, "a pending bit survives");
        put(&mut space, 0x50, 0);
        assert_eq!(msi.next_unmasked(&mut space).unwrap().data, 1);
        assert_eq!(msi.next_unmasked(&mut space), None);
    }

    #[test]
    fn odd_numbers_of_vectors_are_refused() {
        let mut space = ConfigSpace::new(Header::default());
        for vectors in [0, 3, 64] {
            assert_eq!(
                Msi::add(&mut space, vectors),
                Err(MsiError::Vectors { vectors })
            );
        }
    }
}
