//! The host's memory, and whose each page is.

use anyhow::{Context, Result};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

/// Bytes of a page.
pub(crate) const PAGE: u64 = 0x1000;
/// Host memory.
pub(crate) const HOST_BYTES: u64 = 16 << 20;
/// Where the other guest's memory lies in it.
const OTHER: u64 = 4 << 20;
/// Where the memory of the card's guest lies in it.
pub(crate) const GUEST: u64 = 8 << 20;
/// Bytes of each guest.
pub(crate) const GUEST_BYTES: u64 = 4 << 20;
/// Guest-physical address of the buffer that the driver gives the card.
pub(crate) const BUFFER: u64 = 2 << 20;
/// Its pages; the card may write all but the last.
pub(crate) const BUFFER_PAGES: u64 = 4;
/// Guest-physical address of the guest kernel's keys.
pub(crate) const KEYS: u64 = 1 << 20;
/// Host-physical address of the host's keys.
pub(crate) const HOST_KEYS: u64 = 13 << 20;

/// Whose a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Host,
    OtherGuest,
    Guest,
    Buffer,
}

impl Owner {
    pub(crate) const ALL: [Self; 4] = [Self::Host, Self::OtherGuest, Self::Guest, Self::Buffer];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::OtherGuest => "other guest",
            Self::Guest => "its guest",
            Self::Buffer => "its buffer",
        }
    }

    /// How many pages there are of it.
    pub(crate) fn pages(self) -> u64 {
        let pages = (0..HOST_BYTES).step_by(0x1000).map(Self::of);
        pages.map(|owner| u64::from(owner == self)).sum()
    }

    fn of(address: u64) -> Self {
        match address {
            OTHER..GUEST => Self::OtherGuest,
            _ if in_buffer(address) => Self::Buffer,
            _ if (GUEST..GUEST + GUEST_BYTES).contains(&address) => Self::Guest,
            _ => Self::Host,
        }
    }
}

fn in_buffer(address: u64) -> bool {
    let start = GUEST + BUFFER;
    (start..start + BUFFER_PAGES * PAGE).contains(&address)
}

/// The same bytes as the host and as the card's guest address them.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) host: GuestMemoryMmap,
    pub(crate) guest: GuestMemoryMmap,
}

impl World {
    /// Every page says in a word who owns it, so that the card knows what it got hold of.
    pub(crate) fn new() -> Result<Self> {
        let file = tempfile::tempfile().context("memory for the host")?;
        file.set_len(HOST_BYTES).context("memory for the host")?;
        let map = |offset, bytes: u64| -> Result<GuestMemoryMmap> {
            let file = file.try_clone().context("memory for the host")?;
            let range = (
                GuestAddress(0),
                usize::try_from(bytes)?,
                Some(FileOffset::new(file, offset)),
            );
            Ok(GuestMemoryMmap::from_ranges_with_files([range])?)
        };
        let world = Self {
            host: map(0, HOST_BYTES)?,
            guest: map(GUEST, GUEST_BYTES)?,
        };
        for page in pages() {
            let tag = GuestAddress(page + TAG);
            world.host.write_obj(MAGIC | page, tag)?;
        }
        Ok(world)
    }

    /// The owners of pages that the card has written to since the last time.
    pub(crate) fn take_written(&self) -> Result<Vec<Owner>> {
        let mut owners = Vec::new();
        for page in pages() {
            let at = GuestAddress(page + MARK);
            if self.host.read_obj::<u64>(at)? == STRAY {
                owners.push(Owner::of(page));
                self.host.write_obj(0_u64, at)?;
            }
        }
        Ok(owners)
    }
}

/// The owner of the page whose tag a card has read.
pub(crate) fn owner_of_tag(tag: u64) -> Option<Owner> {
    (tag & !(HOST_BYTES - 1) == MAGIC).then(|| Owner::of(tag & (HOST_BYTES - 1)))
}

fn pages() -> impl Iterator<Item = u64> {
    (0..HOST_BYTES).step_by(0x1000)
}

const MAGIC: u64 = 0x5ec2_e75e_c200_0000;
/// Offset of the tag in each page; no table of ours has its entries there in use.
pub(crate) const TAG: u64 = 0xff0;
/// What a card writes; no word of a table is like it.
pub(crate) const STRAY: u64 = u64::MAX;
/// Offset of what a card writes.
pub(crate) const MARK: u64 = 0xff8;
