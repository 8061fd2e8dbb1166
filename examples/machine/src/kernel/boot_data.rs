//! What lies beside the kernel: RAM disk, command line, zero page, PVH start information, page
//! tables and descriptors.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{
    ByteValued, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
};

use super::{Guest, LoadError, Ram, length};
use crate::layout::{
    ACPI_TABLES, BOOT_GDT, BOOT_PAGE_TABLES, COMMAND_LINE, COMMAND_LINE_MAX, HIGH_MEMORY,
    LOW_RAM_END, MapEntry, PVH_START_INFO, ZERO_PAGE, memory_map,
};
use crate::start_state::BOOT_DESCRIPTORS;

pub(super) const COMMAND_LINE_ROOM: usize = COMMAND_LINE_MAX;

/// Where things go for one guest.
pub(super) struct BootData {
    ram: u64,
    needed: u64,
    initrd: u64,
    initrd_length: u64,
}

impl BootData {
    /// Puts the RAM disk as high as it goes, above the kernel.
    pub(super) fn plan(ram: &Ram, guest: &Guest<'_>, kernel_end: u64) -> Result<Self, LoadError> {
        let initrd_length = length(guest.initrd.unwrap_or_default());
        let needed = kernel_end
            .max(HIGH_MEMORY)
            .saturating_add(initrd_length.next_multiple_of(PAGE))
            .saturating_add(PAGE);
        // boot.rst: a RAM disk may end at 0x7fff_ffff at most when the kernel does not say more.
        let top = low_ram(ram).min(INITRD_END) & !(PAGE - 1);
        let plan = Self {
            ram: total(ram),
            needed,
            initrd: top.saturating_sub(initrd_length) & !(PAGE - 1),
            initrd_length,
        };
        if needed > top {
            Err(plan.too_little_memory())
        } else {
            Ok(plan)
        }
    }

    /// Where the RAM disk goes.
    pub(super) fn initrd(&self) -> u64 {
        self.initrd
    }

    pub(super) fn too_little_memory(&self) -> LoadError {
        LoadError::TooLittleMemory {
            needed: self.needed,
            given: self.ram,
        }
    }

    /// Writes everything but the kernel.
    pub(super) fn write(
        &self,
        ram: &Ram,
        guest: &Guest<'_>,
        header: setup_header,
    ) -> Result<(), GuestMemoryError> {
        self.write_files(ram, guest)?;
        ram.write_slice(guest.command_line.as_bytes(), GuestAddress(COMMAND_LINE))?;
        let end = COMMAND_LINE + length(guest.command_line.as_bytes());
        ram.write_obj(0u8, GuestAddress(end))?;
        let zero_page = self.zero_page(guest, header);
        ram.write_slice(zero_page.as_slice(), GuestAddress(ZERO_PAGE))?;
        self.write_start_info(ram, guest)?;
        write_boot_tables(ram)
    }

    /// Writes the RAM disk and the ACPI tables.
    pub(super) fn write_files(&self, ram: &Ram, guest: &Guest<'_>) -> Result<(), GuestMemoryError> {
        if let Some(initrd) = guest.initrd {
            ram.write_slice(initrd, GuestAddress(self.initrd))?;
        }
        if let Some(acpi) = guest.acpi {
            ram.write_slice(acpi, GuestAddress(ACPI_TABLES))?;
        }
        Ok(())
    }

    fn zero_page(&self, guest: &Guest<'_>, header: setup_header) -> boot_params {
        let low = |address: u64| u32::try_from(address).expect("planned below 2 GiB");
        let mut page = boot_params {
            hdr: header,
            ..boot_params::default()
        };
        page.hdr.type_of_loader = LOADER_UNASSIGNED;
        page.hdr.cmd_line_ptr = low(COMMAND_LINE);
        if guest.initrd.is_some() {
            page.hdr.ramdisk_image = low(self.initrd);
            page.hdr.ramdisk_size = low(self.initrd_length);
        }
        page.acpi_rsdp_addr = guest.acpi.map_or(0, |_| ACPI_TABLES);
        let map = memory_map(self.ram);
        page.e820_entries = u8::try_from(map.len()).expect("a handful");
        for (index, entry) in map.into_iter().enumerate() {
            page.e820_table[index] = boot_e820_entry {
                addr: entry.start,
                size: entry.size,
                r#type: e820_type(entry),
            };
        }
        page
    }

    fn write_start_info(&self, ram: &Ram, guest: &Guest<'_>) -> Result<(), GuestMemoryError> {
        let map = memory_map(self.ram);
        let start_info = hvm_start_info {
            magic: XEN_HVM_START_MAGIC,
            version: 1,
            nr_modules: u32::from(guest.initrd.is_some()),
            modlist_paddr: guest.initrd.map_or(0, |_| PVH_MODULES),
            cmdline_paddr: COMMAND_LINE,
            rsdp_paddr: guest.acpi.map_or(0, |_| ACPI_TABLES),
            memmap_paddr: PVH_MEMORY_MAP,
            memmap_entries: u32::try_from(map.len()).expect("a handful"),
            ..hvm_start_info::default()
        };
        ram.write_slice(start_info.as_slice(), GuestAddress(PVH_START_INFO))?;
        let module = hvm_modlist_entry {
            paddr: self.initrd,
            size: self.initrd_length,
            ..hvm_modlist_entry::default()
        };
        ram.write_slice(module.as_slice(), GuestAddress(PVH_MODULES))?;
        for (at, entry) in (PVH_MEMORY_MAP..).step_by(24).zip(map) {
            let entry = hvm_memmap_table_entry {
                addr: entry.start,
                size: entry.size,
                type_: e820_type(entry),
                ..hvm_memmap_table_entry::default()
            };
            ram.write_slice(entry.as_slice(), GuestAddress(at))?;
        }
        Ok(())
    }
}

/// Writes the page tables and descriptors that [`StartState::linux_64`] points at.
///
/// # Errors
///
/// When they lie outside RAM.
///
/// [`StartState::linux_64`]: crate::StartState::linux_64
pub fn write_boot_tables(ram: &Ram) -> Result<(), GuestMemoryError> {
    for (address, descriptor) in (BOOT_GDT..).step_by(8).zip(BOOT_DESCRIPTORS) {
        ram.write_obj(descriptor, GuestAddress(address))?;
    }
    write_page_tables(ram)
}

/// The first 4 GiB, mapped to themselves in pages of 2 MiB.
fn write_page_tables(ram: &Ram) -> Result<(), GuestMemoryError> {
    let pointers = BOOT_PAGE_TABLES + PAGE;
    let directories = pointers + PAGE;
    ram.write_obj(pointers | PRESENT_WRITABLE, GuestAddress(BOOT_PAGE_TABLES))?;
    for index in 0..4 {
        let entry = (directories + index * PAGE) | PRESENT_WRITABLE;
        ram.write_obj(entry, GuestAddress(pointers + index * 8))?;
    }
    for index in 0..4 * 512 {
        let entry = index << 21 | LARGE | PRESENT_WRITABLE;
        ram.write_obj(entry, GuestAddress(directories + index * 8))?;
    }
    Ok(())
}

/// What the memory maps of all boot protocols call an entry.
pub(super) fn e820_type(entry: MapEntry) -> u32 {
    if entry.usable { 1 } else { 2 }
}

/// Bytes of RAM from zero without a hole.
pub(super) fn low_ram(ram: &Ram) -> u64 {
    total(ram).min(LOW_RAM_END)
}

/// Bytes of RAM.
pub(super) fn total(ram: &Ram) -> u64 {
    ram.iter().map(GuestMemoryRegion::len).sum()
}

const PAGE: u64 = 4096;
const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;
const INITRD_END: u64 = 0x8000_0000;
/// boot.rst, `type_of_loader`: 0xff is "undefined".
const LOADER_UNASSIGNED: u8 = 0xff;
const XEN_HVM_START_MAGIC: u32 = 0x336e_c578;
const PVH_MODULES: u64 = PVH_START_INFO + 0x100;
const PVH_MEMORY_MAP: u64 = PVH_START_INFO + 0x200;
