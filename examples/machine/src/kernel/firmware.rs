//! Firmware: a ROM that ends at 4 GiB, whose last 128 KiB are also below 1 MiB, entered at the
//! reset vector.
//!
//! The PC's chip set would show either ROM or RAM in the low window, as firmware chooses; here it
//! is RAM that holds the ROM's bytes from the start, which is what firmware makes of it first.

use vm_memory::{Bytes, GuestAddress};

use super::{KernelImage, LoadError, Ram, length, ranges};
use crate::layout::{HIGH_MEMORY, HIGH_RAM};
use crate::start_state::StartState;

/// Allocates `size` bytes of RAM, puts `firmware` into its places, and answers how the processor
/// starts.
///
/// # Errors
///
/// When the host has no such memory, or `firmware` is no ROM of a PC: whole 64 KiB up to 16 MiB,
/// with a jump at its reset vector.
pub fn load_firmware(size: u64, firmware: &KernelImage) -> Result<(Ram, StartState), LoadError> {
    let rom = &firmware.bytes;
    let refused = || LoadError::NotFirmware {
        name: firmware.name.clone(),
    };
    if rom.is_empty() || !rom.len().is_multiple_of(64 << 10) || rom.len() > 16 << 20 {
        return Err(refused());
    }
    if !matches!(rom[rom.len() - 16], NEAR_JUMP | FAR_JUMP) {
        return Err(refused());
    }
    let start = HIGH_RAM - length(rom);
    let mut ranges = ranges(size);
    ranges.push((GuestAddress(start), rom.len()));
    ranges.sort_by_key(|range| range.0);
    let ram = Ram::from_ranges(&ranges).map_err(|source| LoadError::Ram { size, source })?;
    let low = &rom[rom.len().saturating_sub(LOW_WINDOW)..];
    ram.write_slice(rom, GuestAddress(start))
        .map_err(LoadError::BootData)?;
    ram.write_slice(low, GuestAddress(HIGH_MEMORY - length(low)))
        .map_err(LoadError::BootData)?;
    Ok((ram, StartState::reset()))
}

const LOW_WINDOW: usize = 128 << 10;
const NEAR_JUMP: u8 = 0xe9;
const FAR_JUMP: u8 = 0xea;
