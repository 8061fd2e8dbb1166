//! The enhanced configuration access mechanism: configuration space as memory (PCI Express Base 5.0, 7.2.2).

use crate::bus::{Bdf, Bus, Function};

/// A window of 4 KiB for each function of some buses, from bus 0 on. It has no state: offsets are all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    buses: u16,
}

impl Ecam {
    /// A window for `buses` buses, 1 to 256.
    ///
    /// # Panics
    ///
    /// On another number.
    #[must_use]
    pub fn new(buses: u16) -> Self {
        assert!((1..=256).contains(&buses), "a segment has 1 to 256 buses");
        Self { buses }
    }

    /// Bytes of the window.
    #[must_use]
    pub fn length(&self) -> u64 {
        u64::from(self.buses) << 20
    }

    /// Reads at `offset` in the window; all ones where there is no function.
    pub fn read<F: Function>(&self, bus: &mut Bus<F>, offset: u64, data: &mut [u8]) {
        match self.place(offset, data.len()) {
            Some((bdf, register)) => bus.read(bdf, register, data),
            None => data.fill(0xff),
        }
    }

    /// Writes at `offset` in the window.
    pub fn write<F: Function>(&self, bus: &mut Bus<F>, offset: u64, data: &[u8]) {
        if let Some((bdf, register)) = self.place(offset, data.len()) {
            bus.write(bdf, register, data);
        }
    }

    /// Table 7-1: bus in bits 27:20, device in 19:15, function in 14:12, register in 11:0. An access that leaves its
    /// function is none.
    fn place(&self, offset: u64, length: usize) -> Option<(Bdf, u16)> {
        let register = u16::try_from(offset & 0xfff).ok()?;
        let fits = usize::from(register) + length <= 0x1000;
        let requester = u16::try_from(offset >> 12).ok()?;
        let inside = offset < self.length() && fits;
        inside.then(|| (Bdf::from_requester_id(requester), register))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Echo;

    impl Function for Echo {
        fn read_config(&mut self, offset: u16, data: &mut [u8]) {
            for (number, byte) in (offset..).zip(data) {
                *byte = number.to_le_bytes()[0] ^ number.to_le_bytes()[1];
            }
        }

        fn write_config(&mut self, _: u16, _: &[u8]) {}
    }

    #[test]
    fn an_offset_names_bus_device_function_and_register() {
        let mut bus = Bus::default();
        bus.insert(Bdf::new(1, 2, 3).unwrap(), Echo).unwrap();
        let ecam = Ecam::new(2);
        let mut read = |offset: u64| {
            let mut data = [0; 2];
            ecam.read(&mut bus, offset, &mut data);
            data
        };
        let function = 1 << 20 | 2 << 15 | 3 << 12;
        assert_eq!(read(function | 0x104), [0x05, 0x04]);
        assert_eq!(read(function | 0xfff), [0xff; 2], "leaves the function");
        assert_eq!(read(function ^ 1 << 12), [0xff; 2], "another function");
        assert_eq!(read(ecam.length() + 0x104), [0xff; 2]);
        assert_eq!(read(u64::MAX - 1), [0xff; 2]);
    }
}
