//! The twelve bytes ahead of each message.

/// Bytes of payload that any message may have: a full memory table has them.
pub const PAYLOAD_MAX: usize = 8 + 32 * crate::REGIONS_MAX;

/// What comes before the payload. Integers of the protocol are those of the host; all hosts that
/// this crate knows are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The request, as a number.
    pub code: u32,
    /// Whether the message is an answer.
    pub is_reply: bool,
    /// Whether the sender wants an answer to a request that has none of its own.
    pub needs_reply: bool,
    /// Bytes of payload, at most [`PAYLOAD_MAX`].
    pub size: usize,
}

/// Why twelve bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Another version of the protocol than 1.
    #[error("protocol version {version} instead of 1")]
    Version {
        /// What the flags say.
        version: u32,
    },
    /// Flags that the protocol does not have.
    #[error("flags {flags:#x} are not all known")]
    Flags {
        /// All flags.
        flags: u32,
    },
    /// More payload than any message has.
    #[error("{size} bytes of payload, more than any message has")]
    TooLong {
        /// Bytes that are announced.
        size: u32,
    },
}

impl Header {
    /// Bytes of a header.
    pub const LENGTH: usize = 12;

    /// Reads a header.
    ///
    /// # Errors
    ///
    /// Names what is wrong; where the next message begins is then unknown.
    pub fn decode(bytes: [u8; Self::LENGTH]) -> Result<Self, HeaderError> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        let code = u32::from_le_bytes([a, b, c, d]);
        let flags = u32::from_le_bytes([e, f, g, h]);
        let size = u32::from_le_bytes([i, j, k, l]);
        if flags & VERSION_MASK != VERSION {
            let version = flags & VERSION_MASK;
            return Err(HeaderError::Version { version });
        }
        if flags & !(VERSION_MASK | REPLY | NEED_REPLY) != 0 {
            return Err(HeaderError::Flags { flags });
        }
        match usize::try_from(size) {
            Ok(bytes) if bytes <= PAYLOAD_MAX => Ok(Self {
                code,
                is_reply: flags & REPLY != 0,
                needs_reply: flags & NEED_REPLY != 0,
                size: bytes,
            }),
            _ => Err(HeaderError::TooLong { size }),
        }
    }

    /// The message with this header and `payload`, whose length takes the place of
    /// [`size`](Self::size).
    ///
    /// # Panics
    ///
    /// When `payload` is longer than [`PAYLOAD_MAX`].
    #[must_use]
    pub fn message(&self, payload: &[u8]) -> Vec<u8> {
        assert!(payload.len() <= PAYLOAD_MAX, "a payload fits a message");
        let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut flags = VERSION;
        if self.is_reply {
            flags |= REPLY;
        }
        if self.needs_reply {
            flags |= NEED_REPLY;
        }
        let words = [self.code, flags, size].map(u32::to_le_bytes);
        [words.as_flattened(), payload].concat()
    }
}

const VERSION_MASK: u32 = 0b11;
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
