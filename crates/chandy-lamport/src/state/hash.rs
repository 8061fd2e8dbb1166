//! A hash that is the same in every process and on every day.

use core::hash::{Hash, Hasher};

/// The hash of a key: by it the key's group is found, so it is part of what a snapshot means. Numbers are taken as
/// little-endian words; for keys of other parts it is what their `Hash` says.
pub fn stable_hash<K: Hash + ?Sized>(key: &K) -> u64 {
    let mut hasher = Folding(SEED);
    key.hash(&mut hasher);
    hasher.finish()
}

/// Multiplies and folds the upper half of the product into the lower one, word by word.
struct Folding(u64);

impl Folding {
    fn add(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word, MULTIPLIER);
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.add(u64::from_le_bytes(last) ^ (u64::try_from(bytes.len()).unwrap_or(0) << 56));
    }

    fn write_u8(&mut self, number: u8) {
        self.add(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.add(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.add(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    fn finish(&self) -> u64 {
        fold(self.0, MULTIPLIER)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves of the product"
)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

// The golden ratio and the square root of 3, as fractions of 2^64, made odd.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const SEED: u64 = 0xbb67_ae85_84ca_a73b;

#[cfg(test)]
mod tests {
    use super::*;

    /// A change here loses every snapshot that was ever taken.
    #[test]
    fn it_is_what_it_was() {
        assert_eq!(stable_hash(&7u64), 0x3e6b_1a5d_7366_adbb);
        assert_eq!(stable_hash("word"), 0xe00a_07c9_9877_1624);
    }

    #[test]
    fn neighbours_are_spread() {
        let mut groups = [0u32; 128];
        for key in 0..128_000u64 {
            groups[usize::try_from(stable_hash(&key) >> 57).unwrap()] += 1;
        }
        let (least, most) = (groups.iter().min(), groups.iter().max());
        assert!(least > Some(&800) && most < Some(&1_200), "{groups:?}");
    }
}
