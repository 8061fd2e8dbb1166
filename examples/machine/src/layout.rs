//! Where things lie in the PC's physical address space.

/// RAM below this address is contiguous from zero; what exceeds it continues at [`HIGH_RAM`].
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// RAM beyond [`LOW_RAM_END`] bytes starts here, above the device window.
pub const HIGH_RAM: u64 = 1 << 32;
/// Conventional memory ends here; the EBDA, video memory and ROMs of a PC follow.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// The ACPI tables, found by scanning from `0xe_0000` (ACPI 6.5, 5.2.5.1).
pub const ACPI_TABLES: u64 = 0xe_0000;
/// Extended memory starts here.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// The I/O APIC.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Its id.
pub const IOAPIC_ID: u8 = 1;
/// The local APIC after reset.
pub const LAPIC: u64 = 0xfee0_0000;

/// The remapping unit: chipsets have it here, and guests that look for no table expect it.
pub const IOMMU: u64 = 0xfed9_0000;
/// Bytes of its registers.
pub const IOMMU_LENGTH: u64 = vtd::registers::LENGTH;
/// Bus, device and function that the I/O APIC's messages come from: 00:04.0, as if it were part of that
/// function. The function is there with the test device only, whose guests say that its pin's messages are its own.
pub const IOAPIC_SOURCE: u16 = (EDU_SLOT as u16) << 3;

/// The descriptor table that the boot protocol asks for.
pub const BOOT_GDT: u64 = 0x500;
/// PVH start information, its module list and its memory map.
pub const PVH_START_INFO: u64 = 0x6000;
/// The zero page.
pub const ZERO_PAGE: u64 = 0x7000;
/// Identity page tables: one PML4, one page of directory pointers, four page directories.
pub const BOOT_PAGE_TABLES: u64 = 0x9000;
/// The kernel command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Multiboot information, its module list, its memory map, and a page further the command line:
/// above where small kernels lie.
pub const MULTIBOOT_INFO: u64 = 0x8_0000;
/// Longest command line in bytes, without its terminating zero.
pub const COMMAND_LINE_MAX: usize = 0xffff;

/// First port of the ACPI power-management block.
pub const ACPI_PM: u16 = 0x600;
/// The system control interrupt.
pub const SCI: u8 = 9;
/// `SLP_TYP` that means power off, as the DSDT says.
pub const S5_SLEEP_TYPE: u8 = 5;
/// First port of the serial line and its interrupt.
pub const COM1: u16 = 0x3f8;

/// Device number of the network adapter on PCI bus 0.
pub const NETWORK_SLOT: u8 = 3;
/// Where the network adapter's registers are after reset.
pub const NETWORK_MEMORY: u32 = 0xfeb0_0000;
/// Where its ports are after reset.
pub const NETWORK_PORTS: u16 = 0xc000;
/// The interrupt that its INTA# is wired to.
pub const NETWORK_IRQ: u8 = 11;
/// Device number of the bus master for test guests.
pub const EDU_SLOT: u8 = 4;
/// Where its registers are after reset.
pub const EDU_MEMORY: u32 = 0xfe00_0000;
/// The interrupt that its INTA# is wired to.
pub const EDU_IRQ: u8 = 10;
/// Device number of a function that is not the board's.
pub const ASSIGNED_SLOT: u8 = 5;
/// The interrupt that its INTA# is wired to.
pub const ASSIGNED_IRQ: u8 = 5;
/// Where its windows of memory are after reset, as far as they fit.
pub const ASSIGNED_MEMORY: std::ops::Range<u64> = 0xe000_0000..0xfe00_0000;
/// Where its ports are, likewise.
pub const ASSIGNED_PORTS: std::ops::Range<u64> = 0xd000..0x1_0000;
/// The window for the memory of PCI functions.
pub const PCI_MEMORY: std::ops::RangeInclusive<u32> = 0xe000_0000..=0xfebf_ffff;
/// The window for their ports.
pub const PCI_PORTS: std::ops::RangeInclusive<u16> = 0x0d00..=0xffff;

/// A piece of the memory map that firmware hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// Whether it is RAM for the guest to use; else reserved.
    pub usable: bool,
}

/// The memory map of a PC with `ram` bytes of RAM.
#[must_use]
pub fn memory_map(ram: u64) -> Vec<MapEntry> {
    let entry = |start: u64, end: u64, usable| MapEntry {
        start,
        size: end - start,
        usable,
    };
    let low_end = ram.min(LOW_RAM_END);
    let mut map = vec![
        entry(0, CONVENTIONAL_END.min(low_end), true),
        entry(CONVENTIONAL_END, 0xa_0000, false),
        entry(ACPI_TABLES, HIGH_MEMORY, false),
    ];
    if low_end > HIGH_MEMORY {
        map.push(entry(HIGH_MEMORY, low_end, true));
    }
    if ram > LOW_RAM_END {
        map.push(entry(HIGH_RAM, HIGH_RAM + (ram - LOW_RAM_END), true));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memory_is_one_piece_beside_the_legacy_hole() {
        let map = memory_map(256 << 20);
        assert_eq!(map.last().unwrap().start, HIGH_MEMORY);
        let usable: u64 = map
            .iter()
            .filter(|entry| entry.usable)
            .map(|entry| entry.size)
            .sum();
        assert_eq!(usable, (256 << 20) - (HIGH_MEMORY - CONVENTIONAL_END));
    }

    #[test]
    fn large_memory_continues_above_4_gib() {
        let map = memory_map(5 << 30);
        let last = map.last().unwrap();
        assert_eq!((last.start, last.size), (1 << 32, 2 << 30));
    }
}
