//! The board as a processor's platform: which device an access goes to, interrupts, and time.

use apic::ApicEvent;
use pc_devices::TestDevice;
use pci_config::ConfigMechanism1;
use x86_dbt::{Clock, InterruptSource, Mmio, PortIo};

use super::assigned::Assigned;
use super::edu::Edu;
use super::interrupts::Window;
use super::network::{Network, memory_offset, port_offset};
use super::remapping::Remapping;
use super::{Board, Device, TSC_HZ};

impl PortIo for Board {
    fn port_read(&mut self, port: u16, data: &mut [u8]) {
        let device = self.device_at(port);
        self.count(device, false);
        self.advance(device);
        match device {
            Device::Com1 => self.com1.read(port, data),
            Device::I8259 => {
                self.interrupts.pic.read(port, data);
                self.note_port(port, None);
            }
            Device::I8254 => self.pit.read(port, data),
            Device::Mc146818 => self.rtc.read(port, data),
            Device::I8042 => self.kbc.read(port, data),
            Device::SystemControlA => self.port_92.read(port, data),
            Device::AcpiPm => self.pm.read(port, data),
            Device::ResetControl => self.reset.read(port, data),
            Device::DebugExit => self.debug_exit.read(port, data),
            Device::BootTimer => self.boot_timer.read(port, data),
            Device::DebugConsole => self.debug_console.read(port, data),
            Device::FwCfg => self.fw_cfg.read(port, data),
            Device::Disk => {
                if let Some(disk) = &mut self.disk {
                    disk.read(port, data);
                }
            }
            Device::Test => {
                if let Some(device) = &mut self.test_device {
                    device.read(port, data);
                }
            }
            Device::PciConfig => {
                let port = self.pci_data_port(port);
                self.pci_mechanism.read(&mut self.pci, port, data);
            }
            Device::Network => match self.network_port(port) {
                Some((network, offset)) => network.port_read(offset, data),
                None => data.fill(0xff),
            },
            Device::Assigned => self.assigned_read(port.into(), true, data),
            _ => data.fill(0xff),
        }
        if device != Device::UnassignedPort {
            self.settle();
        }
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        let device = self.device_at(port);
        self.count(device, true);
        self.advance(device);
        match device {
            Device::Com1 => self.com1.write(port, data),
            Device::I8259 => {
                self.interrupts.pic.write(port, data);
                self.note_port(port, data.first().copied());
            }
            Device::I8254 => self.pit.write(port, data),
            Device::Mc146818 => self.rtc.write(port, data),
            Device::I8042 => self.kbc.write(port, data),
            Device::SystemControlA => self.port_92.write(port, data),
            Device::AcpiPm => self.pm.write(port, data),
            Device::ResetControl => self.reset.write(port, data),
            Device::DebugExit => self.debug_exit.write(port, data),
            Device::BootTimer => self.boot_timer.write(port, data),
            Device::DebugConsole => self.debug_console.write(port, data),
            Device::FwCfg => self.fw_cfg.write(port, data),
            Device::Disk => {
                if let Some(disk) = &mut self.disk {
                    disk.write(port, data);
                }
            }
            Device::Test => {
                if let Some(device) = &mut self.test_device {
                    device.write(port, data);
                }
            }
            Device::PciConfig => {
                if let (CF8, [low, ..]) = (port, data) {
                    self.pci_low_bits = low & 3;
                }
                let port = self.pci_data_port(port);
                self.pci_mechanism.write(&mut self.pci, port, data);
            }
            Device::Network => {
                let (now, offset) = (self.now(), port_offset(&self.pci, port));
                if let (Some(network), Some(offset)) = (&mut self.network, offset) {
                    network.port_write(offset, data, now, &self.pci);
                }
            }
            Device::Assigned => self.assigned_write(port.into(), true, data),
            _ => {}
        }
        if device != Device::UnassignedPort {
            self.settle();
        }
    }
}

impl Mmio for Board {
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        let Some((window, offset)) = self.interrupts.window(gpa) else {
            return self.remapping_read(gpa, data);
        };
        let device = device_of(window);
        self.count(device, false);
        self.advance(device);
        if window == Window::LocalApic {
            self.note(ApicEvent::Read {
                register: register_at(offset),
            });
        }
        self.interrupts.read(window, offset, data);
        // A read may raise an error interrupt, and bringing the timer to now may raise its own.
        self.settle();
    }

    fn take_written(&mut self) -> Option<(u64, u64)> {
        let by_adapter = self.network.as_ref().and_then(Network::take_written);
        by_adapter
            .or_else(|| self.remapping.as_ref()?.take_written())
            .or_else(|| self.edu.as_ref()?.take_written())
            .or_else(|| self.assigned.as_ref()?.take_written())
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        let Some((window, offset)) = self.interrupts.window(gpa) else {
            return self.remapping_write(gpa, data);
        };
        let device = device_of(window);
        self.count(device, true);
        self.advance(device);
        if window == Window::LocalApic {
            let mut bytes = [0; 8];
            let length = data.len().min(4);
            bytes[..length].copy_from_slice(&data[..length]);
            self.note(ApicEvent::Write {
                register: register_at(offset),
                value: u64::from_le_bytes(bytes),
            });
        }
        self.interrupts.write(window, offset, data);
        self.settle();
    }
}

impl InterruptSource for Board {
    fn interrupt_pending(&mut self) -> bool {
        self.interrupts.requested()
    }

    fn acknowledge(&mut self) -> Option<u8> {
        self.note_taken();
        let vector = self.interrupts.acknowledge();
        self.note_requests();
        vector
    }

    fn take_nmi(&mut self) -> bool {
        self.interrupts
            .lapic_mut()
            .is_some_and(apic::LocalApic::take_nmi)
    }

    fn apic_enabled(&mut self) -> bool {
        let lapic = self.interrupts.lapic();
        lapic.is_none_or(apic::LocalApic::is_enabled)
    }

    fn task_priority(&mut self) -> u8 {
        self.interrupts
            .lapic()
            .map_or(0, apic::LocalApic::task_priority)
    }

    fn set_task_priority(&mut self, class: u8) {
        if let Some(lapic) = self.interrupts.lapic_mut() {
            lapic.set_task_priority(class);
            self.interrupts.settle();
        }
        let value = u64::from(class) << 4;
        self.note(ApicEvent::Write {
            register: TASK_PRIORITY,
            value,
        });
    }

    fn msr_read(&mut self, index: u32) -> Option<u64> {
        if !apic::LocalApic::owns_msr(index) {
            return None;
        }
        self.count(Device::LocalApic, false);
        self.advance(Device::LocalApic);
        if let Some(register) = register_of(index) {
            self.note(ApicEvent::Read { register });
        }
        let value = self.interrupts.read_msr(index);
        self.settle();
        value
    }

    fn msr_write(&mut self, index: u32, value: u64) -> bool {
        if !apic::LocalApic::owns_msr(index) {
            return false;
        }
        self.count(Device::LocalApic, true);
        self.advance(Device::LocalApic);
        if let Some(register) = register_of(index) {
            self.note(ApicEvent::Write { register, value });
        }
        let taken = self.interrupts.write_msr(index, value);
        self.settle();
        taken
    }
}

impl Clock for Board {
    fn set_retired(&mut self, retired: u64) {
        self.clock.set_retired(retired);
        if self.now() >= self.deadline_ns {
            self.pass_time();
        }
    }

    fn tsc(&mut self) -> u64 {
        let ticks = u128::from(self.now()) * u128::from(TSC_HZ) / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    fn deadline(&mut self) -> u64 {
        match self.outcome {
            // At once: the machine is to stop.
            Some(_) => 0,
            None => self.clock.instruction_at(self.deadline_ns),
        }
    }
}

impl Board {
    /// Test guests put the lower two bits of a register into the address, where PCI 3.0 (3.2.2.3.2) has zeros,
    /// and read it at 0xcfc: for them, and them alone, the bits count, as they do in QEMU.
    fn pci_data_port(&self, port: u16) -> u16 {
        match self.test_device {
            Some(_) if port == CFC => port | u16::from(self.pci_low_bits),
            _ => port,
        }
    }

    fn remapping_read(&mut self, gpa: u64, data: &mut [u8]) {
        let (Some(offset), Some(remapping)) = (Remapping::offset(gpa), &self.remapping) else {
            return self.pci_read(gpa, data);
        };
        remapping.read(offset, data);
        self.count(Device::Iommu, false);
    }

    fn remapping_write(&mut self, gpa: u64, data: &[u8]) {
        let (Some(offset), Some(remapping)) = (Remapping::offset(gpa), &self.remapping) else {
            return self.pci_write(gpa, data);
        };
        remapping.write(offset, data);
        self.count(Device::Iommu, true);
        self.settle();
    }

    fn pci_read(&mut self, gpa: u64, data: &mut [u8]) {
        let offset = memory_offset(&self.pci, gpa);
        let (Some(offset), true) = (offset, self.network.is_some()) else {
            return self.edu_read(gpa, data);
        };
        self.count(Device::Network, false);
        self.advance(Device::Network);
        if let Some(network) = &mut self.network {
            network.read(offset, data);
        }
        self.settle();
    }

    fn pci_write(&mut self, gpa: u64, data: &[u8]) {
        let offset = memory_offset(&self.pci, gpa);
        let (Some(offset), true) = (offset, self.network.is_some()) else {
            return self.edu_write(gpa, data);
        };
        self.count(Device::Network, true);
        self.advance(Device::Network);
        let now = self.now();
        if let Some(network) = &mut self.network {
            network.write(offset, data, now, &self.pci);
        }
        self.settle();
    }

    fn edu_read(&mut self, gpa: u64, data: &mut [u8]) {
        let (Some(offset), Some(edu)) = (Edu::offset(&self.pci, gpa), &self.edu) else {
            return self.other_read(gpa, data);
        };
        edu.read(offset, data);
        self.count(Device::Test, false);
    }

    fn edu_write(&mut self, gpa: u64, data: &[u8]) {
        let (Some(offset), Some(edu)) = (Edu::offset(&self.pci, gpa), &mut self.edu) else {
            return self.other_write(gpa, data);
        };
        edu.write(offset, data, &self.pci);
        self.count(Device::Test, true);
        self.settle();
    }

    fn other_read(&mut self, gpa: u64, data: &mut [u8]) {
        if Assigned::offset(&self.pci, gpa, false).is_none() {
            return self.test_read(gpa, data);
        }
        self.assigned_read(gpa, false, data);
        self.count(Device::Assigned, false);
        self.settle();
    }

    fn other_write(&mut self, gpa: u64, data: &[u8]) {
        if Assigned::offset(&self.pci, gpa, false).is_none() {
            return self.test_write(gpa, data);
        }
        self.assigned_write(gpa, false, data);
        self.count(Device::Assigned, true);
        self.settle();
    }

    fn assigned_read(&mut self, address: u64, ports: bool, data: &mut [u8]) {
        data.fill(0xff);
        let hit = Assigned::offset(&self.pci, address, ports);
        if let (Some((bar, offset)), Some(assigned)) = (hit, &mut self.assigned) {
            assigned.read(bar, offset, data);
        }
    }

    fn assigned_write(&mut self, address: u64, ports: bool, data: &[u8]) {
        let hit = Assigned::offset(&self.pci, address, ports);
        if let (Some((bar, offset)), Some(assigned)) = (hit, &mut self.assigned) {
            assigned.write(bar, offset, data);
        }
    }

    fn test_read(&mut self, gpa: u64, data: &mut [u8]) {
        let Some((device, offset)) = test_memory(&mut self.test_device, gpa) else {
            data.fill(0xff);
            return self.count(Device::UnassignedMemory, false);
        };
        device.read_memory(offset, data);
        self.count(Device::Test, false);
    }

    fn test_write(&mut self, gpa: u64, data: &[u8]) {
        let Some((device, offset)) = test_memory(&mut self.test_device, gpa) else {
            return self.count(Device::UnassignedMemory, true);
        };
        device.write_memory(offset, data);
        self.count(Device::Test, true);
    }
}

/// The test device, if it answers at `gpa`, and at which offset.
fn test_memory(device: &mut Option<TestDevice>, gpa: u64) -> Option<(&mut TestDevice, u64)> {
    let offset = gpa.checked_sub(TestDevice::MEMORY)?;
    let device = device.as_mut()?;
    (offset < TestDevice::MEMORY_LENGTH).then_some((device, offset))
}

/// CR8 is the task priority.
const TASK_PRIORITY: u8 = 0x08;

/// The local APIC's register at an offset in its page.
fn register_at(offset: u64) -> u8 {
    u8::try_from(offset >> 4 & 0x3f).expect("masked")
}

/// The register behind an x2APIC MSR.
fn register_of(index: u32) -> Option<u8> {
    let number = index.checked_sub(0x800)?;
    u8::try_from(number).ok().filter(|&number| number < 64)
}

const CF8: u16 = ConfigMechanism1::BASE;
const CFC: u16 = CF8 + 4;

fn device_of(window: Window) -> Device {
    match window {
        Window::LocalApic => Device::LocalApic,
        Window::IoApic => Device::IoApic,
    }
}
