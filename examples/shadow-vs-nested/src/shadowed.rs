//! Under shadow paging. The processor walks the shadow tables, which a sink keeps in memory for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use anyhow::{Result, bail};
use guest_paging::shadow::{
    Block, Cause, Config, Flush, Guest, MachineMap, Resolution, Shadow, ShadowEntry, ShadowSink,
    TableId,
};
use guest_paging::tlb::{Invpcid, Tag, Tlb};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use guest_paging::x86::{Access, AccessKind, Context, PagingMode, Privilege};
use guest_paging::{Exchange, Gpa, Gva, Hpa, PinnedMemory, TableMemory, Unbacked};

use crate::kernel::KERNEL_INDEX;
use crate::machine::{self, Cost, Machine, Outcome};

pub(crate) struct Shadowed<'m> {
    memory: &'m GuestMemoryMmap,
    pinned: PinnedMemory<'m>,
    guest: Context,
    shadow: Shadow<Tables>,
    tables: Rc<Words>,
    /// The processor's registers, whose CR3 is the shadow's root.
    processor: Context,
    tlb: Tlb,
    monitor_references: u64,
    tables_most: u32,
    /// A translator announces the kernel's writes to its tables.
    announced: bool,
    map: Identity,
}

impl<'m> Shadowed<'m> {
    pub(crate) fn new(
        memory: &'m GuestMemoryMmap,
        config: Config,
        announced: bool,
    ) -> Result<Self> {
        let map = Identity {
            frames: config.frames.into(),
        };
        let words = usize::try_from(config.tables_max)? * 512;
        let tables = Rc::new(Words(RefCell::new(vec![0; words])));
        let sink = Tables {
            words: Rc::clone(&tables),
            root: Cell::new((TableId(0), 0)),
            loaded: Cell::new(false),
            flushes: Vec::new(),
        };
        Ok(Self {
            memory,
            pinned: PinnedMemory::new(memory)?,
            guest: machine::context(),
            shadow: Shadow::new(config, sink),
            tables,
            processor: machine::context(),
            tlb: machine::tlb(),
            monitor_references: 0,
            tables_most: 0,
            announced,
            map,
        })
    }

    /// The address in the machine, once the shadow has it.
    fn translate(&mut self, gva: Gva, access: Access) -> Result<Translated> {
        for _ in 0..3 {
            let walked = self.tlb.translate(
                &*self.tables,
                &self.processor,
                self.tag(),
                gva,
                access,
                &mut (),
            );
            if let Ok(translation) = walked {
                return Ok(Translated::At(Hpa(translation.gpa.0)));
            }
            let guest = Guest {
                memory: &self.pinned,
                map: &self.map,
                context: &self.guest,
            };
            let resolution = self.shadow.fault(guest, gva, access);
            self.monitor_references += 4;
            self.obey();
            match resolution {
                Resolution::Filled => {}
                Resolution::GuestFault(_) => return Ok(Translated::PageFault),
                Resolution::Emulate {
                    cause: Cause::GuestTable,
                    ..
                } => return Ok(Translated::Emulate),
                other => bail!("the guest should not come to {other:?}"),
            }
        }
        bail!("an access to {gva} makes no progress")
    }

    fn tag(&self) -> Tag {
        Tag {
            pcid: self.shadow.sink().root.get().1,
            ..Tag::default()
        }
    }

    /// Loads the root and flushes as the engine has said.
    fn obey(&mut self) {
        self.tables_most = self.tables_most.max(self.shadow.tables());
        let (root, _) = self.shadow.sink().root.get();
        self.processor.set_cr3(u64::from(root.0) << 12);
        let tag = self.tag();
        for flush in std::mem::take(&mut self.shadow.sink_mut().flushes) {
            match flush {
                Flush::Root(root) => self.tlb.invpcid(tag, Invpcid::SingleContext(root)),
                Flush::Range { base, size: 0x1000 } => {
                    for pcid in 0..TAGS {
                        self.tlb.invlpg(Tag { pcid, ..tag }, base);
                    }
                }
                Flush::All | Flush::Range { .. } => self.tlb.invpcid(tag, Invpcid::AllContexts),
            }
        }
    }
}

enum Translated {
    At(Hpa),
    Emulate,
    PageFault,
}

/// What became of a watched guest's access.
pub(crate) enum Missed {
    /// It goes to this address in the machine.
    At(u64),
    /// It is a write to a table: [`Shadowed::emulated`] follows.
    Emulate,
    /// It is to a device, or a fault of the guest's.
    Elsewhere,
}

/// The same for a guest that runs elsewhere and is watched: each event as it happens.
impl Shadowed<'_> {
    /// Takes the guest's registers. A flush of everything is all that most such changes are meant for.
    pub(crate) fn take_registers(&mut self, guest: &Context) {
        let another = guest.mode() != self.guest.mode() || self.shadow.sink().root_is_new();
        self.guest = guest.clone();
        self.processor = guest.clone();
        if another {
            self.shadow.reset();
            self.load_root(guest);
        } else {
            let guest = Guest {
                memory: &self.pinned,
                map: &self.map,
                context: &self.guest,
            };
            self.shadow.invalidate_all(guest);
            self.obey();
        }
    }

    pub(crate) fn load_root(&mut self, guest: &Context) {
        if guest.mode() == PagingMode::Off {
            return;
        }
        self.guest.clone_from(guest);
        let guest = Guest {
            memory: &self.pinned,
            map: &self.map,
            context: &self.guest,
        };
        self.shadow.switch_root(guest, 0, true);
        self.obey();
    }

    /// An access that a TLB may not have.
    pub(crate) fn missed(&mut self, gva: Gva, access: Access) -> Missed {
        for _ in 0..3 {
            let walked = self.tlb.translate(
                &*self.tables,
                &self.processor,
                self.tag(),
                gva,
                access,
                &mut (),
            );
            if let Ok(translation) = walked {
                return Missed::At(translation.gpa.0);
            }
            let guest = Guest {
                memory: &self.pinned,
                map: &self.map,
                context: &self.guest,
            };
            let resolution = self.shadow.fault(guest, gva, access);
            self.monitor_references += 4;
            self.obey();
            match resolution {
                Resolution::Filled => {}
                Resolution::Emulate {
                    cause: Cause::GuestTable,
                    ..
                } => return Missed::Emulate,
                _ => return Missed::Elsewhere,
            }
        }
        Missed::Elsewhere
    }

    /// Whether the shadow keeps all rules, once the guest's tables are in step.
    pub(crate) fn check(&mut self) -> Result<()> {
        let guest = Guest {
            memory: &self.pinned,
            map: &self.map,
            context: &self.guest,
        };
        self.shadow.invalidate_all(guest);
        Ok(self.shadow.check(guest)?)
    }

    pub(crate) fn announces(&self) -> bool {
        self.announced
    }

    /// The guest's table has been written by the monitor, or by an instruction that a translator knows.
    pub(crate) fn emulated(&mut self, gpa: u64, len: u64) {
        let guest = Guest {
            memory: &self.pinned,
            map: &self.map,
            context: &self.guest,
        };
        if self.announced {
            self.shadow.announce_write(guest, Gpa(gpa), len);
        } else {
            self.shadow.entry_written(guest, Gpa(gpa), len);
        }
        self.obey();
    }

    pub(crate) fn flush_page(&mut self, gva: Gva) {
        let guest = Guest {
            memory: &self.pinned,
            map: &self.map,
            context: &self.guest,
        };
        self.shadow.invlpg(guest, gva);
        self.obey();
    }

    /// Exits to devices, which no design is spared.
    pub(crate) fn device_exits(&self) -> u64 {
        self.shadow.counters().exits_other
    }
}

impl Machine for Shadowed<'_> {
    fn write_entry(&mut self, at: u64, entry: u64) -> Result<()> {
        let announced = self.announced;
        if !announced {
            let gva = Gva(0xffff << 48 | KERNEL_INDEX << 39 | at);
            let write = Access::new(AccessKind::Write, Privilege::Supervisor);
            match self.translate(gva, write)? {
                Translated::At(hpa) => {
                    return Ok(self.memory.write_obj(entry, GuestAddress(hpa.0))?);
                }
                Translated::Emulate => {}
                Translated::PageFault => bail!("the kernel's own view of memory is gone"),
            }
        }
        self.memory.write_obj(entry, GuestAddress(at))?;
        let guest = Guest {
            memory: &self.pinned,
            map: &self.map,
            context: &self.guest,
        };
        if announced {
            self.shadow.announce_write(guest, Gpa(at), 8);
        } else {
            self.shadow.entry_written(guest, Gpa(at), 8);
        }
        self.obey();
        Ok(())
    }

    fn access(&mut self, gva: u64, write: bool) -> Result<Outcome> {
        match self.translate(Gva(gva), user(write))? {
            Translated::At(_) => Ok(Outcome::Done),
            Translated::PageFault => Ok(Outcome::PageFault),
            Translated::Emulate => bail!("a program writes to a table"),
        }
    }

    fn switch(&mut self, root: u64, pcid: u16) -> Result<()> {
        self.guest.set_cr3(root << 12);
        let guest = Guest {
            memory: &self.pinned,
            map: &self.map,
            context: &self.guest,
        };
        self.shadow.switch_root(guest, pcid, true);
        self.obey();
        Ok(())
    }

    fn invlpg(&mut self, gva: u64) -> Result<()> {
        let guest = Guest {
            memory: &self.pinned,
            map: &self.map,
            context: &self.guest,
        };
        self.shadow.invlpg(guest, Gva(gva));
        self.obey();
        Ok(())
    }

    /// Kernels do not say; a table that is written to and not used is given up.
    fn release(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn cost(&self) -> Cost {
        let counters = self.shadow.counters();
        Cost {
            exits: counters.exits(),
            fault_exits: counters.exits_guest_fault + counters.exits_filled,
            write_exits: counters.exits_table_write,
            flush_exits: counters.exits_switch + counters.exits_invalidate,
            references: self.tlb.counters().references + self.monitor_references,
            monitor_bytes: u64::from(self.tables_most) * 10_264,
        }
    }
}

pub(crate) fn user(write: bool) -> Access {
    let kind = if write {
        AccessKind::Write
    } else {
        AccessKind::Read
    };
    Access::new(kind, Privilege::User)
}

/// Guest frames lie where the guest believes.
#[derive(Clone, Copy)]
struct Identity {
    frames: u64,
}

impl MachineMap for Identity {
    fn block(&self, gpa: Gpa) -> Option<Block> {
        (gpa.0 >> 12 < self.frames).then_some(Block {
            frame: Hpa(gpa.0 & !0xfff),
            large: true,
            writable: true,
        })
    }
}

/// Keeps the shadow tables as a processor walks them: table n at page n.
pub(crate) struct Tables {
    words: Rc<Words>,
    root: Cell<(TableId, u16)>,
    loaded: Cell<bool>,
    flushes: Vec<Flush>,
}

impl Tables {
    /// No root has been loaded yet.
    fn root_is_new(&self) -> bool {
        !self.loaded.get()
    }
}

impl ShadowSink for Tables {
    fn write_entry(&mut self, table: TableId, index: u32, entry: ShadowEntry) {
        let word = u64::from(table.0) * 512 + u64::from(index);
        self.words.store(word, entry.bits());
    }

    fn load_root(&mut self, root: TableId, tag: u16) {
        self.root.set((root, tag));
        self.loaded.set(true);
    }

    fn flush(&mut self, scope: Flush) {
        self.flushes.push(scope);
    }
}

/// Memory that only walks read.
struct Words(RefCell<Vec<u64>>);

impl Words {
    fn store(&self, word: u64, value: u64) {
        if let Some(word) = usize::try_from(word).ok()
            && let Some(word) = self.0.borrow_mut().get_mut(word)
        {
            *word = value;
        }
    }
}

impl TableMemory for Words {
    type Error = Unbacked;

    fn load_u32(&self, _: Gpa) -> Result<u32, Unbacked> {
        Err(Unbacked)
    }

    fn load_u64(&self, at: Gpa) -> Result<u64, Unbacked> {
        let word = usize::try_from(at.0 / 8).map_err(|_| Unbacked)?;
        self.0.borrow().get(word).copied().ok_or(Unbacked)
    }

    fn compare_exchange_u32(&self, _: Gpa, _: u32, _: u32) -> Exchange<u32, Unbacked> {
        Err(Unbacked)
    }

    /// Never needed: shadow entries are accessed and dirty from the start.
    fn compare_exchange_u64(&self, _: Gpa, _: u64, _: u64) -> Exchange<u64, Unbacked> {
        Err(Unbacked)
    }
}

/// Roots that are cached at most.
const TAGS: u16 = 16;
