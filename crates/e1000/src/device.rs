//! The adapter: its registers, and the order in which its parts work.

use std::collections::VecDeque;
use std::fmt;

use vm_memory::GuestMemory;

use crate::eeprom::EepromState;
use crate::interrupts::{Delay, Direction, InterruptCounts, InterruptState};
use crate::phy::PhyState;
use crate::registers::*;
use crate::transmit::TransmitState;

/// Where the manual and QEMU's model differ, whom to follow.
///
/// | | `Datasheet` | `Qemu` |
/// |---|---|---|
/// | `STATUS`, `LEDCTL` after reset | 0x783, 0x07068302 | 0x80080783, 0x602 |
/// | frames under 60 bytes | padded with `TCTL.PSP`, else dropped | sent as they are |
/// | segmentation of a multiple of the MSS | that many segments | one more, of headers alone |
/// | longest frame received, with check sequence | 1522, 16384 with `RCTL.LPE` | 4 bytes more |
/// | the multicast table takes | multicasts | any frame whose address hashes to a set bit |
/// | segmentation with no headers | dropped | sent |
/// | checksums of what is received | checked as RXCSUM says | ignored |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Compat {
    /// The manual.
    #[default]
    Datasheet,
    /// QEMU 7.2's `e1000`.
    Qemu,
}

/// What an adapter is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E1000Config {
    /// Its address.
    pub mac: [u8; 6],
    /// Whom to follow.
    pub compat: Compat,
}

/// Exits by the guest to one register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegisterExits {
    /// Offset into BAR 0.
    pub register: u32,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// What passed through the adapter; not part of its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct E1000Counts {
    /// Frames sent.
    pub tx_frames: u64,
    /// Their bytes, without check sequences.
    pub tx_bytes: u64,
    /// Frames delivered.
    pub rx_frames: u64,
    /// Their bytes, without check sequences.
    pub rx_bytes: u64,
    /// Transmit descriptors used.
    pub tx_descriptors: u64,
    /// Receive descriptors used.
    pub rx_descriptors: u64,
    /// Accesses to the I/O ports of BAR 1.
    pub io_exits: u64,
    /// What the interrupt logic did.
    pub interrupts: InterruptCounts,
}

/// What the guest got wrong, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestErrors {
    /// A head outside its ring.
    pub bad_rings: u64,
    /// Descriptors or buffers that are not in memory.
    pub faults: u64,
    /// Packets over [`PACKET_MAX`](crate::PACKET_MAX) bytes.
    pub long_packets: u64,
    /// Segmentation with no segment size, or with more headers than packet.
    pub bad_segmentation: u64,
    /// Frames too short to send.
    pub short_frames: u64,
    /// Frames lost because too many waited to loop back.
    pub loopback_overruns: u64,
    /// Accesses of other than 32 aligned bits, or past the registers.
    pub bad_accesses: u64,
}

/// An 82540EM without a bus, a wire or a clock.
///
/// Registers are read and written as the guest does; [`process`](Self::process) does the work that a
/// write asked for; [`receive`](Self::receive) takes frames; [`interrupt`](Self::interrupt) is the
/// level of INTA#.
pub struct E1000 {
    pub(crate) compat: Compat,
    mac: [u8; 6],
    registers: Box<[u32]>,
    pub(crate) interrupts: InterruptState,
    eeprom: EepromState,
    phy: PhyState,
    pub(crate) transmitter: TransmitState,
    /// Frames that come back; drained by the one that calls, so that nothing recurses.
    pub(crate) looped: VecDeque<Vec<u8>>,
    /// Whether TDT was written since the last `process`.
    kicked: bool,
    cable: bool,
    io_address: u32,
    pub(crate) now: u64,
    pub(crate) counts: E1000Counts,
    pub(crate) errors: GuestErrors,
    exits: Box<[[u64; 2]]>,
    // Storage that is reused.
    pub(crate) segment: Vec<u8>,
    pub(crate) received: Vec<u8>,
}

/// Saved state of an [`E1000`]; untrusted until `TryFrom` accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct E1000State {
    /// Whom it follows.
    pub compat: Compat,
    /// Its address after reset.
    pub mac: [u8; 6],
    /// All registers, by offset / 4.
    pub registers: Vec<u32>,
    /// Causes, masks and timers.
    pub interrupts: InterruptState,
    /// The EEPROM.
    pub eeprom: EepromState,
    /// The PHY.
    pub phy: PhyState,
    /// The transmitter.
    pub transmitter: TransmitState,
    /// Whether TDT was written and not worked on.
    pub kicked: bool,
    /// Whether a cable is in.
    pub cable: bool,
    /// IOADDR.
    pub io_address: u32,
    /// The time, in nanoseconds.
    pub now: u64,
}

/// A field of a saved state holds a value that the adapter can never reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("e1000 state: field {field} is out of range")]
pub struct InvalidState {
    /// The field as it is named in the state structure.
    pub field: &'static str,
}

impl E1000 {
    /// PCI vendor id.
    pub const VENDOR: u16 = 0x8086;
    /// PCI device id.
    pub const DEVICE: u16 = 0x100e;
    /// Bytes of BAR 0, memory.
    pub const MEMORY_LENGTH: u64 = 0x2_0000;
    /// Bytes of BAR 1, I/O ports.
    pub const IO_LENGTH: u64 = 64;

    /// An adapter after power-on, with a cable in.
    #[must_use]
    pub fn new(config: E1000Config) -> Self {
        let words = usize::try_from(END / 4).unwrap_or(0);
        let mut device = Self {
            compat: config.compat,
            mac: config.mac,
            registers: vec![0; words].into_boxed_slice(),
            interrupts: InterruptState::default(),
            eeprom: EepromState::new(config.mac),
            phy: PhyState::new(),
            transmitter: TransmitState::default(),
            looped: VecDeque::new(),
            kicked: false,
            cable: true,
            io_address: 0,
            now: 0,
            counts: E1000Counts::default(),
            errors: GuestErrors::default(),
            exits: vec![[0; 2]; words].into_boxed_slice(),
            segment: Vec::new(),
            received: Vec::new(),
        };
        device.reset();
        device.phy.set_link(true);
        device
    }

    /// As power-on and CTRL.RST do. Time, cable, EEPROM and PHY stay.
    pub fn reset(&mut self) {
        self.registers.fill(0);
        for (register, value) in RESET {
            self.set_register(register, value);
        }
        if self.compat == Compat::Qemu {
            self.set_register(STATUS, 0x8008_0781);
            self.set_register(LEDCTL, 0x602);
        }
        // The address comes from the EEPROM: 5.6.1.
        let [a, b, c, d, e, f] = self.mac;
        self.set_register(RAL, u32::from_le_bytes([a, b, c, d]));
        let high = u32::from(u16::from_le_bytes([e, f]));
        self.set_register(RAL + 4, high | RAH_AV);
        self.interrupts = InterruptState::default();
        self.transmitter = TransmitState::default();
        self.looped.clear();
        self.kicked = false;
        self.show_link();
    }

    /// Reads BAR 0. All of `data` is filled.
    ///
    /// Registers have 32 bits. Eight bytes read two; fewer than four, or out of step, read the part
    /// that they cover, with the side effects of the whole.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        let (aligned, skip) = (offset & !3, offset & 3);
        let skip = usize::try_from(skip).unwrap_or(0);
        if skip != 0 || !data.len().is_multiple_of(4) {
            self.errors.bad_accesses += 1;
        }
        let mut words = aligned;
        let mut filled = 0;
        let mut from = skip;
        while filled < data.len() {
            let word = self.read_register(words).to_le_bytes();
            let count = (4 - from).min(data.len() - filled);
            data[filled..filled + count].copy_from_slice(&word[from..from + count]);
            filled += count;
            from = 0;
            // No access comes around to the first register.
            words = words.saturating_add(4);
        }
        self.settle();
    }

    /// Writes BAR 0. 32 bits at a time, aligned; eight bytes write two registers; anything else
    /// changes nothing.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let (words, rest) = data.as_chunks::<4>();
        if !rest.is_empty() || !offset.is_multiple_of(4) {
            self.errors.bad_accesses += 1;
            return;
        }
        for (index, word) in (0..).zip(words) {
            self.write_register(offset.saturating_add(4 * index), u32::from_le_bytes(*word));
        }
        self.settle();
    }

    /// Reads BAR 1: IOADDR at 0, IODATA at 4 (13.2.2).
    pub fn io_read(&mut self, offset: u64, data: &mut [u8]) {
        self.counts.io_exits += 1;
        let value = match (offset, data.len()) {
            (0, 4) => self.io_address,
            (4, 4) => self.read_register(self.io_address.into()),
            _ => 0,
        };
        data.fill(0);
        let count = data.len().min(4);
        data[..count].copy_from_slice(&value.to_le_bytes()[..count]);
        self.settle();
    }

    /// Writes BAR 1.
    pub fn io_write(&mut self, offset: u64, data: &[u8]) {
        self.counts.io_exits += 1;
        let Ok(value) = <[u8; 4]>::try_from(data).map(u32::from_le_bytes) else {
            self.errors.bad_accesses += 1;
            return;
        };
        match offset {
            0 => self.io_address = value,
            4 => self.write_register(self.io_address.into(), value),
            _ => {}
        }
        self.settle();
    }

    /// Whether a write left work for [`process`](Self::process).
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.kicked || !self.looped.is_empty()
    }

    /// Sends what the guest queued, at most a lap of the ring, and receives what looped back.
    pub fn process<M: GuestMemory + ?Sized>(&mut self, memory: &M, send: &mut dyn FnMut(&[u8])) {
        if std::mem::take(&mut self.kicked) {
            self.transmit(memory, send);
        }
        while let Some(frame) = self.looped.pop_front() {
            let _ = self.take_frame(memory, &frame);
        }
        self.settle();
    }

    /// Moves time to `now` nanoseconds; an earlier time than the last one changes nothing.
    pub fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.interrupts.advance(self.now);
        if self.phy.advance(self.now) {
            self.show_link();
            self.interrupts.raise(ICR_LSC);
        }
        self.settle();
    }

    /// When the adapter next does something by itself, in nanoseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let timers = [self.interrupts.next_deadline(), self.phy.negotiated_at];
        timers.into_iter().flatten().min()
    }

    /// The level of INTA#.
    #[must_use]
    pub fn interrupt(&self) -> bool {
        self.interrupts.line
    }

    /// Puts the cable in, or takes it out.
    pub fn set_cable(&mut self, cable: bool) {
        if self.cable != cable {
            self.cable = cable;
            self.phy.set_link(cable);
            self.show_link();
            self.interrupts.raise(ICR_LSC);
            self.settle();
        }
    }

    /// What passed through.
    #[must_use]
    pub fn counts(&self) -> &E1000Counts {
        &self.counts
    }

    /// What the guest got wrong.
    #[must_use]
    pub fn errors(&self) -> &GuestErrors {
        &self.errors
    }

    /// Exits by register, those without any left out.
    pub fn exits(&self) -> impl Iterator<Item = RegisterExits> {
        let registers = (0..).step_by(4).zip(&self.exits);
        registers
            .map(|(register, &[reads, writes])| RegisterExits {
                register,
                reads,
                writes,
            })
            .filter(|exits| exits.reads + exits.writes > 0)
    }

    /// A copy of the state. Work that is due is part of it; frames that loop back are lost, as on
    /// a wire.
    #[must_use]
    pub fn state(&self) -> E1000State {
        E1000State {
            compat: self.compat,
            mac: self.mac,
            registers: self.registers.to_vec(),
            interrupts: self.interrupts.clone(),
            eeprom: self.eeprom.clone(),
            phy: self.phy.clone(),
            transmitter: self.transmitter.clone(),
            kicked: self.kicked,
            cable: self.cable,
            io_address: self.io_address,
            now: self.now,
        }
    }

    fn read_register(&mut self, offset: u64) -> u32 {
        let Some(register) = self.counted(offset, 0) else {
            return 0;
        };
        match register {
            ICR => self.interrupts.read_icr(),
            IMS => self.interrupts.ims,
            IMC | ICS => 0,
            EECD => self.eeprom.read_eecd(),
            _ if is_statistic(register) => self.read_statistic(register),
            _ => self.register(register),
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let Some(register) = self.counted(offset, 1) else {
            return;
        };
        match register {
            CTRL => self.write_ctrl(value),
            EECD => self.eeprom.write_eecd(value),
            EERD => {
                let value = self.eeprom.read_by_eerd(value);
                self.set_register(EERD, value);
            }
            MDIC => self.write_mdic(value),
            ICR => self.interrupts.icr &= !value,
            ICS => self.interrupts.raise(value),
            IMS => self.interrupts.ims |= value & ICR_CAUSES,
            IMC => self.interrupts.ims &= !value,
            RDTR | TIDV => self.write_delay(register, value),
            WUS => {
                let left = self.register(WUS) & !value;
                self.set_register(WUS, left);
            }
            _ => self.store(register, value),
        }
        if register == TDT || register == TCTL {
            self.kicked = true;
        }
    }

    fn store(&mut self, register: u32, value: u32) {
        let writable = writable(register);
        let kept = self.register(register) & !writable;
        self.set_register(register, kept | value & writable);
    }

    fn write_ctrl(&mut self, value: u32) {
        if value & CTRL_RST != 0 {
            return self.reset();
        }
        if value & CTRL_PHY_RST != 0 {
            self.phy = PhyState::new();
            self.phy.set_link(self.cable);
        }
        self.set_register(CTRL, value & !(CTRL_RST | CTRL_PHY_RST));
        let was_up = self.link();
        self.show_link();
        if self.link() != was_up {
            self.interrupts.raise(ICR_LSC);
        }
    }

    fn write_mdic(&mut self, value: u32) {
        let was_up = self.link();
        let answer = self.phy.access(value, self.now);
        self.set_register(MDIC, answer);
        self.show_link();
        if self.link() != was_up {
            self.interrupts.raise(ICR_LSC);
        }
        if value & MDIC_INTERRUPT != 0 {
            self.interrupts.raise(ICR_MDAC);
        }
    }

    /// 13.4.30: a write of the flush bit ends a delay that runs.
    fn write_delay(&mut self, register: u32, value: u32) {
        let direction = if register == RDTR {
            Direction::Receive
        } else {
            Direction::Transmit
        };
        if value & FLUSH != 0 && self.interrupts.is_delayed(direction) {
            self.interrupts.expire(direction);
        }
        self.store(register, value);
    }

    /// Counts an exit. `None` for what is not a register.
    fn counted(&mut self, offset: u64, write: usize) -> Option<u32> {
        let register = u32::try_from(offset).ok().filter(|&offset| offset < END);
        let register = register.map(|offset| offset & !3);
        match register {
            Some(register) => self.exits[index(register)][write] += 1,
            None => self.errors.bad_accesses += 1,
        }
        register
    }

    /// Shows in STATUS whether the link is up: cable, SLU, and no negotiation going on.
    fn show_link(&mut self) {
        let up = self.cable && !self.phy.is_negotiating() && self.register(CTRL) & CTRL_SLU != 0;
        let status = self.register(STATUS) & !STATUS_LU;
        self.set_register(STATUS, if up { status | STATUS_LU } else { status });
    }

    pub(crate) fn link(&self) -> bool {
        self.register(STATUS) & STATUS_LU != 0
    }

    pub(crate) fn loops_back(&self) -> bool {
        self.register(RCTL) >> RCTL_LBM_SHIFT & 0b11 != 0 || self.phy.is_loopback()
    }

    pub(crate) fn settle(&mut self) {
        let interval = self.register(ITR);
        let now = self.now;
        self.interrupts
            .settle(interval, now, &mut self.counts.interrupts);
    }

    pub(crate) fn receive_delay(&self) -> Delay {
        Delay {
            packet: self.register(RDTR),
            absolute: self.register(RADV),
        }
    }

    pub(crate) fn transmit_delay(&self) -> Delay {
        Delay {
            packet: self.register(TIDV),
            absolute: self.register(TADV),
        }
    }

    #[inline]
    pub(crate) fn register(&self, register: u32) -> u32 {
        self.registers[index(register)]
    }

    #[inline]
    pub(crate) fn set_register(&mut self, register: u32, value: u32) {
        self.registers[index(register)] = value;
    }
}

impl TryFrom<E1000State> for E1000 {
    type Error = InvalidState;

    fn try_from(state: E1000State) -> Result<Self, InvalidState> {
        let check = |valid, field| {
            if valid {
                Ok(())
            } else {
                Err(InvalidState { field })
            }
        };
        let mut device = Self::new(E1000Config {
            mac: state.mac,
            compat: state.compat,
        });
        check(
            state.registers.len() == device.registers.len() && in_range(&state.registers),
            "registers",
        )?;
        check(state.interrupts.is_valid(), "interrupts")?;
        check(state.eeprom.is_valid(), "eeprom")?;
        check(state.phy.is_valid(), "phy")?;
        let packet = state.transmitter.packet.len();
        check(packet <= crate::PACKET_MAX, "transmitter")?;
        device.registers = state.registers.into_boxed_slice();
        device.interrupts = state.interrupts;
        device.eeprom = state.eeprom;
        device.phy = state.phy;
        device.transmitter = state.transmitter;
        device.kicked = state.kicked;
        device.cable = state.cable;
        device.io_address = state.io_address;
        device.now = state.now;
        let shown = device.register(STATUS);
        device.show_link();
        check(device.register(STATUS) == shown, "cable")?;
        Ok(device)
    }
}

impl fmt::Debug for E1000 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("E1000")
            .field("compat", &self.compat)
            .field("interrupts", &self.interrupts)
            .field("counts", &self.counts)
            .field("errors", &self.errors)
            .finish_non_exhaustive()
    }
}

/// Registers hold only what a write could have left in them.
fn in_range(registers: &[u32]) -> bool {
    [
        RDLEN, TDLEN, RDH, RDT, TDH, TDT, RDTR, TIDV, RDBAL, TDBAL, ITR, RADV, TADV,
    ]
    .into_iter()
    .all(|register| registers[index(register)] & !writable(register) == 0)
}

#[inline]
fn index(register: u32) -> usize {
    usize::try_from(register / 4).unwrap_or(0)
}

const MDIC_INTERRUPT: u32 = 1 << 29;
