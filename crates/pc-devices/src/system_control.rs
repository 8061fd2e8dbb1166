//! Two one-register ports that reset the processor: port 0x92 and port 0xcf9.
//!
//! References: Intel 82371SB (PIIX3) data sheet, 2.5.5 (port 92) and 2.5.7 (reset control).

use crate::accesses::{each_byte_read, each_byte_write};

/// System control port A, 0x92: fast A20 and fast reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SystemControlA {
    a20: bool,
    init: bool,
    reset_requested: bool,
}

impl SystemControlA {
    /// The port range: first port and count.
    pub const PORTS: &'static [(u16, u16)] = &[(0x92, 1)];

    /// Reads the register.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        let value = u8::from(self.a20) << 1 | u8::from(self.init);
        each_byte_read(port, data, |at| if at == 0x92 { value } else { 0xff });
    }

    /// Writes the register; bit 0 resets the processor when it goes from 0 to 1.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        each_byte_write(port, data, |at, value| {
            if at == 0x92 {
                self.a20 = value & 2 != 0;
                self.reset_requested |= value & 1 != 0 && !self.init;
                self.init = value & 1 != 0;
            }
        });
    }

    /// Whether this port asks for address line 20 to be let through.
    #[must_use]
    pub fn a20(&self) -> bool {
        self.a20
    }

    /// Takes a pending request to reset the processor.
    pub fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.reset_requested)
    }
}

/// The reset control register, 0xcf9, which the FADT names as the ACPI reset register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ResetControl {
    value: u8,
    reset_requested: bool,
}

impl ResetControl {
    /// The port range: first port and count. It lies inside the PCI configuration address
    /// register, which only double words reach.
    pub const PORTS: &'static [(u16, u16)] = &[(0xcf9, 1)];
    /// What the ACPI reset register is to be written with: hard reset.
    pub const RESET_VALUE: u8 = 0x06;

    /// Reads the register.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        each_byte_read(port, data, |at| if at == 0xcf9 { self.value } else { 0xff });
    }

    /// Writes the register; bit 2 resets the machine when it goes from 0 to 1.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        each_byte_write(port, data, |at, value| {
            if at == 0xcf9 {
                self.reset_requested |= value & 4 != 0 && self.value & 4 == 0;
                self.value = value & 0x06;
            }
        });
    }

    /// Takes a pending request to reset the machine.
    pub fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.reset_requested)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_92_resets_on_the_rising_bit() {
        let mut port = SystemControlA::default();
        port.write(0x92, &[2]);
        assert!(port.a20() && !port.take_reset());
        port.write(0x92, &[3]);
        assert!(port.take_reset());
        port.write(0x92, &[3]);
        assert!(!port.take_reset());
    }

    #[test]
    fn the_reset_register_resets_on_the_rising_bit() {
        let mut port = ResetControl::default();
        port.write(0xcf9, &[0x02]);
        assert!(!port.take_reset());
        port.write(0xcf9, &[ResetControl::RESET_VALUE]);
        assert!(port.take_reset() && !port.take_reset());
        let mut data = [0; 2];
        port.read(0xcf9, &mut data);
        assert_eq!(data, [0x06, 0xff]);
    }
}
