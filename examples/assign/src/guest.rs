//! A Debian guest with the device on its board.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use boot::initramfs::{self, Addressing};
use boot::{Flavour, Net, debian};
use machine::kernel::{self, ElfEntry, KernelImage, Ram};
use machine::{
    AssignedConfig, AssignedCounts, AssignedDevice, Board, BoardConfig, Capabilities, Chipset,
    CpuModel, DbtEngine, Features, IommuConfig, Outcome, PciRoot, Stop, acpi_tables,
};

/// A guest to be booted.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Shell commands; then it powers off.
    pub script: String,
    /// Whether a remapping unit is between the device and memory.
    pub iommu: bool,
    /// How long it may take.
    pub limit: Duration,
    /// Load the driver of our adapter, and ask for an address.
    pub network: bool,
}

/// What became of it.
#[derive(Debug)]
pub struct Report {
    /// What it printed.
    pub printed: String,
    /// What the device did.
    pub device: AssignedCounts,
    /// Accesses to its windows.
    pub exits: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Guest {
    /// RAM for the guest, which the device may map.
    ///
    /// # Errors
    ///
    /// When the host has none.
    pub fn ram() -> Result<Ram> {
        Ok(kernel::allocate_shared_ram(RAM)?)
    }

    /// Boots Debian's full kernel with `device`, runs the script, powers off. `echo` is shown what it prints.
    ///
    /// # Errors
    ///
    /// When Debian's packages cannot be had, the device fails, or the guest ends otherwise: with what it printed.
    pub fn run(
        &self,
        ram: &Ram,
        device: Box<dyn AssignedDevice>,
        echo: Box<dyn Write + Send>,
    ) -> Result<Report> {
        let console = Console::new(echo);
        let mut board = self.board(ram, console.clone());
        let mut engine = self.load(ram)?;
        engine.idle_with_host();
        let ram = ram.clone();
        board.assign(AssignedConfig { device, ram })?;
        let started = Instant::now();
        loop {
            let stop = engine.run(&mut board, SLICE);
            if let Some(failure) = board.assigned_failure() {
                bail!("the device is gone: {failure}\n{}", console.printed());
            }
            match stop {
                Stop::Outcome(Outcome::PowerOff) => break,
                Stop::TimeLimit if started.elapsed() < self.limit => {}
                stop => bail!("the guest ended with {stop:?}:\n{}", console.printed()),
            }
        }
        let mut exits = board.exits();
        let windows = exits.find(|(device, _)| *device == machine::Device::Assigned);
        Ok(Report {
            printed: console.printed(),
            device: board.assigned().unwrap_or_default(),
            exits: windows.map_or(0, |(_, exits)| exits.reads + exits.writes),
            elapsed: started.elapsed(),
        })
    }

    /// With a unit that says that its tables are copied: then the guest tells of every change.
    fn capabilities(&self) -> Option<Capabilities> {
        let mut capabilities = Capabilities::legacy();
        capabilities.features |= Features::CACHING_MODE;
        self.iommu.then_some(capabilities)
    }

    fn board(&self, ram: &Ram, console: Console) -> Board {
        Board::new(BoardConfig {
            chipset: Chipset::M1,
            processors: 1,
            x2apic: true,
            ram: RAM,
            unix_seconds: 1_800_000_000,
            ns_per_instruction: 2,
            test_device: None,
            disk: None,
            firmware_files: Vec::new(),
            console: Box::new(console),
            network: None,
            iommu: self.capabilities().map(|capabilities| IommuConfig {
                capabilities,
                ram: ram.clone(),
            }),
        })
    }

    fn load(&self, ram: &Ram) -> Result<DbtEngine> {
        let files = debian::obtain(Flavour::Full, self.network.then_some(Net::E1000))?;
        let busybox = std::fs::read(&files.busybox).context("busybox")?;
        let script = Some(self.script.as_str());
        let initrd = initramfs::build(&busybox, script, &files.modules, Addressing::Dhcp)?;
        let capabilities = self.capabilities();
        let acpi = acpi_tables(1, PciRoot::Shown, capabilities.as_ref());
        let image = KernelImage::read(&files.kernel)?;
        let unpacked = image.unpacked();
        let remapping = if self.iommu { "intel_iommu=on" } else { "" };
        let guest = kernel::Guest {
            kernel: unpacked.as_ref().unwrap_or(&image),
            initrd: Some(&initrd),
            command_line: &format!("console=ttyS0 quiet panic=-1 {remapping}"),
            entry: ElfEntry::Auto,
            acpi: Some(&acpi),
        };
        let start = kernel::load(ram, &guest)?;
        Ok(DbtEngine::new(ram, &start, Chipset::M1, CpuModel::Default)?)
    }
}

/// What the guest prints, kept and shown.
#[derive(Clone)]
struct Console(Arc<Mutex<Printed>>);

struct Printed {
    kept: Vec<u8>,
    echo: Box<dyn Write + Send>,
}

impl Console {
    fn new(echo: Box<dyn Write + Send>) -> Self {
        let kept = Vec::new();
        Self(Arc::new(Mutex::new(Printed { kept, echo })))
    }

    fn printed(&self) -> String {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&inner.kept).into_owned()
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Printed { kept, echo } = &mut *inner;
        kept.extend_from_slice(bytes);
        // A reader who has gone is no reason to stop the guest.
        let _ = echo.write_all(bytes).and_then(|()| echo.flush());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const RAM: u64 = 256 << 20;
const SLICE: Duration = Duration::from_millis(200);
