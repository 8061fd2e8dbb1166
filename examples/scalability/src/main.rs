//! The sum of N numbers on P workers: speedup, efficiency, and how N must grow for the efficiency to stay.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod plot;
mod simulation;
mod threads;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::{Table, presets};

use simulation::Sum;
use threads::Measured;

/// Sum numbers on more and more workers, by simulation in virtual time and by threads.
#[derive(Debug, Parser)]
struct Args {
    /// Numbers summed where their count stays the same.
    #[arg(long, default_value_t = 4_096, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    numbers: u64,
    /// The most workers that are simulated, a power of two.
    #[arg(long, default_value_t = 256, value_parser = power_of_two)]
    workers: u32,
    /// Time to send a number, where an addition takes 1.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    send: u64,
    /// The efficiency to keep, in percent.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u64).range(1..=99))]
    efficiency: u64,
    /// The most numbers summed by threads.
    #[arg(long, default_value_t = 20_000_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    thread_numbers: u64,
    /// Draw speedup and isoefficiency.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn power_of_two(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(workers) if (2..=1_024_u32).contains(&workers) && workers.is_power_of_two() => {
            Ok(workers)
        }
        _ => Err("not a power of two from 2 to 1024".to_owned()),
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scalability: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let rows = simulated(args)?;
    println!("{}", simulation_table(&rows, args));
    let most = rows.iter().skip(1).map(Row::ratio).fold(0.0, f64::max);
    let least = rows.iter().skip(1).map(Row::ratio).fold(f64::MAX, f64::min);
    println!(
        "an efficiency of {} % takes N = {least:.2} to {most:.2} P log P",
        args.efficiency
    );
    let mut measured = Vec::new();
    for numbers in [
        args.thread_numbers / 1_000,
        args.thread_numbers / 30,
        args.thread_numbers,
    ] {
        for workers in [1, 2, 4] {
            measured.push(threads::measure(numbers.max(1), workers)?);
        }
    }
    println!("{}", thread_table(&measured));
    if let Some(path) = &args.svg {
        let svg = plot::panels(&rows, &measured, args);
        fs::write(path, svg).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// What so many workers do in virtual time.
struct Row {
    workers: u32,
    /// The same count of numbers for all rows.
    fixed: Sum,
    /// As many numbers as workers.
    one_each: Sum,
    /// The fixed count, and a worker ten times slow.
    straggling: Sum,
    /// The fewest numbers for the efficiency asked for.
    isoefficient: u64,
}

impl Row {
    /// That over P log P.
    fn ratio(&self) -> f64 {
        self.isoefficient as f64 / (f64::from(self.workers) * f64::from(self.workers.ilog2()))
    }
}

fn simulated(args: &Args) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for workers in (0..=args.workers.ilog2()).map(|log| 1 << log) {
        let fixed = Sum {
            numbers: args.numbers,
            workers,
            send: args.send,
            slowest: 1,
        };
        let one_each = Sum {
            numbers: u64::from(workers),
            ..fixed
        };
        for sum in [fixed, one_each] {
            let (time, expected) = (sum.time(), sum.expected());
            ensure!(
                time == expected,
                "{sum:?} took {time}, the model has {expected}"
            );
        }
        rows.push(Row {
            workers,
            fixed,
            one_each,
            straggling: Sum {
                slowest: 10,
                ..fixed
            },
            isoefficient: fixed.isoefficient(args.efficiency),
        });
    }
    Ok(rows)
}

fn simulation_table(rows: &[Row], args: &Args) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "P".to_owned(),
        format!("time, N = {}", args.numbers),
        "speedup".to_owned(),
        "efficiency".to_owned(),
        "one 10x slow".to_owned(),
        "N = P".to_owned(),
        format!("N for {} %", args.efficiency),
        "/ P log P".to_owned(),
    ]);
    for row in rows {
        table.add_row([
            row.workers.to_string(),
            row.fixed.time().to_string(),
            format!("{:.1}", row.fixed.speedup()),
            format!("{:.3}", row.fixed.efficiency()),
            format!("{:.3}", row.straggling.efficiency()),
            format!("{:.3}", row.one_each.efficiency()),
            row.isoefficient.to_string(),
            if row.workers == 1 {
                "-".to_owned()
            } else {
                format!("{:.2}", row.ratio())
            },
        ]);
    }
    table
}

fn thread_table(measured: &[Measured]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "N",
        "threads",
        "plain loop ms",
        "ms",
        "speedup",
        "efficiency",
    ]);
    for sum in measured {
        table.add_row([
            sum.numbers.to_string(),
            sum.workers.to_string(),
            format!("{:.3}", sum.plain.as_secs_f64() * 1e3),
            format!("{:.3}", sum.time.as_secs_f64() * 1e3),
            format!("{:.2}", sum.speedup()),
            format!("{:.2}", sum.efficiency()),
        ]);
    }
    table
}
