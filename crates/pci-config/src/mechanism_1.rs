//! Configuration mechanism #1: an address register at 0xcf8 and a data window at 0xcfc.
//!
//! Reference: PCI Local Bus Specification 3.0, 3.2.2.3.2.

use crate::bus::{Bdf, Bus, Function};

/// What the mechanism has done since construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfigMechanism1Counters {
    /// Accesses to the address register.
    pub address: u64,
    /// Accesses to the data window that went to the bus.
    pub data: u64,
    /// Everything else: the window closed, or a size that the register does not take.
    pub ignored: u64,
}

/// The address register. It is plain data; the functions are handed in with each access.
#[derive(Clone, Debug, Default)]
pub struct ConfigMechanism1 {
    address: u32,
    counters: ConfigMechanism1Counters,
}

impl ConfigMechanism1 {
    /// First port.
    pub const BASE: u16 = 0xcf8;
    /// Ports: four of address, four of data.
    pub const LENGTH: u16 = 8;

    /// A register restored to `address`; reserved bits are dropped.
    #[must_use]
    pub fn with_address(address: u32) -> Self {
        Self {
            address: address & ADDRESS_WRITABLE,
            ..Self::default()
        }
    }

    /// The address register.
    #[must_use]
    pub fn address(&self) -> u32 {
        self.address
    }

    /// Whether an access belongs here at all. Bytes and words at 0xcf8 to 0xcfb are ordinary I/O
    /// ("Anything other than a full DWORD must pass through"): 0xcf9 is the reset register.
    #[must_use]
    pub fn claims(port: u16, length: usize) -> bool {
        port == Self::BASE && length == 4 || (0xcfc..=0xcff).contains(&port)
    }

    /// Reads at `port`; what is not claimed, or leads to no function, reads as all ones.
    pub fn read<F: Function>(&mut self, bus: &mut Bus<F>, port: u16, data: &mut [u8]) {
        if port == Self::BASE && data.len() == 4 {
            self.counters.address += 1;
            data.copy_from_slice(&self.address.to_le_bytes());
            return;
        }
        match self.target(port, data.len()) {
            Some((bdf, offset)) => bus.read(bdf, offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes at `port`; what is not claimed, or leads to no function, is ignored.
    pub fn write<F: Function>(&mut self, bus: &mut Bus<F>, port: u16, data: &[u8]) {
        if let (Self::BASE, Ok(bytes)) = (port, <[u8; 4]>::try_from(data)) {
            self.counters.address += 1;
            self.address = u32::from_le_bytes(bytes) & ADDRESS_WRITABLE;
        } else if let Some((bdf, offset)) = self.target(port, data.len()) {
            bus.write(bdf, offset, data);
        }
    }

    /// Counters since construction.
    #[must_use]
    pub fn counters(&self) -> ConfigMechanism1Counters {
        self.counters
    }

    /// Function and register that the data window leads to. An access may not leave the window.
    fn target(&mut self, port: u16, length: usize) -> Option<(Bdf, u16)> {
        let within = port.checked_sub(0xcfc).filter(|&within| within < 4);
        let fits = within.is_some_and(|within| usize::from(within) + length <= 4);
        if !fits || self.address & ADDRESS_ENABLE == 0 {
            self.counters.ignored += 1;
            return None;
        }
        self.counters.data += 1;
        let [register, low, bus, _] = self.address.to_le_bytes();
        let bdf = Bdf::from_requester_id(u16::from_le_bytes([low, bus]));
        Some((bdf, u16::from(register) + within?))
    }
}

const ADDRESS_ENABLE: u32 = 1 << 31;
const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConfigSpace, Header};

    fn machine() -> (ConfigMechanism1, Bus<ConfigSpace>) {
        let mut bus = Bus::default();
        let header = Header {
            vendor: 0x1234,
            device: 0x5678,
            ..Header::default()
        };
        bus.insert(Bdf::new(0, 3, 0).unwrap(), ConfigSpace::new(header))
            .unwrap();
        (ConfigMechanism1::default(), bus)
    }

    fn dword(bytes: u32) -> [u8; 4] {
        bytes.to_le_bytes()
    }

    #[test]
    fn finds_the_function_and_its_register() {
        let (mut mechanism, mut bus) = machine();
        let mut data = [0; 4];
        mechanism.write(&mut bus, 0xcf8, &dword(0x8000_1800));
        mechanism.read(&mut bus, 0xcfc, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0x5678_1234);
        mechanism.read(&mut bus, 0xcfe, &mut data[..2]);
        assert_eq!(data[..2], [0x78, 0x56]);
        mechanism.read(&mut bus, 0xcfd, &mut data[..1]);
        assert_eq!(data[0], 0x12);
    }

    #[test]
    fn an_absent_function_and_a_closed_window_read_all_ones() {
        let (mut mechanism, mut bus) = machine();
        for address in [0x8000_2000, 0x0000_1800, 0x8001_1800, 0x8000_1900] {
            mechanism.write(&mut bus, 0xcf8, &dword(address));
            let mut data = [0; 4];
            mechanism.read(&mut bus, 0xcfc, &mut data);
            assert_eq!(data, [0xff; 4], "{address:#x}");
        }
    }

    #[test]
    fn the_address_register_takes_only_double_words() {
        let (mut mechanism, mut bus) = machine();
        mechanism.write(&mut bus, 0xcf8, &dword(0xffff_ffff));
        assert_eq!(mechanism.address(), 0x80ff_fffc);
        mechanism.write(&mut bus, 0xcf8, &[0]);
        mechanism.write(&mut bus, 0xcfb, &[0]);
        assert_eq!(mechanism.address(), 0x80ff_fffc);
        let mut data = [0; 4];
        mechanism.read(&mut bus, 0xcf8, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0x80ff_fffc);
        assert!(!ConfigMechanism1::claims(0xcf9, 1));
        assert!(ConfigMechanism1::claims(0xcfe, 2));
    }

    #[test]
    fn accesses_that_leave_the_window_are_ignored() {
        let (mut mechanism, mut bus) = machine();
        mechanism.write(&mut bus, 0xcf8, &dword(0x8000_183c));
        mechanism.write(&mut bus, 0xcff, &[5, 5]);
        mechanism.write(&mut bus, 0xcfc, &[5; 8]);
        let mut data = [0; 8];
        mechanism.read(&mut bus, 0xcfe, &mut data);
        assert_eq!(data, [0xff; 8]);
        mechanism.read(&mut bus, 0xcfc, &mut data[..1]);
        assert_eq!(data[0], 0, "untouched");
        assert_eq!(mechanism.counters().ignored, 3);
    }
}
