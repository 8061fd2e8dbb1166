//! Which device answers at which port.

use vm_device::bus::{PioAddress, PioBus, PioRange};

use super::{BoardConfig, Chipset};
use crate::layout::{ACPI_PM, COM1};
use pc_devices::{
    AcpiPm, Ata, BootTimer, DebugConsole, DebugExit, FwCfg, I8042, I8254, I8259Pair, Mc146818,
    ResetControl, SystemControlA, TestDevice,
};

/// A device of the board, as the table of exits names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// The serial line.
    Com1,
    /// The interrupt controllers at 0x20 and 0xa0.
    I8259,
    /// The timer and port 0x61.
    I8254,
    /// The clock and CMOS.
    Mc146818,
    /// The keyboard controller.
    I8042,
    /// System control port A, 0x92.
    SystemControlA,
    /// ACPI power management.
    AcpiPm,
    /// The reset register, 0xcf9.
    ResetControl,
    /// The debug-exit port.
    DebugExit,
    /// The boot timer port.
    BootTimer,
    /// The debug console.
    DebugConsole,
    /// The firmware configuration device.
    FwCfg,
    /// PCI configuration mechanism #1.
    PciConfig,
    /// The ATA disk.
    Disk,
    /// The device for test guests.
    Test,
    /// The network adapter.
    Network,
    /// The function that is not the board's.
    Assigned,
    /// The local APIC.
    LocalApic,
    /// The I/O APIC.
    IoApic,
    /// The remapping unit.
    Iommu,
    /// Ports where there is nothing.
    UnassignedPort,
    /// Addresses where there is nothing.
    UnassignedMemory,
}

impl Device {
    /// All devices, in the order of their discriminants.
    pub const ALL: [Self; 22] = [
        Self::Com1,
        Self::I8259,
        Self::I8254,
        Self::Mc146818,
        Self::I8042,
        Self::SystemControlA,
        Self::AcpiPm,
        Self::ResetControl,
        Self::DebugExit,
        Self::BootTimer,
        Self::DebugConsole,
        Self::FwCfg,
        Self::PciConfig,
        Self::Disk,
        Self::Test,
        Self::Network,
        Self::Assigned,
        Self::LocalApic,
        Self::IoApic,
        Self::Iommu,
        Self::UnassignedPort,
        Self::UnassignedMemory,
    ];

    /// A name for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Com1 => "COM1",
            Self::I8259 => "8259A",
            Self::I8254 => "8254",
            Self::Mc146818 => "CMOS clock",
            Self::I8042 => "i8042",
            Self::SystemControlA => "port 0x92",
            Self::AcpiPm => "ACPI PM",
            Self::ResetControl => "port 0xcf9",
            Self::DebugExit => "debug exit",
            Self::BootTimer => "boot timer",
            Self::DebugConsole => "debug console",
            Self::FwCfg => "fw_cfg",
            Self::PciConfig => "PCI configuration",
            Self::Disk => "ATA disk",
            Self::Test => "test device",
            Self::Network => "network adapter",
            Self::Assigned => "assigned device",
            Self::LocalApic => "local APIC",
            Self::IoApic => "I/O APIC",
            Self::Iommu => "remapping unit",
            Self::UnassignedPort => "no device (port)",
            Self::UnassignedMemory => "no device (memory)",
        }
    }
}

/// The port space of a board.
pub(super) fn port_bus(config: &BoardConfig) -> PioBus<Device> {
    let mut bus = PioBus::new();
    let pm: &[(u16, u16)] = &[(ACPI_PM, AcpiPm::LENGTH)];
    let com1: &[(u16, u16)] = &[(COM1, 8)];
    let mut register = |ranges: &[(u16, u16)], device| {
        for &(base, count) in ranges {
            let range = PioRange::new(PioAddress(base), count).expect("a range of a real device");
            bus.register(range, device)
                .expect("devices of a PC do not overlap");
        }
    };
    register(com1, Device::Com1);
    register(I8259Pair::PORTS, Device::I8259);
    register(I8254::PORTS, Device::I8254);
    register(Mc146818::PORTS, Device::Mc146818);
    register(I8042::PORTS, Device::I8042);
    register(SystemControlA::PORTS, Device::SystemControlA);
    register(DebugExit::PORTS, Device::DebugExit);
    register(BootTimer::PORTS, Device::BootTimer);
    register(DebugConsole::PORTS, Device::DebugConsole);
    register(FwCfg::PORTS, Device::FwCfg);
    if config.disk.is_some() {
        register(Ata::<Vec<u8>>::PORTS, Device::Disk);
    }
    if config.test_device.is_some() {
        register(TestDevice::PORTS, Device::Test);
    }
    if config.chipset == Chipset::M1 {
        register(pm, Device::AcpiPm);
        register(ResetControl::PORTS, Device::ResetControl);
        // The reset register lies between the address and the data port.
        register(&[(0xcf8, 1), (0xcfc, 4)], Device::PciConfig);
    }
    bus
}
