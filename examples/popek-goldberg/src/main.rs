//! Robin and Irvine's table, and a scanner for the instructions in it.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use popek_goldberg::{Entry, Environment, Finding, Group, Mode, Outcome, TABLE, scan, scan_elf};

/// Which x86 instructions are sensitive and do not trap.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the table (the default).
    Table,
    /// List the sensitive instructions that do not trap in a guest kernel that runs in ring 1.
    Scan {
        /// An ELF file, or flat code with --flat.
        file: PathBuf,
        /// The file is nothing but code of so many bits: 16, 32 or 64.
        #[arg(long, value_name = "BITS", value_parser = ["16", "32", "64"])]
        flat: Option<String>,
        /// Where flat code lies.
        #[arg(long, value_name = "ADDRESS", default_value = "0", value_parser = address)]
        at: u64,
        /// List every place, not only counts.
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().command.unwrap_or(Command::Table) {
        Command::Table => {
            print_table();
            Ok(())
        }
        Command::Scan {
            file,
            flat,
            at,
            all,
        } => print_scan(&file, flat.as_deref(), at, all),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("popek-goldberg: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn print_table() {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "group",
        "instruction",
        "sensitive by",
        "ring 1",
        "ring 3",
        "ring 3, UMIP",
        "V86, IOPL 0",
    ]);
    let ring3 = Environment {
        mode: Mode::Protected,
        ..Environment::USER
    };
    let umip = Environment {
        umip: true,
        ..ring3
    };
    let v86 = Environment {
        mode: Mode::Virtual8086,
        ..Environment::USER
    };
    for entry in TABLE {
        let outcome = |environment| words(entry.outcome(environment)).to_owned();
        table.add_row([
            group(entry.group).to_owned(),
            name(entry),
            format!("{:?}", entry.kind).to_lowercase(),
            outcome(Environment::DEPRIVILEGED),
            outcome(ring3),
            outcome(umip),
            outcome(v86),
        ]);
    }
    println!("{table}");
    let broken = TABLE.iter().filter(|entry| entry.violates()).count();
    println!(
        "{broken} of {} entries are sensitive and do not trap: x86 breaks the condition.",
        TABLE.len()
    );
}

fn print_scan(file: &Path, flat: Option<&str>, at: u64, all: bool) -> Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let findings: Vec<Finding> = match flat {
        Some(bits) => scan(&bytes, at, bits.parse()?).collect(),
        None => scan_elf(&bytes).with_context(|| format!("cannot scan {}", file.display()))?,
    };
    let silent: Vec<_> = findings
        .iter()
        .filter(|finding| finding.entry.violates_in(Environment::DEPRIVILEGED))
        .collect();
    if all {
        for finding in &silent {
            println!(
                "{:#018x}  {:<40} {}",
                finding.address,
                finding.text,
                group(finding.entry.group)
            );
        }
    }
    let mut counts = BTreeMap::new();
    for finding in &silent {
        let (count, first) = counts
            .entry(name(finding.entry))
            .or_insert((0u64, finding.address));
        *count += 1;
        *first = (*first).min(finding.address);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["sensitive, not trapping", "places", "first at"]);
    for (name, (count, first)) in counts {
        table.add_row([name, count.to_string(), format!("{first:#x}")]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    println!(
        "{} places need more than trap-and-emulate, {} trap.",
        silent.len(),
        findings.len() - silent.len()
    );
    Ok(())
}

fn name(entry: &Entry) -> String {
    let mnemonic = format!("{:?}", entry.mnemonic).to_uppercase();
    if entry.forms.is_empty() {
        mnemonic
    } else {
        format!("{mnemonic}, {}", entry.forms)
    }
}

fn words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Executes => "executes",
        Outcome::Differs(_) => "SILENTLY DIFFERS",
        Outcome::GeneralProtection => "traps",
        Outcome::InvalidOpcode => "#UD",
    }
}

fn group(group: Group) -> &'static str {
    match group {
        Group::InterruptFlag => "interrupt flag",
        Group::Descriptors => "descriptors",
        Group::Segments => "segments",
        Group::PrivilegedState => "privileged state",
        Group::Gates => "gates",
        Group::Privileged => "privileged",
    }
}

/// Decimal, or hexadecimal after `0x`.
fn address(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}
