//! Mappings of a device in a copy that is kept up to date, for hardware that the copy is loaded into: a device
//! of the host's, handed to the guest through VFIO.

use std::collections::BTreeMap;

use guest_paging::nested::{Purpose, StageAccess};
use guest_paging::x86::AccessKind as PagingKind;
use guest_paging::{Gpa, Observer, Reference, SearchedMemory, probe};
use vm_memory::GuestMemory;

use crate::context::{Second, Way};
use crate::event::Scope;
use crate::fault::AccessKind;
use crate::ids::{DomainId, Iova, SourceId};
use crate::translate::Request;
use crate::unit::Unit;

/// Is told how a device's mappings change.
pub trait MappingObserver {
    /// A range is mapped that was not.
    fn map(&mut self, iova: Iova, mapping: Mapping);

    /// A range is mapped no more; it is one that was given to [`map`](Self::map).
    fn unmap(&mut self, iova: Iova, mapping: Mapping);
}

/// Where a range of device addresses leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// The guest physical address that it begins at.
    pub address: u64,
    /// How many bytes, a power of two.
    pub bytes: u64,
    /// Reads are permitted.
    pub read: bool,
    /// Writes are permitted.
    pub write: bool,
}

/// Why a device's mappings cannot be copied. Nothing is mapped for it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShadowError {
    /// The tables map more pages, or have more entries, than the copy may have.
    #[error("the tables of the device have more than {0} pages")]
    TooManyMappings(usize),
    /// A first stage translates: its tables may change without an invalidation.
    #[error("the device uses first-stage translation")]
    FirstStage,
}

/// The mappings that an observer was told of, of one device.
///
/// Bring it up to date at each [`Event::MappingsChanged`](crate::Event::MappingsChanged), which needs
/// [`Features::CACHING_MODE`](crate::Features::CACHING_MODE).
#[derive(Clone, Debug)]
pub struct Shadow {
    source_id: SourceId,
    mappings: BTreeMap<u64, Mapping>,
    mappings_max: usize,
}

/// Entries that are looked at for each mapping that there may be, and besides: tables may well be empty, and
/// have 512 entries each.
const STEPS_PER_MAPPING: usize = 8;
const STEPS_BESIDES: usize = 1 << 16;

impl Shadow {
    /// A copy of at most `mappings_max` mappings. It is empty: bring it up to date with [`Scope::All`].
    #[must_use]
    pub fn new(source_id: SourceId, mappings_max: usize) -> Self {
        Self {
            source_id,
            mappings: BTreeMap::new(),
            mappings_max,
        }
    }

    /// The mappings now, in ascending order.
    pub fn mappings(&self) -> impl Iterator<Item = (Iova, Mapping)> + '_ {
        self.mappings
            .iter()
            .map(|(&iova, &mapping)| (Iova(iova), mapping))
    }

    /// Tells `observer` what changed within `scope`: first what is unmapped, then what is mapped.
    ///
    /// # Errors
    ///
    /// Returns why the mappings cannot be copied; all were unmapped.
    pub fn update<M: GuestMemory + ?Sized>(
        &mut self,
        unit: &mut Unit,
        memory: &M,
        scope: Scope,
        observer: &mut impl MappingObserver,
    ) -> Result<(), ShadowError> {
        let (mut first, mut last) = match scope {
            Scope::Pages { address, bytes, .. } => (address.0, address.0 + (bytes - 1)),
            Scope::All | Scope::Domain(_) | Scope::Process(..) => (0, u64::MAX),
        };
        let mut found = BTreeMap::new();
        // A page that reaches out of the range is replaced whole, and so is what is under it: once for each size.
        for _ in 0..3 {
            found = match self.find(unit, memory, scope, first, last) {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.replace(BTreeMap::new(), 0, u64::MAX, observer);
                    return Err(error);
                }
            };
            let (before, after) = (first, last);
            for (&iova, mapping) in found.iter().chain(&self.mappings) {
                if touches(iova, mapping, before, after) {
                    first = first.min(iova);
                    last = last.max(iova + (mapping.bytes - 1));
                }
            }
            if (before, after) == (first, last) {
                break;
            }
        }
        self.replace(found, first, last, observer);
        if self.mappings.len() > self.mappings_max {
            self.replace(BTreeMap::new(), 0, u64::MAX, observer);
            return Err(ShadowError::TooManyMappings(self.mappings_max));
        }
        Ok(())
    }

    /// All mappings that touch the range; `None` if the scope is not this device's.
    fn find<M: GuestMemory + ?Sized>(
        &self,
        unit: &mut Unit,
        memory: &M,
        scope: Scope,
        first: u64,
        last: u64,
    ) -> Result<Option<BTreeMap<u64, Mapping>>, ShadowError> {
        let identity = Mapping {
            address: 0,
            bytes: 1 << unit.capabilities.host_address_bits,
            read: true,
            write: true,
        };
        if !unit.translates() {
            return Ok(Some(BTreeMap::from([(0, identity)])));
        }
        let request = Request::new(self.source_id, Iova(0), AccessKind::Read);
        let Ok(context) = unit.context(memory, &request) else {
            return Ok(Some(BTreeMap::new()));
        };
        if !concerns(scope, context.domain) {
            return Ok(None);
        }
        match &context.way {
            Way::PassThrough => Ok(Some(BTreeMap::from([(0, identity)]))),
            Way::Second(second) => self.enumerate(memory, second, first, last).map(Some),
            Way::First(_) | Way::Nested(..) => Err(ShadowError::FirstStage),
        }
    }

    fn enumerate<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        second: &Second,
        first: u64,
        last: u64,
    ) -> Result<BTreeMap<u64, Mapping>, ShadowError> {
        let end = last.min((1 << second.width) - 1);
        let memory = SearchedMemory(memory);
        let mut found = BTreeMap::new();
        let mut at = first;
        let steps_max = self.mappings_max.saturating_mul(STEPS_PER_MAPPING);
        for _ in 0..steps_max.saturating_add(STEPS_BESIDES) {
            if at > end {
                return Ok(found);
            }
            let (mapping, inside_bits) = look(&memory, second, at);
            let begin = at >> inside_bits << inside_bits;
            if let Some(mapping) = mapping {
                found.insert(begin, mapping);
            }
            at = begin + (1 << inside_bits);
        }
        if at > end {
            return Ok(found);
        }
        Err(ShadowError::TooManyMappings(self.mappings_max))
    }

    /// Replaces the mappings that touch the range by those found.
    fn replace(
        &mut self,
        found: BTreeMap<u64, Mapping>,
        first: u64,
        last: u64,
        observer: &mut impl MappingObserver,
    ) {
        let gone = |(&iova, mapping): (&u64, &Mapping)| {
            let changed = found.get(&iova) != Some(mapping);
            (changed && touches(iova, mapping, first, last)).then_some(iova)
        };
        let gone: Vec<u64> = self.mappings.iter().filter_map(gone).collect();
        for iova in gone {
            if let Some(mapping) = self.mappings.remove(&iova) {
                observer.unmap(Iova(iova), mapping);
            }
        }
        for (iova, mapping) in found {
            if self.mappings.insert(iova, mapping).is_none() {
                observer.map(Iova(iova), mapping);
            }
        }
    }
}

fn touches(iova: u64, mapping: &Mapping, first: u64, last: u64) -> bool {
    iova <= last && iova + (mapping.bytes - 1) >= first
}

fn concerns(scope: Scope, domain: DomainId) -> bool {
    match scope {
        Scope::All => true,
        Scope::Domain(of) | Scope::Pages { domain: of, .. } | Scope::Process(of, _) => of == domain,
    }
}

/// The mapping of an address, and how many bits of it are inside the page, or inside the hole.
fn look<M: GuestMemory + ?Sized>(
    memory: &SearchedMemory<'_, M>,
    second: &Second,
    at: u64,
) -> (Option<Mapping>, u8) {
    let mut level = 1;
    for kind in [PagingKind::Read, PagingKind::Write] {
        let access = StageAccess {
            kind,
            purpose: Purpose::Translated,
            user_address: false,
        };
        let mut last = LastLevel(second.levels());
        if let Ok(found) = probe(memory, &second.context, Gpa(at), access, &mut last) {
            let bytes = found.size.bytes();
            let mapping = Mapping {
                address: found.address.0 & !(bytes - 1),
                bytes,
                read: found.read,
                write: found.write,
            };
            return (Some(mapping), found.size as u8);
        }
        level = last.0;
    }
    (None, 12 + 9 * (level - 1))
}

/// The level of a walk's last reference.
struct LastLevel(u8);

impl Observer for LastLevel {
    fn reference(&mut self, reference: Reference) {
        self.0 = reference.level;
    }
}
