//! The header ahead of each packet, and what it asks for: virtio 1.3, 5.1.6.

/// Bytes of the header of a device that is not legacy.
pub(crate) const LENGTH: usize = 12;

/// `struct virtio_net_hdr`, as the driver sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) flags: u8,
    pub(crate) segmentation: u8,
    /// `hdr_len`: a hint, and not used.
    pub(crate) headers: u16,
    pub(crate) segment: u16,
    pub(crate) checksum_start: u16,
    pub(crate) checksum_offset: u16,
}

impl Header {
    pub(crate) fn decode(bytes: [u8; LENGTH]) -> Self {
        let [flags, segmentation, a, b, c, d, e, f, g, h, ..] = bytes;
        Self {
            flags,
            segmentation,
            headers: u16::from_le_bytes([a, b]),
            segment: u16::from_le_bytes([c, d]),
            checksum_start: u16::from_le_bytes([e, f]),
            checksum_offset: u16::from_le_bytes([g, h]),
        }
    }

    /// A header for the driver: how many buffers the packet is in, and whether its checksums fit.
    pub(crate) fn for_driver(buffers: u16, is_checked: bool) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        if is_checked {
            bytes[0] = DATA_VALID;
        }
        bytes[10..].copy_from_slice(&buffers.to_le_bytes());
        bytes
    }
}

// 5.1.6, `flags` and `gso_type`.
pub(crate) const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
pub(crate) const GSO_NONE: u8 = 0;
pub(crate) const GSO_TCPV4: u8 = 1;
pub(crate) const GSO_TCPV6: u8 = 4;
pub(crate) const GSO_ECN: u8 = 0x80;
