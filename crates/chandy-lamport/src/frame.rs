//! Wire messages as bytes, for channels that are connections.
//!
//! A frame is the length of its body (4 bytes), XXH3 of the body (8 bytes), and the body: a tag, a number, and what an
//! application's message is made of. All numbers are little-endian.

use alloc::vec::Vec;

use twox_hash::XxHash3_64;

use crate::{Marker, SnapshotId, Wire};

/// Bytes that are no frame. The connection they came from cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than allowed.
    #[error("a frame of {0} bytes")]
    Long(usize),
    /// The bytes are not those that were sent.
    #[error("the checksum does not fit")]
    Checksum,
    /// A tag that is not known, or a length that does not fit it.
    #[error("not well formed")]
    Form,
}

/// What a frame says, and how many bytes it took.
pub type Decoded = (Wire<Vec<u8>>, usize);

/// Appends a frame.
///
/// # Panics
///
/// If the message has more than 4 GiB.
pub fn encode(wire: &Wire<&[u8]>, bytes: &mut Vec<u8>) {
    let (tag, number, message): (u8, u64, &[u8]) = match *wire {
        Wire::Data { colour, message } => (DATA, colour.0, message),
        Wire::Marker { id, marker } => match marker {
            Marker::InTurn => (IN_TURN, id.0, &[]),
            Marker::Overtaking => (OVERTAKING, id.0, &[]),
            Marker::Count(sent) => return count(id, sent, bytes),
        },
        Wire::End => (END, 0, &[]),
    };
    put(tag, number, message, bytes);
}

/// Takes the first frame off these bytes, if it is all there: what it says and how long it was.
///
/// # Errors
///
/// Bytes that no [`encode`] made, or a body of more than `body_max`.
pub fn decode(bytes: &[u8], body_max: usize) -> Result<Option<Decoded>, FrameError> {
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > body_max {
        return Err(FrameError::Long(length));
    }
    let Some((checksum, rest)) = rest.split_first_chunk() else {
        return Ok(None);
    };
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    if XxHash3_64::oneshot(body) != u64::from_le_bytes(*checksum) {
        return Err(FrameError::Checksum);
    }
    Ok(Some((parse(body)?, HEADER + length)))
}

fn count(id: SnapshotId, sent: u64, bytes: &mut Vec<u8>) {
    put(COUNT, id.0, &sent.to_le_bytes(), bytes);
}

fn put(tag: u8, number: u64, message: &[u8], bytes: &mut Vec<u8>) {
    let start = bytes.len();
    let length = u32::try_from(1 + 8 + message.len()).expect("a message of less than 4 GiB");
    bytes.extend(length.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.push(tag);
    bytes.extend(number.to_le_bytes());
    bytes.extend(message);
    let checksum = XxHash3_64::oneshot(&bytes[start + HEADER..]);
    bytes[start + 4..start + HEADER].copy_from_slice(&checksum.to_le_bytes());
}

fn parse(body: &[u8]) -> Result<Wire<Vec<u8>>, FrameError> {
    let (&tag, rest) = body.split_first().ok_or(FrameError::Form)?;
    let (number, message) = rest.split_first_chunk().ok_or(FrameError::Form)?;
    let id = SnapshotId(u64::from_le_bytes(*number));
    let marker = match (tag, message.len()) {
        (DATA, _) => {
            return Ok(Wire::Data {
                colour: id,
                message: message.to_vec(),
            });
        }
        (END, 0) if id.0 == 0 => return Ok(Wire::End),
        (IN_TURN, 0) => Marker::InTurn,
        (OVERTAKING, 0) => Marker::Overtaking,
        (COUNT, 8) => {
            let sent = message.try_into().map_err(|_| FrameError::Form)?;
            Marker::Count(u64::from_le_bytes(sent))
        }
        _ => return Err(FrameError::Form),
    };
    Ok(Wire::Marker { id, marker })
}

const HEADER: usize = 4 + 8;
const DATA: u8 = 0;
const IN_TURN: u8 = 1;
const OVERTAKING: u8 = 2;
const COUNT: u8 = 3;
const END: u8 = 4;

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn wires() -> Vec<Wire<&'static [u8]>> {
        let id = SnapshotId(7);
        let marker = |marker| Wire::Marker { id, marker };
        let data = |message: &'static [u8]| Wire::Data {
            colour: id,
            message,
        };
        vec![
            data(b"message"),
            data(b""),
            marker(Marker::InTurn),
            marker(Marker::Overtaking),
            marker(Marker::Count(u64::MAX)),
            Wire::End,
        ]
    }

    #[test]
    fn what_is_encoded_is_decoded_once_it_is_whole() {
        for wire in wires() {
            let mut bytes = Vec::new();
            encode(&wire, &mut bytes);
            for end in 0..bytes.len() {
                assert_eq!(decode(&bytes[..end], 100), Ok(None));
            }
            let (decoded, length) = decode(&bytes, 100).unwrap().unwrap();
            assert_eq!(length, bytes.len());
            let mut again = Vec::new();
            encode(&borrowed(&decoded), &mut again);
            assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_changed_bit_of_the_body_is_found() {
        for wire in wires() {
            let mut bytes = Vec::new();
            encode(&wire, &mut bytes);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                let decoded = decode(&bytes, 100);
                assert!(!matches!(decoded, Ok(Some(_))), "bit {bit}: {decoded:?}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn a_long_frame_is_refused_before_it_is_there() {
        assert_eq!(decode(&[101, 0, 0, 0], 100), Err(FrameError::Long(101)));
    }

    fn borrowed(wire: &Wire<Vec<u8>>) -> Wire<&[u8]> {
        match wire {
            Wire::Data { colour, message } => Wire::Data {
                colour: *colour,
                message,
            },
            &Wire::Marker { id, marker } => Wire::Marker { id, marker },
            Wire::End => Wire::End,
        }
    }
}
