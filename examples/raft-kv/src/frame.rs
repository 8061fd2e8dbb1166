//! Frames on a stream: a length, a checksum, a payload of that many bytes.

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

/// Before each payload: its length and its XXH3, little-endian.
pub const HEADER_BYTES: usize = 4 + 8;
/// The longest payload: one snapshot piece or one message of entries with the largest entry fits.
pub const PAYLOAD_MAX: usize = 8 << 20;

/// Bytes that are no frame. The stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`PAYLOAD_MAX`].
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    /// The checksum is not that of the payload.
    #[error("a frame is damaged")]
    Checksum,
    /// The payload is not what was expected.
    #[error("a frame says something else than expected")]
    Payload,
}

/// Adds a frame that says `value` to `out`.
///
/// # Errors
///
/// [`FrameError::TooLong`]; then `out` is as it was.
pub fn push<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    *out = postcard::to_extend(value, std::mem::take(out)).map_err(|_| FrameError::Payload)?;
    let payload = &out[start + HEADER_BYTES..];
    let (bytes, checksum) = (payload.len(), XxHash3_64::oneshot(payload));
    let Some(length) = u32::try_from(bytes).ok().filter(|_| bytes <= PAYLOAD_MAX) else {
        out.truncate(start);
        return Err(FrameError::TooLong(bytes));
    };
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// The first frame's payload and how many bytes the frame takes; `None` until all of it is there.
///
/// # Errors
///
/// [`FrameError`] as soon as the frame is known to be none.
pub fn first(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, FrameError> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > PAYLOAD_MAX {
        return Err(FrameError::TooLong(length));
    }
    let Some((checksum, rest)) = rest.split_first_chunk::<8>() else {
        return Ok(None);
    };
    let Some(payload) = rest.get(..length) else {
        return Ok(None);
    };
    if XxHash3_64::oneshot(payload) != u64::from_le_bytes(*checksum) {
        return Err(FrameError::Checksum);
    }
    Ok(Some((payload, HEADER_BYTES + length)))
}

/// What a payload says.
///
/// # Errors
///
/// [`FrameError::Payload`], also if bytes are left over.
pub fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        _ => Err(FrameError::Payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..99), 0..9),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut stream = Vec::new();
            for value in &values {
                push(value, &mut stream).unwrap();
            }
            let end = cut.index(stream.len() + 1);
            let (mut at, mut read) = (0, Vec::new());
            while let Some((payload, bytes)) = first(&stream[at..end]).unwrap() {
                read.push(decode::<Vec<u8>>(payload).unwrap());
                at += bytes;
            }
            prop_assert!(values.starts_with(&read));
            prop_assert!(end < stream.len() || read == values);
        }

        #[test]
        fn a_flipped_bit_is_noticed(value in prop::collection::vec(any::<u8>(), 0..99), place in any::<prop::sample::Index>(), bit in 0..8u32) {
            let mut stream = Vec::new();
            push(&value, &mut stream).unwrap();
            let place = place.index(stream.len());
            stream[place] ^= 1u8 << bit;
            let found = first(&stream);
            // A longer length waits for bytes that never come.
            prop_assert!(found.is_err() || found == Ok(None));
        }

        #[test]
        fn any_bytes_are_taken_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            if let Ok(Some((payload, taken))) = first(&bytes) {
                prop_assert!(taken <= bytes.len());
                let _ = decode::<Vec<u8>>(payload).is_ok();
            }
        }
    }

    #[test]
    fn a_frame_too_long_is_refused_by_both_sides() {
        let mut out = vec![7];
        let long = serde_bytes::ByteBuf::from(vec![0; PAYLOAD_MAX + 1]);
        assert!(matches!(push(&long, &mut out), Err(FrameError::TooLong(_))));
        assert_eq!(out, [7]);
        assert!(matches!(first(&[255; 4]), Err(FrameError::TooLong(_))));
    }
}
