//! The memory that a front end shares.

/// Regions in one memory table.
pub const REGIONS_MAX: usize = 8;

/// A stretch of the front end's memory. One file descriptor comes with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Guest physical address of the first byte: buffers are named by these.
    pub guest_address: u64,
    /// Bytes.
    pub size: u64,
    /// Where the front end has it mapped: rings are named by these.
    pub user_address: u64,
    /// Where it begins in its file.
    pub file_offset: u64,
}

/// Why a table of regions was turned down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// No region, or more than [`REGIONS_MAX`].
    #[error("{count} regions")]
    Count {
        /// Regions that were announced.
        count: usize,
    },
    /// A region of no bytes.
    #[error("region {index} is empty")]
    Empty {
        /// Which one.
        index: usize,
    },
    /// An address or the file offset of the region's end is past 2^64.
    #[error("region {index} wraps around")]
    Wraps {
        /// Which one.
        index: usize,
    },
    /// Two regions share guest physical or user addresses.
    #[error("regions {first} and {second} overlap")]
    Overlap {
        /// The one.
        first: usize,
        /// The other.
        second: usize,
    },
}

/// Regions that do not wrap and do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions(Vec<Region>);

impl Regions {
    /// Checks a table.
    ///
    /// # Errors
    ///
    /// Names the first rule that is broken.
    pub fn new(regions: Vec<Region>) -> Result<Self, RegionError> {
        let count = regions.len();
        if count == 0 || count > REGIONS_MAX {
            return Err(RegionError::Count { count });
        }
        for (index, region) in regions.iter().enumerate() {
            if region.size == 0 {
                return Err(RegionError::Empty { index });
            }
            let starts = [
                region.guest_address,
                region.user_address,
                region.file_offset,
            ];
            if starts
                .iter()
                .any(|at| at.checked_add(region.size).is_none())
            {
                return Err(RegionError::Wraps { index });
            }
            let before = regions.iter().take(index).enumerate();
            for (first, other) in before {
                if region.overlaps(other) {
                    return Err(RegionError::Overlap {
                        first,
                        second: index,
                    });
                }
            }
        }
        Ok(Self(regions))
    }

    /// The regions, in the order of the table.
    #[must_use]
    pub fn as_slice(&self) -> &[Region] {
        &self.0
    }

    /// The guest physical address of a place in the front end's address space.
    #[must_use]
    pub fn guest_address(&self, user_address: u64) -> Option<u64> {
        self.0.iter().find_map(|region| {
            let offset = user_address.checked_sub(region.user_address)?;
            (offset < region.size).then(|| region.guest_address + offset)
        })
    }
}

impl Region {
    /// Neither region may wrap.
    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: u64, b: u64| a < b + other.size && b < a + self.size;
        meet(self.guest_address, other.guest_address) || meet(self.user_address, other.user_address)
    }
}
