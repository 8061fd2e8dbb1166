//! A device behind a vfio-user socket, for the board.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use machine::kernel::Ram;
use machine::{AssignedDevice, DeviceMemory, DmaRange, Signalling};
use vfio_user_protocol::{
    Access, Direction, DmaMap, IrqInfo, RegionInfo, Reply, Request, SetIrqs, Version, errno, irq,
    region,
};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::events;
use crate::link::{Link, refusal};
use crate::socket::{Received, Socket};

/// How the device reaches the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DmaWay {
    /// It asks for each piece, and gets what the guest's tables permit at that moment.
    Messages,
    /// It has mapped the guest's memory: all of it, or with a remapping unit what the guest's tables permit.
    Mapped,
}

/// The device.
pub struct VfioUserDevice {
    link: Link,
    regions: Vec<RegionInfo>,
    irqs: Vec<IrqInfo>,
    ram: Ram,
    way: DmaWay,
    /// Descriptors that the server takes with one message.
    descriptors_max: u32,
    signalling: Option<(u32, Vec<OwnedFd>)>,
}

impl fmt::Debug for VfioUserDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioUserDevice")
            .field("regions", &self.regions)
            .field("irqs", &self.irqs)
            .field("way", &self.way)
            .finish_non_exhaustive()
    }
}

impl VfioUserDevice {
    /// Greets the device at `path`, resets it, and lets it use `ram` the `way` that is wanted.
    ///
    /// # Errors
    ///
    /// When nobody listens there, or somebody who does not have a PCI function.
    pub fn connect(path: &Path, ram: Ram, way: DmaWay) -> Result<Self> {
        let stream = UnixStream::connect(path);
        let stream = stream.with_context(|| format!("no device at {}", path.display()))?;
        let mut device = Self {
            link: Link::new(Socket::new(stream)?),
            regions: Vec::new(),
            irqs: Vec::new(),
            ram,
            way,
            descriptors_max: 1,
            signalling: None,
        };
        device.greet()?;
        if way == DmaWay::Messages {
            device.map_everything()?;
        }
        Ok(device)
    }

    /// Its regions, by number.
    #[must_use]
    pub fn regions(&self) -> &[RegionInfo] {
        &self.regions
    }

    /// Its kinds of interrupts, by number.
    #[must_use]
    pub fn irqs(&self) -> &[IrqInfo] {
        &self.irqs
    }

    fn greet(&mut self) -> Result<()> {
        let version = Request::Version(Version::ours(vfio_user_protocol::FDS_MAX));
        match self.ask(&version, &[], None)? {
            Reply::Version(theirs) if theirs.is_understood() => {
                let taken = theirs.capabilities.max_msg_fds;
                self.descriptors_max = taken.clamp(1, vfio_user_protocol::FDS_MAX);
            }
            Reply::Version(theirs) => bail!(
                "the device speaks version {}.{} of the protocol",
                theirs.major,
                theirs.minor
            ),
            _ => unreachable!("a version is answered with one"),
        }
        let Reply::Device(info) = self.ask(&Request::DeviceInfo, &[], None)? else {
            unreachable!("a question for the device is answered with it");
        };
        ensure!(info.pci, "the device is no PCI function");
        ensure!(
            info.regions > region::CONFIG && info.irqs > irq::INTX,
            "a PCI function has more regions and interrupts"
        );
        for index in 0..info.regions.min(region::COUNT) {
            let room = 32;
            match self.ask(&Request::RegionInfo { index, room }, &[], None)? {
                Reply::Region(info) => self.regions.push(info),
                _ => unreachable!("answered with a region"),
            }
        }
        for index in 0..info.irqs.min(irq::COUNT) {
            match self.ask(&Request::IrqInfo { index }, &[], None)? {
                Reply::Irq(info) => self.irqs.push(info),
                _ => unreachable!("answered with a kind of interrupt"),
            }
        }
        if info.resets {
            self.ask(&Request::Reset, &[], None)?;
        }
        Ok(())
    }

    /// The device may ask for any address; whether it gets it is decided then.
    fn map_everything(&mut self) -> Result<()> {
        let everything = |size| {
            Request::DmaMap(DmaMap {
                direction: BOTH,
                offset: 0,
                address: 0,
                size,
            })
        };
        if self.ask(&everything(ADDRESSES), &[], None).is_ok() {
            return Ok(());
        }
        self.ask(&everything(FEWER_ADDRESSES), &[], None).map(drop)
    }

    fn ask(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
        memory: Option<&dyn DeviceMemory>,
    ) -> Result<Reply> {
        self.link.ask(request, descriptors, |socket, message| {
            serve(socket, &message, memory).map(|()| None)
        })
    }

    fn set_irqs(
        &mut self,
        index: u32,
        (start, count): (u32, u32),
        flags: u32,
        events: &[OwnedFd],
    ) -> Result<()> {
        let request = Request::SetIrqs(SetIrqs {
            index,
            start,
            count,
            flags,
            bools: Vec::new(),
        });
        let events: Vec<_> = events.iter().map(AsFd::as_fd).collect();
        self.ask(&request, &events, None).map(drop)
    }

    fn signal(&mut self, way: Signalling) -> Result<()> {
        if let Some((index, _)) = self.signalling.take() {
            self.set_irqs(index, (0, 0), SetIrqs::NONE | SetIrqs::TRIGGER, &[])?;
        }
        let (index, count) = match way {
            Signalling::Off => return Ok(()),
            Signalling::Pin => (irq::INTX, 1),
            Signalling::Msi(count) => (irq::MSI, count.into()),
            Signalling::MsiX(count) => (irq::MSIX, count.into()),
        };
        let there = self.irqs.iter().find(|irq| irq.index == index);
        let count = there.map_or(0, |irq| irq.count).min(count);
        if count == 0 {
            return Ok(());
        }
        let events: Vec<_> = (0..count)
            .map(|_| events::new())
            .collect::<io::Result<_>>()?;
        let mut start = 0;
        for some in events.chunks(self.descriptors_max as usize) {
            let count = u32::try_from(some.len())?;
            let flags = SetIrqs::EVENTFD | SetIrqs::TRIGGER;
            self.set_irqs(index, (start, count), flags, some)?;
            start += count;
        }
        self.signalling = Some((index, events));
        Ok(())
    }

    fn dma_map(&mut self, range: &DmaRange) -> Result<()> {
        let ram = self.ram.clone();
        let region = ram.find_region(GuestAddress(range.address));
        let region = region.context("a range of RAM is in RAM")?;
        let file = region
            .file_offset()
            .context("the guest's RAM is in no file")?;
        let map = Request::DmaMap(DmaMap {
            direction: Direction {
                read: range.read,
                write: range.write,
            },
            offset: file.start() + (range.address - region.start_addr().0),
            address: range.iova,
            size: range.size,
        });
        self.ask(&map, &[file.file().as_fd()], None).map(drop)
    }
}

impl AssignedDevice for VfioUserDevice {
    fn window(&self, bar: usize) -> u64 {
        self.regions.get(bar).map_or(0, |region| region.size)
    }

    fn read(
        &mut self,
        region: usize,
        offset: u64,
        data: &mut [u8],
        memory: &dyn DeviceMemory,
    ) -> io::Result<()> {
        let request = Request::RegionRead(access(region, offset, data.len()));
        match self
            .ask(&request, &[], Some(memory))
            .map_err(io::Error::other)?
        {
            Reply::Data(read) => data.copy_from_slice(&read),
            _ => unreachable!("a read is answered with data"),
        }
        Ok(())
    }

    fn write(
        &mut self,
        region: usize,
        offset: u64,
        data: &[u8],
        memory: &dyn DeviceMemory,
    ) -> io::Result<()> {
        let request = Request::RegionWrite(access(region, offset, data.len()), data.to_vec());
        let done = self.ask(&request, &[], Some(memory));
        done.map(drop).map_err(io::Error::other)
    }

    fn set_signalling(&mut self, way: Signalling) -> io::Result<()> {
        self.signal(way).map_err(io::Error::other)
    }

    fn unmask_pin(&mut self) -> io::Result<()> {
        match self.signalling {
            Some((irq::INTX, _)) => self
                .set_irqs(irq::INTX, (0, 1), SetIrqs::NONE | SetIrqs::UNMASK, &[])
                .map_err(io::Error::other),
            _ => Ok(()),
        }
    }

    fn poll(&mut self, vectors: &mut Vec<u16>, memory: &dyn DeviceMemory) -> io::Result<()> {
        while self.link.wait(Some(Duration::ZERO))? {
            let message = self.link.next().map_err(io::Error::other)?;
            let Some(message) = message else {
                return Err(io::ErrorKind::ConnectionAborted.into());
            };
            serve(self.link.socket(), &message, Some(memory)).map_err(io::Error::other)?;
        }
        if let Some((_, events)) = &self.signalling {
            let told = (0u16..)
                .zip(events)
                .filter(|(_, event)| events::take(event));
            vectors.extend(told.map(|(vector, _)| vector));
        }
        Ok(())
    }

    fn maps_memory(&self) -> bool {
        self.way == DmaWay::Mapped
    }

    fn map(&mut self, range: &DmaRange) -> io::Result<()> {
        self.dma_map(range).map_err(io::Error::other)
    }

    fn unmap(&mut self, range: &DmaRange) -> io::Result<()> {
        let unmap = Request::DmaUnmap {
            all: false,
            address: range.iova,
            size: range.size,
        };
        let done = self.ask(&unmap, &[], None);
        done.map(drop).map_err(io::Error::other)
    }
}

/// Answers what the device asks of memory.
fn serve(socket: &mut Socket, message: &Received, memory: Option<&dyn DeviceMemory>) -> Result<()> {
    let Received {
        header,
        payload,
        descriptors,
    } = message;
    let answer = match (Request::decode(header, payload, descriptors.len()), memory) {
        (Ok(request @ Request::DmaRead { address, count }), Some(memory)) => {
            let mut data = vec![0; usize::try_from(count).unwrap_or(0)];
            match memory.read(address, &mut data) {
                true => Reply::Data(data).encode(header.id, &request),
                false => refusal(header, errno::EINVAL),
            }
        }
        (Ok(Request::DmaWrite { address, data }), Some(memory)) => {
            match memory.write(address, &data) {
                true => {
                    let request = Request::DmaWrite { address, data };
                    Reply::Done.encode(header.id, &request)
                }
                false => refusal(header, errno::EINVAL),
            }
        }
        (Ok(_), _) => refusal(header, errno::EINVAL),
        (Err(error), _) => refusal(header, error.errno()),
    };
    socket.send(&answer, &[])
}

fn access(region: usize, offset: u64, length: usize) -> Access {
    Access {
        region: u32::try_from(region).expect("one of nine"),
        offset,
        count: u32::try_from(length).expect("a processor's access"),
    }
}

const BOTH: Direction = Direction {
    read: true,
    write: true,
};
/// As many addresses as any device of PCI Express has in practice.
const ADDRESSES: u64 = 1 << 52;
/// What libvfio-user takes in one piece; no guest here has memory beyond.
const FEWER_ADDRESSES: u64 = 8 << 40;
