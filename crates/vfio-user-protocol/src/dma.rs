//! The client's memory, as far as the device may use it.

use std::collections::BTreeMap;

use crate::errno;
use crate::message::{Direction, DmaMap};

/// Regions that a session has at most: as many as libvfio-user's clients are known to need, eight times.
pub const DMA_REGIONS_MAX: usize = 4096;

/// Memory that the device may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaRegion {
    /// First address.
    pub address: u64,
    /// Bytes, not zero; the last one's address is a number of 64 bits.
    pub size: u64,
    /// What the device may do.
    pub direction: Direction,
    /// Where the region begins in its file, if one came along. A file may be shorter than it should.
    pub offset: u64,
}

/// All regions. No two overlap.
#[derive(Debug, Default)]
pub(crate) struct DmaTable(BTreeMap<u64, DmaRegion>);

/// Why memory cannot be mapped, or not be unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// Nothing, or more than there are addresses or bytes in a file.
    #[error("{size:#x} bytes from {address:#x}, offset {offset:#x}, are no range")]
    Range {
        /// First address.
        address: u64,
        /// Bytes.
        size: u64,
        /// Offset in the file.
        offset: u64,
    },
    /// Something is mapped there.
    #[error("memory at {address:#x} is mapped already")]
    Overlap {
        /// First address asked for.
        address: u64,
    },
    /// There are as many regions as there may be.
    #[error("more than {DMA_REGIONS_MAX} regions")]
    Full,
    /// Nothing is mapped there.
    #[error("nothing is mapped at {address:#x}")]
    Absent {
        /// First address asked for.
        address: u64,
    },
    /// A region would be cut in two.
    #[error("the region at {address:#x} cannot be unmapped in part")]
    Part {
        /// Its first address.
        address: u64,
    },
}

impl DmaError {
    pub(crate) fn errno(self) -> u32 {
        match self {
            Self::Range { .. } | Self::Part { .. } => errno::EINVAL,
            Self::Overlap { .. } => errno::EEXIST,
            Self::Full => errno::ENOSPC,
            Self::Absent { .. } => errno::ENOENT,
        }
    }
}

impl DmaTable {
    /// The region that `map` asks for, if it may be.
    pub(crate) fn check(&self, map: &DmaMap) -> Result<DmaRegion, DmaError> {
        let DmaMap {
            direction,
            offset,
            address,
            size,
        } = *map;
        let range = DmaError::Range {
            address,
            size,
            offset,
        };
        let last = last(address, size).ok_or(range)?;
        let end = offset.checked_add(size).ok_or(range)?;
        if i64::try_from(end).is_err() {
            return Err(range);
        }
        if self.touching(address, last).next().is_some() {
            return Err(DmaError::Overlap { address });
        }
        if self.0.len() == DMA_REGIONS_MAX {
            return Err(DmaError::Full);
        }
        Ok(DmaRegion {
            address,
            size,
            direction,
            offset,
        })
    }

    pub(crate) fn insert(&mut self, region: DmaRegion) {
        self.0.insert(region.address, region);
    }

    /// The regions that a range consists of.
    pub(crate) fn within(&self, address: u64, size: u64) -> Result<Vec<DmaRegion>, DmaError> {
        let range = DmaError::Range {
            address,
            size,
            offset: 0,
        };
        let end = last(address, size).ok_or(range)?;
        let regions: Vec<_> = self.touching(address, end).copied().collect();
        let inside = |region: &&DmaRegion| region.address >= address && region.last() <= end;
        if let Some(part) = regions.iter().find(|region| !inside(region)) {
            let address = part.address;
            return Err(DmaError::Part { address });
        }
        if regions.is_empty() {
            return Err(DmaError::Absent { address });
        }
        Ok(regions)
    }

    pub(crate) fn remove(&mut self, regions: &[DmaRegion]) {
        for region in regions {
            self.0.remove(&region.address);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = DmaRegion> + '_ {
        self.0.values().copied()
    }

    /// Whether the device may reach all of a range, which may lie in several regions.
    pub(crate) fn allows(&self, address: u64, size: u64, write: bool) -> bool {
        let Some(end) = last(address, size) else {
            return size == 0;
        };
        let mut next = address;
        for region in self.touching(address, end) {
            let permitted = if write {
                region.direction.write
            } else {
                region.direction.read
            };
            if region.address > next || !permitted {
                return false;
            }
            if region.last() >= end {
                return true;
            }
            next = region.last() + 1;
        }
        false
    }

    /// Regions with an address in the range, in ascending order.
    fn touching(&self, first: u64, last: u64) -> impl Iterator<Item = &DmaRegion> {
        let before = self.0.range(..first).next_back();
        let before = before.filter(|(_, region)| region.last() >= first);
        before
            .into_iter()
            .chain(self.0.range(first..=last))
            .map(|(_, region)| region)
    }
}

impl DmaRegion {
    fn last(&self) -> u64 {
        self.address + (self.size - 1)
    }
}

/// The last address of a range; `None` if it has none.
fn last(address: u64, size: u64) -> Option<u64> {
    address.checked_add(size.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Direction = Direction {
        read: true,
        write: true,
    };

    fn map(address: u64, size: u64) -> DmaMap {
        DmaMap {
            direction: BOTH,
            offset: 0,
            address,
            size,
        }
    }

    fn table(regions: &[(u64, u64)]) -> DmaTable {
        let mut table = DmaTable::default();
        for &(address, size) in regions {
            let region = table.check(&map(address, size)).unwrap();
            table.insert(region);
        }
        table
    }

    #[test]
    fn regions_do_not_overlap() {
        let table = table(&[(0x1000, 0x1000), (0x3000, 0x1000)]);
        for (address, size) in [(0x1fff, 1), (0, 0x1001), (0x2000, 0x1001), (0, 1 << 62)] {
            let overlap = DmaError::Overlap { address };
            assert_eq!(table.check(&map(address, size)), Err(overlap));
        }
        table.check(&map(0x2000, 0x1000)).unwrap();
    }

    #[test]
    fn ranges_that_end_nowhere_are_refused() {
        let table = DmaTable::default();
        table.check(&map(u64::MAX, 1)).unwrap();
        for (address, size) in [(0, 0), (1, u64::MAX), (u64::MAX, 2)] {
            table.check(&map(address, size)).unwrap_err();
        }
        let far = DmaMap {
            offset: i64::MAX as u64,
            ..map(0, 1)
        };
        table.check(&far).unwrap_err();
    }

    #[test]
    fn whole_regions_are_unmapped_and_parts_are_not() {
        let table = table(&[(0x1000, 0x1000), (0x3000, 0x1000)]);
        assert_eq!(table.within(0, 0x10000).unwrap().len(), 2);
        assert_eq!(table.within(0x1000, 0x1000).unwrap().len(), 1);
        let part = DmaError::Part { address: 0x3000 };
        assert_eq!(table.within(0x1000, 0x2001), Err(part));
        let absent = DmaError::Absent { address: 0x2000 };
        assert_eq!(table.within(0x2000, 0x1000), Err(absent));
    }

    #[test]
    fn an_access_needs_all_of_its_range() {
        let mut table = table(&[(0x1000, 0x1000), (0x2000, 0x1000)]);
        let read_only = DmaMap {
            direction: Direction {
                read: true,
                write: false,
            },
            ..map(0x3000, 0x1000)
        };
        let region = table.check(&read_only).unwrap();
        table.insert(region);
        assert!(table.allows(0x1ff0, 0x20, true), "two regions");
        assert!(table.allows(0x2ff0, 0x20, false));
        assert!(!table.allows(0x2ff0, 0x20, true), "the second is read only");
        assert!(!table.allows(0x3ff0, 0x20, false), "past the end");
        assert!(!table.allows(0xff0, 0x20, false), "before the beginning");
        assert!(!table.allows(u64::MAX, 2, false));
    }

    #[test]
    fn there_are_so_many_regions_and_no_more() {
        let mut table = DmaTable::default();
        for number in 0..DMA_REGIONS_MAX as u64 {
            let region = table.check(&map(number << 12, 1)).unwrap();
            table.insert(region);
        }
        assert_eq!(table.check(&map(0x800, 1)), Err(DmaError::Full));
    }
}
