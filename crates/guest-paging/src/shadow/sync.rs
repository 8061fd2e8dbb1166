//! Following what the guest writes to its tables.

use super::engine::{Guest, Shadow, Step};
use super::entry::ShadowEntry;
use super::fill::Page;
use super::policy::WritePolicy;
use super::shape::{Shape, Target};
use super::sink::{MachineMap, ShadowSink};
use super::store::{ENTRIES, EntryId, Kind, NONE, Role, TableId};
use crate::x86::Context;
use crate::x86::spec::ACCESSED;
use crate::{Gpa, TableMemory};

impl<S: ShadowSink> Shadow<S> {
    /// Takes notice of `size` bytes written at `gpa`, after the emulation of a write that trapped.
    pub fn entry_written<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        gpa: Gpa,
        size: u64,
    ) {
        let end = gpa.0.saturating_add(size);
        let mut at = gpa.0;
        while let Some(gfn) = self.gfn(Gpa(at))
            && at < end
        {
            let page_end = (at | 0xfff) + 1;
            self.frame_written(guest, gfn, at & 0xfff, page_end.min(end) - at);
            at = page_end;
        }
        self.flush();
    }

    /// Takes notice of a write that is announced instead of trapping: by a translator that found the
    /// instruction which writes page-table entries, or by a device that writes to memory.
    pub fn announce_write<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        gpa: Gpa,
        size: u64,
    ) {
        self.counters.announced_writes += 1;
        self.entry_written(guest, gpa, size);
    }

    fn frame_written<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        gfn: u32,
        offset: u64,
        size: u64,
    ) {
        // A refreshed entry may free a table of this very frame, so the list is taken first.
        let shape = Shape::of(guest.context);
        let mut tables = [None; SHADOWS_MAX];
        let shadows = self.store.tables_of(gfn);
        let shadows = shadows.filter(|&id| self.store.table(id).role.is_guest());
        for (slot, id) in tables.iter_mut().zip(shadows) {
            *slot = Some((id, self.store.table(id).role));
        }
        for (table, role) in tables.into_iter().flatten() {
            let followed = self.counters.updates;
            let mut entries = shape.entries(role, offset, offset + size - 1);
            if !self.keeps(Step::FollowBothHalves) {
                entries.end = entries.end.min(entries.start + 1);
            }
            if entries.is_empty() {
                continue;
            }
            for index in entries {
                let now = self.store.table(table);
                if now.live && now.role == role && self.keeps(Step::RefreshWritten) {
                    let follow = self.config.writes == WritePolicy::Update;
                    self.refresh(guest, EntryId::new(table, index), follow);
                }
            }
            // An entry that followed counts as used: its access will cause no exit to be seen by.
            if self.counters.updates == followed {
                self.count_write(table, role);
            }
        }
    }

    /// Gives a table up that is written to again and again and never used.
    fn count_write(&mut self, id: TableId, role: Role) {
        let table = self.store.table_mut(id);
        if !table.live || table.role != role {
            return;
        }
        table.writes = table.writes.saturating_add(1);
        if self.config.flood_writes == 0 || table.writes <= self.config.flood_writes {
            return;
        }
        self.counters.floods += 1;
        self.give_up(id);
    }

    fn give_up(&mut self, id: TableId) {
        let in_force = self.current.and_then(|slot| self.roots[slot]);
        if in_force.is_some_and(|root| root.table == id) {
            return;
        }
        // As long as a root references it, the table outlives its last parent.
        while self.store.table(id).parents != NONE {
            let last = self.store.next(EntryId(self.store.table(id).parents)) == NONE;
            let freed = last && self.store.table(id).roots == 0;
            self.clear(EntryId(self.store.table(id).parents));
            if freed {
                return;
            }
        }
        for slot in 0..self.roots.len() {
            if self.roots[slot].is_some_and(|root| root.table == id) {
                self.drop_root(slot);
            }
        }
    }

    /// Brings one entry into step with the guest's. An absent one stays so unless it is to `follow`.
    pub(super) fn refresh<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        id: EntryId,
        follow: bool,
    ) {
        let old = self.store.entry(id);
        if !old.is_present() && !follow {
            return;
        }
        let role = self.store.table(id.table()).role;
        let level = role.level;
        let shape = Shape::of(guest.context);
        let entry = shape.load(guest.memory, id, role).unwrap_or(0);
        let shadow = match shape.target(level, id.index(), entry) {
            Target::Page { gfn } if level == 1 => self.shadow_of_page(guest, entry, gfn),
            // Large pages are filled anew by the next access.
            Target::Page { .. } => None,
            Target::Table { gfn, quadrant } => {
                let child = (gfn, Kind::Guest { quadrant });
                self.shadow_of_table(guest.context, level, entry, old, child)
            }
        };
        match shadow {
            Some((shadow, of)) if level == 1 => {
                self.counters.updates += u64::from(old != shadow);
                self.set_page(id, shadow, of);
            }
            Some((shadow, _)) => self.rewrite(id, shadow),
            None if old.is_present() => {
                self.counters.zaps += 1;
                self.clear(id);
            }
            None => {}
        }
    }

    /// What a guest's entry of level 1 gives, and the frame that it maps.
    fn shadow_of_page<M: TableMemory, P: MachineMap>(
        &self,
        guest: Guest<'_, M, P>,
        entry: u64,
        gfn: u64,
    ) -> Option<(ShadowEntry, u32)> {
        let fit = if self.keeps(Step::AccessedBeforePresent) {
            entry
        } else {
            entry | ACCESSED
        };
        if !guest.context.is_valid_and_accessed(1, fit) {
            return None;
        }
        let page = Page {
            gfn: self.gfn(Gpa(gfn << 12))?,
            rights: self.writable_if_dirty(entry),
            key: guest.context.key_of(entry),
        };
        Some((self.page_entry(guest, page)?, page.gfn))
    }

    /// What becomes of `old` when the guest's entry of a higher level is `entry`, which references
    /// `child`: the same table with other rights, or nothing.
    fn shadow_of_table(
        &self,
        context: &Context,
        level: u8,
        entry: u64,
        old: ShadowEntry,
        child: (u64, Kind),
    ) -> Option<(ShadowEntry, u32)> {
        if !old.is_present() || old.is_page(level) {
            return None;
        }
        let table = old.child();
        let role = self.store.table(table).role;
        let same = (u64::from(role.gfn), role.kind) == child;
        (same && context.is_valid_and_accessed(level, entry))
            .then(|| (ShadowEntry::table(table, entry), table.0))
    }

    /// Brings every table into step.
    pub(super) fn resync_all<M: TableMemory, P: MachineMap>(&mut self, guest: Guest<'_, M, P>) {
        while let Some(&id) = self.unsync.last() {
            self.resync(guest, id);
        }
    }

    /// Brings a frame's tables into step, if they are not.
    pub(super) fn resync_frame<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        gfn: u32,
    ) {
        while let Some(id) = self.table_out_of_step(gfn) {
            self.resync(guest, id);
        }
    }

    fn table_out_of_step(&self, gfn: u32) -> Option<TableId> {
        let mut tables = self.store.tables_of(gfn);
        tables.find(|&id| self.store.table(id).unsync)
    }

    /// Protects a table again, then reads it.
    fn resync<M: TableMemory, P: MachineMap>(&mut self, guest: Guest<'_, M, P>, id: TableId) {
        let position = self.unsync.iter().rposition(|&other| other == id);
        self.unsync
            .swap_remove(position.expect("a table out of step"));
        self.counters.resyncs += 1;
        let table = self.store.table_mut(id);
        table.unsync = false;
        let gfn = table.role.gfn;
        self.change_protection(gfn, |frame| frame.synced_tables += 1);
        for index in 0..ENTRIES {
            self.refresh(guest, EntryId::new(id, index), false);
        }
    }
}

/// Tables of the guest that stand for a frame: one for each of 5 levels, or in 32-bit paging 4 quarters
/// and 2 halves.
const SHADOWS_MAX: usize = 6;
