//! What the scheduler remembers, and how events change it.

use std::collections::BTreeSet;

use super::{Action, AttemptId, Failure, Scheduler, StageId, StagePlan, WorkerId};

#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub(super) plan: StagePlan,
    pub(super) tasks: Vec<Task>,
    /// Tasks without an output.
    pub(super) missing: usize,
    /// Tasks without an output and without an attempt.
    pub(super) pending: BTreeSet<usize>,
    /// Durations and record counts of finished attempts.
    pub(super) finished: Vec<(u64, u64)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Task {
    pub(super) output: Option<OutputAt>,
    /// Attempts that are not cancelled: one, and perhaps its backup.
    pub(super) live: Vec<AttemptId>,
    failures: u32,
    fetch_failures: u32,
    digest: Option<u64>,
    /// Where it failed last.
    pub(super) avoid: Option<WorkerId>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct OutputAt {
    pub(super) worker: WorkerId,
    pub(super) attempt: AttemptId,
}

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) stage: usize,
    pub(super) partition: usize,
    pub(super) worker: WorkerId,
    pub(super) since: u64,
    pub(super) records: u64,
    pub(super) cancelled: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) slots: usize,
    pub(super) memory_bytes: u64,
    pub(super) running: usize,
    pub(super) memory_used: u64,
}

impl Worker {
    pub(super) fn admits(&self, memory_bytes: u64) -> bool {
        // A task that wants more than there is runs alone rather than never.
        self.running < self.slots
            && (self.running == 0
                || self.memory_used.saturating_add(memory_bytes) <= self.memory_bytes)
    }
}

impl Stage {
    pub(super) fn new(plan: StagePlan) -> Self {
        let earlier = |at: &Option<WorkerId>| {
            at.map(|worker| OutputAt {
                worker,
                attempt: AttemptId(0),
            })
        };
        let tasks: Vec<Task> = plan
            .available
            .iter()
            .map(|at| Task {
                output: earlier(at),
                ..Task::default()
            })
            .collect();
        let pending: BTreeSet<usize> = (0..plan.tasks)
            .filter(|p| tasks[*p].output.is_none())
            .collect();
        Self {
            missing: pending.len(),
            plan,
            tasks,
            pending,
            finished: Vec::new(),
        }
    }

    /// Forgets an output. A task that is already being made again stays with its attempt.
    fn lose(&mut self, partition: usize) {
        if self.tasks[partition].output.take().is_some() {
            self.missing += 1;
        }
        self.wait(partition);
    }

    fn wait(&mut self, partition: usize) {
        let task = &self.tasks[partition];
        if task.output.is_none() && task.live.is_empty() {
            self.pending.insert(partition);
        }
    }
}

impl Scheduler {
    pub(super) fn lose_worker(&mut self, worker: WorkerId) {
        if self.workers.remove(&worker).is_none() {
            return;
        }
        let gone: Vec<AttemptId> = self
            .attempts
            .iter()
            .filter(|(_, a)| a.worker == worker)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.end(id);
        }
        let StageId(result) = self.result();
        // Results have left their worker already.
        for stage in &mut self.stages[..result] {
            let held = |task: &Task| task.output.is_some_and(|output| output.worker == worker);
            let lost: Vec<usize> = (0..stage.tasks.len())
                .filter(|p| held(&stage.tasks[*p]))
                .collect();
            lost.into_iter().for_each(|partition| stage.lose(partition));
        }
    }

    pub(super) fn done(
        &mut self,
        id: AttemptId,
        records: u64,
        digest: Option<u64>,
        now: u64,
        out: &mut Vec<Action>,
    ) {
        let Some(attempt) = self.end(id) else { return };
        let Attempt {
            stage: s,
            partition,
            worker,
            since,
            cancelled,
            ..
        } = attempt;
        let stage = &mut self.stages[s];
        if cancelled || stage.tasks[partition].output.is_some() {
            return;
        }
        stage.finished.push((now.saturating_sub(since), records));
        stage.pending.remove(&partition);
        stage.missing -= 1;
        let task = &mut stage.tasks[partition];
        task.output = Some(OutputAt {
            worker,
            attempt: id,
        });
        let before = task.digest;
        task.digest = digest.or(before);
        let losers = std::mem::take(&mut task.live);
        out.push(Action::Use {
            stage: StageId(s),
            partition,
            attempt: id,
            worker,
        });
        self.cancel(&losers, out);
        if before.is_some() && digest.is_some() && before != digest {
            self.roll_back(s, partition, out);
        }
    }

    pub(super) fn failed(&mut self, id: AttemptId, message: String, out: &mut Vec<Action>) {
        let Some(attempt) = self.end(id) else { return };
        if attempt.cancelled {
            return;
        }
        let task = &mut self.stages[attempt.stage].tasks[attempt.partition];
        task.failures += 1;
        task.avoid = Some(attempt.worker);
        if task.failures >= self.limits.failures_max {
            let failures = task.failures;
            let (stage, partition) = (StageId(attempt.stage), attempt.partition);
            self.give_up(
                Failure::Task {
                    stage,
                    partition,
                    failures,
                    message,
                },
                out,
            );
        }
    }

    pub(super) fn fetch_failed(
        &mut self,
        id: AttemptId,
        from: StageId,
        map: usize,
        out: &mut Vec<Action>,
    ) {
        let Some(attempt) = self.end(id) else { return };
        if attempt.cancelled {
            return;
        }
        if let Some(stage) = self
            .stages
            .get_mut(from.0)
            .filter(|stage| map < stage.tasks.len())
        {
            // What was made after the reader began is not what it missed.
            if stage.tasks[map]
                .output
                .is_some_and(|output| output.attempt < id)
            {
                stage.lose(map);
            }
            let parents = &mut self.stages[attempt.stage].plan.parents;
            if from.0 < attempt.stage && !parents.contains(&from) {
                parents.push(from);
            }
        }
        let task = &mut self.stages[attempt.stage].tasks[attempt.partition];
        task.fetch_failures += 1;
        if task.fetch_failures >= self.limits.fetch_failures_max {
            let times = task.fetch_failures;
            self.give_up(
                Failure::Fetch {
                    stage: StageId(attempt.stage),
                    times,
                },
                out,
            );
        }
    }

    /// Takes an attempt off the books; its task waits again unless another attempt runs.
    fn end(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id)?;
        if let Some(worker) = self.workers.get_mut(&attempt.worker) {
            worker.running -= 1;
            worker.memory_used -= self.stages[attempt.stage].plan.memory_bytes;
        }
        let stage = &mut self.stages[attempt.stage];
        stage.tasks[attempt.partition]
            .live
            .retain(|other| *other != id);
        stage.wait(attempt.partition);
        Some(attempt)
    }

    fn cancel(&mut self, attempts: &[AttemptId], out: &mut Vec<Action>) {
        for id in attempts {
            if let Some(attempt) = self.attempts.get_mut(id) {
                attempt.cancelled = true;
                out.push(Action::Cancel {
                    attempt: *id,
                    worker: attempt.worker,
                });
            }
        }
    }

    /// Makes again all that was made from an output that has changed.
    fn roll_back(&mut self, changed: usize, partition: usize, out: &mut Vec<Action>) {
        out.push(Action::NotDeterministic {
            stage: StageId(changed),
            partition,
        });
        self.rollbacks += 1;
        if self.rollbacks > self.limits.rollbacks_max {
            self.give_up(
                Failure::Indeterminate {
                    stage: StageId(changed),
                    partition,
                },
                out,
            );
            return;
        }
        let mut stale = BTreeSet::from([StageId(changed)]);
        for s in changed + 1..self.stages.len() {
            if !self.stages[s]
                .plan
                .parents
                .iter()
                .any(|parent| stale.contains(parent))
            {
                continue;
            }
            stale.insert(StageId(s));
            for p in 0..self.stages[s].tasks.len() {
                let live = std::mem::take(&mut self.stages[s].tasks[p].live);
                self.cancel(&live, out);
                self.stages[s].tasks[p].digest = None;
                self.stages[s].lose(p);
            }
        }
    }
}
