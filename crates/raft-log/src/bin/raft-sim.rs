//! `raft-sim --seed N` replays one run; `raft-sim --runs N` tries that many seeds; `--bytes` puts bytes under the disks.
#![expect(clippy::print_stdout, reason = "a command")]

use std::env;
use std::process::ExitCode;
use std::time::Instant;

use raft_log::sim::{Scenario, run, run_traced, shrink};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let number = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1)?.parse::<u64>().ok()
    };
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let scenario = |seed| Scenario {
        bytes: flag("--bytes"),
        ..Scenario::from_seed(seed)
    };
    match (number("--seed"), number("--runs")) {
        (Some(seed), None) => replay(&scenario(seed), flag("--trace")),
        (first, Some(runs)) => search(first.unwrap_or(0), runs, scenario),
        (None, None) => {
            println!(
                "usage: raft-sim --seed N [--bytes] [--trace] | raft-sim --runs N [--seed FIRST] [--bytes]"
            );
            ExitCode::from(2)
        }
    }
}

fn replay(scenario: &Scenario, trace: bool) -> ExitCode {
    println!("{scenario:?}");
    let outcome = if trace {
        run_traced(scenario, &mut |event| println!("{event}"))
    } else {
        run(scenario)
    };
    println!(
        "{} steps, {} entries committed, {} answers",
        outcome.steps, outcome.committed, outcome.answered
    );
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("{violation}");
            println!("smallest that fails: {:?}", shrink(scenario));
            ExitCode::FAILURE
        }
    }
}

fn search(first: u64, runs: u64, scenario: impl Fn(u64) -> Scenario) -> ExitCode {
    let began = Instant::now();
    let (mut steps, mut failed) = (0, 0_u32);
    for seed in first..first + runs {
        let outcome = run(&scenario(seed));
        steps += outcome.steps;
        if let Some(violation) = outcome.violation {
            println!("seed {seed} {violation}");
            failed += 1;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let speed = f64::from(u32::try_from(steps / 1_000).unwrap_or(u32::MAX)) / seconds;
    println!(
        "{runs} schedules, {steps} steps, {failed} failed, {seconds:.1} s, {speed:.0} thousand steps/s"
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
