//! The sum of N numbers on P workers in virtual time: `rdd`'s own scheduler, and workers that are only numbers.
//!
//! The lecture's model: an addition takes one unit of time, and so does sending a number. Each worker adds its share;
//! then half as many tasks each add two sums, until there is one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use rdd::scheduler::{Action, AttemptId, Event, Limits, Scheduler, StageId, StagePlan, WorkerId};

/// The sum of `numbers` on a power of two of workers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum {
    pub(crate) numbers: u64,
    pub(crate) workers: u32,
    /// To send one number.
    pub(crate) send: u64,
    /// How many times slower than the others the first worker is.
    pub(crate) slowest: u64,
}

impl Sum {
    /// What the scheduler takes for it.
    pub(crate) fn time(self) -> u64 {
        Run::new(self).until_done()
    }

    /// What the model says without a straggler.
    pub(crate) fn expected(self) -> u64 {
        self.share() + (1 + self.send) * u64::from(self.levels())
    }

    /// One worker's time over that of all.
    pub(crate) fn speedup(self) -> f64 {
        self.numbers as f64 / self.time() as f64
    }

    /// The part of the time that workers add numbers for which one worker would have to add them as well.
    pub(crate) fn efficiency(self) -> f64 {
        self.speedup() / f64::from(self.workers)
    }

    /// The fewest numbers, a multiple of the workers, that are summed with this efficiency.
    pub(crate) fn isoefficient(self, percent: u64) -> u64 {
        let workers = u64::from(self.workers);
        let enough = |share: u64| {
            let numbers = share * workers;
            let time = Self { numbers, ..self }.time();
            numbers * 100 >= percent * workers * time
        };
        let mut above = 1;
        while !enough(above) {
            above *= 2;
        }
        let mut below = above / 2;
        while above - below > 1 {
            let middle = below.midpoint(above);
            if enough(middle) {
                above = middle;
            } else {
                below = middle;
            }
        }
        above * workers
    }

    /// A worker's numbers.
    fn share(self) -> u64 {
        self.numbers.div_ceil(u64::from(self.workers))
    }

    fn levels(self) -> u32 {
        self.workers.ilog2()
    }

    /// The shares, then level by level of the tree.
    fn plan(self) -> Vec<StagePlan> {
        let stage = |level: u32| {
            let parents = level.checked_sub(1).map(|parent| StageId(parent as usize));
            StagePlan::new(
                (self.workers >> level) as usize,
                parents.into_iter().collect(),
            )
        };
        (0..=self.levels()).map(stage).collect()
    }
}

struct Run {
    sum: Sum,
    scheduler: Scheduler,
    now: u64,
    /// Ordered by time, then by launch.
    ends: BinaryHeap<Reverse<(u64, AttemptId)>>,
    running: BTreeMap<AttemptId, Running>,
    done: bool,
}

struct Running {
    since: u64,
    takes: u64,
    records: u64,
    cancelled: bool,
}

impl Run {
    fn new(sum: Sum) -> Self {
        let limits = Limits {
            // A tenth of the longest task is soon enough to look for slow ones.
            backup_interval: (sum.share().max(1 + sum.send) / 10).max(1),
            backup_percent: if sum.slowest > 1 { 150 } else { 0 },
            ..Limits::default()
        };
        let scheduler = Scheduler::new(sum.plan(), limits, 0);
        Self {
            sum,
            scheduler,
            now: 0,
            ends: BinaryHeap::new(),
            running: BTreeMap::new(),
            done: false,
        }
    }

    fn until_done(&mut self) -> u64 {
        for worker in (0..self.sum.workers).map(WorkerId) {
            self.handle(Event::WorkerJoined {
                worker,
                slots: 1,
                memory_bytes: 0,
            });
        }
        while !self.done {
            let next = self.ends.peek().map(|Reverse((at, _))| *at);
            let look = self.scheduler.next_deadline();
            if let Some(look) = look.filter(|look| next.is_none_or(|at| *look < at)) {
                self.now = self.now.max(look);
                self.progress();
                self.handle(Event::Tick);
            } else {
                let Reverse((at, attempt)) = self.ends.pop().expect("a task runs until the end");
                self.now = at;
                self.end(attempt);
            }
        }
        self.now
    }

    fn progress(&mut self) {
        let known: Vec<Event> = self
            .running
            .iter()
            .map(|(attempt, task)| Event::Progress {
                attempt: *attempt,
                records: task.records * (self.now - task.since) / task.takes,
            })
            .collect();
        known.into_iter().for_each(|event| self.handle(event));
    }

    fn end(&mut self, attempt: AttemptId) {
        let Some(task) = self.running.remove(&attempt) else {
            return;
        };
        self.handle(if task.cancelled {
            Event::Failed {
                attempt,
                message: "cancelled".to_owned(),
            }
        } else {
            Event::Done {
                attempt,
                records: task.records,
                digest: None,
            }
        });
    }

    fn handle(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.scheduler.handle(event, self.now, &mut actions);
        for action in actions {
            match action {
                Action::Launch {
                    attempt,
                    stage,
                    worker,
                    ..
                } => self.launch(attempt, stage, worker),
                Action::Cancel { attempt, .. } => {
                    if let Some(task) = self.running.get_mut(&attempt) {
                        task.cancelled = true;
                        self.ends.push(Reverse((self.now, attempt)));
                    }
                }
                Action::JobDone => self.done = true,
                Action::JobFailed(failure) => unreachable!("nothing fails here: {failure:?}"),
                Action::Use { .. } | Action::Commit { .. } | Action::NotDeterministic { .. } => {}
            }
        }
    }

    fn launch(&mut self, attempt: AttemptId, stage: StageId, worker: WorkerId) {
        let (records, units) = if stage.0 == 0 {
            (self.sum.share(), self.sum.share())
        } else {
            // One of the two sums comes from elsewhere.
            (2, 1 + self.sum.send)
        };
        let times = if worker.0 == 0 { self.sum.slowest } else { 1 };
        let takes = units * times;
        self.ends.push(Reverse((self.now + takes, attempt)));
        let running = Running {
            since: self.now,
            takes,
            records,
            cancelled: false,
        };
        self.running.insert(attempt, running);
    }
}
