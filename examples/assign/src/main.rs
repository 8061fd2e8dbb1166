//! Hands a device to a guest: one in another process through vfio-user, or one of the host's through VFIO.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use comfy_table::Table;
use example_assign::{DmaWay, Guest, Report, VfioPciDevice, VfioUserDevice, serve};
use machine::{AssignedDevice, Tap, UserNetwork, Wire};

/// Hands a device to a guest: one in another process through vfio-user, or one of the host's through VFIO.
#[derive(Debug, Parser)]
#[command(name = "assign", version)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Serve an 82540EM on a socket, to one guest after the other.
    Serve {
        /// Where.
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// Put it on the host's network by this tap device, instead of a network of its own.
        #[arg(long, value_name = "NAME")]
        tap: Option<String>,
        /// Serve one guest only.
        #[arg(long)]
        once: bool,
    },
    /// Say what is behind a socket.
    Probe {
        /// Where.
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
    },
    /// Boot Debian with a device.
    Guest(GuestArgs),
    /// Serve an adapter, hand it to a guest in each way there is, and compare them.
    Demo,
}

#[derive(Debug, Args)]
struct GuestArgs {
    /// The device behind this vfio-user socket.
    #[arg(long, value_name = "PATH", required_unless_present = "vfio")]
    socket: Option<PathBuf>,
    /// The host's function at this place, such as 0000:01:00.0; it must be bound to vfio-pci.
    #[arg(long, value_name = "PLACE", conflicts_with = "socket")]
    vfio: Option<String>,
    /// How a device behind a socket reaches memory. VFIO maps it.
    #[arg(long, value_enum, default_value_t = DmaWay::Messages)]
    dma: DmaWay,
    /// Put a VT-d remapping unit between the device and memory.
    #[arg(long)]
    iommu: bool,
    /// The device is no 82540EM: load no driver, ask for no address.
    #[arg(long)]
    no_network: bool,
    /// Shell commands for the guest.
    #[arg(
        long,
        value_name = "COMMANDS",
        default_value = "cat /proc/bus/pci/devices"
    )]
    run: String,
    /// Exit with 1 unless the guest has printed this.
    #[arg(long, value_name = "TEXT")]
    expect: Option<String>,
    /// Stop after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Subcommands::Serve { socket, tap, once } => {
            serve(&socket, once, || wire(tap.as_deref())).map(|()| true)
        }
        Subcommands::Probe { socket } => probe(&socket).map(|()| true),
        Subcommands::Guest(args) => guest(&args),
        Subcommands::Demo => demo(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("assign: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn wire(tap: Option<&str>) -> Result<Box<dyn Wire>> {
    Ok(match tap {
        Some(name) => Box::new(Tap::open(name)?),
        None => Box::new(UserNetwork::new()),
    })
}

fn probe(socket: &Path) -> Result<()> {
    let mut device = VfioUserDevice::connect(socket, Guest::ram()?, DmaWay::Mapped)?;
    let mut id = [0; 4];
    let nothing = Nothing;
    device.read(machine::CONFIGURATION, 0, &mut id, &nothing)?;
    let [a, b, c, d] = id;
    println(&format!(
        "{:04x}:{:04x}",
        u16::from_le_bytes([a, b]),
        u16::from_le_bytes([c, d])
    ));
    let mut table = Table::new();
    table.set_header(["", "number", "size"]);
    for region in device.regions().iter().filter(|region| region.size > 0) {
        let name = REGIONS.get(region.index as usize).unwrap_or(&"region");
        table.add_row([
            (*name).into(),
            region.index.to_string(),
            format!("{:#x}", region.size),
        ]);
    }
    for irq in device.irqs().iter().filter(|irq| irq.count > 0) {
        let name = IRQS.get(irq.index as usize).unwrap_or(&"interrupts");
        table.add_row([(*name).into(), irq.index.to_string(), irq.count.to_string()]);
    }
    println(&table.to_string());
    Ok(())
}

/// A device that is only looked at needs no memory.
struct Nothing;

impl machine::DeviceMemory for Nothing {
    fn read(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }

    fn write(&self, _: u64, _: &[u8]) -> bool {
        false
    }
}

fn guest(args: &GuestArgs) -> Result<bool> {
    let ram = Guest::ram()?;
    let device: Box<dyn AssignedDevice> = match (&args.vfio, &args.socket) {
        (Some(place), _) => Box::new(VfioPciDevice::open(place, ram.clone())?),
        (None, Some(socket)) => Box::new(VfioUserDevice::connect(socket, ram.clone(), args.dma)?),
        (None, None) => bail!("--socket or --vfio"),
    };
    if device.maps_memory() && !args.iommu {
        eprintln!(
            "assign: the device has all of the guest's memory mapped: code that it brings in may not be noticed"
        );
    }
    eprintln!("engine:  dbt (our own: no virtualization hardware used)");
    let guest = Guest {
        script: args.run.clone(),
        iommu: args.iommu,
        limit: Duration::from_secs(args.timeout),
        network: !args.no_network,
    };
    let report = guest.run(&ram, device, Box::new(io::stdout()))?;
    eprintln!("{}", table(&[("this guest", &report)]));
    match &args.expect {
        Some(text) if !report.printed.contains(text) => {
            eprintln!("assign: the guest did not print {text:?}");
            Ok(false)
        }
        _ => Ok(true),
    }
}

/// One adapter in a process of its own, four guests one after the other.
fn demo() -> Result<bool> {
    let socket = std::env::temp_dir().join(format!("assign-{}.sock", std::process::id()));
    let mut server = Server::start(&socket)?;
    let mut reports = Vec::new();
    for (name, way, iommu) in [
        ("asks for each piece", DmaWay::Messages, false),
        ("asks, behind VT-d", DmaWay::Messages, true),
        ("has all memory mapped", DmaWay::Mapped, false),
        ("has mapped what VT-d permits", DmaWay::Mapped, true),
    ] {
        println(&format!("== the device {name}"));
        server.check()?;
        let ram = Guest::ram()?;
        let device = VfioUserDevice::connect(&socket, ram.clone(), way)?;
        let guest = Guest {
            script: format!("{DEMO_SCRIPT}\n{}", if iommu { FAULTS } else { "" }),
            iommu,
            limit: Duration::from_secs(120),
            network: true,
        };
        let report = guest.run(&ram, Box::new(device), Box::new(io::stdout()))?;
        ensure!(
            report.printed.contains("the same 262144 bytes"),
            "the bytes that came back are others"
        );
        ensure!(
            !iommu || report.printed.contains("faults: 0"),
            "the guest saw faults"
        );
        reports.push((name, report));
    }
    let rows: Vec<_> = reports
        .iter()
        .map(|(name, report)| (*name, report))
        .collect();
    println(&table(&rows));
    Ok(true)
}

fn table(rows: &[(&str, &Report)]) -> String {
    let mut table = Table::new();
    table.set_header([
        "the device",
        "seconds",
        "accesses to it",
        "interrupts",
        "mapped",
        "unmapped",
    ]);
    for (name, report) in rows {
        table.add_row([
            (*name).to_owned(),
            format!("{:.1}", report.elapsed.as_secs_f64()),
            report.exits.to_string(),
            report.device.interrupts.to_string(),
            report.device.maps.to_string(),
            report.device.unmaps.to_string(),
        ]);
    }
    table.to_string()
}

/// The adapter's process; it ends with this.
struct Server(Child);

impl Server {
    fn start(socket: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let child = command
            .arg("serve")
            .arg("--socket")
            .arg(socket)
            .stdin(Stdio::null())
            .spawn()
            .context("the adapter's process")?;
        let mut server = Self(child);
        let began = Instant::now();
        while !socket.exists() {
            server.check()?;
            ensure!(
                began.elapsed() < Duration::from_secs(10),
                "no socket after 10 s"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    fn check(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("the adapter's process has ended: {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A closed pipe is the reader's business.
fn println(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

const REGIONS: [&str; 9] = [
    "BAR 0",
    "BAR 1",
    "BAR 2",
    "BAR 3",
    "BAR 4",
    "BAR 5",
    "ROM",
    "configuration space",
    "VGA",
];
const IRQS: [&str; 5] = ["INTx", "MSI", "MSI-X", "errors", "requests"];
const DEMO_SCRIPT: &str = "\
head -c 262144 /dev/urandom > /tmp/out
nc 10.0.2.2 7 < /tmp/out | head -c 262144 > /tmp/back
cmp /tmp/out /tmp/back && echo \"the same $(wc -c < /tmp/back) bytes\"
";
const FAULTS: &str = "echo \"faults: $(dmesg | grep -c 'fault addr')\"";
