//! What observers of mappings are told.

mod common;

use std::collections::BTreeMap;

use common::{Guest, NIC};
use proptest::prelude::*;
use vtd::{
    Capabilities, Event, Features, Iova, Mapping, MappingObserver, Scope, Shadow, ShadowError,
};
use vtd::{DomainId, registers::*};

/// As VFIO does: no overlap, and only what was mapped is unmapped.
#[derive(Default)]
struct Container(BTreeMap<u64, Mapping>);

impl MappingObserver for Container {
    fn map(&mut self, iova: Iova, mapping: Mapping) {
        let end = iova.0 + (mapping.bytes - 1);
        let overlaps = self.0.range(..=end).next_back();
        assert!(overlaps.is_none_or(|(at, other)| at + (other.bytes - 1) < iova.0));
        self.0.insert(iova.0, mapping);
    }

    fn unmap(&mut self, iova: Iova, mapping: Mapping) {
        assert_eq!(self.0.remove(&iova.0), Some(mapping));
    }
}

struct Assigned {
    guest: Guest,
    shadow: Shadow,
    container: Container,
}

impl Assigned {
    fn new(mappings_max: usize) -> (Self, u64) {
        let mut capabilities = Capabilities::legacy();
        capabilities.features |= Features::CACHING_MODE;
        let mut guest = Guest::new(capabilities);
        let root = guest.table();
        guest.context(NIC, 1, 0, root, 4);
        guest.enable();
        let assigned = Self {
            guest,
            shadow: Shadow::new(NIC, mappings_max),
            container: Container::default(),
        };
        (assigned, root)
    }

    /// Submits, and does what the unit asks for until the queue is done.
    fn submit(&mut self, descriptors: &[[u64; 2]]) -> Result<(), ShadowError> {
        self.guest.submit(descriptors);
        let mut outcome = Ok(());
        for event in self.guest.events() {
            if let Event::MappingsChanged(scope) = event {
                let (unit, memory) = (&mut self.guest.unit, &self.guest.memory);
                let updated = self.shadow.update(unit, memory, scope, &mut self.container);
                outcome = outcome.and(updated);
            }
        }
        self.guest.unit.process(&self.guest.memory);
        let idle = self.guest.get_quad(IQH) == self.guest.get_quad(IQT);
        assert!(idle, "the queue goes on when events were taken");
        outcome
    }
}

fn page(address: u64, bytes: u64, write: bool) -> Mapping {
    Mapping {
        address,
        bytes,
        read: true,
        write,
    }
}

#[test]
fn a_wait_completes_after_the_copy_was_made() {
    let (mut assigned, root) = Assigned::new(64);
    assigned.guest.map(root, 4, 0x1000, 0x5000 | 3, 1);
    assigned.guest.events();
    assigned.guest.submit(&[[2 | 3 << 4 | 1 << 16, 0x1000]]);
    assert!(!assigned.guest.wait(), "the event was not taken");
    assigned.guest.events();
    assigned.guest.unit.process(&assigned.guest.memory);
    assert_eq!(assigned.guest.peek(common::STATUS), 0x1234);
}

#[test]
fn an_observer_is_told_of_differences_alone() {
    let (mut assigned, root) = Assigned::new(64);
    assigned.guest.map(root, 4, 0x1000, 0x5000 | 3, 1);
    assigned.guest.map(root, 4, 0x20_0000, 0x60_0000 | 1, 2);
    assigned.submit(&[[2 | 1 << 4, 0]]).unwrap();
    let expected = BTreeMap::from([
        (0x1000, page(0x5000, 0x1000, true)),
        (0x20_0000, page(0x60_0000, 0x20_0000, false)),
    ]);
    assert_eq!(assigned.container.0, expected);
    assigned.guest.map(root, 4, 0x1000, 0, 1);
    assigned.guest.map(root, 4, 0x3000, 0x7000 | 3, 1);
    assigned.submit(&[[2 | 3 << 4 | 1 << 16, 0x1000]]).unwrap();
    assert_eq!(assigned.container.0.len(), 1, "0x3000 was not invalidated");
    assigned.submit(&[[2 | 2 << 4 | 1 << 16, 0]]).unwrap();
    assert_eq!(assigned.container.0.len(), 2);
    assigned.submit(&[[2 | 2 << 4 | 5 << 16, 0]]).unwrap();
    assert_eq!(assigned.shadow.mappings().count(), 2);
}

#[test]
fn tables_without_end_are_given_up() {
    let (mut assigned, root) = Assigned::new(64);
    for entry in 0..512 {
        assigned.guest.poke(root + 8 * entry, root | 3);
    }
    let error = assigned.submit(&[[2 | 1 << 4, 0]]);
    assert_eq!(error, Err(ShadowError::TooManyMappings(64)));
    assert_eq!(assigned.container.0.len(), 0);
}

#[test]
fn what_passes_through_is_one_mapping() {
    let (mut assigned, _) = Assigned::new(64);
    assigned.guest.context(NIC, 1, 2, 0, 4);
    assigned
        .submit(&[[1 | 1 << 4, 0], [2 | 1 << 4, 0]])
        .unwrap();
    assert_eq!(
        assigned.container.0,
        BTreeMap::from([(0, page(0, 1 << 46, true))])
    );
}

proptest! {
    /// Whatever is mapped and invalidated, the copy is what a copy from scratch is.
    #[test]
    fn a_copy_kept_up_to_date_is_a_copy_from_scratch(
        steps in prop::collection::vec((0..4_u64, 0..4_u64, 0..4_u64, any::<bool>()), 1..40),
    ) {
        let (mut assigned, root) = Assigned::new(256);
        assigned.submit(&[[2 | 1 << 4, 0]]).unwrap();
        for (mib, small, rights, large) in steps {
            let iova = mib << 21 | small << 12;
            // What is under a large page is lost with it.
            if large {
                assigned.guest.map(root, 4, iova, mib << 21 | rights, 2);
                assigned.submit(&[[2 | 3 << 4 | 1 << 16, mib << 21 | 9]]).unwrap();
            } else {
                let directory_entry = assigned.guest.walk_to_directory(root, iova);
                if assigned.guest.peek(directory_entry) & 0x80 != 0 {
                    assigned.guest.poke(directory_entry, 0);
                }
                assigned.guest.map(root, 4, iova, small << 12 | rights, 1);
                assigned.submit(&[[2 | 3 << 4 | 1 << 16, iova]]).unwrap();
            }
            let mut scratch = Shadow::new(NIC, 256);
            let (unit, memory) = (&mut assigned.guest.unit, &assigned.guest.memory);
            let scope = Scope::Domain(DomainId(1));
            scratch.update(unit, memory, scope, &mut Container::default()).unwrap();
            prop_assert!(scratch.mappings().eq(assigned.shadow.mappings()));
            prop_assert_eq!(assigned.container.0.len(), assigned.shadow.mappings().count());
        }
    }
}
