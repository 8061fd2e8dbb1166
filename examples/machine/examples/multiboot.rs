//! Runs a Multiboot kernel on the `dbt` engine until it writes to the debug-exit port: the images of
//! kvm-unit-tests are such kernels.
//!
//! `cargo run --release -p machine --example multiboot -- x86/access_test.flat [MiB] [seconds]`
#![expect(clippy::print_stderr, reason = "a program")]

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use machine::kernel::{Ram, allocate_ram};
use machine::{Board, BoardConfig, Chipset, DbtEngine, Outcome, StartState, Stop};
use vm_memory::{Bytes, GuestAddress};

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("name a Multiboot kernel")?;
    let mut number = |otherwise: u64| arguments.next().map_or(Ok(otherwise), |text| text.parse());
    let (mib, seconds) = (number(256)?, number(600)?);
    let image = std::fs::read(&path).with_context(|| format!("cannot read {path}"))?;
    let ram = allocate_ram(mib << 20)?;
    let entry = load(&ram, &image)?;
    write_information(&ram, mib)?;
    let start = StartState {
        rbx: INFORMATION,
        ..StartState::pvh(entry)
    };
    let mut board = Board::new(BoardConfig {
        chipset: Chipset::M1,
        ram: mib << 20,
        unix_seconds: 0,
        ns_per_instruction: 1,
        console: Box::new(std::io::stdout()),
    });
    let mut engine = DbtEngine::new(&ram, &start, Chipset::M1)?;
    let began = Instant::now();
    let stop = engine.run(&mut board, Duration::from_secs(seconds));
    std::io::stdout().flush()?;
    let instructions = engine.cost().instructions;
    eprintln!(
        "{stop:?} after {:.1?}, {instructions} instructions",
        began.elapsed()
    );
    // The exit status of QEMU's isa-debug-exit would be twice the code and one.
    let right = stop == Stop::Outcome(Outcome::DebugExit(0));
    Ok(if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Copies the segments of a 32-bit ELF image to where they belong, and gives the entry.
fn load(ram: &Ram, image: &[u8]) -> anyhow::Result<u64> {
    ensure!(image.starts_with(b"\x7fELF\x01"), "not a 32-bit ELF image");
    let word = |at: usize| -> anyhow::Result<u32> {
        let bytes = image.get(at..at + 4).context("the image is cut off")?;
        Ok(u32::from_le_bytes(bytes.try_into()?))
    };
    let table = usize::try_from(word(28)?)?;
    let count = usize::try_from(word(44)? & 0xffff)?;
    for header in (0..count).map(|number| table + 32 * number) {
        if word(header)? != LOADABLE {
            continue;
        }
        let first = usize::try_from(word(header + 4)?)?;
        let length = usize::try_from(word(header + 16)?)?;
        let Some(segment) = image.get(first..first + length) else {
            bail!("a segment is cut off");
        };
        ram.write_slice(segment, GuestAddress(word(header + 12)?.into()))?;
    }
    Ok(word(24)?.into())
}

/// The Multiboot information (Multiboot 0.6.96, 3.3): sizes of memory, a command line, and a module
/// with the settings of kvm-unit-tests for a machine without `fw_cfg`.
fn write_information(ram: &Ram, mib: u64) -> anyhow::Result<()> {
    let settings = format!("NR_CPUS=1\nMEMSIZE={mib}\nMEMLIMIT={mib}\n");
    let upper = u32::try_from((mib - 1) << 10)?;
    let mut words = [0_u32; 22];
    words[0] = 0b1101; // memory, command line, modules
    (words[1], words[2]) = (639, upper);
    words[4] = u32::try_from(COMMAND_LINE)?;
    (words[5], words[6]) = (1, u32::try_from(MODULES)?);
    for (word, at) in words.iter().zip((INFORMATION..).step_by(4)) {
        ram.write_obj(*word, GuestAddress(at))?;
    }
    let first = u32::try_from(SETTINGS)?;
    let end = first + u32::try_from(settings.len())?;
    for (word, at) in [first, end, 0, 0].iter().zip((MODULES..).step_by(4)) {
        ram.write_obj(*word, GuestAddress(at))?;
    }
    ram.write_slice(b"test\0", GuestAddress(COMMAND_LINE))?;
    ram.write_slice(settings.as_bytes(), GuestAddress(SETTINGS))?;
    Ok(())
}

/// `PT_LOAD`.
const LOADABLE: u32 = 1;
const INFORMATION: u64 = 0x9000;
const MODULES: u64 = 0x9100;
const COMMAND_LINE: u64 = 0x9200;
const SETTINGS: u64 = 0x9300;
