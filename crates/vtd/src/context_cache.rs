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
    sets: Vec<[Option<Context>; WAYS]>,
    victim: usize,
}

impl ContextCache {
    pub(crate) fn new() -> Self {
        Self {
            sets: (0..SETS).map(|_| [const { None }; WAYS]).collect(),
            victim: 0,
        }
    }

    pub(crate) fn get(&self, source_id: SourceId, pasid: Option<Pasid>) -> Option<&Context> {
        let mut ways = self.sets[set(source_id, pasid)].iter().flatten();
        ways.find(|context| context.source_id == source_id && context.named == pasid)
    }

    pub(crate) fn insert(&mut self, context: Context) {
        let set = &mut self.sets[set(context.source_id, context.named)];
        let way = set.iter().position(Option::is_none).unwrap_or_else(|| {
            self.victim = (self.victim + 1) % WAYS;
            self.victim
        });
        set[way] = Some(context);
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
        for way in self.sets.iter_mut().flatten() {
            if way.as_ref().is_some_and(|context| !keep(context)) {
                *way = None;
            }
        }
    }
}

fn set(source_id: SourceId, pasid: Option<Pasid>) -> usize {
    let pasid = pasid.map_or(0, |pasid| pasid.number() + 1);
    let mixed = (pasid ^ u32::from(source_id.0) << 7).wrapping_mul(0x9e37_79b9);
    usize::try_from(mixed >> 26).expect("6 bits")
}
