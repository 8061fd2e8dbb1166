//! One job, four designs, and a crash: what each costs, and whether every word was counted once.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod designs;
mod job;
mod plot;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::{Table, presets};

use designs::{Design, Run};

/// Count words that come at a steady rate, crash, and count on.
#[derive(Debug, Parser)]
struct Args {
    /// Words in the stream.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1_000..=20_000_000))]
    words: u64,
    /// Words a second.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    rate: u64,
    /// Different words.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(2..=10_000_000))]
    vocabulary: u32,
    /// Milliseconds from one snapshot, or batch, to the next.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    interval: u64,
    /// When everything in memory, or one replica, is lost: milliseconds from the beginning.
    #[arg(long, default_value_t = 2_100)]
    kill_at: u64,
    /// Draw the latency over time.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wordcount-stream: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let runs = Design::ALL.iter().map(|design| designs::run(*design, args));
    let runs: Vec<Run> = runs.collect::<Result<_>>()?;
    println!("{}", table(&runs, args));
    if let Some(path) = &args.svg {
        let svg = plot::latency(&runs, args.kill_at);
        fs::write(path, svg).with_context(|| path.display().to_string())?;
    }
    for run in &runs {
        let (name, wrong) = (run.design.name(), run.wrong);
        if run.design == Design::DoesNotWait {
            println!(
                "{name}: {wrong} counts of {} are wrong after the crash",
                args.words
            );
        } else {
            ensure!(wrong == 0, "{name}: {wrong} counts are wrong");
        }
    }
    println!(
        "the right designs counted each of {} words once",
        args.words
    );
    Ok(())
}

fn table(runs: &[Run], args: &Args) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "design",
        "latency p50 ms",
        "p99 ms",
        "words/s",
        "snapshots",
        "pause p99 ms",
        "KiB kept",
        "back after ms",
        "counts",
    ]);
    for run in runs {
        let mut latencies: Vec<_> = run
            .meter
            .latencies()
            .iter()
            .map(|(_, time)| *time)
            .collect();
        latencies.sort_unstable();
        let mut pauses = run.pauses.clone();
        pauses.sort_unstable();
        let pause = percentile(&pauses, 99).map_or_else(|| "-".to_owned(), |time| millis(*time));
        let latency = |part| {
            let time = percentile(&latencies, part).copied().unwrap_or(0);
            millis(Duration::from_nanos(time))
        };
        let micros = (run.meter.last() / 1_000).max(1);
        table.add_row([
            run.design.name().to_owned(),
            latency(50),
            latency(99),
            (args.words * 1_000_000 / micros).to_string(),
            run.snapshots.to_string(),
            pause,
            (run.bytes / 1_024).to_string(),
            millis(Duration::from_nanos(run.back_after)),
            if run.wrong == 0 {
                "exact".to_owned()
            } else {
                format!("{} wrong", run.wrong)
            },
        ]);
    }
    table
}

fn millis(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

/// Of a sorted list.
pub(crate) fn percentile<T>(sorted: &[T], part: usize) -> Option<&T> {
    sorted.get((sorted.len() * part / 100).min(sorted.len().checked_sub(1)?))
}
