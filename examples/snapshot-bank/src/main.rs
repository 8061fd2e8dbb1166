//! A bank whose branches pay each other without rest, and is counted all the same.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod bank;
mod diagram;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use chandy_lamport::Protocol;
use clap::{Parser, ValueEnum};
use comfy_table::{Table, presets};

use bank::{Bank, Counted};

/// Count the money of a bank while it moves.
#[derive(Debug, Parser)]
struct Args {
    /// The order of events, and which branches pay which.
    #[arg(long, default_value_t = 3)]
    seed: u64,
    /// How the branches agree on what to count.
    #[arg(long, value_enum, default_value_t = Algorithm::ChandyLamport)]
    protocol: Algorithm,
    /// Payments between branches.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    payments: u32,
    /// How often the bank is counted meanwhile.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    snapshots: u32,
    /// Channels do not keep their order: only Lai and Yang's algorithm allows that.
    #[arg(long)]
    reorder: bool,
    /// Draw what happened, with the cuts.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Algorithm {
    /// Chandy and Lamport 1985.
    ChandyLamport,
    /// Markers overtake.
    Unaligned,
    /// Nobody pays until all is counted.
    StopTheWorld,
    /// Lai and Yang 1987.
    LaiYang,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snapshot-bank: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let protocol = match args.protocol {
        Algorithm::ChandyLamport => Protocol::ChandyLamport,
        Algorithm::Unaligned => Protocol::Unaligned,
        Algorithm::StopTheWorld => Protocol::StopTheWorld,
        Algorithm::LaiYang => Protocol::LaiYang,
    };
    let mut bank = Bank::new(
        protocol,
        args.seed,
        args.payments,
        args.snapshots,
        args.reorder,
    )?;
    bank.run()?;
    let counted = bank.counted();
    println!("{}", table(&counted));
    if let Some(path) = &args.svg {
        let svg = diagram::space_time(bank.graph().processes, bank.events());
        fs::write(path, svg).with_context(|| path.display().to_string())?;
    }
    let total = bank.total();
    for one in &counted {
        ensure!(
            one.total() == total,
            "snapshot {} counts {}, the bank has {total}: the cut is inconsistent",
            one.id,
            one.total()
        );
    }
    println!(
        "{} branches, {} channels, {} payments: every snapshot counts {total}",
        bank.graph().processes,
        bank.graph().links.len(),
        args.payments
    );
    Ok(())
}

fn table(counted: &[Counted]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "snapshot",
        "in branches",
        "under way",
        "payments under way",
        "total",
    ]);
    for one in counted {
        table.add_row([
            one.id,
            one.in_branches,
            one.under_way,
            one.payments,
            one.total(),
        ]);
    }
    table
}
