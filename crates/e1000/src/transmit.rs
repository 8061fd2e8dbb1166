//! The transmitter: descriptors to frames. Sections 3.3 to 3.5.

use vm_memory::{Bytes, GuestAddress, GuestMemory};

use crate::device::{Compat, E1000};
use crate::interrupts::Direction;
use crate::registers::*;
use crate::segment::{Context, Insert, insert_tag};

/// The packet that is being put together, and the contexts for those to come. Untrusted when
/// restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TransmitState {
    /// For packets without segmentation.
    pub checksum: Context,
    /// For packets with it.
    pub segmentation: Context,
    /// Bytes gathered since the last end of packet, at most [`PACKET_MAX`](crate::PACKET_MAX).
    pub packet: Vec<u8>,
    /// Whether a descriptor of the packet was seen: its first says what to insert.
    pub begun: bool,
    /// What the packet's first data descriptor asked for.
    pub insert: Insert,
    /// Whether it asked for segmentation.
    pub segmented: bool,
    /// The packet is dropped at its end: too long, or from no memory.
    pub bad: bool,
}

/// A transmit descriptor, decoded.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    /// Bytes 8 to 11 and 12 to 15.
    words: [u32; 2],
}

impl E1000 {
    /// Goes through the descriptors between TDH and TDT, at most one lap, and hands each frame to
    /// `send`. Frames that loop back go to the receiver afterwards.
    pub(crate) fn transmit<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        send: &mut dyn FnMut(&[u8]),
    ) {
        let length = self.register(TDLEN) / 16;
        if self.register(TCTL) & TCTL_EN == 0 || length == 0 {
            return;
        }
        let mut done = false;
        // A tail outside the ring is never met: one lap, and the head stands where it began.
        for _ in 0..length {
            let head = self.register(TDH);
            if head == self.register(TDT) {
                break;
            }
            if head >= length {
                self.errors.bad_rings += 1;
                break;
            }
            done = true;
            let base = u64::from(self.register(TDBAH)) << 32 | u64::from(self.register(TDBAL));
            let at = base.wrapping_add(u64::from(head) * 16);
            self.one_descriptor(memory, at, send);
            let next = if head + 1 >= length { 0 } else { head + 1 };
            self.set_register(TDH, next);
        }
        if done {
            self.interrupts.raise(ICR_TXQE);
        }
    }

    fn one_descriptor<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        at: u64,
        send: &mut dyn FnMut(&[u8]),
    ) {
        let Ok(bytes) = memory.read_obj::<[u8; 16]>(GuestAddress(at)) else {
            self.errors.faults += 1;
            return;
        };
        let descriptor = Descriptor::decode(bytes);
        self.counts.tx_descriptors += 1;
        if descriptor.is_context() {
            self.take_context(descriptor);
        } else {
            self.take_data(memory, descriptor, send);
        }
        if descriptor.reports() {
            self.write_back(memory, at, descriptor);
        }
    }

    /// 3.3.3.2: DD in the status byte, and the interrupt.
    fn write_back<M: GuestMemory + ?Sized>(&mut self, memory: &M, at: u64, descriptor: Descriptor) {
        let status = (descriptor.words[1] & !0xf | STATUS_DD).to_le_bytes()[0];
        if memory
            .write_obj(status, GuestAddress(at.wrapping_add(12)))
            .is_err()
        {
            self.errors.faults += 1;
        }
        if descriptor.has(CMD_IDE) {
            let delay = self.transmit_delay();
            let now = self.now;
            self.interrupts
                .event(Direction::Transmit, delay, now, &mut self.counts.interrupts);
        } else {
            self.interrupts.expire(Direction::Transmit);
        }
    }

    fn take_context(&mut self, descriptor: Descriptor) {
        let context = descriptor.context();
        if descriptor.has(CMD_TSE) {
            self.transmitter.segmentation = context;
        } else {
            self.transmitter.checksum = context;
        }
    }

    fn take_data<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        descriptor: Descriptor,
        send: &mut dyn FnMut(&[u8]),
    ) {
        let transmitter = &mut self.transmitter;
        if !transmitter.begun {
            transmitter.begun = true;
            let options = descriptor.words[1] >> 8;
            transmitter.insert = Insert {
                ip: descriptor.is_extended() && options & POPTS_IXSM != 0,
                transport: descriptor.is_extended() && options & POPTS_TXSM != 0,
            };
            transmitter.segmented = descriptor.is_extended() && descriptor.has(CMD_TSE);
        }
        self.gather(memory, descriptor.address, descriptor.length());
        if descriptor.has(CMD_EOP) {
            self.end_packet(descriptor, send);
            // Whatever comes next begins anew, even after an empty descriptor.
            let transmitter = &mut self.transmitter;
            transmitter.packet.clear();
            transmitter.begun = false;
            transmitter.bad = false;
        }
    }

    fn gather<M: GuestMemory + ?Sized>(&mut self, memory: &M, address: u64, length: u32) {
        let transmitter = &mut self.transmitter;
        let before = transmitter.packet.len();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if transmitter.bad || length == 0 {
            return;
        }
        if length > PACKET_MAX - before {
            transmitter.bad = true;
            self.errors.long_packets += 1;
            return;
        }
        transmitter.packet.resize(before + length, 0);
        let into = &mut transmitter.packet[before..];
        if memory.read_slice(into, GuestAddress(address)).is_err() {
            transmitter.bad = true;
            self.errors.faults += 1;
        }
    }

    fn end_packet(&mut self, descriptor: Descriptor, send: &mut dyn FnMut(&[u8])) {
        if self.transmitter.bad {
            return;
        }
        let mut packet = std::mem::take(&mut self.transmitter.packet);
        let tag = (descriptor.has(CMD_VLE) && self.register(CTRL) & CTRL_VME != 0)
            .then_some(descriptor.special());
        if self.transmitter.segmented {
            self.send_segments(&packet, tag, send);
        } else {
            if descriptor.is_extended() {
                let insert = self.transmitter.insert;
                self.transmitter
                    .checksum
                    .insert_checksums(insert, &mut packet);
            } else if descriptor.has(CMD_IC) {
                descriptor.legacy_checksum(&mut packet);
            }
            self.send_frame(&mut packet, tag, send);
        }
        self.transmitter.packet = packet;
    }

    /// 3.5: the headers again ahead of each piece of the payload.
    fn send_segments(&mut self, packet: &[u8], tag: Option<u16>, send: &mut dyn FnMut(&[u8])) {
        let context = self.transmitter.segmentation;
        let header = usize::from(context.header);
        let segment = usize::from(context.segment);
        let qemu = self.compat == Compat::Qemu;
        if segment == 0 || header > packet.len() || header == 0 && !qemu {
            self.errors.bad_segmentation += 1;
            return;
        }
        self.count(TSCTC);
        let (headers, payload) = packet.split_at(header);
        // QEMU sends the headers alone once more after a payload that segments divide evenly.
        let one_more = qemu && payload.len().is_multiple_of(segment) && !payload.is_empty();
        let pieces = payload.chunks(segment).chain(one_more.then_some(&[][..]));
        let count = payload.len().div_ceil(segment);
        let mut frame = std::mem::take(&mut self.segment);
        let (mut sent, mut index) = (0, 0_u16);
        for (number, piece) in (1..).zip(pieces) {
            frame.clear();
            frame.extend_from_slice(headers);
            frame.extend_from_slice(piece);
            context.fit_headers(&mut frame, index, sent, number >= count);
            let insert = self.transmitter.insert;
            context.insert_checksums(insert, &mut frame);
            self.send_frame(&mut frame, tag, send);
            index = index.wrapping_add(1);
            sent += u32::try_from(piece.len()).unwrap_or(0);
        }
        self.segment = frame;
    }

    fn send_frame(&mut self, frame: &mut Vec<u8>, tag: Option<u16>, send: &mut dyn FnMut(&[u8])) {
        if let Some(tag) = tag {
            let ether_type = u16::try_from(self.register(VET) & 0xffff).unwrap_or(0);
            insert_tag(frame, ether_type, tag);
        }
        let short = frame.len() < FRAME_MIN;
        let pads = self.register(TCTL) & TCTL_PSP != 0;
        if frame.is_empty() || short && !pads && self.compat == Compat::Datasheet {
            self.errors.short_frames += 1;
            return;
        }
        if short && pads && self.compat == Compat::Datasheet {
            frame.resize(FRAME_MIN, 0);
        }
        self.count_sent(frame);
        if self.loops_back() {
            if self.looped.len() < LOOPED_MAX {
                self.looped.push_back(frame.clone());
            } else {
                self.errors.loopback_overruns += 1;
            }
        } else if self.link() {
            send(frame);
        }
    }
}

impl Descriptor {
    fn decode(bytes: [u8; 16]) -> Self {
        let word = u128::from_le_bytes(bytes);
        let part = |shift: u32| u32::try_from(word >> shift & 0xffff_ffff).unwrap_or(0);
        Self {
            address: u64::from(part(32)) << 32 | u64::from(part(0)),
            words: [part(64), part(96)],
        }
    }

    fn has(self, command: u32) -> bool {
        self.words[0] & command != 0
    }

    fn is_extended(self) -> bool {
        self.has(CMD_DEXT)
    }

    fn is_context(self) -> bool {
        self.is_extended() && self.words[0] >> 20 & 0xf == DTYP_CONTEXT
    }

    /// 3.3.3.1: RS; RPS does the same here, since frames are sent at once.
    fn reports(self) -> bool {
        self.has(CMD_RS) || !self.is_extended() && self.has(CMD_RPS)
    }

    fn length(self) -> u32 {
        let mask = if self.is_extended() { 0xf_ffff } else { 0xffff };
        self.words[0] & mask
    }

    fn special(self) -> u16 {
        u16::try_from(self.words[1] >> 16).unwrap_or(0)
    }

    /// 3.3.3: CSO in bits 23:16 of the third word, CSS in bits 15:8 of the fourth.
    fn legacy_checksum(self, frame: &mut [u8]) {
        let [_, _, offset, _] = self.words[0].to_le_bytes();
        let [_, start, ..] = self.words[1].to_le_bytes();
        let context = Context {
            transport_start: start,
            transport_offset: offset,
            ..Context::default()
        };
        let insert = Insert {
            ip: false,
            transport: true,
        };
        context.insert_checksums(insert, frame);
    }

    /// 3.3.6.
    fn context(self) -> Context {
        let [
            ip_start,
            ip_offset,
            a,
            b,
            transport_start,
            transport_offset,
            c,
            d,
        ] = self.address.to_le_bytes();
        let [_, header, e, f] = self.words[1].to_le_bytes();
        Context {
            ip_start,
            ip_offset,
            ip_end: u16::from_le_bytes([a, b]),
            transport_start,
            transport_offset,
            transport_end: u16::from_le_bytes([c, d]),
            payload: self.words[0] & 0xf_ffff,
            header,
            segment: u16::from_le_bytes([e, f]),
            tcp: self.has(TUCMD_TCP),
            ipv4: self.has(TUCMD_IP),
        }
    }
}

// The command byte of a descriptor, in bits 31:24 of its third word: 3.3.3, 3.3.6 and 3.3.7.
const CMD_EOP: u32 = 1 << 24;
const CMD_IC: u32 = 1 << 26;
const CMD_TSE: u32 = 1 << 26;
const CMD_RS: u32 = 1 << 27;
const CMD_RPS: u32 = 1 << 28;
const CMD_DEXT: u32 = 1 << 29;
const CMD_VLE: u32 = 1 << 30;
const CMD_IDE: u32 = 1 << 31;
const TUCMD_TCP: u32 = 1 << 24;
const TUCMD_IP: u32 = 1 << 25;
const DTYP_CONTEXT: u32 = 0;
const STATUS_DD: u32 = 1;
const POPTS_IXSM: u32 = 1 << 0;
const POPTS_TXSM: u32 = 1 << 1;
/// Bytes between two ends of packet: 64 KiB, and headers.
pub const PACKET_MAX: usize = 0x1_0000 + 256;
/// A frame without its check sequence.
pub(crate) const FRAME_MIN: usize = 60;
/// Frames that wait to loop back.
const LOOPED_MAX: usize = 256;
