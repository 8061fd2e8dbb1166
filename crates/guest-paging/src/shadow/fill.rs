//! Filling what an access needs, and giving up what nothing needs.

use super::engine::{Cause, Guest, Shadow, Step, index, shift};
use super::entry::{ALL_RIGHTS, ShadowEntry};
use super::path::Path;
use super::shape::Shape;
use super::sink::{MachineMap, ShadowSink};
use super::store::{ENTRIES, EntryId, Kind, NONE, Role, TableId};
use crate::x86::spec::{DIRTY, WRITE};
use crate::x86::{Access, AccessKind, Attributes, Translation};
use crate::{Gpa, Gva, TableMemory};

/// A page that the guest maps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) gfn: u32,
    /// As entry bits; W only if the guest's leaf is dirty.
    pub(super) rights: u64,
    pub(super) key: u8,
}

impl<S: ShadowSink> Shadow<S> {
    /// Fills the way to a translated address. An error is why the access must be emulated instead.
    pub(super) fn fill<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        gva: Gva,
        access: Access,
        translation: &Translation,
        path: &Path,
    ) -> Result<(), Cause> {
        let root = self.root_for(guest)?;
        let shape = Shape::of(guest.context);
        let (top, leaf) = (shape.top(), path.leaf_level());
        if (leaf..=top).any(|level| self.gfn(path.table(level)).is_none()) {
            return Err(Cause::TableOutside);
        }
        let gfn = self.gfn(translation.gpa).ok_or(Cause::Device)?;
        let block = guest.map.block(translation.gpa).ok_or(Cause::Device)?;
        self.make_room();
        let table = self.descend(guest, gva, root, path, shape);
        if self.store.frame(gfn).access_traces != 0 && self.keeps(Step::HideTraced) {
            return Err(Cause::Trace);
        }
        if access.kind == AccessKind::Write {
            if !block.writable {
                return Err(Cause::ReadOnly);
            }
            if !translation.attributes.contains(Attributes::WRITE) {
                return Err(Cause::WriteProtectOff);
            }
            self.permit_write(gfn)?;
        }
        let page = Page {
            gfn,
            rights: self.writable_if_dirty(path.entry(leaf)),
            key: translation.key,
        };
        self.fill_page(guest, gva, table, leaf, page);
        self.counters.fills += 1;
        Ok(())
    }

    fn root_for<M, P>(&self, guest: Guest<'_, M, P>) -> Result<TableId, Cause> {
        let slot = self.current.ok_or(Cause::TableOutside)?;
        let root = self.roots[slot].expect("the root in force");
        let loaded = guest.context.root().0 >> 12;
        let role = self.store.table(root.table).role;
        assert_eq!(u64::from(role.gfn), loaded, "CR3 changed without a switch");
        Ok(root.table)
    }

    /// W where the guest's leaf is not dirty yet would let a write go unmarked.
    pub(super) fn writable_if_dirty(&self, leaf: u64) -> u64 {
        if leaf & DIRTY != 0 || !self.keeps(Step::DirtyBeforeWritable) {
            leaf
        } else {
            leaf & !WRITE
        }
    }

    /// Links the tables down to the one that has the guest's leaf.
    fn descend<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        gva: Gva,
        root: TableId,
        path: &Path,
        shape: Shape,
    ) -> TableId {
        let mut table = root;
        self.store.table_mut(table).writes = 0;
        let top = self.store.table(root).role.level;
        for level in (path.leaf_level() + 1..=top).rev() {
            let child = Role {
                gfn: self
                    .gfn(path.table(level - 1))
                    .expect("checked by the caller"),
                level: level - 1,
                kind: Kind::Guest {
                    quadrant: shape.quadrant(gva, level - 1),
                },
            };
            let rights = if level <= shape.top() && self.keeps(Step::RightsOfTables) {
                path.entry(level)
            } else {
                ALL_RIGHTS
            };
            let id = EntryId::new(table, index(gva, level));
            table = self.link(guest, id, child, rights);
            self.store.table_mut(table).writes = 0;
        }
        table
    }

    /// Maps the page in `table`, whose entries have the guest leaf's `level`: at once, or in pieces.
    fn fill_page<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        gva: Gva,
        mut table: TableId,
        mut level: u8,
        mut page: Page,
    ) {
        let splintered = level;
        loop {
            let id = EntryId::new(table, index(gva, level));
            if level == 1 {
                if let Some(entry) = self.page_entry(guest, page) {
                    self.set_page(id, entry, page.gfn);
                }
                break;
            }
            if let Some(entry) = self.large_entry(guest, level, page) {
                self.set_page(id, entry, page.gfn / ENTRIES);
                return;
            }
            let frames = 1 << (shift(level) - 12);
            let child = Role {
                gfn: page.gfn & !(frames - 1),
                level: level - 1,
                kind: Kind::Direct { key: page.key },
            };
            table = self.link(guest, id, child, page.rights);
            page.rights = ALL_RIGHTS;
            level -= 1;
        }
        if splintered != 1 {
            self.counters.splinters += 1;
        }
    }

    /// The entry of level 1 that maps a page as far as it may be.
    pub(super) fn page_entry<M, P: MachineMap>(
        &self,
        guest: Guest<'_, M, P>,
        page: Page,
    ) -> Option<ShadowEntry> {
        let frame = self.store.frame(page.gfn);
        if frame.access_traces != 0 && self.keeps(Step::HideTraced) {
            return None;
        }
        let block = guest.map.block(Gpa(u64::from(page.gfn) << 12))?;
        let protected = frame.is_write_protected() && self.keeps(Step::ProtectFill);
        let rights = if block.writable && !protected {
            page.rights
        } else {
            page.rights & !WRITE
        };
        Some(ShadowEntry::page(block.frame, rights, page.key, false))
    }

    /// The entry of level 2 that maps 2 MiB, if nothing stands in its way.
    fn large_entry<M, P: MachineMap>(
        &self,
        guest: Guest<'_, M, P>,
        level: u8,
        page: Page,
    ) -> Option<ShadowEntry> {
        let first = page.gfn & !(ENTRIES - 1);
        let whole = first + ENTRIES <= self.store.frame_count();
        let protected =
            self.store.region(page.gfn).protected != 0 && self.keeps(Step::SplinterProtected);
        if level != 2 || !self.config.large_pages || !whole || protected {
            return None;
        }
        let block = guest.map.block(Gpa(u64::from(first) << 12))?;
        let rights = if block.writable {
            page.rights
        } else {
            page.rights & !WRITE
        };
        block
            .large
            .then(|| ShadowEntry::page(block.frame, rights, page.key, true))
    }

    /// Makes `id` reference the table of `role`, which is made if there is none.
    fn link<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        id: EntryId,
        role: Role,
        rights: u64,
    ) -> TableId {
        let old = self.store.entry(id);
        if old.is_present() && !old.is_page(role.level + 1) {
            let child = old.child();
            if self.store.table(child).role == role {
                self.rewrite(id, ShadowEntry::table(child, rights));
                return child;
            }
        }
        if old.is_present() {
            self.clear(id);
        }
        let child = self.obtain(guest, role);
        let entry = ShadowEntry::table(child, rights);
        self.store.insert(id, entry, child.0);
        self.sink.write_entry(id.table(), id.index(), entry);
        self.counters.links += 1;
        child
    }

    /// Makes `id` map a page of the frame or region `of`.
    pub(super) fn set_page(&mut self, id: EntryId, entry: ShadowEntry, of: u32) {
        let level = self.store.table(id.table()).role.level;
        let old = self.store.entry(id);
        if old.is_page(level) && self.store.target(id) == of {
            self.rewrite(id, entry);
            return;
        }
        if old.is_present() {
            self.clear(id);
        }
        self.store.insert(id, entry, of);
        self.sink.write_entry(id.table(), id.index(), entry);
    }

    /// Changes the rights of a present entry, or the place of its frame in the machine.
    pub(super) fn rewrite(&mut self, id: EntryId, entry: ShadowEntry) {
        let old = self.store.entry(id);
        if old == entry {
            return;
        }
        if !old.is_within(entry) {
            self.note_entry(id);
        }
        self.store.rewrite(id, entry);
        self.sink.write_entry(id.table(), id.index(), entry);
    }

    /// Makes a present entry absent, and frees the table that it was the last to reference.
    pub(super) fn clear(&mut self, id: EntryId) {
        self.note_entry(id);
        let level = self.store.table(id.table()).role.level;
        let old = self.store.remove(id);
        self.sink
            .write_entry(id.table(), id.index(), ShadowEntry::ABSENT);
        if !old.is_page(level) {
            self.free_orphan(old.child());
        }
    }

    /// The table of `role`, in step with the guest's: another way to it has no TLB entries that could
    /// excuse it.
    pub(super) fn obtain<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        role: Role,
    ) -> TableId {
        let found = self.store.find(role);
        if role.is_guest() && self.keeps(Step::ResyncOnLink) {
            self.resync_frame(guest, role.gfn);
        }
        found.unwrap_or_else(|| self.create(role))
    }

    fn create(&mut self, role: Role) -> TableId {
        let table = self.store.create(role);
        if role.is_guest() {
            self.change_protection(role.gfn, |frame| frame.synced_tables += 1);
        }
        table
    }

    /// Frees a table that neither an entry nor a root references, and what only it references. At
    /// most as deep as there are levels.
    pub(super) fn free_orphan(&mut self, id: TableId) {
        let table = *self.store.table(id);
        if table.parents != NONE || table.roots != 0 || !self.keeps(Step::FreeOrphan) {
            return;
        }
        self.empty(id);
        if table.unsync {
            self.unsync.retain(|&other| other != id);
        } else if table.role.is_guest() {
            self.change_protection(table.role.gfn, |frame| frame.synced_tables -= 1);
        }
        self.store.release(id);
    }

    /// Makes all entries of a table absent.
    pub(super) fn empty(&mut self, id: TableId) {
        for index in 0..ENTRIES {
            if self.store.table(id).present == 0 {
                break;
            }
            let entry = EntryId::new(id, index);
            if self.store.entry(entry).is_present() {
                self.clear(entry);
            }
        }
    }
}
