//! Boots an unmodified Linux, Debian's by default, to a shell on the terminal.

mod args;
mod console;
mod embedded;
mod report;
mod session;

use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use boot::{Flavour, debian, initramfs};
use clap::Parser;
use machine::kernel::{self, ElfEntry, Guest, KernelImage};
use machine::{
    Board, BoardConfig, Chipset, Controllers, DbtEngine, Engine, EngineChoice, KvmEngine, Lockstep,
    NetworkConfig, PciRoot, StartState, UserNetwork, acpi_tables,
};
use vm_memory::GuestMemoryMmap;

use args::{Args, Check, EngineArg, MachineArg};
use console::Console;
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

/// What cannot be started at all: the user's input, or the host's.
const BAD_INPUT: u8 = 2;

/// The guest's adapter; a locally administered address.
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// A guest before it is loaded.
struct Payload {
    kernel: KernelImage,
    initrd: Option<Vec<u8>>,
    command_line: String,
    entry: ElfEntry,
}

fn prepare(args: &Args) -> anyhow::Result<Session> {
    let payload = match (&args.kernel, args.guest) {
        (Some(path), _) => own_guest(args, path)?,
        (None, Flavour::Embedded) => embedded_guest(args),
        (None, flavour) => debian_guest(args, flavour)?,
    };
    let ram = kernel::allocate_ram(args.memory << 20)?;
    let chipset = match args.machine {
        MachineArg::M0 => Chipset::M0,
        MachineArg::M1 => Chipset::M1,
    };
    if args.net.is_some() && chipset == Chipset::M0 {
        bail!("--net needs --machine m1: m0 has no PCI");
    }
    let pci = match args.net {
        Some(_) => PciRoot::Shown,
        None => PciRoot::Hidden,
    };
    let acpi = (chipset == Chipset::M1).then(|| acpi_tables(pci));
    let unpacked = if args.no_unpack {
        None
    } else {
        payload.kernel.unpacked()
    };
    let guest = Guest {
        kernel: unpacked.as_ref().unwrap_or(&payload.kernel),
        initrd: payload.initrd.as_deref(),
        command_line: &payload.command_line,
        entry: payload.entry,
        acpi: acpi.as_deref(),
    };
    let start = kernel::load(&ram, &guest)?;

    let console = Console::new();
    let unix_seconds = now();
    let network = args.net.map(|net| NetworkConfig {
        adapter: net.adapter(),
        mac: MAC,
        ram: ram.clone(),
        wire: Box::new(UserNetwork::new()),
        service_ns: args.net_delay,
    });
    let board = |console, network| {
        Board::new(BoardConfig {
            chipset,
            ram: args.memory << 20,
            unix_seconds,
            ns_per_instruction: args.ns_per_instruction,
            console,
            network,
        })
    };
    let engine = match args.check {
        Some(Check::Lockstep) => {
            let twin = kernel::allocate_ram(args.memory << 20)?;
            kernel::load(&twin, &guest)?;
            let reference = (DbtEngine::new(&twin, &start, chipset)?, twin);
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
    let decision = choice(args.engine).decide();
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
    let mut engine = DbtEngine::new(ram, start, chipset)?;
    engine.set_translation(args.translate_after.0);
    Ok(engine)
}

fn own_guest(args: &Args, path: &Path) -> anyhow::Result<Payload> {
    let kernel = KernelImage::read(path)?;
    let initrd = args
        .initrd
        .as_ref()
        .map(|path| kernel::read_file(path))
        .transpose()?;
    Ok(Payload {
        kernel,
        initrd,
        command_line: args
            .cmdline
            .clone()
            .unwrap_or_else(|| default_command_line(args)),
        entry: ElfEntry::Auto,
    })
}

fn debian_guest(args: &Args, flavour: Flavour) -> anyhow::Result<Payload> {
    if args.initrd.is_some() {
        bail!("--initrd needs --kernel: Debian's kernel comes with a RAM disk made here");
    }
    let files = match debian::obtain(flavour, args.net) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("boot: cannot get Debian's packages: {error:#}");
            eprintln!("boot: booting the small guest that is built in instead");
            return Ok(embedded_guest(args));
        }
    };
    let busybox = std::fs::read(&files.busybox).context("busybox")?;
    Ok(Payload {
        kernel: KernelImage::read(&files.kernel)?,
        initrd: Some(initramfs::build(
            &busybox,
            args.run.as_deref(),
            &files.modules,
        )?),
        command_line: args
            .cmdline
            .clone()
            .unwrap_or_else(|| default_command_line(args)),
        entry: ElfEntry::Auto,
    })
}

fn write_initrd(args: &Args, path: &Path) -> anyhow::Result<()> {
    let files = debian::obtain(args.guest, args.net)?;
    let busybox = std::fs::read(&files.busybox).context("busybox")?;
    let initrd = initramfs::build(&busybox, args.run.as_deref(), &files.modules)?;
    std::fs::write(path, initrd).with_context(|| path.display().to_string())
}

fn embedded_guest(args: &Args) -> Payload {
    eprintln!(
        "guest:   embedded, an integer loop of {} million instructions",
        embedded::MILLIONS
    );
    Payload {
        kernel: KernelImage {
            name: "the embedded guest".into(),
            bytes: embedded::elf(),
        },
        initrd: None,
        command_line: args.cmdline.clone().unwrap_or_default(),
        entry: ElfEntry::Linux64,
    }
}

/// Without the self-tests of the crypto code a boot is a third of the instructions.
fn default_command_line(args: &Args) -> String {
    let verbosity = if args.verbose { "" } else { " quiet" };
    format!("console=ttyS0{verbosity} cryptomgr.notests panic=-1")
}

fn choice(engine: EngineArg) -> EngineChoice {
    match engine {
        EngineArg::Auto => EngineChoice::Auto,
        EngineArg::Dbt => EngineChoice::Dbt,
        EngineArg::Kvm => EngineChoice::Kvm,
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
