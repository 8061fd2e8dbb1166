//! The PCI Express capability of an endpoint (PCI Express Base 5.0, 7.5.3): that it is one, and nothing to tune.

use crate::config_space::{CapabilityError, ConfigSpace};

/// Adds the capability, version 2, of an endpoint with a link of 2.5 GT/s and one lane. Guests look for extended
/// configuration space in functions that have it.
///
/// # Errors
///
/// When the space has no room.
pub fn add_express(space: &mut ConfigSpace) -> Result<u8, CapabilityError> {
    let mut contents = [0; 58];
    let mut writable = [0; 58];
    let mut put = |at: usize, value: u32| {
        contents[at - 2..at + 2].copy_from_slice(&value.to_le_bytes());
    };
    put(DEVICE_CAPABILITIES, ROLE_BASED_ERRORS);
    put(LINK_CAPABILITIES, ONE_LANE | SPEED_2_5);
    put(LINK_CONTROL, (ONE_LANE | SPEED_2_5) << 16);
    contents[..2].copy_from_slice(&VERSION_2.to_le_bytes());
    // Enables of error reports, relaxed ordering, payload and request sizes.
    writable[DEVICE_CONTROL - 2..DEVICE_CONTROL].copy_from_slice(&0x7fff_u16.to_le_bytes());
    space.add_capability(EXPRESS, &contents, &writable)
}

/// Capability id.
const EXPRESS: u8 = 0x10;
/// Version 2, an endpoint.
const VERSION_2: u16 = 2;
// Offsets in the capability.
const DEVICE_CAPABILITIES: usize = 4;
const DEVICE_CONTROL: usize = 8;
const LINK_CAPABILITIES: usize = 12;
const LINK_CONTROL: usize = 16;
const ROLE_BASED_ERRORS: u32 = 1 << 15;
const SPEED_2_5: u32 = 1;
const ONE_LANE: u32 = 1 << 4;
