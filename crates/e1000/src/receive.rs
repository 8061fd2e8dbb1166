//! The receiver: frames to descriptors. Sections 3.2 and 10 (filters).

use vm_memory::{Bytes, GuestAddress, GuestMemory};

use crate::device::{Compat, E1000};
use crate::interrupts::Direction;
use crate::receive_checks::Checks;
use crate::registers::*;
use crate::segment::ADDRESSES;
use crate::transmit::FRAME_MIN;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxOutcome {
    /// It is in memory.
    Delivered,
    /// No filter takes it.
    Filtered,
    /// It is longer than the receiver takes, or has no room for two addresses and a type.
    BadLength,
    /// Not enough descriptors. It is lost, as on a wire; hold frames back while
    /// [`E1000::can_receive`] says no to lose none.
    NoBuffers,
    /// The receiver is off, or there is no link.
    Disabled,
}

impl E1000 {
    /// Whether a frame of `length` bytes would find the receiver on and enough descriptors.
    #[must_use]
    pub fn can_receive(&self, length: usize) -> bool {
        self.receiver_is_on() && self.fits(length + self.check_sequence())
    }

    /// Takes a frame from the wire, without its check sequence.
    ///
    /// Frames under 60 bytes are padded, as their sender would have.
    pub fn receive<M: GuestMemory + ?Sized>(&mut self, memory: &M, frame: &[u8]) -> RxOutcome {
        let outcome = self.take_frame(memory, frame);
        self.settle();
        outcome
    }

    pub(crate) fn take_frame<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        frame: &[u8],
    ) -> RxOutcome {
        if !self.receiver_is_on() {
            return RxOutcome::Disabled;
        }
        if frame.len() < ADDRESSES + 2 {
            self.count(RUC);
            return RxOutcome::BadLength;
        }
        self.count_seen(frame.len());
        let tagged = self.is_tagged(frame);
        let mut longest = if self.register(RCTL) & RCTL_LPE != 0 {
            JUMBO_MAX
        } else {
            FRAME_MAX
        };
        if self.compat == Compat::Qemu {
            longest += CHECK_SEQUENCE;
        }
        if frame.len() > longest {
            self.count(ROC);
            return RxOutcome::BadLength;
        }
        if !self.accepts(frame, tagged) {
            return RxOutcome::Filtered;
        }
        let strips = tagged && self.register(CTRL) & CTRL_VME != 0;
        let mut bytes = std::mem::take(&mut self.received);
        bytes.clear();
        bytes.extend_from_slice(frame);
        // The sender pads to what the wire carries, a tag included.
        if bytes.len() < FRAME_MIN {
            bytes.resize(FRAME_MIN, 0);
        }
        let tag = strips.then(|| {
            let tag = u16::from_be_bytes([frame[ADDRESSES + 2], frame[ADDRESSES + 3]]);
            bytes.drain(ADDRESSES..ADDRESSES + 4);
            tag
        });
        // The check sequence is there in length; its bytes are zero.
        bytes.resize(bytes.len() + self.check_sequence(), 0);
        let outcome = self.deliver(memory, &bytes, tag);
        self.received = bytes;
        if outcome == RxOutcome::Delivered {
            self.count_received(frame);
        }
        outcome
    }

    fn deliver<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        bytes: &[u8],
        tag: Option<u16>,
    ) -> RxOutcome {
        if !self.fits(bytes.len()) {
            self.count(MPC);
            self.count(RNBC);
            self.interrupts.raise(ICR_RXO);
            return RxOutcome::NoBuffers;
        }
        let count = bytes.len().div_ceil(self.buffer_size());
        let checks = self.checks(bytes);
        for (index, piece) in (1..).zip(bytes.chunks(self.buffer_size())) {
            if index == count {
                self.fill_descriptor(memory, piece, tag, checks, true);
            } else {
                self.fill_descriptor(memory, piece, None, Checks::IGNORE, false);
            }
        }
        self.after_delivery();
        RxOutcome::Delivered
    }

    /// 3.2.3: the buffer first, then the descriptor, its status last.
    fn fill_descriptor<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        piece: &[u8],
        tag: Option<u16>,
        checks: Checks,
        last: bool,
    ) {
        let head = self.register(RDH);
        let base = u64::from(self.register(RDBAH)) << 32 | u64::from(self.register(RDBAL));
        let at = base.wrapping_add(u64::from(head) * 16);
        let filled = memory.read_obj::<u64>(GuestAddress(at)).and_then(|buffer| {
            let buffer = u64::from_le(buffer);
            memory.write_slice(piece, GuestAddress(buffer))
        });
        let mut status = STATUS_DD | checks.status;
        if last {
            status |= STATUS_EOP;
        }
        if tag.is_some() {
            status |= STATUS_VP;
        }
        let [a, b] = u16::try_from(piece.len()).unwrap_or(0).to_le_bytes();
        let [c, d] = tag.unwrap_or(0).to_le_bytes();
        // Length, packet checksum, status, errors, special.
        let fields = [a, b, 0, 0, status, checks.errors, c, d];
        let written = memory.write_obj(fields, GuestAddress(at.wrapping_add(8)));
        if filled.is_err() || written.is_err() {
            self.errors.faults += 1;
        }
        self.counts.rx_descriptors += 1;
        let length = self.register(RDLEN) / 16;
        let next = if head + 1 >= length { 0 } else { head + 1 };
        self.set_register(RDH, next);
    }

    fn checks(&self, bytes: &[u8]) -> Checks {
        match self.compat {
            Compat::Qemu => Checks::IGNORE,
            Compat::Datasheet => {
                let end = bytes.len() - self.check_sequence();
                Checks::of(self.register(RXCSUM), &bytes[..end])
            }
        }
    }

    /// 3.2.7: the timer or the interrupt, and the one for few descriptors.
    fn after_delivery(&mut self) {
        let (delay, now) = (self.receive_delay(), self.now);
        self.interrupts
            .event(Direction::Receive, delay, now, &mut self.counts.interrupts);
        let threshold = self.register(RCTL) >> RCTL_RDMTS_SHIFT & 0b11;
        let few = (self.register(RDLEN) / 16) >> (threshold + 1);
        if self.free_descriptors() <= few {
            self.interrupts.raise(ICR_RXDMT0);
        }
    }

    fn receiver_is_on(&self) -> bool {
        self.register(RCTL) & RCTL_EN != 0 && (self.link() || self.loops_back())
    }

    fn check_sequence(&self) -> usize {
        if self.register(RCTL) & RCTL_SECRC != 0 {
            0
        } else {
            CHECK_SEQUENCE
        }
    }

    /// 13.4.22: BSIZE, times 16 with BSEX; BSIZE 0 with BSEX is reserved.
    fn buffer_size(&self) -> usize {
        let control = self.register(RCTL);
        let size = 2048 >> (control >> RCTL_BSIZE_SHIFT & 0b11);
        if control & RCTL_BSEX != 0 && size < 2048 {
            size * 16
        } else {
            size
        }
    }

    /// Descriptors from head up to tail; none when either lies outside the ring.
    fn free_descriptors(&self) -> u32 {
        let length = self.register(RDLEN) / 16;
        let (head, tail) = (self.register(RDH), self.register(RDT));
        if head >= length || tail >= length {
            0
        } else if tail >= head {
            tail - head
        } else {
            length - head + tail
        }
    }

    fn fits(&self, length: usize) -> bool {
        let free = usize::try_from(self.free_descriptors()).unwrap_or(0);
        free * self.buffer_size() >= length && free > 0
    }

    fn is_tagged(&self, frame: &[u8]) -> bool {
        let ether_type = frame.get(ADDRESSES..ADDRESSES + 2);
        let tagged = ether_type.is_some_and(|bytes| {
            let ether_type = u32::from(bytes[0]) << 8 | u32::from(bytes[1]);
            ether_type == self.register(VET) & 0xffff
        });
        tagged && frame.len() >= ADDRESSES + 4
    }

    /// The VLAN filter, then those of addresses: 9.3 and 13.5.
    fn accepts(&self, frame: &[u8], tagged: bool) -> bool {
        let control = self.register(RCTL);
        if tagged && control & RCTL_VFE != 0 && !self.vlan_is_wanted(frame) {
            return false;
        }
        let Some(&destination) = frame.first_chunk::<6>() else {
            return false;
        };
        if self.compat == Compat::Qemu && self.multicast_is_wanted(destination) {
            return true;
        }
        if destination == BROADCAST {
            return control & (RCTL_BAM | RCTL_MPE) != 0 || self.is_own(destination);
        }
        if destination[0] & 1 != 0 {
            return control & RCTL_MPE != 0
                || self.is_own(destination)
                || self.multicast_is_wanted(destination);
        }
        control & RCTL_UPE != 0 || self.is_own(destination)
    }

    fn vlan_is_wanted(&self, frame: &[u8]) -> bool {
        let tag = u16::from_be_bytes([frame[ADDRESSES + 2], frame[ADDRESSES + 3]]);
        let control = self.register(RCTL);
        let canonical = tag & TAG_CFI != 0;
        if control & RCTL_CFIEN != 0 && canonical != (control & RCTL_CFI != 0) {
            return false;
        }
        self.bit_of_table(VFTA, tag & 0xfff)
    }

    fn is_own(&self, destination: [u8; 6]) -> bool {
        let [a, b, c, d, e, f] = destination;
        let low = u32::from_le_bytes([a, b, c, d]);
        let high = u32::from(u16::from_le_bytes([e, f]));
        (0..16).any(|index| {
            let at = RAL + 8 * index;
            let above = self.register(at + 4);
            above & RAH_AV != 0 && above & 0xffff == high && self.register(at) == low
        })
    }

    /// 13.5.1: twelve of the upper bits of the address, which ones says RCTL.MO.
    fn multicast_is_wanted(&self, destination: [u8; 6]) -> bool {
        let upper = u16::from_le_bytes([destination[4], destination[5]]);
        let shift = match self.register(RCTL) >> RCTL_MO_SHIFT & 0b11 {
            0 => 4,
            1 => 3,
            2 => 2,
            _ => 0,
        };
        self.bit_of_table(MTA, upper >> shift & 0xfff)
    }

    fn bit_of_table(&self, table: u32, bit: u16) -> bool {
        let word = self.register(table + 4 * u32::from(bit >> 5));
        word >> (bit & 31) & 1 != 0
    }
}

/// Bytes of a frame's check sequence.
const CHECK_SEQUENCE: usize = 4;
const BROADCAST: [u8; 6] = [0xff; 6];
const TAG_CFI: u16 = 1 << 12;
// The status byte of a receive descriptor: 3.2.3.1.
const STATUS_DD: u8 = 1 << 0;
const STATUS_EOP: u8 = 1 << 1;
const STATUS_VP: u8 = 1 << 3;
/// Without LPE: 1522 bytes with tag and check sequence, for tagged frames as for others.
const FRAME_MAX: usize = 1518;
/// With LPE: 16384 bytes with the check sequence.
const JUMBO_MAX: usize = 16380;
