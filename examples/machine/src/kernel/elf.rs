//! A 64-bit ELF image: an unpacked vmlinux or a unikernel, entered through its PVH note or as Linux.

use std::io::Cursor;

use linux_loader::loader::{Elf, KernelLoader, elf::PvhBootCapability};

use super::boot_data::{BootData, COMMAND_LINE_ROOM, low_ram};
use super::bzimage::synthetic_header;
use super::{ElfEntry, Guest, LoadError, Ram, check_command_line, length, u16_at, u32_at, u64_at};
use crate::start_state::StartState;

pub(super) fn is_elf_kernel(bytes: &[u8]) -> bool {
    let class_64_little_endian = [2, 1];
    bytes.starts_with(b"\x7fELF")
        && bytes.get(4..6) == Some(&class_64_little_endian)
        && u16_at(bytes, 18) == Some(EM_X86_64)
}

pub(super) fn load(ram: &Ram, guest: &Guest<'_>) -> Result<StartState, LoadError> {
    let name = || guest.kernel.name.clone();
    let bytes = &guest.kernel.bytes;
    // Linux's COMMAND_LINE_SIZE counts the terminating zero.
    check_command_line(guest.command_line, COMMAND_LINE_ROOM.min(2047))?;
    let extent = Extent::of(bytes).ok_or_else(|| LoadError::NotAKernel { name: name() })?;
    if extent.file_end > length(bytes) {
        let (needed, found) = (extent.file_end, length(bytes));
        return Err(LoadError::Truncated {
            name: name(),
            needed,
            found,
        });
    }
    let boot_data = BootData::plan(ram, guest, extent.memory_end)?;
    if extent.memory_end > low_ram(ram) {
        return Err(boot_data.too_little_memory());
    }
    let loaded = Elf::load(ram, None, &mut Cursor::new(bytes), None).map_err(|source| {
        LoadError::Loader {
            name: name(),
            source,
        }
    })?;
    boot_data
        .write(ram, guest, synthetic_header())
        .map_err(LoadError::BootData)?;
    Ok(match (loaded.pvh_boot_cap, guest.entry) {
        (PvhBootCapability::PvhEntryPresent(entry), ElfEntry::Auto) => StartState::pvh(entry.0),
        _ => StartState::linux_64(loaded.kernel_load.0),
    })
}

/// How far the loadable segments reach, in the file and in memory.
struct Extent {
    file_end: u64,
    memory_end: u64,
}

impl Extent {
    /// `None` when nothing is loadable. A table cut short counts as far as it should reach.
    fn of(bytes: &[u8]) -> Option<Self> {
        let table = u64_at(bytes, 32)?;
        let entries = u64::from(u16_at(bytes, 56)?);
        let mut extent = Self {
            file_end: table.checked_add(entries * PROGRAM_HEADER)?,
            memory_end: 0,
        };
        if extent.file_end > length(bytes) {
            return Some(extent);
        }
        for index in 0..entries {
            let at = usize::try_from(table + index * PROGRAM_HEADER).ok()?;
            if u32_at(bytes, at)? == PT_LOAD {
                extent.include(bytes, at)?;
            }
        }
        (extent.memory_end > 0).then_some(extent)
    }

    fn include(&mut self, bytes: &[u8], at: usize) -> Option<()> {
        let (offset, address) = (u64_at(bytes, at + 8)?, u64_at(bytes, at + 24)?);
        let (file_size, memory_size) = (u64_at(bytes, at + 32)?, u64_at(bytes, at + 40)?);
        self.file_end = self.file_end.max(offset.saturating_add(file_size));
        self.memory_end = self
            .memory_end
            .max(address.saturating_add(memory_size.max(file_size)));
        Some(())
    }
}

const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PROGRAM_HEADER: u64 = 56;
