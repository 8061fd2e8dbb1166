//! One guest on one adapter: it sends a stream over TCP, and its exits are counted.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use boot::{Flavour, Net, debian, initramfs};
use machine::kernel::{self, ElfEntry, Guest, KernelImage};
use machine::{
    Adapter, Board, BoardConfig, Chipset, CpuModel, DbtEngine, NetworkConfig, Outcome, PciRoot,
    Stop, UserNetwork, acpi_tables,
};

/// What the adapter counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Exits by register or structure.
    pub(crate) exits: BTreeMap<&'static str, u64>,
    pub(crate) interrupts: u64,
    /// Frames that the guest sent: TCP segments, but for a few.
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
}

impl Counts {
    /// What this run had beyond `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let earlier = |name| before.exits.get(name).copied().unwrap_or(0);
        let exits = self.exits.iter();
        Self {
            exits: exits
                .map(|(&name, &count)| (name, count.saturating_sub(earlier(name))))
                .collect(),
            interrupts: self.interrupts.saturating_sub(before.interrupts),
            segments: self.segments.saturating_sub(before.segments),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }

    pub(crate) fn all_exits(&self) -> u64 {
        self.exits.values().sum()
    }
}

/// A guest that is ready to be booted again and again.
pub(crate) struct Prepared {
    kernel: KernelImage,
    unpacked: Option<KernelImage>,
    busybox: Vec<u8>,
    files: debian::Files,
    net: Net,
    messages: bool,
    ns_per_instruction: u64,
}

impl Prepared {
    /// Debian's full kernel, which has drivers for all adapters. Without `messages` they interrupt by
    /// INTA#.
    pub(crate) fn new(net: Net, messages: bool, ns_per_instruction: u64) -> Result<Self> {
        let files = debian::obtain(Flavour::Full, Some(net))?;
        let kernel = KernelImage::read(&files.kernel)?;
        Ok(Self {
            unpacked: kernel.unpacked(),
            kernel,
            busybox: std::fs::read(&files.busybox).context("busybox")?,
            files,
            net,
            messages,
            ns_per_instruction,
        })
    }

    /// Boots, sends `writes` writes of one segment each, powers off. `delay_ns` is how long the
    /// adapter takes to begin with what is queued.
    pub(crate) fn run(&self, writes: u32, delay_ns: u64) -> Result<Counts> {
        let script = format!(
            "dd if=/dev/zero bs={SEGMENT} count={writes} 2>/dev/null | nc 10.0.2.2 9\n\
             echo \"{DONE}$?\""
        );
        let initrd = initramfs::build(&self.busybox, Some(&script), &self.files.modules)?;
        let ram = kernel::allocate_ram(RAM)?;
        let acpi = acpi_tables(PciRoot::Shown, None);
        let guest = Guest {
            kernel: self.unpacked.as_ref().unwrap_or(&self.kernel),
            initrd: Some(&initrd),
            command_line: "console=ttyS0 quiet cryptomgr.notests panic=-1",
            entry: ElfEntry::Auto,
            acpi: Some(&acpi),
        };
        let start = kernel::load(&ram, &guest)?;
        let console = Captured::default();
        let mut board = Board::new(BoardConfig {
            chipset: Chipset::M1,
            ram: RAM,
            unix_seconds: 1_800_000_000,
            ns_per_instruction: self.ns_per_instruction,
            test_device: None,
            disk: None,
            firmware_files: Vec::new(),
            console: Box::new(console.clone()),
            x2apic: true,
            iommu: None,
            network: Some(NetworkConfig {
                adapter: self.net.adapter(),
                mac: [0x52, 0x54, 0x00, 0x12, 0x34, 0x56],
                ram: ram.clone(),
                wire: Box::new(UserNetwork::new()),
                service_ns: delay_ns,
                planted_dma: None,
                messages: self.messages,
            }),
        });
        let mut engine = DbtEngine::new(&ram, &start, Chipset::M1, CpuModel::Default)?;
        let began = Instant::now();
        loop {
            match engine.run(&mut board, SLICE) {
                Stop::Outcome(Outcome::PowerOff) => break,
                Stop::TimeLimit if began.elapsed() < LIMIT => {}
                stop => bail!("the guest ended with {stop:?}:\n{}", console.text()),
            }
        }
        let sent = format!("{DONE}0");
        ensure!(
            console.text().contains(&sent),
            "the stream was not sent:\n{}",
            console.text()
        );
        counts(&board)
    }
}

fn counts(board: &Board) -> Result<Counts> {
    match board.network().context("the board has a network")? {
        Adapter::E1000(nic) => {
            let mut exits = BTreeMap::new();
            for register in nic.exits() {
                let name = e1000::registers::name(register.register);
                *exits.entry(name).or_default() += register.reads + register.writes;
            }
            let counts = nic.counts();
            Ok(Counts {
                exits,
                interrupts: counts.interrupts.raised,
                segments: counts.tx_frames,
                bytes: counts.tx_bytes,
            })
        }
        Adapter::Virtio(device) => {
            let (exits, counts) = (device.exits(), device.net().counts());
            let [receive, transmit, control] = exits.kicks;
            let exits = [
                ("kick, receive", receive),
                ("kick, transmit", transmit),
                ("kick, control", control),
                ("ISR", exits.isr),
                ("configuration", exits.common + exits.device),
            ];
            Ok(Counts {
                exits: exits.into_iter().collect(),
                interrupts: device.interrupts(),
                segments: counts.tx_frames,
                bytes: counts.tx_bytes,
            })
        }
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

/// Bytes in a segment with the options that Linux puts in.
pub(crate) const SEGMENT: u32 = 1448;
const RAM: u64 = 256 << 20;
const SLICE: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(120);
const DONE: &str = "table-6-2: sent ";
