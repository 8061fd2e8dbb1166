//! What of a mapping is RAM. Tables may map more: a pass-through maps every address there is.

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vtd::Mapping;

use crate::kernel::Ram;

/// A range of device addresses that leads to one region of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaRange {
    /// First device address.
    pub iova: u64,
    /// The guest-physical address that it leads to.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// The device may read it.
    pub read: bool,
    /// The device may write it.
    pub write: bool,
}

/// The ranges of `mapping`, in ascending order.
pub(super) fn ranges(ram: &Ram, iova: u64, mapping: &Mapping) -> Vec<DmaRange> {
    let last = mapping.address + (mapping.bytes - 1);
    let range = |start: u64, length: u64| {
        let first = start.max(mapping.address);
        let end = last.min(start + (length - 1));
        (first <= end).then(|| DmaRange {
            iova: iova + (first - mapping.address),
            address: first,
            size: end - first + 1,
            read: mapping.read,
            write: mapping.write,
        })
    };
    ram.iter()
        .filter_map(|region| range(region.start_addr().0, region.len()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    fn found(address: u64, bytes: u64) -> Vec<(u64, u64, u64)> {
        let regions = [(GuestAddress(0), 0x3000), (GuestAddress(0x10000), 0x1000)];
        let ram = Ram::from_ranges(&regions).unwrap();
        let mapping = Mapping {
            address,
            bytes,
            read: true,
            write: true,
        };
        let found = ranges(&ram, 0x5000, &mapping).into_iter();
        found
            .map(|range| (range.iova, range.address, range.size))
            .collect()
    }

    #[test]
    fn a_mapping_of_everything_is_all_of_ram() {
        let all = [(0x5000, 0, 0x3000), (0x15000, 0x10000, 0x1000)];
        assert_eq!(found(0, 1 << 46), all);
        assert_eq!(found(0x2000, 0x2000), [(0x5000, 0x2000, 0x1000)]);
    }

    #[test]
    fn a_mapping_past_ram_is_nothing() {
        assert_eq!(found(0x4000, 0x1000), []);
        assert_eq!(found(1 << 45, 0x1000), []);
    }
}
