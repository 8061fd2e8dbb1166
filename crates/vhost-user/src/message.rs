//! Requests of a front end, and the answers.

use crate::header::Header;
use crate::region::{REGIONS_MAX, Region};

/// What a front end asks. Descriptors travel beside the bytes; how many there must be is checked here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Which virtio features there are.
    Features,
    /// The features that the driver chose.
    SetFeatures(u64),
    /// The session begins.
    SetOwner,
    /// The session ends; deprecated, and older front ends send it.
    ResetOwner,
    /// The memory, with a descriptor for each region.
    SetMemoryTable(Vec<Region>),
    /// Number of descriptors of a ring.
    SetVringSize {
        /// The ring.
        ring: u32,
        /// Descriptors.
        size: u32,
    },
    /// Where a ring lies.
    SetVringAddresses(VringAddresses),
    /// Where in a ring to begin.
    SetVringBase {
        /// The ring.
        ring: u32,
        /// The position: 16 bits if split; if packed, of the next descriptor to take and, in the upper
        /// half, of the next to use, each with its wrap counter in bit 15.
        base: u32,
    },
    /// Stop a ring and say where.
    VringBase {
        /// The ring.
        ring: u32,
    },
    /// What the driver kicks, which starts the ring. With a descriptor, or none if the back end polls.
    SetVringKick {
        /// The ring.
        ring: u8,
        /// Whether a descriptor comes along.
        has_fd: bool,
    },
    /// How to interrupt the driver.
    SetVringCall {
        /// The ring.
        ring: u8,
        /// Whether a descriptor comes along.
        has_fd: bool,
    },
    /// How to report a broken ring.
    SetVringError {
        /// The ring.
        ring: u8,
        /// Whether a descriptor comes along.
        has_fd: bool,
    },
    /// Which protocol features there are.
    ProtocolFeatures,
    /// The protocol features that the front end chose.
    SetProtocolFeatures(u64),
    /// How many queues there are.
    QueueCount,
    /// Whether a ring's buffers may be used.
    SetVringEnable {
        /// The ring.
        ring: u32,
        /// Whether they may.
        enabled: bool,
    },
    /// The device status that the driver wrote.
    SetStatus(u8),
    /// The device status.
    Status,
}

/// User addresses of the areas of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringAddresses {
    /// The ring.
    pub ring: u32,
    /// Bit 0 asks for a log of used writes.
    pub flags: u32,
    /// Descriptor area.
    pub descriptors: u64,
    /// Device area: used ring.
    pub device: u64,
    /// Driver area: available ring.
    pub driver: u64,
    /// Guest address of the log.
    pub log: u64,
}

/// Why a message cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// An answer where a request was due, or the other way round.
    #[error("an answer instead of a request, or a request instead of an answer")]
    Direction,
    /// A request that this crate does not have.
    #[error("request {code} is not known")]
    Unknown {
        /// Its number.
        code: u32,
    },
    /// Too few or too many bytes.
    #[error("request {code} with {size} bytes of payload")]
    Size {
        /// The request.
        code: u32,
        /// Bytes of payload.
        size: usize,
    },
    /// Too few or too many descriptors.
    #[error("request {code} with {found} descriptors instead of {expected}")]
    Descriptors {
        /// The request.
        code: u32,
        /// Descriptors that must come along.
        expected: usize,
        /// Descriptors that did.
        found: usize,
    },
    /// A value outside its range.
    #[error("request {code} with value {value:#x}")]
    Value {
        /// The request.
        code: u32,
        /// The value.
        value: u64,
    },
}

/// Numbers of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "each is the request of its name")]
pub enum Code {
    Features = 1,
    SetFeatures = 2,
    SetOwner = 3,
    ResetOwner = 4,
    SetMemoryTable = 5,
    SetVringSize = 8,
    SetVringAddresses = 9,
    SetVringBase = 10,
    VringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    SetVringError = 14,
    ProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    QueueCount = 17,
    SetVringEnable = 18,
    SetStatus = 39,
    Status = 40,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Features,
        Self::SetFeatures,
        Self::SetOwner,
        Self::ResetOwner,
        Self::SetMemoryTable,
        Self::SetVringSize,
        Self::SetVringAddresses,
        Self::SetVringBase,
        Self::VringBase,
        Self::SetVringKick,
        Self::SetVringCall,
        Self::SetVringError,
        Self::ProtocolFeatures,
        Self::SetProtocolFeatures,
        Self::QueueCount,
        Self::SetVringEnable,
        Self::SetStatus,
        Self::Status,
    ];

    /// The number.
    #[must_use]
    pub fn number(self) -> u32 {
        self as u32
    }

    fn from_number(code: u32) -> Result<Self, MessageError> {
        let found = Self::ALL.into_iter().find(|known| known.number() == code);
        found.ok_or(MessageError::Unknown { code })
    }
}

impl Request {
    /// Understands the payload of a message that came with `descriptors` descriptors.
    ///
    /// # Errors
    ///
    /// Names what is wrong. The bytes were taken all the same, so the next message can be read.
    pub fn decode(
        header: &Header,
        payload: &[u8],
        descriptors: usize,
    ) -> Result<Self, MessageError> {
        if header.is_reply {
            return Err(MessageError::Direction);
        }
        let code = Code::from_number(header.code)?;
        let request = Self::decode_payload(code, payload)?;
        let expected = request.descriptors();
        if descriptors == expected {
            Ok(request)
        } else {
            Err(MessageError::Descriptors {
                code: code.number(),
                expected,
                found: descriptors,
            })
        }
    }

    fn decode_payload(code: Code, payload: &[u8]) -> Result<Self, MessageError> {
        let fields = Fields { code, payload };
        Ok(match code {
            Code::Features => fields.none(Self::Features)?,
            Code::SetOwner => fields.none(Self::SetOwner)?,
            Code::ResetOwner => fields.none(Self::ResetOwner)?,
            Code::ProtocolFeatures => fields.none(Self::ProtocolFeatures)?,
            Code::QueueCount => fields.none(Self::QueueCount)?,
            Code::Status => fields.none(Self::Status)?,
            Code::SetFeatures => Self::SetFeatures(fields.word()?),
            Code::SetProtocolFeatures => Self::SetProtocolFeatures(fields.word()?),
            Code::SetStatus => Self::SetStatus(fields.byte()?),
            Code::SetMemoryTable => Self::SetMemoryTable(fields.regions()?),
            Code::SetVringAddresses => Self::SetVringAddresses(fields.addresses()?),
            Code::SetVringSize => {
                let [ring, size] = fields.pair()?;
                Self::SetVringSize { ring, size }
            }
            Code::SetVringBase => {
                let [ring, base] = fields.pair()?;
                Self::SetVringBase { ring, base }
            }
            Code::VringBase => {
                let [ring, _] = fields.pair()?;
                Self::VringBase { ring }
            }
            Code::SetVringEnable => match fields.pair()? {
                [ring, flag @ (0 | 1)] => Self::SetVringEnable {
                    ring,
                    enabled: flag == 1,
                },
                [_, value] => return Err(fields.wrong(value.into())),
            },
            Code::SetVringKick => {
                let (ring, has_fd) = fields.event()?;
                Self::SetVringKick { ring, has_fd }
            }
            Code::SetVringCall => {
                let (ring, has_fd) = fields.event()?;
                Self::SetVringCall { ring, has_fd }
            }
            Code::SetVringError => {
                let (ring, has_fd) = fields.event()?;
                Self::SetVringError { ring, has_fd }
            }
        })
    }

    /// Its number.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Features => Code::Features,
            Self::SetFeatures(_) => Code::SetFeatures,
            Self::SetOwner => Code::SetOwner,
            Self::ResetOwner => Code::ResetOwner,
            Self::SetMemoryTable(_) => Code::SetMemoryTable,
            Self::SetVringSize { .. } => Code::SetVringSize,
            Self::SetVringAddresses(_) => Code::SetVringAddresses,
            Self::SetVringBase { .. } => Code::SetVringBase,
            Self::VringBase { .. } => Code::VringBase,
            Self::SetVringKick { .. } => Code::SetVringKick,
            Self::SetVringCall { .. } => Code::SetVringCall,
            Self::SetVringError { .. } => Code::SetVringError,
            Self::ProtocolFeatures => Code::ProtocolFeatures,
            Self::SetProtocolFeatures(_) => Code::SetProtocolFeatures,
            Self::QueueCount => Code::QueueCount,
            Self::SetVringEnable { .. } => Code::SetVringEnable,
            Self::SetStatus(_) => Code::SetStatus,
            Self::Status => Code::Status,
        }
    }

    /// Descriptors that come along.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        match self {
            Self::SetMemoryTable(regions) => regions.len(),
            Self::SetVringKick { has_fd, .. }
            | Self::SetVringCall { has_fd, .. }
            | Self::SetVringError { has_fd, .. } => usize::from(*has_fd),
            _ => 0,
        }
    }

    /// Whether the answer is more than "done".
    #[must_use]
    pub fn has_answer(&self) -> bool {
        matches!(
            self,
            Self::Features
                | Self::ProtocolFeatures
                | Self::QueueCount
                | Self::VringBase { .. }
                | Self::Status
        )
    }

    /// The message, for a front end.
    ///
    /// # Panics
    ///
    /// When a memory table has more than [`REGIONS_MAX`] regions.
    #[must_use]
    pub fn encode(&self, needs_reply: bool) -> Vec<u8> {
        let header = Header {
            code: self.code().number(),
            is_reply: false,
            needs_reply,
            size: 0,
        };
        header.message(&self.payload())
    }

    fn payload(&self) -> Vec<u8> {
        let event = |ring: u8, has_fd: bool| {
            let absent = if has_fd { 0 } else { NO_DESCRIPTOR };
            (u64::from(ring) | absent).to_le_bytes().to_vec()
        };
        let pair = |words: [u32; 2]| words.map(u32::to_le_bytes).as_flattened().to_vec();
        match self {
            Self::SetFeatures(word) | Self::SetProtocolFeatures(word) => word.to_le_bytes().into(),
            Self::SetStatus(status) => u64::from(*status).to_le_bytes().into(),
            Self::SetMemoryTable(regions) => {
                let count = u32::try_from(regions.len()).unwrap_or(u32::MAX);
                let mut payload = pair([count, 0]);
                for region in regions {
                    payload.extend(region.words().map(u64::to_le_bytes).as_flattened());
                }
                payload
            }
            Self::SetVringSize { ring, size: value } | Self::SetVringBase { ring, base: value } => {
                pair([*ring, *value])
            }
            Self::VringBase { ring } => pair([*ring, 0]),
            Self::SetVringEnable { ring, enabled } => pair([*ring, u32::from(*enabled)]),
            Self::SetVringAddresses(at) => {
                let mut payload = pair([at.ring, at.flags]);
                let words = [at.descriptors, at.device, at.driver, at.log];
                payload.extend(words.map(u64::to_le_bytes).as_flattened());
                payload
            }
            Self::SetVringKick { ring, has_fd }
            | Self::SetVringCall { ring, has_fd }
            | Self::SetVringError { ring, has_fd } => event(*ring, *has_fd),
            _ => Vec::new(),
        }
    }
}

/// What a back end answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A number: features, a count, a status; 0 for "done" if that was asked for.
    Number(u64),
    /// Where a ring stopped.
    VringBase {
        /// The ring.
        ring: u32,
        /// The position, as in [`Request::SetVringBase`].
        base: u32,
    },
}

impl Reply {
    /// The message that answers `code`.
    #[must_use]
    pub fn encode(&self, code: Code) -> Vec<u8> {
        let header = Header {
            code: code.number(),
            is_reply: true,
            needs_reply: false,
            size: 0,
        };
        match self {
            Self::Number(number) => header.message(&number.to_le_bytes()),
            Self::VringBase { ring, base } => {
                header.message([*ring, *base].map(u32::to_le_bytes).as_flattened())
            }
        }
    }

    /// Understands an answer to `code`, for a front end.
    ///
    /// # Errors
    ///
    /// Names what is wrong: another request's answer, or another length.
    pub fn decode(code: Code, header: &Header, payload: &[u8]) -> Result<Self, MessageError> {
        if !header.is_reply {
            return Err(MessageError::Direction);
        }
        if header.code != code.number() {
            return Err(MessageError::Unknown { code: header.code });
        }
        let fields = Fields { code, payload };
        if code == Code::VringBase {
            let [ring, base] = fields.pair()?;
            return Ok(Self::VringBase { ring, base });
        }
        Ok(Self::Number(fields.word()?))
    }
}

impl Region {
    fn words(&self) -> [u64; 4] {
        [
            self.guest_address,
            self.size,
            self.user_address,
            self.file_offset,
        ]
    }
}

/// A payload, and whose it is.
struct Fields<'a> {
    code: Code,
    payload: &'a [u8],
}

impl Fields<'_> {
    /// Front ends may send a word that means nothing.
    fn none(&self, request: Request) -> Result<Request, MessageError> {
        match self.payload.len() {
            0 | 8 => Ok(request),
            _ => Err(self.wrong_size()),
        }
    }

    fn word(&self) -> Result<u64, MessageError> {
        let bytes = <[u8; 8]>::try_from(self.payload);
        bytes.map(u64::from_le_bytes).map_err(|_| self.wrong_size())
    }

    fn byte(&self) -> Result<u8, MessageError> {
        let value = self.word()?;
        u8::try_from(value).map_err(|_| self.wrong(value))
    }

    fn pair(&self) -> Result<[u32; 2], MessageError> {
        let (words, rest) = self.payload.as_chunks::<4>();
        match (words, rest) {
            ([a, b], []) => Ok([a, b].map(|word| u32::from_le_bytes(*word))),
            _ => Err(self.wrong_size()),
        }
    }

    fn event(&self) -> Result<(u8, bool), MessageError> {
        let value = self.word()?;
        let ring = u8::try_from(value & !NO_DESCRIPTOR).map_err(|_| self.wrong(value))?;
        Ok((ring, value & NO_DESCRIPTOR == 0))
    }

    fn addresses(&self) -> Result<VringAddresses, MessageError> {
        let (head, words) = self
            .payload
            .split_first_chunk::<8>()
            .ok_or_else(|| self.wrong_size())?;
        let [a, b, c, d, e, f, g, h] = *head;
        let (words, rest) = words.as_chunks::<8>();
        let (&[descriptors, device, driver, log], []) = (words, rest) else {
            return Err(self.wrong_size());
        };
        Ok(VringAddresses {
            ring: u32::from_le_bytes([a, b, c, d]),
            flags: u32::from_le_bytes([e, f, g, h]),
            descriptors: u64::from_le_bytes(descriptors),
            device: u64::from_le_bytes(device),
            driver: u64::from_le_bytes(driver),
            log: u64::from_le_bytes(log),
        })
    }

    /// The count is believed only as far as there are bytes.
    fn regions(&self) -> Result<Vec<Region>, MessageError> {
        let (head, rest) = self
            .payload
            .split_first_chunk::<8>()
            .ok_or_else(|| self.wrong_size())?;
        let [a, b, c, d, ..] = *head;
        let count = u32::from_le_bytes([a, b, c, d]);
        let (words, tail) = rest.as_chunks::<32>();
        let there = usize::try_from(count).unwrap_or(usize::MAX);
        if there > REGIONS_MAX {
            return Err(self.wrong(count.into()));
        }
        // Some front ends send the whole table, whatever the count.
        if !tail.is_empty() || words.len() < there {
            return Err(self.wrong_size());
        }
        Ok(words[..there].iter().map(Region::decode).collect())
    }

    fn wrong_size(&self) -> MessageError {
        MessageError::Size {
            code: self.code.number(),
            size: self.payload.len(),
        }
    }

    fn wrong(&self, value: u64) -> MessageError {
        MessageError::Value {
            code: self.code.number(),
            value,
        }
    }
}

impl Region {
    fn decode(bytes: &[u8; 32]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |index: usize| u64::from_le_bytes(words[index]);
        Self {
            guest_address: word(0),
            size: word(1),
            user_address: word(2),
            file_offset: word(3),
        }
    }
}

/// `VHOST_USER_VRING_NOFD_MASK`.
const NO_DESCRIPTOR: u64 = 1 << 8;
