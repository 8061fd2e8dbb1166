//! Accumulators: counts that tasks add to and the program reads.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::context::Context;

/// A sum over all tasks of the jobs that add to it. A task counts once, however often it is attempted or computed
/// again; what a dataset's operators add counts again when another job computes them again.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicI64>);

impl Context {
    /// A counter at 0.
    pub fn accumulator(&self) -> Counter {
        Counter::default()
    }
}

impl Counter {
    /// Adds, from inside a closure that a task runs. Elsewhere it is added at once.
    pub fn add(&self, amount: i64) {
        TASK.with_borrow_mut(|task| match task {
            Some(counts) => counts.add(&self.0, amount),
            None => {
                self.0.fetch_add(amount, Ordering::Relaxed);
            }
        });
    }

    /// The sum over the tasks that are done.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one attempt added; nothing until it is applied.
#[derive(Debug, Default)]
pub struct Counts(Vec<(Arc<AtomicI64>, i64)>);

impl Counts {
    /// Adds it all to the counters. For an executor, once for each task.
    pub fn apply(self) {
        for (counter, amount) in self.0 {
            counter.fetch_add(amount, Ordering::Relaxed);
        }
    }

    fn add(&mut self, counter: &Arc<AtomicI64>, amount: i64) {
        match self
            .0
            .iter_mut()
            .find(|(other, _)| Arc::ptr_eq(other, counter))
        {
            Some((_, sum)) => *sum += amount,
            None => self.0.push((counter.clone(), amount)),
        }
    }
}

/// Runs `f` as a task: what it adds is handed over instead.
pub(crate) fn counted<R>(f: impl FnOnce() -> R) -> (R, Counts) {
    let outer = TASK.replace(Some(Counts::default()));
    let result = f();
    (result, TASK.replace(outer).unwrap_or_default())
}

thread_local! {
    static TASK: RefCell<Option<Counts>> = const { RefCell::new(None) };
}
