//! Whether what a frame holds has arrived whole.

use crate::offload::{folded, ones};

/// Whether the frame is TCP or UDP over IPv4 or IPv6, not in fragments, and all its checksums fit.
pub(crate) fn is_sound(frame: &[u8]) -> bool {
    packet(frame).is_some_and(|(kind, packet)| match kind {
        IPV4 => is_sound_v4(packet) == Some(true),
        IPV6 => is_sound_v6(packet) == Some(true),
        _ => false,
    })
}

/// The type and what follows, behind at most one VLAN tag.
fn packet(frame: &[u8]) -> Option<([u8; 2], &[u8])> {
    let (kind, packet) = frame.get(12..)?.split_first_chunk()?;
    if *kind != VLAN {
        return Some((*kind, packet));
    }
    let (kind, packet) = packet.get(2..)?.split_first_chunk()?;
    Some((*kind, packet))
}

/// RFC 791.
fn is_sound_v4(packet: &[u8]) -> Option<bool> {
    let fields = packet.first_chunk::<20>()?;
    let header = packet.get(..usize::from(fields[0] & 0xf) * 4)?;
    let total = u16::from_be_bytes([fields[2], fields[3]]);
    let payload = packet.get(header.len()..total.into())?;
    let whole = u16::from_be_bytes([fields[6], fields[7]]) & MORE_OR_OFFSET == 0;
    let is_header = fields[0] >> 4 == 4 && header.len() >= 20 && ones(header) == 0xffff;
    Some(is_header && whole && is_payload_sound(fields[9], &fields[12..20], payload))
}

/// RFC 8200, without extension headers.
fn is_sound_v6(packet: &[u8]) -> Option<bool> {
    let fields = packet.first_chunk::<40>()?;
    let length = usize::from(u16::from_be_bytes([fields[4], fields[5]]));
    let payload = packet.get(40..40 + length)?;
    Some(fields[0] >> 4 == 6 && is_payload_sound(fields[6], &fields[8..40], payload))
}

/// The checksum with its pseudo-header: RFC 9293, 3.1; RFC 768; RFC 8200, 8.1.
fn is_payload_sound(protocol: u8, addresses: &[u8], payload: &[u8]) -> bool {
    let has_checksum = match protocol {
        TCP => payload.len() >= 20,
        // A UDP checksum of zero says that there is none.
        UDP => payload.len() >= 8 && payload[6..8] != [0, 0],
        _ => false,
    };
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let parts = [ones(addresses), protocol.into(), length, ones(payload)];
    has_checksum && folded(parts.map(u32::from).iter().sum()) == 0xffff
}

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const VLAN: [u8; 2] = [0x81, 0x00];
/// The flag of more fragments and the offset.
const MORE_OR_OFFSET: u16 = 0x3fff;
const TCP: u8 = 6;
const UDP: u8 = 17;
