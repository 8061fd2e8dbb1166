//! Commands of both directions. A client asks for all but [`Request::DmaRead`] and [`Request::DmaWrite`],
//! which a server asks for.

use crate::bytes::{Reader, words};
use crate::errno;
use crate::header::{Header, Kind};
use crate::version::Version;

/// Bytes of data in one message: 1 MiB, the protocol's default.
pub const DATA_MAX: usize = 1 << 20;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The first message: what the client is.
    Version(Version),
    /// Memory that the device may use from now on. A descriptor that comes along can be mapped.
    DmaMap(DmaMap),
    /// Memory that it may use no more.
    DmaUnmap {
        /// All there is; `address` and `size` are 0 then.
        all: bool,
        /// First address.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// How many regions and interrupts there are.
    DeviceInfo,
    /// About one region.
    RegionInfo {
        /// The region.
        index: u32,
        /// Bytes of answer that the client has room for.
        room: u32,
    },
    /// About one kind of interrupt.
    IrqInfo {
        /// The kind.
        index: u32,
    },
    /// What becomes of interrupts.
    SetIrqs(SetIrqs),
    /// Read a region.
    RegionRead(Access),
    /// Write a region; there are as many bytes as the access says.
    RegionWrite(Access, Vec<u8>),
    /// Reset the device.
    Reset,
    /// Read the client's memory.
    DmaRead {
        /// First address.
        address: u64,
        /// Bytes, at most [`DATA_MAX`].
        count: u64,
    },
    /// Write the client's memory.
    DmaWrite {
        /// First address.
        address: u64,
        /// What to write.
        data: Vec<u8>,
    },
}

/// Memory for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaMap {
    /// What the device may do.
    pub direction: Direction,
    /// Where the memory begins in the file of the descriptor.
    pub offset: u64,
    /// First address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// What a device may do with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Read it.
    pub read: bool,
    /// Write it.
    pub write: bool,
}

/// A piece of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The region.
    pub region: u32,
    /// Where it begins.
    pub offset: u64,
    /// Bytes, at most [`DATA_MAX`].
    pub count: u32,
}

/// What becomes of some interrupts of one kind, as `VFIO_DEVICE_SET_IRQS` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetIrqs {
    /// The kind.
    pub index: u32,
    /// The first.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// `VFIO_IRQ_SET_*`: what is done, and by which data.
    pub flags: u32,
    /// A byte for each, with `VFIO_IRQ_SET_DATA_BOOL`.
    pub bools: Vec<u8>,
}

/// Why a payload is not what its header says. The next message can be read nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A reply came where a command was expected.
    #[error("a reply to nothing that was asked")]
    Reply,
    /// No command, or one that this crate does not serve.
    #[error("command {command} is not served")]
    Command {
        /// Its number.
        command: u16,
    },
    /// Too few bytes, too many, or sizes that contradict each other.
    #[error("command {command} with {size} bytes of payload that do not fit it")]
    Payload {
        /// Its number.
        command: u16,
        /// Bytes of payload.
        size: usize,
    },
    /// Flags that this crate does not know.
    #[error("command {command} with flags {flags:#x}")]
    Flags {
        /// Its number.
        command: u16,
        /// All flags.
        flags: u32,
    },
    /// More data is asked for than one message may have.
    #[error("{count} bytes of data, more than a message has")]
    TooMuch {
        /// Bytes.
        count: u64,
    },
    /// Descriptors that the command does not have.
    #[error("{count} descriptors with command {command}")]
    Descriptors {
        /// Its number.
        command: u16,
        /// Descriptors.
        count: usize,
    },
}

impl RequestError {
    /// What to answer.
    #[must_use]
    pub fn errno(&self) -> u32 {
        match self {
            Self::Command { .. } | Self::Flags { .. } => errno::ENOTSUP,
            _ => errno::EINVAL,
        }
    }
}

impl Request {
    /// Reads a command that came with so many descriptors.
    ///
    /// # Errors
    ///
    /// Names what is wrong; answer with its [`errno`](RequestError::errno).
    pub fn decode(
        header: &Header,
        payload: &[u8],
        descriptors: usize,
    ) -> Result<Self, RequestError> {
        let command = header.command;
        if let Kind::Reply { .. } = header.kind {
            return Err(RequestError::Reply);
        }
        let short = RequestError::Payload {
            command,
            size: payload.len(),
        };
        let mut reader = Reader(payload);
        let request = read(command, &mut reader)?.ok_or(short)?;
        if !reader.0.is_empty() && !request.may_be_longer() {
            return Err(short);
        }
        if !request.has_descriptors(descriptors) {
            let count = descriptors;
            return Err(RequestError::Descriptors { command, count });
        }
        Ok(request)
    }

    /// The message that asks this.
    #[must_use]
    pub fn encode(&self, id: u16, wants_reply: bool) -> Vec<u8> {
        let header = Header {
            id,
            command: self.command(),
            kind: Kind::Command { wants_reply },
            size: 0,
        };
        header.message(&self.payload())
    }

    /// The command's number.
    #[must_use]
    pub fn command(&self) -> u16 {
        match self {
            Self::Version(_) => VERSION,
            Self::DmaMap(_) => DMA_MAP,
            Self::DmaUnmap { .. } => DMA_UNMAP,
            Self::DeviceInfo => DEVICE_INFO,
            Self::RegionInfo { .. } => REGION_INFO,
            Self::IrqInfo { .. } => IRQ_INFO,
            Self::SetIrqs(_) => SET_IRQS,
            Self::RegionRead(_) => REGION_READ,
            Self::RegionWrite(..) => REGION_WRITE,
            Self::Reset => RESET,
            Self::DmaRead { .. } => DMA_READ,
            Self::DmaWrite { .. } => DMA_WRITE,
        }
    }

    /// Requests that begin with their own size may grow in later versions of the protocol.
    fn may_be_longer(&self) -> bool {
        matches!(
            self,
            Self::DeviceInfo | Self::RegionInfo { .. } | Self::IrqInfo { .. }
        )
    }

    fn has_descriptors(&self, count: usize) -> bool {
        match self {
            Self::DmaMap(_) => count <= 1,
            Self::SetIrqs(irqs) => {
                let wanted = if irqs.flags & SetIrqs::EVENTFD != 0 {
                    irqs.count
                } else {
                    0
                };
                u32::try_from(count) == Ok(wanted)
            }
            _ => count == 0,
        }
    }

    fn payload(&self) -> Vec<u8> {
        match self {
            Self::Version(version) => version.encode(),
            Self::DmaMap(map) => {
                let flags = u32::from(map.direction.read) | u32::from(map.direction.write) << 1;
                let head = words([32, flags]);
                let tail = [map.offset, map.address, map.size].map(u64::to_le_bytes);
                [head.as_slice(), tail.as_flattened()].concat()
            }
            Self::DmaUnmap { all, address, size } => {
                let head = words([24, if *all { UNMAP_ALL } else { 0 }]);
                let tail = [address, size].map(|number| number.to_le_bytes());
                [head.as_slice(), tail.as_flattened()].concat()
            }
            Self::DeviceInfo => words([16, 0, 0, 0]),
            Self::RegionInfo { index, room } => words([*room, 0, *index, 0, 0, 0, 0, 0]),
            Self::IrqInfo { index } => words([16, 0, *index, 0]),
            Self::SetIrqs(irqs) => {
                let SetIrqs {
                    index,
                    start,
                    count,
                    flags,
                    bools,
                } = irqs;
                let size = u32::try_from(20 + bools.len()).expect("at most a byte for each");
                let head = words([size, *flags, *index, *start, *count]);
                [head.as_slice(), bools].concat()
            }
            Self::RegionRead(access) => access.encode(),
            Self::RegionWrite(access, data) => [access.encode().as_slice(), data].concat(),
            Self::Reset => Vec::new(),
            Self::DmaRead { address, count } => dma(*address, *count),
            Self::DmaWrite { address, data } => {
                [dma(*address, data.len() as u64).as_slice(), data].concat()
            }
        }
    }
}

/// `Ok(None)` when the payload is too short, or its parts contradict each other.
fn read(command: u16, reader: &mut Reader<'_>) -> Result<Option<Request>, RequestError> {
    Ok(match command {
        VERSION => Version::decode(reader.rest()).map(Request::Version),
        DMA_MAP => dma_map(reader)?,
        DMA_UNMAP => dma_unmap(reader)?,
        DEVICE_INFO => sized(reader, 16).and_then(|_| {
            let (_flags, _regions, _irqs) = (reader.u32()?, reader.u32()?, reader.u32()?);
            Some(Request::DeviceInfo)
        }),
        REGION_INFO => region_info(reader),
        IRQ_INFO => sized(reader, 16).and_then(|_| {
            let (_flags, index, _count) = (reader.u32()?, reader.u32()?, reader.u32()?);
            Some(Request::IrqInfo { index })
        }),
        SET_IRQS => set_irqs(reader),
        REGION_READ => match Access::read(reader) {
            Some(access) => Some(Request::RegionRead(access.within()?)),
            None => None,
        },
        REGION_WRITE => Access::read(reader).and_then(|access| {
            let data = reader.rest();
            (u32::try_from(data.len()) == Ok(access.count))
                .then(|| Request::RegionWrite(access, data.to_vec()))
        }),
        RESET => Some(Request::Reset),
        DMA_READ => match (reader.u64(), reader.u64()) {
            (_, Some(count)) if count > DATA_MAX as u64 => {
                return Err(RequestError::TooMuch { count });
            }
            (Some(address), Some(count)) => Some(Request::DmaRead { address, count }),
            _ => None,
        },
        DMA_WRITE => reader.u64().zip(reader.u64()).and_then(|(address, count)| {
            let data = reader.rest();
            (data.len() as u64 == count).then(|| Request::DmaWrite {
                address,
                data: data.to_vec(),
            })
        }),
        _ => return Err(RequestError::Command { command }),
    })
}

fn dma_map(reader: &mut Reader<'_>) -> Result<Option<Request>, RequestError> {
    let Some(flags) = sized(reader, 32).and_then(|_| reader.u32()) else {
        return Ok(None);
    };
    if flags & !(MAP_READ | MAP_WRITE) != 0 {
        let command = DMA_MAP;
        return Err(RequestError::Flags { command, flags });
    }
    let numbers = (reader.u64(), reader.u64(), reader.u64());
    let (Some(offset), Some(address), Some(size)) = numbers else {
        return Ok(None);
    };
    let direction = Direction {
        read: flags & MAP_READ != 0,
        write: flags & MAP_WRITE != 0,
    };
    Ok(Some(Request::DmaMap(DmaMap {
        direction,
        offset,
        address,
        size,
    })))
}

fn dma_unmap(reader: &mut Reader<'_>) -> Result<Option<Request>, RequestError> {
    let Some(flags) = sized(reader, 24).and_then(|_| reader.u32()) else {
        return Ok(None);
    };
    // Bitmaps of dirty pages are not kept.
    if flags & !UNMAP_ALL != 0 {
        let command = DMA_UNMAP;
        return Err(RequestError::Flags { command, flags });
    }
    let all = flags & UNMAP_ALL != 0;
    let (Some(address), Some(size)) = (reader.u64(), reader.u64()) else {
        return Ok(None);
    };
    let consistent = !all || (address, size) == (0, 0);
    Ok(consistent.then_some(Request::DmaUnmap { all, address, size }))
}

fn region_info(reader: &mut Reader<'_>) -> Option<Request> {
    let room = sized(reader, 32)?;
    let (_flags, index, _cap) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let (_size, _offset) = (reader.u64()?, reader.u64()?);
    Some(Request::RegionInfo { index, room })
}

fn set_irqs(reader: &mut Reader<'_>) -> Option<Request> {
    sized(reader, 20)?;
    let flags = reader.u32()?;
    let (index, start, count) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let bools = reader.rest();
    let wanted = if flags & SetIrqs::BOOL != 0 { count } else { 0 };
    (u32::try_from(bools.len()) == Ok(wanted)).then(|| {
        Request::SetIrqs(SetIrqs {
            index,
            start,
            count,
            flags,
            bools: bools.to_vec(),
        })
    })
}

/// What a structure that begins with its own size says of it, if that is enough.
fn sized(reader: &mut Reader<'_>, least: u32) -> Option<u32> {
    reader.u32().filter(|&size| size >= least)
}

fn dma(address: u64, count: u64) -> Vec<u8> {
    [address, count].map(u64::to_le_bytes).concat()
}

impl Access {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (offset, region, count) = (reader.u64()?, reader.u32()?, reader.u32()?);
        Some(Self {
            region,
            offset,
            count,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let tail = words([self.region, self.count]);
        [self.offset.to_le_bytes().as_slice(), &tail].concat()
    }

    fn within(self) -> Result<Self, RequestError> {
        match usize::try_from(self.count) {
            Ok(count) if count <= DATA_MAX => Ok(self),
            _ => Err(RequestError::TooMuch {
                count: self.count.into(),
            }),
        }
    }
}

impl SetIrqs {
    /// No data: the action itself.
    pub const NONE: u32 = 1 << 0;
    /// A byte for each interrupt.
    pub const BOOL: u32 = 1 << 1;
    /// A descriptor for each interrupt.
    pub const EVENTFD: u32 = 1 << 2;
    /// Hold back.
    pub const MASK: u32 = 1 << 3;
    /// Let go again.
    pub const UNMASK: u32 = 1 << 4;
    /// Raise, or say how interrupts are told of.
    pub const TRIGGER: u32 = 1 << 5;
}

const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const DMA_UNMAP: u16 = 3;
const DEVICE_INFO: u16 = 4;
const REGION_INFO: u16 = 5;
const IRQ_INFO: u16 = 7;
const SET_IRQS: u16 = 8;
const REGION_READ: u16 = 9;
const REGION_WRITE: u16 = 10;
const DMA_READ: u16 = 11;
const DMA_WRITE: u16 = 12;
const RESET: u16 = 13;
const MAP_READ: u32 = 1 << 0;
const MAP_WRITE: u32 = 1 << 1;
const UNMAP_ALL: u32 = 1 << 1;

#[cfg(test)]
mod tests;
