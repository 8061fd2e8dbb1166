//! The I/O APIC.
//!
//! References: Intel 82093AA data sheet (290566-001), 3; Intel ICH9 data sheet (316972), 13.5
//! (version 0x20 with the EOI register).

use crate::message::{DeliveryMode, Destination, Message, Shorthand, Trigger};
use crate::{InvalidState, check};

/// Which chip's register set is modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum IoApicVersion {
    /// 0x11, the 82093AA: no EOI register.
    V11,
    /// 0x20, ICH and later: an EOI register at 0x40.
    V20,
}

impl IoApicVersion {
    /// Bits of an entry that software writes. ICH and later have bits 55:48 too, which a remappable
    /// entry needs for its index.
    fn writable(self) -> u64 {
        match self {
            Self::V11 => RTE_WRITABLE,
            Self::V20 => RTE_EXTENDED_WRITABLE,
        }
    }
}

/// Saved state of an [`IoApic`]; untrusted until `TryFrom` accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct IoApicState {
    /// Register set.
    pub version: IoApicVersion,
    /// APIC id, 0 to 15.
    pub id: u8,
    /// IOREGSEL.
    pub select: u8,
    /// The redirection table.
    pub redirection: [u64; 24],
    /// Bit `n`: pin `n` is asserted.
    pub lines: u32,
    /// Bit `n`: pin `n` has a message that was not taken yet.
    pub pending: u32,
}

/// Twenty-four interrupt pins in, interrupt messages out.
///
/// The device is one page of memory at `0xfec0_0000` on a PC. After every call that can raise an
/// interrupt, send the messages with [`send_pending`](Self::send_pending).
#[derive(Clone, Debug)]
pub struct IoApic {
    s: IoApicState,
    reads: [u64; 4],
    writes: [u64; 4],
    messages: [u64; 24],
}

impl IoApic {
    /// Pins.
    pub const PINS: u8 = 24;
    /// Length of the register window in bytes.
    pub const LENGTH: u64 = 0x1000;

    /// An I/O APIC after reset: every pin masked.
    ///
    /// # Panics
    ///
    /// When `id` is above 15.
    #[must_use]
    pub fn new(id: u8, version: IoApicVersion) -> Self {
        assert!(id < 16, "an I/O APIC id has four bits, not {id}");
        Self::with(IoApicState {
            version,
            id,
            select: 0,
            redirection: [RTE_MASKED; 24],
            lines: 0,
            pending: 0,
        })
    }

    fn with(s: IoApicState) -> Self {
        Self {
            s,
            reads: [0; 4],
            writes: [0; 4],
            messages: [0; 24],
        }
    }

    /// Asserts or deasserts pin `pin`. The polarity bit of its entry is stored and has no effect:
    /// `asserted` already means the active level.
    ///
    /// # Panics
    ///
    /// When there is no such pin.
    pub fn set_line(&mut self, pin: u8, asserted: bool) {
        assert!(pin < Self::PINS, "the I/O APIC has pins 0 to 23, not {pin}");
        let bit = 1 << pin;
        let was = self.s.lines & bit != 0;
        if !asserted {
            self.s.lines &= !bit;
            return;
        }
        self.s.lines |= bit;
        let entry = self.s.redirection[usize::from(pin)];
        if is_level(entry) {
            self.service_level(pin);
        } else if !was && entry & RTE_MASKED == 0 {
            self.s.pending |= bit;
        }
    }

    /// Sends the pending messages, lowest pin first, at most one a pin.
    ///
    /// `send` answers whether a local APIC accepted the message: only then is the remote IRR of a
    /// level-triggered pin set, and the pin waits for the end of the interrupt. An entry with the
    /// reserved delivery mode sends nothing.
    pub fn send_pending(&mut self, mut send: impl FnMut(&Message) -> bool) {
        self.send_entries(|entry| Some(send(&message_of(entry)?)));
    }

    /// Does the same where interrupts are remapped: `send` takes address and data of the write that a pin's
    /// entry stands for (VT-d 5.1.5.1), in whichever format software wrote it.
    pub fn send_pending_writes(&mut self, mut send: impl FnMut(u64, u32) -> bool) {
        self.send_entries(|entry| {
            let (address, data) = write_of(entry);
            Some(send(address, data))
        });
    }

    /// `send` answers whether the entry's message was accepted; `None` if it stands for none.
    fn send_entries(&mut self, mut send: impl FnMut(u64) -> Option<bool>) {
        let pending = std::mem::take(&mut self.s.pending);
        for (pin, entry) in self.s.redirection.iter_mut().enumerate() {
            if pending & 1 << pin == 0 {
                continue;
            }
            let Some(accepted) = send(*entry) else {
                continue;
            };
            self.messages[pin] += 1;
            // Only vectors that a local APIC will end keep the entry busy.
            if accepted && is_level(*entry) && ends_with_eoi(*entry) {
                *entry |= RTE_REMOTE_IRR;
            }
        }
    }

    /// End of interrupt for `vector`, broadcast by a local APIC or written to the EOI register.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..Self::PINS {
            let entry = &mut self.s.redirection[usize::from(pin)];
            if entry.to_le_bytes()[0] == vector && *entry & RTE_REMOTE_IRR != 0 {
                *entry &= !RTE_REMOTE_IRR;
                self.service_level(pin);
            }
        }
    }

    /// Reads at `offset` of the window. Registers are read as whole or part of an aligned double
    /// word; anything else reads as zero.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let (register, within) = (
            offset & !0xf,
            usize::try_from(offset & 0xf).expect("below 16"),
        );
        let value = match register {
            IOREGSEL => u32::from(self.s.select),
            IOWIN => self.read_selected(),
            _ => 0,
        };
        self.reads[slot(register)] += 1;
        let bytes = value.to_le_bytes();
        if within + data.len() <= bytes.len() {
            data.copy_from_slice(&bytes[within..within + data.len()]);
        }
    }

    /// Writes at `offset` of the window. Only double words at a register's offset and single bytes
    /// to IOREGSEL and EOI are taken.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        self.writes[slot(offset)] += 1;
        let word = <[u8; 4]>::try_from(data).map(u32::from_le_bytes);
        let byte = data
            .first()
            .copied()
            .filter(|_| matches!(data.len(), 1 | 4));
        match (offset, word, byte) {
            (IOREGSEL, _, Some(select)) => self.s.select = select,
            (IOWIN, Ok(value), _) => self.write_selected(value),
            (EOI, _, Some(vector)) if self.s.version == IoApicVersion::V20 => {
                self.end_of_interrupt(vector);
            }
            _ => {}
        }
    }

    /// Reads by register: IOREGSEL, IOWIN, EOI, anything else.
    #[must_use]
    pub fn reads(&self) -> &[u64; 4] {
        &self.reads
    }

    /// Writes likewise.
    #[must_use]
    pub fn writes(&self) -> &[u64; 4] {
        &self.writes
    }

    /// Messages sent, by pin.
    #[must_use]
    pub fn messages(&self) -> &[u64; 24] {
        &self.messages
    }

    /// A copy of the architectural state.
    #[must_use]
    pub fn state(&self) -> IoApicState {
        self.s.clone()
    }

    fn read_selected(&self) -> u32 {
        match self.s.select {
            IOAPICID | IOAPICARB => u32::from(self.s.id) << 24,
            IOAPICVER => {
                let version = match self.s.version {
                    IoApicVersion::V11 => 0x11,
                    IoApicVersion::V20 => 0x20,
                };
                u32::from(Self::PINS - 1) << 16 | version
            }
            select => match table_index(select) {
                Some((pin, half)) => halves(self.s.redirection[pin])[half],
                None => 0,
            },
        }
    }

    fn write_selected(&mut self, value: u32) {
        if self.s.select == IOAPICID {
            self.s.id = value.to_le_bytes()[3] & 0xf;
            return;
        }
        let Some((pin, half)) = table_index(self.s.select) else {
            return;
        };
        let old = self.s.redirection[pin];
        let mut parts = halves(old);
        parts[half] = value;
        let mut entry = u64::from(parts[1]) << 32 | u64::from(parts[0]);
        entry = entry & self.s.version.writable() | old & RTE_REMOTE_IRR;
        // "Remote IRR: meaning is undefined for edge triggered interrupts": a switch to edge
        // clears it, and Linux ends an interrupt on version 0x11 that way.
        if !is_level(entry) {
            entry &= !RTE_REMOTE_IRR;
        }
        self.s.redirection[pin] = entry;
        let pin = u8::try_from(pin).expect("below 24");
        if is_level(entry) {
            self.service_level(pin);
        }
    }

    /// Sends a level interrupt that is asserted, unmasked and not already being served.
    fn service_level(&mut self, pin: u8) {
        let entry = self.s.redirection[usize::from(pin)];
        let asserted = self.s.lines & (1 << pin) != 0;
        if asserted && is_level(entry) && entry & (RTE_MASKED | RTE_REMOTE_IRR) == 0 {
            self.s.pending |= 1 << pin;
        }
    }
}

impl TryFrom<IoApicState> for IoApic {
    type Error = InvalidState;

    fn try_from(s: IoApicState) -> Result<Self, InvalidState> {
        let ok = |valid, field| check(valid, "I/O APIC", field);
        ok(s.id < 16, "id")?;
        ok(s.lines >> Self::PINS == 0, "lines")?;
        ok(s.pending >> Self::PINS == 0, "pending")?;
        let legal = |&entry: &u64| {
            entry & !(s.version.writable() | RTE_REMOTE_IRR) == 0
                && (is_level(entry) || entry & RTE_REMOTE_IRR == 0)
        };
        ok(s.redirection.iter().all(legal), "redirection")?;
        Ok(Self::with(s))
    }
}

impl vm_device::MutDeviceMmio for IoApic {
    fn mmio_read(&mut self, _base: vm_device::bus::MmioAddress, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }

    fn mmio_write(&mut self, _base: vm_device::bus::MmioAddress, offset: u64, data: &[u8]) {
        self.write(offset, data);
    }
}

fn message_of(entry: u64) -> Option<Message> {
    let [vector, mode, .., destination] = entry.to_le_bytes();
    let delivery = DeliveryMode::from_bits(mode)?;
    let level = is_level(entry);
    Some(Message {
        vector,
        delivery,
        destination: Destination::from_byte(destination, entry & RTE_LOGICAL != 0),
        shorthand: Shorthand::None,
        trigger: if level { Trigger::Level } else { Trigger::Edge },
    })
}

/// Address and data: in both formats bits 63:48 of an entry are bits 19:4 of the address, and bit 11 is bit 2.
fn write_of(entry: u64) -> (u64, u32) {
    let address = MSI_RANGE | entry >> 48 << 4 | (entry >> 11 & 1) << 2;
    let level = if is_level(entry) { MSI_LEVEL_ASSERT } else { 0 };
    let [vector, mode, ..] = entry.to_le_bytes();
    (
        address,
        level | u32::from(mode & 7) << 8 | u32::from(vector),
    )
}

/// Whether the delivery mode is fixed or lowest priority.
fn ends_with_eoi(entry: u64) -> bool {
    entry & RTE_MODE <= 1 << 8
}

fn is_level(entry: u64) -> bool {
    entry & RTE_LEVEL != 0
}

/// Low and high double word.
fn halves(entry: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = entry.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

/// Pin and half of a redirection table register.
fn table_index(select: u8) -> Option<(usize, usize)> {
    let index = usize::from(select.checked_sub(IOREDTBL)?);
    (index < 48).then_some((index / 2, index % 2))
}

fn slot(offset: u64) -> usize {
    match offset & !0xf {
        IOREGSEL => 0,
        IOWIN => 1,
        EOI => 2,
        _ => 3,
    }
}

// 82093AA, 3.1 (memory mapped) and 3.2 (indirect).
const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const EOI: u64 = 0x40;
const IOAPICID: u8 = 0x00;
const IOAPICVER: u8 = 0x01;
const IOAPICARB: u8 = 0x02;
const IOREDTBL: u8 = 0x10;
// 82093AA, 3.2.4.
const RTE_LOGICAL: u64 = 1 << 11;
const RTE_REMOTE_IRR: u64 = 1 << 14;
const RTE_LEVEL: u64 = 1 << 15;
const RTE_MASKED: u64 = 1 << 16;
/// Vector, delivery mode, destination mode, polarity, trigger, mask, destination.
const RTE_WRITABLE: u64 = 0xff00_0000_0001_afff;
const RTE_EXTENDED_WRITABLE: u64 = RTE_WRITABLE | 0x00ff_0000_0000_0000;
const RTE_MODE: u64 = 7 << 8;
const MSI_RANGE: u64 = 0xfee0_0000;
const MSI_LEVEL_ASSERT: u32 = 1 << 15 | 1 << 14;

#[cfg(test)]
mod tests {
    use super::*;

    fn set_entry(ioapic: &mut IoApic, pin: u8, entry: u64) {
        let [low, high] = halves(entry);
        for (select, value) in [(0x11 + 2 * pin, high), (0x10 + 2 * pin, low)] {
            ioapic.write(IOREGSEL, &u32::from(select).to_le_bytes());
            ioapic.write(IOWIN, &value.to_le_bytes());
        }
    }

    fn register(ioapic: &mut IoApic, select: u8) -> u32 {
        ioapic.write(IOREGSEL, &[select]);
        let mut data = [0; 4];
        ioapic.read(IOWIN, &mut data);
        u32::from_le_bytes(data)
    }

    /// Sends what is pending, all of it accepted, and answers the only message.
    fn sent(ioapic: &mut IoApic) -> Option<Message> {
        let mut messages = Vec::new();
        ioapic.send_pending(|message| {
            messages.push(*message);
            true
        });
        assert!(messages.len() <= 1);
        messages.pop()
    }

    #[test]
    fn reset_values_are_the_data_sheets() {
        let mut ioapic = IoApic::new(1, IoApicVersion::V11);
        assert_eq!(register(&mut ioapic, 0), 1 << 24);
        assert_eq!(register(&mut ioapic, 1), 0x0017_0011);
        assert_eq!(register(&mut ioapic, 0x10), 0x0001_0000);
        assert_eq!(register(&mut ioapic, 0x40), 0, "past the table");
        assert_eq!(
            register(&mut IoApic::new(0, IoApicVersion::V20), 1),
            0x0017_0020
        );
    }

    #[test]
    fn an_edge_sends_one_message() {
        let mut ioapic = IoApic::new(0, IoApicVersion::V11);
        set_entry(&mut ioapic, 4, 0x0300_0000_0000_0834);
        ioapic.set_line(4, true);
        ioapic.set_line(4, true);
        let message = sent(&mut ioapic).unwrap();
        assert_eq!(
            (message.vector, message.destination),
            (0x34, Destination::Logical(3))
        );
        assert_eq!(sent(&mut ioapic), None);
        ioapic.set_line(4, false);
        ioapic.set_line(4, true);
        assert!(sent(&mut ioapic).is_some());
    }

    #[test]
    fn an_entry_in_either_format_is_a_write() {
        let mut ioapic = IoApic::new(0, IoApicVersion::V20);
        let mut writes = Vec::new();
        // To logical destination 3 by compatibility format; then index 0x8123, level triggered.
        set_entry(&mut ioapic, 4, 0x0300_0000_0000_0934);
        set_entry(&mut ioapic, 5, 0x0247_0000_0000_8805);
        ioapic.set_line(4, true);
        ioapic.set_line(5, true);
        ioapic.send_pending_writes(|address, data| {
            writes.push((address, data));
            true
        });
        assert_eq!(writes, [(0xfee0_3004, 0x134), (0xfee0_2474, 0xc005)]);
        assert_eq!(register(&mut ioapic, 0x1a), 0xc805, "remote IRR");
        assert_eq!(
            crate::msi_message(writes[0].0, writes[0].1),
            message_of(0x0300_0000_0000_0934)
        );
    }

    #[test]
    fn an_edge_at_a_masked_pin_is_lost() {
        let mut ioapic = IoApic::new(0, IoApicVersion::V11);
        ioapic.set_line(4, true);
        set_entry(&mut ioapic, 4, 0x34);
        assert_eq!(sent(&mut ioapic), None);
    }

    #[test]
    fn a_level_is_sent_again_after_eoi_while_asserted() {
        let mut ioapic = IoApic::new(0, IoApicVersion::V11);
        set_entry(&mut ioapic, 9, 0x8039);
        ioapic.set_line(9, true);
        assert_eq!(sent(&mut ioapic).unwrap().trigger, Trigger::Level);
        assert_eq!(register(&mut ioapic, 0x22) & 0x4000, 0x4000, "remote IRR");
        ioapic.set_line(9, true);
        assert_eq!(sent(&mut ioapic), None);
        ioapic.end_of_interrupt(0x38);
        assert_eq!(sent(&mut ioapic), None, "another vector");
        ioapic.end_of_interrupt(0x39);
        assert!(sent(&mut ioapic).is_some());
        ioapic.set_line(9, false);
        ioapic.end_of_interrupt(0x39);
        assert_eq!(sent(&mut ioapic), None);
    }

    #[test]
    fn a_level_that_nobody_accepts_is_not_waited_for() {
        let mut ioapic = IoApic::new(0, IoApicVersion::V11);
        set_entry(&mut ioapic, 9, 0x8039);
        ioapic.set_line(9, true);
        ioapic.send_pending(|_| false);
        assert_eq!(register(&mut ioapic, 0x22) & 0x4000, 0);
        set_entry(&mut ioapic, 9, 0x803a);
        assert_eq!(sent(&mut ioapic).unwrap().vector, 0x3a);
    }

    #[test]
    fn unmasking_a_level_sends_it() {
        let mut ioapic = IoApic::new(0, IoApicVersion::V11);
        set_entry(&mut ioapic, 9, 0x1_8039);
        ioapic.set_line(9, true);
        assert_eq!(sent(&mut ioapic), None);
        set_entry(&mut ioapic, 9, 0x8039);
        assert!(sent(&mut ioapic).is_some());
    }

    #[test]
    fn switching_to_edge_clears_remote_irr() {
        let mut ioapic = IoApic::new(0, IoApicVersion::V11);
        set_entry(&mut ioapic, 9, 0x8039);
        ioapic.set_line(9, true);
        sent(&mut ioapic);
        set_entry(&mut ioapic, 9, 0x1_0039);
        set_entry(&mut ioapic, 9, 0x8039);
        assert!(sent(&mut ioapic).is_some());
    }

    #[test]
    fn only_version_20_has_an_eoi_register() {
        for (version, again) in [(IoApicVersion::V11, false), (IoApicVersion::V20, true)] {
            let mut ioapic = IoApic::new(0, version);
            set_entry(&mut ioapic, 9, 0x8039);
            ioapic.set_line(9, true);
            sent(&mut ioapic);
            ioapic.write(EOI, &0x39u32.to_le_bytes());
            assert_eq!(sent(&mut ioapic).is_some(), again);
        }
    }

    #[test]
    fn read_only_bits_stay() {
        let mut ioapic = IoApic::new(0, IoApicVersion::V11);
        set_entry(&mut ioapic, 0, u64::MAX);
        let state = ioapic.state();
        assert_eq!(state.redirection[0], RTE_WRITABLE);
    }

    #[test]
    fn odd_accesses_are_harmless() {
        let mut ioapic = IoApic::new(0, IoApicVersion::V20);
        for offset in (0..0x60).chain([0xfff, u64::MAX]) {
            for length in 0..9 {
                let mut data = vec![0xa5; length];
                ioapic.write(offset, &data);
                ioapic.read(offset, &mut data);
            }
        }
    }

    #[test]
    fn hostile_state_is_turned_down() {
        let mut state = IoApic::new(0, IoApicVersion::V11).state();
        state.redirection[3] = RTE_REMOTE_IRR;
        assert_eq!(IoApic::try_from(state).unwrap_err().field, "redirection");
    }
}
