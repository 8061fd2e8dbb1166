//! A Multiboot 1 kernel: a 32-bit ELF image, or any image whose header carries load addresses,
//! entered in 32-bit protected mode.
//!
//! Reference: Multiboot Specification 0.6.96, sections 3.1 (header), 3.2 (machine state) and 3.3
//! (boot information).

use vm_memory::{Bytes, GuestAddress};

use super::boot_data::{BootData, COMMAND_LINE_ROOM, e820_type, low_ram, total};
use super::{Guest, LoadError, Ram, check_command_line, length, u16_at, u32_at};
use crate::layout::{CONVENTIONAL_END, HIGH_MEMORY, MULTIBOOT_INFO, memory_map};
use crate::start_state::StartState;

pub(super) fn is_multiboot(bytes: &[u8]) -> bool {
    Header::find(bytes).is_some()
}

pub(super) fn load(ram: &Ram, guest: &Guest<'_>) -> Result<StartState, LoadError> {
    let bytes = &guest.kernel.bytes;
    let name = || guest.kernel.name.clone();
    let command_line = format!("{} {}", guest.kernel.name, guest.command_line);
    check_command_line(&command_line, COMMAND_LINE_ROOM)?;
    let image = Header::find(bytes)
        .and_then(|header| header.image(bytes))
        .ok_or_else(|| LoadError::NotAKernel { name: name() })?;
    let room = low_ram(ram);
    let end = image.pieces.iter().map(Piece::memory_end).max();
    let boot_data = BootData::plan(ram, guest, end.unwrap_or(0))?;
    for piece in &image.pieces {
        let (needed, found) = (piece.file_end(), length(bytes));
        let Some(data) = piece.of(bytes) else {
            return Err(LoadError::Truncated {
                name: name(),
                needed,
                found,
            });
        };
        if piece.memory_end() > room {
            return Err(boot_data.too_little_memory());
        }
        ram.write_slice(data, GuestAddress(piece.address))
            .map_err(LoadError::BootData)?;
    }
    write_information(ram, guest, &boot_data, &command_line).map_err(LoadError::BootData)?;
    Ok(StartState::multiboot(image.entry))
}

/// Where the boot information's parts lie, from its own start.
const COMMAND_LINE_AT: u64 = 0x1000;
const MODULES_AT: u64 = 0x80;
const MEMORY_MAP_AT: u64 = 0x100;
const LOADER_NAME_AT: u64 = 0x200;

fn write_information(
    ram: &Ram,
    guest: &Guest<'_>,
    boot_data: &BootData,
    command_line: &str,
) -> Result<(), vm_memory::GuestMemoryError> {
    let low = |address: u64| u32::try_from(address).expect("planned below 2 GiB");
    let map = memory_map(total(ram));
    let mut information = [0u32; 30];
    information[0] = HAS_MEMORY | HAS_COMMAND_LINE | HAS_MEMORY_MAP | HAS_LOADER_NAME;
    // KiB of conventional memory, and from 1 MiB up to the first hole.
    information[1] = low(CONVENTIONAL_END >> 10);
    information[2] = low(low_ram(ram).saturating_sub(HIGH_MEMORY) >> 10);
    information[4] = low(MULTIBOOT_INFO + COMMAND_LINE_AT);
    information[11] = 24 * u32::try_from(map.len()).expect("a handful");
    information[12] = low(MULTIBOOT_INFO + MEMORY_MAP_AT);
    information[16] = low(MULTIBOOT_INFO + LOADER_NAME_AT);
    if let Some(initrd) = guest.initrd {
        information[0] |= HAS_MODULES;
        (information[5], information[6]) = (1, low(MULTIBOOT_INFO + MODULES_AT));
        let start = boot_data.initrd();
        let module = [low(start), low(start + length(initrd)), 0, 0];
        write_words(ram, MULTIBOOT_INFO + MODULES_AT, &module)?;
    }
    boot_data.write_files(ram, guest)?;
    write_words(ram, MULTIBOOT_INFO, &information)?;
    for (entry, at) in map
        .into_iter()
        .zip((MULTIBOOT_INFO + MEMORY_MAP_AT..).step_by(24))
    {
        // "size" counts the bytes after itself.
        ram.write_obj(20u32, GuestAddress(at))?;
        ram.write_obj(entry.start, GuestAddress(at + 4))?;
        ram.write_obj(entry.size, GuestAddress(at + 12))?;
        ram.write_obj(e820_type(entry), GuestAddress(at + 20))?;
    }
    ram.write_slice(
        b"softmetal\0",
        GuestAddress(MULTIBOOT_INFO + LOADER_NAME_AT),
    )?;
    let text = [command_line.as_bytes(), b"\0"].concat();
    ram.write_slice(&text, GuestAddress(MULTIBOOT_INFO + COMMAND_LINE_AT))
}

fn write_words(ram: &Ram, at: u64, words: &[u32]) -> Result<(), vm_memory::GuestMemoryError> {
    for (&word, at) in words.iter().zip((at..).step_by(4)) {
        ram.write_obj(word, GuestAddress(at))?;
    }
    Ok(())
}

/// The Multiboot header, and where it lies in the file.
struct Header {
    at: usize,
    flags: u32,
}

impl Header {
    /// "Must be contained completely within the first 8192 bytes of the OS image, and must be
    /// longword (32-bit) aligned."
    fn find(bytes: &[u8]) -> Option<Self> {
        (0..SEARCHED - 12).step_by(4).find_map(|at| {
            let flags = u32_at(bytes, at + 4)?;
            let sum = MAGIC
                .wrapping_add(flags)
                .wrapping_add(u32_at(bytes, at + 8)?);
            (u32_at(bytes, at)? == MAGIC && sum == 0).then_some(Self { at, flags })
        })
    }

    fn image(&self, bytes: &[u8]) -> Option<Image> {
        // "If bit 16 is set, the fields at offsets 12-28 are valid."
        if self.flags & HAS_ADDRESSES != 0 {
            return self.addressed(bytes);
        }
        let elf_32_little_endian = bytes.starts_with(b"\x7fELF\x01\x01");
        elf_32_little_endian.then(|| elf_32(bytes)).flatten()
    }

    fn addressed(&self, bytes: &[u8]) -> Option<Image> {
        let field = |index: usize| u32_at(bytes, self.at + 12 + 4 * index).map(u64::from);
        let (header, load) = (field(0)?, field(1)?);
        let (load_end, bss_end) = (field(2)?, field(3)?);
        let offset = u64::try_from(self.at)
            .ok()?
            .checked_sub(header.checked_sub(load)?)?;
        let size = match load_end {
            0 => length(bytes).checked_sub(offset)?,
            end => end.checked_sub(load)?,
        };
        let piece = Piece {
            offset,
            size,
            address: load,
            memory: bss_end.saturating_sub(load).max(size),
        };
        Some(Image {
            entry: field(4)?,
            pieces: vec![piece],
        })
    }
}

struct Image {
    entry: u64,
    pieces: Vec<Piece>,
}

/// Bytes of the file and the memory they go to.
struct Piece {
    offset: u64,
    size: u64,
    address: u64,
    memory: u64,
}

impl Piece {
    fn file_end(&self) -> u64 {
        self.offset.saturating_add(self.size)
    }

    fn memory_end(&self) -> u64 {
        self.address.saturating_add(self.memory.max(self.size))
    }

    fn of<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset).ok()?;
        bytes.get(start..usize::try_from(self.file_end()).ok()?)
    }
}

/// The loadable segments of a 32-bit ELF image; memory beyond a segment's bytes is zero already.
fn elf_32(bytes: &[u8]) -> Option<Image> {
    let table = usize::try_from(u32_at(bytes, 28)?).ok()?;
    let entries = usize::from(u16_at(bytes, 44)?);
    let mut pieces = Vec::new();
    for index in 0..entries {
        let field = |at: usize| u32_at(bytes, table.checked_add(index * PROGRAM_HEADER + at)?);
        if field(0)? == PT_LOAD {
            pieces.push(Piece {
                offset: field(4)?.into(),
                address: field(12)?.into(),
                size: field(16)?.into(),
                memory: field(20)?.into(),
            });
        }
    }
    let entry = u32_at(bytes, 24)?.into();
    (!pieces.is_empty()).then_some(Image { entry, pieces })
}

const MAGIC: u32 = 0x1bad_b002;
const SEARCHED: usize = 8192;
const HAS_ADDRESSES: u32 = 1 << 16;
const HAS_MEMORY: u32 = 1 << 0;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MEMORY_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;
const PROGRAM_HEADER: usize = 32;
const PT_LOAD: u32 = 1;
