//! Payments are refused while they are made, by what the card has paid within the last minute; the process is killed on the
//! way, and the list of refusals is the same, byte for byte.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

mod cards;
mod rule;

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chandy_lamport::{Directory, KeyGroups};
use clap::Parser;
use dataflow::{Continuous, FileOutput, Generator, Job, Program, Stopper};

use cards::Payment;
use rule::{Reason, Recent};

/// Refuse payments with stolen cards.
#[derive(Debug, Parser)]
struct Args {
    /// Payments in the stream.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    payments: u64,
    /// Kill the process so many times with SIGKILL.
    #[arg(long, default_value_t = 3)]
    kills: u32,
    /// When it is killed, from one time to the next.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only run the job, with its snapshots and refusals in this folder.
    #[arg(long, value_name = "FOLDER")]
    run_in: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.run_in {
        Some(folder) => run(&args, folder),
        None => watch(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fraud: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The job itself: one task reads, two decide, each with a file of its own.
fn run(args: &Args, folder: &Path) -> Result<()> {
    let storage = Directory::open(&folder.join("snapshots"))?;
    let continuous = Continuous {
        interval: Duration::from_millis(20),
        ..Continuous::new()
    };
    continuous.run(&job(args.payments, folder), storage, &Stopper::default())?;
    Ok(())
}

fn job(payments: u64, folder: &Path) -> Job {
    let folder = folder.to_owned();
    let program = Program::new(groups());
    program
        .source("payments", 1, 512, move |_| {
            Generator::new(0, 1, payments, cards::payment)
        })
        .key_by(|payment| payment.card)
        .stateful(
            "decide",
            TASKS,
            Recent::default,
            |_, recent, payment, refused| {
                refused.extend(recent.decide(payment).map(|reason| (payment, reason)));
            },
        )
        .sink(
            move |task| FileOutput::new(&refusals(&folder, task)),
            |(payment, reason), bytes| bytes.extend(line(payment, *reason).into_bytes()),
        );
    program.job()
}

/// Runs the job as another process, kills that, and looks at what it wrote.
fn watch(args: &Args) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = std::env::current_exe()?;
    let began = Instant::now();
    let mut killed = 0;
    loop {
        let mut child = Command::new(&program)
            .args(["--payments", &args.payments.to_string(), "--run-in"])
            .arg(folder.path())
            .spawn()
            .context("starting the job")?;
        if killed < args.kills {
            let random = (args.seed ^ u64::from(killed)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            thread::sleep(Duration::from_millis(30 + random % 200));
            child.kill()?;
        }
        let status = child.wait()?;
        if status.success() {
            break;
        }
        ensure!(status.code().is_none(), "the job failed: {status}");
        killed += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    let expected = by_hand(args.payments);
    for (task, expected) in (0..).zip(&expected.files) {
        let path = refusals(folder.path(), task);
        let written = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        ensure!(
            written == *expected,
            "the refusals of task {task} are not those of a plain loop"
        );
    }
    let Expected {
        refused,
        right,
        stolen,
        ..
    } = expected;
    println!(
        "{} payments in {seconds:.1} s, killed {killed} times: {refused} refused, {right} of them stolen, of {stolen}",
        args.payments
    );
    println!("every refusal is written once, byte for byte as a plain loop writes them");
    Ok(())
}

/// What the plain loop says.
#[derive(Default)]
struct Expected {
    files: [String; 2],
    refused: u64,
    right: u64,
    stolen: u64,
}

fn by_hand(payments: u64) -> Expected {
    let mut expected = Expected::default();
    let mut cards: HashMap<u32, Recent> = HashMap::new();
    for payment in (0..payments).map(cards::payment) {
        expected.stolen += u64::from(payment.stolen);
        if let Some(reason) = cards.entry(payment.card).or_default().decide(payment) {
            let group = groups().of_hash(chandy_lamport::stable_hash(&payment.card));
            let task = usize::from(groups().owner(group, TASKS) > 0);
            expected.files[task].push_str(&line(&payment, reason));
            expected.refused += 1;
            expected.right += u64::from(payment.stolen);
        }
    }
    expected
}

fn line(payment: &Payment, reason: Reason) -> String {
    let mut line = String::new();
    let Payment {
        time, card, cents, ..
    } = payment;
    writeln!(line, "{time} {card} {cents} {reason:?}").expect("a String takes all");
    line
}

fn refusals(folder: &Path, task: u32) -> PathBuf {
    folder.join(format!("refusals-{task}"))
}

fn groups() -> KeyGroups {
    KeyGroups::new(128).unwrap_or_else(|| unreachable!("128 is allowed"))
}

const TASKS: u32 = 2;
