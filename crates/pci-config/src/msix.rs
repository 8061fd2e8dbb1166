//! The MSI-X capability, table and pending bits (PCI 3.0, 6.8.2).

use crate::config_space::{CapabilityError, ConfigSpace};
use crate::msi::MsiMessage;
use crate::registers::CAPABILITY_MSIX;

/// Why an MSI-X capability cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MsixError {
    /// A function has 1 to 2048 vectors.
    #[error("{vectors} is not a number of MSI-X vectors")]
    Vectors {
        /// Asked for.
        vectors: u16,
    },
    /// Table and pending bits lie at multiples of 8 in BAR 0 to 5.
    #[error("BAR {bar}, table at {table:#x}, pending bits at {pending:#x}: not a place for them")]
    Place {
        /// Base address register.
        bar: u8,
        /// Offset of the table.
        table: u32,
        /// Offset of the pending bits.
        pending: u32,
    },
    /// The configuration space has no room.
    #[error("the MSI-X capability does not fit")]
    Capability(#[source] CapabilityError),
    /// A saved table has another number of vectors.
    #[error("saved table has {saved} entries and {pending} pending words, not {vectors} vectors")]
    State {
        /// Entries in the saved table.
        saved: usize,
        /// Words of pending bits.
        pending: usize,
        /// Vectors of the function.
        vectors: usize,
    },
}

/// Saved state of an [`MsixTable`]; untrusted until [`MsixTable::restore`] accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsixState {
    /// Address low, address high, data, vector control of each entry.
    pub entries: Vec<[u32; 4]>,
    /// Pending bits, vector 0 in bit 0 of the first word.
    pub pending: Vec<u64>,
}

/// A function's MSI-X table and pending bits; enable and function mask are in its
/// [`ConfigSpace`].
#[derive(Clone, Debug)]
pub struct MsixTable {
    at: usize,
    s: MsixState,
}

impl MsixTable {
    /// Adds the capability for `vectors` messages, with the table at `table` and the pending bits at
    /// `pending` bytes into base address register `bar`.
    ///
    /// # Errors
    ///
    /// When the number is not 1 to 2048, a place is not aligned, or the space is full.
    pub fn add(
        space: &mut ConfigSpace,
        vectors: u16,
        bar: u8,
        table: u32,
        pending: u32,
    ) -> Result<Self, MsixError> {
        if !(1..=2048).contains(&vectors) {
            return Err(MsixError::Vectors { vectors });
        }
        if bar > 5 || !(table | pending).is_multiple_of(8) {
            return Err(MsixError::Place {
                bar,
                table,
                pending,
            });
        }
        let mut contents = [0; 10];
        contents[..2].copy_from_slice(&(vectors - 1).to_le_bytes());
        contents[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        contents[6..].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        let mut writable = [0; 10];
        writable[..2].copy_from_slice(&(CONTROL_ENABLE | CONTROL_MASK).to_le_bytes());
        let at = space
            .add_capability(CAPABILITY_MSIX, &contents, &writable)
            .map_err(MsixError::Capability)?;
        let vectors = usize::from(vectors);
        let s = MsixState {
            // 6.8.2.9: the mask bit of each entry is set after reset.
            entries: vec![[0, 0, 0, ENTRY_MASKED]; vectors],
            pending: vec![0; vectors.div_ceil(64)],
        };
        Ok(Self { at: at.into(), s })
    }

    /// Takes up a saved table.
    ///
    /// # Errors
    ///
    /// When it has another number of vectors or pending bits beyond them; nothing is taken then.
    pub fn restore(&mut self, state: MsixState) -> Result<(), MsixError> {
        let vectors = self.s.entries.len();
        let lengths = (state.entries.len(), state.pending.len());
        let beyond = state.pending.last().is_some_and(|&word| {
            let used = (vectors - 1) % 64 + 1;
            used < 64 && word >> used != 0
        });
        if lengths != (vectors, self.s.pending.len()) || beyond {
            let (saved, pending) = lengths;
            return Err(MsixError::State {
                saved,
                pending,
                vectors,
            });
        }
        self.s = state;
        for [low, _, _, control] in &mut self.s.entries {
            *low &= !3;
            *control &= ENTRY_MASKED;
        }
        Ok(())
    }

    /// Whether the guest has enabled MSI-X, which silences `INTx` and MSI.
    #[must_use]
    pub fn is_enabled(&self, space: &ConfigSpace) -> bool {
        space.u16(self.at + CONTROL) & CONTROL_ENABLE != 0
    }

    /// Raises `vector`: the message to send, or `None` when MSI-X is off or the vector is masked,
    /// in which case it is pending.
    ///
    /// # Panics
    ///
    /// When the function has no such vector.
    pub fn raise(&mut self, space: &ConfigSpace, vector: u16) -> Option<MsiMessage> {
        let vector = usize::from(vector);
        assert!(
            vector < self.s.entries.len(),
            "MSI-X vector {vector} does not exist"
        );
        if !self.is_enabled(space) {
            return None;
        }
        if self.is_masked(space, vector) {
            self.s.pending[vector / 64] |= 1 << (vector % 64);
            return None;
        }
        Some(self.message(vector))
    }

    /// Takes a pending message that the guest has unmasked; ask again until `None` after each
    /// write to the table or the configuration space.
    pub fn next_unmasked(&mut self, space: &ConfigSpace) -> Option<MsiMessage> {
        if !self.is_enabled(space) {
            return None;
        }
        let vector = (0..self.s.entries.len())
            .find(|&vector| self.is_pending(vector) && !self.is_masked(space, vector))?;
        self.s.pending[vector / 64] &= !(1 << (vector % 64));
        Some(self.message(vector))
    }

    /// Reads the table at `offset` from its start. Only aligned double and quad words answer
    /// (6.8.2: others are undefined); the rest, and what lies past the table, reads as zero.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let words = aligned_words(offset, data.len(), self.s.entries.len() * 4);
        read_words(words, data, |word| self.s.entries[word / 4][word % 4]);
    }

    /// Writes the table likewise.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let words = aligned_words(offset, data.len(), self.s.entries.len() * 4);
        for (word, bytes) in words.zip(data.chunks_exact(4)) {
            let value = u32::from_le_bytes(bytes.try_into().expect("chunks of four"));
            let writable = match word % 4 {
                0 => !3,
                3 => ENTRY_MASKED,
                _ => u32::MAX,
            };
            self.s.entries[word / 4][word % 4] = value & writable;
        }
    }

    /// Reads the pending bits at `offset` from their start, by the rules of
    /// [`read_table`](Self::read_table). Guests cannot write them.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let words = aligned_words(offset, data.len(), self.s.pending.len() * 2);
        read_words(words, data, |word| {
            let [a, b, c, d, e, f, g, h] = self.s.pending[word / 2].to_le_bytes();
            u32::from_le_bytes(if word % 2 == 0 {
                [a, b, c, d]
            } else {
                [e, f, g, h]
            })
        });
    }

    /// A copy of table and pending bits.
    #[must_use]
    pub fn state(&self) -> MsixState {
        self.s.clone()
    }

    fn is_pending(&self, vector: usize) -> bool {
        self.s.pending[vector / 64] & 1 << (vector % 64) != 0
    }

    fn is_masked(&self, space: &ConfigSpace, vector: usize) -> bool {
        let whole = space.u16(self.at + CONTROL) & CONTROL_MASK != 0;
        whole || self.s.entries[vector][3] & ENTRY_MASKED != 0
    }

    fn message(&self, vector: usize) -> MsiMessage {
        let [low, high, data, _] = self.s.entries[vector];
        MsiMessage {
            address: u64::from(high) << 32 | u64::from(low),
            data,
        }
    }
}

/// The double words that an aligned access of 4 or 8 bytes covers; empty for any other.
fn aligned_words(offset: u64, length: usize, words: usize) -> std::ops::Range<usize> {
    let Ok(offset) = usize::try_from(offset) else {
        return 0..0;
    };
    let first = offset / 4;
    match length {
        4 | 8 if offset.is_multiple_of(length) && first + length / 4 <= words => {
            first..first + length / 4
        }
        _ => 0..0,
    }
}

fn read_words(words: std::ops::Range<usize>, data: &mut [u8], word: impl Fn(usize) -> u32) {
    data.fill(0);
    for (index, bytes) in words.zip(data.chunks_exact_mut(4)) {
        bytes.copy_from_slice(&word(index).to_le_bytes());
    }
}

// 6.8.2.3, message control; 6.8.2.9, vector control.
const CONTROL: usize = 2;
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK: u16 = 1 << 14;
const ENTRY_MASKED: u32 = 1 << 0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Header;

    fn function(vectors: u16) -> (ConfigSpace, MsixTable) {
        let mut space = ConfigSpace::new(Header::default());
        let table = MsixTable::add(&mut space, vectors, 1, 0, 0x800).unwrap();
        (space, table)
    }

    fn enable(space: &mut ConfigSpace, mask: bool) {
        let control = 0x8000 | if mask { 0x4000u16 } else { 0 };
        space.write(0x42, &control.to_le_bytes());
    }

    #[test]
    fn the_capability_names_table_and_pending_bits() {
        let (mut space, _) = function(3);
        let mut data = [0; 12];
        space.read(0x40, &mut data);
        assert_eq!(data, [0x11, 0, 2, 0, 1, 0, 0, 0, 1, 8, 0, 0]);
    }

    #[test]
    fn an_entry_is_masked_until_the_guest_clears_it() {
        let (mut space, mut table) = function(3);
        enable(&mut space, false);
        assert_eq!(table.raise(&space, 2), None);
        let mut pending = [0; 8];
        table.read_pending(0, &mut pending);
        assert_eq!(pending[0], 0b100);
        table.write_table(0x20, &0xfee0_1003u64.to_le_bytes());
        table.write_table(0x28, &[0x41, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
        let message = MsiMessage {
            address: 0xfee0_1000,
            data: 0x41,
        };
        assert_eq!(table.next_unmasked(&space), Some(message));
        assert_eq!(table.next_unmasked(&space), None);
        assert_eq!(table.raise(&space, 2), Some(message));
    }

    #[test]
    fn the_function_mask_covers_all() {
        let (mut space, mut table) = function(1);
        table.write_table(12, &[0; 4]);
        enable(&mut space, true);
        assert_eq!(table.raise(&space, 0), None);
        enable(&mut space, false);
        assert!(table.next_unmasked(&space).is_some());
    }

    #[test]
    fn odd_accesses_are_harmless() {
        let (_, mut table) = function(2);
        for offset in (0..0x30).chain([u64::MAX, u64::MAX - 3]) {
            for length in [0, 1, 2, 3, 4, 5, 8, 16] {
                let mut data = vec![0xff; length];
                table.write_table(offset, &data);
                table.read_table(offset, &mut data);
                table.read_pending(offset, &mut data);
            }
        }
        assert_eq!(table.state().entries[1], [!3, u32::MAX, u32::MAX, 1]);
    }

    #[test]
    fn hostile_state_is_turned_down() {
        let (_, mut table) = function(2);
        let mut state = table.state();
        state.pending[0] = 0b100;
        assert!(table.restore(state.clone()).is_err());
        state.pending[0] = 0b11;
        state.entries.push([0; 4]);
        assert!(table.restore(state).is_err());
    }
}
