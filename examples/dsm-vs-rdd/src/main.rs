//! What the lecture's table of shared memory against datasets claims for datasets, measured on one job.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod job;
mod plot;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::{Table, presets};
use job::{Run, Size, Trouble};
use rdd::Faults;

/// Measure recovery, stragglers, checkpoints and placement of datasets.
#[derive(Debug, Parser)]
struct Args {
    /// Links between pages.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(100..))]
    links: u64,
    /// Rounds of ranks.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(2..=20))]
    rounds: u64,
    /// Workers, each with one partition.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=16))]
    workers: u32,
    /// Plot the tasks that run again.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dsm-vs-rdd: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let size = Size {
        links: args.links,
        rounds: usize::try_from(args.rounds)?,
        workers: args.workers,
    };
    let half = size.rounds / 2;
    let plain = job::run(size, Trouble::default())?;
    let tasks = plain.counts.finished;
    let checkpointed = job::run(
        size,
        Trouble {
            checkpoint_after: Some(half),
            ..Trouble::default()
        },
    )?;
    let slow = |no_backups| {
        let slow_first_worker = 10;
        let faults = Faults {
            slow_first_worker,
            ..Faults::default()
        };
        job::run(
            size,
            Trouble {
                faults,
                no_backups,
                ..Trouble::default()
            },
        )
    };
    let (backed_up, alone) = (slow(false)?, slow(true)?);
    let lost = losses(size, tasks, None)?;
    let lost_after = losses(size, checkpointed.counts.finished, Some(half))?;
    let runs = [&checkpointed, &backed_up, &alone].into_iter();
    for other in runs.chain(lost.iter().chain(&lost_after).map(|(_, run)| run)) {
        ensure!(other.sum == plain.sum, "{} is not {}", other.sum, plain.sum);
    }

    let again = |(at, run): &(u64, Run)| (*at, run.counts.attempts - run.counts.backups);
    let by_lineage: Vec<(u64, u64)> = lost
        .iter()
        .map(again)
        .map(|(at, n)| (at, n.saturating_sub(tasks)))
        .collect();
    let by_checkpoint: Vec<(u64, u64)> = lost_after
        .iter()
        .map(again)
        .map(|(at, n)| (at, n.saturating_sub(checkpointed.counts.finished)))
        .collect();
    let from_scratch = lost.iter().map(|(at, _)| (*at, *at)).collect();
    let most = |series: &[(u64, u64)]| series.iter().map(|(_, n)| *n).max().unwrap_or(0);
    let (placed, anywhere) = job::shuffles(size)?;

    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "",
        "memory shared by pages",
        "datasets, measured",
    ]);
    let rows = [
        (
            "writes",
            "anywhere, by anybody".to_owned(),
            format!("{tasks} outputs, each written once by one task"),
        ),
        (
            "a worker lost",
            format!("all again: up to {tasks} tasks"),
            format!("{} tasks again at worst", most(&by_lineage)),
        ),
        (
            "checkpoint",
            format!("all memory: {} kB", plain.memory / 1000),
            format!(
                "ranks after round {half}: {} kB, then {} tasks again at worst",
                checkpointed.checkpoint / 1000,
                most(&by_checkpoint)
            ),
        ),
        (
            "a worker 10x slow",
            format!(
                "waited for: {} ms, not {}",
                alone.milliseconds, plain.milliseconds
            ),
            format!(
                "{} backup tasks: {} ms",
                backed_up.counts.backups, backed_up.milliseconds
            ),
        ),
        (
            "placement",
            "transparent".to_owned(),
            format!("by key: {placed} shuffles, otherwise {anywhere}"),
        ),
    ];
    for (what, pages, datasets) in rows {
        table.add_row([what.to_owned(), pages, datasets]);
    }
    println!("{table}");
    println!(
        "the sum of ranks was {} in each of {} runs",
        plain.sum,
        4 + lost.len() + lost_after.len()
    );
    if let Some(path) = &args.svg {
        let series = [
            ("from the beginning", "firebrick", from_scratch),
            ("by lineage", "steelblue", by_lineage),
            (
                "by lineage, with a checkpoint half-way",
                "seagreen",
                by_checkpoint,
            ),
        ];
        std::fs::write(path, plot::svg(&series))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A worker lost after one task, after as many more as there are workers, and so on.
fn losses(size: Size, tasks: u64, checkpoint_after: Option<usize>) -> Result<Vec<(u64, Run)>> {
    (1..=tasks)
        .step_by(size.workers as usize)
        .map(|at| {
            let faults = Faults {
                lose_worker_at: Some(at),
                ..Faults::default()
            };
            let trouble = Trouble {
                faults,
                checkpoint_after,
                no_backups: true,
            };
            Ok((at, job::run(size, trouble)?))
        })
        .collect()
}
