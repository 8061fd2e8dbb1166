//! The board: every device of the PC, wired, behind the traits that a processor asks of its
//! platform.

mod assigned;
mod clock;
mod com1;
mod dma;
mod edu;
mod history;
mod interrupts;
mod network;
mod platform;
mod ports;
mod remapping;
mod ring_memory;
#[cfg(test)]
mod tests;
mod virtio_pci;

use std::fmt;

use apic::LocalApic;
use pc_devices::{
    AcpiPm, Ata, BootTimer, Button, DebugConsole, DebugExit, FwCfg, I8042, I8254, Mc146818,
    MemorySize, ResetControl, SystemControlA, TestDevice, TimerWidth,
};
use pci_config::{Bdf, Bus, ConfigMechanism1, ConfigSpace, Header, MsiMessage};
use vm_device::bus::{PioAddress, PioBus};
use vtd::Counters;
use vtd::iotlb::IotlbCounters;

use crate::kernel::Ram;
use crate::layout::{ACPI_PM, ASSIGNED_IRQ, EDU_IRQ, LOW_RAM_END, NETWORK_IRQ, S5_SLEEP_TYPE, SCI};
use assigned::Assigned;
use clock::InstructionClock;
use com1::Com1;
use dma::Dma;
use edu::Edu;
use history::History;
use interrupts::Interrupts;
use network::{Network, port_offset};
use remapping::Remapping;

pub use assigned::{
    AssignError, AssignedConfig, AssignedCounts, AssignedDevice, CONFIGURATION, DeviceMemory,
    DmaRange, Signalling,
};
pub use com1::Console;
pub use network::{Adapter, AdapterKind, NetworkConfig, Wire};
pub use ports::Device;
pub use remapping::IommuConfig;
pub use virtio_pci::{VirtioExits, VirtioPci};

/// Frequency of the time-stamp counter in Hz.
pub const TSC_HZ: u64 = 1_000_000_000;
/// Frequency of the local APIC timer in Hz, before its divider.
pub const APIC_TIMER_HZ: u64 = 1_000_000_000;

/// Which devices there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chipset {
    /// No APIC and no ACPI: 8259A, 8254, CMOS, i8042, COM1 and the debug ports.
    M0,
    /// M0 with a local APIC in virtual-wire mode, an I/O APIC and ACPI.
    M1,
}

/// What a board is built with.
pub struct BoardConfig {
    /// Devices.
    pub chipset: Chipset,
    /// Processors, 1 to [`MAX_PROCESSORS`](Board::MAX_PROCESSORS); more than one need chipset M1.
    pub processors: u8,
    /// Bytes of RAM, for the CMOS fields.
    pub ram: u64,
    /// Time of day at the start, in seconds since 1970.
    pub unix_seconds: i64,
    /// How long an instruction takes, in nanoseconds; not zero.
    pub ns_per_instruction: u64,
    /// Devices for test guests to prod the machine with, and the memory that one of them reaches.
    pub test_device: Option<Ram>,
    /// The bytes of a disk on the first ATA channel, if there is one.
    pub disk: Option<Vec<u8>>,
    /// Files that firmware finds in `fw_cfg`, by name.
    pub firmware_files: Vec<(String, Vec<u8>)>,
    /// Where the serial line writes to.
    pub console: Console,
    /// A network adapter, on chipset M1.
    pub network: Option<NetworkConfig>,
    /// Whether local APICs have x2APIC mode.
    pub x2apic: bool,
    /// A remapping unit before all devices that reach memory by themselves, on chipset M1.
    pub iommu: Option<IommuConfig>,
}

impl fmt::Debug for BoardConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoardConfig")
            .field("chipset", &self.chipset)
            .field("ram", &self.ram)
            .field("ns_per_instruction", &self.ns_per_instruction)
            .finish_non_exhaustive()
    }
}

/// Why the machine should stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered off through ACPI.
    PowerOff,
    /// The guest asked for another sleep state, by this `SLP_TYP`.
    Sleep(u8),
    /// The guest reset the machine.
    Reset,
    /// The guest wrote this to the debug-exit port.
    DebugExit(u32),
}

/// Accesses by the guest to one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exits {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// The devices of one PC.
///
/// Implements the traits of [`x86_dbt::Platform`]. Time is that of [`x86_dbt::Clock::set_retired`] plus what
/// [`skip_idle_to`](Self::skip_idle_to) added; the same accesses at the same times give the same
/// answers.
pub struct Board {
    chipset: Chipset,
    ports: PioBus<Device>,
    interrupts: Interrupts,
    pit: I8254,
    rtc: Mc146818,
    kbc: I8042,
    pm: AcpiPm,
    port_92: SystemControlA,
    reset: ResetControl,
    debug_exit: DebugExit,
    boot_timer: BootTimer,
    debug_console: DebugConsole,
    fw_cfg: FwCfg,
    test_device: Option<TestDevice>,
    edu: Option<Edu>,
    disk: Option<Ata<Vec<u8>>>,
    pci: Bus<ConfigSpace>,
    pci_mechanism: ConfigMechanism1,
    /// What a test guest wrote to the address register's lowest bits.
    pci_low_bits: u8,
    com1: Com1,
    network: Option<Network>,
    assigned: Option<Assigned>,
    remapping: Option<Remapping>,
    /// Interrupt messages for controllers that are not the board's.
    diverted: Option<Vec<MsiMessage>>,
    history: Option<History>,
    clock: InstructionClock,
    /// The earliest deadline of any device, in nanoseconds; `u64::MAX` for none.
    deadline_ns: u64,
    outcome: Option<Outcome>,
    exits: [Exits; Device::ALL.len()],
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board")
            .field("chipset", &self.chipset)
            .field("clock", &self.clock)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

impl Board {
    /// A board at time zero, as firmware would hand it over.
    ///
    /// # Panics
    ///
    /// When an instruction takes no time, and on a network, a remapping unit or several processors without chipset M1.
    #[must_use]
    pub fn new(config: BoardConfig) -> Self {
        let processors = config.processors;
        assert!(
            (1..=Self::MAX_PROCESSORS).contains(&processors),
            "{processors} processors"
        );
        assert!(
            processors == 1 || config.chipset == Chipset::M1,
            "several processors need APICs"
        );
        let mut rtc = Mc146818::new(config.unix_seconds);
        rtc.set_memory_size(MemorySize {
            below_4g: config.ram.min(LOW_RAM_END),
            above_4g: config.ram.saturating_sub(LOW_RAM_END),
        });
        let ports = ports::port_bus(&config);
        let mut pci = pci_bus(config.disk.is_some());
        let remapping = config.iommu.map(|iommu| {
            assert_eq!(config.chipset, Chipset::M1, "remapping needs APICs");
            Remapping::new(iommu)
        });
        let network = config.network.map(|network| {
            assert_eq!(config.chipset, Chipset::M1, "a network needs PCI");
            Network::new(network, &mut pci, remapping.as_ref())
        });
        let test_device = config.test_device.is_some().then(TestDevice::new);
        let edu = config.test_device.map(|ram| {
            let memory = match &remapping {
                Some(remapping) => remapping.memory_of(edu::place()),
                None => Dma::new(ram),
            };
            Edu::new(memory, &mut pci)
        });
        let mut board = Self {
            chipset: config.chipset,
            ports,
            interrupts: Interrupts::new(
                config.chipset,
                processors,
                config.x2apic,
                remapping.clone(),
            ),
            pit: I8254::new(),
            rtc,
            kbc: I8042::new(),
            pm: AcpiPm::new(ACPI_PM, TimerWidth::Bits32),
            port_92: SystemControlA::default(),
            reset: ResetControl::default(),
            debug_exit: DebugExit::default(),
            boot_timer: BootTimer::default(),
            debug_console: DebugConsole::default(),
            fw_cfg: fw_cfg(config.ram, processors, config.firmware_files),
            test_device,
            edu,
            pci,
            disk: config.disk.map(Ata::new),
            pci_mechanism: ConfigMechanism1::default(),
            pci_low_bits: 0,
            com1: Com1::new(config.console),
            network,
            assigned: None,
            remapping,
            diverted: None,
            history: None,
            clock: InstructionClock::new(config.ns_per_instruction),
            deadline_ns: u64::MAX,
            outcome: None,
            exits: [Exits::default(); Device::ALL.len()],
        };
        board.settle();
        board
    }

    /// Processors that a board can have.
    pub const MAX_PROCESSORS: u8 = 8;

    /// Gives the board a function that somebody else has.
    ///
    /// # Errors
    ///
    /// When the device is gone, or is not as PCI functions are.
    ///
    /// # Panics
    ///
    /// Without chipset M1, and if there is one already.
    pub fn assign(&mut self, config: AssignedConfig) -> Result<(), AssignError> {
        assert_eq!(self.chipset, Chipset::M1, "a function needs PCI");
        assert!(self.assigned.is_none(), "there is a place for one");
        let assigned = Assigned::new(config, &mut self.pci, self.remapping.as_ref())?;
        self.assigned = Some(assigned);
        self.settle();
        Ok(())
    }

    /// Which devices there are.
    #[must_use]
    pub fn chipset(&self) -> Chipset {
        self.chipset
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// When a device next does something by itself, in nanoseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        (self.deadline_ns != u64::MAX).then_some(self.deadline_ns)
    }

    /// Lets idle time pass up to `ns`; timers that fall due on the way fire in order.
    pub fn skip_idle_to(&mut self, ns: u64) {
        self.note_idle(true);
        self.clock.skip_to(ns);
        self.pass_time();
        self.note_idle(false);
    }

    /// For a halted processor: skips to the next deadline, again until an interrupt or the end
    /// of the machine comes. `false` when nothing would ever wake it.
    ///
    /// At most [`IDLE_STEPS`](Self::IDLE_STEPS) deadlines are skipped in one call; `true` means to
    /// look again.
    pub fn skip_idle(&mut self) -> bool {
        self.skip_idle_until(Self::requests_interrupt)
    }

    /// The same, until something else than an interrupt comes.
    pub(crate) fn skip_idle_until(&mut self, woken: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..Self::IDLE_STEPS {
            if woken(self) || self.outcome.is_some() {
                return true;
            }
            let Some(deadline) = self.next_deadline() else {
                return false;
            };
            self.skip_idle_to(deadline);
        }
        true
    }

    /// Deadlines that one [`skip_idle`](Self::skip_idle) or one jump in time goes through.
    pub const IDLE_STEPS: usize = 10_000;

    /// Whether the processor that runs has an interrupt to take.
    pub(crate) fn requests_interrupt(&self) -> bool {
        self.interrupts.requested()
    }

    /// Goes on with accesses of `processor`, which has retired `retired` instructions and is one of `sharers` that take
    /// turns: each instruction takes such a part of its time.
    pub(crate) fn switch_to(&mut self, processor: usize, retired: u64, sharers: u64) {
        self.clock.switch(retired, sharers);
        self.interrupts.select(processor);
    }

    /// A processor's local APIC, on a board with several.
    pub(crate) fn lapic(&self, processor: usize) -> &LocalApic {
        &self.interrupts.lapics()[processor]
    }

    pub(crate) fn lapic_mut(&mut self, processor: usize) -> &mut LocalApic {
        &mut self.interrupts.lapics_mut()[processor]
    }

    /// How many processors there are.
    #[must_use]
    pub fn processors(&self) -> usize {
        self.interrupts.lapics().len().max(1)
    }

    /// Why the machine should stop, once the guest has said so.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Types into the serial line.
    pub fn push_input(&mut self, bytes: &[u8]) {
        self.com1.push_input(bytes);
        self.settle();
    }

    /// Presses the power button.
    pub fn press_power_button(&mut self) {
        self.pm.press(Button::Power);
        self.settle();
    }

    /// Takes what the guest wrote to the debug console.
    pub fn take_debug_output(&mut self) -> Vec<u8> {
        self.debug_console.take_output()
    }

    /// When the guest said that it had booted, in nanoseconds.
    #[must_use]
    pub fn booted_at(&self) -> Option<u64> {
        self.boot_timer.booted_at()
    }

    /// Accesses by device, those without any left out.
    pub fn exits(&self) -> impl Iterator<Item = (Device, Exits)> {
        Device::ALL
            .into_iter()
            .zip(self.exits)
            .filter(|(_, exits)| exits.reads + exits.writes > 0)
    }

    /// Levels of the global system interrupts, bit `n` for interrupt `n`: for engines whose
    /// interrupt controllers are not the board's.
    #[must_use]
    pub fn lines(&self) -> u32 {
        self.interrupts.lines()
    }

    /// Keeps interrupt messages from the board's controllers, for [`take_messages`](Self::take_messages).
    pub fn divert_messages(&mut self) {
        self.diverted.get_or_insert_default();
    }

    /// Takes the messages since the last time, once they are diverted.
    pub fn take_messages(&mut self) -> Vec<MsiMessage> {
        self.diverted
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Interrupts that the 8259A pair delivered, by line.
    #[must_use]
    pub fn acknowledged(&self) -> &[u64; 16] {
        self.interrupts.pic.acknowledged()
    }

    /// What the remapping unit did, if there is one.
    #[must_use]
    pub fn remapping_counters(&self) -> Option<(Counters, IotlbCounters)> {
        let unit = self.remapping.as_ref()?.unit();
        Some((unit.counters(), unit.iotlb_counters()))
    }

    /// The network adapter, if there is one.
    #[must_use]
    pub fn network(&self) -> Option<&Adapter> {
        self.network.as_ref().map(Network::adapter)
    }

    /// What the function that somebody else has did, if there is one.
    #[must_use]
    pub fn assigned(&self) -> Option<AssignedCounts> {
        self.assigned.as_ref().map(Assigned::counts)
    }

    /// Why that function is gone, if it is.
    #[must_use]
    pub fn assigned_failure(&self) -> Option<&std::io::Error> {
        self.assigned.as_ref().and_then(Assigned::failure)
    }

    fn count(&mut self, device: Device, write: bool) {
        let exits = &mut self.exits[device as usize];
        exits.reads += u64::from(!write);
        exits.writes += u64::from(write);
    }

    fn device_at(&self, port: u16) -> Device {
        if let Some((_, &device)) = self.ports.device(PioAddress(port)) {
            return device;
        }
        match port_offset(&self.pci, port) {
            Some(_) => Device::Network,
            None if Assigned::offset(&self.pci, port.into(), true).is_some() => Device::Assigned,
            None => Device::UnassignedPort,
        }
    }

    /// Brings a device to the present, so that it answers for it.
    fn advance(&mut self, device: Device) {
        let now = self.now();
        match device {
            Device::I8254 => self.pit.advance(now),
            Device::Mc146818 => self.rtc.advance(now),
            Device::I8042 => self.kbc.advance(now),
            Device::AcpiPm => self.pm.advance(now),
            Device::BootTimer => self.boot_timer.advance(now),
            Device::Network => self.advance_network(now),
            Device::LocalApic => {
                if let Some(lapic) = self.interrupts.lapic_mut() {
                    lapic.advance(now);
                }
            }
            _ => {}
        }
    }

    fn advance_all(&mut self, ns: u64) {
        self.pit.advance(ns);
        self.rtc.advance(ns);
        self.kbc.advance(ns);
        self.pm.advance(ns);
        self.advance_network(ns);
        for lapic in self.interrupts.lapics_mut() {
            lapic.advance(ns);
        }
    }

    fn advance_network(&mut self, ns: u64) {
        if let Some(network) = &mut self.network {
            network.advance(ns, &self.pci);
        }
    }

    fn network_port(&mut self, port: u16) -> Option<(&mut Network, u64)> {
        let offset = port_offset(&self.pci, port)?;
        Some((self.network.as_mut()?, offset))
    }

    /// Goes from deadline to deadline up to now, so that no edge is lost. A machine that is very
    /// late (a suspended host) jumps the rest and loses ticks, as hardware does.
    fn pass_time(&mut self) {
        let now = self.now();
        for _ in 0..Self::IDLE_STEPS {
            if self.deadline_ns > now {
                return;
            }
            self.advance_all(self.deadline_ns);
            self.settle();
        }
        self.advance_all(now);
        self.settle();
    }

    /// Carries the devices' levels and requests to where they go, and finds the next deadline.
    fn settle(&mut self) {
        let network = self.settle_network();
        let edu = self.settle_edu();
        let assigned = self.settle_assigned();
        let lines = u32::from(self.pit.irq())
            | u32::from(self.kbc.keyboard_irq()) << 1
            | u32::from(self.com1.level()) << 4
            | u32::from(self.rtc.irq()) << 8
            | u32::from(self.pm.sci()) << SCI
            | u32::from(edu) << EDU_IRQ
            | u32::from(assigned) << ASSIGNED_IRQ
            | u32::from(network) << NETWORK_IRQ
            | u32::from(self.kbc.mouse_irq()) << 12
            | self.disk.as_ref().map_or(0, |disk| u32::from(disk.irq())) << Ata::<Vec<u8>>::IRQ
            | self.test_device.as_ref().map_or(0, TestDevice::lines);
        self.interrupts.set_lines(lines);
        // The remapping unit has told of its tables now.
        if let Some(assigned) = &mut self.assigned {
            assigned.follow_mappings();
        }
        self.note_requests();
        self.note_outcome();
        let lapics = self.interrupts.lapics().iter();
        let deadlines = [
            self.pit.next_deadline(),
            self.rtc.next_deadline(),
            self.kbc.next_deadline(),
            self.pm.next_deadline(),
            self.network.as_ref().and_then(Network::next_deadline),
            self.assigned.as_ref().and_then(Assigned::next_deadline),
            lapics.filter_map(LocalApic::next_deadline).min(),
        ];
        self.deadline_ns = deadlines.into_iter().flatten().min().unwrap_or(u64::MAX);
    }

    /// Delivers the adapter's messages; the level of its line.
    fn settle_network(&mut self) -> bool {
        let Self {
            network,
            pci,
            interrupts,
            diverted,
            ..
        } = self;
        network.as_mut().is_some_and(|network| {
            network.interrupt(pci, &mut |message| match diverted {
                Some(messages) => messages.push(message),
                None => interrupts.send(network::place(), message),
            })
        })
    }

    /// The same of the bus master for test guests.
    fn settle_edu(&mut self) -> bool {
        let Self {
            edu,
            pci,
            interrupts,
            diverted,
            ..
        } = self;
        edu.as_mut().is_some_and(|edu| {
            edu.interrupt(pci, &mut |message| match diverted {
                Some(messages) => messages.push(message),
                None => interrupts.send(edu::place(), message),
            })
        })
    }

    /// The same of the function that somebody else has.
    fn settle_assigned(&mut self) -> bool {
        let now = self.now();
        let Self {
            assigned,
            pci,
            interrupts,
            diverted,
            ..
        } = self;
        let Some(assigned) = assigned else {
            return false;
        };
        assigned.interrupt(now, pci, &mut |message| match diverted {
            Some(messages) => messages.push(message),
            None => interrupts.send(assigned::place(), message),
        })
    }

    fn note_outcome(&mut self) {
        let reset = self.kbc.take_reset() | self.port_92.take_reset() | self.reset.take_reset();
        // No firmware waits at the reset vector for a bootstrap processor that alone is new.
        let bootstrap = self.interrupts.lapics_mut().first_mut();
        let init = bootstrap.is_some_and(LocalApic::take_init);
        let asked = match (self.pm.take_sleep(), self.debug_exit.code()) {
            (Some(S5_SLEEP_TYPE), _) => Some(Outcome::PowerOff),
            (Some(sleep), _) => Some(Outcome::Sleep(sleep)),
            (None, Some(code)) => Some(Outcome::DebugExit(code)),
            (None, None) if reset || init => Some(Outcome::Reset),
            (None, None) => None,
        };
        self.outcome = self.outcome.or(asked);
    }
}

/// What firmware is told: how many processors, how much RAM, and what the user has for it.
fn fw_cfg(ram: u64, processors: u8, files: Vec<(String, Vec<u8>)>) -> FwCfg {
    let processors = u16::from(processors).to_le_bytes().to_vec();
    let mut device = FwCfg::new();
    device.insert(FwCfg::RAM_SIZE, ram.to_le_bytes().to_vec());
    device.insert(FwCfg::PROCESSORS, processors.clone());
    device.insert(FwCfg::MAX_PROCESSORS, processors);
    for (name, bytes) in files {
        device
            .insert_file(&name, bytes)
            .expect("the user's files are few and have short names");
    }
    device
}

/// The host bridge that every PC has at 00:00.0, Intel's 440FX, which guests know; for a disk also
/// its south bridge, the PIIX3, whose IDE function stays at the ports of old.
fn pci_bus(disk: bool) -> Bus<ConfigSpace> {
    let intel = |device, class| Header {
        vendor: 0x8086,
        device,
        class,
        ..Header::default()
    };
    let host_bridge = intel(0x1237, [0x06, 0x00, 0x00]);
    let isa_bridge = Header {
        multi_function: true,
        ..intel(0x7000, [0x06, 0x01, 0x00])
    };
    let ide = intel(0x7010, [0x01, 0x01, 0x00]);
    let mut bus = Bus::default();
    let mut insert = |device, function, header| {
        let place = Bdf::new(0, device, function).expect("a place on bus 0");
        bus.insert(place, ConfigSpace::new(header))
            .expect("each function has a place of its own");
    };
    insert(0, 0, host_bridge);
    if disk {
        insert(1, 0, isa_bridge);
        insert(1, 1, ide);
    }
    bus
}
