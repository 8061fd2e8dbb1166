//! A Debian guest that runs a script and powers off, for programs that count what that costs: the same in every run.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use machine::kernel::{self, ElfEntry, Guest, KernelImage};
use machine::{
    AdapterKind, Board, BoardConfig, Chipset, CpuModel, DbtEngine, NetworkConfig, Outcome, PciRoot,
    Stop, UserNetwork, acpi_tables,
};

use crate::initramfs::Addressing;
use crate::{Flavour, Net, debian, initramfs};

/// A guest that is ready to be booted again and again.
#[derive(Debug)]
pub struct Scripted {
    kernel: KernelImage,
    unpacked: Option<KernelImage>,
    busybox: Vec<u8>,
    files: debian::Files,
}

/// One boot.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// Shell commands; the last of them must succeed.
    pub script: &'a str,
    /// What the kernel's command line has beside the console.
    pub command_line: &'a str,
    /// The network adapter, on a network of its own.
    pub adapter: AdapterKind,
    /// Whether it may interrupt by messages.
    pub messages: bool,
    /// Nanoseconds until the adapter begins with what is queued.
    pub service_ns: u64,
    /// Guest nanoseconds for each instruction.
    pub ns_per_instruction: u64,
    /// Keep what the guest does with its interrupt controllers.
    pub record_interrupts: bool,
}

impl Scripted {
    /// Debian's full kernel, which has drivers for all adapters, with what `net` needs.
    ///
    /// # Errors
    ///
    /// When Debian's packages cannot be had.
    pub fn new(net: Net) -> Result<Self> {
        let files = debian::obtain(Flavour::Full, Some(net))?;
        let kernel = KernelImage::read(&files.kernel)?;
        Ok(Self {
            unpacked: kernel.unpacked(),
            kernel,
            busybox: std::fs::read(&files.busybox).context("busybox")?,
            files,
        })
    }

    /// Boots, runs the script, powers off.
    ///
    /// # Errors
    ///
    /// When the guest ends otherwise, or the script fails: with what the guest printed.
    pub fn run(&self, setup: &Setup<'_>) -> Result<Board> {
        let script = format!("{}\necho \"{DONE}$?\"", setup.script);
        let initrd = initramfs::build(
            &self.busybox,
            Some(&script),
            &self.files.modules,
            Addressing::Dhcp,
        )?;
        let ram = kernel::allocate_ram(RAM)?;
        let acpi = acpi_tables(1, PciRoot::Shown, None);
        let guest = Guest {
            kernel: self.unpacked.as_ref().unwrap_or(&self.kernel),
            initrd: Some(&initrd),
            command_line: &format!("console=ttyS0 quiet panic=-1 {}", setup.command_line),
            entry: ElfEntry::Auto,
            acpi: Some(&acpi),
        };
        let start = kernel::load(&ram, &guest)?;
        let console = Captured::default();
        let mut board = Board::new(BoardConfig {
            chipset: Chipset::M1,
            processors: 1,
            x2apic: true,
            ram: RAM,
            unix_seconds: 1_800_000_000,
            ns_per_instruction: setup.ns_per_instruction,
            test_device: None,
            disk: None,
            firmware_files: Vec::new(),
            console: Box::new(console.clone()),
            network: Some(NetworkConfig {
                adapter: setup.adapter,
                mac: [0x52, 0x54, 0x00, 0x12, 0x34, 0x56],
                ram: ram.clone(),
                wire: Box::new(UserNetwork::new()),
                service_ns: setup.service_ns,
                messages: setup.messages,
                planted_dma: None,
            }),
            iommu: None,
        });
        if setup.record_interrupts {
            board.record_interrupts();
        }
        let mut engine = DbtEngine::new(&ram, &start, Chipset::M1, CpuModel::Default)?;
        engine.make_repeatable();
        let began = Instant::now();
        loop {
            match engine.run(&mut board, SLICE) {
                Stop::Outcome(Outcome::PowerOff) => break,
                Stop::TimeLimit if began.elapsed() < LIMIT => {}
                stop => bail!("the guest ended with {stop:?}:\n{}", console.text()),
            }
        }
        ensure!(
            console.text().contains(&format!("{DONE}0")),
            "the script failed:\n{}",
            console.text()
        );
        Ok(board)
    }
}

/// What the guest printed.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        let bytes = self.0.lock().map(|bytes| bytes.clone()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Ok(mut all) = self.0.lock() {
            all.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const RAM: u64 = 256 << 20;
const SLICE: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(120);
const DONE: &str = "the script ended with ";
