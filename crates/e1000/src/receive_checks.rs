//! What the receiver says of the checksums in a frame: sections 3.2.9 and 13.5.

use crate::registers::{RXCSUM_IPOFL, RXCSUM_TUOFL};
use crate::segment::{ADDRESSES, folded, sum};

/// Status and error bits of the descriptor that ends a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checks {
    pub(crate) status: u8,
    pub(crate) errors: u8,
}

impl Checks {
    /// Nothing was looked at: 3.2.3.1, "ignore checksum indication".
    pub(crate) const IGNORE: Self = Self {
        status: STATUS_IXSM,
        errors: 0,
    };

    /// What was found in `frame`, without its check sequence and its tag, with `control` in RXCSUM.
    pub(crate) fn of(control: u32, frame: &[u8]) -> Self {
        if control & (RXCSUM_IPOFL | RXCSUM_TUOFL) == 0 {
            return Self::IGNORE;
        }
        let mut checks = Self::default();
        let Some(packet) = Ipv4::find(frame) else {
            return checks;
        };
        if control & RXCSUM_IPOFL != 0 {
            checks.add(STATUS_IPCS, ERROR_IPE, sum(packet.header) == 0xffff);
        }
        if control & RXCSUM_TUOFL != 0
            && let Some(is_sound) = packet.is_payload_sound()
        {
            checks.add(STATUS_TCPCS, ERROR_TCPE, is_sound);
        }
        checks
    }

    fn add(&mut self, status: u8, error: u8, is_sound: bool) {
        self.status |= status;
        if !is_sound {
            self.errors |= error;
        }
    }
}

/// A packet whose header says that it fits its frame.
struct Ipv4<'a> {
    header: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    fn find(frame: &'a [u8]) -> Option<Self> {
        let packet = frame.get(ADDRESSES..)?.strip_prefix(&ETHERTYPE_IPV4)?;
        let fields = packet.first_chunk::<20>()?;
        let header = packet.get(..usize::from(fields[0] & 0xf) * 4)?;
        let total = usize::from(u16::from_be_bytes([fields[2], fields[3]]));
        let payload = packet.get(header.len()..total)?;
        let is_ipv4 = fields[0] >> 4 == 4 && header.len() >= 20;
        is_ipv4.then_some(Self { header, payload })
    }

    /// `None` for what is not checked: fragments, other protocols, and UDP without a checksum.
    fn is_payload_sound(&self) -> Option<bool> {
        let fragment = u16::from_be_bytes([self.header[6], self.header[7]]);
        let protocol = self.header[9];
        let has_checksum = match protocol {
            TCP => self.payload.len() >= 20,
            UDP => self.payload.len() >= 8 && self.payload[6..8] != [0, 0],
            _ => false,
        };
        if fragment & MORE_OR_OFFSET != 0 || !has_checksum {
            return None;
        }
        let length = u16::try_from(self.payload.len()).ok()?;
        let addresses = sum(&self.header[12..20]);
        let parts = [addresses, protocol.into(), length, sum(self.payload)];
        Some(folded(parts.map(u32::from).iter().sum()) == 0xffff)
    }
}

// Table 3-2, receive status, and 3-3, receive errors.
const STATUS_IXSM: u8 = 1 << 2;
const STATUS_TCPCS: u8 = 1 << 5;
const STATUS_IPCS: u8 = 1 << 6;
const ERROR_TCPE: u8 = 1 << 5;
const ERROR_IPE: u8 = 1 << 6;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// The flag of more fragments and the offset.
const MORE_OR_OFFSET: u16 = 0x3fff;
const TCP: u8 = 6;
const UDP: u8 = 17;
