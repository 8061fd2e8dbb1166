//! What of a mapping is RAM. Tables may map more: a pass-through maps every address there is.

use machine::Mapping;
use machine::kernel::Ram;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// A range of device addresses that leads to one region of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First device address.
    pub(crate) iova: u64,
    /// The guest-physical address that it leads to.
    pub(crate) address: u64,
    /// Bytes.
    pub(crate) size: u64,
}

/// The pieces of `mapping`, in ascending order.
pub(crate) fn pieces(ram: &Ram, iova: u64, mapping: &Mapping) -> Vec<Piece> {
    let last = mapping.address + (mapping.bytes - 1);
    let piece = |start: u64, length: u64| {
        let first = start.max(mapping.address);
        let end = last.min(start + (length - 1));
        (first <= end).then(|| Piece {
            iova: iova + (first - mapping.address),
            address: first,
            size: end - first + 1,
        })
    };
    ram.iter()
        .filter_map(|region| piece(region.start_addr().0, region.len()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    fn found(address: u64, bytes: u64) -> Vec<Piece> {
        let ranges = [(GuestAddress(0), 0x3000), (GuestAddress(0x10000), 0x1000)];
        let ram = Ram::from_ranges(&ranges).unwrap();
        let mapping = Mapping {
            address,
            bytes,
            read: true,
            write: true,
        };
        pieces(&ram, 0x5000, &mapping)
    }

    #[test]
    fn a_mapping_of_everything_is_all_of_ram() {
        let piece = |iova, address, size| Piece {
            iova,
            address,
            size,
        };
        let all = [piece(0x5000, 0, 0x3000), piece(0x15000, 0x10000, 0x1000)];
        assert_eq!(found(0, 1 << 46), all);
        assert_eq!(found(0x2000, 0x2000), [piece(0x5000, 0x2000, 0x1000)]);
    }

    #[test]
    fn a_mapping_past_ram_is_nothing() {
        assert_eq!(found(0x4000, 0x1000), []);
        assert_eq!(found(u64::MAX - 0xfff, 0x1000), []);
    }
}
