//! A client's memory as a server's device reaches it: mapped where that is safe, else read and written piece by
//! piece, through a file or by asking the client.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::iter::FusedIterator;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use rustix::fs::{SealFlags, fcntl_get_seals};
use vfio_user_protocol::{DmaRegion, Reply, Request};
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryMmap, GuestMemoryResult,
    MmapRegion, Permissions, VolatileMemory, VolatileSlice,
};

use crate::link::Link;

/// All that the client has let the device use.
#[derive(Debug)]
pub(crate) struct ClientMemory {
    regions: BTreeMap<u64, Mapped>,
    bounce: Bounce,
    link: Rc<RefCell<Link>>,
    counts: Cell<DmaCounts>,
}

/// How often the device reached memory, by the way it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DmaCounts {
    /// Pieces of memory that is mapped.
    pub mapped: u64,
    /// Reads and writes of files.
    pub files: u64,
    /// Messages to the client.
    pub messages: u64,
    /// Pieces that could not be reached.
    pub refused: u64,
}

#[derive(Debug)]
struct Mapped {
    region: DmaRegion,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    /// The file cannot become shorter, so touching its pages is safe.
    Memory(MmapRegion<()>),
    /// The client may cut the file at any time: then reads and writes fail, where touching a page would be fatal.
    File(File),
    /// There is no file.
    Client,
}

/// Room for what is not mapped.
#[derive(Debug)]
struct Bounce {
    room: MmapRegion<()>,
    used: Cell<usize>,
    /// Written by the device and on its way to the client: address, where it lies, bytes.
    pending: RefCell<Vec<(u64, usize, usize)>>,
}

impl ClientMemory {
    pub(crate) fn new(link: Rc<RefCell<Link>>) -> Result<Self> {
        Ok(Self {
            regions: BTreeMap::new(),
            bounce: Bounce {
                room: MmapRegion::new(BOUNCE).context("room for memory that is not mapped")?,
                used: Cell::new(0),
                pending: RefCell::default(),
            },
            link,
            counts: Cell::default(),
        })
    }

    pub(crate) fn counts(&self) -> DmaCounts {
        self.counts.get()
    }

    /// Takes a region that the session has found to overlap no other.
    pub(crate) fn map(&mut self, region: DmaRegion, file: Option<OwnedFd>) -> Result<()> {
        let backing = match file.map(File::from) {
            None => Backing::Client,
            Some(file) if is_safe_to_map(&file, &region)? => {
                let size = usize::try_from(region.size)?;
                let file = FileOffset::new(file, region.offset);
                Backing::Memory(MmapRegion::from_file(file, size)?)
            }
            Some(file) => Backing::File(file),
        };
        self.regions
            .insert(region.address, Mapped { region, backing });
        Ok(())
    }

    pub(crate) fn unmap(&mut self, regions: &[DmaRegion]) {
        for region in regions {
            self.regions.remove(&region.address);
        }
    }

    /// Brings to the client what the device has written.
    pub(crate) fn flush(&self) {
        let pending = self.bounce.pending.take();
        for (address, at, length) in pending {
            let mut data = vec![0; length];
            let slice = self.bounce.room.get_slice(at, length);
            let copied = slice.map(|slice| slice.copy_to(&mut data[..]));
            if copied.is_err() || self.put(address, &data).is_err() {
                self.count(|counts| counts.refused += 1);
            }
        }
    }

    fn put(&self, address: u64, data: &[u8]) -> Result<()> {
        let (mapped, offset) = self.region(address).context("unmapped meanwhile")?;
        match &mapped.backing {
            Backing::Memory(_) => unreachable!("mapped memory does not bounce"),
            Backing::File(file) => {
                self.count(|counts| counts.files += 1);
                Ok(file.write_all_at(data, mapped.region.offset + offset)?)
            }
            Backing::Client => {
                self.count(|counts| counts.messages += 1);
                let data = data.to_vec();
                self.ask(&Request::DmaWrite { address, data }).map(drop)
            }
        }
    }

    fn fetch(&self, mapped: &Mapped, offset: u64, data: &mut [u8]) -> Result<()> {
        match &mapped.backing {
            Backing::Memory(_) => unreachable!("mapped memory does not bounce"),
            Backing::File(file) => {
                self.count(|counts| counts.files += 1);
                Ok(file.read_exact_at(data, mapped.region.offset + offset)?)
            }
            Backing::Client => {
                self.count(|counts| counts.messages += 1);
                let address = mapped.region.address + offset;
                let count = data.len() as u64;
                match self.ask(&Request::DmaRead { address, count })? {
                    Reply::Data(read) => data.copy_from_slice(&read),
                    _ => unreachable!("a read is answered with data"),
                }
                Ok(())
            }
        }
    }

    /// Commands of the client wait meanwhile.
    fn ask(&self, request: &Request) -> Result<Reply> {
        let mut link = self.link.borrow_mut();
        link.ask(request, &[], |_, message| Ok(Some(message)))
    }

    fn region(&self, address: u64) -> Option<(&Mapped, u64)> {
        let (_, mapped) = self.regions.range(..=address).next_back()?;
        let offset = address - mapped.region.address;
        (offset < mapped.region.size).then_some((mapped, offset))
    }

    /// The piece of a range that begins at `address`, in one region and not longer than a message.
    fn piece(
        &self,
        address: u64,
        count: usize,
        access: Permissions,
    ) -> GuestMemoryResult<VolatileSlice<'_>> {
        let found = self.region(address);
        let (mapped, offset) =
            found.ok_or(GuestMemoryError::InvalidGuestAddress(GuestAddress(address)))?;
        let left = usize::try_from(mapped.region.size - offset).unwrap_or(usize::MAX);
        let count = count.min(left);
        if let Backing::Memory(memory) = &mapped.backing {
            self.count(|counts| counts.mapped += 1);
            let offset = usize::try_from(offset).expect("mapped, so it fits");
            return Ok(memory.get_slice(offset, count)?);
        }
        let count = count.min(vfio_user_protocol::DATA_MAX);
        // The device sees what it has written.
        if reads(access) || !self.bounce.has_room(count) {
            self.flush();
        }
        let at = self.bounce.take(count);
        let slice = self.bounce.room.get_slice(at, count)?;
        if reads(access) {
            let mut data = vec![0; count];
            let fetched = self.fetch(mapped, offset, &mut data);
            fetched.map_err(|error| GuestMemoryError::IOError(std::io::Error::other(error)))?;
            slice.copy_from(&data);
        }
        if access.has_write() {
            let mut pending = self.bounce.pending.borrow_mut();
            pending.push((address, at, count));
        }
        Ok(slice)
    }

    fn permits(&self, address: u64, count: usize, access: Permissions) -> bool {
        let (mut address, mut left) = (address, count as u64);
        while left > 0 {
            let Some((mapped, offset)) = self.region(address) else {
                return false;
            };
            let direction = mapped.region.direction;
            let denied = reads(access) && !direction.read || access.has_write() && !direction.write;
            if denied {
                return false;
            }
            let here = left.min(mapped.region.size - offset);
            left -= here;
            match address.checked_add(here) {
                Some(next) => address = next,
                None => return left == 0,
            }
        }
        true
    }

    fn count(&self, change: impl FnOnce(&mut DmaCounts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}

impl Bounce {
    fn has_room(&self, count: usize) -> bool {
        self.used.get() + count <= BOUNCE
    }

    /// The next piece, from the beginning again at the end: pieces live only until they are copied.
    fn take(&self, count: usize) -> usize {
        let at = if self.has_room(count) {
            self.used.get()
        } else {
            0
        };
        self.used.set(at + count);
        at
    }
}

impl GuestMemory for ClientMemory {
    type PhysicalMemory = GuestMemoryMmap<()>;
    type Bitmap = ();

    fn check_range(&self, start: GuestAddress, count: usize, access: Permissions) -> bool {
        self.permits(start.0, count, access)
    }

    fn get_slices<'a>(
        &'a self,
        start: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> GuestMemoryResult<impl GuestMemorySliceIterator<'a, ()>> {
        if !self.permits(start.0, count, access) {
            self.count(|counts| counts.refused += 1);
            return Err(GuestMemoryError::InvalidGuestAddress(start));
        }
        Ok(Slices {
            memory: self,
            address: start.0,
            left: count,
            access,
        })
    }
}

struct Slices<'a> {
    memory: &'a ClientMemory,
    address: u64,
    left: usize,
    access: Permissions,
}

impl<'a> Iterator for Slices<'a> {
    type Item = GuestMemoryResult<VolatileSlice<'a, ()>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let piece = self.memory.piece(self.address, self.left, self.access);
        match &piece {
            Ok(slice) => {
                self.left -= slice.len();
                self.address = self.address.wrapping_add(slice.len() as u64);
            }
            Err(_) => self.left = 0,
        }
        Some(piece)
    }
}

impl FusedIterator for Slices<'_> {}
impl<'a> GuestMemorySliceIterator<'a, ()> for Slices<'a> {}

fn reads(access: Permissions) -> bool {
    matches!(access, Permissions::Read | Permissions::ReadWrite)
}

/// Whether the file is memory that nobody can cut, and holds the whole region from the beginning of a page on.
fn is_safe_to_map(file: &File, region: &DmaRegion) -> Result<bool> {
    let end = region.offset + region.size;
    ensure!(
        file.metadata()?.len() >= end,
        "the file ends before the region"
    );
    let sealed = fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
    Ok(sealed && region.offset.is_multiple_of(PAGE) && usize::try_from(region.size).is_ok())
}

const PAGE: u64 = 4096;
/// Bytes of room for what is not mapped: some of the longest messages.
const BOUNCE: usize = 8 << 20;

#[cfg(test)]
mod tests;
