//! Frames that the guest must not write to, or not touch, without an exit.

use std::ops::Range;

use super::engine::{Cause, Shadow, Step};
use super::policy::SyncPolicy;
use super::sink::ShadowSink;
use super::store::{EntryId, Frame, NONE, TableId};
use crate::Gpa;

/// Which accesses to a page end in an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trace {
    /// Reads, writes and fetches: the page's entries are absent.
    ReadWrite,
    /// Writes: the page's entries are read-only.
    Write,
}

/// Why a range cannot be traced, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TraceError {
    /// The range reaches beyond [`Config::frames`](super::Config::frames), where all accesses are
    /// emulated anyhow.
    #[error("no frames are kept from {0} on")]
    Outside(Gpa),
    /// 65,535 traces of the kind lie on one page.
    #[error("too many traces on the page at {0}")]
    TooMany(Gpa),
    /// There is no trace of the kind to take away.
    #[error("no trace of the kind on the page at {0}")]
    NotTraced(Gpa),
}

impl<S: ShadowSink> Shadow<S> {
    /// Traces every page that has a byte in `range`, once more. Traces are counted.
    ///
    /// # Errors
    ///
    /// Traces nothing if a page of the range cannot be traced.
    pub fn trace(&mut self, range: Range<Gpa>, kind: Trace) -> Result<(), TraceError> {
        let pages = self.pages(&range)?;
        for gfn in pages.clone() {
            if *traces(self.store.frame_mut(gfn), kind) == u16::MAX {
                return Err(TraceError::TooMany(Gpa(u64::from(gfn) << 12)));
            }
        }
        for gfn in pages {
            self.change_protection(gfn, |frame| *traces(frame, kind) += 1);
            if kind == Trace::ReadWrite {
                self.unmap(gfn);
            }
        }
        self.flush();
        Ok(())
    }

    /// Takes away one trace of every page that has a byte in `range`. Their entries come back at the
    /// next access.
    ///
    /// # Errors
    ///
    /// Takes away nothing if a page of the range is not traced so.
    pub fn untrace(&mut self, range: Range<Gpa>, kind: Trace) -> Result<(), TraceError> {
        let pages = self.pages(&range)?;
        for gfn in pages.clone() {
            if *traces(self.store.frame_mut(gfn), kind) == 0 {
                return Err(TraceError::NotTraced(Gpa(u64::from(gfn) << 12)));
            }
        }
        for gfn in pages {
            self.change_protection(gfn, |frame| *traces(frame, kind) -= 1);
        }
        Ok(())
    }

    /// Forgets where the pages of `range` lie in the machine: before one moves, is swapped out or
    /// becomes read-only.
    pub fn machine_changed(&mut self, range: Range<Gpa>) {
        if let Ok(pages) = self.pages(&range)
            && self.keeps(Step::ForgetMoved)
        {
            for gfn in pages {
                self.unmap(gfn);
            }
        }
        self.flush();
    }

    fn pages(&self, range: &Range<Gpa>) -> Result<Range<u32>, TraceError> {
        let first = range.start.0 >> 12;
        let end = range.end.0.div_ceil(4096);
        let frames = u64::from(self.store.frame_count());
        if end > frames {
            return Err(TraceError::Outside(Gpa(frames << 12)));
        }
        let number = |page: u64| u32::try_from(page).expect("at most the count of frames");
        Ok(number(first.min(end))..number(end))
    }

    /// Lets a write through to a frame that nothing but its being a level 1 table forbids, if tables
    /// may get out of step: then all shadows of that table do.
    pub(super) fn permit_write(&mut self, gfn: u32) -> Result<(), Cause> {
        let frame = self.store.frame(gfn);
        if !self.keeps(Step::ProtectFill) {
            return Ok(());
        }
        if frame.write_traces != 0 || frame.access_traces != 0 {
            return Err(Cause::Trace);
        }
        if frame.synced_tables == 0 {
            return Ok(());
        }
        let mut synced = self.store.tables_of(gfn).filter(|&id| self.is_in_step(id));
        let above = synced.any(|id| self.store.table(id).role.level != 1);
        drop(synced);
        if above || self.config.sync == SyncPolicy::WriteProtect {
            return Err(Cause::GuestTable);
        }
        while let Some(table) = self.table_in_step(gfn) {
            self.store.table_mut(table).unsync = true;
            self.unsync.push(table);
            self.counters.unsyncs += 1;
            self.change_protection(gfn, |frame| frame.synced_tables -= 1);
        }
        Ok(())
    }

    fn is_in_step(&self, id: TableId) -> bool {
        let table = self.store.table(id);
        table.role.is_guest() && !table.unsync
    }

    fn table_in_step(&self, gfn: u32) -> Option<TableId> {
        self.store.tables_of(gfn).find(|&id| self.is_in_step(id))
    }

    /// Changes the reasons for a frame's protection, and protects it if there was none before.
    pub(super) fn change_protection(&mut self, gfn: u32, change: impl FnOnce(&mut Frame)) {
        let frame = self.store.frame_mut(gfn);
        let before = frame.is_write_protected();
        change(frame);
        match (before, frame.is_write_protected()) {
            (false, true) => {
                self.store.region_mut(gfn).protected += 1;
                self.splinter(gfn);
                if self.keeps(Step::ProtectNewTable) {
                    self.protect(gfn);
                }
            }
            (true, false) => self.store.region_mut(gfn).protected -= 1,
            _ => {}
        }
    }

    fn protect(&mut self, gfn: u32) {
        let mut next = self.store.frame(gfn).maps;
        while next != NONE {
            let id = EntryId(next);
            next = self.store.next(id);
            let entry = self.store.entry(id);
            if entry.is_writable() {
                self.rewrite(id, entry.read_only());
                self.counters.protections += 1;
            }
        }
    }

    /// Makes every entry absent that maps the frame.
    fn unmap(&mut self, gfn: u32) {
        self.splinter(gfn);
        while self.store.frame(gfn).maps != NONE {
            self.clear(EntryId(self.store.frame(gfn).maps));
            self.counters.protections += 1;
        }
    }

    /// Makes every large page absent that the frame lies in; it comes back in pieces if the frame is
    /// protected.
    fn splinter(&mut self, gfn: u32) {
        while self.store.region(gfn).maps != NONE && self.keeps(Step::SplinterProtected) {
            self.clear(EntryId(self.store.region(gfn).maps));
            self.counters.protections += 1;
        }
    }
}

fn traces(frame: &mut Frame, kind: Trace) -> &mut u16 {
    match kind {
        Trace::ReadWrite => &mut frame.access_traces,
        Trace::Write => &mut frame.write_traces,
    }
}
