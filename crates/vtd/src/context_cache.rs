//! The context cache and the PASID cache in one: what root, context and PASID tables say of a requester
//! and a process (VT-d 6.2.2 and 6.2.3).

use crate::context::Context;
use crate::ids::{DomainId, Pasid, SourceId};

/// Sets of contexts, four each.
const SETS: usize = 64;
const WAYS: usize = 4;

/// A bounded cache of contexts. Entries that are not present are never cached.
#[derive(Clone, Debug)]
pub(crate) struct ContextCache {
    /// [`name`] of each entry, or 0: one cache line holds those of two sets.
    names: Vec<[u64; WAYS]>,
    sets: Vec<[Option<Context>; WAYS]>,
    victim: usize,
}

impl ContextCache {
    pub(crate) fn new() -> Self {
        Self {
            names: vec![[0; WAYS]; SETS],
            sets: (0..SETS).map(|_| [const { None }; WAYS]).collect(),
            victim: 0,
        }
    }

    #[inline]
    pub(crate) fn get(&self, source_id: SourceId, pasid: Option<Pasid>) -> Option<&Context> {
        let name = name(source_id, pasid);
        let set = set(name);
        let way = self.names[set].iter().position(|&one| one == name)?;
        self.sets[set][way].as_ref()
    }

    pub(crate) fn insert(&mut self, context: Context) {
        let name = name(context.source_id, context.named);
        let set = set(name);
        let names = &mut self.names[set];
        let way = names.iter().position(|&one| one == 0).unwrap_or_else(|| {
            self.victim = (self.victim + 1) % WAYS;
            self.victim
        });
        names[way] = name;
        self.sets[set][way] = Some(context);
    }

    pub(crate) fn invalidate_all(&mut self) {
        self.retain(|_| false);
    }

    pub(crate) fn invalidate_domain(&mut self, domain: DomainId) {
        self.retain(|context| context.domain != domain);
    }

    /// Invalidates the functions that are `source_id` with the function bits in `mask` left out: FM is
    /// 0 to 3, and masks bit 2, bits 2:1 or bits 2:0.
    pub(crate) fn invalidate_device(&mut self, source_id: SourceId, mask: u8) {
        let ignored = [0, 0b100, 0b110, 0b111][usize::from(mask & 3)];
        self.retain(|context| (context.source_id.0 ^ source_id.0) & !ignored != 0);
    }

    pub(crate) fn invalidate_pasid(&mut self, domain: DomainId, pasid: Pasid) {
        self.retain(|context| context.domain != domain || context.pasid != pasid);
    }

    fn retain(&mut self, keep: impl Fn(&Context) -> bool) {
        let names = self.names.iter_mut().flatten();
        for (name, way) in names.zip(self.sets.iter_mut().flatten()) {
            if way.as_ref().is_some_and(|context| !keep(context)) {
                (*name, *way) = (0, None);
            }
        }
    }
}

/// Never 0.
#[inline]
fn name(source_id: SourceId, pasid: Option<Pasid>) -> u64 {
    let pasid = pasid.map_or(1, |pasid| u64::from(pasid.number()) + 2);
    pasid << 16 | u64::from(source_id.0)
}

#[inline]
fn set(name: u64) -> usize {
    let hash = name.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
    usize::try_from(hash).expect("6 bits")
}
