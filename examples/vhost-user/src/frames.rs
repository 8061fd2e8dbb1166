//! Frames of the least length, with a number in each.

/// Bytes of a frame without its check sequence, padded as DPDK's generator does.
pub const FRAME: usize = 64;
/// Bytes of the virtio header ahead of it: virtio 1.3, 5.1.6.
pub const HEADER: usize = 12;
/// Bytes of both.
pub const PACKET: usize = HEADER + FRAME;

/// A packet: a broadcast of an experimental type with `number` in it.
#[must_use]
pub fn packet(number: u64) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    // num_buffers, which the receiver of a merged packet reads.
    packet[10] = 1;
    packet[HEADER..HEADER + 6].fill(0xff);
    packet[HEADER + 6] = 0x02;
    packet[HEADER + 12..HEADER + 14].copy_from_slice(&EXPERIMENTAL);
    packet[NUMBER..NUMBER + 8].copy_from_slice(&number.to_be_bytes());
    packet
}

/// The number in a packet that [`packet`] made.
#[must_use]
pub fn number(packet: &[u8]) -> Option<u64> {
    let experimental = packet.get(HEADER + 12..HEADER + 14)? == EXPERIMENTAL;
    let (number, _) = packet.get(NUMBER..)?.split_first_chunk()?;
    experimental.then(|| u64::from_be_bytes(*number))
}

const NUMBER: usize = HEADER + 14;
/// IEEE 802, local experimental type 1.
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];
