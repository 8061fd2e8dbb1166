//! `raft-model terms=2 crashes=1 late` goes through every order of events in a cluster of three, within those bounds.
#![expect(clippy::print_stdout, reason = "a command")]

use std::env;
use std::process::ExitCode;
use std::time::Instant;

use raft_log::model::{Bounds, explore};

const USAGE: &str = "usage: raft-model terms=N [elections=N] [commands=N] [reads=N] [heartbeats=N] [crashes=N] [late] [states=MAX]";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let Some((bounds, states_max)) = parse(&arguments) else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    let began = Instant::now();
    let explored = explore(bounds, states_max);
    println!(
        "{}: {} states, {} events, at most {} deep, {:.1} s",
        arguments.join(" "),
        explored.states,
        explored.events,
        explored.depth,
        began.elapsed().as_secs_f64()
    );
    match explored.violation {
        Some((broken, path)) => {
            for event in path {
                println!("{event}");
            }
            println!("{broken}");
            ExitCode::FAILURE
        }
        None if explored.complete => {
            println!("every state within these bounds keeps every rule");
            ExitCode::SUCCESS
        }
        None => {
            println!("so far every state keeps every rule; there are more");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<(Bounds, usize)> {
    let (mut bounds, mut states_max) = (Bounds::terms(0), usize::MAX);
    for argument in arguments {
        if argument == "late" {
            bounds.late_disks = true;
            continue;
        }
        let (name, number) = argument.split_once('=')?;
        #[cfg(feature = "mutation")]
        if name == "mutation" {
            let all = raft_log::Mutation::ALL.into_iter();
            bounds.mutation = all.into_iter().find(|rule| format!("{rule:?}") == number);
            continue;
        }
        let number = number.parse().ok()?;
        match name {
            "terms" => bounds.terms = number,
            "elections" => bounds.elections = number,
            "commands" => bounds.commands = number,
            "reads" => bounds.reads = number,
            "heartbeats" => bounds.heartbeats = number,
            "crashes" => bounds.crashes = number,
            "states" => states_max = usize::try_from(number).ok()?,
            _ => return None,
        }
    }
    (bounds.terms > 0).then_some((bounds, states_max))
}
