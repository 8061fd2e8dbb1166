//! Whole jobs in one thread, with seeded time and seeded faults: workers die, blocks are lost or damaged, completions
//! come twice, late, or slowly. Whatever happens, the result is the eager one, each output is committed once, and no
//! more is computed again than was lost.
#![expect(
    clippy::cast_possible_truncation,
    reason = "seeded numbers below a small bound"
)]
#![expect(clippy::needless_pass_by_value, reason = "outputs are the event's")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex};

use rdd::scheduler::{Action, AttemptId, Event, Limits, Scheduler, StageId, WorkerId};
use rdd::{
    Block, Context, FetchError, Job, JobError, Output, Rdd, RddId, Runner, ShuffleId, StorageLevel,
    TaskEnv, TaskError, digest,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Kill(u32),
    LoseBlock,
    CorruptBlock,
    Duplicate,
    Delay,
}

#[derive(Clone, Debug, Default)]
struct Script {
    /// What happens at which completion.
    faults: Vec<(u64, Fault)>,
    slow_worker: Option<u32>,
    /// More than the usual three.
    more_workers: u32,
    seed: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Outcome {
    completions: u64,
    launched: u64,
    tasks: u64,
    /// Outputs lost, attempts killed, attempts that found nothing, backups: each may cost one more attempt.
    excuses: u64,
    backups: u64,
    ended_at: u64,
    log: Vec<Action>,
}

struct Simulator {
    script: Script,
    outcome: Mutex<Outcome>,
}

impl Runner for Simulator {
    fn run(&self, job: &Job) -> Result<Vec<Block>, JobError> {
        let mut run = Run::new(job, &self.script);
        let result = run.run();
        *self.outcome.lock().expect("one thread") = run.outcome;
        result
    }

    fn forget_shuffle(&self, _: ShuffleId) {}

    fn unpersist(&self, _: RddId) {}
}

type Outputs = Vec<Vec<u8>>;

struct Run<'a> {
    job: &'a Job,
    script: &'a Script,
    scheduler: Scheduler,
    now: u64,
    random: u64,
    /// Ordered by time, then by when they were put in.
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    queued: BTreeMap<u64, Queued>,
    running: BTreeMap<AttemptId, (StageId, usize, WorkerId, bool)>,
    alive: Vec<WorkerId>,
    last_worker: u32,
    stored: BTreeMap<(ShuffleId, usize), (WorkerId, Outputs)>,
    results: BTreeMap<AttemptId, Outputs>,
    committed: Vec<(usize, AttemptId)>,
    over: Option<Result<(), JobError>>,
    outcome: Outcome,
}

#[derive(Clone)]
enum Queued {
    Finish(AttemptId),
    Deliver(Event, Option<Outputs>),
}

impl<'a> Run<'a> {
    fn new(job: &'a Job, script: &'a Script) -> Self {
        let limits = Limits {
            no_workers_for: 1000,
            backup_interval: 50,
            ..Limits::default()
        };
        let plan = job.plan();
        let tasks = plan.iter().map(|stage| stage.tasks as u64).sum();
        Self {
            job,
            script,
            scheduler: Scheduler::new(plan, limits, script.seed),
            now: 0,
            random: script.seed,
            queue: BinaryHeap::new(),
            queued: BTreeMap::new(),
            running: BTreeMap::new(),
            alive: Vec::new(),
            last_worker: 0,
            stored: BTreeMap::new(),
            results: BTreeMap::new(),
            committed: Vec::new(),
            over: None,
            outcome: Outcome {
                tasks,
                ..Outcome::default()
            },
        }
    }

    fn run(&mut self) -> Result<Vec<Block>, JobError> {
        (0..3 + self.script.more_workers).for_each(|_| self.join());
        while self.over.is_none() {
            let next = self.queue.peek().map(|Reverse((at, _))| *at);
            match self
                .scheduler
                .next_deadline()
                .filter(|deadline| next.is_none_or(|at| *deadline < at))
            {
                Some(deadline) => {
                    self.now = self.now.max(deadline);
                    self.handle(Event::Tick, None);
                }
                None => {
                    let Reverse((at, number)) = self
                        .queue
                        .pop()
                        .expect("something is under way, or the job hangs");
                    self.now = self.now.max(at);
                    match self.queued.remove(&number).expect("what is queued") {
                        Queued::Finish(attempt) => self.finish(attempt),
                        Queued::Deliver(event, outputs) => self.handle(event, outputs),
                    }
                }
            }
        }
        self.outcome.launched = self.scheduler.launched();
        self.outcome.ended_at = self.now;
        self.over.take().expect("over")?;
        let partitions: Vec<usize> = self
            .committed
            .iter()
            .map(|(partition, _)| *partition)
            .collect();
        assert_eq!(
            partitions,
            (0..partitions.len()).collect::<Vec<_>>(),
            "each output is committed once"
        );
        Ok(self
            .committed
            .iter()
            .map(|(_, attempt)| Block::Bytes(self.results[attempt][0].clone().into()))
            .collect())
    }

    fn join(&mut self) {
        let worker = WorkerId(self.last_worker);
        self.last_worker += 1;
        self.alive.push(worker);
        self.handle(
            Event::WorkerJoined {
                worker,
                slots: 1,
                memory_bytes: 0,
            },
            None,
        );
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn queue(&mut self, after: u64, what: Queued) {
        let number = self
            .queued
            .last_key_value()
            .map_or(0, |(number, _)| number + 1);
        self.queued.insert(number, what);
        self.queue.push(Reverse((self.now + after, number)));
    }

    /// An attempt is at its end: it reads, computes, and reports.
    fn finish(&mut self, attempt: AttemptId) {
        let Some((stage, partition, worker, cancelled)) = self.running.remove(&attempt) else {
            return;
        };
        if !self.alive.contains(&worker) {
            return;
        }
        let due: Vec<Fault> = self
            .script
            .faults
            .iter()
            .filter(|(at, _)| *at == self.outcome.completions)
            .map(|(_, f)| *f)
            .collect();
        self.outcome.completions += 1;
        let env = Env {
            stored: &self.stored,
            cancelled,
        };
        let (event, outputs) = match self.job.run_task(stage, partition, &env) {
            Ok((outputs, _)) => {
                let outputs: Outputs = outputs.iter().map(Output::bytes).collect();
                let digest = Some(
                    outputs
                        .iter()
                        .fold(0, |all: u64, bytes| all.rotate_left(5) ^ digest(bytes)),
                );
                (
                    Event::Done {
                        attempt,
                        records: 10,
                        digest,
                    },
                    Some(outputs),
                )
            }
            Err(TaskError::Fetch(lost)) => {
                self.outcome.excuses += 1;
                let stage = self
                    .job
                    .stage_of(lost.shuffle)
                    .expect("a shuffle of this job");
                (
                    Event::FetchFailed {
                        attempt,
                        stage,
                        partition: lost.map,
                    },
                    None,
                )
            }
            Err(error) => (
                Event::Failed {
                    attempt,
                    message: error.to_string(),
                },
                None,
            ),
        };
        let delay = if due.contains(&Fault::Delay) {
            self.random(500)
        } else {
            0
        };
        if due.contains(&Fault::Duplicate) {
            let after = self.random(300);
            self.queue(after, Queued::Deliver(event.clone(), outputs.clone()));
        }
        self.queue(delay, Queued::Deliver(event, outputs));
        due.into_iter().for_each(|fault| self.inject(fault));
    }

    fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(which) => {
                let worker = self.alive.remove(which as usize % self.alive.len());
                let held = self.stored.len();
                self.stored.retain(|_, (at, _)| *at != worker);
                self.outcome.excuses += (held - self.stored.len()) as u64;
                // Running there, or done and not yet told.
                self.outcome.excuses += 1;
                self.handle(Event::WorkerLost { worker }, None);
                self.join();
            }
            Fault::LoseBlock => {
                if let Some(key) = self.some_block() {
                    self.stored.remove(&key);
                    self.outcome.excuses += 1;
                }
            }
            Fault::CorruptBlock => {
                if let Some(key) = self.some_block() {
                    let pick = self.random(1 << 20) as usize;
                    let blocks = &mut self.stored.get_mut(&key).expect("there").1;
                    let count = blocks.len();
                    let block = &mut blocks[pick % count];
                    let at = pick / count % block.len();
                    block[at] ^= 1 << (pick % 8);
                    self.outcome.excuses += 1;
                }
            }
            Fault::Duplicate | Fault::Delay => {}
        }
    }

    fn some_block(&mut self) -> Option<(ShuffleId, usize)> {
        if self.stored.is_empty() {
            return None;
        }
        let nth = self.random(self.stored.len() as u64) as usize;
        self.stored.keys().nth(nth).copied()
    }

    fn handle(&mut self, event: Event, outputs: Option<Outputs>) {
        let mut actions = Vec::new();
        self.scheduler.handle(event, self.now, &mut actions);
        self.outcome.log.extend(actions.iter().cloned());
        for action in actions {
            self.act(action, outputs.as_ref());
        }
    }

    fn act(&mut self, action: Action, outputs: Option<&Outputs>) {
        match action {
            Action::Launch {
                attempt,
                stage,
                partition,
                worker,
                backup,
            } => {
                self.running
                    .insert(attempt, (stage, partition, worker, false));
                self.outcome.backups += u64::from(backup);
                self.outcome.excuses += u64::from(backup);
                let slow = if self.script.slow_worker == Some(worker.0) {
                    10
                } else {
                    1
                };
                let duration = (90 + self.random(20)) * slow;
                self.queue(duration, Queued::Finish(attempt));
            }
            Action::Cancel { attempt, .. } => {
                if let Some(running) = self.running.get_mut(&attempt) {
                    running.3 = true;
                    // It stops soon after it is told.
                    self.queue(1, Queued::Finish(attempt));
                }
            }
            Action::Use {
                stage,
                partition,
                attempt,
                worker,
            } => {
                let outputs = outputs.expect("only what is done is used").clone();
                match self.job.shuffle(stage) {
                    Some(shuffle) => {
                        drop(self.stored.insert((shuffle, partition), (worker, outputs)));
                    }
                    None => drop(self.results.insert(attempt, outputs)),
                }
            }
            Action::NotDeterministic { stage, partition } => {
                panic!("{stage:?} {partition} is deterministic")
            }
            Action::Commit { partition, attempt } => self.committed.push((partition, attempt)),
            Action::JobDone => self.over = Some(Ok(())),
            Action::JobFailed(failure) => self.over = Some(Err(self.job.error(failure))),
        }
    }
}

struct Env<'a> {
    stored: &'a BTreeMap<(ShuffleId, usize), (WorkerId, Outputs)>,
    cancelled: bool,
}

impl TaskEnv for Env<'_> {
    fn fetch(&self, shuffle: ShuffleId, map: usize, reduce: usize) -> Result<Block, FetchError> {
        let stored = self.stored.get(&(shuffle, map));
        stored
            .map(|(_, blocks)| Block::Bytes(blocks[reduce].clone().into()))
            .ok_or(FetchError {
                shuffle,
                map,
                reduce,
                source: None,
            })
    }

    fn cached(&self, _: RddId, _: usize) -> Option<Block> {
        None
    }

    fn cache(&self, _: RddId, _: usize, _: StorageLevel, _: Output) {}

    fn cancelled(&self) -> bool {
        self.cancelled
    }
}

fn three_stages(context: &Context) -> Rdd<(u64, u64)> {
    let pairs = context.parallelize((0..40u64).map(|n| (n % 11, n)), 3);
    pairs
        .reduce_by_key(3, |a, b| a + b)
        .map(|(k, v)| (v % 4, k + v))
        .reduce_by_key(2, |a, b| a.max(b))
}

fn simulate(
    script: Script,
    make: impl Fn(&Context) -> Rdd<(u64, u64)>,
) -> (Vec<(u64, u64)>, Outcome) {
    let text = format!("{script:?}");
    let simulator = Arc::new(Simulator {
        script,
        outcome: Mutex::default(),
    });
    let context = Context::new(simulator.clone(), 2);
    let mut result = make(&context)
        .collect()
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    result.sort_unstable();
    let outcome = simulator.outcome.lock().expect("one thread").clone();
    assert!(
        outcome.launched <= outcome.tasks + outcome.excuses,
        "{text}: {outcome:?}"
    );
    (result, outcome)
}

#[test]
fn a_worker_killed_at_every_event_of_a_three_stage_job_changes_nothing() {
    let (plain, outcome) = simulate(Script::default(), three_stages);
    assert_eq!((outcome.completions, outcome.launched), (8, 8));
    for at in 0..outcome.completions {
        for which in 0..3 {
            let script = Script {
                faults: vec![(at, Fault::Kill(which))],
                ..Script::default()
            };
            assert_eq!(
                simulate(script, three_stages).0,
                plain,
                "worker {which} at {at}"
            );
        }
    }
}

#[test]
fn every_pair_of_faults_changes_nothing() {
    let (plain, outcome) = simulate(Script::default(), three_stages);
    let kinds = [
        Fault::Kill(0),
        Fault::Kill(2),
        Fault::LoseBlock,
        Fault::CorruptBlock,
        Fault::Duplicate,
        Fault::Delay,
    ];
    let moments = 0..outcome.completions + 2;
    for (a, first) in moments.clone().flat_map(|at| kinds.map(|kind| (at, kind))) {
        for (b, second) in moments.clone().flat_map(|at| kinds.map(|kind| (at, kind))) {
            let script = Script {
                faults: vec![(a, first), (b, second)],
                seed: a * 31 + b,
                ..Script::default()
            };
            assert_eq!(simulate(script, three_stages).0, plain);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_actions() {
    let script = || Script {
        faults: vec![(2, Fault::Kill(1)), (5, Fault::CorruptBlock)],
        seed: 9,
        slow_worker: Some(0),
        ..Script::default()
    };
    assert_eq!(
        simulate(script(), three_stages),
        simulate(script(), three_stages)
    );
}

#[test]
fn a_straggler_ten_times_slow_costs_its_own_share_and_one_wave() {
    // Ten tasks a worker in each stage: what remains of the straggler's last one is what may be lost.
    let wide = |context: &Context| {
        let pairs = context.parallelize((0..300u64).map(|n| (n, n)), 30);
        pairs
            .map(|(k, v)| (k % 10, v))
            .reduce_by_key(30, |a, b| a + b)
    };
    let (plain, even) = simulate(Script::default(), wide);
    let (same, slowed) = simulate(
        Script {
            slow_worker: Some(0),
            ..Script::default()
        },
        wide,
    );
    assert_eq!(same, plain);
    assert!(slowed.backups > 0);
    // One of three workers is as good as gone, so 1.5 is what the others alone would take; then the last wave.
    assert!(
        slowed.ended_at * 10 <= even.ended_at * 18,
        "{} against {}",
        slowed.ended_at,
        even.ended_at
    );
}

#[test]
fn a_straggler_among_ten_workers_costs_less_than_a_third() {
    // Twenty tasks a worker in each stage.
    let wide = |context: &Context| {
        let pairs = context.parallelize((0..400u64).map(|n| (n, n)), 200);
        pairs
            .map(|(k, v)| (k % 10, v))
            .reduce_by_key(200, |a, b| a + b)
    };
    for seed in 0..5 {
        let script = |slow_worker| Script {
            slow_worker,
            more_workers: 7,
            seed,
            ..Script::default()
        };
        let (plain, even) = simulate(script(None), wide);
        let (same, slowed) = simulate(script(Some(0)), wide);
        assert_eq!(same, plain);
        assert!(slowed.backups > 0);
        assert!(
            slowed.ended_at * 10 <= even.ended_at * 13,
            "{} against {}",
            slowed.ended_at,
            even.ended_at
        );
    }
}

#[test]
fn a_lost_partition_costs_its_share_of_its_ancestry() {
    const PARTS: usize = 8;
    const TASK: u64 = 110;
    // Eight partitions, eight workers, and a shuffle in every round, so that a worker holds an eighth of each round.
    let rounds = |k: usize| {
        move |context: &Context| {
            let start = context.parallelize((0..320u64).map(|n| (n, n)), PARTS);
            (0..k).fold(start, |pairs, _| {
                pairs
                    .map(|(key, v)| ((key * 7 + v) % 320, v + 1))
                    .reduce_by_key(PARTS, |a, b| a.max(b))
            })
        }
    };
    let script = |faults| Script {
        faults,
        more_workers: 5,
        ..Script::default()
    };
    for k in 1..10 {
        let (plain, even) = simulate(script(vec![]), rounds(k));
        for worker in 0..8 {
            // When the first result is there: no output of any round is needed less than before.
            let at = (k * PARTS) as u64;
            let (same, lost) = simulate(script(vec![(at, Fault::Kill(worker))]), rounds(k));
            assert_eq!(same, plain);
            // The ancestry is k rounds and the result of eight tasks each: an eighth of that work, and a fifth more.
            let share = (k as u64 + 1) * TASK;
            let extra = lost.ended_at - even.ended_at;
            assert!(extra * 5 <= share * 6, "round {k}: {extra} for {share}");
        }
    }
}

/// `RDD_LINEAGES` says how many; by hand 100,000.
#[test]
fn random_lineages_with_random_faults_give_the_eager_result() {
    let count = std::env::var("RDD_LINEAGES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1000u64);
    for seed in 0..count {
        let mut random = Lcg(seed);
        let ops: Vec<u64> = (0..random.below(6)).map(|_| random.below(6 * 4)).collect();
        let values: Vec<(u64, u64)> = (0..random.below(30))
            .map(|_| (random.below(8), random.below(50)))
            .collect();
        let kinds = [
            Fault::Kill(0),
            Fault::Kill(1),
            Fault::LoseBlock,
            Fault::CorruptBlock,
            Fault::Duplicate,
            Fault::Delay,
        ];
        let faults = (0..random.below(4))
            .map(|_| (random.below(20), kinds[random.below(6) as usize]))
            .collect();
        let partitions = 1 + random.below(4) as usize;
        let make = |context: &Context| {
            let start = context.parallelize(values.clone(), partitions);
            ops.iter().fold(start, |rdd, op| lazily(&rdd, *op))
        };
        let mut eager = ops
            .iter()
            .fold(values.clone(), |values, op| eagerly(&values, *op));
        eager.sort_unstable();
        let slow_worker = (random.below(3) == 0).then_some(0);
        assert_eq!(
            simulate(
                Script {
                    faults,
                    seed,
                    slow_worker,
                    ..Script::default()
                },
                make
            )
            .0,
            eager,
            "seed {seed}, {ops:?}"
        );
    }
}

struct Lcg(u64);

impl Lcg {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn lazily(rdd: &Rdd<(u64, u64)>, op: u64) -> Rdd<(u64, u64)> {
    let parts = 1 + (op % 4) as usize;
    match op / 4 {
        0 => rdd.map(|(k, v)| ((k * 3 + v) % 8, v)),
        1 => rdd.filter(|(k, v)| (k + v) % 3 != 0),
        2 => rdd.reduce_by_key(parts, |a, b| a + b),
        3 => rdd
            .join(&rdd.reduce_by_key(parts, u64::max), parts)
            .map_values(|(a, b)| a + b),
        4 => rdd.distinct(parts),
        _ => rdd.union(&rdd.repartition(parts)),
    }
}

fn eagerly(values: &[(u64, u64)], op: u64) -> Vec<(u64, u64)> {
    let by_key = |f: fn(u64, u64) -> u64| {
        let mut all = BTreeMap::new();
        for (k, v) in values {
            all.entry(*k)
                .and_modify(|old| *old = f(*old, *v))
                .or_insert(*v);
        }
        all
    };
    match op / 4 {
        0 => values.iter().map(|(k, v)| ((k * 3 + v) % 8, *v)).collect(),
        1 => values
            .iter()
            .filter(|(k, v)| (k + v) % 3 != 0)
            .copied()
            .collect(),
        2 => by_key(|a, b| a + b).into_iter().collect(),
        3 => {
            let greatest = by_key(u64::max);
            values.iter().map(|(k, v)| (*k, v + greatest[k])).collect()
        }
        4 => values
            .iter()
            .copied()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect(),
        _ => [values, values].concat(),
    }
}
