//! Ranks of pages as lineage: the lecture's four pages to the digit, then a generated graph, with faults if asked for.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod graph;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use comfy_table::{Table, presets};
use indicatif::ProgressBar;
use rdd::{Context, Faults, ProcessOptions, Processes, Runner, ThreadOptions, Threads};

/// Rank pages by the pages that link to them.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Links in the generated graph.
    #[arg(long, default_value_t = 1_000_000)]
    edges: u64,
    /// Rounds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50))]
    iterations: u32,
    /// Threads or processes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Where tasks run.
    #[arg(long, value_enum, default_value_t = Cluster::Local)]
    cluster: Cluster,
    /// Lose a worker and all it holds after this many tasks.
    #[arg(long, value_name = "N")]
    kill_worker_at: Option<u64>,
    /// One worker is ten times slower than the others.
    #[arg(long)]
    straggler: bool,
    /// Print the lineage of the last ranks as DOT.
    #[arg(long)]
    dot: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Cluster {
    /// Threads of this process.
    Local,
    /// Processes of this host: this program, started again.
    Processes,
    /// A scheduler and two executors of Ballista, by a program that is built by itself.
    Ballista,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.cluster == Cluster::Ballista {
        return on_ballista(&args);
    }
    // In a process that was started as a worker, this serves tasks and does not return.
    let program = args.clone();
    rdd::serve_if_worker(move |context| {
        let last = graph::ranks(
            &graph::generated(context, program.edges),
            program.iterations,
        );
        rdd::collect_job(&last)
    });
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pagerank: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the program that has Ballista in it, where it was built.
fn on_ballista(args: &Args) -> ExitCode {
    let built = BALLISTA_PROGRAM.map(|folder| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../crates/rdd-ballista/target")
            .join(folder)
    });
    let Some(program) = built.iter().find(|program| program.exists()) else {
        eprintln!(
            "pagerank: Ballista takes a quarter of an hour to build, so that is done by itself:\n\
             cargo build --manifest-path crates/rdd-ballista/Cargo.toml --example cluster"
        );
        return ExitCode::from(2);
    };
    let mut command = Command::new(program);
    command.args(["pagerank", "--size", &args.edges.to_string()]);
    if args.kill_worker_at.is_some() {
        command.arg("--kill");
    }
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pagerank: {}: {error}", program.display());
            ExitCode::FAILURE
        }
    }
}

const BALLISTA_PROGRAM: [&str; 2] = ["release/examples/cluster", "debug/examples/cluster"];

fn run(args: &Args) -> Result<()> {
    four_pages()?;
    let slow_first_worker = if args.straggler { 10 } else { 0 };
    let faults = Faults {
        lose_worker_at: args.kill_worker_at,
        slow_first_worker,
    };
    let threads = Arc::new(Threads::new(ThreadOptions {
        workers: args.workers,
        faults,
        ..Default::default()
    })?);
    let processes = Arc::new(Processes::new(ProcessOptions {
        workers: args.workers,
        faults,
        ..Default::default()
    })?);
    let runner: Arc<dyn Runner> = match args.cluster {
        Cluster::Local => threads.clone(),
        Cluster::Processes | Cluster::Ballista => processes.clone(),
    };
    let context = Context::new(runner, 4);
    let ranks = graph::ranks(&graph::generated(&context, args.edges), args.iterations);
    if args.dot {
        println!("{}", ranks.lineage().to_dot());
    }
    let counts = || {
        if args.cluster == Cluster::Local {
            threads.counts()
        } else {
            processes.counts()
        }
    };
    let tasks = u64::from(args.iterations + 2) * 4;
    let began = Instant::now();
    let mut ranked = with_progress(tasks, || counts().finished, || ranks.collect())?;
    let seconds = began.elapsed().as_secs_f64();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let total: f64 = ranked.iter().map(|(_, rank)| rank).sum();
    let best: Vec<String> = ranked
        .iter()
        .take(3)
        .map(|(page, rank)| format!("{page} ({rank:.3})"))
        .collect();
    println!(
        "{} pages ranked in {seconds:.2} s, sum {total:.3}, best {}",
        ranked.len(),
        best.join(", ")
    );
    let counts = counts();
    println!(
        "{} attempts at {tasks} tasks, {} backups, {} workers lost",
        counts.attempts, counts.backups, counts.workers_lost
    );
    ensure!(
        args.kill_worker_at.is_none_or(|at| at > tasks) || counts.workers_lost == 1,
        "no worker was lost"
    );
    Ok(())
}

/// The lecture's table: one round over U1 -> U1 U2, U2 -> U2 U4, U3 -> U2 U3, U4 -> U4.
fn four_pages() -> Result<()> {
    let context = Context::local(2)?;
    let links = context.parallelize(
        [
            (1u64, vec![1u64, 2]),
            (2, vec![2, 4]),
            (3, vec![2, 3]),
            (4, vec![4]),
        ],
        2,
    );
    let (given, after) = graph::round(&links, &links.map_values(|_| 1.0));
    let (given, after) = (given.collect_as_map()?, after.collect_as_map()?);
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "page",
        "rank 0",
        "contributions",
        "rank 1",
    ]);
    for (page, expected) in [(1, 0.575), (2, 1.425), (3, 0.575), (4, 1.425)] {
        let rank = after.get(&page).copied().unwrap_or(0.0);
        ensure!(
            format!("{rank:.3}") == format!("{expected:.3}"),
            "U{page} is {rank}, the lecture has {expected}"
        );
        table.add_row([
            format!("U{page}"),
            "1".into(),
            format!("{:.1}", given[&page]),
            format!("{rank:.3}"),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// A bar on a terminal, nothing elsewhere.
fn with_progress<R>(tasks: u64, finished: impl Fn() -> u64 + Sync, job: impl FnOnce() -> R) -> R {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let bar = ProgressBar::new(tasks);
            while !over.load(Ordering::Relaxed) {
                bar.set_position(finished());
                std::thread::sleep(Duration::from_millis(50));
            }
            bar.finish_and_clear();
        });
        let result = job();
        over.store(true, Ordering::Relaxed);
        result
    })
}
