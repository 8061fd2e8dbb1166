//! The ACPI tables of chipset M1: RSDP, XSDT, FADT, FACS, DSDT, MADT, and DMAR for a remapping unit.
//!
//! Reference: ACPI 6.5, chapter 5.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{self, AccessSize, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use pc_devices::{AcpiPm, Mc146818, ResetControl};
use vtd::dmar::Dmar;
use vtd::{Capabilities, SourceId};

use crate::layout::{
    ACPI_PM, ACPI_TABLES, ASSIGNED_IRQ, ASSIGNED_SLOT, COM1, IOAPIC, IOAPIC_ID, IOAPIC_SOURCE,
    IOMMU, LAPIC, NETWORK_IRQ, NETWORK_SLOT, PCI_MEMORY, PCI_PORTS, S5_SLEEP_TYPE, SCI,
};

/// Whether the tables tell of a PCI bus. Without, no operating system looks for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciRoot {
    /// They do not.
    Hidden,
    /// They do, and where the interrupts of its devices go.
    Shown,
}

/// All tables as they lie in memory from [`ACPI_TABLES`], where the RSDP is; of so many `processors`, and of the
/// remapping unit `iommu`, if there is one.
#[must_use]
pub fn acpi_tables(processors: u8, pci: PciRoot, iommu: Option<&Capabilities>) -> Vec<u8> {
    let mut image = vec![0; 64];
    let facs = place(&mut image, &bytes(&FACS::new()));
    let dsdt = place(&mut image, dsdt(pci).as_slice());
    let fadt = place(&mut image, &fadt(facs, dsdt));
    let madt = place(&mut image, madt(processors, pci).as_slice());
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    if let Some(capabilities) = iommu {
        xsdt.add_entry(place(&mut image, dmar(capabilities).as_slice()));
    }
    let xsdt = place(&mut image, &bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    image[..rsdp.len()].copy_from_slice(&rsdp);
    image
}

/// Appends a table at the next multiple of 64 (the FACS asks for it) and answers its address.
fn place(image: &mut Vec<u8>, table: &[u8]) -> u64 {
    image.resize(image.len().next_multiple_of(64), 0);
    let at = ACPI_TABLES + u64::try_from(image.len()).expect("tables are small");
    image.extend_from_slice(table);
    at
}

fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let low = |address: u64| u32::try_from(address).expect("tables lie below 1 MiB");
    let block = |offset: u16| u32::from(ACPI_PM + offset);
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, 1)
        .firmware_ctrl_32(low(facs))
        .dsdt_32(low(dsdt))
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup)
        .gpe_info(block(AcpiPm::GPE0), 0, 4, 0, 0);
    fadt.sci_int = u16::from(SCI).into();
    fadt.pm1a_evt_blk = block(0).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = block(AcpiPm::PM1A_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = block(AcpiPm::PM_TIMER).into();
    fadt.pm_tmr_len = 4;
    // "A value > 100 indicates the system does not support a C2 state", > 1000 likewise C3.
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    fadt.century = Mc146818::CENTURY;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | HAS_8042 | VGA_NOT_PRESENT).into();
    fadt.reset_reg = GAS::new(
        gas::AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        ResetControl::PORTS[0].0.into(),
    );
    fadt.reset_value = ResetControl::RESET_VALUE;
    bytes(&fadt.finalize())
}

fn madt(processors: u8, pci: PciRoot) -> Sdt {
    let low = |address: u64| u32::try_from(address).expect("below 4 GiB");
    let mut madt = Sdt::new(*b"APIC", 44, 5, OEM, OEM_TABLE, 1);
    madt.write_u32(36, low(LAPIC));
    madt.write_u32(40, PCAT_COMPAT);
    for id in 0..processors {
        let enabled = EnabledStatus::Enabled;
        madt.append_slice(&bytes(&ProcessorLocalApic::new(id, id, enabled)));
    }
    madt.append_slice(&bytes(&IoApic::new(IOAPIC_ID, low(IOAPIC), 0)));
    // The timer is at pin 2, the SCI is level triggered and active high.
    madt.append_slice(&source_override(0, 2, 0));
    madt.append_slice(&source_override(SCI, SCI, ACTIVE_HIGH | LEVEL));
    if pci == PciRoot::Shown {
        let flags = ACTIVE_HIGH | LEVEL;
        for irq in [ASSIGNED_IRQ, NETWORK_IRQ] {
            madt.append_slice(&source_override(irq, irq, flags));
        }
    }
    madt.append_slice(&local_apic_nmi());
    madt
}

fn dmar(capabilities: &Capabilities) -> Sdt {
    let source = SourceId(IOAPIC_SOURCE);
    Dmar::of_one_unit(capabilities, IOMMU, IOAPIC_ID, source).table(OEM, OEM_TABLE, 1)
}

/// Interrupt source override structure, 5.2.12.5.
fn source_override(irq: u8, pin: u8, flags: u16) -> [u8; 10] {
    let [low, high] = flags.to_le_bytes();
    [2, 10, 0, irq, pin, 0, 0, 0, low, high]
}

/// Local APIC NMI structure, 5.2.12.7: LINT1 of every processor.
fn local_apic_nmi() -> [u8; 6] {
    [4, 6, 0xff, 0, 0, 1]
}

fn dsdt(pci: PciRoot) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, 1);
    let s5 = [S5_SLEEP_TYPE, S5_SLEEP_TYPE, 0u8, 0u8];
    Name::new(
        "_S5_".into(),
        &Package::new(s5.iter().map(|value| value as &dyn Aml).collect()),
    )
    .to_aml_bytes(&mut dsdt);
    isa_device(&mut dsdt, "COM1", "PNP0501", &[(COM1, 8)], 4);
    isa_device(&mut dsdt, "RTC0", "PNP0B00", &[(0x70, 2)], 8);
    isa_device(&mut dsdt, "KBD0", "PNP0303", &[(0x60, 1), (0x64, 1)], 1);
    isa_device(&mut dsdt, "MOU0", "PNP0F13", &[], 12);
    if pci == PciRoot::Shown {
        pci_root(&mut dsdt);
    }
    dsdt
}

/// Bus 0 with its windows, and the interrupts of its devices: 6.2.13 and PCI firmware 3.3.
fn pci_root(sink: &mut dyn AmlSink) {
    let bus = AddressSpace::new_bus_number(0_u16, 0);
    let configuration = IO::new(0xcf8, 0xcf8, 1, 8);
    let ports = AddressSpace::new_io(*PCI_PORTS.start(), *PCI_PORTS.end(), None);
    let memory = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        *PCI_MEMORY.start(),
        *PCI_MEMORY.end(),
        None,
    );
    let settings = ResourceTemplate::new(vec![&bus, &configuration, &ports, &memory]);
    let settings = Name::new("_CRS".into(), &settings);
    let id = Name::new("_HID".into(), &EISAName::new("PNP0A03"));
    let number = Name::new("_UID".into(), &0_u8);
    // Any function of the slot, INTA#, no link device, a global system interrupt.
    let route = |slot: u8, irq: u8| (u32::from(slot) << 16 | 0xffff, u32::from(irq));
    let (network, assigned) = (
        route(NETWORK_SLOT, NETWORK_IRQ),
        route(ASSIGNED_SLOT, ASSIGNED_IRQ),
    );
    let network = Package::new(vec![&network.0, &0_u8, &0_u8, &network.1]);
    let assigned = Package::new(vec![&assigned.0, &0_u8, &0_u8, &assigned.1]);
    let routes = Name::new("_PRT".into(), &Package::new(vec![&network, &assigned]));
    let root = Device::new(Path::new("PCI0"), vec![&id, &number, &settings, &routes]);
    Scope::new("_SB_".into(), vec![&root]).to_aml_bytes(sink);
}

/// A device at fixed ports with an edge-triggered interrupt.
fn isa_device(sink: &mut dyn AmlSink, name: &str, id: &str, ports: &[(u16, u8)], irq: u32) {
    let ports: Vec<IO> = ports
        .iter()
        .map(|&(base, count)| IO::new(base, base, 1, count))
        .collect();
    let interrupt = Interrupt::new(true, true, false, false, irq);
    let resources = ports
        .iter()
        .map(|io| io as &dyn Aml)
        .chain([&interrupt as &dyn Aml])
        .collect();
    let id = Name::new("_HID".into(), &EISAName::new(id));
    let settings = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    let device = Device::new(Path::new(name), vec![&id, &settings]);
    Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(sink);
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

const OEM: [u8; 6] = *b"SOFTMT";
const OEM_TABLE: [u8; 8] = *b"SOFTMACH";
// Table 5.10, IAPC_BOOT_ARCH.
const LEGACY_DEVICES: u16 = 1 << 0;
const HAS_8042: u16 = 1 << 1;
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// Table 5.20: the machine has a pair of 8259A as well.
const PCAT_COMPAT: u32 = 1 << 0;
// Table 5.26, MPS INTI flags.
const ACTIVE_HIGH: u16 = 0b01;
const LEVEL: u16 = 0b11 << 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// The table at a physical address, as a guest finds it: length from its header.
    fn table(image: &[u8], address: u64) -> &[u8] {
        let at = usize::try_from(address - ACPI_TABLES).unwrap();
        let length = usize::try_from(u32_at(image, at + 4)).unwrap();
        &image[at..at + length]
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes
            .iter()
            .fold(0, |sum: u8, &byte| sum.wrapping_add(byte))
    }

    #[test]
    fn every_table_is_found_and_sums_to_zero() {
        let image = acpi_tables(1, PciRoot::Shown, Some(&Capabilities::legacy()));
        assert_eq!(&image[..8], b"RSD PTR ");
        assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
        let xsdt = table(&image, u64::from(u32_at(&image, 24)));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        let names: Vec<_> = xsdt[36..]
            .chunks(8)
            .map(|entry| table(&image, u64::from_le_bytes(entry.try_into().unwrap())))
            .inspect(|table| assert_eq!(sum(table), 0))
            .map(|table| std::str::from_utf8(&table[..4]).unwrap())
            .collect();
        assert_eq!(names, ["FACP", "APIC", "DMAR"]);
    }

    #[test]
    fn the_fadt_leads_to_facs_dsdt_and_the_registers() {
        let image = acpi_tables(1, PciRoot::Shown, Some(&Capabilities::legacy()));
        let xsdt = table(&image, u64::from(u32_at(&image, 24)));
        let fadt = table(&image, u64::from(u32_at(xsdt, 36)));
        assert_eq!(&table(&image, u32_at(fadt, 36).into())[..4], b"FACS");
        let dsdt = table(&image, u32_at(fadt, 40).into());
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        assert_eq!(u32_at(fadt, 56), 0x600);
        assert_eq!(u32_at(fadt, 64), 0x604);
        assert_eq!(u32_at(fadt, 76), 0x608);
        assert_eq!((fadt[108], fadt[128]), (0x32, 6));
    }

    #[test]
    fn the_madt_lists_every_processor() {
        let image = acpi_tables(4, PciRoot::Hidden, None);
        let xsdt = table(&image, u64::from(u32_at(&image, 24)));
        let madt = table(&image, u64::from(u32_at(xsdt, 44)));
        assert_eq!((&madt[..4], sum(madt)), (&b"APIC"[..], 0));
        // Processor local APIC structure, 5.2.12.2: type, length, processor, id, enabled.
        let listed: Vec<_> = madt[44..].chunks(8).take(4).collect();
        let expected = [0u8, 1, 2, 3].map(|id| [0, 8, id, id, 1, 0, 0, 0]);
        assert_eq!(listed, expected);
    }

    #[test]
    fn the_tables_fit_below_1_mib() {
        assert!(acpi_tables(8, PciRoot::Shown, Some(&Capabilities::legacy())).len() < 0x2_0000);
    }
}
