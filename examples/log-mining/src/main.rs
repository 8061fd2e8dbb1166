//! The errors of a log, kept in memory and asked several questions, while a worker is lost with all it kept.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod log;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use comfy_table::{Table, presets};
use rdd::{Context, Faults, Rdd, ThreadOptions, Threads};

/// Ask a log about its errors, which are read once and kept in memory.
#[derive(Debug, Parser)]
struct Args {
    /// Lines in the generated log.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    lines: u64,
    /// Read this log instead: level, time, service and message with tabs between them.
    #[arg(long, value_name = "FILE", conflicts_with = "lines")]
    log: Option<PathBuf>,
    /// Threads.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Splits of the log, which are the tasks of a query.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    partitions: u32,
    /// Lose a worker and all it holds after this many tasks; after the second query when none is given, 0 for never.
    #[arg(long, value_name = "N")]
    kill_worker_at: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let usable = args.log.as_deref().map_or(Ok(()), readable);
    if let Err(error) = usable {
        eprintln!("log-mining: {error:#}");
        return ExitCode::from(2);
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("log-mining: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn readable(path: &Path) -> Result<()> {
    std::fs::read_to_string(path)
        .map(drop)
        .with_context(|| path.display().to_string())
}

fn run(args: &Args) -> Result<()> {
    let generated = tempfile::NamedTempFile::new()?;
    let path = match &args.log {
        Some(path) => path.as_path(),
        None => {
            log::write(&generated, args.lines)?;
            generated.path()
        }
    };
    let kill_at = args
        .kill_worker_at
        .unwrap_or_else(|| 2 * u64::from(args.partitions));
    let threads = Arc::new(Threads::new(ThreadOptions {
        workers: args.workers,
        faults: Faults {
            lose_worker_at: (kill_at > 0).then_some(kill_at),
            ..Faults::default()
        },
        ..ThreadOptions::default()
    })?);
    let context = Context::new(threads.clone(), args.workers as usize);
    let read = Arc::new(AtomicU64::new(0));
    let counted = read.clone();
    let errors = context
        .text_lines(path, args.partitions as usize, move |line| {
            counted.fetch_add(1, Ordering::Relaxed);
            line.starts_with("ERROR").then(|| line.to_owned())
        })
        .flat_map(|line| line)
        .set_name("errors")
        .cache();
    println!("{}", errors.to_debug_string());

    let plain = Plain::of(path)?;
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "query",
        "answer",
        "lines read",
        "ms",
        "workers lost",
    ]);
    let mut rows = Vec::new();
    for (name, query, expected) in queries(&plain) {
        let (lines, began) = (read.load(Ordering::Relaxed), Instant::now());
        let answer = query(&errors)?;
        let row = Row {
            time: began.elapsed(),
            lines: read.load(Ordering::Relaxed) - lines,
            lost: threads.counts().workers_lost,
        };
        ensure!(
            answer == expected,
            "{name}: {answer}, a plain loop has {expected}"
        );
        table.add_row([
            name.to_owned(),
            answer,
            row.lines.to_string(),
            format!("{:.1}", row.time.as_secs_f64() * 1e3),
            row.lost.to_string(),
        ]);
        rows.push(row);
    }
    println!("{table}");
    println!(
        "a plain loop reads {} lines for each query: {:.1} ms",
        plain.lines,
        plain.time.as_secs_f64() * 1e3
    );
    let lost = threads.counts().workers_lost;
    ensure!(
        args.kill_worker_at.is_some() || lost == 1,
        "no worker was lost"
    );
    let again: u64 = rows.iter().skip(1).map(|row| row.lines).sum();
    println!(
        "every answer is the plain loop's; {again} lines were read again for {lost} lost workers"
    );
    Ok(())
}

struct Row {
    time: Duration,
    lines: u64,
    lost: u64,
}

type Query = fn(&Rdd<String>) -> Result<String, rdd::JobError>;

/// The paper's queries, some asked twice, with the right answers.
fn queries(plain: &Plain) -> [(&'static str, Query, String); 6] {
    let count: Query = |errors| Ok(errors.count()?.to_string());
    let of_mysql: Query = |errors| {
        let mysql = errors.filter(|line| log::is_of(line, "MySQL"));
        Ok(mysql.count()?.to_string())
    };
    let times_of_hdfs: Query = |errors| {
        let times = errors
            .filter(|line| log::is_of(line, "HDFS"))
            .flat_map(|line| log::time(&line))
            .collect()?;
        Ok(summary(&times))
    };
    let by_service: Query = |errors| {
        let counts = errors.flat_map(|line| log::service(&line).map(|service| (service, 1)));
        let counts = counts.reduce_by_key(2, |a, b| a + b).collect_as_map()?;
        Ok(most(&counts.into_iter().collect()))
    };
    [
        ("errors", count, plain.errors.to_string()),
        ("errors of MySQL", of_mysql, plain.mysql.to_string()),
        ("times of HDFS errors", times_of_hdfs, summary(&plain.hdfs)),
        (
            "times of HDFS errors, again",
            times_of_hdfs,
            summary(&plain.hdfs),
        ),
        (
            "service with most errors",
            by_service,
            most(&plain.services),
        ),
        ("errors, again", count, plain.errors.to_string()),
    ]
}

/// The same by a loop over the file, in one thread.
#[derive(Default)]
struct Plain {
    lines: u64,
    errors: u64,
    mysql: u64,
    hdfs: Vec<String>,
    services: BTreeMap<String, u64>,
    /// To read the file and count its errors.
    time: Duration,
}

impl Plain {
    fn of(path: &Path) -> Result<Self> {
        let began = Instant::now();
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let errors = || text.lines().filter(|line| line.starts_with("ERROR"));
        let mut plain = Self {
            errors: errors().count() as u64,
            time: began.elapsed(),
            lines: text.lines().count() as u64,
            ..Self::default()
        };
        for line in errors() {
            plain.mysql += u64::from(log::is_of(line, "MySQL"));
            if log::is_of(line, "HDFS") {
                plain.hdfs.extend(log::time(line));
            }
            if let Some(service) = log::service(line) {
                *plain.services.entry(service).or_default() += 1;
            }
        }
        Ok(plain)
    }
}

/// How many, and the first and last in the log's order.
fn summary(times: &[String]) -> String {
    match (times.first(), times.last()) {
        (Some(first), Some(last)) => format!("{}: {first} to {last}", times.len()),
        _ => "none".to_owned(),
    }
}

fn most(counts: &BTreeMap<String, u64>) -> String {
    let most = counts.iter().max_by_key(|(_, count)| **count);
    most.map_or_else(
        || "none".to_owned(),
        |(name, count)| format!("{name}: {count}"),
    )
}
