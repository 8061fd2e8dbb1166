//! What both ends say of themselves first.

use serde::{Deserialize, Serialize};

use crate::DATA_MAX;
use crate::bytes::Reader;

/// The protocol's version and what its speaker can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Ends of different major versions do not understand each other; this crate's is 0.
    pub major: u16,
    /// This crate's is 1.
    pub minor: u16,
    /// What the speaker can take.
    pub capabilities: Capabilities,
}

/// What one end can take from the other. Members that a speaker leaves out have the protocol's defaults; those
/// that this crate does not know are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// File descriptors in one message.
    pub max_msg_fds: u32,
    /// Bytes of data in one message.
    pub max_data_xfer_size: u32,
}

/// What the capabilities are wrapped in.
#[derive(Default, Serialize, Deserialize)]
struct Wrapped {
    #[serde(default)]
    capabilities: Capabilities,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            max_msg_fds: 1,
            max_data_xfer_size: 1 << 20,
        }
    }
}

impl Capabilities {
    /// Bytes that may go to this end in one message: never more than this crate sends.
    #[must_use]
    pub fn data_max(&self) -> usize {
        usize::try_from(self.max_data_xfer_size).map_or(DATA_MAX, |size| size.min(DATA_MAX))
    }
}

impl Version {
    /// What this crate speaks.
    #[must_use]
    pub fn ours(max_msg_fds: u32) -> Self {
        Self {
            major: MAJOR,
            minor: 1,
            capabilities: Capabilities {
                max_msg_fds,
                ..Capabilities::default()
            },
        }
    }

    /// Whether the ends understand each other.
    #[must_use]
    pub fn is_understood(&self) -> bool {
        self.major == MAJOR
    }

    /// `None` when the payload is too short, or its text is no JSON that ends with a zero byte.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let (major, minor) = (reader.u16()?, reader.u16()?);
        let capabilities = match reader.rest() {
            [] => Capabilities::default(),
            [text @ .., 0] => serde_json::from_slice::<Wrapped>(text).ok()?.capabilities,
            _ => return None,
        };
        Some(Self {
            major,
            minor,
            capabilities,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.extend_from_slice(&self.major.to_le_bytes());
        payload.extend_from_slice(&self.minor.to_le_bytes());
        let wrapped = Wrapped {
            capabilities: self.capabilities,
        };
        serde_json::to_writer(&mut payload, &wrapped).expect("two numbers can be written");
        payload.push(0);
        payload
    }
}

const MAJOR: u16 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &[u8]) -> Option<Capabilities> {
        let payload = [&[0, 0, 1, 0], text].concat();
        Version::decode(&payload).map(|version| version.capabilities)
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let default = Capabilities::default();
        assert_eq!(said(b""), Some(default));
        assert_eq!(said(b"{}\0"), Some(default));
        assert_eq!(said(b"{\"capabilities\":{}}\0"), Some(default));
        let more =
            b"{\"capabilities\":{\"max_msg_fds\":8,\"migration\":{\"pgsize\":4096}},\"x\":1}\0";
        let capabilities = Capabilities {
            max_msg_fds: 8,
            ..default
        };
        assert_eq!(said(more), Some(capabilities));
    }

    #[test]
    fn text_that_is_no_json_is_refused() {
        for text in [&b"{}"[..], b"\0", b"{\0", b"[]\0x", b"\xff\0"] {
            assert_eq!(said(text), None, "{text:?}");
        }
        assert_eq!(Version::decode(&[0, 0, 1]), None);
        let negative = b"{\"capabilities\":{\"max_msg_fds\":-1}}\0";
        assert_eq!(said(negative), None);
    }

    #[test]
    fn ours_comes_back() {
        let version = Version::ours(16);
        assert_eq!(Version::decode(&version.encode()), Some(version));
        assert!(version.is_understood());
    }
}
