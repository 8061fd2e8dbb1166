//! What leads to translations by linear address: it holds as long as the page is where it was.

use rustc_hash::{FxHashMap, FxHashSet};

use super::UnitId;
use crate::block::Block;
use crate::ram::PAGE;
use crate::tlb::Bank;

/// Things remembered for one page before they are forgotten.
const DEPENDENTS_MAX: usize = 1 << 13;
/// Pages of other address spaces that are remembered.
const AWAY_MAX: usize = 1 << 7;

/// Where code of a linear page was found, and by whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) linear: u64,
    pub(super) gpa: u64,
    pub(super) bank: Bank,
}

/// Something that holds as long as a linear page's translation does.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Dependent {
    /// A link, by its number, that is chained to the unit.
    Link(u32, UnitId),
    /// The unit's entry in a jump cache.
    Jump(UnitId),
}

/// What is to be done for the dependents of a page.
pub(super) enum Change {
    /// The page is no longer there.
    TakeDown(Dependent),
    /// It is there again.
    PutBack(Dependent),
}

struct Page {
    home: Home,
    global: bool,
    /// It is not where it was in the address space of now, but may be in the next.
    is_away: bool,
    dependents: FxHashSet<Dependent>,
}

#[derive(Default)]
pub(super) struct Pages {
    by_linear: FxHashMap<u64, Vec<Page>>,
}

impl Home {
    /// Of the page that `block` is on, when it is fetched through `bank`.
    pub(super) fn of(block: &Block, bank: Bank) -> Self {
        Self {
            linear: block.linear() & !(PAGE - 1),
            gpa: block.gpa() & !(PAGE - 1),
            bank,
        }
    }
}

impl Pages {
    /// Notes that `dependent` holds while `home` does, which it now does.
    pub(super) fn depend(
        &mut self,
        home: Home,
        global: bool,
        dependent: Dependent,
        mut change: impl FnMut(Change),
    ) {
        let here = self.by_linear.entry(home.linear).or_default();
        let known = here.iter().position(|page| page.home == home);
        let at = known.unwrap_or_else(|| {
            here.push(Page {
                home,
                global,
                is_away: false,
                dependents: FxHashSet::default(),
            });
            here.len() - 1
        });
        let page = &mut here[at];
        page.global = global;
        if std::mem::take(&mut page.is_away) {
            for &back in &page.dependents {
                change(Change::PutBack(back));
            }
        }
        if page.dependents.len() >= DEPENDENTS_MAX {
            page.take_down(&mut change);
            page.dependents.clear();
        }
        page.dependents.insert(dependent);
    }

    /// Everything that is noted is void.
    pub(super) fn forget_all(&mut self, mut change: impl FnMut(Change)) {
        for page in std::mem::take(&mut self.by_linear).into_values().flatten() {
            page.take_down(&mut change);
        }
    }

    /// The translation of one linear page is void.
    pub(super) fn forget(&mut self, linear: u64, mut change: impl FnMut(Change)) {
        for page in self.by_linear.remove(&linear).into_iter().flatten() {
            page.take_down(&mut change);
        }
    }

    /// Every translation that is not global is void, but those of pages that `is_home` finds where they were: programs
    /// that take turns run much of the same code.
    pub(super) fn settle(
        &mut self,
        is_home: impl Fn(Home) -> bool,
        mut change: impl FnMut(Change),
    ) {
        let mut back = Vec::new();
        let mut away = 0;
        for page in self.by_linear.values_mut().flatten() {
            if page.global {
                continue;
            }
            let is_away = !is_home(page.home);
            away += usize::from(is_away);
            if is_away && !page.is_away {
                page.take_down(&mut change);
            } else if page.is_away && !is_away {
                back.extend(page.dependents.iter().copied());
            }
            page.is_away = is_away;
        }
        // After what had their places has gone.
        for dependent in back {
            change(Change::PutBack(dependent));
        }
        if away > AWAY_MAX {
            self.by_linear.retain(|_, here| {
                here.retain(|page| !page.is_away);
                !here.is_empty()
            });
        }
    }
}

impl Page {
    fn take_down(&self, change: &mut impl FnMut(Change)) {
        if !self.is_away {
            for &dependent in &self.dependents {
                change(Change::TakeDown(dependent));
            }
        }
    }
}
