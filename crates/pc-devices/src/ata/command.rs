//! Commands and the blocks that they move.

use super::{
    Ata, DEFAULT_GEOMETRY, DEVICE_LBA, DIAGNOSTIC_PASSED, ERROR_ABORTED, ERROR_NOT_FOUND,
    ERROR_UNCORRECTABLE, SECTOR, STATUS_DATA, STATUS_ERROR, STATUS_READY, STATUS_SEEK_COMPLETE,
    Sectors, identity,
};

/// What the data register moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Progress {
    /// Nothing.
    #[default]
    Idle,
    /// A block to the guest.
    In(Block),
    /// A block from the guest.
    Out(Block),
}

/// One block of a command: the sectors between two interrupts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Block {
    /// The block's bytes.
    pub bytes: Vec<u8>,
    /// How many of them have moved.
    pub moved: usize,
    /// The sector behind those in the block.
    pub lba: u64,
    /// Sectors of the command that are not in this block.
    pub left: u32,
    /// Most sectors in a block.
    pub size: u8,
}

/// Sectors that a command names.
#[derive(Clone, Copy)]
struct Extent {
    lba: u64,
    count: u32,
}

impl<D: Sectors> Ata<D> {
    /// Most sectors in a block of READ or WRITE MULTIPLE.
    pub const MAX_MULTIPLE: u8 = 16;

    pub(super) fn command(&mut self, code: u8) {
        // EXECUTE DEVICE DIAGNOSTIC is for both devices; what else an absent one is told is lost.
        if self.is_absent() && code != DIAGNOSE {
            return;
        }
        self.progress = Progress::Idle;
        self.registers.error = 0;
        match code {
            READ | READ_NO_RETRY => self.read_sectors(false, 1),
            READ_EXT => self.read_sectors(true, 1),
            READ_MULTIPLE if self.multiple > 0 => self.read_sectors(false, self.multiple),
            READ_MULTIPLE_EXT if self.multiple > 0 => self.read_sectors(true, self.multiple),
            WRITE | WRITE_NO_RETRY => self.write_sectors(false, 1),
            WRITE_EXT => self.write_sectors(true, 1),
            WRITE_MULTIPLE if self.multiple > 0 => self.write_sectors(false, self.multiple),
            WRITE_MULTIPLE_EXT if self.multiple > 0 => self.write_sectors(true, self.multiple),
            VERIFY | VERIFY_NO_RETRY => self.verify(false),
            VERIFY_EXT => self.verify(true),
            IDENTIFY => self.identify(),
            SET_MULTIPLE => self.set_multiple(),
            INITIALIZE_PARAMETERS => self.set_geometry(),
            FLUSH | FLUSH_EXT => {
                let flushed = self.disk.flush();
                self.finish(if flushed { 0 } else { ERROR_ABORTED });
            }
            DIAGNOSE => {
                self.reset();
                self.registers.error = DIAGNOSTIC_PASSED;
                self.interrupt = true;
            }
            SET_FEATURES | 0x10..=0x1f | 0xe0..=0xe3 => self.finish(0),
            CHECK_POWER => {
                // "Active or idle".
                self.registers.count[0] = 0xff;
                self.finish(0);
            }
            _ => self.finish(ERROR_ABORTED),
        }
    }

    pub(super) fn read_data(&mut self, data: &mut [u8]) {
        data.fill(0xff);
        let Progress::In(block) = &mut self.progress else {
            return;
        };
        let available = &block.bytes[block.moved..];
        let length = data.len().min(available.len());
        data[..length].copy_from_slice(&available[..length]);
        block.moved += length;
        if block.moved == block.bytes.len() {
            self.block_moved();
        }
    }

    pub(super) fn write_data(&mut self, data: &[u8]) {
        let Progress::Out(block) = &mut self.progress else {
            return;
        };
        let room = &mut block.bytes[block.moved..];
        let length = data.len().min(room.len());
        room[..length].copy_from_slice(&data[..length]);
        block.moved += length;
        if block.moved == block.bytes.len() {
            self.block_moved();
        }
    }

    fn block_moved(&mut self) {
        self.accesses += 1;
        match std::mem::take(&mut self.progress) {
            Progress::In(block) if block.left > 0 => self.fetch(block),
            // The last block of a read is not followed by an interrupt.
            Progress::In(_) => self.registers.status = STATUS_READY | STATUS_SEEK_COMPLETE,
            Progress::Out(block) => self.store(block),
            Progress::Idle => {}
        }
    }

    fn read_sectors(&mut self, extended: bool, size: u8) {
        match self.extent(extended) {
            Ok(extent) => self.fetch(Block::at(extent, size)),
            Err(error) => self.finish(error),
        }
    }

    /// Reads the next block for the guest to take.
    fn fetch(&mut self, mut block: Block) {
        let count = block.advance();
        let first = block.lba - u64::from(count);
        for (lba, bytes) in (first..).zip(block.bytes.as_chunks_mut::<SECTOR>().0) {
            if !self.disk.read(lba, bytes) {
                return self.finish(ERROR_UNCORRECTABLE);
            }
        }
        self.sectors.read += u64::from(count);
        self.offer(Progress::In(block));
    }

    fn write_sectors(&mut self, extended: bool, size: u8) {
        match self.extent(extended) {
            Ok(extent) => {
                let mut block = Block::at(extent, size);
                block.advance();
                self.offer(Progress::Out(block));
                // The first block is asked for without an interrupt.
                self.interrupt = false;
            }
            Err(error) => self.finish(error),
        }
    }

    /// Writes the block that the guest has filled.
    fn store(&mut self, mut block: Block) {
        let sectors = block.bytes.as_chunks::<SECTOR>().0;
        let count = u64::try_from(sectors.len()).unwrap_or(0);
        for (lba, bytes) in (block.lba - count..).zip(sectors) {
            if !self.disk.write(lba, bytes) {
                return self.finish(ERROR_ABORTED);
            }
        }
        self.sectors.written += count;
        if block.left == 0 {
            return self.finish(0);
        }
        block.advance();
        self.offer(Progress::Out(block));
    }

    fn verify(&mut self, extended: bool) {
        let error = self.extent(extended).err();
        self.finish(error.unwrap_or(0));
    }

    fn identify(&mut self) {
        let block = Block {
            bytes: identity::words(self.disk.count(), self.multiple),
            ..Block::default()
        };
        self.offer(Progress::In(block));
    }

    fn set_multiple(&mut self) {
        let count = self.registers.count[0];
        if count <= Self::MAX_MULTIPLE && (count == 0 || count.is_power_of_two()) {
            self.multiple = count;
            self.finish(0);
        } else {
            self.finish(ERROR_ABORTED);
        }
    }

    fn set_geometry(&mut self) {
        let (heads, sectors) = ((self.registers.device & 0xf) + 1, self.registers.count[0]);
        if sectors == 0 {
            return self.finish(ERROR_ABORTED);
        }
        self.geometry = (heads, sectors);
        self.finish(0);
    }

    /// Lets the guest move a block.
    fn offer(&mut self, progress: Progress) {
        self.progress = progress;
        self.registers.status = STATUS_READY | STATUS_SEEK_COMPLETE | STATUS_DATA;
        self.interrupt = true;
    }

    /// Ends a command, with an error unless it is zero.
    fn finish(&mut self, error: u8) {
        self.progress = Progress::Idle;
        self.registers.error = error;
        let failed = if error == 0 { 0 } else { STATUS_ERROR };
        self.registers.status = STATUS_READY | STATUS_SEEK_COMPLETE | failed;
        self.interrupt = true;
    }

    /// The sectors that the registers name, or the error when they do not exist.
    fn extent(&self, extended: bool) -> Result<Extent, u8> {
        let r = &self.registers;
        let low = |n: usize| u64::from(r.lba[n][0]) << (8 * n);
        let high = |n: usize| u64::from(r.lba[n][1]) << (8 * n + 24);
        let head = u64::from(r.device & 0xf);
        let (lba, count) = if extended {
            let lba = (0..3).map(|n| low(n) | high(n)).sum();
            (lba, u32::from(r.count[1]) << 8 | u32::from(r.count[0]))
        } else if r.device & DEVICE_LBA != 0 {
            let lba = (0..3).map(low).sum::<u64>() | head << 24;
            (lba, u32::from(r.count[0]))
        } else {
            (self.by_cylinder(head)?, u32::from(r.count[0]))
        };
        let most = if extended { 1 << 16 } else { 1 << 8 };
        let count = if count == 0 { most } else { count };
        if lba.saturating_add(count.into()) > self.disk.count() {
            return Err(ERROR_NOT_FOUND);
        }
        Ok(Extent { lba, count })
    }

    fn by_cylinder(&self, head: u64) -> Result<u64, u8> {
        let [sector, low, high] = self.registers.lba.map(|register| u64::from(register[0]));
        let (heads, sectors) = (u64::from(self.geometry.0), u64::from(self.geometry.1));
        if sector == 0 || sector > sectors || head >= heads {
            return Err(ERROR_NOT_FOUND);
        }
        Ok(((high << 8 | low) * heads + head) * sectors + sector - 1)
    }

    /// The geometry after a reset.
    pub(super) fn is_geometry(geometry: (u8, u8)) -> bool {
        geometry == DEFAULT_GEOMETRY || (1..=16).contains(&geometry.0) && geometry.1 > 0
    }
}

impl Block {
    fn at(extent: Extent, size: u8) -> Self {
        Self {
            lba: extent.lba,
            left: extent.count,
            size,
            ..Self::default()
        }
    }

    /// Goes on to the next sectors of the command; answers how many they are.
    fn advance(&mut self) -> u32 {
        let count = self.left.min(self.size.into());
        self.left -= count;
        self.lba += u64::from(count);
        self.moved = 0;
        self.bytes = vec![0; SECTOR * usize::try_from(count).unwrap_or(0)];
        count
    }
}

const READ: u8 = 0x20;
const READ_NO_RETRY: u8 = 0x21;
const READ_EXT: u8 = 0x24;
const READ_MULTIPLE_EXT: u8 = 0x29;
const WRITE: u8 = 0x30;
const WRITE_NO_RETRY: u8 = 0x31;
const WRITE_EXT: u8 = 0x34;
const WRITE_MULTIPLE_EXT: u8 = 0x39;
const VERIFY: u8 = 0x40;
const VERIFY_NO_RETRY: u8 = 0x41;
const VERIFY_EXT: u8 = 0x42;
const DIAGNOSE: u8 = 0x90;
const INITIALIZE_PARAMETERS: u8 = 0x91;
const READ_MULTIPLE: u8 = 0xc4;
const WRITE_MULTIPLE: u8 = 0xc5;
const SET_MULTIPLE: u8 = 0xc6;
const CHECK_POWER: u8 = 0xe5;
const FLUSH: u8 = 0xe7;
const FLUSH_EXT: u8 = 0xea;
const IDENTIFY: u8 = 0xec;
const SET_FEATURES: u8 = 0xef;
