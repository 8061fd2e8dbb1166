//! The depth-first engine: Wing and Gong's search with Lowe's memory of configurations.
//!
//! An operation may come next if nothing that has yet to come returned before it was invoked. Try each, in order of
//! invocation; when a return stands in the way, go back. A configuration (what happened, in which state) that was met
//! before led nowhere then and leads nowhere now.

use rustc_hash::{FxBuildHasher, FxHashSet};

use crate::Model;
use crate::bits::PrefixSet;
use crate::links::Links;
use crate::machine::{Answer, Machine, StateId, Turn};

/// The search, which can rest between any two steps.
#[derive(Debug)]
pub(crate) struct Wgl {
    links: Links,
    /// What happened, in order.
    order: Vec<usize>,
    state: StateId,
    /// Where to look for the next operation, and which of its outcomes to try.
    place: usize,
    choice: usize,
    choices_made: Vec<Choice>,
    /// Answered operations left.
    left: usize,
    ranks: Vec<Rank>,
    answered: PrefixSet,
    pending: PrefixSet,
    seen: FxHashSet<Configuration>,
    key: Vec<u64>,
    settled: bool,
}

/// What to go back to.
#[derive(Clone, Copy, Debug)]
struct Choice {
    happened: usize,
    state: StateId,
    place: usize,
    choice: usize,
}

/// Pending operations are counted apart: they rarely happen, and would keep the other set from being a prefix.
#[derive(Clone, Copy, Debug)]
enum Rank {
    Answered(usize),
    Pending(usize),
}

impl Wgl {
    pub(crate) fn new<M: Model>(machine: &mut Machine<'_, M>) -> Self {
        let (mut left, mut pending) = (0, 0);
        let mut ranks = Vec::with_capacity(machine.entries.len());
        for entry in &machine.entries {
            let (count, rank): (_, fn(usize) -> Rank) = match entry.returned {
                Some(_) => (&mut left, Rank::Answered),
                None => (&mut pending, Rank::Pending),
            };
            ranks.push(rank(*count));
            *count += 1;
        }
        let links = Links::new(&machine.entries);
        Self {
            place: links.first(),
            links,
            order: Vec::new(),
            state: machine.initial(),
            choice: 0,
            choices_made: Vec::new(),
            left,
            ranks,
            answered: PrefixSet::new(left),
            pending: PrefixSet::new(pending),
            // Most searches go back little.
            seen: FxHashSet::with_capacity_and_hasher(machine.entries.len(), FxBuildHasher),
            key: Vec::new(),
            settled: false,
        }
    }

    /// Searches until the turn's steps are spent (`None`) or the answer is found.
    pub(crate) fn advance<M: Model>(
        &mut self,
        machine: &mut Machine<'_, M>,
        turn: &mut Turn<'_>,
    ) -> Option<Answer> {
        if !self.settled {
            self.settle(machine, turn);
            self.settled = true;
        }
        while self.left > 0 {
            if self.seen.len() >= turn.configurations {
                return Some(Answer::Full);
            }
            match self.links.invoked_at(self.place) {
                Some(op) => {
                    if !turn.pay() {
                        return None;
                    }
                    self.attempt(machine, turn, op);
                }
                None if self.go_back() => {}
                None => return Some(Answer::No(None)),
            }
        }
        Some(Answer::Yes(self.order.clone()))
    }

    fn attempt<M: Model>(&mut self, machine: &mut Machine<'_, M>, turn: &mut Turn<'_>, op: usize) {
        let waits = machine.twin(op).is_some_and(|twin| !self.happened(twin));
        let next = machine.next(self.state, op);
        let Some(next) = machine.choice(next, self.choice).filter(|_| !waits) else {
            self.place = self.links.after(self.place);
            self.choice = 0;
            return;
        };
        self.choices_made.push(Choice {
            happened: self.order.len(),
            state: self.state,
            place: self.place,
            choice: self.choice + 1,
        });
        self.state = next;
        self.happen(op);
        self.settle(machine, turn);
        if !self.is_new() {
            self.go_back();
        }
    }

    /// Lets everything happen that may happen now and never changes a state: whatever comes later, it can come first.
    fn settle<M: Model>(&mut self, machine: &mut Machine<'_, M>, turn: &mut Turn<'_>) {
        let mut place = self.links.first();
        while let Some(op) = self.links.invoked_at(place) {
            if machine.is_pure(op) {
                turn.pay();
                let next = machine.next(self.state, op);
                if machine.choice(next, 0).is_some() {
                    self.happen(op);
                }
            }
            place = self.links.after(place);
        }
        self.place = self.links.first();
        self.choice = 0;
    }

    /// Returns to the last choice; false if there is none.
    fn go_back(&mut self) -> bool {
        let Some(choice) = self.choices_made.pop() else {
            return false;
        };
        while self.order.len() > choice.happened {
            self.unhappen();
        }
        (self.state, self.place, self.choice) = (choice.state, choice.place, choice.choice);
        true
    }

    fn happen(&mut self, op: usize) {
        self.links.lift(op);
        self.order.push(op);
        match self.ranks[op] {
            Rank::Answered(rank) => {
                self.answered.insert(rank);
                self.left -= 1;
            }
            Rank::Pending(rank) => self.pending.insert(rank),
        }
    }

    fn unhappen(&mut self) {
        let op = self
            .order
            .pop()
            .expect("something happened since the choice");
        self.links.put_back(op);
        match self.ranks[op] {
            Rank::Answered(rank) => {
                self.answered.remove(rank);
                self.left += 1;
            }
            Rank::Pending(rank) => self.pending.remove(rank),
        }
    }

    fn happened(&self, op: usize) -> bool {
        match self.ranks[op] {
            Rank::Answered(rank) => self.answered.contains(rank),
            Rank::Pending(rank) => self.pending.contains(rank),
        }
    }

    /// Remembers the configuration; false if it was known.
    fn is_new(&mut self) -> bool {
        self.key.clear();
        self.key.extend([self.state as u64, 0]);
        self.answered.write(&mut self.key);
        // Tells where the first set ends.
        self.key[1] = self.key.len() as u64;
        self.pending.write(&mut self.key);
        self.seen.insert(Configuration::from(self.key.as_slice()))
    }
}

/// A configuration's words, most of the time without memory of its own.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Configuration {
    Short([u64; 6]),
    Long(Box<[u64]>),
}

impl From<&[u64]> for Configuration {
    fn from(words: &[u64]) -> Self {
        let mut short = [0; 6];
        match short.get_mut(..words.len()) {
            // Neither set ends in a word of zero, so zeros that follow add nothing.
            Some(start) => {
                start.copy_from_slice(words);
                Self::Short(short)
            }
            None => Self::Long(words.into()),
        }
    }
}
