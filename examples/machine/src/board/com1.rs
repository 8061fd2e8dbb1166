//! The serial line: `vm-superio`'s 16550 with its interrupt as a level and an unbounded input.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write;

use vm_superio::Serial;
use vm_superio::Trigger;
use vm_superio::serial::NoEvents;

use crate::layout::COM1;

/// Where the serial line writes to.
pub type Console = Box<dyn Write + Send>;

/// The level is read from the registers instead: see [`Com1::level`].
struct NoTrigger;

impl Trigger for NoTrigger {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

pub(super) struct Com1 {
    serial: Serial<NoTrigger, NoEvents, Console>,
    input: VecDeque<u8>,
    level: bool,
}

impl Com1 {
    pub(super) fn new(console: Console) -> Self {
        Self {
            serial: Serial::new(NoTrigger, console),
            input: VecDeque::new(),
            level: false,
        }
    }

    pub(super) fn read(&mut self, port: u16, data: &mut [u8]) {
        for (at, byte) in (port..).zip(data) {
            *byte = match offset_of(at) {
                Some(offset) => self.serial.read(offset),
                None => 0xff,
            };
        }
        self.settle();
    }

    pub(super) fn write(&mut self, port: u16, data: &[u8]) {
        for (at, &byte) in (port..).zip(data) {
            if let Some(offset) = offset_of(at) {
                // A console that cannot be written to loses output; the guest goes on.
                let _ = self.serial.write(offset, byte);
            }
        }
        self.settle();
    }

    /// Appends what was typed.
    pub(super) fn push_input(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
        self.settle();
    }

    /// The interrupt output: a condition is pending and interrupts are enabled.
    pub(super) fn level(&self) -> bool {
        self.level
    }

    fn settle(&mut self) {
        self.feed();
        let state = self.serial.state();
        self.level = state.interrupt_identification & IIR_NONE == 0 && state.interrupt_enable != 0;
    }

    /// Moves input into the receive FIFO as far as it has room.
    fn feed(&mut self) {
        if self.input.is_empty() {
            return;
        }
        let (front, _) = self.input.as_slices();
        let room = self.serial.fifo_capacity().min(front.len());
        if room > 0 {
            // In loopback mode nothing is taken, and the input waits.
            let taken = self.serial.enqueue_raw_bytes(&front[..room]).unwrap_or(0);
            self.input.drain(..taken);
        }
    }
}

fn offset_of(port: u16) -> Option<u8> {
    port.checked_sub(COM1)
        .and_then(|offset| u8::try_from(offset).ok())
        .filter(|&offset| offset < 8)
}

const IIR_NONE: u8 = 1 << 0;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(com1: &mut Com1, port: u16) -> u8 {
        let mut data = [0];
        com1.read(port, &mut data);
        data[0]
    }

    #[test]
    fn input_beyond_the_fifo_waits_for_the_guest() {
        let mut com1 = Com1::new(Box::new(std::io::sink()));
        com1.write(COM1 + 1, &[1]);
        let typed: Vec<u8> = (0..200).collect();
        com1.push_input(&typed);
        assert!(com1.level());
        let mut seen = Vec::new();
        while read(&mut com1, COM1 + 5) & 1 != 0 {
            seen.push(read(&mut com1, COM1));
        }
        assert_eq!(seen, typed);
    }

    #[test]
    fn the_level_falls_when_the_guest_identifies_the_interrupt() {
        let mut com1 = Com1::new(Box::new(std::io::sink()));
        assert!(!com1.level());
        com1.write(COM1 + 1, &[2]);
        assert!(com1.level(), "transmitter empty");
        assert_eq!(read(&mut com1, COM1 + 2) & 0xf, 2);
        assert!(!com1.level());
        com1.write(COM1, b"x");
        assert!(com1.level());
        com1.write(COM1 + 1, &[0]);
        assert!(!com1.level(), "disabled");
    }
}
