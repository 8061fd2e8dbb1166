//! The rules that a shadow keeps, checked entry by entry.
//!
//! Slow and independent of the engine's steps: it looks only at what they left behind. Meant to be
//! run after every step of a test.

use super::engine::{Guest, Shadow, shift};
use super::entry::{ALL_RIGHTS, RIGHTS, ShadowEntry};
use super::shape::{Shape, Target};
use super::sink::MachineMap;
use super::store::{ENTRIES, EntryId, Kind, NONE, Role, TableId};
use crate::x86::spec::{DIRTY, NO_EXECUTE, WRITE};
use crate::x86::{self, Access, AccessKind, Attributes, Privilege};
use crate::{Gpa, Gva, TableMemory};

/// A rule that does not hold. `table` and `index` name an entry of the shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The entry is not in the list of what it leads to, or a list has one that is not there.
    #[error("the reverse map does not know entry {index} of {table:?} as it is")]
    ReverseMap {
        /// The table.
        table: TableId,
        /// The entry.
        index: u32,
    },
    /// A count kept beside the entries is wrong.
    #[error("a count of {table:?} is wrong")]
    Count {
        /// The table, or one that stands for the frame.
        table: TableId,
    },
    /// Nothing references the table, or something that is free.
    #[error("{table:?} is in use but not referenced, or referenced but not in use")]
    Unreferenced {
        /// The table.
        table: TableId,
    },
    /// A writable entry maps a frame that is write-protected.
    #[error("entry {index} of {table:?} lets the guest write to a protected frame")]
    Writable {
        /// The table.
        table: TableId,
        /// The entry.
        index: u32,
    },
    /// An entry maps a frame whose every access is traced.
    #[error("entry {index} of {table:?} maps a frame traced for reads")]
    Traced {
        /// The table.
        table: TableId,
        /// The entry.
        index: u32,
    },
    /// The entry does not follow from the guest's and the machine map.
    #[error("entry {index} of {table:?} grants what the guest's does not")]
    NotSubset {
        /// The table.
        table: TableId,
        /// The entry.
        index: u32,
    },
    /// The page is mapped where the machine map does not have it.
    #[error("entry {index} of {table:?} leads to another place in the machine")]
    Misplaced {
        /// The table.
        table: TableId,
        /// The entry.
        index: u32,
    },
    /// A table is out of step though its frame is shadowed at a higher level too.
    #[error("{table:?} is out of step though another shadow relies on its frame")]
    Unsync {
        /// The table.
        table: TableId,
    },
    /// The shadow translates an address as the guest's tables do not.
    #[error("the shadow of {gva} grants what a walk does not")]
    Translation {
        /// The address.
        gva: Gva,
    },
}

impl<S: super::ShadowSink> Shadow<S> {
    /// Checks all rules: the shadow is a subset of the guest's tables composed with the machine map,
    /// wherever a table is in step; no protected frame is writable and no traced one mapped; the
    /// reverse map is exact; nothing is lost.
    ///
    /// # Errors
    ///
    /// Returns a rule that does not hold.
    pub fn check<M: TableMemory, P: MachineMap>(
        &self,
        guest: Guest<'_, M, P>,
    ) -> Result<(), Violation> {
        self.check_lists()?;
        self.check_frames()?;
        for table in self.store.live_tables() {
            self.check_table(table)?;
            for entry in self.store.present_entries(table) {
                self.check_entry(guest, entry)?;
            }
        }
        Ok(())
    }

    /// Checks that the shadow grants at `gva` no more than a walk from scratch does: so it must be
    /// after the guest has flushed the address.
    ///
    /// # Errors
    ///
    /// Returns [`Violation::Translation`].
    pub fn check_address<M: TableMemory, P: MachineMap>(
        &self,
        guest: Guest<'_, M, P>,
        gva: Gva,
    ) -> Result<(), Violation> {
        let Some(shadow) = self.lookup(gva) else {
            return Ok(());
        };
        // CR0.WP and SMAP do not matter to the shadow's entries: ask for the rights alone.
        let read = Access::new(AccessKind::Read, Privilege::Supervisor).with_ac(true);
        let walked = x86::probe(guest.memory, guest.context, gva, read, &mut ());
        let allowed = walked.is_ok_and(|guest_page| {
            let has = |right| guest_page.attributes.contains(right);
            let block = guest.map.block(guest_page.gpa);
            let place = block.map(|block| block.frame.0 | gva.0 & 0xfff);
            place == Some(shadow.hpa.0)
                && (!shadow.writable || has(Attributes::WRITE | Attributes::DIRTY))
                && (!shadow.user || has(Attributes::USER))
                && (!shadow.executable || has(Attributes::EXECUTE))
                && shadow.key == guest_page.key
        });
        if allowed {
            Ok(())
        } else {
            Err(Violation::Translation { gva })
        }
    }

    /// Every node of every list is a present entry that leads there, and all present entries are
    /// nodes.
    fn check_lists(&self) -> Result<(), Violation> {
        let tables = self.store.live_tables();
        let present: usize = tables
            .map(|table| self.store.present_entries(table).count())
            .sum();
        let mut listed = 0;
        for gfn in 0..self.store.frame_count() {
            listed += self.check_list(self.store.frame(gfn).maps, gfn, true)?;
            if gfn % ENTRIES == 0 {
                listed += self.check_list(self.store.region(gfn).maps, gfn / ENTRIES, true)?;
            }
        }
        for table in self.store.live_tables() {
            listed += self.check_list(self.store.table(table).parents, table.0, false)?;
        }
        if listed == present {
            Ok(())
        } else {
            Err(Violation::ReverseMap {
                table: TableId(NONE),
                index: 0,
            })
        }
    }

    fn check_list(&self, head: u32, of: u32, pages: bool) -> Result<usize, Violation> {
        let mut count = 0;
        for id in self.store.list(head) {
            let table = self.store.table(id.table());
            let entry = self.store.entry(id);
            let right_kind = entry.is_present() && entry.is_page(table.role.level) == pages;
            // A list that bites its own tail is longer than all entries.
            let endless = count > self.store.tables_max() as usize * ENTRIES as usize;
            if !table.live || !right_kind || self.store.target(id) != of || endless {
                return Err(reverse_map(id));
            }
            count += 1;
        }
        Ok(count)
    }

    fn check_frames(&self) -> Result<(), Violation> {
        let mut protected = 0;
        for gfn in 0..self.store.frame_count() {
            let frame = self.store.frame(gfn);
            let synced = self.store.tables_of(gfn).filter(|&id| {
                let table = self.store.table(id);
                table.live && table.role.is_guest() && !table.unsync
            });
            if synced.count() != usize::from(frame.synced_tables) {
                let table = TableId(frame.tables);
                return Err(Violation::Count { table });
            }
            protected += u32::from(frame.is_write_protected());
            if gfn % ENTRIES == ENTRIES - 1 || gfn + 1 == self.store.frame_count() {
                if protected != u32::from(self.store.region(gfn).protected) {
                    let table = TableId(frame.tables);
                    return Err(Violation::Count { table });
                }
                protected = 0;
            }
        }
        Ok(())
    }

    fn check_table(&self, id: TableId) -> Result<(), Violation> {
        let table = self.store.table(id);
        let roots = self.roots.iter().flatten();
        let named = roots.filter(|root| root.table == id).count();
        if named != usize::from(table.roots) {
            return Err(Violation::Count { table: id });
        }
        let referenced = table.parents != NONE || table.roots != 0;
        let kept = self.store.tables_of(table.role.gfn).any(|of| of == id);
        if !referenced || !kept {
            return Err(Violation::Unreferenced { table: id });
        }
        if table.unsync != self.unsync.contains(&id) {
            return Err(Violation::Count { table: id });
        }
        let relied_on = self.store.frame(table.role.gfn).synced_tables != 0;
        if table.unsync && (relied_on || table.role.level != 1) {
            return Err(Violation::Unsync { table: id });
        }
        Ok(())
    }

    fn check_entry<M: TableMemory, P: MachineMap>(
        &self,
        guest: Guest<'_, M, P>,
        id: EntryId,
    ) -> Result<(), Violation> {
        let table = self.store.table(id.table());
        let entry = self.store.entry(id);
        if entry.is_page(table.role.level) {
            self.check_protection(id)?;
            self.check_place(guest, id)?;
        } else if !self.store.table(entry.child()).live || entry.child().0 != self.store.target(id)
        {
            return Err(Violation::Unreferenced {
                table: entry.child(),
            });
        }
        let fits = match table.role.kind {
            Kind::Direct { key } => self.fits_large_page(id, table.role, key),
            Kind::Top { .. } => self.fits_top(guest, id, table.role),
            Kind::Guest { .. } if table.unsync => true,
            Kind::Guest { .. } => self.fits_guest_entry(guest, id, table.role),
        };
        if fits {
            Ok(())
        } else {
            Err(Violation::NotSubset {
                table: id.table(),
                index: id.index(),
            })
        }
    }

    fn check_protection(&self, id: EntryId) -> Result<(), Violation> {
        let (table, index) = (id.table(), id.index());
        let writable = self.store.entry(id).is_writable();
        for gfn in self.frames_of(id) {
            let frame = self.store.frame(gfn);
            if frame.access_traces != 0 {
                return Err(Violation::Traced { table, index });
            }
            if writable && frame.is_write_protected() {
                return Err(Violation::Writable { table, index });
            }
        }
        Ok(())
    }

    fn frames_of(&self, id: EntryId) -> std::ops::Range<u32> {
        let target = self.store.target(id);
        match self.store.table(id.table()).role.level {
            1 => target..target + 1,
            _ => target * ENTRIES..(target + 1) * ENTRIES,
        }
    }

    fn check_place<M, P: MachineMap>(
        &self,
        guest: Guest<'_, M, P>,
        id: EntryId,
    ) -> Result<(), Violation> {
        let entry = self.store.entry(id);
        let frames = self.frames_of(id);
        let first = frames.start;
        let right = frames.into_iter().all(|gfn| {
            let block = guest.map.block(Gpa(u64::from(gfn) << 12));
            block.is_some_and(|block| {
                block.frame.0 == entry.frame().0 + (u64::from(gfn - first) << 12)
                    && (!entry.is_writable() || block.writable)
            })
        });
        if right {
            Ok(())
        } else {
            Err(Violation::Misplaced {
                table: id.table(),
                index: id.index(),
            })
        }
    }

    /// An entry under a large page leads to its place in that page, with the page's key.
    fn fits_large_page(&self, id: EntryId, role: Role, key: u8) -> bool {
        let entry = self.store.entry(id);
        let gfn = role.gfn + id.index() * frames(role.level);
        if entry.is_page(role.level) {
            self.frames_of(id).start == gfn && entry.key() == key
        } else {
            self.is_splinter(entry, gfn, role.level, key)
        }
    }

    fn is_splinter(&self, entry: ShadowEntry, gfn: u32, level: u8, key: u8) -> bool {
        self.store.table(entry.child()).role
            == Role {
                gfn,
                level: level - 1,
                kind: Kind::Direct { key },
            }
    }

    /// An entry of a root that no table of the guest has leads to a page directory, and if the root is
    /// in force to that which the registers name.
    fn fits_top<M, P>(&self, guest: Guest<'_, M, P>, id: EntryId, role: Role) -> bool {
        let entry = self.store.entry(id);
        let in_force = self.current.and_then(|slot| self.roots[slot]);
        let named = in_force.is_none_or(|root| root.table != id.table())
            || self.leads_to(entry, Shape::of(guest.context).top_target(role, id.index()));
        let child = self.store.table(entry.child()).role;
        !entry.is_page(role.level) && child.is_guest() && child.level == role.level - 1 && named
    }

    /// An entry of a table in step leads where the guest's does, and grants no more.
    fn fits_guest_entry<M: TableMemory, P>(
        &self,
        guest: Guest<'_, M, P>,
        id: EntryId,
        role: Role,
    ) -> bool {
        let shape = Shape::of(guest.context);
        let Ok(theirs) = shape.load(guest.memory, id, role) else {
            return false;
        };
        let ours = self.store.entry(id);
        let target = shape.target(role.level, id.index(), theirs);
        let mut rights = theirs;
        if matches!(target, Target::Page { .. }) && theirs & DIRTY == 0 {
            rights &= !WRITE;
        }
        let granted = (ours.bits() ^ NO_EXECUTE) & RIGHTS & !(rights ^ NO_EXECUTE);
        if granted != 0 || !guest.context.is_valid_and_accessed(role.level, theirs) {
            return false;
        }
        match target {
            Target::Table { .. } => {
                !ours.is_page(role.level)
                    && self.store.table(ours.child()).role.level == role.level - 1
                    && self.leads_to(ours, Some(target))
            }
            Target::Page { gfn } => {
                let key = guest.context.key_of(theirs);
                if ours.is_page(role.level) {
                    u64::from(self.frames_of(id).start) == gfn && ours.key() == key
                } else {
                    u32::try_from(gfn).is_ok_and(|gfn| self.is_splinter(ours, gfn, role.level, key))
                }
            }
        }
    }
}

fn reverse_map(id: EntryId) -> Violation {
    Violation::ReverseMap {
        table: id.table(),
        index: id.index(),
    }
}

/// Frames that an entry of a level covers.
fn frames(level: u8) -> u32 {
    1 << (shift(level) - 12)
}

const _: () = assert!(ALL_RIGHTS & !RIGHTS == 0);
