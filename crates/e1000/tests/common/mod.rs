//! An adapter with a guest memory, driven as a driver would.
#![allow(dead_code, reason = "each test binary uses its part")]

use e1000::registers::*;
use e1000::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use e1000::{Compat, E1000, E1000Config};

pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
pub(crate) const TX_RING: u64 = 0x1000;
pub(crate) const RX_RING: u64 = 0x2000;
pub(crate) const TX_BUFFERS: u64 = 0x2_0000;
pub(crate) const RX_BUFFERS: u64 = 0x8_0000;
pub(crate) const RING: u32 = 8;

pub(crate) const EOP: u8 = 1 << 0;
pub(crate) const IFCS: u8 = 1 << 1;
pub(crate) const TSE: u8 = 1 << 2;
pub(crate) const RS: u8 = 1 << 3;
pub(crate) const DEXT: u8 = 1 << 5;
pub(crate) const VLE: u8 = 1 << 6;
pub(crate) const IDE: u8 = 1 << 7;

pub(crate) struct Machine {
    pub(crate) nic: E1000,
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) sent: Vec<Vec<u8>>,
}

impl Machine {
    /// Both rings of eight descriptors, both directions on, receive buffers of 2 KiB.
    pub(crate) fn new(compat: Compat) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let nic = E1000::new(E1000Config { mac: MAC, compat });
        let mut machine = Self {
            nic,
            memory,
            sent: Vec::new(),
        };
        machine.set(TDBAL, u32::try_from(TX_RING).unwrap());
        machine.set(TDLEN, 16 * RING);
        machine.set(RDBAL, u32::try_from(RX_RING).unwrap());
        machine.set(RDLEN, 16 * RING);
        for slot in 0..u64::from(RING) {
            let buffer = RX_BUFFERS + 0x1000 * slot;
            let at = GuestAddress(RX_RING + 16 * slot);
            machine.memory.write_obj([buffer, 0], at).unwrap();
        }
        machine.set(RDT, RING - 1);
        machine.set(TCTL, TCTL_EN | TCTL_PSP);
        machine.set(RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC);
        machine
    }

    pub(crate) fn set(&mut self, register: u32, value: u32) {
        self.nic.write(register.into(), &value.to_le_bytes());
        self.process();
    }

    pub(crate) fn get(&mut self, register: u32) -> u32 {
        let mut bytes = [0; 4];
        self.nic.read(register.into(), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn process(&mut self) {
        let sent = &mut self.sent;
        self.nic
            .process(&self.memory, &mut |frame| sent.push(frame.to_vec()));
    }

    /// Puts descriptors at the tail, rings the bell, and answers what was sent.
    pub(crate) fn send(&mut self, descriptors: &[[u64; 2]]) -> Vec<Vec<u8>> {
        self.sent.clear();
        let mut tail = self.get(TDT);
        for descriptor in descriptors {
            let at = GuestAddress(TX_RING + 16 * u64::from(tail));
            self.memory.write_obj(*descriptor, at).unwrap();
            tail = (tail + 1) % RING;
        }
        self.set(TDT, tail);
        std::mem::take(&mut self.sent)
    }

    /// The status byte of a transmit descriptor.
    pub(crate) fn tx_status(&self, slot: u64) -> u8 {
        self.memory
            .read_obj(GuestAddress(TX_RING + 16 * slot + 12))
            .unwrap()
    }

    /// Length, status, errors and special of a receive descriptor, and its buffer.
    pub(crate) fn received(&self, slot: u64) -> (u16, u8, u16, Vec<u8>) {
        let at = RX_RING + 16 * slot;
        let bytes: [u8; 8] = self.memory.read_obj(GuestAddress(at + 8)).unwrap();
        let length = u16::from_le_bytes([bytes[0], bytes[1]]);
        let buffer: u64 = self.memory.read_obj(GuestAddress(at)).unwrap();
        let mut data = vec![0; length.into()];
        self.memory
            .read_slice(&mut data, GuestAddress(buffer))
            .unwrap();
        (
            length,
            bytes[4],
            u16::from_le_bytes([bytes[6], bytes[7]]),
            data,
        )
    }

    /// The error byte of a receive descriptor.
    pub(crate) fn rx_errors(&self, slot: u64) -> u8 {
        let at = GuestAddress(RX_RING + 16 * slot + 13);
        self.memory.read_obj(at).unwrap()
    }

    pub(crate) fn receive(&mut self, frame: &[u8]) -> e1000::RxOutcome {
        self.nic.receive(&self.memory, frame)
    }

    /// Puts bytes where transmit buffers are; answers their address.
    pub(crate) fn place(&self, bytes: &[u8]) -> u64 {
        self.memory
            .write_slice(bytes, GuestAddress(TX_BUFFERS))
            .unwrap();
        TX_BUFFERS
    }
}

/// A legacy descriptor: length, command.
pub(crate) fn legacy(address: u64, length: u16, command: u8) -> [u64; 2] {
    [address, u64::from(length) | u64::from(command) << 24]
}

/// A data descriptor: length, command, packet options, special.
pub(crate) fn data(address: u64, length: u32, command: u8, options: u8) -> [u64; 2] {
    let word = u64::from(length) | 1 << 20 | u64::from(command | DEXT) << 24;
    [address, word | u64::from(options) << 40]
}

/// The fields of a context descriptor.
#[derive(Clone, Copy)]
pub(crate) struct ContextFields {
    pub(crate) ip: [u8; 2],
    pub(crate) ip_end: u16,
    pub(crate) transport: [u8; 2],
    pub(crate) transport_end: u16,
    pub(crate) payload: u32,
    pub(crate) command: u8,
    pub(crate) header: u8,
    pub(crate) segment: u16,
}

/// TCP over IPv4 behind an Ethernet header, segments of `segment`.
pub(crate) fn tcp(payload: u32, segment: u16) -> ContextFields {
    ContextFields {
        ip: [14, 24],
        ip_end: 33,
        transport: [34, 50],
        transport_end: 0,
        payload,
        command: 1 | 2 | TSE,
        header: 54,
        segment,
    }
}

pub(crate) fn context(fields: ContextFields) -> [u64; 2] {
    let low = u64::from(fields.ip[0])
        | u64::from(fields.ip[1]) << 8
        | u64::from(fields.ip_end) << 16
        | u64::from(fields.transport[0]) << 32
        | u64::from(fields.transport[1]) << 40
        | u64::from(fields.transport_end) << 48;
    let high = u64::from(fields.payload)
        | u64::from(fields.command | DEXT) << 24
        | u64::from(fields.header) << 40
        | u64::from(fields.segment) << 48;
    [low, high]
}

/// A broadcast frame of `length` bytes that count up.
pub(crate) fn frame(length: usize) -> Vec<u8> {
    let counting = (0..=255_u8).cycle();
    let mut frame: Vec<u8> = counting.take(length).collect();
    let addresses = length.min(6);
    frame[..addresses].fill(0xff);
    frame
}
