//! What is booted: a kernel with what belongs to it, or firmware.

use std::path::Path;

use anyhow::{Context, bail};
use boot::{Flavour, debian, initramfs};
use machine::kernel::{self, ElfEntry, Guest, KernelImage};
use machine::{Chipset, PciRoot, StartState, acpi_tables};

use crate::args::{Args, IommuArg};
use crate::embedded;

/// A guest before it is loaded.
#[derive(Debug)]
pub(crate) enum Payload {
    Kernel(Kernel),
    Firmware(KernelImage),
}

/// A kernel and what it is given.
#[derive(Debug)]
pub(crate) struct Kernel {
    image: KernelImage,
    initrd: Option<Vec<u8>>,
    command_line: String,
    entry: ElfEntry,
}

impl Payload {
    /// What the command line asks for.
    pub(crate) fn of(args: &Args) -> anyhow::Result<Self> {
        if let Some(path) = &args.firmware {
            return Ok(Self::Firmware(KernelImage::read(path)?));
        }
        let mut kernel = match (&args.kernel, args.guest) {
            (Some(path), _) => own_guest(args, path)?,
            (None, Flavour::Embedded) => embedded_guest(args),
            (None, flavour) => debian_guest(args, flavour)?,
        };
        if !args.no_unpack
            && let Some(unpacked) = kernel.image.unpacked()
        {
            kernel.image = unpacked;
        }
        Ok(Self::Kernel(kernel))
    }

    /// Allocates `size` bytes of RAM and loads the guest into them; answers how its processor starts.
    pub(crate) fn load(
        &self,
        size: u64,
        processors: u8,
        chipset: Chipset,
        pci: PciRoot,
        iommu: Option<IommuArg>,
    ) -> Result<(kernel::Ram, StartState), kernel::LoadError> {
        match self {
            Self::Firmware(image) => kernel::load_firmware(size, image),
            Self::Kernel(kernel) => {
                let ram = kernel::allocate_ram(size)?;
                let acpi = (chipset == Chipset::M1).then(|| {
                    let capabilities = iommu.map(IommuArg::capabilities);
                    acpi_tables(processors, pci, capabilities.as_ref())
                });
                let guest = Guest {
                    kernel: &kernel.image,
                    initrd: kernel.initrd.as_deref(),
                    command_line: &kernel.command_line,
                    entry: kernel.entry,
                    acpi: acpi.as_deref(),
                };
                let start = kernel::load(&ram, &guest)?;
                Ok((ram, start))
            }
        }
    }
}

fn own_guest(args: &Args, path: &Path) -> anyhow::Result<Kernel> {
    let kernel = KernelImage::read(path)?;
    let initrd = args
        .initrd
        .as_ref()
        .map(|path| kernel::read_file(path))
        .transpose()?;
    Ok(Kernel {
        image: kernel,
        initrd,
        command_line: args
            .cmdline
            .clone()
            .unwrap_or_else(|| default_command_line(args)),
        entry: ElfEntry::Auto,
    })
}

fn debian_guest(args: &Args, flavour: Flavour) -> anyhow::Result<Kernel> {
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
    Ok(Kernel {
        image: KernelImage::read(&files.kernel)?,
        initrd: Some(initramfs::build(
            &busybox,
            args.run.as_deref(),
            &files.modules,
            args.addressing(),
        )?),
        command_line: args
            .cmdline
            .clone()
            .unwrap_or_else(|| default_command_line(args)),
        entry: ElfEntry::Auto,
    })
}

fn embedded_guest(args: &Args) -> Kernel {
    eprintln!(
        "guest:   embedded, an integer loop of {} million instructions",
        embedded::MILLIONS
    );
    Kernel {
        image: KernelImage {
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
    let ours = format!("console=ttyS0{verbosity} cryptomgr.notests panic=-1");
    let remapping = args.iommu.map(IommuArg::kernel_parameter);
    let parts = remapping.into_iter().chain(args.append.as_deref());
    parts.fold(ours, |line, part| format!("{line} {part}"))
}
