//! The sixteen bytes ahead of each message.

use crate::DATA_MAX;

/// Bytes of payload that any message may have: most data, and what says where it goes.
pub const PAYLOAD_MAX: usize = DATA_MAX + 16;

/// What comes before the payload. Integers of the protocol are those of the host; all hosts that
/// this crate knows are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the sender calls the message; its reply has the same.
    pub id: u16,
    /// The command, as a number.
    pub command: u16,
    /// A command, or the reply to one.
    pub kind: Kind,
    /// Bytes of payload, at most [`PAYLOAD_MAX`].
    pub size: usize,
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something is asked.
    Command {
        /// Whether a reply is wanted.
        wants_reply: bool,
    },
    /// Something is answered.
    Reply {
        /// What went wrong, as one of Linux' error numbers.
        error: Option<u32>,
    },
}

/// Why sixteen bytes are no header. Where the next message begins is then unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The whole message is shorter than its header.
    #[error("{size} bytes, fewer than a header has")]
    TooShort {
        /// Bytes that are announced.
        size: u32,
    },
    /// More payload than any message has.
    #[error("{size} bytes, more than any message has")]
    TooLong {
        /// Bytes that are announced.
        size: u32,
    },
    /// Flags that the protocol does not have, or not together.
    #[error("flags {flags:#x} mean nothing")]
    Flags {
        /// All flags.
        flags: u32,
    },
}

impl Header {
    /// Bytes of a header.
    pub const LENGTH: usize = 16;

    /// Reads a header.
    ///
    /// # Errors
    ///
    /// Names what is wrong.
    pub fn decode(bytes: [u8; Self::LENGTH]) -> Result<Self, HeaderError> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        let total = u32::from_le_bytes([e, f, g, h]);
        let flags = u32::from_le_bytes([i, j, k, l]);
        let error = u32::from_le_bytes([m, n, o, p]);
        let kind = match (flags & TYPE, flags & !TYPE) {
            (COMMAND, 0) => Kind::Command { wants_reply: true },
            (COMMAND, NO_REPLY) => Kind::Command { wants_reply: false },
            (REPLY, 0) => Kind::Reply { error: None },
            (REPLY, ERROR) => Kind::Reply { error: Some(error) },
            _ => return Err(HeaderError::Flags { flags }),
        };
        let size = usize::try_from(total).unwrap_or(usize::MAX);
        let Some(size) = size.checked_sub(Self::LENGTH) else {
            return Err(HeaderError::TooShort { size: total });
        };
        if size > PAYLOAD_MAX {
            return Err(HeaderError::TooLong { size: total });
        }
        Ok(Self {
            id: u16::from_le_bytes([a, b]),
            command: u16::from_le_bytes([c, d]),
            kind,
            size,
        })
    }

    /// The message with this header and `payload`, whose length takes the place of [`size`](Self::size).
    ///
    /// # Panics
    ///
    /// When `payload` is longer than [`PAYLOAD_MAX`].
    #[must_use]
    pub fn message(&self, payload: &[u8]) -> Vec<u8> {
        assert!(payload.len() <= PAYLOAD_MAX, "a payload fits a message");
        let size = u32::try_from(Self::LENGTH + payload.len()).unwrap_or(u32::MAX);
        let (flags, error) = match self.kind {
            Kind::Command { wants_reply: true } => (COMMAND, 0),
            Kind::Command { wants_reply: false } => (COMMAND | NO_REPLY, 0),
            Kind::Reply { error: None } => (REPLY, 0),
            Kind::Reply { error: Some(error) } => (REPLY | ERROR, error),
        };
        let mut message = Vec::with_capacity(Self::LENGTH + payload.len());
        message.extend_from_slice(&self.id.to_le_bytes());
        message.extend_from_slice(&self.command.to_le_bytes());
        for word in [size, flags, error] {
            message.extend_from_slice(&word.to_le_bytes());
        }
        message.extend_from_slice(payload);
        message
    }
}

const TYPE: u32 = 0xf;
const COMMAND: u32 = 0;
const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was() {
        for kind in [
            Kind::Command { wants_reply: true },
            Kind::Command { wants_reply: false },
            Kind::Reply { error: None },
            Kind::Reply { error: Some(22) },
        ] {
            let header = Header {
                id: 0x1234,
                command: 9,
                kind,
                size: 3,
            };
            let message = header.message(b"abc");
            let bytes = *message.first_chunk().unwrap();
            assert_eq!(Header::decode(bytes), Ok(header));
            assert_eq!(&message[Header::LENGTH..], b"abc");
        }
    }

    #[test]
    fn sizes_that_no_message_has_are_refused() {
        let sized = |size: u32| {
            let mut bytes = [0; Header::LENGTH];
            bytes[4..8].copy_from_slice(&size.to_le_bytes());
            Header::decode(bytes)
        };
        assert_eq!(sized(15), Err(HeaderError::TooShort { size: 15 }));
        assert_eq!(sized(16).unwrap().size, 0);
        let most = u32::try_from(16 + PAYLOAD_MAX).unwrap();
        assert_eq!(sized(most).unwrap().size, PAYLOAD_MAX);
        assert_eq!(
            sized(most + 1),
            Err(HeaderError::TooLong { size: most + 1 })
        );
        assert_eq!(
            sized(u32::MAX),
            Err(HeaderError::TooLong { size: u32::MAX })
        );
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        for flags in [2u32, 0x20, 0x11, 0x40] {
            let mut bytes = [0; Header::LENGTH];
            bytes[4] = 16;
            bytes[8..12].copy_from_slice(&flags.to_le_bytes());
            assert_eq!(Header::decode(bytes), Err(HeaderError::Flags { flags }));
        }
    }
}
