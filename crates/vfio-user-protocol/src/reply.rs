//! Answers, for both ends.

use crate::bytes::{Reader, words};
use crate::header::{Header, Kind};
use crate::message::{Access, Request};
use crate::version::Version;

/// What a request is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// What the server is.
    Version(Version),
    /// How many regions and interrupts there are.
    Device(DeviceInfo),
    /// About a region.
    Region(RegionInfo),
    /// About a kind of interrupt.
    Irq(IrqInfo),
    /// What was read.
    Data(Vec<u8>),
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// It can be reset.
    pub resets: bool,
    /// It is a PCI function.
    pub pci: bool,
    /// Its regions.
    pub regions: u32,
    /// Its kinds of interrupts.
    pub irqs: u32,
}

/// A region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionInfo {
    /// Its number.
    pub index: u32,
    /// It can be read.
    pub read: bool,
    /// It can be written.
    pub write: bool,
    /// Bytes; 0 if there is no such region.
    pub size: u64,
}

/// A kind of interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqInfo {
    /// Its number.
    pub index: u32,
    /// It is told of through an event descriptor.
    pub eventfd: bool,
    /// It can be masked.
    pub maskable: bool,
    /// It masks itself whenever it is told of.
    pub automasked: bool,
    /// How many there are; 0 if the device does not have this kind.
    pub count: u32,
}

/// Why a message is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// It answers something else.
    #[error("command {command} is answered instead of {asked}")]
    Other {
        /// What it says that it answers.
        command: u16,
        /// What was asked.
        asked: u16,
    },
    /// The other end refuses: one of Linux' error numbers.
    #[error("the other end answers with error {errno}")]
    Refused {
        /// Which.
        errno: u32,
    },
    /// The payload does not fit.
    #[error("{size} bytes that do not fit the answer to command {command}")]
    Payload {
        /// The command.
        command: u16,
        /// Bytes of payload.
        size: usize,
    },
}

impl Reply {
    /// Reads what `asked` is answered with. Answers to reads are as long as was asked for.
    ///
    /// # Errors
    ///
    /// Names what is wrong with it, or what the other end says.
    pub fn decode(asked: &Request, header: &Header, payload: &[u8]) -> Result<Self, ReplyError> {
        let command = header.command;
        match header.kind {
            Kind::Reply { error: None } if command == asked.command() => {}
            Kind::Reply { error: Some(errno) } if command == asked.command() => {
                return Err(ReplyError::Refused { errno });
            }
            _ => {
                let asked = asked.command();
                return Err(ReplyError::Other { command, asked });
            }
        }
        let wrong = ReplyError::Payload {
            command,
            size: payload.len(),
        };
        read(asked, &mut Reader(payload)).ok_or(wrong)
    }

    /// The payload that answers `asked`.
    pub(crate) fn payload(&self, asked: &Request) -> Vec<u8> {
        match (self, asked) {
            (Self::Version(version), _) => version.encode(),
            (Self::Device(device), _) => device.encode(),
            (Self::Region(region), _) => region.encode(),
            (Self::Irq(irq), _) => irq.encode(),
            (Self::Data(data), Request::RegionRead(access)) => {
                [access.encode().as_slice(), data].concat()
            }
            (Self::Data(data), Request::DmaRead { address, count }) => [
                [*address, *count].map(u64::to_le_bytes).as_flattened(),
                data,
            ]
            .concat(),
            (Self::Done, Request::RegionWrite(access, _)) => access.encode(),
            (Self::Done, Request::DmaWrite { address, data }) => {
                [*address, data.len() as u64].map(u64::to_le_bytes).concat()
            }
            // What was unmapped is said once more, without its flags' meaning for the client.
            (Self::Done, Request::DmaUnmap { address, size, .. }) => {
                let tail = [*address, *size].map(u64::to_le_bytes);
                [words([24, 0]).as_slice(), tail.as_flattened()].concat()
            }
            (Self::Done | Self::Data(_), _) => Vec::new(),
        }
    }

    /// The message that answers `asked`, which was called `id`.
    #[must_use]
    pub fn encode(&self, id: u16, asked: &Request) -> Vec<u8> {
        let header = Header {
            id,
            command: asked.command(),
            kind: Kind::Reply { error: None },
            size: 0,
        };
        header.message(&self.payload(asked))
    }
}

fn read(asked: &Request, reader: &mut Reader<'_>) -> Option<Reply> {
    Some(match asked {
        Request::Version(_) => Reply::Version(Version::decode(reader.rest())?),
        Request::DeviceInfo => Reply::Device(DeviceInfo::read(reader)?),
        Request::RegionInfo { .. } => Reply::Region(RegionInfo::read(reader)?),
        Request::IrqInfo { .. } => Reply::Irq(IrqInfo::read(reader)?),
        Request::RegionRead(access) => {
            let answered = Access::read(reader)?;
            let data = reader.rest();
            let whole = answered == *access && u32::try_from(data.len()) == Ok(access.count);
            whole.then(|| Reply::Data(data.to_vec()))?
        }
        Request::DmaRead { address, count } => {
            let answered = (reader.u64()?, reader.u64()?);
            let data = reader.rest();
            let whole = answered == (*address, *count) && data.len() as u64 == *count;
            whole.then(|| Reply::Data(data.to_vec()))?
        }
        // Others may say more of what they did; it tells nothing new.
        _ => Reply::Done,
    })
}

impl DeviceInfo {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (_size, flags) = (reader.u32()?, reader.u32()?);
        Some(Self {
            resets: flags & DEVICE_RESETS != 0,
            pci: flags & DEVICE_PCI != 0,
            regions: reader.u32()?,
            irqs: reader.u32()?,
        })
    }

    fn encode(self) -> Vec<u8> {
        let resets = if self.resets { DEVICE_RESETS } else { 0 };
        let pci = if self.pci { DEVICE_PCI } else { 0 };
        words([16, resets | pci, self.regions, self.irqs])
    }
}

impl RegionInfo {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (_size, flags, index) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let (_capabilities, size, _offset) = (reader.u32()?, reader.u64()?, reader.u64()?);
        Some(Self {
            index,
            read: flags & REGION_READS != 0,
            write: flags & REGION_WRITES != 0,
            size,
        })
    }

    fn encode(self) -> Vec<u8> {
        let flags = u32::from(self.read) | u32::from(self.write) << 1;
        let numbers = [self.size, 0].map(u64::to_le_bytes);
        let head = words([32, flags, self.index, 0]);
        [head.as_slice(), numbers.as_flattened()].concat()
    }
}

impl IrqInfo {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (_size, flags) = (reader.u32()?, reader.u32()?);
        Some(Self {
            eventfd: flags & IRQ_EVENTFD != 0,
            maskable: flags & IRQ_MASKABLE != 0,
            automasked: flags & IRQ_AUTOMASKED != 0,
            index: reader.u32()?,
            count: reader.u32()?,
        })
    }

    fn encode(self) -> Vec<u8> {
        let flags = u32::from(self.eventfd)
            | u32::from(self.maskable) << 1
            | u32::from(self.automasked) << 2;
        words([16, flags, self.index, self.count])
    }
}

// `linux/vfio.h`.
const DEVICE_RESETS: u32 = 1 << 0;
const DEVICE_PCI: u32 = 1 << 1;
const REGION_READS: u32 = 1 << 0;
const REGION_WRITES: u32 = 1 << 1;
const IRQ_EVENTFD: u32 = 1 << 0;
const IRQ_MASKABLE: u32 = 1 << 1;
const IRQ_AUTOMASKED: u32 = 1 << 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn back(asked: &Request, reply: &Reply) -> Result<Reply, ReplyError> {
        let message = reply.encode(3, asked);
        let header = Header::decode(*message.first_chunk().unwrap()).unwrap();
        Reply::decode(asked, &header, &message[Header::LENGTH..])
    }

    #[test]
    fn answers_come_back_as_they_were() {
        let device = DeviceInfo {
            resets: true,
            pci: true,
            regions: 9,
            irqs: 5,
        };
        let region = RegionInfo {
            index: 1,
            read: true,
            write: false,
            size: 1 << 17,
        };
        let irq = IrqInfo {
            index: 0,
            eventfd: true,
            maskable: false,
            automasked: true,
            count: 1,
        };
        let access = Access {
            region: 7,
            offset: 4,
            count: 2,
        };
        let pairs = [
            (
                Request::Version(Version::ours(1)),
                Reply::Version(Version::ours(8)),
            ),
            (Request::DeviceInfo, Reply::Device(device)),
            (
                Request::RegionInfo { index: 1, room: 32 },
                Reply::Region(region),
            ),
            (Request::IrqInfo { index: 0 }, Reply::Irq(irq)),
            (Request::RegionRead(access), Reply::Data(vec![1, 2])),
            (Request::RegionWrite(access, vec![1, 2]), Reply::Done),
            (
                Request::DmaRead {
                    address: 9,
                    count: 1,
                },
                Reply::Data(vec![5]),
            ),
            (Request::Reset, Reply::Done),
        ];
        for (asked, reply) in pairs {
            assert_eq!(back(&asked, &reply), Ok(reply));
        }
    }

    #[test]
    fn answers_to_something_else_are_refused() {
        let access = Access {
            region: 7,
            offset: 4,
            count: 2,
        };
        let asked = Request::RegionRead(access);
        back(&asked, &Reply::Data(vec![1])).expect_err("shorter than asked for");
        let elsewhere = Request::RegionRead(Access {
            offset: 8,
            ..access
        });
        let message = Reply::Data(vec![1, 2]).encode(3, &elsewhere);
        let header = Header::decode(*message.first_chunk().unwrap()).unwrap();
        let payload = &message[Header::LENGTH..];
        Reply::decode(&asked, &header, payload).expect_err("from another offset");
        let other = Reply::decode(&Request::Reset, &header, payload);
        let (command, asked) = (9, 13);
        assert_eq!(other, Err(ReplyError::Other { command, asked }));
    }

    #[test]
    fn errors_are_handed_on() {
        let header = Header {
            id: 1,
            command: Request::Reset.command(),
            kind: Kind::Reply { error: Some(22) },
            size: 0,
        };
        let answer = Reply::decode(&Request::Reset, &header, &[]);
        assert_eq!(answer, Err(ReplyError::Refused { errno: 22 }));
    }
}
