//! Blocks: what tasks hand to each other, as values in memory or as checksummed bytes.
//!
//! ```text
//! 0        4        12       20                     28
//! +--------+--------+--------+----------------------+-----------
//! | "RDB1" | count  | length | xxh3 of all the rest | postcard
//! +--------+--------+--------+----------------------+-----------
//! ```
//! Integers are little-endian. The checksum covers count, length and payload, so a changed header is found too.

use std::any::Any;
use std::sync::Arc;

use twox_hash::XxHash3_64;

use crate::data::Data;

/// Values shared in memory, or their encoded form.
#[derive(Clone)]
pub enum Block {
    /// An `Arc<Vec<T>>`.
    Values(Arc<dyn Any + Send + Sync>),
    /// The bytes of [`encode`].
    Bytes(Arc<[u8]>),
}

impl Block {
    /// The values of this block.
    ///
    /// # Errors
    ///
    /// [`BlockError`] when the bytes are damaged, or the values are of another type.
    pub fn values<T: Data>(&self) -> Result<Arc<Vec<T>>, BlockError> {
        match self {
            Self::Values(any) => any
                .clone()
                .downcast::<Vec<T>>()
                .map_err(|_| BlockError::OtherType),
            Self::Bytes(bytes) => decode(bytes).map(Arc::new),
        }
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Values(_) => f.write_str("Values"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
        }
    }
}

/// Why a block cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Shorter than its header or than the length in it.
    #[error("a block of {length} bytes ends early")]
    Truncated {
        /// Bytes there are.
        length: usize,
    },
    /// Not a block at all.
    #[error("these bytes are no block")]
    NoBlock,
    /// The checksum does not fit the bytes.
    #[error("the block's checksum is {found:#x}, its header says {expected:#x}")]
    Checksum {
        /// In the header.
        expected: u64,
        /// Of the bytes.
        found: u64,
    },
    /// The payload is not `count` values of the type asked for.
    #[error("the block does not hold {count} values of the type asked for")]
    Payload {
        /// In the header.
        count: u64,
    },
    /// Values of another type than asked for.
    #[error("the block holds values of another type")]
    OtherType,
}

/// Writes `values` as one block.
///
/// # Panics
///
/// When a value's own `Serialize` fails.
pub fn encode<T: Data>(values: &[T]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    for value in values {
        bytes = postcard::to_extend(value, bytes).expect("values serialize into memory");
    }
    let length = bytes.len() - HEADER;
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4..12].copy_from_slice(&(values.len() as u64).to_le_bytes());
    bytes[12..20].copy_from_slice(&(length as u64).to_le_bytes());
    let checksum = checksum(&bytes);
    bytes[20..28].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads one block that fills `bytes` exactly.
///
/// # Errors
///
/// The first [`BlockError`] met; never allocates more than the bytes can hold.
pub fn decode<T: Data>(bytes: &[u8]) -> Result<Vec<T>, BlockError> {
    let (count, mut rest) = check(bytes)?;
    // A value may take no bytes at all, so the count bounds the loop but not the allocation.
    let mut values =
        Vec::with_capacity(usize::try_from(count).unwrap_or(usize::MAX).min(rest.len()));
    if size_of::<T>() > 0 && rest.is_empty() && count > 0 {
        return Err(BlockError::Payload { count });
    }
    for _ in 0..count {
        let (value, left) =
            postcard::take_from_bytes(rest).map_err(|_| BlockError::Payload { count })?;
        values.push(value);
        rest = left;
    }
    if rest.is_empty() {
        Ok(values)
    } else {
        Err(BlockError::Payload { count })
    }
}

/// The checksum of a block that is known to be whole: equal blocks have equal digests.
pub fn digest(bytes: &[u8]) -> u64 {
    checksum(bytes)
}

fn check(bytes: &[u8]) -> Result<(u64, &[u8]), BlockError> {
    if bytes.len() < HEADER {
        return Err(BlockError::Truncated {
            length: bytes.len(),
        });
    }
    if &bytes[..4] != MAGIC {
        return Err(BlockError::NoBlock);
    }
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let payload = &bytes[HEADER..];
    if word(12) != payload.len() as u64 {
        return Err(BlockError::Truncated {
            length: bytes.len(),
        });
    }
    let (expected, found) = (word(20), checksum(bytes));
    if expected != found {
        return Err(BlockError::Checksum { expected, found });
    }
    Ok((word(4), payload))
}

/// Of everything but the magic and the checksum itself.
fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(&bytes[4..20]) ^ XxHash3_64::oneshot(&bytes[HEADER..]).rotate_left(1)
}

const MAGIC: &[u8; 4] = b"RDB1";
const HEADER: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_bit_is_found() {
        let bytes = encode(&[(1u32, "one".to_owned()), (2, "two".to_owned())]);
        assert_eq!(
            decode::<(u32, String)>(&bytes)
                .expect("a whole block")
                .len(),
            2
        );
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<(u32, String)>(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(
                decode::<(u32, String)>(&bytes[..length]).is_err(),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn values_of_no_size_are_counted() {
        assert_eq!(decode::<()>(&encode(&[(), ()])), Ok(vec![(), ()]));
    }
}
