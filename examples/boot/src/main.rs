//! Boots an unmodified Linux, Debian's by default, to a shell on the terminal.

mod args;
mod console;
mod embedded;
mod payload;
mod report;
mod session;

use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use boot::{debian, initramfs};
use clap::Parser;
use machine::kernel;
use machine::{
    Board, BoardConfig, Chipset, Controllers, CpuModel, DbtEngine, Engine, EngineChoice,
    IommuConfig, KvmEngine, Lockstep, NetworkConfig, PciRoot, StartState, Tap, UserNetwork, Wire,
};
use vm_memory::GuestMemoryMmap;

use args::{Args, Check, CpuArg, EngineArg, MachineArg};
use console::Console;
use payload::Payload;
use session::Session;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(path) = &args.write_initrd {
        return match write_initrd(&args, path) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("boot: {error:#}");
                ExitCode::from(BAD_INPUT)
            }
        };
    }
    match prepare(&args) {
        Ok(session) => session.run(&args),
        Err(error) => {
            eprintln!("boot: {error:#}");
            ExitCode::from(BAD_INPUT)
        }
    }
}

/// Seconds since 1970.
const YEAR_2000: i64 = 946_684_800;
/// What cannot be started at all: the user's input, or the host's.
const BAD_INPUT: u8 = 2;

/// The guest's adapter; a locally administered address.
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

fn prepare(args: &Args) -> anyhow::Result<Session> {
    let payload = Payload::of(args)?;
    let chipset = match args.machine {
        MachineArg::M0 => Chipset::M0,
        MachineArg::M1 => Chipset::M1,
    };
    if args.net.is_some() && chipset == Chipset::M0 {
        bail!("--net needs --machine m1: m0 has no PCI");
    }
    if args.iommu.is_some() && chipset == Chipset::M0 {
        bail!("--iommu needs --machine m1: m0 has no APICs whose interrupts could be remapped");
    }
    if args.cpus > 1 && chipset == Chipset::M0 {
        bail!("--cpus needs --machine m1: m0 has no APICs to start processors with");
    }
    let pci = match args.net {
        Some(_) => PciRoot::Shown,
        None => PciRoot::Hidden,
    };
    let (ram, start) = payload.load(args.memory << 20, args.cpus, chipset, pci, args.iommu)?;

    let disk = args.disk.as_deref().map(kernel::read_file).transpose()?;
    let firmware_files = firmware_files(args)?;
    let console = Console::new();
    let unix_seconds = if args.icount { YEAR_2000 } else { now() };
    let wire: Box<dyn Wire> = match &args.net_tap {
        Some(name) => Box::new(Tap::open(name)?),
        None => Box::new(UserNetwork::new()),
    };
    let network = args.net.map(|net| NetworkConfig {
        adapter: net.adapter(),
        mac: MAC,
        ram: ram.clone(),
        wire,
        service_ns: args.net_delay,
        messages: !args.net_intx,
        planted_dma: args.plant_dma,
    });
    let memory = ram.clone();
    let board = |console, network| {
        Board::new(BoardConfig {
            chipset,
            processors: args.cpus,
            ram: args.memory << 20,
            unix_seconds,
            ns_per_instruction: args.ns_per_instruction,
            test_device: args.test_device.then(|| memory.clone()),
            disk: disk.clone(),
            firmware_files: firmware_files.clone(),
            console,
            network,
            x2apic: args.cpu != CpuArg::MaxXapic,
            iommu: args.iommu.map(|iommu| IommuConfig {
                capabilities: iommu.capabilities(),
                ram: memory.clone(),
            }),
        })
    };
    let engine = match args.check {
        Some(Check::Lockstep) => {
            let (twin, _) = payload.load(args.memory << 20, args.cpus, chipset, pci, None)?;
            let engine =
                DbtEngine::with_processors(args.cpus, &twin, &start, chipset, model(args))?;
            let reference = (engine, twin);
            let subject = (translating(args, &ram, &start, chipset)?, ram);
            eprintln!("engine:  dbt, translating and interpreting in lockstep");
            let board = board(Box::new(std::io::sink()), None);
            Engine::Lockstep(Box::new(Lockstep::new(subject, reference, board)))
        }
        None => engine(args, &ram, &start, chipset)?,
    };
    Ok(Session {
        engine,
        board: board(Box::new(console.clone()), network),
        console,
    })
}

fn engine(
    args: &Args,
    ram: &GuestMemoryMmap,
    start: &StartState,
    chipset: Chipset,
) -> anyhow::Result<Engine> {
    if args.cpus > 1 && args.engine == EngineArg::Kvm {
        bail!("--cpus needs the dbt engine: the kvm engine has one processor");
    }
    let only_dbt = args.icount || args.iommu.is_some() || args.cpus > 1;
    let decision = match (args.icount, args.iommu, args.engine) {
        (true, _, EngineArg::Kvm) => {
            bail!("--icount needs the dbt engine: KVM counts no instructions")
        }
        (_, Some(_), EngineArg::Kvm) => {
            bail!("--iommu needs the dbt engine: KVM's own interrupt controllers bypass the unit")
        }
        _ if only_dbt => EngineChoice::Dbt.decide(),
        (_, _, engine) => choice(engine).decide(),
    };
    let (name, engine) = if decision.kvm {
        let engine = KvmEngine::new(ram, start, chipset, Controllers::Kernel)?;
        ("kvm", Engine::Kvm(Box::new(engine)))
    } else {
        let engine = translating(args, ram, start, chipset)?;
        let name = "dbt (our own: no virtualization hardware used)";
        (name, Engine::Dbt(Box::new(engine)))
    };
    eprintln!("engine:  {name}; {}", decision.reason);
    Ok(engine)
}

fn translating(
    args: &Args,
    ram: &GuestMemoryMmap,
    start: &StartState,
    chipset: Chipset,
) -> anyhow::Result<DbtEngine> {
    let mut engine = DbtEngine::with_processors(args.cpus, ram, start, chipset, model(args))?;
    engine.set_translation(args.translate_after.0);
    if args.icount {
        engine.make_repeatable();
    }
    Ok(engine)
}

fn write_initrd(args: &Args, path: &Path) -> anyhow::Result<()> {
    let files = debian::obtain(args.guest, args.net)?;
    let busybox = std::fs::read(&files.busybox).context("busybox")?;
    let initrd = initramfs::build(
        &busybox,
        args.run.as_deref(),
        &files.modules,
        args.addressing(),
    )?;
    std::fs::write(path, initrd).with_context(|| path.display().to_string())
}

/// What SeaBIOS is told: text goes to COM1, and which ROM to run.
fn firmware_files(args: &Args) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let console = (
        "etc/sercon-port".to_owned(),
        machine::layout::COM1.to_le_bytes().to_vec(),
    );
    let rom = args.option_rom.as_deref().map(option_rom).transpose()?;
    Ok(std::iter::once(console).chain(rom).collect())
}

/// The file as firmware looks for it (SeaBIOS, `docs/Runtime_config.md`: "genroms/").
fn option_rom(path: &Path) -> anyhow::Result<(String, Vec<u8>)> {
    let bytes = kernel::read_file(path)?;
    if !bytes.starts_with(&[0x55, 0xaa]) {
        bail!(
            "{} is no option ROM: it does not begin with 55 aa",
            path.display()
        );
    }
    Ok(("genroms/option.rom".to_owned(), bytes))
}

fn choice(engine: EngineArg) -> EngineChoice {
    match engine {
        EngineArg::Auto => EngineChoice::Auto,
        EngineArg::Dbt => EngineChoice::Dbt,
        EngineArg::Kvm => EngineChoice::Kvm,
    }
}

fn model(args: &Args) -> CpuModel {
    match args.cpu {
        CpuArg::Default => CpuModel::Default,
        CpuArg::Max => CpuModel::Max,
        CpuArg::MaxIntel => CpuModel::MaxIntel,
        CpuArg::MaxXapic => CpuModel::MaxXapic,
    }
}

fn now() -> i64 {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|since| since.as_secs());
    seconds
        .ok()
        .and_then(|seconds| i64::try_from(seconds).ok())
        .unwrap_or(0)
}
