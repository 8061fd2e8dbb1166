//! The server's half of a session: what the client may use, and what becomes of what it asks.

use crate::dma::{DmaError, DmaRegion, DmaTable};
use crate::errno;
use crate::header::{Header, Kind};
use crate::interrupts::{InterruptAction, Interrupts, IrqError};
use crate::message::{Access, Request, RequestError};
use crate::reply::{DeviceInfo, IrqInfo, RegionInfo, Reply};
use crate::version::{Capabilities, Version};

/// What a server says of its device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its regions; their numbers count from 0.
    pub regions: Vec<RegionInfo>,
    /// Its kinds of interrupts; their numbers count from 0.
    pub irqs: Vec<IrqInfo>,
    /// Whether it can be reset.
    pub resets: bool,
}

/// What a server knows of its client. `F` is a file descriptor, which this crate only hands on.
///
/// Each message leads to one [`Outcome`]: something to do, and something to answer once it was tried, by
/// [`answer`](Self::answer). Nothing that a client sends ends the session: errors are answers.
#[derive(Debug)]
pub struct Server<F> {
    device: Device,
    client: Option<Capabilities>,
    dma: DmaTable,
    interrupts: Interrupts<F>,
}

/// What to do about a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<F> {
    /// Nothing.
    None,
    /// Let the device use this memory: through the file, or without one by asking the client.
    Map(DmaRegion, Option<F>),
    /// Let it use these regions no more.
    Unmap(Vec<DmaRegion>),
    /// Read a region; all of the access lies in it. Answer with as many bytes.
    Read(Access),
    /// Write a region; all of the access lies in it.
    Write(Access, Vec<u8>),
    /// Interrupts change.
    Interrupts(InterruptAction),
    /// Reset the device. Memory and interrupts stay as the client has set them.
    Reset,
}

/// What a message leads to.
#[must_use = "a client waits for its answer"]
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome<F> {
    /// What to do.
    pub effect: Effect<F>,
    /// What to answer then.
    pub answer: Answer,
}

/// An answer that waits for its effect.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    id: u16,
    asked: Request,
    reply: Reply,
    wanted: bool,
    then: Then,
}

/// What becomes true when the effect has.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    Nothing,
    Mapped(DmaRegion),
    Unmapped(Vec<DmaRegion>),
}

/// Why a message was turned down. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The payload is none of the command's.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Another version of the protocol.
    #[error("version {major}.{minor} of the protocol")]
    Version {
        /// The major version.
        major: u16,
        /// The minor version.
        minor: u16,
    },
    /// Versions come first, and once.
    #[error("a version was expected, or was not any more")]
    Order,
    /// The device has no such region.
    #[error("region {index} does not exist")]
    Region {
        /// The number.
        index: u32,
    },
    /// Some of an access is outside its region, or the region does not let itself be read or written.
    #[error("{count} bytes at {offset:#x} of region {region} are not for this access")]
    Access {
        /// The region.
        region: u32,
        /// Where the access begins.
        offset: u64,
        /// Bytes.
        count: u32,
    },
    /// Memory cannot be mapped or unmapped so.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// Interrupts cannot be set so.
    #[error(transparent)]
    Irq(#[from] IrqError),
    /// The device cannot be reset.
    #[error("the device cannot be reset")]
    NoReset,
    /// A client is asked for its memory; it does not ask.
    #[error("a client asks for its own memory")]
    Direction,
}

impl SessionError {
    /// What is answered.
    #[must_use]
    pub fn errno(&self) -> u32 {
        match self {
            Self::Request(error) => error.errno(),
            Self::Dma(error) => error.errno(),
            Self::Version { .. } | Self::NoReset => errno::ENOTSUP,
            _ => errno::EINVAL,
        }
    }
}

impl<F> Server<F> {
    /// A session for a device, with nobody at the other end yet.
    ///
    /// # Panics
    ///
    /// When a region or a kind of interrupts has another number than its place.
    #[must_use]
    pub fn new(device: Device) -> Self {
        let regions = device.regions.iter().map(|region| region.index);
        assert!(regions.eq(0..count(&device.regions)), "regions in order");
        let irqs = device.irqs.iter().map(|irq| irq.index);
        assert!(irqs.eq(0..count(&device.irqs)), "interrupts in order");
        Self {
            interrupts: Interrupts::new(&device.irqs),
            device,
            client: None,
            dma: DmaTable::default(),
        }
    }

    /// What the client can take, once it has said so.
    #[must_use]
    pub fn client(&self) -> Option<Capabilities> {
        self.client
    }

    /// How interrupts are told of.
    pub fn interrupts_mut(&mut self) -> &mut Interrupts<F> {
        &mut self.interrupts
    }

    /// The memory that the device may use, in ascending order.
    pub fn dma(&self) -> impl Iterator<Item = DmaRegion> + '_ {
        self.dma.iter()
    }

    /// Whether the device may reach all of a range.
    #[must_use]
    pub fn may_access(&self, address: u64, size: u64, write: bool) -> bool {
        self.dma.allows(address, size, write)
    }

    /// Takes a message and its descriptors.
    ///
    /// # Errors
    ///
    /// Names what is wrong, and what to send about it, if anything.
    pub fn handle(
        &mut self,
        header: &Header,
        payload: &[u8],
        descriptors: Vec<F>,
    ) -> Result<Outcome<F>, (SessionError, Option<Vec<u8>>)> {
        let refuse = |error: SessionError| {
            let answer = refusal(header, error.errno());
            (error, answer)
        };
        let request = Request::decode(header, payload, descriptors.len());
        let request = request.map_err(|error| refuse(error.into()))?;
        let applied = self.apply(&request, descriptors).map_err(refuse)?;
        let (effect, reply, then) = applied;
        let wanted = header.kind == Kind::Command { wants_reply: true };
        Ok(Outcome {
            effect,
            answer: Answer {
                id: header.id,
                asked: request,
                reply,
                wanted,
                then,
            },
        })
    }

    /// What to send once the effect was tried, if anything: with what was read, or with one of Linux' error
    /// numbers. Memory counts as mapped or unmapped only when that succeeded.
    ///
    /// # Panics
    ///
    /// When a read answers with another number of bytes than was asked for.
    pub fn answer(&mut self, answer: Answer, result: Result<Vec<u8>, u32>) -> Option<Vec<u8>> {
        let Answer {
            id,
            asked,
            reply,
            wanted,
            then,
        } = answer;
        let message = match result {
            Err(error) => {
                let header = reply_header(id, asked.command(), Some(error));
                header.message(&[])
            }
            Ok(data) => {
                match then {
                    Then::Nothing => {}
                    Then::Mapped(region) => self.dma.insert(region),
                    Then::Unmapped(regions) => self.dma.remove(&regions),
                }
                let reply = match &asked {
                    Request::RegionRead(access) => {
                        let whole = u32::try_from(data.len()) == Ok(access.count);
                        assert!(whole, "a read answers all that was asked for");
                        Reply::Data(data)
                    }
                    _ => reply,
                };
                reply.encode(id, &asked)
            }
        };
        wanted.then_some(message)
    }

    /// The client has gone: memory and interrupts with it.
    pub fn disconnect(&mut self) {
        self.client = None;
        self.dma = DmaTable::default();
        self.interrupts.reset();
    }

    fn apply(
        &mut self,
        request: &Request,
        mut descriptors: Vec<F>,
    ) -> Result<(Effect<F>, Reply, Then), SessionError> {
        let done = |effect| Ok((effect, Reply::Done, Then::Nothing));
        let says = |reply| Ok((Effect::None, reply, Then::Nothing));
        if matches!(request, Request::Version(_)) == self.client.is_some() {
            return Err(SessionError::Order);
        }
        match request {
            Request::Version(version) => {
                if !version.is_understood() {
                    let (major, minor) = (version.major, version.minor);
                    return Err(SessionError::Version { major, minor });
                }
                self.client = Some(version.capabilities);
                says(Reply::Version(Version::ours(FDS_MAX)))
            }
            Request::DmaMap(map) => {
                let region = self.dma.check(map)?;
                let effect = Effect::Map(region, descriptors.pop());
                Ok((effect, Reply::Done, Then::Mapped(region)))
            }
            &Request::DmaUnmap { all, address, size } => {
                let regions = if all {
                    self.dma.iter().collect()
                } else {
                    self.dma.within(address, size)?
                };
                let effect = Effect::Unmap(regions.clone());
                Ok((effect, Reply::Done, Then::Unmapped(regions)))
            }
            Request::DeviceInfo => says(Reply::Device(DeviceInfo {
                resets: self.device.resets,
                pci: true,
                regions: count(&self.device.regions),
                irqs: count(&self.device.irqs),
            })),
            &Request::RegionInfo { index, .. } => says(Reply::Region(self.region(index)?)),
            &Request::IrqInfo { index } => {
                let absent = IrqError::Range {
                    index,
                    start: 0,
                    count: 0,
                };
                says(Reply::Irq(self.interrupts.info(index).ok_or(absent)?))
            }
            Request::SetIrqs(irqs) => {
                let action = self.interrupts.set(irqs, descriptors)?;
                done(Effect::Interrupts(action))
            }
            Request::RegionRead(access) => {
                self.check(*access, false)?;
                done(Effect::Read(*access))
            }
            Request::RegionWrite(access, data) => {
                self.check(*access, true)?;
                done(Effect::Write(*access, data.clone()))
            }
            Request::Reset if !self.device.resets => Err(SessionError::NoReset),
            Request::Reset => done(Effect::Reset),
            Request::DmaRead { .. } | Request::DmaWrite { .. } => Err(SessionError::Direction),
        }
    }

    fn region(&self, index: u32) -> Result<RegionInfo, SessionError> {
        let place = usize::try_from(index).ok();
        let found = place.and_then(|place| self.device.regions.get(place));
        found.copied().ok_or(SessionError::Region { index })
    }

    fn check(&self, access: Access, write: bool) -> Result<(), SessionError> {
        let Access {
            region,
            offset,
            count,
        } = access;
        let info = self.region(region)?;
        let end = offset.checked_add(count.into());
        let inside = end.is_some_and(|end| end <= info.size);
        let permitted = if write { info.write } else { info.read };
        if inside && permitted {
            return Ok(());
        }
        Err(SessionError::Access {
            region,
            offset,
            count,
        })
    }
}

/// The answer to what cannot be done; replies are not answered, nor are commands that want none.
fn refusal(header: &Header, error: u32) -> Option<Vec<u8>> {
    let wanted = header.kind == Kind::Command { wants_reply: true };
    wanted.then(|| reply_header(header.id, header.command, Some(error)).message(&[]))
}

fn reply_header(id: u16, command: u16, error: Option<u32>) -> Header {
    Header {
        id,
        command,
        kind: Kind::Reply { error },
        size: 0,
    }
}

fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).expect("a device has few of anything")
}

/// Descriptors that come with one message at most: one for each of many interrupts.
pub const FDS_MAX: u32 = 64;

#[cfg(test)]
mod tests;
