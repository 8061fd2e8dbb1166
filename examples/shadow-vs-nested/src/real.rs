//! A kernel that runs in x86-dbt, and beside it each design as the monitor of that guest would have it.
//!
//! The processor tells of every miss of its TLB, load of CR3, INVLPG and write to a table, as they
//! happen. Every design gets the same events; none changes what the guest does.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use guest_paging::ept;
use guest_paging::nested::{Ground, Layer, Purpose, Stage, StageAccess, Trace};
use guest_paging::tlb::{Invpcid, Tag, Tlb};
use guest_paging::vm_memory::{GuestAddress, GuestMemoryMmap};
use guest_paging::x86::{self, Access, AccessKind, Context, PagingMode, Privilege};
use guest_paging::{Exchange, Gpa, Gva, Observer, PinnedMemory, Reference, TableMemory, Unbacked};
use machine::kernel::{self, ElfEntry, KernelImage};
use machine::{
    Board, BoardConfig, Chipset, CpuModel, DbtEngine, Outcome, PagingObserver, PciRoot, Stop,
};

use crate::machine as model;
use crate::machine::Cost;
use crate::nested::{capabilities, fill};
use crate::shadowed::{Missed, Shadowed};
use crate::{Args, shadow_policies};

/// Boots the kernel until it powers off, and gives what each design would have cost.
pub(crate) fn costs(kernel: &Path, args: &Args) -> Result<(String, Vec<(&'static str, Cost)>)> {
    let bytes = u64::from(args.memory) << 20;
    let ram = kernel::allocate_ram(bytes)?;
    let image = KernelImage::read(kernel)?;
    let image = image.unpacked().unwrap_or(image);
    let initrd = args.initrd.as_deref().map(kernel::read_file).transpose()?;
    let guest = kernel::Guest {
        kernel: &image,
        initrd: initrd.as_deref(),
        command_line: &args.cmdline,
        entry: ElfEntry::Auto,
        acpi: Some(&machine::acpi_tables(1, PciRoot::Hidden, None)),
    };
    let start = kernel::load(&ram, &guest)?;
    let mut engine = DbtEngine::new(&ram, &start, Chipset::M1, CpuModel::Default)?;
    let mut board = Board::new(BoardConfig {
        chipset: Chipset::M1,
        processors: 1,
        ram: bytes,
        unix_seconds: 0,
        ns_per_instruction: 1,
        test_device: None,
        disk: None,
        firmware_files: Vec::new(),
        network: None,
        x2apic: true,
        iommu: None,
        console: Box::new(std::io::stderr()),
    });
    // As long as the program: the observer outlives all borrows.
    let ram: &'static GuestMemoryMmap = Box::leak(Box::new(ram));
    let designs = Rc::new(RefCell::new(Designs::new(ram, bytes >> 12)?));
    engine.observe_paging(Box::new(Witness(Rc::clone(&designs))));
    match engine.run(&mut board, Duration::from_secs(3600)) {
        Stop::Outcome(Outcome::PowerOff | Outcome::Reset | Outcome::DebugExit(0))
        | Stop::Halted => {}
        other => bail!("the guest stopped otherwise: {other:?}"),
    }
    let mut designs = designs.borrow_mut();
    let costs = designs.costs();
    for (name, shadowed) in &mut designs.shadows {
        shadowed.check().with_context(|| (*name).to_owned())?;
    }
    if designs.wrong != 0 {
        bail!(
            "{} translations of shadows are not the guest's",
            designs.wrong
        );
    }
    let name = kernel.file_name().context("a file")?.to_string_lossy();
    let title = format!(
        "{name}, {} M instructions, {} misses of x86-dbt's TLB, {} frames with tables, {} exits to devices",
        engine.cost().instructions / 1_000_000,
        designs.misses,
        designs.tables.count,
        designs.shadows[0].1.device_exits(),
    );
    Ok((title, costs))
}

struct Designs {
    memory: PinnedMemory<'static>,
    shadows: Vec<(&'static str, Shadowed<'static>)>,
    /// Of those, which must emulate the write that is under way.
    emulating: Vec<bool>,
    nested: Nested,
    tables: Tables,
    misses: u64,
    /// Translations through a shadow that a walk of the guest's tables does not give at that time.
    wrong: u64,
}

impl Designs {
    fn new(ram: &'static GuestMemoryMmap, frames: u64) -> Result<Self> {
        let mut shadows = Vec::new();
        for (name, config, announced) in shadow_policies(frames)? {
            shadows.push((name, Shadowed::new(ram, config, announced)?));
        }
        Ok(Self {
            memory: PinnedMemory::new(ram)?,
            emulating: vec![false; shadows.len()],
            shadows,
            nested: Nested::new(ram, frames)?,
            tables: Tables {
                known: vec![false; usize::try_from(frames)?],
                news: Vec::new(),
                count: 0,
            },
            misses: 0,
            wrong: 0,
        })
    }

    fn costs(&self) -> Vec<(&'static str, Cost)> {
        let device_exits = self.shadows[0].1.device_exits();
        let mut costs: Vec<_> = self
            .shadows
            .iter()
            .map(|(name, shadowed)| (*name, crate::machine::Machine::cost(shadowed)))
            .collect();
        let nested = Cost {
            exits: device_exits,
            references: self.nested.references,
            monitor_bytes: self.nested.table_bytes,
            ..Cost::default()
        };
        costs.push(("nested", nested));
        costs
    }

    fn missed(&mut self, context: &Context, gva: Gva, access: Access) {
        if context.mode() == PagingMode::Off {
            return;
        }
        // The frames that the walk goes through are tables from now on.
        let walked = x86::probe(&self.memory, context, gva, access, &mut self.tables);
        let address = walked.ok().map(|found| found.gpa);
        let to_table =
            access.kind == AccessKind::Write && address.is_some_and(|gpa| self.tables.has(gpa));
        // A write to a frame that is watched misses each time.
        self.misses += u64::from(!to_table);
        for ((_, shadowed), emulating) in self.shadows.iter_mut().zip(&mut self.emulating) {
            *emulating = to_table && shadowed.announces();
            if *emulating {
                continue;
            }
            match shadowed.missed(gva, access) {
                Missed::Emulate => *emulating = to_table,
                // Guest frames lie where the guest believes.
                Missed::At(at) => self.wrong += u64::from(address != Some(Gpa(at))),
                Missed::Elsewhere => {}
            }
        }
        self.nested.missed(context, gva, access);
    }
}

/// The frames that walks have gone through.
struct Tables {
    known: Vec<bool>,
    news: Vec<u64>,
    count: u64,
}

impl Tables {
    fn has(&self, gpa: Gpa) -> bool {
        let frame = usize::try_from(gpa.0 >> 12).ok();
        frame.is_some_and(|frame| self.known.get(frame) == Some(&true))
    }
}

impl Observer for Tables {
    fn reference(&mut self, reference: Reference) {
        let frame = usize::try_from(reference.at.0 >> 12).ok();
        if let Some(known) = frame.and_then(|frame| self.known.get_mut(frame))
            && !*known
        {
            *known = true;
            self.count += 1;
            self.news.push(reference.at.0 & !0xfff);
        }
    }
}

/// What the processor tells, handed to all designs.
struct Witness(Rc<RefCell<Designs>>);

impl PagingObserver for Witness {
    fn missed(&mut self, context: &Context, gva: Gva, access: Access) {
        self.0.borrow_mut().missed(context, gva, access);
    }

    fn root_loaded(&mut self, context: &Context) {
        let mut designs = self.0.borrow_mut();
        for (_, shadowed) in &mut designs.shadows {
            shadowed.load_root(context);
        }
        designs.nested.flush(false);
    }

    fn registers_changed(&mut self, context: &Context) {
        let mut designs = self.0.borrow_mut();
        if context.mode() != PagingMode::Off {
            for (_, shadowed) in &mut designs.shadows {
                shadowed.take_registers(context);
            }
        }
        designs.nested.flush(true);
    }

    fn page_flushed(&mut self, _: &Context, gva: Gva) {
        let mut designs = self.0.borrow_mut();
        for (_, shadowed) in &mut designs.shadows {
            shadowed.flush_page(gva);
        }
        designs.nested.flush_page(gva);
    }

    fn written(&mut self, _: &Context, gpa: u64, len: u64) {
        let designs = &mut *self.0.borrow_mut();
        for ((_, shadowed), emulating) in designs.shadows.iter_mut().zip(&designs.emulating) {
            if *emulating {
                shadowed.emulated(gpa, len);
            }
        }
    }

    fn take_watched(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.0.borrow_mut().tables.news)
    }
}

/// The guest over an EPT of its own, which lies where the guest has nothing.
struct Nested {
    memory: Both,
    ept: ept::Context,
    tlb: Tlb,
    references: u64,
    table_bytes: u64,
}

impl Nested {
    fn new(ram: &'static GuestMemoryMmap, frames: u64) -> Result<Self> {
        let root = EPT_BASE >> 12;
        let tables = frames.div_ceil(512);
        let directories = tables.div_ceil(512);
        let table_bytes = (2 + directories + tables) << 12;
        let size = usize::try_from(table_bytes)?;
        let own = GuestMemoryMmap::from_ranges(&[(GuestAddress(EPT_BASE), size)])?;
        let first = root + 2 + directories;
        fill(&own, root, 1, root + 1, 7)?;
        fill(&own, root + 1, directories, root + 2, 7)?;
        fill(&own, root + 2, tables, first, 7)?;
        fill(&own, first, frames, 0, 0x37)?;
        let own: &'static GuestMemoryMmap = Box::leak(Box::new(own));
        Ok(Self {
            memory: Both {
                guest: PinnedMemory::new(ram)?,
                own: PinnedMemory::new(own)?,
            },
            ept: ept::Context::new(&capabilities(), EPT_BASE | 3 << 3 | 6),
            tlb: model::tlb(),
            references: 0,
            table_bytes,
        })
    }

    fn missed(&mut self, context: &Context, gva: Gva, access: Access) {
        let trace = Trace::default();
        let stack = Stage::new(1, &self.ept, Ground::new(&self.memory, 1), &trace);
        let walks = self.tlb.counters().full_walks;
        let mut listener = &trace;
        let walked = self
            .tlb
            .translate(&stack, context, TAG, gva, access, &mut listener);
        if let Ok(translation) = walked
            && self.tlb.counters().full_walks != walks
        {
            let access = StageAccess {
                kind: access.kind,
                purpose: Purpose::Translated,
                user_address: access.privilege == Privilege::User,
            };
            // A device's address has no translation: that exit is counted apart.
            let _device = stack.descend(translation.gpa, access);
        }
        self.references += trace.take().len() as u64;
    }

    fn flush(&mut self, globals: bool) {
        let what = if globals {
            Invpcid::AllContexts
        } else {
            Invpcid::SingleContext(0)
        };
        self.tlb.invpcid(TAG, what);
    }

    fn flush_page(&mut self, gva: Gva) {
        self.tlb.invlpg(TAG, gva);
    }
}

/// Guest memory below, the monitor's above.
struct Both {
    guest: PinnedMemory<'static>,
    own: PinnedMemory<'static>,
}

impl Both {
    fn of(&self, at: Gpa) -> &PinnedMemory<'static> {
        if at.0 < EPT_BASE {
            &self.guest
        } else {
            &self.own
        }
    }
}

impl TableMemory for Both {
    type Error = Unbacked;

    fn load_u32(&self, at: Gpa) -> Result<u32, Unbacked> {
        self.of(at).load_u32(at)
    }

    fn load_u64(&self, at: Gpa) -> Result<u64, Unbacked> {
        self.of(at).load_u64(at)
    }

    fn compare_exchange_u32(&self, at: Gpa, current: u32, new: u32) -> Exchange<u32, Unbacked> {
        self.of(at).compare_exchange_u32(at, current, new)
    }

    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Unbacked> {
        self.of(at).compare_exchange_u64(at, current, new)
    }
}

const EPT_BASE: u64 = 1 << 36;
const TAG: Tag = Tag {
    vpid: 1,
    pcid: 0,
    nested_root: EPT_BASE,
};
