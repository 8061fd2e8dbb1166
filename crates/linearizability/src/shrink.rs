//! From "not linearizable" to the few answers that contradict each other.
//!
//! Leaving out an operation that changed something would invent contradictions (a read of a value nobody wrote). What may
//! be done to a history without making a linearizable one not linearizable: cut it off at some time; forget an answer,
//! so that the operation may have happened any time later or never; leave out what never changes a state.

use crate::machine::Entry;
use crate::race::{Raced, race};
use crate::{Budget, Counterexample, Engines, Model};

/// Steps that one attempt at a smaller counterexample may take, at first and in the end.
const ATTEMPT: u64 = 100_000;
const LAST_ATTEMPT: u64 = 2_000_000;

/// Shrinks a part that is not linearizable; if known, not even up to the return at time `until`, given the answers of all
/// operations that were invoked by then.
pub(crate) fn shrink<M: Model>(
    model: &M,
    part: &[Entry<'_, M>],
    until: Option<u64>,
    budget: Budget,
    engines: Engines,
) -> Counterexample {
    let mut shrinker = Shrinker {
        model,
        budget,
        engines,
    };
    let mut entries = shrinker.shortest(&with_answers(part, until));
    shrinker.weaken(&mut entries);
    let minimal = shrinker.minimize(&mut entries);
    let indexes = |answered: bool| {
        let mut indexes: Vec<usize> = entries
            .iter()
            .filter(|e| e.returned.is_some() == answered)
            .filter(|e| answered || !model.never_changes(e.input, None))
            .map(|e| e.index)
            .collect();
        indexes.sort_unstable();
        indexes
    };
    Counterexample {
        answered: indexes(true),
        unanswered: indexes(false),
        minimal,
    }
}

struct Shrinker<'a, M> {
    model: &'a M,
    budget: Budget,
    engines: Engines,
}

impl<M: Model> Shrinker<'_, M> {
    /// The shortest beginning that is not linearizable: if one is, so is every shorter one.
    fn shortest<'e>(&mut self, part: &[Entry<'e, M>]) -> Vec<Entry<'e, M>> {
        let mut returns: Vec<u64> = part.iter().filter_map(|e| e.returned).collect();
        returns.sort_unstable();
        // Invariant: not linearizable until `returns[high]`; what is not known counts as linearizable.
        let (mut low, mut high) = (0, returns.len() - 1);
        while low < high {
            let middle = low.midpoint(high);
            if self.fails(&cut(part, returns[middle]), LAST_ATTEMPT) == Some(true) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        cut(part, returns[high])
    }

    /// Forgets answers, many at a time at first, while what is left is not linearizable.
    fn weaken(&mut self, entries: &mut Vec<Entry<'_, M>>) {
        let mut size = entries.len().div_ceil(2);
        while size > 1 {
            self.weaken_by(size, ATTEMPT, entries);
            size = size.div_ceil(2);
        }
    }

    /// Forgets answers one at a time. Whether each one left is needed: an answer needed once stays so when others go.
    fn minimize(&mut self, entries: &mut Vec<Entry<'_, M>>) -> bool {
        self.weaken_by(1, LAST_ATTEMPT, entries)
    }

    /// Tries each run of `size` operations; false if some attempt took too long.
    fn weaken_by(&mut self, size: usize, steps: u64, entries: &mut Vec<Entry<'_, M>>) -> bool {
        let mut all_known = true;
        let mut first = 0;
        while first < entries.len() {
            let weaker = self.forget(entries, first, size);
            if answers(&weaker) < answers(entries) {
                let fails = self.fails(&weaker, steps);
                all_known &= fails.is_some();
                if fails == Some(true) {
                    *entries = weaker;
                    // What follows has moved up where something went altogether.
                    continue;
                }
            }
            first += size;
        }
        all_known
    }

    /// `entries` without the answers of `count` of them; those that never change anything go altogether.
    fn forget<'e>(
        &self,
        entries: &[Entry<'e, M>],
        first: usize,
        count: usize,
    ) -> Vec<Entry<'e, M>> {
        let mut weaker = Vec::with_capacity(entries.len());
        for (place, entry) in entries.iter().enumerate() {
            let mut entry = entry.clone();
            if (first..first.saturating_add(count)).contains(&place) && entry.returned.is_some() {
                if self.model.never_changes(entry.input, entry.output) {
                    continue;
                }
                (entry.output, entry.returned) = (None, None);
            }
            weaker.push(entry);
        }
        weaker
    }

    /// Whether `entries` are not linearizable, if that can be found out.
    fn fails(&mut self, entries: &[Entry<'_, M>], steps: u64) -> Option<bool> {
        let mut steps = steps.min(self.budget.steps);
        let granted = steps;
        let raced = race(
            self.model,
            vec![entries.to_vec()],
            self.engines,
            &mut steps,
            self.budget,
        );
        self.budget.steps -= granted - steps;
        raced.ok().map(|raced| matches!(raced, Raced::No { .. }))
    }
}

fn answers<M: Model>(entries: &[Entry<'_, M>]) -> usize {
    entries.iter().filter(|e| e.returned.is_some()).count()
}

/// The beginning up to the last answer to an operation invoked by `time`, or all.
fn with_answers<'e, M: Model>(part: &[Entry<'e, M>], time: Option<u64>) -> Vec<Entry<'e, M>> {
    let begun = |e: &&Entry<'e, M>| time.is_none_or(|time| e.invoked <= time);
    let last = part.iter().filter(begun).filter_map(|e| e.returned).max();
    last.map_or_else(|| part.to_vec(), |last| cut(part, last))
}

/// What had been invoked by `time`, with only those answers that had come.
fn cut<'e, M: Model>(part: &[Entry<'e, M>], time: u64) -> Vec<Entry<'e, M>> {
    let begun = part.iter().filter(|e| e.invoked <= time).cloned();
    let cut = begun.map(|mut entry| {
        if entry.returned.is_some_and(|returned| returned > time) {
            (entry.output, entry.returned) = (None, None);
        }
        entry
    });
    cut.collect()
}
