//! The two cascaded 8259A interrupt controllers of a PC, with the edge/level control registers.
//!
//! References: Intel 8259A data sheet (231468-003); Intel 82371SB (PIIX3) data sheet, 3.8.

pub(crate) mod chip;

use crate::accesses::{Accesses, each_byte_read, each_byte_write};
use crate::state_error::InvalidState;
use chip::{Chip, ChipState};

/// Saved state of an [`I8259Pair`]; untrusted until `TryFrom` accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct I8259PairState {
    /// The chip at 0x20, IRQ 0 to 7.
    pub master: ChipState,
    /// The chip at 0xa0, IRQ 8 to 15, cascaded into the master's IRQ 2.
    pub slave: ChipState,
}

/// Two 8259A in cascade: 15 interrupt lines in, one INTR level and a vector out.
///
/// Registers: 0x20/0x21, 0xa0/0xa1 and the edge/level registers 0x4d0/0x4d1.
#[derive(Clone, Debug)]
pub struct I8259Pair {
    master: Chip,
    slave: Chip,
    accesses: Accesses<6>,
    acknowledged: [u64; 16],
    spurious: u64,
}

impl Default for I8259Pair {
    fn default() -> Self {
        Self::new()
    }
}

impl I8259Pair {
    /// The port ranges of the device: first port and count.
    pub const PORTS: &'static [(u16, u16)] = &[(0x20, 2), (0xa0, 2), (0x4d0, 2)];

    /// Both chips as power-on leaves them: nothing is delivered before the guest writes ICW1.
    #[must_use]
    pub fn new() -> Self {
        Self::with_chips(Chip::new(ELCR_MASK_MASTER), Chip::new(ELCR_MASK_SLAVE))
    }

    fn with_chips(master: Chip, slave: Chip) -> Self {
        Self {
            master,
            slave,
            accesses: Accesses::default(),
            acknowledged: [0; 16],
            spurious: 0,
        }
    }

    /// Reads bytes from consecutive ports; a port that is not the device's reads as 0xff.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        each_byte_read(port, data, |port| self.read_byte(port));
        self.cascade();
    }

    /// Writes bytes to consecutive ports; a port that is not the device's ignores them.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        each_byte_write(port, data, |port, value| self.write_byte(port, value));
        self.cascade();
    }

    /// Drives interrupt line `irq`.
    ///
    /// Line 2 is the cascade and cannot be driven from outside: it is ignored.
    ///
    /// # Panics
    ///
    /// When `irq` is above 15.
    pub fn set_line(&mut self, irq: u8, level: bool) {
        assert!(irq < 16, "the pair has lines 0 to 15, not {irq}");
        match irq {
            CASCADE_IRQ => {}
            0..8 => self.master.set_line(irq, level),
            _ => self.slave.set_line(irq - 8, level),
        }
        self.cascade();
    }

    /// The INTR output.
    #[must_use]
    pub fn intr(&self) -> bool {
        self.master.output()
    }

    /// The interrupt acknowledge cycle: answers the vector and puts the request in service.
    ///
    /// With no request left the answer is the spurious vector of line 7 or 15, whose
    /// in-service bit stays clear (8259A data sheet, "Interrupt Sequence").
    pub fn acknowledge(&mut self) -> u8 {
        let (irq, vector) = match self.master.acknowledge() {
            Some(CASCADE_IRQ) => {
                self.drop_cascade();
                match self.slave.acknowledge() {
                    Some(irq) => (Some(irq + 8), self.slave.vector(irq)),
                    None => (None, self.slave.vector(7)),
                }
            }
            Some(irq) => (Some(irq), self.master.vector(irq)),
            None => (None, self.master.vector(7)),
        };
        match irq {
            Some(irq) => self.acknowledged[usize::from(irq)] += 1,
            None => self.spurious += 1,
        }
        self.cascade();
        vector
    }

    /// Byte accesses by register, in the order 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1.
    #[must_use]
    pub fn accesses(&self) -> &Accesses<6> {
        &self.accesses
    }

    /// Interrupts acknowledged since construction, by line.
    #[must_use]
    pub fn acknowledged(&self) -> &[u64; 16] {
        &self.acknowledged
    }

    /// Acknowledge cycles that found no request.
    #[must_use]
    pub fn spurious(&self) -> u64 {
        self.spurious
    }

    /// A copy of the architectural state.
    #[must_use]
    pub fn state(&self) -> I8259PairState {
        I8259PairState {
            master: self.master.state(),
            slave: self.slave.state(),
        }
    }

    /// INT of the slave falls at an acknowledge, so that a request behind it makes a new edge.
    fn drop_cascade(&mut self) {
        self.master.withdraw(CASCADE_IRQ);
    }

    fn cascade(&mut self) {
        if self.slave.output() {
            self.master.set_line(CASCADE_IRQ, true);
        } else {
            self.master.withdraw(CASCADE_IRQ);
        }
    }

    fn read_byte(&mut self, port: u16) -> u8 {
        let Some(register) = register_of(port) else {
            return 0xff;
        };
        self.accesses.count_read(register);
        match register {
            0 | 1 => self.master.read(register == 1),
            2 | 3 => {
                if self.slave.polling() {
                    self.drop_cascade();
                }
                self.slave.read(register == 3)
            }
            4 => self.master.elcr(),
            _ => self.slave.elcr(),
        }
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        let Some(register) = register_of(port) else {
            return;
        };
        self.accesses.count_write(register);
        match register {
            0 | 1 => self.master.write(register == 1, value),
            2 | 3 => self.slave.write(register == 3, value),
            4 => self.master.set_elcr(value),
            _ => self.slave.set_elcr(value),
        }
    }
}

impl TryFrom<I8259PairState> for I8259Pair {
    type Error = InvalidState;

    fn try_from(state: I8259PairState) -> Result<Self, InvalidState> {
        let master = Chip::restore(state.master, ELCR_MASK_MASTER)?;
        let slave = Chip::restore(state.slave, ELCR_MASK_SLAVE)?;
        let mut pair = Self::with_chips(master, slave);
        pair.cascade();
        Ok(pair)
    }
}

fn register_of(port: u16) -> Option<usize> {
    match port {
        0x20 => Some(0),
        0x21 => Some(1),
        0xa0 => Some(2),
        0xa1 => Some(3),
        0x4d0 => Some(4),
        0x4d1 => Some(5),
        _ => None,
    }
}

const CASCADE_IRQ: u8 = 2;
// PIIX3 3.8: IRQ 0, 1, 2, 8 and 13 are always edge triggered.
const ELCR_MASK_MASTER: u8 = 0xf8;
const ELCR_MASK_SLAVE: u8 = 0xde;

#[cfg(test)]
mod tests;
