//! Saving and restoring a channel without its disk.

use super::command::{Block, Progress};
use super::{Ata, AtaRegisters, SECTOR, Sectors};
use crate::state_error::{InvalidState, check};

/// Saved state of an [`Ata`] channel; the disk is the host's to save.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AtaState {
    /// The command block.
    pub registers: AtaRegisters,
    /// The block that is being moved.
    pub progress: Progress,
    /// Sectors in a block of READ or WRITE MULTIPLE.
    pub multiple: u8,
    /// Heads and sectors of a track.
    pub geometry: (u8, u8),
    /// INTRQ, before nIEN.
    pub interrupt: bool,
}

impl<D: Sectors> Ata<D> {
    /// A copy of the state.
    #[must_use]
    pub fn state(&self) -> AtaState {
        AtaState {
            registers: self.registers,
            progress: self.progress.clone(),
            multiple: self.multiple,
            geometry: self.geometry,
            interrupt: self.interrupt,
        }
    }

    /// A channel in `state` with `disk`.
    ///
    /// # Errors
    ///
    /// [`InvalidState`] for a block that no command makes, or that leaves the disk.
    pub fn restore(disk: D, state: AtaState) -> Result<Self, InvalidState> {
        let valid = |valid, field| check(valid, "ATA", field);
        let most = Self::MAX_MULTIPLE;
        valid(
            state.multiple <= most && (state.multiple == 0 || state.multiple.is_power_of_two()),
            "multiple",
        )?;
        valid(Self::is_geometry(state.geometry), "geometry")?;
        if let Progress::In(block) | Progress::Out(block) = &state.progress {
            let identity = block.size == 0 && block.left == 0 && block.lba == 0;
            let fits = block.fits(disk.count(), most) || identity && block.is_one_sector();
            let written_identity = identity && matches!(state.progress, Progress::Out(_));
            valid(fits && !written_identity, "progress")?;
        }
        let mut channel = Self::new(disk);
        channel.registers = state.registers;
        channel.progress = state.progress;
        channel.multiple = state.multiple;
        channel.geometry = state.geometry;
        channel.interrupt = state.interrupt;
        Ok(channel)
    }
}

impl Block {
    fn is_one_sector(&self) -> bool {
        self.bytes.len() == SECTOR && self.moved < SECTOR
    }

    /// Whether the block has whole sectors, its own and those behind it on the disk.
    fn fits(&self, sectors: u64, most: u8) -> bool {
        let (own, rest) = (self.bytes.len() / SECTOR, self.bytes.len() % SECTOR);
        let own = u64::try_from(own).unwrap_or(u64::MAX);
        rest == 0
            && self.moved < self.bytes.len()
            && (1..=most).contains(&self.size)
            && (1..=u64::from(self.size)).contains(&own)
            && self.lba >= own
            && self.left <= 1 << 16
            && self.lba.saturating_add(self.left.into()) <= sectors
    }
}
