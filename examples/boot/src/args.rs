//! The command line.

use std::path::PathBuf;

use boot::initramfs::Addressing;
use boot::{Flavour, Net};
use clap::{Parser, ValueEnum};
use machine::{Board, Capabilities};

/// Boots an unmodified Linux on a PC made of this workspace's crates.
///
/// Without options: Debian's newest cloud kernel and busybox, to a shell. Ctrl-A x quits.
#[derive(Clone, Debug, Parser)]
#[command(name = "boot", version)]
pub(crate) struct Args {
    /// What to boot when no --kernel is given.
    #[arg(long, value_enum, default_value_t = Flavour::Cloud)]
    pub(crate) guest: Flavour,
    /// A kernel of your own: a Linux bzImage, a 64-bit ELF kernel, or a Multiboot image.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Firmware to start instead of a kernel, such as SeaBIOS; its debug console is shown.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "initrd", "cmdline", "run", "write_initrd"])]
    pub(crate) firmware: Option<PathBuf>,
    /// An option ROM that the firmware is to run, such as iPXE's for the network adapter.
    #[arg(long, value_name = "FILE", requires = "firmware")]
    pub(crate) option_rom: Option<PathBuf>,
    /// The image of a disk for the first ATA channel; what the guest writes is kept in memory only.
    #[arg(long, value_name = "FILE")]
    pub(crate) disk: Option<PathBuf>,
    /// An initial RAM disk for it.
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel command line, instead of ours.
    #[arg(long, value_name = "TEXT")]
    pub(crate) cmdline: Option<String>,
    /// More of the kernel command line, after ours.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["cmdline", "firmware"])]
    pub(crate) append: Option<String>,
    /// Guest memory in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub(crate) memory: u64,
    /// Processors, which take turns; more than one need the dbt engine.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(Board::MAX_PROCESSORS)))]
    pub(crate) cpus: u8,
    /// What executes the guest.
    #[arg(long, value_enum, default_value_t = EngineArg::Auto)]
    pub(crate) engine: EngineArg,
    /// Which features the dbt engine's processor offers.
    #[arg(long, value_enum, default_value_t = CpuArg::Default)]
    pub(crate) cpu: CpuArg,
    /// Which devices the PC has: m0 has no APIC and no ACPI.
    #[arg(long, value_enum, default_value_t = MachineArg::M1)]
    pub(crate) machine: MachineArg,
    /// Shell commands to run in Debian's guest before it powers off, instead of an interactive shell.
    #[arg(long, value_name = "COMMANDS")]
    pub(crate) run: Option<String>,
    /// Write the RAM disk that Debian's guest would get to a file and stop, to boot the same elsewhere.
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    pub(crate) write_initrd: Option<PathBuf>,
    /// Stop when the guest prints this: exit code 0 then, 1 if it ends without.
    #[arg(long, value_name = "TEXT")]
    pub(crate) expect: Option<String>,
    /// Stop after so many seconds, with exit code 1.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Show the kernel's own messages.
    #[arg(long)]
    pub(crate) verbose: bool,
    /// Let the guest unpack its kernel by itself.
    #[arg(long)]
    pub(crate) no_unpack: bool,
    /// Run the dbt engine twice, translating and interpreting, and compare the two as they go.
    #[arg(long, value_enum)]
    pub(crate) check: Option<Check>,
    /// How often the dbt engine interprets a block before it translates it; "never" interprets all.
    #[arg(long, value_name = "TIMES", default_value = "16", value_parser = threshold)]
    pub(crate) translate_after: Threshold,
    /// Give the PC the device that kvm-unit-tests prods it with.
    #[arg(long)]
    pub(crate) test_device: bool,
    /// Make the dbt engine's run repeat exactly: idle time passes at once, the clock starts at the year 2000, nothing can be
    /// typed. The count of instructions and a digest of the final state are printed.
    #[arg(long, conflicts_with = "check")]
    pub(crate) icount: bool,
    /// A network adapter on a network of its own: DHCP, a router at 10.0.2.2 with echo, discard and
    /// character services. Debian's guest loads its driver and asks for an address.
    #[arg(long, value_enum, conflicts_with = "check")]
    pub(crate) net: Option<Net>,
    /// Nanoseconds until the adapter begins with what the guest queued.
    #[arg(long, value_name = "NS", default_value_t = 0, requires = "net")]
    pub(crate) net_delay: u64,
    /// Let the adapter interrupt by its line only, without MSI and MSI-X.
    #[arg(long, requires = "net")]
    pub(crate) net_intx: bool,
    /// Put the adapter on the host's network, by this tap device. The guest's interface is up and has no
    /// address.
    #[arg(long, value_name = "NAME", requires = "net", conflicts_with = "icount")]
    pub(crate) net_tap: Option<String>,
    /// A VT-d remapping unit that devices reach memory and interrupts through, with legacy mode or with all
    /// that scalable mode has. Linux is told to use it. Needs the dbt engine.
    #[arg(long, value_enum, value_name = "MODE", num_args = 0..=1, default_missing_value = "legacy",
          conflicts_with_all = ["check", "firmware"])]
    pub(crate) iommu: Option<IommuArg>,
    /// Let the adapter write to and read from this address once, unasked, when it sends its first frame.
    #[arg(long, value_name = "ADDRESS", requires = "net", value_parser = address)]
    pub(crate) plant_dma: Option<u64>,
    /// Guest nanoseconds for each instruction of the dbt engine.
    #[arg(long, value_name = "NS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) ns_per_instruction: u64,
}

impl Args {
    /// Nobody is known to answer on the host's network.
    pub(crate) fn addressing(&self) -> Addressing {
        match self.net_tap {
            Some(_) => Addressing::Manual,
            None => Addressing::Dhcp,
        }
    }
}

/// What can be checked while the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    /// Registers after every few instructions, memory now and then.
    Lockstep,
}

/// When to translate; `None`: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threshold(pub(crate) Option<u32>);

fn threshold(text: &str) -> Result<Threshold, String> {
    if text == "never" {
        return Ok(Threshold(None));
    }
    let number = text
        .parse()
        .map_err(|_| "a number, or \"never\"".to_owned())?;
    Ok(Threshold(Some(number)))
}

/// An address, hexadecimal after 0x.
fn address(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "an address, such as 0xdead0000".to_owned())
}

/// Remapping units by their option values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IommuArg {
    /// Second-stage tables, queued invalidation, interrupt remapping.
    Legacy,
    /// Also PASIDs, first-stage and nested tables, posted interrupts.
    Scalable,
}

impl IommuArg {
    pub(crate) fn capabilities(self) -> Capabilities {
        match self {
            Self::Legacy => Capabilities::legacy(),
            Self::Scalable => Capabilities::scalable(),
        }
    }

    /// What makes Linux use the unit.
    pub(crate) fn kernel_parameter(self) -> &'static str {
        match self {
            Self::Legacy => "intel_iommu=on",
            Self::Scalable => "intel_iommu=on,sm_on",
        }
    }
}

/// The engines by their option values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineArg {
    /// KVM where it is real hardware virtualization, else dbt.
    Auto,
    /// Our own processor in software.
    Dbt,
    /// The host's KVM.
    Kvm,
}

/// The processors by their option values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CpuArg {
    /// What costs a guest nothing to ignore.
    Default,
    /// All that is implemented: with SMAP, protection keys, 5-level paging, MTRRs, SHA.
    Max,
    /// All that is implemented, by Intel's rules where AMD's differ.
    MaxIntel,
    /// All that is implemented but x2APIC mode.
    MaxXapic,
}

/// The machines by their option values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MachineArg {
    /// 8259A, 8254, CMOS, i8042, COM1.
    M0,
    /// M0 with local APIC, I/O APIC and ACPI.
    M1,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn no_memory_is_refused() {
        assert!(Args::try_parse_from(["boot", "--memory", "0"]).is_err());
    }
}
