//! The job under each design, with a crash on the way.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chandy_lamport::{Directory, Mutation, Protocol};
use dataflow::{Continuous, Ended, Job, MicroBatch, Replicated, Shared, Stopper};

use crate::Args;
use crate::job::{self, Meter};

/// A way to survive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Design {
    Aligned,
    Unaligned,
    StopTheWorld,
    SmallBatches,
    Replicated,
    /// The lectures' wrong variant: the router does not wait for all barriers.
    DoesNotWait,
}

impl Design {
    pub(crate) const ALL: [Self; 6] = [
        Self::Aligned,
        Self::Unaligned,
        Self::StopTheWorld,
        Self::SmallBatches,
        Self::Replicated,
        Self::DoesNotWait,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Aligned => "continuous, aligned",
            Self::Unaligned => "continuous, unaligned",
            Self::StopTheWorld => "stop the world",
            Self::SmallBatches => "small batches",
            Self::Replicated => "replicated operators",
            Self::DoesNotWait => "wrong: does not wait",
        }
    }
}

/// What a run showed. Times are in nanoseconds.
pub(crate) struct Run {
    pub(crate) design: Design,
    pub(crate) meter: Meter,
    pub(crate) pauses: Vec<Duration>,
    pub(crate) snapshots: usize,
    pub(crate) bytes: u64,
    pub(crate) back_after: u64,
    pub(crate) wrong: u64,
}

pub(crate) fn run(design: Design, args: &Args) -> Result<Run> {
    let folder = tempfile::tempdir().context("a folder for snapshots")?;
    let outputs = [Shared::default(), Shared::default()];
    let meter = Meter::new(args.words, args.rate);
    let job = job::job(&meter, args.words, args.vocabulary, &outputs);
    let mut run = Run {
        design,
        meter,
        pauses: Vec::new(),
        snapshots: 0,
        bytes: 0,
        back_after: 0,
        wrong: 0,
    };
    let open = || Directory::open(folder.path()).context("the folder of snapshots");
    let mut lives = 0;
    loop {
        lives += 1;
        let stopper = Stopper::default();
        let storage = open()?;
        let meter = run.meter.clone();
        let ended = thread::scope(|scope| {
            // One crash; of the wrong variant more, since it is right by chance where two barriers come together.
            let again = design == Design::DoesNotWait;
            let crash = (lives == 1 || again).then(|| {
                let (meter, stopper) = (meter.clone(), stopper.clone());
                scope.spawn(move || {
                    let at = Duration::from_millis(args.kill_at + (lives - 1) * args.interval * 2);
                    thread::sleep(at.saturating_sub(Duration::from_nanos(meter.now())));
                    stopper.stop();
                    meter.now()
                })
            });
            let ended = live(design, args, &job, storage, &stopper, &mut run);
            if let Some(moment) = crash.and_then(|crash| crash.join().ok()) {
                run.back_after = moment;
            }
            ended
        })?;
        if ended == Ended::Finished {
            break;
        }
    }
    run.back_after = run.meter.back_after(run.back_after);
    run.wrong = job::wrong(args.words, args.vocabulary, &outputs);
    Ok(run)
}

fn live(
    design: Design,
    args: &Args,
    job: &Job,
    mut storage: Directory,
    stopper: &Stopper,
    run: &mut Run,
) -> Result<Ended> {
    let interval = Duration::from_millis(args.interval);
    let protocol = match design {
        Design::SmallBatches => {
            let batches = MicroBatch {
                context: rdd::Context::local(2)?,
                interval,
                reads_max: usize::MAX,
            };
            let report = batches.run(job, &mut storage, stopper)?;
            run.snapshots += report.batches.len();
            run.bytes += report.bytes;
            return Ok(report.ended);
        }
        Design::Replicated => {
            let report = Replicated::new().run(job, std::slice::from_ref(stopper))?;
            return Ok(report.ended);
        }
        Design::Aligned | Design::DoesNotWait => Protocol::Aligned,
        Design::Unaligned => Protocol::Unaligned,
        Design::StopTheWorld => Protocol::StopTheWorld,
    };
    let continuous = Continuous {
        protocol,
        interval,
        mutation: (design == Design::DoesNotWait).then_some(Mutation::DoNotWait),
        ..Continuous::new()
    };
    let report = continuous.run(job, storage, stopper)?;
    run.snapshots += report.snapshots.len();
    run.bytes += report.bytes;
    run.pauses.extend(report.pauses);
    Ok(report.ended)
}
