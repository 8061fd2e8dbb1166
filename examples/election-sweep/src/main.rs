//! What is a good election timeout? From 1 ms to 1 month, by simulation of the shipping core.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod chance;
mod plot;
mod sweep;
mod world;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::{Table, presets};

use sweep::{Effort, Point, Troubles};
use world::Surroundings;

/// Find a good election timeout.
#[derive(Debug, Parser)]
struct Arguments {
    /// Servers.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(3..=9))]
    servers: u64,
    /// Microseconds that each message takes at least.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    delay_us: u64,
    /// Microseconds that it takes more: exponential, with this mean.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    jitter_us: u64,
    /// One message in so many is slow.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    slow_one_in: u64,
    /// Milliseconds that it takes more: exponential, with this mean.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    slow_ms: u64,
    /// Microseconds of a write to the disk.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    disk_us: u64,
    /// Seconds from one pause of a server to the next, as for garbage collection: exponential, with this mean.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pause_every_s: u64,
    /// Milliseconds of a pause: exponential, with this mean.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pause_ms: u64,
    /// Hours from one crash of a leader to the next.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    crash_every_h: u64,
    /// Seconds until a server that has crashed is back.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    restart_s: u64,
    /// Elections as in the paper, without pre-vote and check-quorum.
    #[arg(long)]
    plain: bool,
    /// Calls of servers for each timeout while nothing happens but messages.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    steps: u64,
    /// Crashes of leaders for each timeout, and pauses of leaders and of others.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    crashes: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw it.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

const MS: u64 = 1_000;
const S: u64 = 1_000 * MS;
const TIMEOUTS: [(u64, &str); 19] = [
    (MS, "1 ms"),
    (2 * MS, "2 ms"),
    (5 * MS, "5 ms"),
    (10 * MS, "10 ms"),
    (20 * MS, "20 ms"),
    (50 * MS, "50 ms"),
    (100 * MS, "100 ms"),
    (150 * MS, "150 ms"),
    (200 * MS, "200 ms"),
    (300 * MS, "300 ms"),
    (500 * MS, "500 ms"),
    (S, "1 s"),
    (3 * S, "3 s"),
    (10 * S, "10 s"),
    (60 * S, "1 min"),
    (3_600 * S, "1 h"),
    (86_400 * S, "1 day"),
    (7 * 86_400 * S, "1 week"),
    (30 * 86_400 * S, "1 month"),
];
/// A timeout is as good as the best if it is unavailable no longer than so many times as long.
const AS_GOOD: f64 = 2.0;
/// And the extremes are bad if they are so many times worse.
const BAD: f64 = 100.0;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("election-sweep: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Arguments) -> Result<()> {
    let around = Surroundings {
        servers: args.servers,
        delay: args.delay_us,
        jitter: args.jitter_us,
        slow_one_in: args.slow_one_in,
        slow: args.slow_ms * MS,
        disk: args.disk_us,
        restart: args.restart_s * S,
        plain: args.plain,
    };
    let troubles = Troubles {
        crash_every: args.crash_every_h * 3_600 * S,
        pause_every: args.pause_every_s * S,
        pause: args.pause_ms * MS,
    };
    let effort = Effort {
        steps: args.steps,
        crashes: args.crashes,
        seed: args.seed,
    };
    let mut points = Vec::new();
    for (timeout, _) in TIMEOUTS {
        points.push(sweep::point(around, timeout, troubles, effort)?);
    }
    println!("{}", table(&points));
    if let Some(path) = &args.svg {
        fs::write(path, plot::svg(&points)).with_context(|| path.display().to_string())?;
    }
    judge(&points)
}

fn judge(points: &[Point]) -> Result<()> {
    let unavailable = |place: usize| points[place].unavailable;
    let best = (0..points.len()).min_by(|a, b| unavailable(*a).total_cmp(&unavailable(*b)));
    let best = best.context("no timeout")?;
    let good = |place: &usize| unavailable(*place) <= AS_GOOD * unavailable(best);
    let first = (0..=best).rev().take_while(good).last().unwrap_or(best);
    let last = (best..points.len()).take_while(good).last().unwrap_or(best);
    println!(
        "best: {}; {} to {} are as good within a factor of {AS_GOOD}",
        TIMEOUTS[best].1, TIMEOUTS[first].1, TIMEOUTS[last].1
    );
    for end in [0, points.len() - 1] {
        ensure!(
            unavailable(end) >= BAD * unavailable(best),
            "{} should be {BAD} times worse than {}, and is {:.1}",
            TIMEOUTS[end].1,
            TIMEOUTS[best].1,
            unavailable(end) / unavailable(best)
        );
    }
    Ok(())
}

fn table(points: &[Point]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "timeout",
        "elections/min",
        "no leader, no crash",
        "outage per crash",
        "unavailable",
        "a year",
    ]);
    for (point, (_, name)) in points.iter().zip(TIMEOUTS) {
        table.add_row([
            name.to_owned(),
            format!("{:.3}", point.elections),
            format!("{:.7}", point.disturbed),
            time(point.outage),
            format!("{:.7}", point.unavailable),
            time(point.unavailable * 365.25 * 86_400e6),
        ]);
    }
    table
}

/// Of microseconds.
fn time(micros: f64) -> String {
    let units = [
        (86_400e6, "days"),
        (3_600e6, "h"),
        (60e6, "min"),
        (1e6, "s"),
    ];
    let unit = units.into_iter().find(|(size, _)| micros >= 2.0 * size);
    let (size, name) = unit.unwrap_or((1e3, "ms"));
    format!("{:.1} {name}", micros / size)
}
