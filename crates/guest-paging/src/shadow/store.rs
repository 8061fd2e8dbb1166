//! The shadow tables, and the lists that lead back to their entries.
//!
//! Everything lies in arrays that are allocated once. Each entry of each table is a node of at most
//! one list: of the entries that map a frame, of those that map a large page of a region, or of those
//! that reference a table.

use super::entry::ShadowEntry;

/// A shadow table's number, below [`Config::tables_max`](super::Config::tables_max).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

/// What a shadow table stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Role {
    /// The guest's table, or the first frame of the guest's large page.
    pub(super) gfn: u32,
    /// Level of the table's entries.
    pub(super) level: u8,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Shadows a table of the guest, or that part of one in 32-bit paging.
    Guest { quadrant: u8 },
    /// A root of PAE or 32-bit paging; `slot` is bits 11:5 of CR3.
    Top { slot: u8 },
    /// Splinters a large page of the guest that has this protection key.
    Direct { key: u8 },
}

impl Role {
    /// Whether writes to the frame concern the table.
    pub(super) fn is_guest(self) -> bool {
        matches!(self.kind, Kind::Guest { .. })
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) role: Role,
    pub(super) live: bool,
    /// The guest may write its table unseen; the shadow is as of the last synchronisation.
    pub(super) unsync: bool,
    /// Root slots that name the table.
    pub(super) roots: u16,
    /// Guest writes to the table since an access last went through it.
    pub(super) writes: u16,
    pub(super) present: u16,
    /// First of the entries that reference the table.
    pub(super) parents: u32,
    /// The other tables of the same frame.
    next_of_frame: u32,
}

/// A guest frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// First of the entries that map it with 4 KiB.
    pub(super) maps: u32,
    /// First of the shadow tables that stand for it.
    pub(super) tables: u32,
    /// Shadow tables that rely on the frame not being written.
    pub(super) synced_tables: u16,
    pub(super) write_traces: u16,
    pub(super) access_traces: u16,
}

/// 512 frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    /// First of the entries that map it with 2 MiB.
    pub(super) maps: u32,
    /// Frames in it that must not be writable.
    pub(super) protected: u16,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    prev: u32,
    /// Which list: a frame, a region or a table, as the entry's kind says.
    of: u32,
}

/// An entry: its table times 512, and its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryId(pub(super) u32);

impl EntryId {
    pub(super) fn new(table: TableId, index: u32) -> Self {
        Self(table.0 * ENTRIES + index)
    }

    pub(super) fn table(self) -> TableId {
        TableId(self.0 / ENTRIES)
    }

    pub(super) fn index(self) -> u32 {
        self.0 % ENTRIES
    }

    fn at(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Debug)]
pub(super) struct Store {
    entries: Vec<ShadowEntry>,
    links: Vec<Link>,
    tables: Vec<Table>,
    free: Vec<TableId>,
    frames: Vec<Frame>,
    regions: Vec<Region>,
}

impl Store {
    pub(super) fn new(tables_max: u32, frames: u32) -> Self {
        let entries = (tables_max * ENTRIES) as usize;
        let table = Table {
            role: Role {
                gfn: 0,
                level: 0,
                kind: Kind::Top { slot: 0 },
            },
            live: false,
            unsync: false,
            roots: 0,
            writes: 0,
            present: 0,
            parents: NONE,
            next_of_frame: NONE,
        };
        let frame = Frame {
            maps: NONE,
            tables: NONE,
            synced_tables: 0,
            write_traces: 0,
            access_traces: 0,
        };
        let region = Region {
            maps: NONE,
            protected: 0,
        };
        Self {
            entries: vec![ShadowEntry::ABSENT; entries],
            links: vec![
                Link {
                    next: 0,
                    prev: 0,
                    of: 0
                };
                entries
            ],
            tables: vec![table; tables_max as usize],
            free: (0..tables_max).rev().map(TableId).collect(),
            frames: vec![frame; frames as usize],
            regions: vec![region; frames.div_ceil(ENTRIES) as usize],
        }
    }

    pub(super) fn tables_max(&self) -> u32 {
        u32::try_from(self.tables.len()).expect("made from a u32")
    }

    pub(super) fn free_tables(&self) -> u32 {
        u32::try_from(self.free.len()).expect("at most all tables")
    }

    pub(super) fn frame_count(&self) -> u32 {
        u32::try_from(self.frames.len()).expect("made from a u32")
    }

    #[inline]
    pub(super) fn table(&self, id: TableId) -> &Table {
        &self.tables[id.0 as usize]
    }

    #[inline]
    pub(super) fn table_mut(&mut self, id: TableId) -> &mut Table {
        &mut self.tables[id.0 as usize]
    }

    #[inline]
    pub(super) fn frame(&self, gfn: u32) -> &Frame {
        &self.frames[gfn as usize]
    }

    #[inline]
    pub(super) fn frame_mut(&mut self, gfn: u32) -> &mut Frame {
        &mut self.frames[gfn as usize]
    }

    #[inline]
    pub(super) fn region(&self, gfn: u32) -> &Region {
        &self.regions[(gfn / ENTRIES) as usize]
    }

    #[inline]
    pub(super) fn region_mut(&mut self, gfn: u32) -> &mut Region {
        &mut self.regions[(gfn / ENTRIES) as usize]
    }

    #[inline]
    pub(super) fn entry(&self, id: EntryId) -> ShadowEntry {
        self.entries[id.at()]
    }

    /// The frame, region or table that a present entry leads to.
    pub(super) fn target(&self, id: EntryId) -> u32 {
        self.links[id.at()].of
    }

    /// Overwrites a present entry by one that leads to the same place.
    pub(super) fn rewrite(&mut self, id: EntryId, entry: ShadowEntry) {
        self.entries[id.at()] = entry;
    }

    /// Writes a present `entry` over one that is not, and puts it into the list of its target.
    pub(super) fn insert(&mut self, id: EntryId, entry: ShadowEntry, of: u32) {
        debug_assert!(!self.entry(id).is_present() && entry.is_present());
        self.entries[id.at()] = entry;
        let head = std::mem::replace(self.head(id, entry, of), id.0);
        self.links[id.at()] = Link {
            next: head,
            prev: NONE,
            of,
        };
        if head != NONE {
            self.links[head as usize].prev = id.0;
        }
        self.table_mut(id.table()).present += 1;
    }

    /// Makes a present entry absent, and takes it out of its list.
    pub(super) fn remove(&mut self, id: EntryId) -> ShadowEntry {
        let entry = std::mem::take(&mut self.entries[id.at()]);
        let Link { next, prev, of } = self.links[id.at()];
        if prev == NONE {
            *self.head(id, entry, of) = next;
        } else {
            self.links[prev as usize].next = next;
        }
        if next != NONE {
            self.links[next as usize].prev = prev;
        }
        self.table_mut(id.table()).present -= 1;
        entry
    }

    fn head(&mut self, id: EntryId, entry: ShadowEntry, of: u32) -> &mut u32 {
        match self.table(id.table()).role.level {
            1 => &mut self.frames[of as usize].maps,
            level if entry.is_page(level) => &mut self.regions[of as usize].maps,
            _ => &mut self.tables[of as usize].parents,
        }
    }

    /// The entries of a list, from its `head`.
    pub(super) fn list(&self, head: u32) -> impl Iterator<Item = EntryId> + '_ {
        std::iter::successors(some(head), |&id| some(self.links[id as usize].next)).map(EntryId)
    }

    /// The entry after `id` in its list, as a head.
    pub(super) fn next(&self, id: EntryId) -> u32 {
        self.links[id.at()].next
    }

    pub(super) fn present_entries(&self, id: TableId) -> impl Iterator<Item = EntryId> + '_ {
        (0..ENTRIES)
            .map(move |index| EntryId::new(id, index))
            .filter(|&entry| self.entry(entry).is_present())
            .take(usize::from(self.table(id).present))
    }

    /// The tables that stand for a frame: at most one for each level and quadrant, or key.
    pub(super) fn tables_of(&self, gfn: u32) -> impl Iterator<Item = TableId> + '_ {
        let first = some(self.frame(gfn).tables);
        std::iter::successors(first, |&id| some(self.tables[id as usize].next_of_frame))
            .map(TableId)
    }

    pub(super) fn find(&self, role: Role) -> Option<TableId> {
        self.tables_of(role.gfn)
            .find(|&id| self.table(id).role == role)
    }

    pub(super) fn live_tables(&self) -> impl Iterator<Item = TableId> + '_ {
        (0..self.tables_max())
            .map(TableId)
            .filter(|&id| self.table(id).live)
    }

    /// An empty table; the caller has seen to it that one is free.
    pub(super) fn create(&mut self, role: Role) -> TableId {
        let id = self.free.pop().expect("room was made before");
        let first = std::mem::replace(&mut self.frame_mut(role.gfn).tables, id.0);
        *self.table_mut(id) = Table {
            role,
            live: true,
            unsync: false,
            roots: 0,
            writes: 0,
            present: 0,
            parents: NONE,
            next_of_frame: first,
        };
        id
    }

    /// Frees a table without entries and parents.
    pub(super) fn release(&mut self, id: TableId) {
        let table = *self.table(id);
        debug_assert!(table.live && table.present == 0 && table.parents == NONE);
        let before = self
            .tables_of(table.role.gfn)
            .find(|&other| self.table(other).next_of_frame == id.0);
        match before {
            Some(before) => self.table_mut(before).next_of_frame = table.next_of_frame,
            None => self.frame_mut(table.role.gfn).tables = table.next_of_frame,
        }
        self.table_mut(id).live = false;
        self.free.push(id);
    }
}

impl Frame {
    pub(super) fn is_write_protected(&self) -> bool {
        self.synced_tables != 0 || self.write_traces != 0 || self.access_traces != 0
    }
}

fn some(head: u32) -> Option<u32> {
    (head != NONE).then_some(head)
}

/// Entries of a table.
pub(super) const ENTRIES: u32 = 512;
/// The end of a list.
pub(super) const NONE: u32 = u32::MAX;
