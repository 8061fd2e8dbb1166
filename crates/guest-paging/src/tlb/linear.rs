//! A TLB of linear addresses, with paging-structure caches.

use super::paging_structure::PagingStructureCaches;
use super::tag::{Invept, Invpcid, Invvpid, Tag};
use crate::x86::long_mode::deny;
use crate::x86::spec::ADDRESS;
use crate::x86::{
    self, Access, AccessKind, Attributes, Context, PageFault, PageSize, PagingMode, Translation,
};
use crate::{Gpa, Gva, Observer, Reference, ReferenceKind, TableMemory, WalkError};

/// Sizes of the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlbSize {
    /// Sets of the TLB; a power of two.
    pub sets: usize,
    /// Translations in a set; 0 for none.
    pub ways: usize,
    /// Entries in each of the four paging-structure caches; 0 for none.
    pub structure_entries: usize,
}

/// How translations came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlbCounters {
    /// From the TLB.
    pub hits: u64,
    /// By a walk that began below the root.
    pub short_walks: u64,
    /// By a walk from the root.
    pub full_walks: u64,
    /// Entries that walks loaded.
    pub references: u64,
}

/// A TLB with paging-structure caches, tagged by VPID or ASID, PCID, and nested root.
///
/// Where a processor has a choice, the model takes it so: it keeps what it need not forget, except
/// that an access which a cached translation does not permit walks from the root before it faults
/// (SDM 4.10.4.1: such a fault invalidates).
#[derive(Clone, Debug)]
pub struct Tlb {
    slots: Vec<Option<Entry>>,
    size: TlbSize,
    structures: PagingStructureCaches,
    /// Way to give up next.
    next_way: usize,
    counters: TlbCounters,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    tag: Tag,
    /// Of the first byte of the page.
    gva: u64,
    translation: Translation,
}

impl Tlb {
    /// An empty TLB.
    ///
    /// # Panics
    ///
    /// Panics if `size.sets` is not a power of two.
    pub fn new(size: TlbSize) -> Self {
        assert!(size.sets.is_power_of_two(), "the sets are a power of two");
        Self {
            slots: vec![None; size.sets * size.ways],
            size,
            structures: PagingStructureCaches::new(size.structure_entries),
            next_way: 0,
            counters: TlbCounters::default(),
        }
    }

    /// Translates `gva` for `access`, from what is cached where that permits it. `memory` may be a
    /// [`nested`](crate::nested) layer: translations are then tagged with its root, and a translation
    /// of the guest physical address follows as in [`nested::walk`](crate::nested::walk).
    ///
    /// # Errors
    ///
    /// As [`x86::walk`].
    pub fn translate<M: TableMemory, O: Observer>(
        &mut self,
        memory: &M,
        context: &Context,
        tag: Tag,
        gva: Gva,
        access: Access,
        observer: &mut O,
    ) -> Result<Translation, WalkError<PageFault, M::Error>> {
        if context.mode() == PagingMode::Off {
            return x86::walk(memory, context, gva, access, observer);
        }
        if let Some(hit) = self.lookup(tag, gva) {
            let marked =
                access.kind != AccessKind::Write || hit.attributes.contains(Attributes::DIRTY);
            if marked && context.permits(&hit, access) {
                self.counters.hits += 1;
                return Ok(hit);
            }
            self.forget_address(tag, gva);
        }
        let long = matches!(
            context.mode(),
            PagingMode::FourLevel | PagingMode::FiveLevel
        );
        let start = self.structures.deepest(tag, gva).filter(|_| long);
        if let Some(start) = start {
            let mut seen = Seen::new(observer);
            let walked = x86::walk_from(memory, context, gva, access, &mut seen, start);
            self.counters.references += seen.loads;
            if let Ok(translation) = walked {
                self.counters.short_walks += 1;
                let kept = seen.entries;
                self.keep(tag, gva, translation, &kept, Some(start.denied));
                return Ok(translation);
            }
            self.forget_address(tag, gva);
        }
        let mut seen = Seen::new(observer);
        let walked = x86::walk(memory, context, gva, access, &mut seen);
        self.counters.full_walks += 1;
        self.counters.references += seen.loads;
        let kept = seen.entries;
        let translation = walked?;
        let denied = long.then_some(0);
        self.keep(tag, gva, translation, &kept, denied);
        Ok(translation)
    }

    /// What is cached for the address, if anything is.
    pub fn lookup(&self, tag: Tag, gva: Gva) -> Option<Translation> {
        SIZES.iter().find_map(|&size| {
            let page = gva.0 & !size.offset_mask();
            let entry = self.slots[self.set(page, size)]
                .iter()
                .flatten()
                .find(|entry| {
                    entry.gva == page && entry.translation.size == size && entry.serves(tag)
                })?;
            let inside = gva.0 & size.offset_mask();
            let first = entry.translation.gpa.0 & !size.offset_mask();
            Some(Translation {
                gpa: Gpa(first | inside),
                ..entry.translation
            })
        })
    }

    /// MOV to CR3: forgets all of `tag`'s PCID except globals, unless bit 63 of the operand was set
    /// with CR4.PCIDE, which is not to be told here at all.
    pub fn load_cr3(&mut self, tag: Tag) {
        self.invpcid(tag, Invpcid::SingleContext(tag.pcid));
    }

    /// INVLPG: forgets the page in the PCID, globals of it in all PCIDs, and the paging-structure
    /// caches of the PCID (SDM 4.10.4.1). For combined mappings with every nested root.
    pub fn invlpg(&mut self, tag: Tag, gva: Gva) {
        self.forget(|entry| {
            entry.tag.vpid == tag.vpid
                && (entry.tag.pcid == tag.pcid || entry.is_global())
                && entry.covers(gva)
        });
        self.structures
            .forget(|cached| cached.tag.vpid == tag.vpid && cached.tag.pcid == tag.pcid);
    }

    /// INVPCID in the VPID of `tag`.
    pub fn invpcid(&mut self, tag: Tag, what: Invpcid) {
        let named = |other: Tag| {
            other.vpid == tag.vpid
                && match what {
                    Invpcid::Address(pcid, _) | Invpcid::SingleContext(pcid) => other.pcid == pcid,
                    Invpcid::AllContexts | Invpcid::AllExceptGlobals => true,
                }
        };
        self.forget(|entry| {
            named(entry.tag)
                && match what {
                    Invpcid::Address(_, gva) => entry.covers(gva) && !entry.is_global(),
                    Invpcid::SingleContext(_) | Invpcid::AllExceptGlobals => !entry.is_global(),
                    Invpcid::AllContexts => true,
                }
        });
        self.structures.forget(|cached| named(cached.tag));
    }

    /// INVVPID.
    pub fn invvpid(&mut self, what: Invvpid) {
        let named = |tag: Tag| match what {
            Invvpid::Address(vpid, _)
            | Invvpid::SingleContext(vpid)
            | Invvpid::SingleExceptGlobals(vpid) => tag.vpid == vpid,
            Invvpid::AllContexts => tag.vpid != 0,
        };
        self.forget(|entry| {
            named(entry.tag)
                && match what {
                    Invvpid::Address(_, gva) => entry.covers(gva),
                    Invvpid::SingleExceptGlobals(_) => !entry.is_global(),
                    Invvpid::SingleContext(_) | Invvpid::AllContexts => true,
                }
        });
        self.structures.forget(|cached| named(cached.tag));
    }

    /// INVLPGA: as [`invlpg`](Self::invlpg), but for an ASID that is named and all its PCIDs (APM volume
    /// 3, INVLPGA).
    pub fn invlpga(&mut self, gva: Gva, asid: u16) {
        self.invvpid(Invvpid::Address(asid, gva));
    }

    /// INVEPT: forgets combined mappings. Linear ones stay.
    pub fn invept(&mut self, what: Invept) {
        let named = |tag: Tag| match what {
            Invept::SingleContext(root) => tag.nested_root == root && root != 0,
            Invept::AllContexts => tag.nested_root != 0,
        };
        self.forget(|entry| named(entry.tag));
        self.structures.forget(|cached| named(cached.tag));
    }

    /// How translations have come about so far.
    pub fn counters(&self) -> &TlbCounters {
        &self.counters
    }

    /// What a page fault forgets (SDM 4.10.4.1).
    fn forget_address(&mut self, tag: Tag, gva: Gva) {
        self.forget(|entry| entry.serves(tag) && entry.covers(gva));
        self.structures
            .forget(|cached| cached.tag == tag && cached.covers(gva));
    }

    fn forget(&mut self, goes: impl Fn(&Entry) -> bool) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(&goes) {
                *slot = None;
            }
        }
    }

    fn keep(
        &mut self,
        tag: Tag,
        gva: Gva,
        translation: Translation,
        seen: &[Option<u64>; 6],
        denied: Option<u64>,
    ) {
        if let Some(mut denied) = denied {
            let leaf = match translation.size {
                PageSize::Size4K => 1,
                PageSize::Size2M | PageSize::Size4M => 2,
                PageSize::Size1G => 3,
            };
            for level in (leaf + 1..=5_u8).rev() {
                if let Some(entry) = seen[usize::from(level)] {
                    denied = deny(denied, entry);
                    let table = Gpa(entry & ADDRESS);
                    self.structures.insert(tag, gva, level, table, denied);
                }
            }
        }
        if self.size.ways == 0 {
            return;
        }
        let page = gva.0 & !translation.size.offset_mask();
        // An older translation of the address, if any is left, must not win over this one.
        self.forget(|entry| entry.serves(tag) && entry.covers(gva));
        let set = self.set(page, translation.size);
        self.next_way = (self.next_way + 1) % self.size.ways;
        let ways = &mut self.slots[set];
        let way = ways
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.next_way);
        ways[way] = Some(Entry {
            tag,
            gva: page,
            translation,
        });
    }

    fn set(&self, page: u64, size: PageSize) -> std::ops::Range<usize> {
        let number = usize::try_from(page >> size as u8).unwrap_or(0);
        let set = number & (self.size.sets - 1);
        set * self.size.ways..(set + 1) * self.size.ways
    }
}

impl Entry {
    fn is_global(&self) -> bool {
        self.translation.attributes.contains(Attributes::GLOBAL)
    }

    fn covers(&self, gva: Gva) -> bool {
        gva.0 & !self.translation.size.offset_mask() == self.gva
    }

    /// Whether an access of `tag` may use it: globals serve all PCIDs.
    fn serves(&self, tag: Tag) -> bool {
        let whose = Tag {
            pcid: if self.is_global() {
                self.tag.pcid
            } else {
                tag.pcid
            },
            ..tag
        };
        self.tag == whose
    }
}

/// Listens to a walk, keeps the last entry of each level, and passes everything on.
struct Seen<'o, O> {
    observer: &'o mut O,
    entries: [Option<u64>; 6],
    loads: u64,
}

impl<'o, O> Seen<'o, O> {
    fn new(observer: &'o mut O) -> Self {
        Self {
            observer,
            entries: [None; 6],
            loads: 0,
        }
    }
}

impl<O: Observer> Observer for Seen<'_, O> {
    fn reference(&mut self, reference: Reference) {
        let entry = match reference.kind {
            ReferenceKind::Update(written) => written,
            ReferenceKind::Load | ReferenceKind::LostUpdate => reference.entry,
        };
        self.loads += u64::from(reference.kind == ReferenceKind::Load);
        self.entries[usize::from(reference.level)] = Some(entry);
        self.observer.reference(reference);
    }
}

const SIZES: [PageSize; 4] = [
    PageSize::Size4K,
    PageSize::Size2M,
    PageSize::Size4M,
    PageSize::Size1G,
];
