//! The software TLB: two ways a set, one bank per privilege.
//!
//! A tag is a linear page number shifted up, so that a compare is the whole permission check: an entry whose
//! page may not be written simply has no write tag.

use crate::ram::HostPage;

const SETS: usize = 1024;
/// Notes kept before they are sorted out: twice the slots there are.
const NOTED_MAX: usize = SETS * 4 * 2;
/// Never equals a page address.
const NO_TAG: u64 = 1;
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

/// One translation. The tags hold the linear page address where that kind of access is allowed.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) read: u64,
    pub(crate) write: u64,
    pub(crate) fetch: u64,
    pub(crate) host: HostPage,
    /// The guest-physical page, and in bit 0 whether the translation is global.
    physical: u64,
}

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
    /// `[bank][set]`, the way that is tried inline.
    first: Box<[Entry]>,
    /// The second way: what the first way's entry displaced.
    second: Box<[Entry]>,
    /// Slots that may hold something, so that a flush costs what was filled.
    filled: Vec<u16>,
    /// Changes whenever a translation may have gone: what caches lookups by linear address compares it.
    pub(crate) epoch: u64,
    pub(crate) stats: TlbStats,
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

impl Tlb {
    pub(crate) fn new() -> Self {
        let empty = vec![Entry::EMPTY; SETS * 4].into_boxed_slice();
        Self {
            second: empty.clone(),
            first: empty,
            filled: Vec::new(),
            epoch: 1,
            stats: TlbStats::default(),
        }
    }

    #[inline(always)]
    pub(crate) fn entry(&self, bank: Bank, linear: u64) -> &Entry {
        &self.first[slot(bank, linear) & (SETS * 4 - 1)]
    }

    /// Looks in the second way; a hit changes places with the first.
    pub(crate) fn promote(&mut self, bank: Bank, linear: u64) -> bool {
        let slot = slot(bank, linear);
        if !self.second[slot].holds(linear & PAGE_MASK) {
            return false;
        }
        std::mem::swap(&mut self.first[slot], &mut self.second[slot]);
        self.stats.second_way_hits += 1;
        true
    }

    pub(crate) fn fill(&mut self, bank: Bank, fill: Fill, host: HostPage) {
        let page = fill.linear & PAGE_MASK;
        let slot = slot(bank, page);
        if !self.first[slot].holds(page) {
            if self.first[slot].is_empty() && self.second[slot].is_empty() {
                self.note(slot);
            }
            if self.second[slot].holds(page) {
                self.second[slot] = Entry::EMPTY;
            }
            if !self.first[slot].is_empty() {
                self.second[slot] = self.first[slot];
            }
        }
        let tag = |allowed| if allowed { page } else { NO_TAG };
        self.first[slot] = Entry {
            read: tag(fill.read),
            write: tag(fill.write),
            fetch: tag(fill.fetch),
            host,
            physical: (fill.gpa & PAGE_MASK) | u64::from(fill.global),
        };
        self.stats.fills += 1;
    }

    /// Notes a slot as filled. INVLPG empties slots that stay noted, so a slot can be noted twice.
    fn note(&mut self, slot: usize) {
        if self.filled.len() >= NOTED_MAX {
            self.filled.sort_unstable();
            self.filled.dedup();
        }
        self.filled.push(slot as u16);
    }

    /// Forgets everything, or everything that is not global.
    pub(crate) fn flush(&mut self, keep_global: bool) {
        let mut filled = std::mem::take(&mut self.filled);
        filled.retain(|&slot| {
            let slot = usize::from(slot);
            for way in [&mut self.first, &mut self.second] {
                if !keep_global || way[slot].physical & 1 == 0 {
                    way[slot] = Entry::EMPTY;
                }
            }
            !(self.first[slot].is_empty() && self.second[slot].is_empty())
        });
        self.filled = filled;
        self.epoch += 1;
        self.stats.flushes += 1;
    }

    /// INVLPG: forgets one page in every bank.
    pub(crate) fn flush_page(&mut self, linear: u64) {
        for bank in [Bank::Supervisor, Bank::User, Bank::SupervisorAc] {
            let slot = slot(bank, linear);
            for way in [&mut self.first, &mut self.second] {
                if way[slot].holds(linear & PAGE_MASK) {
                    way[slot] = Entry::EMPTY;
                }
            }
        }
        self.epoch += 1;
    }

    /// Takes the write permission from every entry of the guest-physical page `gpa`: code was found there.
    pub(crate) fn protect(&mut self, gpa: u64) {
        for &slot in &self.filled {
            for way in [&mut self.first, &mut self.second] {
                let entry = &mut way[usize::from(slot)];
                if entry.physical & PAGE_MASK == gpa & PAGE_MASK {
                    entry.write = NO_TAG;
                }
            }
        }
    }
}

impl Entry {
    const EMPTY: Self = Self {
        read: NO_TAG,
        write: NO_TAG,
        fetch: NO_TAG,
        host: HostPage::NONE,
        physical: 0,
    };

    fn holds(&self, page: u64) -> bool {
        self.read == page || self.write == page || self.fetch == page
    }

    fn is_empty(&self) -> bool {
        self.read & self.write & self.fetch == NO_TAG
    }

    /// The guest-physical address of `linear`, which must be on this entry's page.
    pub(crate) fn gpa(&self, linear: u64) -> u64 {
        (self.physical & PAGE_MASK) | (linear & !PAGE_MASK)
    }
}

#[inline(always)]
fn slot(bank: Bank, linear: u64) -> usize {
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
        let mut tlb = Tlb::new();
        let (a, b) = (0x1000, 0x1000 + 4096 * SETS as u64);
        tlb.fill(Bank::Supervisor, fill(a, false), HostPage::NONE);
        tlb.fill(Bank::Supervisor, fill(b, false), HostPage::NONE);
        assert!(readable(&tlb, b) && !readable(&tlb, a));
        assert!(tlb.promote(Bank::Supervisor, a) && readable(&tlb, a));
        assert!(tlb.promote(Bank::Supervisor, b) && readable(&tlb, b));
    }

    #[test]
    fn a_flush_keeps_global_entries_when_asked() {
        let mut tlb = Tlb::new();
        tlb.fill(Bank::Supervisor, fill(0x1000, true), HostPage::NONE);
        tlb.fill(Bank::Supervisor, fill(0x2000, false), HostPage::NONE);
        tlb.flush(true);
        assert!(readable(&tlb, 0x1000) && !readable(&tlb, 0x2000));
        tlb.flush(false);
        assert!(!readable(&tlb, 0x1000));
    }

    #[test]
    fn invalidating_a_page_again_and_again_takes_no_more_memory() {
        let mut tlb = Tlb::new();
        for _ in 0..10 * NOTED_MAX {
            tlb.fill(Bank::Supervisor, fill(0x1000, false), HostPage::NONE);
            tlb.flush_page(0x1000);
        }
        assert!(tlb.filled.len() <= NOTED_MAX);
    }

    #[test]
    fn protecting_a_page_takes_only_its_write_tag() {
        let mut tlb = Tlb::new();
        tlb.fill(Bank::Supervisor, fill(0x1000, false), HostPage::NONE);
        tlb.protect(0x5123);
        assert!(readable(&tlb, 0x1000));
        assert_eq!(tlb.entry(Bank::Supervisor, 0x1000).write, NO_TAG);
    }
}
