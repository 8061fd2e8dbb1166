//! The PHY behind MDIC: the registers of IEEE 802.3 clause 22 and some of the M88E1011's own.

/// Saved state of the PHY.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PhyState {
    /// Its 32 registers.
    pub registers: Vec<u16>,
    /// When auto-negotiation ends, in nanoseconds.
    pub negotiated_at: Option<u64>,
}

impl PhyState {
    pub(crate) fn new() -> Self {
        let mut registers = vec![0; 32];
        for (register, value) in RESET {
            registers[register] = value;
        }
        Self {
            registers,
            negotiated_at: None,
        }
    }

    /// What MDIC reads after software wrote `value`: 13.4.6. The transaction is done at once.
    pub(crate) fn access(&mut self, value: u32, now: u64) -> u32 {
        let register = usize::try_from(value >> 16 & 0x1f).unwrap_or(0);
        let [low, high, ..] = value.to_le_bytes();
        let written = u16::from_le_bytes([low, high]);
        let command = value & !(READY | ERROR);
        if value >> 21 & 0x1f != ADDRESS {
            return command | READY | ERROR;
        }
        match value >> 26 & 0b11 {
            OPERATION_WRITE => {
                self.write(register, written, now);
                command | READY
            }
            OPERATION_READ => command & !0xffff | u32::from(self.read(register)) | READY,
            _ => command | READY | ERROR,
        }
    }

    fn read(&self, register: usize) -> u16 {
        self.registers[register]
    }

    fn write(&mut self, register: usize, value: u16, now: u64) {
        match register {
            CONTROL if value & CONTROL_RESET != 0 => {
                let link = self.registers[STATUS] & STATUS_LINK;
                *self = Self::new();
                self.registers[STATUS] |= link;
            }
            CONTROL => {
                self.registers[CONTROL] = value & CONTROL_WRITABLE;
                let restarts = value & CONTROL_RESTART != 0 && value & CONTROL_NEGOTIATE != 0;
                if restarts {
                    self.registers[STATUS] &= !STATUS_NEGOTIATED;
                    self.negotiated_at = Some(now.saturating_add(NEGOTIATION_NS));
                }
            }
            4 | 7 | 9 | 16 | 18 | 20 | 24..=30 => self.registers[register] = value,
            _ => {}
        }
    }

    /// Ends a negotiation that is due. `true` when one ended.
    pub(crate) fn advance(&mut self, now: u64) -> bool {
        let due = self.negotiated_at.is_some_and(|at| at <= now);
        if due {
            self.negotiated_at = None;
            self.registers[STATUS] |= STATUS_NEGOTIATED;
        }
        due
    }

    pub(crate) fn set_link(&mut self, up: bool) {
        let (link, partner) = if up {
            (STATUS_LINK, PARTNER_ABILITIES)
        } else {
            (0, 0)
        };
        self.registers[STATUS] = self.registers[STATUS] & !STATUS_LINK | link;
        self.registers[PARTNER] = partner;
        self.registers[SPECIFIC_STATUS] = if up { SPECIFIC_LINK_1000_FULL } else { 0 };
    }

    /// Whether frames that are sent come back: 802.3, 22.2.4.1.2.
    pub(crate) fn is_loopback(&self) -> bool {
        self.registers[CONTROL] & CONTROL_LOOPBACK != 0
    }

    pub(crate) fn is_negotiating(&self) -> bool {
        self.negotiated_at.is_some()
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.registers.len() == 32
    }
}

const CONTROL: usize = 0;
const STATUS: usize = 1;
const PARTNER: usize = 5;
const SPECIFIC_STATUS: usize = 17;
const RESET: [(usize, u16); 10] = [
    (CONTROL, 0x1140),
    (STATUS, 0x7969),
    // The M88E1011, which drivers of the 82540EM look for.
    (2, 0x0141),
    (3, 0x0c20),
    (4, 0x0de1),
    (6, 0x0001),
    (9, 0x0e00),
    (10, 0x3c00),
    (16, 0x0360),
    (20, 0x0d60),
];
const CONTROL_RESET: u16 = 1 << 15;
const CONTROL_LOOPBACK: u16 = 1 << 14;
const CONTROL_NEGOTIATE: u16 = 1 << 12;
const CONTROL_RESTART: u16 = 1 << 9;
// All but reset and restart, which clear themselves, and the reserved bits.
const CONTROL_WRITABLE: u16 = 0x7d80;
const STATUS_NEGOTIATED: u16 = 1 << 5;
const STATUS_LINK: u16 = 1 << 2;
const PARTNER_ABILITIES: u16 = 0x45e1;
const SPECIFIC_LINK_1000_FULL: u16 = 0xac00;
/// How long a negotiation takes.
const NEGOTIATION_NS: u64 = 500_000_000;
/// The PHY answers at address 1.
const ADDRESS: u32 = 1;
const OPERATION_WRITE: u32 = 0b01;
const OPERATION_READ: u32 = 0b10;
const READY: u32 = 1 << 28;
const ERROR: u32 = 1 << 30;
