//! One run of a guest: time slices, the keyboard, what is waited for, and the verdict.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use machine::{Board, Engine, Outcome, Stop};

use crate::args::Args;
use crate::console::{Console, Keyboard, Typed};
use crate::report::Report;
use crate::{embedded, report};
use boot::initramfs::READY;

/// A loaded machine.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) engine: Engine,
    pub(crate) board: Board,
    pub(crate) console: Console,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Machine(Stop),
    Expected,
    Quit,
    TimedOut,
}

impl Session {
    /// Runs to the end, prints the table, and turns the end into the exit code.
    pub(crate) fn run(mut self, args: &Args) -> ExitCode {
        let started = Instant::now();
        let mut ready = None;
        let end = self.until_end(args, started, &mut ready);
        let elapsed = started.elapsed();
        eprintln!();
        let end = match end {
            Ok(end) => end,
            Err(error) => {
                eprintln!("boot: {error}");
                return ExitCode::FAILURE;
            }
        };
        let report = Report {
            elapsed,
            ready,
            engine: &self.engine,
            board: &self.board,
        };
        report.print();
        if args.icount {
            report.print_digest();
        }
        let (verdict, right) = self.verdict(end, args);
        eprintln!("{verdict}");
        if right {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn until_end(
        &mut self,
        args: &Args,
        started: Instant,
        ready: &mut Option<Duration>,
    ) -> Result<End, machine::EngineError> {
        let mut keyboard = (!args.icount).then(Keyboard::new);
        let progress = progress();
        let limit = args.timeout.map(Duration::from_secs);
        loop {
            let stop = self.engine.run(&mut self.board, SLICE)?;
            // A terminal that is gone is no reason to stop the guest.
            let _ = self.console.write_all(&self.board.take_debug_output());
            if self.console.bytes() > 0 {
                progress.finish_and_clear();
            } else {
                progress.set_message(report::progress(&self.engine, started.elapsed()));
            }
            if ready.is_none() && self.console.has_printed(READY) {
                *ready = Some(started.elapsed());
            }
            if args
                .expect
                .as_ref()
                .is_some_and(|text| self.console.has_printed(text))
            {
                return Ok(End::Expected);
            }
            if stop != Stop::TimeLimit {
                return Ok(End::Machine(stop));
            }
            if limit.is_some_and(|limit| started.elapsed() >= limit) {
                return Ok(End::TimedOut);
            }
            match keyboard.as_mut().and_then(Keyboard::take) {
                Some(Typed::ForGuest(bytes)) => self.board.push_input(&bytes),
                Some(Typed::Quit) => return Ok(End::Quit),
                None => {}
            }
        }
    }

    /// How the run ended in words, and whether that is what was wanted.
    fn verdict(&self, end: End, args: &Args) -> (String, bool) {
        let missing = args
            .expect
            .as_ref()
            .filter(|text| !self.console.has_printed(text));
        let panicked = self.console.has_printed("Kernel panic");
        let wrong = args.kernel.is_none() && self.console.has_printed(embedded::WRONG);
        let (text, right) = match end {
            End::Expected => ("the expected text was printed".to_owned(), true),
            End::Quit => ("quit by Ctrl-A x".to_owned(), true),
            End::TimedOut => (
                format!("timed out after {} s", args.timeout.unwrap_or(0)),
                false,
            ),
            End::Machine(Stop::Outcome(Outcome::PowerOff)) => {
                ("the guest powered off".to_owned(), !wrong)
            }
            End::Machine(Stop::Outcome(Outcome::Reset)) if panicked => {
                ("the kernel panicked".to_owned(), false)
            }
            End::Machine(Stop::Outcome(Outcome::Reset)) => {
                ("the guest reset the machine".to_owned(), true)
            }
            End::Machine(Stop::Outcome(Outcome::DebugExit(code))) => {
                (format!("the guest left with code {code}"), code == 0)
            }
            End::Machine(Stop::Outcome(Outcome::Sleep(state))) => {
                (format!("the guest went to sleep (SLP_TYP {state})"), true)
            }
            End::Machine(Stop::Halted) => (
                "the guest halted for good".to_owned(),
                self.halted_as_meant(),
            ),
            End::Machine(Stop::Shutdown) => {
                ("the processor shut down: a triple fault".to_owned(), false)
            }
            End::Machine(Stop::TimeLimit) => unreachable!("a slice's end does not end the session"),
        };
        match missing {
            Some(expected) => (format!("{text}, and never printed {expected:?}"), false),
            None => (text, right),
        }
    }

    /// Without ACPI, halting is how a guest powers off.
    fn halted_as_meant(&self) -> bool {
        self.console.has_printed("reboot: System halted")
            || self.console.has_printed(embedded::RIGHT)
    }
}

fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}").expect("a constant template");
    ProgressBar::new_spinner().with_style(style)
}

const SLICE: Duration = Duration::from_millis(20);
