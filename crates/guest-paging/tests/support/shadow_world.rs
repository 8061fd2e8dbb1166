//! A guest, a machine and a processor around a shadow engine, driven by numbers.
//!
//! The processor has a TLB that forgets only what it is told to. Whatever it then lets through must
//! be what a walk gave at some time since the guest last flushed. The guest is in 4-level, PAE or 32-bit
//! paging.

use std::cell::RefCell;
use std::collections::HashMap;

use guest_paging::shadow::{
    Block, Cause, Config, Flush, Guest, Lookup, MachineMap, Resolution, Shadow, ShadowEntry,
    ShadowSink, TableId, Trace, Violation,
};
use guest_paging::x86::{
    self, Access, AccessKind, Attributes, Context, Pdptes, Privilege, Processor, Registers,
    Translation, Vendor,
};
use guest_paging::{Exchange, Gpa, Gva, Hpa, TableMemory, Unbacked};

/// Frames of the guest; the last 512 may be one large page.
pub(crate) const FRAMES: u32 = 1024;
/// The first of them hold tables.
const TABLE_FRAMES: u64 = 12;
/// Frames with something in memory: the others' contents do not matter.
const KEPT_FRAMES: u64 = 24;

/// Numbers to act on; `None` ends the run.
pub(crate) type Numbers<'n> = dyn FnMut() -> Option<u64> + 'n;

/// The first frames of guest memory.
pub(crate) struct Memory(RefCell<Vec<u64>>);

impl Memory {
    fn load(&self, at: Gpa) -> Result<u64, Unbacked> {
        let words = self.0.borrow();
        let word = usize::try_from(at.0 / 8).map_err(|_| Unbacked)?;
        words.get(word).copied().ok_or(Unbacked)
    }

    fn store_u32(&self, at: Gpa, value: u32) {
        let shift = (at.0 & 4) * 8;
        let others = self.load(at).unwrap_or(0) & !(0xffff_ffff << shift);
        self.store(at, others | u64::from(value) << shift);
    }

    pub(crate) fn store(&self, at: Gpa, value: u64) {
        let word = usize::try_from(at.0 / 8).unwrap();
        if let Some(word) = self.0.borrow_mut().get_mut(word) {
            *word = value;
        }
    }
}

impl TableMemory for Memory {
    type Error = Unbacked;

    fn load_u32(&self, at: Gpa) -> Result<u32, Unbacked> {
        let word = self.load(at)?;
        let half = if at.0 & 4 == 0 { word } else { word >> 32 };
        Ok(u32::try_from(half & 0xffff_ffff).unwrap())
    }

    fn load_u64(&self, at: Gpa) -> Result<u64, Unbacked> {
        self.load(at)
    }

    fn compare_exchange_u32(&self, at: Gpa, current: u32, new: u32) -> Exchange<u32, Unbacked> {
        let found = self.load_u32(at)?;
        if found != current {
            return Ok(Err(found));
        }
        self.store_u32(at, new);
        Ok(Ok(found))
    }

    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Unbacked> {
        let found = self.load(at)?;
        if found != current {
            return Ok(Err(found));
        }
        self.store(at, new);
        Ok(Ok(found))
    }
}

/// Frame n lies at `moved[n]`; the upper half lies in one piece until a frame of it moves.
pub(crate) struct Machine {
    moved: Vec<Option<u64>>,
    large: bool,
    read_only: u64,
}

impl MachineMap for Machine {
    fn block(&self, gpa: Gpa) -> Option<Block> {
        let gfn = gpa.0 >> 12;
        let frame = (*self.moved.get(usize::try_from(gfn).ok()?)?)?;
        Some(Block {
            frame: Hpa(frame << 12),
            large: self.large && gfn >= 512,
            writable: gfn != self.read_only,
        })
    }
}

/// A processor's TLB: what it read of the shadow, by root.
pub(crate) struct Tlb {
    root: u16,
    cached: HashMap<(u16, u64), Lookup>,
    root_table: Option<TableId>,
    /// The present entries, as the sink was told of them.
    entries: HashMap<(TableId, u32), ShadowEntry>,
}

impl Tlb {
    fn new() -> Self {
        Self {
            root: 0,
            cached: HashMap::new(),
            root_table: None,
            // Enough not to grow, so that allocations of the engine can be told.
            entries: HashMap::with_capacity(1 << 13),
        }
    }

    /// Where the tables that the sink was told of lead.
    fn walk(&self, gva: u64, levels: u8) -> Option<Hpa> {
        let mut table = self.root_table?;
        for level in (1..=levels).rev() {
            let index = gva >> (3 + 9 * u32::from(level)) & 511;
            let entry = *self.entries.get(&(table, u32::try_from(index).ok()?))?;
            if entry.is_page(level) {
                let inside = (1 << (3 + 9 * u32::from(level))) - 1;
                return Some(Hpa(entry.frame().0 | gva & inside));
            }
            table = entry.child();
        }
        None
    }
}

impl ShadowSink for Tlb {
    fn write_entry(&mut self, table: TableId, index: u32, entry: ShadowEntry) {
        if entry.is_present() {
            self.entries.insert((table, index), entry);
        } else {
            self.entries.remove(&(table, index));
        }
    }

    fn load_root(&mut self, root: TableId, tag: u16) {
        self.root_table = Some(root);
        self.root = tag;
    }

    fn flush(&mut self, scope: Flush) {
        match scope {
            Flush::All => self.cached.clear(),
            Flush::Root(tag) => self.cached.retain(|&(root, _), _| root != tag),
            Flush::Range { base, size } => self
                .cached
                .retain(|&(_, gva), _| gva.wrapping_sub(base.0) >= size),
        }
    }
}

/// The guest's paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    FourLevel,
    Pae,
    Legacy,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::FourLevel, Self::Pae, Self::Legacy];

    fn registers(self) -> Registers {
        let (cr4, efer) = match self {
            Self::FourLevel => (1 << 5 | 1 << 17, 1 << 10 | 1 << 11),
            Self::Pae => (1 << 5, 1 << 11),
            Self::Legacy => (1 << 4, 0),
        };
        Registers {
            cr0: 1 << 31 | 1 << 16,
            cr3: 0x1000,
            cr4,
            efer,
            pdptes: Pdptes::Latched([0; 4]),
            ..Registers::default()
        }
    }

    /// CR3 of a process, 0 to 5. In PAE paging all have theirs in one frame; in 4-level paging there are
    /// two, each with three PCIDs.
    fn cr3(self, process: u64) -> u64 {
        match self {
            Self::FourLevel => (1 + process % 2) << 12,
            Self::Pae => 0x1000 + process * 0x20,
            Self::Legacy => [1, 2, 6, 7, 8, 9][usize::try_from(process).unwrap()] << 12,
        }
    }

    fn pcid(self, process: u64) -> u16 {
        match self {
            Self::FourLevel => u16::try_from(process / 2).unwrap(),
            Self::Pae | Self::Legacy => 0,
        }
    }

    /// Where the pages of the first directory entry are seen again, by the third.
    fn alias(self) -> u64 {
        match self {
            Self::FourLevel | Self::Pae => 0x40_0000,
            Self::Legacy => 0x80_0000,
        }
    }

    /// The pages that are looked at without being accessed.
    fn kept_pages(self) -> impl Iterator<Item = u64> {
        let page = |number: u64| number << 12;
        let again = (0..KEPT_FRAMES / 2).map(move |number| self.alias() + page(number));
        (0..KEPT_FRAMES).map(page).chain(again)
    }

    /// Levels of the shadow.
    fn levels(self) -> u8 {
        match self {
            Self::FourLevel => 4,
            Self::Pae | Self::Legacy => 3,
        }
    }
}

const PROCESSOR: Processor = Processor {
    vendor: Vendor::Intel,
    maxphyaddr: 40,
    gib_pages: true,
    pse36: true,
};

/// Everything together.
pub(crate) struct World {
    mode: Mode,
    pub(crate) memory: Memory,
    pub(crate) machine: Machine,
    pub(crate) context: Context,
    pub(crate) shadow: Shadow<Tlb>,
    /// By page, what a walk gave since the guest last flushed it.
    history: HashMap<u64, Vec<Translation>>,
    pub(crate) met: Met,
}

/// What a run came across.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Met {
    pub(crate) filled: u32,
    pub(crate) faults: u32,
    pub(crate) emulated: u32,
    pub(crate) silent_writes: u32,
    pub(crate) stale: u32,
    pub(crate) large: u32,
}

impl World {
    pub(crate) fn new(config: Config, mode: Mode) -> Self {
        let memory = Memory(RefCell::new(vec![
            0;
            usize::try_from(KEPT_FRAMES * 512)
                .unwrap()
        ]));
        let machine = Machine {
            moved: (0..u64::from(FRAMES))
                .map(|gfn| Some(first_place(gfn)))
                .collect(),
            large: true,
            read_only: 20,
        };
        let mut world = Self {
            mode,
            memory,
            machine,
            context: Context::new(&PROCESSOR, &mode.registers()),
            shadow: Shadow::new(config, Tlb::new()),
            history: HashMap::new(),
            met: Met::default(),
        };
        world.lay_out();
        world.switch(0, true);
        world
    }

    /// Processes that share the tables below their roots. Page n of the first 24 maps frame n; at
    /// 2 MiB, or in 32-bit paging at 4 MiB, lies a large page; above that the first pages are seen again.
    fn lay_out(&mut self) {
        let roots = (0..6).map(|process| Gpa(self.mode.cr3(process)));
        match self.mode {
            Mode::FourLevel => {
                roots.for_each(|root| self.memory.store(root, 0x3007));
                self.memory.store(Gpa(0x3000), 0x4007);
            }
            Mode::Pae => roots.for_each(|root| self.memory.store(root, 0x4001)),
            Mode::Legacy => {
                // The second entry lies at 4 MiB.
                roots.for_each(|root| {
                    self.memory.store(root, 0x87_0000_5007);
                    self.memory.store(Gpa(root.0 + 8), 0x5007);
                });
                for pair in 0..KEPT_FRAMES / 2 {
                    let entry = |frame: u64| frame << 12 | 0x67;
                    let both = entry(2 * pair) | entry(2 * pair + 1) << 32;
                    self.memory.store(Gpa(0x5000 + 8 * pair), both);
                }
                return;
            }
        }
        self.memory.store(Gpa(0x4000), 0x5007);
        self.memory.store(Gpa(0x4008), 0x20_0087);
        self.memory.store(Gpa(0x4010), 0x5007);
        for frame in 0..KEPT_FRAMES {
            self.memory
                .store(Gpa(0x5000 + 8 * frame), frame << 12 | 0x67);
        }
    }

    fn guest(&self) -> Guest<'_, Memory, Machine> {
        Guest {
            memory: &self.memory,
            map: &self.machine,
            context: &self.context,
        }
    }

    /// One event, and then the checks. `None` when the numbers have ended.
    pub(crate) fn step(&mut self, next: &mut Numbers<'_>) -> Option<Result<(), Violation>> {
        match next()? % 16 {
            0..=3 => self.access(next)?,
            4..=7 => self.write_table(next)?,
            8 => self.announce(next)?,
            9 => {
                let (process, flush) = (next()? % 6, next()? % 2 == 0);
                self.switch(process, flush);
                if let Err(violation) = self.check_kept_pages() {
                    return Some(Err(violation));
                }
            }
            10 | 11 => {
                let gva = self.page(next)?;
                if let Err(violation) = self.invlpg(gva) {
                    return Some(Err(violation));
                }
            }
            12 => self.toggle_trace(next)?,
            13 => self.move_frame(next)?,
            14 => self.flush_all(),
            _ => self.repair(next)?,
        }
        Some(self.check())
    }

    /// An access by way of the TLB; to any page.
    fn access(&mut self, next: &mut Numbers<'_>) -> Option<()> {
        let gva = self.page(next)? + next()? % 512 * 8;
        let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
        let kind = kinds[usize::try_from(next()? % 3).unwrap()];
        let privileges = [Privilege::User, Privilege::Supervisor];
        let privilege = privileges[usize::try_from(next()? % 2).unwrap()];
        // What is written are entries too: the page may be a table.
        let value = self.entry(next)?;
        self.perform(gva, Access::new(kind, privilege), value);
        Some(())
    }

    /// A write through the pages that map the frames of tables.
    fn write_table(&mut self, next: &mut Numbers<'_>) -> Option<()> {
        let number = next()?;
        let frame = match number % 2 {
            0 => 5,
            _ => 1 + number / 2 % TABLE_FRAMES,
        };
        let gva = (frame << 12) + index(next)? * 8;
        let value = self.entry(next)?;
        self.perform(
            gva,
            Access::new(AccessKind::Write, Privilege::Supervisor),
            value,
        );
        Some(())
    }

    /// Tries until the access is let through, delivered as a fault, or emulated.
    fn perform(&mut self, gva: u64, access: Access, value: u64) {
        for _ in 0..4 {
            if let Some(hpa) = self.hit(gva, access) {
                if access.kind == AccessKind::Write {
                    self.met.silent_writes += 1;
                    self.store_machine(hpa, value);
                }
                return;
            }
            let resolution = {
                let guest = Guest {
                    memory: &self.memory,
                    map: &self.machine,
                    context: &self.context,
                };
                self.shadow.fault(guest, Gva(gva), access)
            };
            self.remember();
            match resolution {
                Resolution::Filled => {
                    self.met.filled += 1;
                    let seen = self.shadow.lookup(Gva(gva)).expect("just filled");
                    assert!(access.kind != AccessKind::Write || seen.writable);
                    self.met.large += u32::from(seen.size > 0x1000);
                    let tag = self.shadow.sink().root;
                    let tlb = self.shadow.sink_mut();
                    tlb.cached.insert((tag, gva & !0xfff), seen);
                    // The write to come may be to the very tables of this page.
                    self.remember_page(gva & !0xfff);
                }
                Resolution::Emulate { gpa, cause } => {
                    self.met.emulated += 1;
                    if access.kind == AccessKind::Write && cause != Cause::ReadOnly {
                        self.memory.store(Gpa(gpa.0 & !7), value);
                        let guest = Guest {
                            memory: &self.memory,
                            map: &self.machine,
                            context: &self.context,
                        };
                        self.shadow.entry_written(guest, gpa, 8);
                    }
                    return;
                }
                Resolution::GuestFault(_) | Resolution::Unreachable { .. } => {
                    self.met.faults += 1;
                    return;
                }
                Resolution::Contended => panic!("nobody else writes this memory"),
            }
        }
        panic!("an access to {gva:#x} makes no progress");
    }

    /// What the processor's TLB lets through, once it has read the shadow's tables.
    fn hit(&mut self, gva: u64, access: Access) -> Option<Hpa> {
        let page = gva & !0xfff;
        let tag = self.shadow.sink().root;
        if self.mode.kept_pages().any(|kept| kept == page)
            && let Some(seen) = self.shadow.lookup(Gva(page))
        {
            let tlb = self.shadow.sink_mut();
            tlb.cached.entry((tag, page)).or_insert(seen);
        }
        let seen = self.shadow.sink().cached.get(&(tag, page))?;
        let permitted = match access.kind {
            AccessKind::Read => true,
            AccessKind::Write => seen.writable,
            AccessKind::Fetch => seen.executable,
        };
        let user = seen.user || access.privilege != Privilege::User;
        (permitted && user).then_some(Hpa(seen.hpa.0 & !0xfff | gva & 0xfff))
    }

    fn store_machine(&self, hpa: Hpa, value: u64) {
        let moved = &self.machine.moved;
        let gfn = moved.iter().position(|&frame| frame == Some(hpa.0 >> 12));
        let gfn = gfn.expect("a frame of the guest") as u64;
        self.memory
            .store(Gpa(gfn << 12 | hpa.0 & 0xfff & !7), value);
    }

    fn announce(&mut self, next: &mut Numbers<'_>) -> Option<()> {
        let gpa = Gpa(((1 + next()? % TABLE_FRAMES) << 12) + index(next)? * 8);
        self.memory.store(gpa, self.entry(next)?);
        let guest = Guest {
            memory: &self.memory,
            map: &self.machine,
            context: &self.context,
        };
        self.shadow.announce_write(guest, gpa, 8);
        Some(())
    }

    pub(crate) fn switch(&mut self, process: u64, flush: bool) {
        let cr3 = self.mode.cr3(process);
        if self.mode == Mode::Pae {
            let pdptes = self.pdptes(cr3);
            self.context.set_pdptes(pdptes);
        }
        self.context.set_cr3(cr3);
        let pcid = self.mode.pcid(process);
        let guest = Guest {
            memory: &self.memory,
            map: &self.machine,
            context: &self.context,
        };
        self.shadow.switch_root(guest, pcid, flush);
        // The engine brings all into step whether the guest flushes or not.
        self.history.clear();
    }

    /// Loads the PDPTEs, after the guest has made good those that would be its #GP.
    fn pdptes(&mut self, cr3: u64) -> Pdptes {
        let at = |index: u64| Gpa(cr3 + 8 * index);
        for index in 0..4 {
            let entry = self.memory.load(at(index)).unwrap();
            self.memory.store(at(index), entry & 0xff_ffff_f019);
        }
        let guest = Guest {
            memory: &self.memory,
            map: &self.machine,
            context: &self.context,
        };
        self.shadow.announce_write(guest, at(0), 32);
        let loaded = x86::load_pdptes(&self.memory, &PROCESSOR, cr3);
        Pdptes::Latched(loaded.expect("no reserved bits"))
    }

    /// After a flush of everything, nothing may be stale.
    fn check_kept_pages(&self) -> Result<(), Violation> {
        let mut pages = self.mode.kept_pages().map(Gva);
        pages.try_for_each(|page| self.shadow.check_address(self.guest(), page))
    }

    pub(crate) fn invlpg(&mut self, gva: u64) -> Result<(), Violation> {
        let guest = Guest {
            memory: &self.memory,
            map: &self.machine,
            context: &self.context,
        };
        self.shadow.invlpg(guest, Gva(gva));
        self.history.remove(&gva);
        self.shadow.check_address(self.guest(), Gva(gva))
    }

    fn flush_all(&mut self) {
        let guest = Guest {
            memory: &self.memory,
            map: &self.machine,
            context: &self.context,
        };
        self.shadow.invalidate_all(guest);
        self.history.clear();
    }

    fn toggle_trace(&mut self, next: &mut Numbers<'_>) -> Option<()> {
        let frame = [7, 16, 17, 600][usize::try_from(next()? % 4).unwrap()];
        let range = Gpa(frame << 12)..Gpa((frame + 1) << 12);
        let kind = [Trace::Write, Trace::ReadWrite][usize::try_from(next()? % 2).unwrap()];
        if self.shadow.untrace(range.clone(), kind).is_err() {
            self.shadow.trace(range, kind).unwrap();
        }
        Some(())
    }

    /// Swaps a frame out, or into another place.
    fn move_frame(&mut self, next: &mut Numbers<'_>) -> Option<()> {
        let frame = [18, 19, 21, 700][usize::try_from(next()? % 4).unwrap()];
        let slot = &mut self.machine.moved[frame];
        *slot = match (&slot, next()? % 4) {
            (Some(_), 0) => None,
            (_, 1) => Some(0x20_0000 + next()? % 16 * 0x1000 + frame as u64),
            _ => Some(first_place(frame as u64)),
        };
        self.machine.large = self.machine.moved[700] == Some(first_place(700));
        let gpa = |frame: usize| Gpa((frame as u64) << 12);
        self.shadow.machine_changed(gpa(frame)..gpa(frame + 1));
        Some(())
    }

    /// Puts back what random writes have torn down, announced.
    fn repair(&mut self, next: &mut Numbers<'_>) -> Option<()> {
        if next()? % 2 == 0 {
            self.lay_out();
            let guest = Guest {
                memory: &self.memory,
                map: &self.machine,
                context: &self.context,
            };
            self.shadow.announce_write(guest, Gpa(0x1000), 0x9000);
        }
        Some(())
    }

    /// A page that some entry may map.
    fn page(&self, next: &mut Numbers<'_>) -> Option<u64> {
        let number = next()?;
        let rest = number >> 3;
        Some(match (number % 8, self.mode) {
            (0..=2, _) => (rest % KEPT_FRAMES) << 12,
            (3, mode) => mode.alias() + ((rest % (KEPT_FRAMES / 2)) << 12),
            (4, Mode::Legacy) => 0x40_0000 + ((rest % 1024) << 12),
            (4, _) => 0x20_0000 + ((rest % 512) << 12),
            (_, mode) => {
                let [a, b, c, d] = [0, 1, 2, 3].map(|level| digit(rest >> (2 * level)));
                match mode {
                    Mode::FourLevel => {
                        let [a, b, c, d] = [a, b, c, d].map(|digit| INDICES[digit]);
                        let gva = a << 39 | b << 30 | c << 21 | d << 12;
                        ((gva << 16).cast_signed() >> 16).cast_unsigned()
                    }
                    Mode::Pae => (a as u64) << 30 | INDICES[b] << 21 | INDICES[c] << 12,
                    // Both entries of each pair that is written to.
                    Mode::Legacy => {
                        let pair = |digit, half| 2 * INDICES[digit] + half as u64 % 2;
                        pair(a, c) << 22 | pair(b, d) << 12
                    }
                }
            }
        })
    }

    /// An entry that leads somewhere more often than not; two of them in 32-bit paging.
    fn entry(&self, next: &mut Numbers<'_>) -> Option<u64> {
        match self.mode {
            Mode::FourLevel => entry(next),
            // One that may be a PDPTE too.
            Mode::Pae => {
                let entry = entry(next)?;
                Some(if next()? % 8 == 0 {
                    entry & !0x1e6
                } else {
                    entry
                })
            }
            Mode::Legacy => {
                let (low, high) = (entry(next)?, entry(next)?);
                Some(legacy(low) | legacy(high) << 32)
            }
        }
    }

    /// Notes what walks give now, for every page that the TLB knows or may read any time.
    fn remember(&mut self) {
        self.mode
            .kept_pages()
            .for_each(|page| self.remember_page(page));
        let pages: Vec<u64> = self.shadow.sink().cached.keys().map(|&(_, p)| p).collect();
        for page in pages {
            self.remember_page(page);
        }
    }

    fn remember_page(&mut self, page: u64) {
        let read = Access::new(AccessKind::Read, Privilege::Supervisor);
        let walked = x86::probe(&self.memory, &self.context, Gva(page), read, &mut ());
        if let Ok(translation) = walked {
            let history = self.history.entry(page).or_default();
            if !history.contains(&translation) {
                history.push(translation);
            }
        }
    }

    /// All rules, and that the TLB has nothing that it should have been told to forget.
    pub(crate) fn check(&mut self) -> Result<(), Violation> {
        self.remember();
        self.shadow.check(self.guest())?;
        let tlb = self.shadow.sink();
        for page in self.mode.kept_pages() {
            let known = self.shadow.lookup(Gva(page)).map(|found| found.hpa);
            let told = tlb.walk(page, self.mode.levels());
            assert_eq!(told, known, "the sink was told otherwise");
        }
        for (&(root, page), &seen) in &tlb.cached {
            if root != tlb.root {
                continue;
            }
            let now = self.shadow.lookup(Gva(page));
            let fresh = now.is_some_and(|now| is_within(&seen, &now));
            assert!(fresh, "the TLB keeps {page:#x} as {seen:x?}, now {now:x?}");
            let history = self.history.get(&page).map_or(&[][..], Vec::as_slice);
            let legal = history
                .iter()
                .any(|translation| self.is_allowed(page, &seen, translation));
            if !legal {
                return Err(Violation::Translation { gva: Gva(page) });
            }
            if history.len() > 1 {
                self.met.stale += 1;
            }
        }
        Ok(())
    }

    fn is_allowed(&self, page: u64, seen: &Lookup, walked: &Translation) -> bool {
        let has = |right| walked.attributes.contains(right);
        let place = self.machine.block(walked.gpa).map(|block| block.frame.0);
        place == Some(seen.hpa.0 & !0xfff)
            && walked.gpa.0 & 0xfff == page & 0xfff
            && (!seen.writable || has(Attributes::WRITE | Attributes::DIRTY))
            && (!seen.user || has(Attributes::USER))
            && (!seen.executable || has(Attributes::EXECUTE))
    }
}

fn is_within(a: &Lookup, b: &Lookup) -> bool {
    a.hpa.0 & !0xfff == b.hpa.0 & !0xfff
        && a.writable <= b.writable
        && a.user <= b.user
        && a.executable <= b.executable
}

/// Where a frame lies before it is moved.
fn first_place(gfn: u64) -> u64 {
    gfn + 0x10_0000 + (gfn / 512) * 0x200
}

fn digit(number: u64) -> usize {
    usize::try_from(number % 4).unwrap()
}

fn index(next: &mut Numbers<'_>) -> Option<u64> {
    let number = next()?;
    Some(if number % 4 == 0 {
        (number >> 2) % KEPT_FRAMES
    } else {
        INDICES[digit(number >> 2)]
    })
}

/// An entry that leads somewhere more often than not.
fn entry(next: &mut Numbers<'_>) -> Option<u64> {
    let number = next()?;
    let frame = match number % 8 {
        0 => 0,
        1 => number >> 3 & 0xff_ffff,
        2 => 512 + (number >> 3) % 512,
        3 | 4 => (number >> 3) % KEPT_FRAMES,
        _ => 1 + (number >> 3) % TABLE_FRAMES,
    };
    let flags = next()?;
    let mut entry = frame << 12 | flags & 0x67;
    if flags >> 8 & 3 != 0 {
        entry |= 0x27;
    }
    if flags >> 10 & 7 == 0 {
        entry = entry & !0x1f_f000 | 0x80;
    }
    if flags >> 13 & 7 == 0 {
        entry |= 1 << 63;
    }
    Some(entry)
}

/// The same in 32 bits. A large page is at 0 then, or where PSE-36 bits take it.
fn legacy(entry: u64) -> u64 {
    let large = if entry & 0x80 != 0 { 0x3f_e000 } else { 0 };
    entry & 0xffff_ffff & !large
}

/// Indices that are used over and over, so that tables meet.
const INDICES: [u64; 4] = [0, 1, 2, 511];
