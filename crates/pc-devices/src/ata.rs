//! A disk on an ATA channel, by programmed I/O (ATA/ATAPI-6, T13 1410D, the PIO commands): what
//! firmware and boot loaders read their kernels from.

pub(crate) mod command;
mod identity;
mod state;
#[cfg(test)]
mod tests;

use command::Progress;
pub use state::AtaState;

/// Bytes in a sector.
pub const SECTOR: usize = 512;

/// What a disk keeps its sectors in.
///
/// A failed access is reported to the guest as an uncorrectable error.
pub trait Sectors {
    /// How many sectors there are.
    fn count(&self) -> u64;
    /// Reads sector `lba`, which exists; `false` when the medium fails.
    fn read(&mut self, lba: u64, data: &mut [u8; SECTOR]) -> bool;
    /// Writes sector `lba`, which exists; `false` when the medium fails or is write-protected.
    fn write(&mut self, lba: u64, data: &[u8; SECTOR]) -> bool;
    /// Makes what was written durable.
    fn flush(&mut self) -> bool {
        true
    }
}

/// Sectors in memory; a last part of one is not seen.
impl Sectors for Vec<u8> {
    fn count(&self) -> u64 {
        u64::try_from(self.len() / SECTOR).unwrap_or(u64::MAX)
    }

    fn read(&mut self, lba: u64, data: &mut [u8; SECTOR]) -> bool {
        let start = usize::try_from(lba)
            .ok()
            .and_then(|lba| lba.checked_mul(SECTOR));
        let sector = start.and_then(|start| self.get(start..)?.first_chunk::<SECTOR>());
        sector.map(|sector| data.copy_from_slice(sector)).is_some()
    }

    fn write(&mut self, lba: u64, data: &[u8; SECTOR]) -> bool {
        let start = usize::try_from(lba)
            .ok()
            .and_then(|lba| lba.checked_mul(SECTOR));
        let sector = start.and_then(|start| self.get_mut(start..)?.first_chunk_mut::<SECTOR>());
        sector.map(|sector| sector.copy_from_slice(data)).is_some()
    }
}

/// The primary channel of a PC with one disk, device 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ata<D> {
    disk: D,
    registers: AtaRegisters,
    progress: Progress,
    /// Sectors in a READ or WRITE MULTIPLE block; zero: not set.
    multiple: u8,
    /// Heads and sectors of a track, for addresses by cylinder.
    geometry: (u8, u8),
    interrupt: bool,
    accesses: u64,
    sectors: Moved,
}

/// Sectors moved since construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// To the guest.
    pub read: u64,
    /// From the guest.
    pub written: u64,
}

/// The command block. Registers written twice keep the earlier value for 48-bit addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AtaRegisters {
    /// Features.
    pub features: u8,
    /// Sector count, now and before.
    pub count: [u8; 2],
    /// LBA low, middle and high, each now and before.
    pub lba: [[u8; 2]; 3],
    /// Device.
    pub device: u8,
    /// Status.
    pub status: u8,
    /// Error.
    pub error: u8,
    /// Device control.
    pub control: u8,
}

impl<D: Sectors> Ata<D> {
    /// The port ranges: first port and count.
    pub const PORTS: &'static [(u16, u16)] = &[(COMMAND_BLOCK, 8), (CONTROL, 1)];
    /// The ISA interrupt line.
    pub const IRQ: u8 = 14;

    /// A channel with `disk`, as after power-on.
    #[must_use]
    pub fn new(disk: D) -> Self {
        let mut channel = Self {
            disk,
            registers: AtaRegisters::default(),
            progress: Progress::Idle,
            multiple: 0,
            geometry: DEFAULT_GEOMETRY,
            interrupt: false,
            accesses: 0,
            sectors: Moved::default(),
        };
        channel.reset();
        channel
    }

    /// The level of INTRQ.
    #[must_use]
    pub fn irq(&self) -> bool {
        self.interrupt && self.registers.control & CONTROL_NIEN == 0
    }

    /// Register accesses since construction, those of the data register counted by block.
    #[must_use]
    pub fn accesses(&self) -> u64 {
        self.accesses
    }

    /// Sectors moved since construction.
    #[must_use]
    pub fn moved(&self) -> Moved {
        self.sectors
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Reads a register; the data register gives as many bytes as are asked for. Reading the status
    /// takes the interrupt away.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        if port == COMMAND_BLOCK {
            return self.read_data(data);
        }
        self.accesses += 1;
        let r = &self.registers;
        let before = usize::from(r.control & CONTROL_HOB != 0);
        let value = match port.wrapping_sub(COMMAND_BLOCK) {
            1 => r.error,
            2 => r.count[before],
            number @ 3..=5 => r.lba[usize::from(number) - 3][before],
            6 => r.device,
            7 => {
                self.interrupt = false;
                self.status()
            }
            _ if port == CONTROL => self.status(),
            _ => 0xff,
        };
        data.fill(0xff);
        if let Some(first) = data.first_mut() {
            *first = value;
        }
    }

    /// Writes a register; the data register takes as many bytes as are given.
    pub fn write(&mut self, port: u16, data: &[u8]) {
        if port == COMMAND_BLOCK {
            return self.write_data(data);
        }
        let Some(&value) = data.first() else { return };
        self.accesses += 1;
        if port == CONTROL {
            return self.write_control(value);
        }
        let r = &mut self.registers;
        match port.wrapping_sub(COMMAND_BLOCK) {
            1 => r.features = value,
            2 => r.count = [value, r.count[0]],
            number @ 3..=5 => {
                let register = &mut r.lba[usize::from(number) - 3];
                *register = [value, register[0]];
            }
            6 => r.device = value | DEVICE_OBSOLETE,
            7 => self.command(value),
            _ => return,
        }
        self.registers.control &= !CONTROL_HOB;
    }

    /// Device 1 is absent: device 0 answers for it with an empty status.
    fn status(&self) -> u8 {
        if self.is_absent() {
            0
        } else {
            self.registers.status
        }
    }

    fn is_absent(&self) -> bool {
        self.registers.device & DEVICE_1 != 0
    }

    fn write_control(&mut self, value: u8) {
        let falls = self.registers.control & !value & CONTROL_SRST != 0;
        self.registers.control = value;
        if falls {
            self.reset();
        } else if value & CONTROL_SRST != 0 {
            self.registers.status = STATUS_BUSY;
        }
    }

    /// The signature of a disk, and "no error" of the diagnostics (9.12, 9.2).
    fn reset(&mut self) {
        self.progress = Progress::Idle;
        self.multiple = 0;
        self.geometry = DEFAULT_GEOMETRY;
        self.interrupt = false;
        self.registers = AtaRegisters {
            count: [1, 0],
            lba: [[1, 0], [0, 0], [0, 0]],
            device: DEVICE_OBSOLETE,
            status: STATUS_READY | STATUS_SEEK_COMPLETE,
            error: DIAGNOSTIC_PASSED,
            control: self.registers.control,
            features: 0,
        };
    }
}

const COMMAND_BLOCK: u16 = 0x1f0;
const CONTROL: u16 = 0x3f6;
const CONTROL_NIEN: u8 = 1 << 1;
const CONTROL_SRST: u8 = 1 << 2;
const CONTROL_HOB: u8 = 1 << 7;
const DEVICE_1: u8 = 1 << 4;
const DEVICE_LBA: u8 = 1 << 6;
/// Bits 7 and 5 read as one.
const DEVICE_OBSOLETE: u8 = 0xa0;
const STATUS_BUSY: u8 = 1 << 7;
const STATUS_READY: u8 = 1 << 6;
const STATUS_SEEK_COMPLETE: u8 = 1 << 4;
const STATUS_DATA: u8 = 1 << 3;
const STATUS_ERROR: u8 = 1 << 0;
const ERROR_ABORTED: u8 = 1 << 2;
const ERROR_NOT_FOUND: u8 = 1 << 4;
const ERROR_UNCORRECTABLE: u8 = 1 << 6;
const DIAGNOSTIC_PASSED: u8 = 1;
const DEFAULT_GEOMETRY: (u8, u8) = (16, 63);
