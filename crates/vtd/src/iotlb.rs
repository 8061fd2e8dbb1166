//! The IOTLB: translations by address space, page and page size (VT-d 6.2.4).
//!
//! An address space (a domain's second stage, or a first stage by domain and PASID) is known by its
//! *incarnation*, a number that is never used twice. To invalidate a space is to forget its incarnation:
//! whatever was cached under it can no longer be found, and is overwritten in time. So all but
//! page-selective invalidations take a constant time, however many entries there are.

mod spaces;

pub use spaces::{Kind, Space};

use spaces::Spaces;

/// Bits of an incarnation: 17 in an entry's first word and 19 in its second.
const INCARNATION_BITS: u32 = 36;

/// A page-selective invalidation of more pages than this invalidates the whole space.
pub const PRECISE_PAGES_MAX: u64 = 1024;

/// A bounded cache of translations.
///
/// Sets of four entries, one cache line each. Nothing is allocated after [`new`](Self::new).
#[derive(Clone, Debug)]
pub struct Iotlb {
    sets: Vec<Set>,
    /// Their number is a power of two.
    set_bits: u32,
    spaces: Spaces,
    /// Entries that were made of each size since the last time that all were cleared.
    sizes: [bool; SIZES.len()],
    victim: u8,
    counters: IotlbCounters,
}

/// What an [`Iotlb`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IotlbCounters {
    /// Look-ups that found an entry.
    pub hits: u64,
    /// Look-ups that found none.
    pub misses: u64,
    /// Entries that were overwritten by others; entries of invalidated spaces among them.
    pub evictions: u64,
    /// Invalidations of everything.
    pub global_invalidations: u64,
    /// Invalidations of a domain or of a PASID in it.
    pub space_invalidations: u64,
    /// Page-selective invalidations.
    pub page_invalidations: u64,
}

/// A cached translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The address that the page begins at below; bits 51:12.
    pub page: u64,
    /// Bits of an address inside the page: 12, 21 or 30.
    pub inside_bits: u8,
    /// What may be done there.
    pub rights: Rights,
}

bitflags::bitflags! {
    /// What a cached translation permits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Rights: u8 {
        /// Reads.
        const READ = 1 << 0;
        /// Writes, with the dirty flag set where there is one.
        const WRITE = 1 << 1;
        /// Requests without privilege; what the second stage permits, it permits to all.
        const USER = 1 << 2;
        /// Privileged requests may write.
        const PRIVILEGED_WRITE = 1 << 3;
        /// The leaf forces snooping.
        const SNOOP = 1 << 4;
    }
}

impl Entry {
    /// Where `iova` leads.
    #[inline]
    #[must_use]
    pub fn translate(&self, iova: u64) -> u64 {
        self.page | iova & ((1 << self.inside_bits) - 1)
    }
}

const WAYS: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Set([Slot; WAYS]);

/// Bits 63:19 of `tag` are the page number of its size, 18:17 the index of the size plus one, and 16:0 the
/// low bits of the incarnation. `value` has the page below in 51:12, the rest of the incarnation in 63:52
/// and 11:5, the rights in 4:0.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    tag: u64,
    value: u64,
}

/// Page sizes, the commonest first.
const SIZES: [u8; 3] = [12, 21, 30];
const PAGE: u64 = 0x000f_ffff_ffff_f000;
const RIGHTS: u64 = 0x1f;
const LOW: u32 = 17;

impl Iotlb {
    /// An empty cache of `entries` translations for domains of `domain_bits` bits.
    ///
    /// Takes 16 bytes for each entry, and 24 for each domain.
    ///
    /// # Panics
    ///
    /// Panics if `entries` is not a power of two from 4 to 262,144, or `domain_bits` is above 16.
    #[must_use]
    pub fn new(entries: u32, domain_bits: u8) -> Self {
        let legal = entries.is_power_of_two() && (4..=1 << 18).contains(&entries);
        assert!(legal, "{entries} entries: a power of two from 4 to 262,144");
        assert!(domain_bits <= 16, "a domain id has 16 bits");
        let entries = usize::try_from(entries).expect("18 bits");
        Self {
            sets: vec![Set::default(); entries / WAYS],
            set_bits: (entries / WAYS).trailing_zeros(),
            spaces: Spaces::new(domain_bits),
            sizes: [false; SIZES.len()],
            victim: 0,
            counters: IotlbCounters::default(),
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> IotlbCounters {
        self.counters
    }

    /// The cached translation of `iova` in `space`, whatever it permits. `iova` is below 2^57, or has
    /// bits 63:57 like bit 56.
    #[inline]
    pub fn lookup(&mut self, space: Space, iova: u64) -> Option<Entry> {
        if let Some(incarnation) = self.spaces.incarnation(space) {
            for (size, used) in self.sizes.iter().enumerate() {
                if *used && let Some(entry) = self.probe(incarnation, size, iova) {
                    self.counters.hits += 1;
                    return Some(entry);
                }
            }
        }
        self.counters.misses += 1;
        None
    }

    #[inline]
    fn probe(&self, incarnation: u64, size: usize, iova: u64) -> Option<Entry> {
        let (tag, high) = key(incarnation, size, iova);
        let set = &self.sets[self.index(tag, high)].0;
        // Which way has it, no branch could foretell.
        let mut way = 0;
        for (other, slot) in set.iter().enumerate().skip(1) {
            way = if slot.tag == tag { other } else { way };
        }
        let mut value = set[way].value;
        if !set[way].is(tag, high) {
            // A miss, or one whose tag an older incarnation has as well.
            value = set.iter().find(|slot| slot.is(tag, high))?.value;
        }
        Some(Entry {
            page: value & PAGE,
            inside_bits: SIZES[size],
            rights: Rights::from_bits_retain((value & RIGHTS).to_le_bytes()[0]),
        })
    }

    /// The set of an entry. Four neighbours share one, and neighbouring sets lie beside each other, so that a
    /// dense range of addresses is dense in memory and has no conflicts; where it begins is hashed.
    #[inline]
    fn index(&self, tag: u64, high: u64) -> usize {
        let group = tag >> (19 + 2);
        let block = group >> self.set_bits;
        let seed = block << 19 ^ tag & ((1 << 19) - 1) ^ high.rotate_left(7);
        let hash = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let set = (group ^ hash) & (self.sets.len() as u64 - 1);
        usize::try_from(set).expect("below the number of sets")
    }

    /// Caches a translation, over an earlier one of the same page.
    ///
    /// # Panics
    ///
    /// Panics if the page size is none of the three.
    pub fn insert(&mut self, space: Space, iova: u64, entry: Entry) {
        let size = SIZES.iter().position(|&size| size == entry.inside_bits);
        let size = size.expect("pages of 4 KiB, 2 MiB and 1 GiB");
        let incarnation = match self.spaces.incarnation(space) {
            Some(incarnation) => incarnation,
            None => self.incarnate(space),
        };
        self.sizes[size] = true;
        let (tag, high) = key(incarnation, size, iova);
        let index = self.index(tag, high);
        let set = &mut self.sets[index].0;
        let same = set.iter().position(|slot| slot.is(tag, high));
        let way = same.or_else(|| set.iter().position(|slot| slot.tag == 0));
        let way = way.unwrap_or_else(|| {
            self.victim = (self.victim + 1) % 4;
            self.counters.evictions += 1;
            usize::from(self.victim)
        });
        let rights = u64::from(entry.rights.bits()) & RIGHTS;
        set[way] = Slot {
            tag,
            value: entry.page & PAGE | high | rights,
        };
    }

    #[cold]
    fn incarnate(&mut self, space: Space) -> u64 {
        if self.spaces.is_exhausted() {
            self.invalidate_all();
            self.clear();
        }
        self.spaces.incarnate(space)
    }

    /// Nothing refers to old incarnations any more, so that they can be used again.
    fn clear(&mut self) {
        self.sets.fill(Set::default());
        self.sizes = [false; SIZES.len()];
        self.spaces.restart();
    }

    /// Invalidates everything.
    pub fn invalidate_all(&mut self) {
        self.counters.global_invalidations += 1;
        self.spaces.forget_all();
    }

    /// Invalidates everything of a domain.
    pub fn invalidate_domain(&mut self, domain: u16) {
        self.counters.space_invalidations += 1;
        self.spaces.forget_domain(domain);
    }

    /// Invalidates the first-stage and nested translations of a PASID in a domain.
    pub fn invalidate_pasid(&mut self, domain: u16, pasid: u32) {
        self.counters.space_invalidations += 1;
        for kind in [Kind::First, Kind::Nested] {
            self.spaces.forget(Space {
                domain,
                pasid,
                kind,
            });
        }
    }

    /// Invalidates `2^mask` pages of 4 KiB of a domain's second stage, from the multiple of so many at or
    /// below `iova`, and every larger page that has one of them; and all nested translations of the domain, since
    /// those are not cached by the addresses that the second stage takes.
    ///
    /// Beyond [`PRECISE_PAGES_MAX`] pages all of the domain's second stage is invalidated.
    pub fn invalidate_second_pages(&mut self, domain: u16, iova: u64, mask: u8) {
        self.counters.page_invalidations += 1;
        self.spaces.forget_nested(domain);
        for kind in [Kind::Second, Kind::SecondFlags] {
            self.invalidate_pages(
                Space {
                    domain,
                    pasid: 0,
                    kind,
                },
                iova,
                mask,
            );
        }
    }

    /// As [`invalidate_second_pages`](Self::invalidate_second_pages) for the first-stage and nested
    /// translations of a PASID.
    pub fn invalidate_first_pages(&mut self, domain: u16, pasid: u32, iova: u64, mask: u8) {
        self.counters.page_invalidations += 1;
        for kind in [Kind::First, Kind::Nested] {
            self.invalidate_pages(
                Space {
                    domain,
                    pasid,
                    kind,
                },
                iova,
                mask,
            );
        }
    }

    fn invalidate_pages(&mut self, space: Space, iova: u64, mask: u8) {
        if mask >= 52 || 1 << mask > PRECISE_PAGES_MAX {
            return self.spaces.forget(space);
        }
        let Some(incarnation) = self.spaces.incarnation(space) else {
            return;
        };
        let bytes = 1_u64 << (12 + mask);
        let first = iova & !(bytes - 1);
        for (size, bits) in SIZES.iter().enumerate() {
            if !self.sizes[size] {
                continue;
            }
            for page in 0..=(bytes - 1) >> bits {
                self.remove(incarnation, size, first + (page << bits));
            }
        }
    }

    fn remove(&mut self, incarnation: u64, size: usize, iova: u64) {
        let (tag, high) = key(incarnation, size, iova);
        let index = self.index(tag, high);
        for slot in &mut self.sets[index].0 {
            if slot.is(tag, high) {
                *slot = Slot::default();
            }
        }
    }
}

impl Slot {
    #[inline]
    fn is(&self, tag: u64, high: u64) -> bool {
        (self.tag ^ tag) | (self.value & !(PAGE | RIGHTS) ^ high) == 0
    }
}

/// What the words of an entry must be.
#[inline]
fn key(incarnation: u64, size: usize, iova: u64) -> (u64, u64) {
    let page = (iova & ((1 << 57) - 1)) >> SIZES[size];
    let tag = page << 19 | (size as u64 + 1) << LOW | incarnation & ((1 << LOW) - 1);
    let rest = incarnation >> LOW;
    (tag, (rest & 0xfff) << 52 | (rest >> 12) << 5)
}

#[cfg(test)]
mod tests;
