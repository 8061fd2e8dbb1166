//! What an interrupt costs under each design of its delivery, from the history of a real guest.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod measure;
mod picture;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use boot::Net;
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use measure::{Row, measure};

/// Boot Debian, let it send a TCP stream, and replay what it did with its interrupt controllers under each design.
#[derive(Debug, Parser)]
struct Args {
    /// Segments that the guest sends.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    segments: u32,
    /// Nanoseconds until an adapter begins with what is queued.
    #[arg(long, value_name = "NS", default_value_t = 20_000)]
    delay: u64,
    /// Draw the way that an interrupt takes in each design, and what it costs.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// What is compared: an adapter that interrupts by a level-triggered pin, and one that does by messages.
const LOADS: [(&str, Net); 2] = [("e1000, INTA#", Net::E1000), ("virtio, MSI-X", Net::Virtio)];

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("interrupt-paths: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    println!("engine: dbt (the history of a guest must be exact, and is repeatable here)");
    let boots = LOADS.len() * measure::BOOTS;
    let bar = ProgressBar::new(u64::try_from(boots).unwrap_or(0));
    let style = ProgressStyle::with_template("{bar:30} boot {pos} of {len}: {msg}")?;
    bar.set_style(style);
    let mut rows = Vec::new();
    for (name, net) in LOADS {
        let measured = measure(net, args.segments, args.delay, |what| {
            bar.set_message(format!("{name}, {what}"));
            bar.inc(1);
        });
        rows.push((name, measured.with_context(|| name.to_owned())?));
    }
    bar.finish_and_clear();
    for (name, rows) in &rows {
        println!(
            "\n{name}: {} segments, boot left out\n{}",
            args.segments,
            listing(rows)
        );
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, picture::paths(&rows)).with_context(|| path.display().to_string())?;
        println!("picture: {}", path.display());
    }
    for (name, rows) in &rows {
        check(rows).with_context(|| (*name).to_owned())?;
    }
    println!("the virtual-APIC page and the local APIC agreed at every interrupt");
    Ok(())
}

/// The page must have delivered what the local APIC did, and no design with more hardware may exit more often.
fn check(rows: &[Row]) -> Result<()> {
    for row in rows {
        let wrong = row.counters.disagreements;
        ensure!(
            wrong == 0,
            "{:?}: {wrong} interrupts were not the guest's",
            row.design
        );
        ensure!(
            row.counters.interrupts > 0,
            "{:?}: no interrupts",
            row.design
        );
    }
    let apics = rows.iter().filter(|row| row.design != apic::Design::Pic);
    let exits: Vec<_> = apics.map(|row| row.counters.exits()).collect();
    ensure!(
        exits.is_sorted_by(|a, b| a >= b),
        "more hardware, more exits: {exits:?}"
    );
    Ok(())
}

fn listing(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "design",
        "interrupts",
        "exits each",
        "injection",
        "window",
        "end",
        "priority",
        "timer",
        "IPI",
        "other",
        "host interrupts each",
    ]);
    for row in rows {
        let c = &row.counters;
        let mut cells = vec![row.name().to_owned(), c.interrupts.to_string()];
        let parts = [
            c.exits(),
            c.interrupted,
            c.window,
            c.end_of_interrupt,
            c.task_priority,
            c.timer,
            c.interprocessor,
            c.other,
            c.host_interrupts,
        ];
        cells.extend(parts.map(|count| format!("{:.3}", row.each(count))));
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
