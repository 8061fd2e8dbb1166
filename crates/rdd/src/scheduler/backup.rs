//! Which task runs where, and which slow ones get a second copy.

use super::state::{Attempt, Task};
use super::{Action, AttemptId, Scheduler, StageId, WorkerId};

impl Scheduler {
    /// Launches what can run.
    pub(super) fn launch(&mut self, now: u64, out: &mut Vec<Action>) {
        for s in self.runnable() {
            let waiting: Vec<usize> = self.stages[s].pending.iter().copied().collect();
            for partition in waiting {
                let Some(worker) = self.place(s, partition) else {
                    break;
                };
                self.start(s, partition, worker, false, now, out);
            }
        }
    }

    /// Gives slow tasks a backup on slots that nothing else wants (LATE: by the estimated end, not by duration).
    pub(super) fn back_up(&mut self, now: u64, out: &mut Vec<Action>) {
        if self.limits.backup_percent == 0
            || now < self.looked_at.saturating_add(self.limits.backup_interval)
        {
            return;
        }
        self.looked_at = now;
        if self
            .runnable()
            .iter()
            .any(|s| !self.stages[*s].pending.is_empty())
        {
            return;
        }
        let mut slow: Vec<(u64, AttemptId)> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| !attempt.cancelled)
            .filter_map(|(id, attempt)| self.left(attempt, now).map(|left| (left, *id)))
            .collect();
        slow.sort_by_key(|(left, id)| (std::cmp::Reverse(*left), *id));
        for (_, id) in slow {
            let attempt = &self.attempts[&id];
            let (s, partition, slow_worker) = (attempt.stage, attempt.partition, attempt.worker);
            if self.stages[s].tasks[partition].live.len() != 1 {
                continue;
            }
            let need = self.stages[s].plan.memory_bytes;
            let idle = self
                .workers
                .iter()
                .filter(|(id, w)| **id != slow_worker && w.admits(need));
            let Some(worker) = idle
                .min_by_key(|(id, w)| (w.running, **id))
                .map(|(id, _)| *id)
            else {
                continue;
            };
            self.start(s, partition, worker, true, now, out);
        }
    }

    /// Stages with something to make whose inputs are all there, and that somebody waits for.
    fn runnable(&self) -> Vec<usize> {
        let mut needed = vec![false; self.stages.len()];
        needed[self.result().0] = true;
        let mut runnable = Vec::new();
        // Parents have lower numbers, so one pass from the end sees every child first.
        for s in (0..self.stages.len()).rev() {
            if !needed[s] || self.stages[s].missing == 0 {
                continue;
            }
            let mut ready = true;
            for parent in &self.stages[s].plan.parents {
                if self.stages[parent.0].missing > 0 {
                    needed[parent.0] = true;
                    ready = false;
                }
            }
            if ready {
                runnable.push(s);
            }
        }
        runnable.reverse();
        runnable
    }

    /// A worker with room: one that holds the input, else the least busy, if possible not where it failed.
    fn place(&self, s: usize, partition: usize) -> Option<WorkerId> {
        let plan = &self.stages[s].plan;
        let Task { avoid, .. } = &self.stages[s].tasks[partition];
        let turn = |id: WorkerId| {
            u64::from(id.0)
                .wrapping_add(self.seed)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        };
        self.workers
            .iter()
            .filter(|(_, worker)| worker.admits(plan.memory_bytes))
            .min_by_key(|(id, worker)| {
                (
                    Some(**id) == *avoid,
                    !plan.preferred[partition].contains(id),
                    worker.running,
                    turn(**id),
                )
            })
            .map(|(id, _)| *id)
    }

    fn start(
        &mut self,
        s: usize,
        partition: usize,
        on: WorkerId,
        backup: bool,
        now: u64,
        out: &mut Vec<Action>,
    ) {
        self.last_attempt += 1;
        let id = AttemptId(self.last_attempt);
        let worker = self.workers.get_mut(&on).expect("chosen among the workers");
        worker.running += 1;
        worker.memory_used += self.stages[s].plan.memory_bytes;
        let stage = &mut self.stages[s];
        stage.pending.remove(&partition);
        stage.tasks[partition].live.push(id);
        let attempt = Attempt {
            stage: s,
            partition,
            worker: on,
            since: now,
            records: 0,
            cancelled: false,
        };
        self.attempts.insert(id, attempt);
        out.push(Action::Launch {
            attempt: id,
            stage: StageId(s),
            partition,
            worker: on,
            backup,
        });
    }

    /// The time an attempt still needs, when that is more than a fresh copy would take by the limit.
    fn left(&self, attempt: &Attempt, now: u64) -> Option<u64> {
        let finished = &self.stages[attempt.stage].finished;
        if finished.is_empty() || finished.len() * 2 < self.stages[attempt.stage].tasks.len() {
            return None;
        }
        let fresh = median(finished.iter().map(|(duration, _)| *duration)).max(1);
        let records = median(finished.iter().map(|(_, records)| *records));
        let elapsed = now.saturating_sub(attempt.since);
        let left = if attempt.records == 0 {
            // Nothing is known but the time: twice a whole task's is slow.
            if elapsed < fresh.saturating_mul(2) {
                return None;
            } else {
                u64::MAX
            }
        } else {
            let todo = records.saturating_sub(attempt.records);
            u64::try_from(u128::from(elapsed) * u128::from(todo) / u128::from(attempt.records))
                .unwrap_or(u64::MAX)
        };
        (left > fresh.saturating_mul(self.limits.backup_percent) / 100).then_some(left)
    }
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut sorted: Vec<u64> = values.collect();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}
