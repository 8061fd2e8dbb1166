//! The engine, event by event.

use super::entry::ShadowEntry;
use super::path::Path;
use super::policy::{Config, Counters, RootPolicy, TABLES_LIMIT, TABLES_MIN};
use super::shape::{Shape, Target};
use super::sink::{Flush, MachineMap, ShadowSink};
use super::store::{EntryId, Kind, NONE, Role, Store, TableId};
use crate::address::Hpa;
use crate::x86::{self, Access, Context, PageFault, Translation};
use crate::{Gpa, Gva, TableMemory, WalkError};

/// The guest as an event finds it: its memory, its place in the machine, its registers.
#[derive(Debug)]
pub struct Guest<'g, M, P> {
    /// Where its tables lie.
    pub memory: &'g M,
    /// Where its frames lie in the machine.
    pub map: &'g P,
    /// Its registers, with the CR3 that was loaded last.
    pub context: &'g Context,
}

impl<M, P> Clone for Guest<'_, M, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M, P> Copy for Guest<'_, M, P> {}

/// What a page fault on the shadow tables came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution<E> {
    /// The shadow has what the access needs: run the instruction again.
    Filled,
    /// The fault is the guest's: deliver it.
    GuestFault(PageFault),
    /// The instruction must be emulated. After a write call [`Shadow::entry_written`].
    Emulate {
        /// Address of the access.
        gpa: Gpa,
        /// Why.
        cause: Cause,
    },
    /// A guest table lies where no memory is.
    Unreachable {
        /// Level of the entry.
        level: u8,
        /// Where it should lie.
        at: Gpa,
        /// What the memory answered.
        source: E,
    },
    /// See [`WalkError::Contended`].
    Contended,
}

/// Why an instruction must be emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It writes to a page that holds a shadowed table.
    GuestTable,
    /// It touches a traced page.
    Trace,
    /// Nothing of the machine backs the address.
    Device,
    /// It writes to a page that the machine map has as read-only.
    ReadOnly,
    /// It writes to a page read-only to user mode, as the supervisor may with CR0.WP clear.
    WriteProtectOff,
    /// One of the tables lies above [`Config::frames`], where it cannot be protected.
    TableOutside,
}

/// What a load of CR3 came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Switch {
    /// The root was cached.
    Hit,
    /// The root is new, and empty.
    Miss,
    /// The guest's root lies above [`Config::frames`] and cannot be shadowed: each access must be
    /// emulated until the next load.
    Outside,
}

/// What the shadow tables say of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lookup {
    /// Where the byte lies in the machine.
    pub hpa: Hpa,
    /// Bytes of the page in the shadow.
    pub size: u64,
    /// Every entry lets writes through.
    pub writable: bool,
    /// Every entry lets user-mode accesses through.
    pub user: bool,
    /// Every entry lets fetches through.
    pub executable: bool,
    /// Protection key of the page.
    pub key: u8,
}

/// Shadow page tables for one guest, in any paging mode.
///
/// The shadow of a guest in 4-level or 5-level paging has as many levels; that of one in PAE or 32-bit
/// paging has three, with four entries at the top. The PDPTEs of PAE paging must be
/// [latched](x86::Pdptes::Latched).
///
/// Each method is one event. Nothing is allocated after [`new`](Self::new). When CR0.PG, CR4.PAE,
/// CR4.PSE, CR4.LA57 or EFER.NXE change, call [`reset`](Self::reset). Whatever else loads the PDPTEs
/// counts as a load of CR3.
#[derive(Clone, Debug)]
pub struct Shadow<S> {
    pub(super) store: Store,
    pub(super) sink: S,
    pub(super) config: Config,
    pub(super) counters: Counters,
    pub(super) roots: Vec<Option<Root>>,
    /// Slot of the root in force.
    pub(super) current: Option<usize>,
    /// Tables out of step.
    pub(super) unsync: Vec<TableId>,
    /// Counts loads of CR3.
    pub(super) clock: u64,
    pub(super) pending: Option<Flush>,
    /// A bug for the checker to find.
    #[cfg(test)]
    pub(super) omitted: Option<Step>,
}

/// A cached root.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub(super) pcid: u16,
    pub(super) table: TableId,
    used: u64,
}

/// The steps that keep a shadow right; tests leave one out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    ProtectNewTable,
    ProtectFill,
    DirtyBeforeWritable,
    AccessedBeforePresent,
    RefreshWritten,
    FreeOrphan,
    ResyncOnSwitch,
    ResyncOnInvlpg,
    ResyncOnLink,
    SplinterProtected,
    HideTraced,
    RightsOfTables,
    ForgetMoved,
    ReloadPdptes,
    FollowBothHalves,
}

impl<S: ShadowSink> Shadow<S> {
    /// An engine without a root: [`switch_root`](Self::switch_root) comes first.
    ///
    /// # Panics
    ///
    /// Panics if `config` is out of its ranges.
    pub fn new(config: Config, sink: S) -> Self {
        assert!(
            (TABLES_MIN..=TABLES_LIMIT).contains(&config.tables_max),
            "too few or too many shadow tables"
        );
        let roots = match config.roots {
            RootPolicy::DiscardOnSwitch => 1,
            RootPolicy::Cache(count) => count,
        };
        assert!(roots > 0, "at least one root must be cached");
        Self {
            store: Store::new(config.tables_max, config.frames),
            sink,
            config,
            counters: Counters::default(),
            roots: vec![None; usize::from(roots)],
            current: None,
            unsync: Vec::with_capacity(config.tables_max as usize),
            clock: 0,
            pending: None,
            #[cfg(test)]
            omitted: None,
        }
    }

    /// Handles a page fault on the shadow tables, or a miss of a software TLB.
    ///
    /// Walks the guest's tables, which sets their accessed and dirty flags, and fills what is
    /// missing.
    ///
    /// # Panics
    ///
    /// Panics if the guest's paging is off, if it has another CR3 than the one loaded last, or if the
    /// PDPTEs of PAE paging are not latched.
    pub fn fault<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        gva: Gva,
        access: Access,
    ) -> Resolution<M::Error> {
        let gva = Shape::of(guest.context).linear(gva);
        let mut path = Path::default();
        let walked = x86::walk(guest.memory, guest.context, gva, access, &mut path);
        let resolution = match walked {
            Ok(translation) => self.resolve(guest, gva, access, &translation, &path),
            Err(WalkError::Fault(fault)) => Resolution::GuestFault(fault),
            Err(WalkError::Table { level, at, source }) => {
                Resolution::Unreachable { level, at, source }
            }
            Err(WalkError::Contended) => Resolution::Contended,
        };
        self.count(&resolution);
        self.flush();
        resolution
    }

    /// Handles a load of CR3, which `guest.context` has already. `flush` is false if bit 63 of the
    /// operand was set with CR4.PCIDE; `pcid` is 0 without CR4.PCIDE.
    ///
    /// # Panics
    ///
    /// Panics if the guest's paging is off, or the PDPTEs of PAE paging are not latched.
    pub fn switch_root<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        pcid: u16,
        flush: bool,
    ) -> Switch {
        self.counters.exits_switch += 1;
        self.clock += 1;
        if self.keeps(Step::ResyncOnSwitch) {
            self.resync_all(guest);
        }
        let switch = match self.gfn(guest.context.root()) {
            Some(gfn) => self.load_root(guest, gfn, pcid, flush),
            None => {
                self.current = None;
                Switch::Outside
            }
        };
        match switch {
            Switch::Hit => self.counters.root_hits += 1,
            Switch::Miss | Switch::Outside => self.counters.root_misses += 1,
        }
        self.flush();
        switch
    }

    /// Handles INVLPG.
    pub fn invlpg<M: TableMemory, P: MachineMap>(&mut self, guest: Guest<'_, M, P>, gva: Gva) {
        self.counters.exits_invalidate += 1;
        let gva = Shape::of(guest.context).linear(gva);
        let entry = self.leaf_of(gva).map(|(entry, _)| entry);
        if let Some(entry) = entry
            && self.store.table(entry.table()).unsync
            && self.keeps(Step::ResyncOnInvlpg)
        {
            self.refresh(guest, entry, false);
        }
        self.note(Flush::Range {
            base: Gva(gva.0 & !0xfff),
            size: 0x1000,
        });
        self.flush();
    }

    /// Handles INVPCID and whatever else flushes more than one page: brings all tables into step.
    pub fn invalidate_all<M: TableMemory, P: MachineMap>(&mut self, guest: Guest<'_, M, P>) {
        self.counters.exits_invalidate += 1;
        self.resync_all(guest);
        self.note(Flush::All);
        self.flush();
    }

    /// Forgets everything but traces.
    pub fn reset(&mut self) {
        self.drop_roots();
        self.current = None;
        self.note(Flush::All);
        self.flush();
    }

    /// Looks an address up in the shadow tables of the root in force, as a processor walks them.
    pub fn lookup(&self, gva: Gva) -> Option<Lookup> {
        let (entry, rights) = self.leaf_of(gva)?;
        let level = self.store.table(entry.table()).role.level;
        let page = self.store.entry(entry);
        if !page.is_page(level) {
            return None;
        }
        let size = 1 << shift(level);
        Some(Lookup {
            hpa: Hpa(page.frame().0 | gva.0 & (size - 1)),
            size,
            writable: rights.is_writable(),
            user: rights.is_user(),
            executable: rights.is_executable(),
            key: page.key(),
        })
    }

    /// What has been done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The sink.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// The sink, to be changed.
    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// Shadow tables in use.
    pub fn tables(&self) -> u32 {
        self.store.tables_max() - self.store.free_tables()
    }

    /// Bytes of the shadow tables in use: 4 KiB each. The lists that lead back to their entries take
    /// 12 bytes for each of 512 entries besides, in use or not.
    pub fn table_bytes(&self) -> u64 {
        u64::from(self.tables()) * 4096
    }

    fn count<E>(&mut self, resolution: &Resolution<E>) {
        let counters = &mut self.counters;
        *match resolution {
            Resolution::Filled => &mut counters.exits_filled,
            Resolution::GuestFault(_) => &mut counters.exits_guest_fault,
            Resolution::Emulate { cause, .. } => match cause {
                Cause::GuestTable => &mut counters.exits_table_write,
                Cause::Trace => &mut counters.exits_trace,
                _ => &mut counters.exits_other,
            },
            Resolution::Unreachable { .. } | Resolution::Contended => &mut counters.exits_other,
        } += 1;
    }

    fn resolve<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        gva: Gva,
        access: Access,
        translation: &Translation,
        path: &Path,
    ) -> Resolution<M::Error> {
        let filled = self.fill(guest, gva, access, translation, path);
        match filled {
            Ok(()) => Resolution::Filled,
            Err(cause) => Resolution::Emulate {
                gpa: translation.gpa,
                cause,
            },
        }
    }

    fn load_root<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        gfn: u32,
        pcid: u16,
        flush: bool,
    ) -> Switch {
        let shape = Shape::of(guest.context);
        let role = shape.root(gfn, guest.context.root());
        let same = |root: &Root| root.pcid == pcid && self.store.table(root.table).role == role;
        let cached = self
            .roots
            .iter()
            .position(|root| root.as_ref().is_some_and(same));
        let (slot, switch) = match cached {
            Some(slot) => (slot, Switch::Hit),
            None => (self.new_root(guest, role, pcid), Switch::Miss),
        };
        self.current = Some(slot);
        let root = self.roots[slot].as_mut().expect("found or made");
        root.used = self.clock;
        let (table, tag) = (
            root.table,
            u16::try_from(slot).expect("a slot for each u16"),
        );
        self.drop_stale_pdptes(table, shape);
        self.sink.load_root(table, tag);
        if flush || switch == Switch::Miss {
            self.note(Flush::Root(tag));
        }
        switch
    }

    /// Takes out of a root what its PDPTEs had when they were last loaded, and have no more.
    fn drop_stale_pdptes(&mut self, root: TableId, shape: Shape) {
        let role = self.store.table(root).role;
        if role.is_guest() || !self.keeps(Step::ReloadPdptes) {
            return;
        }
        for index in 0..4 {
            let id = EntryId::new(root, index);
            let entry = self.store.entry(id);
            if entry.is_present() && !self.leads_to(entry, shape.top_target(role, index)) {
                self.clear(id);
            }
        }
    }

    /// Whether an entry references the table that `target` says.
    pub(super) fn leads_to(&self, entry: ShadowEntry, target: Option<Target>) -> bool {
        let Role { gfn, kind, .. } = self.store.table(entry.child()).role;
        match target {
            Some(Target::Table { gfn: of, quadrant }) => {
                u64::from(gfn) == of && kind == Kind::Guest { quadrant }
            }
            Some(Target::Page { .. }) | None => false,
        }
    }

    fn new_root<M: TableMemory, P: MachineMap>(
        &mut self,
        guest: Guest<'_, M, P>,
        role: Role,
        pcid: u16,
    ) -> usize {
        self.current = None;
        if self.config.roots == RootPolicy::DiscardOnSwitch {
            self.drop_roots();
        }
        self.make_room();
        let slot = self.slot_for_new();
        self.drop_root(slot);
        let table = self.obtain(guest, role);
        self.store.table_mut(table).roots += 1;
        self.roots[slot] = Some(Root {
            pcid,
            table,
            used: self.clock,
        });
        slot
    }

    /// An empty slot, or else the one unused for longest.
    fn slot_for_new(&self) -> usize {
        let used = |root: &Option<Root>| root.as_ref().map_or(0, |root| root.used);
        let slots = self.roots.iter().enumerate();
        slots
            .min_by_key(|(_, root)| used(root))
            .map(|(slot, _)| slot)
            .expect("at least one slot")
    }

    fn drop_roots(&mut self) {
        for slot in 0..self.roots.len() {
            self.drop_root(slot);
        }
    }

    pub(super) fn drop_root(&mut self, slot: usize) {
        if let Some(root) = self.roots[slot].take() {
            self.counters.evictions += 1;
            self.store.table_mut(root.table).roots -= 1;
            self.free_orphan(root.table);
        }
    }

    /// Frees tables until one access can be filled whatever it needs.
    pub(super) fn make_room(&mut self) {
        while self.store.free_tables() < TABLES_MIN / 2 {
            match self.oldest_other_root() {
                Some(slot) => self.drop_root(slot),
                None => {
                    let slot = self.current.expect("tables belong to some root");
                    let root = self.roots[slot].expect("the root in force").table;
                    self.empty(root);
                    self.counters.evictions += 1;
                }
            }
        }
    }

    fn oldest_other_root(&self) -> Option<usize> {
        let roots = self.roots.iter().enumerate();
        roots
            .filter(|&(slot, _)| Some(slot) != self.current)
            .filter_map(|(slot, root)| Some((slot, root.as_ref()?.used)))
            .min_by_key(|&(_, used)| used)
            .map(|(slot, _)| slot)
    }

    /// The last entry on the way to `gva` in the shadow of the root in force, and the rights so far.
    /// It may be absent.
    fn leaf_of(&self, gva: Gva) -> Option<(EntryId, ShadowEntry)> {
        let mut table = self.roots[self.current?].expect("the root in force").table;
        let long = self.store.table(table).role.is_guest();
        let gva = if long { gva } else { Gva(gva.0 & 0xffff_ffff) };
        let mut denied = 0;
        loop {
            let level = self.store.table(table).role.level;
            let id = EntryId::new(table, index(gva, level));
            let entry = self.store.entry(id);
            denied |= entry.bits() ^ super::entry::ALL_RIGHTS;
            if entry.is_page(level) || !entry.is_present() {
                let rights = (denied & super::entry::RIGHTS) ^ super::entry::ALL_RIGHTS;
                return Some((id, ShadowEntry::from_bits(rights)));
            }
            table = entry.child();
        }
    }

    /// The frame number of an address, if it is one that the engine keeps.
    pub(super) fn gfn(&self, gpa: Gpa) -> Option<u32> {
        let gfn = u32::try_from(gpa.0 >> 12).ok()?;
        (gfn < self.store.frame_count()).then_some(gfn)
    }

    /// Remembers what the sink must forget.
    pub(super) fn note(&mut self, flush: Flush) {
        self.pending = Some(match self.pending {
            None => flush,
            Some(pending) if pending == flush => flush,
            Some(_) => Flush::All,
        });
    }

    pub(super) fn flush(&mut self) {
        if let Some(flush) = self.pending.take() {
            self.sink.flush(flush);
        }
    }

    /// Remembers that what went through `id` must be forgotten.
    pub(super) fn note_entry(&mut self, id: EntryId) {
        match self.reach(id) {
            Reach::Nowhere => {}
            Reach::Range(base) => {
                let size = 1 << shift(self.store.table(id.table()).role.level);
                self.note(Flush::Range { base, size });
            }
            Reach::Many => self.note(Flush::All),
        }
    }

    /// Where an entry is in the address space. Roots may share a table below them; anything else that
    /// is shared counts as many places.
    fn reach(&self, id: EntryId) -> Reach {
        let mut base = 0;
        let mut entry = id;
        loop {
            let table = self.store.table(entry.table());
            base |= u64::from(entry.index()) << shift(table.role.level);
            if table.roots != 0 && table.parents != NONE {
                return Reach::Many;
            }
            if table.roots != 0 {
                let unused = 64 - shift(table.role.level + 1);
                return Reach::Range(Gva(
                    ((base << unused).cast_signed() >> unused).cast_unsigned()
                ));
            }
            let mut parents = self.store.list(table.parents);
            let Some(parent) = parents.next() else {
                return Reach::Nowhere;
            };
            let at_root = |id: EntryId| self.store.table(id.table()).roots != 0;
            let alike = |other: EntryId| {
                at_root(parent) && at_root(other) && other.index() == parent.index()
            };
            if !parents.all(alike) {
                return Reach::Many;
            }
            entry = parent;
        }
    }

    /// Whether a step is carried out; tests leave one out to see that the checker notices.
    #[cfg_attr(
        not(test),
        expect(clippy::unused_self, reason = "tests look at a field of it")
    )]
    #[inline(always)]
    pub(super) fn keeps(&self, step: Step) -> bool {
        #[cfg(test)]
        if self.omitted == Some(step) {
            return false;
        }
        let _ = step;
        true
    }
}

/// Which addresses go through an entry.
enum Reach {
    Nowhere,
    Range(Gva),
    Many,
}

/// Address bits below the index of a level.
pub(super) fn shift(level: u8) -> u32 {
    3 + 9 * u32::from(level)
}

/// Index of an address in a table of a level.
pub(super) fn index(gva: Gva, level: u8) -> u32 {
    u32::try_from(gva.0 >> shift(level) & 511).expect("nine bits")
}
