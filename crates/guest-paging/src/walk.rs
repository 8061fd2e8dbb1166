//! The walk, once for all formats.

use crate::format::{Entry, Format};
use crate::memory::{Place, TableMemory, Unbacked};
use crate::observer::{Observer, Reference, ReferenceKind};
use crate::{Gpa, x86};

/// How often a walk begins anew because an entry changed between its load and its marking.
///
/// Each restart means that someone else wrote the entry in between, so only a guest that does
/// nothing else reaches the bound.
pub const RESTARTS_MAX: u32 = 64;

/// Why a walk gave no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WalkError<F = x86::PageFault, E = Unbacked> {
    /// The guest's fault, to be delivered to it.
    #[error("{0}")]
    Fault(F),
    /// A paging-structure entry cannot be reached. What then happens is the machine's decision.
    #[error("the level {level} entry at {at} cannot be reached")]
    Table {
        /// Level of the entry, counted from the leaf.
        level: u8,
        /// Where the entry should lie.
        at: Gpa,
        /// What the memory answered.
        source: E,
    },
    /// The entries changed under [`RESTARTS_MAX`] attempts: run the instruction again later.
    #[error("the paging structures kept changing during {RESTARTS_MAX} walks")]
    Contended,
}

impl<F, E> WalkError<F, E> {
    pub(crate) fn map_fault<G>(self, f: impl FnOnce(F) -> G) -> WalkError<G, E> {
        match self {
            Self::Fault(fault) => WalkError::Fault(f(fault)),
            Self::Table { level, at, source } => WalkError::Table { level, at, source },
            Self::Contended => WalkError::Contended,
        }
    }
}

type Walked<F, M> =
    Result<<F as Format>::Translation, WalkError<<F as Format>::Fault, <M as TableMemory>::Error>>;

/// Translates `input`. `MARKING` walks set accessed and dirty flags, others only read.
#[inline(always)]
pub(crate) fn walk<F: Format, M: TableMemory, O: Observer, const MARKING: bool>(
    memory: &M,
    context: &F::Context,
    input: u64,
    access: F::Access,
    observer: &mut O,
) -> Walked<F, M> {
    if !observer.listens() {
        let first = glance::<F, M, MARKING>(memory, Place::First, context, input, access);
        if let Some(translation) = first {
            return Ok(translation);
        }
    }
    walk_on::<F, M, O, MARKING>(memory, context, input, access, observer)
}

/// The walk as it nearly always is: permitted, and with every flag set already. Says nothing of any
/// other, and so has nothing to keep but what is denied.
#[inline(always)]
pub(crate) fn glance<F: Format, M: TableMemory, const MARKING: bool>(
    memory: &M,
    place: Place,
    context: &F::Context,
    input: u64,
    access: F::Access,
) -> Option<F::Translation> {
    let (top, table) = F::root(context, input, access).ok()?;
    let denied = F::NOTHING_DENIED;
    // Not a loop, since the compiler would keep it, and not know the shifts and masks of a level.
    macro_rules! step {
        ($level:literal, $table:ident, $denied:ident) => {
            if $level > top {
                ($table, $denied)
            } else {
                let offset = F::offset(input, $level);
                let entry = F::Entry::peek(memory, place, $table, offset)?;
                let denied = F::deny($denied, $level, entry);
                if $level == 1 || !F::is_plain_table(context, MARKING, $level, entry) {
                    let done = F::is_leaf(context, $level, entry)
                        && F::is_plain_leaf(context, $level, entry)
                        && F::permits(context, denied, entry, access)
                        && (!MARKING || F::mark_leaf(entry, access) == entry);
                    return done.then(|| F::translation(context, input, $level, denied, entry));
                }
                (F::table(entry), denied)
            }
        };
    }
    let (table, denied) = step!(5, table, denied);
    let (table, denied) = step!(4, table, denied);
    let (table, denied) = step!(3, table, denied);
    let (table, denied) = step!(2, table, denied);
    let (_, _) = step!(1, table, denied);
    None
}

/// The walk when a glance was not enough: another at the other place, then in full until no race is
/// lost.
#[cold]
#[inline(never)]
fn walk_on<F: Format, M: TableMemory, O: Observer, const MARKING: bool>(
    memory: &M,
    context: &F::Context,
    input: u64,
    access: F::Access,
    observer: &mut O,
) -> Walked<F, M> {
    if !observer.listens() {
        let second = glance::<F, M, MARKING>(memory, Place::Second, context, input, access);
        if let Some(translation) = second {
            return Ok(translation);
        }
    }
    walk_from::<F, M, O, MARKING>(memory, context, input, access, observer, None)
}

/// Where a walk may begin below the root: the level of the next entry, its table, and what the
/// entries above have denied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start<E> {
    pub(crate) level: u8,
    pub(crate) table: Gpa,
    pub(crate) denied: E,
}

/// The walk in full, from the root or from what was kept of an earlier walk.
pub(crate) fn walk_from<F: Format, M: TableMemory, O: Observer, const MARKING: bool>(
    memory: &M,
    context: &F::Context,
    input: u64,
    access: F::Access,
    observer: &mut O,
    start: Option<Start<F::Entry>>,
) -> Walked<F, M> {
    let mut walk = Walk::<F, M, O, MARKING> {
        memory,
        context,
        input,
        access,
        observer,
        start,
    };
    for _ in 0..RESTARTS_MAX {
        match walk.descend() {
            Ok(translation) => return Ok(translation),
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::LostRace) => {}
        }
    }
    Err(WalkError::Contended)
}

struct Walk<'a, F: Format, M, O, const MARKING: bool> {
    memory: &'a M,
    context: &'a F::Context,
    input: u64,
    access: F::Access,
    observer: &'a mut O,
    start: Option<Start<F::Entry>>,
}

/// Why a descent ended without a translation.
enum Stop<F, E> {
    Failed(WalkError<F, E>),
    LostRace,
}

type Descent<T, F, M> = Result<T, Stop<<F as Format>::Fault, <M as TableMemory>::Error>>;

impl<F: Format, M: TableMemory, O: Observer, const MARKING: bool> Walk<'_, F, M, O, MARKING> {
    fn descend(&mut self) -> Descent<F::Translation, F, M> {
        let Start {
            mut level,
            mut table,
            mut denied,
        } = self.start()?;
        loop {
            let at = Gpa(table.0 + F::offset(self.input, level));
            let mut entry = self.load(level, at)?;
            if !F::passes(self.context, MARKING, level, entry) {
                entry = self.settle(level, at, entry)?;
            }
            denied = F::deny(denied, level, entry);
            if F::is_leaf(self.context, level, entry) {
                return self.finish(level, at, denied, entry);
            }
            table = F::table(entry);
            level -= 1;
        }
    }

    fn start(&self) -> Descent<Start<F::Entry>, F, M> {
        if let Some(start) = self.start {
            return Ok(start);
        }
        let root = F::root(self.context, self.input, self.access);
        let (level, table) = root.map_err(|fault| Stop::Failed(WalkError::Fault(fault)))?;
        Ok(Start {
            level,
            table,
            denied: F::NOTHING_DENIED,
        })
    }

    fn load(&mut self, level: u8, at: Gpa) -> Descent<F::Entry, F, M> {
        let entry =
            F::Entry::load(self.memory, at).map_err(|source| unreached(level, at, source))?;
        self.observe(level, at, entry, ReferenceKind::Load);
        Ok(entry)
    }

    /// Decides over an entry that does not simply pass. A leaf is marked only once the access is
    /// known to be permitted.
    fn settle(&mut self, level: u8, at: Gpa, entry: F::Entry) -> Descent<F::Entry, F, M> {
        if let Some(fault) = F::refusal(self.context, self.input, level, entry, self.access) {
            return Err(Stop::Failed(WalkError::Fault(fault)));
        }
        if F::is_leaf(self.context, level, entry) {
            return Ok(entry);
        }
        self.mark(level, at, entry, F::mark_table(entry))
    }

    fn finish(
        &mut self,
        level: u8,
        at: Gpa,
        denied: F::Entry,
        mut leaf: F::Entry,
    ) -> Descent<F::Translation, F, M> {
        if !F::permits(self.context, denied, leaf, self.access) {
            let denial = F::denial(self.context, self.input, denied, leaf, self.access);
            return Err(Stop::Failed(WalkError::Fault(denial)));
        }
        let marked = F::mark_leaf(leaf, self.access);
        if MARKING && marked != leaf {
            leaf = self.mark(level, at, leaf, marked)?;
        }
        Ok(F::translation(
            self.context,
            self.input,
            level,
            denied,
            leaf,
        ))
    }

    /// Writes `marked` over `entry`, and gives it back, unless the entry has changed meanwhile.
    fn mark(
        &mut self,
        level: u8,
        at: Gpa,
        entry: F::Entry,
        marked: F::Entry,
    ) -> Descent<F::Entry, F, M> {
        let exchanged = F::Entry::compare_exchange(self.memory, at, entry, marked);
        match exchanged.map_err(|source| unreached(level, at, source))? {
            Ok(_) => {
                self.observe(level, at, entry, ReferenceKind::Update(marked.into()));
                Ok(marked)
            }
            Err(found) => {
                self.observe(level, at, found, ReferenceKind::LostUpdate);
                Err(Stop::LostRace)
            }
        }
    }

    fn observe(&mut self, level: u8, at: Gpa, entry: F::Entry, kind: ReferenceKind) {
        self.observer.reference(Reference {
            dimension: 0,
            level,
            at,
            entry: entry.into(),
            kind,
        });
    }
}

fn unreached<F, E>(level: u8, at: Gpa, source: E) -> Stop<F, E> {
    Stop::Failed(WalkError::Table { level, at, source })
}
