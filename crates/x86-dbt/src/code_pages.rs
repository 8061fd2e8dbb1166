//! Which pages hold decoded code, for all processors over one RAM: what one of them writes there, the others must
//! hear of before they run again.
//!
//! Processors take turns, so what a processor must hear waits until its turn comes. No write tag of any TLB allows writes
//! to a held page: a processor that is the first to hold it takes its own away at once, and has the others take
//! theirs before they run.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::ram::PAGE;

/// Entries of each kind that wait for a processor before they become "everything".
const MAIL_MAX: usize = 1024;

/// The pages of one RAM.
pub(crate) struct CodePages {
    /// A bit for each page: somebody holds it.
    held: Box<[Cell<u64>]>,
    /// Who does: a bit for each seat.
    holders: RefCell<FxHashMap<u64, u64>>,
    /// What waits for each seat; `None` for one that is free.
    mail: RefCell<Vec<Option<Mail>>>,
}

/// What a processor must hear before it runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mail {
    /// Stretches that were written (first address, length).
    pub(crate) written: Vec<(u64, u64)>,
    /// Pages that may not be written unseen any more.
    pub(crate) protected: Vec<u64>,
    /// More than fits here: anything may have been written, every page may be one of those.
    pub(crate) everything: bool,
}

/// One processor's part in the pages.
pub(crate) struct Seat {
    pages: Rc<CodePages>,
    number: usize,
}

impl CodePages {
    /// `ram_end` is the highest guest-physical RAM address plus one.
    pub(crate) fn new(ram_end: u64) -> Self {
        let words = (ram_end / PAGE).div_ceil(64) as usize;
        Self {
            held: vec![Cell::new(0); words].into_boxed_slice(),
            holders: RefCell::default(),
            mail: RefCell::default(),
        }
    }

    fn set(&self, page: u64, held: bool) {
        if let Some(word) = self.held.get((page / 64) as usize) {
            let others = word.get() & !(1 << (page % 64));
            word.set(others | u64::from(held) << (page % 64));
        }
    }

    fn send(&self, to: u64, what: impl Fn(&mut Mail)) {
        let mut mail = self.mail.borrow_mut();
        for (number, mail) in mail.iter_mut().enumerate() {
            if let Some(mail) = mail.as_mut().filter(|_| to >> number & 1 != 0) {
                what(mail);
            }
        }
    }
}

impl Seat {
    /// Processors that one RAM can have.
    pub(crate) const MAX: usize = 64;

    /// # Panics
    ///
    /// When all seats are taken.
    pub(crate) fn take(pages: Rc<CodePages>) -> Self {
        let mut mail = pages.mail.borrow_mut();
        let free = mail.iter().position(Option::is_none);
        let number = free.unwrap_or_else(|| {
            mail.push(None);
            mail.len() - 1
        });
        assert!(number < Self::MAX, "a RAM has {} processors", Self::MAX);
        mail[number] = Some(Mail::default());
        drop(mail);
        Self { pages, number }
    }

    /// Whether some processor holds the page of `gpa`, so that writes to it must be seen.
    #[inline]
    pub(crate) fn is_held(&self, gpa: u64) -> bool {
        let page = gpa / PAGE;
        let word = self.pages.held.get((page / 64) as usize);
        word.is_some_and(|bits| bits.get() >> (page % 64) & 1 != 0)
    }

    /// This processor has code on `page`, a page's number.
    pub(crate) fn hold(&self, page: u64) {
        let mut holders = self.pages.holders.borrow_mut();
        let seats = holders.entry(page).or_default();
        let is_first = *seats == 0;
        *seats |= self.own();
        if is_first {
            self.pages.set(page, true);
            self.pages
                .send(!self.own(), |mail| mail.protect(page * PAGE));
        }
    }

    /// It no longer has.
    pub(crate) fn release(&self, page: u64) {
        let mut holders = self.pages.holders.borrow_mut();
        if let Some(seats) = holders.get_mut(&page) {
            *seats &= !self.own();
            if *seats == 0 {
                holders.remove(&page);
                self.pages.set(page, false);
            }
        }
    }

    /// It has code nowhere.
    pub(crate) fn release_all(&self) {
        let mut holders = self.pages.holders.borrow_mut();
        holders.retain(|&page, seats| {
            *seats &= !self.own();
            if *seats == 0 {
                self.pages.set(page, false);
            }
            *seats != 0
        });
    }

    /// Tells the others that hold it of a write to a page.
    pub(crate) fn tell_written(&self, gpa: u64, len: u64) {
        let holders = self.pages.holders.borrow();
        let others = holders.get(&(gpa / PAGE)).map_or(0, |&seats| seats) & !self.own();
        if others != 0 {
            self.pages.send(others, |mail| mail.write(gpa, len));
        }
    }

    /// Takes what this processor must hear; `None` for nothing.
    pub(crate) fn take_mail(&self) -> Option<Mail> {
        let mut mail = self.pages.mail.borrow_mut();
        let mine = mail.get_mut(self.number)?.as_mut()?;
        let waits = mine.everything || !mine.written.is_empty() || !mine.protected.is_empty();
        waits.then(|| std::mem::take(mine))
    }

    fn own(&self) -> u64 {
        1 << self.number
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.release_all();
        self.pages.mail.borrow_mut()[self.number] = None;
    }
}

impl Mail {
    fn write(&mut self, gpa: u64, len: u64) {
        match self.written.last_mut() {
            Some((start, before)) if *start + *before == gpa => *before += len,
            _ => self.written.push((gpa, len)),
        }
        self.bound();
    }

    fn protect(&mut self, gpa: u64) {
        self.protected.push(gpa);
        self.bound();
    }

    fn bound(&mut self) {
        if self.everything || self.written.len().max(self.protected.len()) > MAIL_MAX {
            *self = Self {
                everything: true,
                ..Self::default()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats() -> [Seat; 3] {
        let pages = Rc::new(CodePages::new(16 << 20));
        [(); 3].map(|()| Seat::take(Rc::clone(&pages)))
    }

    #[test]
    fn the_first_holder_of_a_page_has_the_others_protect_it() {
        let [a, b, c] = seats();
        a.hold(5);
        b.hold(5);
        assert!(c.is_held(0x5fff) && !c.is_held(0x6000));
        assert_eq!(a.take_mail(), None);
        for other in [b, c] {
            assert_eq!(other.take_mail().unwrap().protected, [0x5000]);
            assert_eq!(other.take_mail(), None);
        }
    }

    #[test]
    fn writes_are_told_to_those_who_hold_the_page() {
        let [a, b, c] = seats();
        a.hold(5);
        b.hold(5);
        b.take_mail();
        c.take_mail();
        for at in 0x5000..0x5004 {
            a.tell_written(at, 1);
        }
        assert_eq!(b.take_mail().unwrap().written, [(0x5000, 4)]);
        assert_eq!((a.take_mail(), c.take_mail()), (None, None));
    }

    #[test]
    fn a_page_is_held_until_its_last_holder_lets_go() {
        let [a, b, c] = seats();
        a.hold(5);
        b.hold(5);
        a.release(5);
        a.release(5);
        assert!(c.is_held(0x5000));
        b.hold(7);
        b.release_all();
        assert!(!c.is_held(0x5000) && !c.is_held(0x7000));
        c.hold(9);
        drop(c);
        assert!(!a.is_held(0x9000));
    }

    #[test]
    fn what_a_halted_processor_misses_is_bounded() {
        let [a, b, _] = seats();
        b.hold(5);
        a.take_mail();
        for n in 0..10_000 {
            a.tell_written(0x5000 + n * 2 % 4096, 1);
            a.hold(100 + n);
        }
        let mail = b.take_mail().unwrap();
        assert!(mail.everything && mail.written.is_empty() && mail.protected.is_empty());
        a.tell_written(0x5000, 1);
        assert_eq!(b.take_mail().unwrap().written, [(0x5000, 1)]);
    }
}
