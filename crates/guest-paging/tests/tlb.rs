//! TLB models: what they keep is what the architecture lets a processor keep.

use std::cell::RefCell;

use guest_paging::nested::{self, Ground, Stage, Trace};
use guest_paging::tlb::{Invept, Invpcid, Invvpid, StageCache, Tag, Tlb, TlbSize};
use guest_paging::x86::{
    self, Access, AccessKind, Attributes, Context, Privilege, Processor, Registers, Translation,
    Vendor,
};
use guest_paging::{Exchange, Gpa, Gva, PinnedMemory, Reference, TableMemory, Unbacked, ept};
use proptest::prelude::*;
use support::random::Random;
use support::tables::{EPT, Pages, Tree, X86};
use vm_memory::{GuestAddress, GuestMemoryMmap};

mod support {
    pub(crate) mod random;
    pub(crate) mod tables;
}

const READ: Access = Access::new(AccessKind::Read, Privilege::Supervisor);
const WRITE: Access = Access::new(AccessKind::Write, Privilege::Supervisor);

/// Memory that remembers what it held, and when that was overwritten.
struct Memory {
    words: RefCell<Vec<u64>>,
    overwritten: RefCell<Vec<(u64, usize, u64)>>,
    now: RefCell<u64>,
}

impl Memory {
    fn new(frames: usize) -> Self {
        Self {
            words: RefCell::new(vec![0; frames * 512]),
            overwritten: RefCell::default(),
            now: RefCell::new(1),
        }
    }

    fn load(&self, at: Gpa) -> Result<u64, Unbacked> {
        let word = usize::try_from(at.0 / 8).map_err(|_| Unbacked)?;
        self.words.borrow().get(word).copied().ok_or(Unbacked)
    }

    fn store(&self, at: u64, value: u64) {
        let word = usize::try_from(at / 8).unwrap();
        let old = std::mem::replace(&mut self.words.borrow_mut()[word], value);
        let log = (self.tick(), word, old);
        self.overwritten.borrow_mut().push(log);
    }

    fn tick(&self) -> u64 {
        *self.now.borrow_mut() += 1;
        *self.now.borrow()
    }

    /// What the word held at any time from `since` on.
    fn values(&self, at: u64, since: u64) -> Vec<u64> {
        let Ok(current) = self.load(Gpa(at)) else {
            return Vec::new();
        };
        let word = usize::try_from(at / 8).unwrap();
        let log = self.overwritten.borrow();
        let old = log
            .iter()
            .filter(|&&(when, which, _)| which == word && when >= since)
            .map(|&(_, _, value)| value);
        let mut values: Vec<u64> = old.chain([current]).collect();
        values.sort_unstable();
        values.dedup();
        values
    }
}

impl TableMemory for Memory {
    type Error = Unbacked;

    fn load_u32(&self, _: Gpa) -> Result<u32, Unbacked> {
        unreachable!("4-level paging has 64-bit entries")
    }

    fn load_u64(&self, at: Gpa) -> Result<u64, Unbacked> {
        self.load(at)
    }

    fn compare_exchange_u32(&self, _: Gpa, _: u32, _: u32) -> Exchange<u32, Unbacked> {
        unreachable!("4-level paging has 64-bit entries")
    }

    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Unbacked> {
        let found = self.load(at)?;
        if found == current {
            self.store(at.0, new);
        }
        Ok(if found == current {
            Ok(found)
        } else {
            Err(found)
        })
    }
}

fn context(root: u64) -> Context {
    let registers = Registers {
        cr0: 1 << 31 | 1 << 16,
        cr3: root,
        cr4: 1 << 5 | 1 << 7 | 1 << 17,
        efer: 1 << 10 | 1 << 11,
        ..Registers::default()
    };
    let processor = Processor {
        vendor: Vendor::Intel,
        maxphyaddr: 40,
        gib_pages: false,
        pse36: true,
    };
    Context::new(&processor, &registers)
}

fn tag(pcid: u16) -> Tag {
    Tag {
        pcid,
        ..Tag::default()
    }
}

/// Two PCIDs, each with its root, over the same few tables; and when each page was flushed.
struct World {
    memory: Memory,
    tlb: Tlb,
    contexts: [Context; 2],
    flushed: [Vec<u64>; 2],
    /// A flush that the model is not told of.
    broken: Option<u64>,
    stale: u32,
}

impl World {
    fn new(size: TlbSize, broken: Option<u64>) -> Self {
        let memory = Memory::new(10);
        for (at, entry) in [
            (0x1000, 0x3027),
            (0x2000, 0x3027),
            (0x3000, 0x4027),
            (0x4000, 0x5027),
            (0x4008, 0x6027),
        ] {
            memory.store(at, entry);
        }
        for page in 0..4 {
            memory.store(0x5000 + 8 * page, page << 12 | 0x67);
            memory.store(0x6000 + 8 * page, page << 12 | 0x167);
        }
        Self {
            memory,
            tlb: Tlb::new(size),
            contexts: [context(0x1000), context(0x2000)],
            flushed: [vec![0; PAGES.len()], vec![0; PAGES.len()]],
            broken,
            stale: 0,
        }
    }

    fn step(&mut self, random: &mut Random) -> Result<(), String> {
        let operation = random.next() % 16;
        let pcid = usize::try_from(random.next() % 2).unwrap();
        let page = usize::try_from(random.next() % PAGES.len() as u64).unwrap();
        let tagged = tag(u16::try_from(pcid).unwrap() + 1);
        let now = self.memory.tick();
        let told = self.broken != Some(operation);
        match operation {
            0..=7 => return self.access(pcid, page, random.next().is_multiple_of(3)),
            8 => {
                self.flushed[pcid][page] = now;
                if told {
                    self.tlb.invlpg(tagged, Gva(PAGES[page]));
                }
            }
            9 => {
                self.flushed[pcid].fill(now);
                if told {
                    self.tlb.invpcid(tag(0), Invpcid::AllContexts);
                }
                self.flushed[1 - pcid].fill(now);
            }
            // Globals stay, so that no page counts as flushed.
            10 => self.tlb.load_cr3(tagged),
            _ => {
                let table = 1 + random.next() % 8;
                let index = [0, 1, 2, 3, 511][usize::try_from(random.next() % 5).unwrap()];
                let frame = 3 + random.next() % 6;
                let flags = random.next() & random.next() & (1 << 63) | random.next() & 0x166;
                let entry = frame << 12 | flags | u64::from(!random.next().is_multiple_of(5));
                self.memory.store(table * 0x1000 + index * 8, entry);
            }
        }
        Ok(())
    }

    fn access(&mut self, pcid: usize, page: usize, write: bool) -> Result<(), String> {
        let (gva, access) = (Gva(PAGES[page]), if write { WRITE } else { READ });
        let (memory, context) = (&self.memory, &self.contexts[pcid]);
        let number = u16::try_from(pcid).unwrap() + 1;
        let answer = self
            .tlb
            .translate(memory, context, tag(number), gva, access, &mut ());
        let fresh = x86::probe(memory, context, gva, access, &mut ());
        let Ok(translation) = answer else {
            return if answer.err() == fresh.err() {
                Ok(())
            } else {
                Err(format!("{gva} faults without reason"))
            };
        };
        if fresh.is_ok_and(|fresh| fresh == translation) {
            return Ok(());
        }
        self.stale += 1;
        let global = translation.attributes.contains(Attributes::GLOBAL);
        let legal = (0..2)
            .filter(|&owner| owner == pcid || global)
            .any(|owner| {
                let root = [0x1000, 0x2000][owner];
                let since = self.flushed[owner][page];
                self.is_legal(&translation, gva.0, since, 4, root, 0b111)
            });
        if legal {
            Ok(())
        } else {
            Err(format!(
                "{gva} is {translation:x?}, which it has not been since its flush"
            ))
        }
    }

    /// Whether some mix of the values since then gives the translation. `granted`: execute, user and
    /// write, from bit 2 down.
    fn is_legal(
        &self,
        translation: &Translation,
        gva: u64,
        since: u64,
        level: u32,
        table: u64,
        granted: u8,
    ) -> bool {
        let index = gva >> (3 + 9 * level) & 511;
        let values = self.memory.values(table + 8 * index, since);
        values.into_iter().any(|entry| {
            let page = entry & 1 << 7 != 0;
            let frame = entry & 0xf_ffff_f000;
            let mut granted = granted;
            for (bit, granting) in [(0, entry & 2), (1, entry & 4), (2, !entry >> 62 & 2)] {
                if granting == 0 {
                    granted &= !(1 << bit);
                }
            }
            if entry & 0x21 != 0x21 || level > 2 && page {
                return false;
            }
            if level > 1 && !page {
                return self.is_legal(translation, gva, since, level - 1, frame, granted);
            }
            let has = |right| translation.attributes.contains(right);
            let size = if level == 1 { 0x1000 } else { 0x20_0000 };
            translation.size.bytes() == size
                && translation.gpa.0 == frame | gva & (size - 1)
                && has(Attributes::WRITE) == (granted & 1 != 0)
                && has(Attributes::USER) == (granted & 2 != 0)
                && has(Attributes::EXECUTE) == (granted & 4 != 0)
                && has(Attributes::DIRTY) == (entry & 1 << 6 != 0)
                && has(Attributes::GLOBAL) == (entry & 1 << 8 != 0)
        })
    }
}

const PAGES: [u64; 10] = [
    0,
    0x1000,
    0x2000,
    0x3000,
    0x20_0000,
    0x20_1000,
    0x20_2000,
    0x4000_0000,
    0x1ff000,
    0x80_0000_0000,
];
const SMALL: TlbSize = TlbSize {
    sets: 4,
    ways: 2,
    structure_entries: 2,
};

fn run(size: TlbSize, broken: Option<u64>, seed: u64) -> Result<u32, String> {
    let mut random = Random(seed);
    let mut world = World::new(size, broken);
    for _ in 0..400 {
        world.step(&mut random)?;
    }
    Ok(world.stale)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn what_is_cached_may_be_stale(seed: u64, ways in 0..4_usize, structure_entries in 0..4_usize) {
        let size = TlbSize { sets: 4, ways, structure_entries };
        prop_assert!(run(size, None, seed).is_ok());
    }
}

#[test]
fn a_model_that_ignores_an_invalidation_is_found() {
    for broken in [8, 9] {
        let found = (0..200).any(|seed| run(SMALL, Some(broken), seed).is_err());
        assert!(found, "operation {broken}");
    }
    let stale: u32 = (0..50).map(|seed| run(SMALL, None, seed).unwrap()).sum();
    assert!(stale > 50, "nothing was ever stale: {stale}");
}

#[test]
fn references_fall_from_four_to_one_to_none() {
    let mut world = World::new(SMALL, None);
    let mut seen: Vec<Reference> = Vec::new();
    let mut references = |gva: u64, world: &mut World| {
        let (memory, context) = (&world.memory, &world.contexts[0]);
        seen.clear();
        let tlb = &mut world.tlb;
        tlb.translate(memory, context, tag(1), Gva(gva), READ, &mut seen)
            .unwrap();
        seen.len()
    };
    assert_eq!(references(0, &mut world), 4);
    assert_eq!(references(8, &mut world), 0, "from the TLB");
    assert_eq!(references(0x1000, &mut world), 1, "from the PDE cache");
    assert_eq!(references(0x20_0000, &mut world), 2, "from the PDPTE cache");
}

/// Fills a global and another page for two PCIDs of two VPIDs, and tells which are left.
fn left_after(invalidate: impl Fn(&mut Tlb)) -> Vec<(u16, u16, &'static str)> {
    let world = World::new(
        TlbSize {
            sets: 16,
            ways: 8,
            structure_entries: 0,
        },
        None,
    );
    let mut tlb = world.tlb.clone();
    let pages = [("page", 0x1000), ("global", 0x20_1000)];
    let tags = [(0, 1), (0, 2), (1, 1), (1, 2)];
    let of = |(vpid, pcid)| Tag {
        vpid,
        pcid,
        nested_root: if vpid == 0 { 0 } else { 0x7000 },
    };
    for &whose in &tags {
        for (_, gva) in pages {
            let (memory, context) = (&world.memory, &world.contexts[0]);
            tlb.translate(memory, context, of(whose), Gva(gva), READ, &mut ())
                .unwrap();
        }
    }
    invalidate(&mut tlb);
    let mut left = Vec::new();
    for &whose in &tags {
        for (name, gva) in pages {
            if tlb.lookup(of(whose), Gva(gva)).is_some() {
                left.push((whose.0, whose.1, name));
            }
        }
    }
    left
}

const ALL: [(u16, u16, &str); 8] = [
    (0, 1, "page"),
    (0, 1, "global"),
    (0, 2, "page"),
    (0, 2, "global"),
    (1, 1, "page"),
    (1, 1, "global"),
    (1, 2, "page"),
    (1, 2, "global"),
];

fn all_but(gone: impl Fn(&(u16, u16, &'static str)) -> bool) -> Vec<(u16, u16, &'static str)> {
    ALL.into_iter().filter(|entry| !gone(entry)).collect()
}

#[test]
fn each_instruction_invalidates_what_the_manual_says() {
    assert_eq!(left_after(|_| {}), ALL);
    // MOV to CR3: SDM 4.10.4.1.
    let tagged = tag(1);
    assert_eq!(
        left_after(|tlb| tlb.load_cr3(tagged)),
        all_but(|&(vpid, pcid, page)| (vpid, pcid, page) == (0, 1, "page"))
    );
    assert_eq!(
        left_after(|tlb| tlb.invlpg(tagged, Gva(0x1008))),
        all_but(|&(vpid, pcid, page)| (vpid, pcid, page) == (0, 1, "page"))
    );
    assert_eq!(
        left_after(|tlb| tlb.invlpg(tagged, Gva(0x20_1008))),
        all_but(|&(vpid, _, page)| vpid == 0 && page == "global")
    );
    assert_eq!(
        left_after(|tlb| tlb.invpcid(tagged, Invpcid::Address(2, Gva(0x1000)))),
        all_but(|&(vpid, pcid, page)| (vpid, pcid, page) == (0, 2, "page"))
    );
    assert_eq!(
        left_after(|tlb| tlb.invpcid(tagged, Invpcid::AllContexts)),
        all_but(|&(vpid, ..)| vpid == 0)
    );
    assert_eq!(
        left_after(|tlb| tlb.invpcid(tagged, Invpcid::AllExceptGlobals)),
        all_but(|&(vpid, _, page)| vpid == 0 && page == "page")
    );
    assert_eq!(
        left_after(|tlb| tlb.invlpga(Gva(0x1fff), 1)),
        all_but(|&(vpid, _, page)| vpid == 1 && page == "page")
    );
    assert_eq!(
        left_after(|tlb| tlb.invvpid(Invvpid::Address(1, Gva(0x1000)))),
        all_but(|&(vpid, _, page)| vpid == 1 && page == "page")
    );
    assert_eq!(
        left_after(|tlb| tlb.invvpid(Invvpid::SingleExceptGlobals(1))),
        all_but(|&(vpid, _, page)| vpid == 1 && page == "page")
    );
    let of_vpid_1 = all_but(|&(vpid, ..)| vpid == 1);
    for what in [Invvpid::SingleContext(1), Invvpid::AllContexts] {
        assert_eq!(left_after(|tlb| tlb.invvpid(what)), of_vpid_1);
    }
    for what in [Invept::SingleContext(0x7000), Invept::AllContexts] {
        assert_eq!(left_after(|tlb| tlb.invept(what)), of_vpid_1);
    }
    assert_eq!(
        left_after(|tlb| tlb.invept(Invept::SingleContext(0x8000))),
        ALL
    );
}

#[test]
fn a_write_walks_again_until_the_page_is_dirty() {
    let mut world = World::new(SMALL, None);
    world.memory.store(0x5000, 0x27);
    let (memory, context) = (&world.memory, &world.contexts[0]);
    let tlb = &mut world.tlb;
    tlb.translate(memory, context, tag(1), Gva(0), READ, &mut ())
        .unwrap();
    assert_eq!(memory.load(Gpa(0x5000)).unwrap(), 0x27);
    tlb.translate(memory, context, tag(1), Gva(0), WRITE, &mut ())
        .unwrap();
    assert_eq!(memory.load(Gpa(0x5000)).unwrap(), 0x67);
}

#[test]
fn a_cached_stage_spares_most_of_the_24_references() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
    let mut pages = Pages {
        memory: &memory,
        next: 0x4_0000,
    };
    let guest = Tree {
        root: 0x1000,
        levels: 4,
        bits: X86,
        offset: 0,
    };
    let stage = Tree {
        root: 0x2_0000,
        levels: 4,
        bits: EPT,
        offset: 0,
    };
    pages.map(&guest, 0x5000, 0x8000);
    for page in 0..0x100 {
        pages.map(&stage, page << 12, page << 12);
    }
    let capabilities = ept::Capabilities {
        maxphyaddr: 40,
        execute_only: true,
        mib_pages: true,
        gib_pages: true,
        mode_based_execute: false,
    };
    let ept = ept::Context::new(&capabilities, 0x2_0000 | 3 << 3 | 6);
    let cache = StageCache::new(&ept, 1024);
    let pinned = PinnedMemory::new(&memory).unwrap();
    let trace = Trace::default();
    let stack = Stage::new(1, &cache, Ground::new(&pinned, 1), &trace);
    let context = context(0x1000);
    let count = |gva| {
        let walked = nested::walk(&stack, &context, Gva(gva), READ, &mut &trace).unwrap();
        assert_eq!(walked.address, Gpa(0x8000 | gva & 0xfff));
        trace.take().len()
    };
    assert_eq!(count(0x5000), 24);
    assert_eq!(count(0x5008), 4, "the guest's own entries alone");
    cache.invalidate();
    assert_eq!(count(0x5000), 24);
    assert_eq!((cache.hits(), cache.walks()), (5, 10));
}
