//! What the transmitter does to the bytes of a frame: checksums, VLAN tags, segmentation.

/// A context descriptor: 3.3.6. Offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Context {
    /// IPCSS: where the IP header begins.
    pub ip_start: u8,
    /// IPCSO: where its checksum goes.
    pub ip_offset: u8,
    /// IPCSE: the last byte that it covers; 0 for the end of the frame.
    pub ip_end: u16,
    /// TUCSS: where the TCP or UDP header begins.
    pub transport_start: u8,
    /// TUCSO: where its checksum goes.
    pub transport_offset: u8,
    /// TUCSE: the last byte that it covers; 0 for the end of the frame.
    pub transport_end: u16,
    /// PAYLEN: bytes after the headers, for segmentation.
    pub payload: u32,
    /// HDRLEN: bytes of headers, for segmentation.
    pub header: u8,
    /// MSS: bytes after the headers in each segment.
    pub segment: u16,
    /// TCP rather than UDP.
    pub tcp: bool,
    /// IPv4 rather than IPv6.
    pub ipv4: bool,
}

/// Which checksums a packet asked for: POPTS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Insert {
    /// IXSM.
    pub ip: bool,
    /// TXSM.
    pub transport: bool,
}

impl Context {
    /// Inserts the checksums that were asked for. One that does not lie in the frame is left out.
    pub(crate) fn insert_checksums(&self, insert: Insert, frame: &mut [u8]) {
        if insert.transport {
            put_checksum(
                frame,
                self.transport_start,
                self.transport_offset,
                self.transport_end,
            );
        }
        if insert.ip {
            put_checksum(frame, self.ip_start, self.ip_offset, self.ip_end);
        }
    }

    /// Turns the prototype headers at the start of `frame` into those of a segment: 3.5.9.
    ///
    /// `sent` is how many bytes of payload went before it.
    pub(crate) fn fit_headers(&self, frame: &mut [u8], index: u16, sent: u32, last: bool) {
        let ip = usize::from(self.ip_start);
        let transport = usize::from(self.transport_start);
        let length = frame.len();
        if self.ipv4 {
            put_u16(frame, ip + 2, truncated(length.saturating_sub(ip)));
            add_u16(frame, ip + 4, index);
        } else {
            // The payload length of IPv6 counts what follows its 40 bytes.
            put_u16(frame, ip + 4, truncated(length.saturating_sub(ip + 40)));
        }
        let behind = truncated(length.saturating_sub(transport));
        if self.tcp {
            add_u32(frame, transport + 4, sent);
            if !last && let Some(flags) = frame.get_mut(transport + 13) {
                *flags &= !(TCP_PSH | TCP_FIN);
            }
        } else {
            put_u16(frame, transport + 4, behind);
        }
        // Software put the sum of the pseudo-header without its length here: 3.5.8.
        let at = usize::from(self.transport_offset);
        if let Some(sum) = u16_at(frame, at) {
            put_u16(frame, at, folded(u32::from(sum) + u32::from(behind)));
        }
    }
}

/// The tag of a VLAN behind the two addresses: 9.2.
pub(crate) fn insert_tag(frame: &mut Vec<u8>, ether_type: u16, tag: u16) {
    if frame.len() < ADDRESSES {
        return;
    }
    let [a, b] = ether_type.to_be_bytes();
    let [c, d] = tag.to_be_bytes();
    frame.splice(ADDRESSES..ADDRESSES, [a, b, c, d]);
}

fn put_checksum(frame: &mut [u8], start: u8, offset: u8, end: u16) {
    let end = match end {
        0 => frame.len(),
        last => frame.len().min(usize::from(last) + 1),
    };
    let Some(covered) = frame.get(usize::from(start)..end) else {
        return;
    };
    // Zero means "no checksum" in UDP (RFC 768); elsewhere the two are the same.
    let sum = match !sum(covered) {
        0 => 0xffff,
        sum => sum,
    };
    put_u16(frame, usize::from(offset), sum);
}

/// The ones' complement sum of RFC 1071.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum = 0_u64;
    for word in words {
        sum += u64::from(u32::from_be_bytes(*word));
    }
    let mut tail = [0; 4];
    tail[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_be_bytes(tail));
    // Twice: the first fold may carry out of 32 bits.
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    folded(u32::try_from(sum).unwrap_or(u32::MAX))
}

pub(crate) fn folded(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Lengths of more than 16 bits, which no header can say.
fn truncated(length: usize) -> u16 {
    u16::try_from(length & 0xffff).unwrap_or(0)
}

fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    let bytes = frame.get(at..at + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn put_u16(frame: &mut [u8], at: usize, value: u16) {
    if let Some(bytes) = frame.get_mut(at..at + 2) {
        bytes.copy_from_slice(&value.to_be_bytes());
    }
}

fn add_u16(frame: &mut [u8], at: usize, value: u16) {
    if let Some(old) = u16_at(frame, at) {
        put_u16(frame, at, old.wrapping_add(value));
    }
}

fn add_u32(frame: &mut [u8], at: usize, value: u32) {
    if let Some(bytes) = frame.get_mut(at..at + 4)
        && let Ok(old) = <[u8; 4]>::try_from(&*bytes)
    {
        let new = u32::from_be_bytes(old).wrapping_add(value);
        bytes.copy_from_slice(&new.to_be_bytes());
    }
}

/// The destination and source addresses.
pub(crate) const ADDRESSES: usize = 12;
const TCP_FIN: u8 = 1 << 0;
const TCP_PSH: u8 = 1 << 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071, section 3: the example's sum is 0xddf2.
    #[test]
    fn the_sum_is_that_of_rfc_1071() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
        assert_eq!(sum(&[0x01]), 0x0100);
        assert_eq!(sum(&[0xff; 65536]), 0xffff);
    }

    #[test]
    fn a_checksum_is_never_zero() {
        let context = Context {
            transport_offset: 0,
            ..Context::default()
        };
        let mut frame = [0xff, 0xff, 0, 0];
        let insert = Insert {
            ip: false,
            transport: true,
        };
        context.insert_checksums(insert, &mut frame);
        assert_eq!(frame[..2], [0xff, 0xff]);
    }

    #[test]
    fn checksums_that_do_not_lie_in_the_frame_are_left_out() {
        for context in [
            Context {
                transport_start: 200,
                transport_offset: 4,
                ..Context::default()
            },
            Context {
                transport_start: 0,
                transport_offset: 255,
                ..Context::default()
            },
            Context {
                transport_start: 40,
                transport_end: 3,
                ..Context::default()
            },
        ] {
            let mut frame = [7; 60];
            let insert = Insert {
                ip: false,
                transport: true,
            };
            context.insert_checksums(insert, &mut frame);
            assert_eq!(frame, [7; 60], "{context:?}");
        }
    }
}
