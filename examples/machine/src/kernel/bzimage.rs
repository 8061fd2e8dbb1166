//! The Linux bzImage, entered at its 64-bit entry point: the kernel unpacks itself.

use std::io::Cursor;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::GuestAddress;

use super::boot_data::{BootData, low_ram};
use super::{Guest, LoadError, Ram, check_command_line, length, u16_at, u32_at, u64_at};
use crate::start_state::StartState;

pub(super) fn is_bzimage(bytes: &[u8]) -> bool {
    u16_at(bytes, BOOT_FLAG) == Some(0xaa55) && bytes.get(HEADER..HEADER + 4) == Some(b"HdrS")
}

pub(super) fn load(ram: &Ram, guest: &Guest<'_>) -> Result<StartState, LoadError> {
    let name = || guest.kernel.name.clone();
    let bytes = &guest.kernel.bytes;
    let header = Header::read(bytes).ok_or_else(|| LoadError::Truncated {
        name: name(),
        needed: HEADER_END,
        found: length(bytes),
    })?;
    if header.version < VERSION_2_12 || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(LoadError::No64BitEntry { name: name() });
    }
    let (needed, found) = (header.image_length(), length(bytes));
    // The last paragraph may be cut short: memtest86+'s is.
    if found.next_multiple_of(16) < needed {
        return Err(LoadError::Truncated {
            name: name(),
            needed,
            found,
        });
    }
    check_command_line(guest.command_line, header.command_line_limit())?;
    // The protected-mode part may be longer than what the kernel needs to unpack itself.
    let size = u64::from(header.init_size).max(found - header.setup_length());
    let kernel_end = header.preferred_address.saturating_add(size);
    let boot_data = BootData::plan(ram, guest, kernel_end)?;
    if kernel_end > low_ram(ram) {
        return Err(boot_data.too_little_memory());
    }
    let load_at = GuestAddress(header.preferred_address);
    let loaded =
        BzImage::load(ram, Some(load_at), &mut Cursor::new(bytes), None).map_err(|source| {
            LoadError::Loader {
                name: name(),
                source,
            }
        })?;
    let setup = loaded.setup_header.unwrap_or_default();
    boot_data
        .write(ram, guest, setup)
        .map_err(LoadError::BootData)?;
    // boot.rst: the 64-bit entry is 0x200 past the start of the loaded kernel.
    Ok(StartState::linux_64(header.preferred_address + 0x200))
}

/// What is needed of the setup header (boot.rst, "The Real-Mode Kernel Header").
struct Header {
    setup_sectors: u8,
    paragraphs: u32,
    version: u16,
    xloadflags: u16,
    command_line_size: u32,
    preferred_address: u64,
    init_size: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            setup_sectors: *bytes.get(0x1f1)?,
            paragraphs: u32_at(bytes, 0x1f4)?,
            version: u16_at(bytes, 0x206)?,
            xloadflags: u16_at(bytes, 0x236)?,
            command_line_size: u32_at(bytes, 0x238)?,
            preferred_address: u64_at(bytes, 0x258)?,
            init_size: u32_at(bytes, 0x260)?,
        })
    }

    /// Boot sector and setup; "if the `setup_sects` field contains 0, the real value is 4".
    fn setup_length(&self) -> u64 {
        let sectors = if self.setup_sectors == 0 {
            4
        } else {
            self.setup_sectors
        };
        (u64::from(sectors) + 1) * 512
    }

    /// "syssize: The size of the protected-mode code in units of 16-byte paragraphs."
    fn image_length(&self) -> u64 {
        self.setup_length() + u64::from(self.paragraphs) * 16
    }

    fn command_line_limit(&self) -> usize {
        usize::try_from(self.command_line_size)
            .map_or(0, |size| size.min(super::boot_data::COMMAND_LINE_ROOM))
    }
}

/// The header of an ELF kernel, which has none of its own.
pub(super) fn synthetic_header() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x020f,
        // "LOADED_HIGH: the protected-mode code is loaded at 0x100000."
        loadflags: 1,
        kernel_alignment: 0x100_0000,
        ..setup_header::default()
    }
}

const BOOT_FLAG: usize = 0x1fe;
const HEADER: usize = 0x202;
const HEADER_END: u64 = 0x268;
/// Protocol 2.12 brought `xloadflags`.
const VERSION_2_12: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1 << 0;
