//! Checksums and segments of packets that the driver left unfinished: virtio 1.3, 5.1.6.2.

use crate::header::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, Header, NEEDS_CSUM};

/// Finishes a packet and hands each frame of it to `send`. `false`, and nothing is sent, when its header
/// does not fit it.
pub(crate) fn finish(
    header: Header,
    packet: &mut [u8],
    frame: &mut Vec<u8>,
    send: &mut dyn FnMut(&[u8]),
) -> bool {
    match header.segmentation & !GSO_ECN {
        GSO_NONE => {
            if header.flags & NEEDS_CSUM != 0 && !fill_checksum(header, packet) {
                return false;
            }
            send(packet);
            true
        }
        GSO_TCPV4 => send_segments(header, Ip::V4, packet, frame, send),
        GSO_TCPV6 => send_segments(header, Ip::V6, packet, frame, send),
        _ => false,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ip {
    V4,
    V6,
}

/// Sums up from `csum_start` to the end, over the pseudo-header's sum that the driver left.
fn fill_checksum(header: Header, packet: &mut [u8]) -> bool {
    let start = usize::from(header.checksum_start);
    let at = start + usize::from(header.checksum_offset);
    let (Some(covered), true) = (packet.get(start..), at + 2 <= packet.len()) else {
        return false;
    };
    // A checksum of zero means "none" in UDP: RFC 768.
    let sum = match !ones(covered) {
        0 => 0xffff,
        sum => sum,
    };
    put_u16(packet, at, sum);
    true
}

fn send_segments(
    header: Header,
    ip: Ip,
    packet: &[u8],
    frame: &mut Vec<u8>,
    send: &mut dyn FnMut(&[u8]),
) -> bool {
    let tcp = usize::from(header.checksum_start);
    let segment = usize::from(header.segment);
    let Some(&words) = packet.get(tcp + 12) else {
        return false;
    };
    let headers = tcp + usize::from(words >> 4) * 4;
    let network = match ip {
        Ip::V4 => ETHERNET + 20,
        Ip::V6 => ETHERNET + 40,
    };
    let fits = header.flags & NEEDS_CSUM != 0
        && header.checksum_offset == TCP_CHECKSUM
        && segment > 0
        && tcp >= network
        && headers >= tcp + 20
        && headers < packet.len();
    if !fits {
        return false;
    }
    let (prototype, payload) = packet.split_at(headers);
    let count = payload.len().div_ceil(segment);
    let whole = payload.len() + headers - tcp;
    for (index, piece) in payload.chunks(segment).enumerate() {
        frame.clear();
        frame.extend_from_slice(prototype);
        frame.extend_from_slice(piece);
        fit_ip(ip, frame, index);
        let sequence = add(u32_at(frame, tcp + 4), index * segment);
        frame[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
        if index + 1 < count {
            frame[tcp + 13] &= !(TCP_FIN | TCP_PSH);
        }
        // The pseudo-header's sum has the length of the whole packet; ours is shorter.
        let at = tcp + usize::from(TCP_CHECKSUM);
        let sum = u32::from(u16_at(frame, at));
        let less = !low(whole);
        let sum = folded(sum + u32::from(less) + u32::from(low(frame.len() - tcp)));
        put_u16(frame, at, sum);
        fill_checksum(header, frame);
        send(frame);
    }
    true
}

/// Lengths, identification and checksum of the IP header behind an Ethernet header.
fn fit_ip(ip: Ip, frame: &mut [u8], index: usize) {
    match ip {
        Ip::V4 => {
            put_u16(frame, ETHERNET + 2, low(frame.len() - ETHERNET));
            let identification = u16_at(frame, ETHERNET + 4).wrapping_add(low(index));
            put_u16(frame, ETHERNET + 4, identification);
            let length = usize::from(frame[ETHERNET] & 0xf) * 4;
            let end = frame.len().min(ETHERNET + length.max(20));
            put_u16(frame, ETHERNET + 10, 0);
            let sum = !ones(&frame[ETHERNET..end]);
            put_u16(frame, ETHERNET + 10, sum);
        }
        Ip::V6 => put_u16(frame, ETHERNET + 4, low(frame.len() - ETHERNET - 40)),
    }
}

/// The ones' complement sum of RFC 1071.
pub(crate) fn ones(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut tail = [0; 4];
    tail[..rest.len()].copy_from_slice(rest);
    let sum: u64 = words
        .iter()
        .chain([&tail])
        .map(|word| u64::from(u32::from_be_bytes(*word)))
        .sum();
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    folded(u32::try_from(sum).unwrap_or(u32::MAX))
}

pub(crate) fn folded(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The low 16 bits, which is how headers count.
fn low(value: usize) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

fn add(sequence: u32, bytes: usize) -> u32 {
    sequence.wrapping_add(u32::try_from(bytes).unwrap_or(0))
}

fn u16_at(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn u32_at(frame: &[u8], at: usize) -> u32 {
    u32::from(u16_at(frame, at)) << 16 | u32::from(u16_at(frame, at + 2))
}

fn put_u16(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

const ETHERNET: usize = 14;
/// Where the checksum is in a TCP header.
const TCP_CHECKSUM: u16 = 16;
const TCP_FIN: u8 = 1 << 0;
const TCP_PSH: u8 = 1 << 3;
