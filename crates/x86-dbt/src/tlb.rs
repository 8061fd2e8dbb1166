//! The software TLB: two ways a set, one bank per privilege.
//!
//! A tag is a linear page number shifted up, so that a compare is the whole permission check: an entry whose
//! page may not be written simply has no write tag.

use std::io;
use std::ops::AddAssign;

use crate::frame::{ENTRIES, Frame};
use crate::ram::HostPage;

const SETS: usize = 1024;
/// Notes kept before they are sorted out: twice the slots there are.
const NOTED_MAX: usize = ENTRIES * 2;
/// INVLPGs noted for the jump caches before they become a flush.
const PAGES_MAX: usize = 32;
const PAGE_MASK: u64 = !0xfff;

/// Which translations an access may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Bank {
    /// CPL 0 to 2, and implicit supervisor accesses at any CPL.
    Supervisor = 0,
    /// CPL 3.
    User = 1,
    /// Explicit supervisor accesses with CR4.SMAP and EFLAGS.AC set.
    SupervisorAc = 2,
    /// Stays empty: every access takes the slow path, where alignment and breakpoints are checked.
    Slow = 3,
}

/// One translation. The tags hold the linear page address where that kind of access is allowed, and elsewhere
/// [`no_tag`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Entry {
    pub(crate) read: u64,
    pub(crate) write: u64,
    pub(crate) host: HostPage,
    pub(crate) fetch: u64,
}

/// The second way: what the first way's entry displaced, and where its page is.
#[derive(Clone, Copy)]
struct Displaced {
    entry: Entry,
    physical: Physical,
}

/// The guest-physical page, and in bit 0 whether the translation is global.
#[derive(Clone, Copy, Default)]
struct Physical(u64);

/// What a walk found, as the TLB stores it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) linear: u64,
    pub(crate) gpa: u64,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) fetch: bool,
    pub(crate) global: bool,
}

pub(crate) struct Tlb {
    /// Holds `[bank][set]`, the way that is tried inline, where translated code reaches it.
    pub(crate) frame: Frame,
    /// Beside the first way.
    physical: Box<[Physical]>,
    second: Box<[Displaced]>,
    /// Slots that may hold something, so that a flush costs what was filled.
    filled: Vec<u16>,
    /// Those of them that may hold something not global.
    local: Vec<u16>,
    /// Changes whenever a translation may have gone: what caches lookups by linear address compares it.
    pub(crate) epoch: u64,
    /// What has gone since it was last asked for.
    gone: Gone,
    pub(crate) stats: TlbStats,
}

/// Translations that are gone, for those who keep something by linear address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gone {
    /// These pages.
    pub(crate) pages: Vec<u64>,
    /// Everything that is not global.
    pub(crate) local: bool,
    pub(crate) all: bool,
}

/// What the TLB did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlbStats {
    /// Translations walked and stored.
    pub fills: u64,
    /// Hits in the second way.
    pub second_way_hits: u64,
    /// Whole flushes, of all or of non-global entries.
    pub flushes: u64,
}

impl AddAssign for TlbStats {
    /// Adds what another TLB did.
    fn add_assign(&mut self, other: Self) {
        self.fills += other.fills;
        self.second_way_hits += other.second_way_hits;
        self.flushes += other.flushes;
    }
}

impl Tlb {
    pub(crate) fn new() -> io::Result<Self> {
        let mut frame = Frame::new()?;
        for (slot, entry) in frame.entries_mut().iter_mut().enumerate() {
            *entry = Entry::empty(slot);
        }
        let second = (0..ENTRIES).map(|slot| Displaced {
            entry: Entry::empty(slot),
            physical: Physical::default(),
        });
        Ok(Self {
            frame,
            physical: vec![Physical::default(); ENTRIES].into_boxed_slice(),
            second: second.collect(),
            filled: Vec::new(),
            local: Vec::new(),
            epoch: 1,
            gone: Gone::default(),
            stats: TlbStats::default(),
        })
    }

    #[inline(always)]
    pub(crate) fn entry(&self, bank: Bank, linear: u64) -> &Entry {
        &self.frame.entries()[slot(bank, linear) & (ENTRIES - 1)]
    }

    /// The guest-physical address of `linear`, which must hit in the first way.
    pub(crate) fn physical(&self, bank: Bank, linear: u64) -> u64 {
        self.physical[slot(bank, linear)].page() | (linear & !PAGE_MASK)
    }

    /// Where code at `linear` is fetched from, if the first way knows.
    pub(crate) fn fetched(&self, bank: Bank, linear: u64) -> Option<u64> {
        let hit = self.entry(bank, linear).fetch == linear & PAGE_MASK;
        hit.then(|| self.physical(bank, linear))
    }

    /// Whether code is fetched from `linear` through a translation known to be global.
    pub(crate) fn is_global_fetch(&self, bank: Bank, linear: u64) -> bool {
        let slot = slot(bank, linear);
        self.frame.entries()[slot].fetch == linear & PAGE_MASK && self.physical[slot].is_global()
    }

    /// Looks in the second way; a hit changes places with the first.
    pub(crate) fn promote(&mut self, bank: Bank, linear: u64) -> bool {
        let slot = slot(bank, linear);
        if !self.second[slot].entry.holds(linear & PAGE_MASK) {
            return false;
        }
        let second = &mut self.second[slot];
        std::mem::swap(&mut self.frame.entries_mut()[slot], &mut second.entry);
        std::mem::swap(&mut self.physical[slot], &mut second.physical);
        self.stats.second_way_hits += 1;
        true
    }

    pub(crate) fn fill(&mut self, bank: Bank, fill: Fill, host: HostPage) {
        let page = fill.linear & PAGE_MASK;
        let slot = slot(bank, page);
        if !fill.global && !self.has_local(slot) {
            note(&mut self.local, slot);
        }
        let first = self.frame.entries()[slot];
        if !first.holds(page) {
            let second = &mut self.second[slot];
            let was_empty = first.is_empty(slot) && second.entry.is_empty(slot);
            if second.entry.holds(page) {
                second.entry = Entry::empty(slot);
            }
            if !first.is_empty(slot) {
                *second = Displaced {
                    entry: first,
                    physical: self.physical[slot],
                };
            }
            if was_empty {
                note(&mut self.filled, slot);
            }
        }
        let tag = |allowed| if allowed { page } else { no_tag(slot) };
        self.frame.entries_mut()[slot] = Entry {
            read: tag(fill.read),
            write: tag(fill.write),
            fetch: tag(fill.fetch),
            host,
        };
        self.physical[slot] = Physical((fill.gpa & PAGE_MASK) | u64::from(fill.global));
        self.stats.fills += 1;
    }

    /// Whether one of the slot's ways holds something that is not global.
    fn has_local(&self, slot: usize) -> bool {
        let (first, second) = (&self.frame.entries()[slot], &self.second[slot]);
        let is_local =
            |entry: &Entry, physical: Physical| !physical.is_global() && !entry.is_empty(slot);
        is_local(first, self.physical[slot]) || is_local(&second.entry, second.physical)
    }

    /// Forgets everything, or everything that is not global.
    pub(crate) fn flush(&mut self, keep_global: bool) {
        let slots = if keep_global {
            &mut self.local
        } else {
            &mut self.filled
        };
        let first = self.frame.entries_mut();
        for slot in slots.drain(..).map(usize::from) {
            if !keep_global || !self.physical[slot].is_global() {
                first[slot] = Entry::empty(slot);
            }
            let second = &mut self.second[slot];
            if !keep_global || !second.physical.is_global() {
                second.entry = Entry::empty(slot);
            }
        }
        self.frame.unpin();
        self.epoch += 1;
        self.stats.flushes += 1;
        self.gone.local = true;
        self.gone.all |= !keep_global;
    }

    /// INVLPG: forgets one page in every bank.
    pub(crate) fn flush_page(&mut self, linear: u64) {
        let page = linear & PAGE_MASK;
        for bank in [Bank::Supervisor, Bank::User, Bank::SupervisorAc] {
            let slot = slot(bank, linear);
            let first = &mut self.frame.entries_mut()[slot];
            for entry in [first, &mut self.second[slot].entry] {
                if entry.holds(page) {
                    *entry = Entry::empty(slot);
                }
            }
        }
        self.frame.unpin();
        self.epoch += 1;
        if self.gone.pages.len() < PAGES_MAX {
            self.gone.pages.push(page);
        } else {
            self.gone.all = true;
        }
    }

    /// Takes what has gone since this was last asked.
    pub(crate) fn take_gone(&mut self) -> Gone {
        std::mem::take(&mut self.gone)
    }

    /// Takes the write permission from every entry of the guest-physical page `gpa`: code was found there.
    pub(crate) fn protect(&mut self, gpa: u64) {
        let page = gpa & PAGE_MASK;
        self.frame.unpin();
        let first = self.frame.entries_mut();
        for &slot in &self.filled {
            let slot = usize::from(slot);
            if self.physical[slot].page() == page {
                first[slot].write = no_tag(slot);
            }
            let second = &mut self.second[slot];
            if second.physical.page() == page {
                second.entry.write = no_tag(slot);
            }
        }
    }
}

impl Entry {
    fn empty(slot: usize) -> Self {
        Self {
            read: no_tag(slot),
            write: no_tag(slot),
            fetch: no_tag(slot),
            host: HostPage::NONE,
        }
    }

    fn holds(&self, page: u64) -> bool {
        self.read == page || self.write == page || self.fetch == page
    }

    fn is_empty(&self, slot: usize) -> bool {
        let none = no_tag(slot);
        self.read == none && self.write == none && self.fetch == none
    }
}

impl Physical {
    fn page(self) -> u64 {
        self.0 & PAGE_MASK
    }

    fn is_global(self) -> bool {
        self.0 & 1 != 0
    }
}

/// The tag of what is not allowed: a page of another set, so that no address that is looked up in `slot`, canonical
/// or not, is within a page of it.
fn no_tag(slot: usize) -> u64 {
    ((slot as u64 & (SETS as u64 - 1)) ^ 1) << 12
}

/// Notes a slot. INVLPG and flushes empty slots that stay noted, so a slot can be noted twice.
fn note(slots: &mut Vec<u16>, slot: usize) {
    if slots.len() >= NOTED_MAX {
        slots.sort_unstable();
        slots.dedup();
    }
    slots.push(slot as u16);
}

#[inline(always)]
pub(crate) fn slot(bank: Bank, linear: u64) -> usize {
    (bank as usize) * SETS + ((linear >> 12) as usize & (SETS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(linear: u64, global: bool) -> Fill {
        Fill {
            linear,
            gpa: 0x5000,
            read: true,
            write: true,
            fetch: false,
            global,
        }
    }

    fn readable(tlb: &Tlb, linear: u64) -> bool {
        tlb.entry(Bank::Supervisor, linear).read == linear & PAGE_MASK
    }

    #[test]
    fn two_aliasing_pages_stay_both() {
        let mut tlb = Tlb::new().unwrap();
        let (a, b) = (0x1000, 0x1000 + 4096 * SETS as u64);
        tlb.fill(Bank::Supervisor, fill(a, false), HostPage::NONE);
        tlb.fill(Bank::Supervisor, fill(b, false), HostPage::NONE);
        assert!(readable(&tlb, b) && !readable(&tlb, a));
        assert!(tlb.promote(Bank::Supervisor, a) && readable(&tlb, a));
        assert!(tlb.promote(Bank::Supervisor, b) && readable(&tlb, b));
    }

    #[test]
    fn a_flush_keeps_global_entries_when_asked() {
        let mut tlb = Tlb::new().unwrap();
        tlb.fill(Bank::Supervisor, fill(0x1000, true), HostPage::NONE);
        tlb.fill(Bank::Supervisor, fill(0x2000, false), HostPage::NONE);
        tlb.flush(true);
        assert!(readable(&tlb, 0x1000) && !readable(&tlb, 0x2000));
        tlb.flush(false);
        assert!(!readable(&tlb, 0x1000));
    }

    #[test]
    fn invalidating_a_page_again_and_again_takes_no_more_memory() {
        let mut tlb = Tlb::new().unwrap();
        for _ in 0..10 * NOTED_MAX {
            tlb.fill(Bank::Supervisor, fill(0x1000, false), HostPage::NONE);
            tlb.flush_page(0x1000);
        }
        assert!(tlb.filled.len() <= NOTED_MAX);
    }

    #[test]
    fn protecting_a_page_takes_only_its_write_tag() {
        let mut tlb = Tlb::new().unwrap();
        tlb.fill(Bank::Supervisor, fill(0x1000, false), HostPage::NONE);
        tlb.protect(0x5123);
        assert!(readable(&tlb, 0x1000));
        assert_ne!(tlb.entry(Bank::Supervisor, 0x1000).write, 0x1000);
    }
}
