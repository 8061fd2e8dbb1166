//! After a guest has invalidated what it changed, and has waited for that, nothing of the old is served.

mod common;

use common::{CONTEXTS, Guest, NIC};
use proptest::prelude::*;
use vtd::registers::*;
use vtd::{AccessKind, Capabilities, Iova, Request, SourceId, Unit};

fn small(entries: u32) -> Capabilities {
    Capabilities {
        domain_bits: 4,
        iotlb_entries: entries,
        ..Capabilities::legacy()
    }
}

/// What the 2 MiB from 0 on may be: level 2 entry and, if that is a table, the entry of page 1.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mapped {
    Nothing,
    Small { page: u64, rights: u64 },
    Large { page: u64, rights: u64 },
}

const MAPPED: [Mapped; 7] = [
    Mapped::Nothing,
    Mapped::Small {
        page: 0x5000,
        rights: 1,
    },
    Mapped::Small {
        page: 0x5000,
        rights: 3,
    },
    Mapped::Small {
        page: 0x6000,
        rights: 2,
    },
    Mapped::Large {
        page: 0x60_0000,
        rights: 1,
    },
    Mapped::Large {
        page: 0x60_0000,
        rights: 3,
    },
    Mapped::Large {
        page: 0x80_0000,
        rights: 3,
    },
];

impl Mapped {
    /// What the manual says of page 1.
    fn expected(self, write: bool) -> Result<u64, u8> {
        let (address, rights) = match self {
            Self::Nothing => (0, 0),
            Self::Small { page, rights } => (page, rights),
            Self::Large { page, rights } => (page + 0x1000, rights),
        };
        match (write, rights & if write { 2 } else { 1 }) {
            (_, 1 | 2) => Ok(address),
            (true, _) => Err(5),
            (false, _) => Err(6),
        }
    }

    fn install(self, guest: &Guest, directory: u64, table: u64) {
        let (entry, leaf) = match self {
            Self::Nothing => (0, 0),
            Self::Small { page, rights } => (table | 3, page | rights),
            Self::Large { page, rights } => (page | 1 << 7 | rights, 0),
        };
        guest.poke(table + 8, leaf);
        guest.poke(directory, entry);
    }
}

/// Everything that invalidates page 1 of domain 1.
const INVALIDATIONS: [fn(&mut Guest); 8] = [
    |guest| guest.submit(&[[2 | 1 << 4, 0]]),
    |guest| guest.submit(&[[2 | 2 << 4 | 1 << 16, 0]]),
    // The page, 8 pages around it, all that IVA can name.
    |guest| guest.submit(&[[2 | 3 << 4 | 1 << 16, 0x1000]]),
    |guest| guest.submit(&[[2 | 3 << 4 | 1 << 16, 0x7000 | 3 | 1 << 6]]),
    |guest| guest.submit(&[[2 | 3 << 4 | 1 << 16, 18]]),
    |guest| guest.set_quad(IOTLB, IVT | 1 << 60),
    |guest| {
        guest.set_quad(IVA, 0x1000);
        guest.set_quad(IOTLB, IVT | 3 << 60 | 1 << 32);
    },
    |guest| guest.command(SRTP),
];

/// Every change from one mapping to another, under every invalidation, with any of the accesses made
/// before.
#[test]
fn every_change_is_seen_after_every_invalidation() {
    let mut guest = Guest::new(small(64));
    let (root, level3, directory, table) =
        (guest.table(), guest.table(), guest.table(), guest.table());
    guest.context(NIC, 1, 0, root, 4);
    guest.poke(root, level3 | 3);
    guest.poke(level3, directory | 3);
    guest.enable();
    let mut checks = 0;
    for invalidate in INVALIDATIONS {
        for (from, to) in MAPPED.iter().flat_map(|from| MAPPED.map(|to| (from, to))) {
            for accesses in 0..8 {
                from.install(&guest, directory, table);
                guest.submit(&[[2 | 1 << 4, 0]]);
                for (access, write) in [(1, false), (2, true), (4, false)] {
                    if accesses & access != 0 {
                        let found = if write {
                            guest.write(0x1000)
                        } else {
                            guest.read(0x1000)
                        };
                        assert_eq!(found, from.expected(write));
                    }
                }
                to.install(&guest, directory, table);
                invalidate(&mut guest);
                assert!(guest.wait());
                assert_eq!(guest.read(0x1000), to.expected(false), "{from:?} {to:?}");
                assert_eq!(guest.write(0x1000), to.expected(true), "{from:?} {to:?}");
                checks += 1;
            }
        }
    }
    assert_eq!(checks, 8 * 49 * 8);
}

/// What a correct guest does.
#[derive(Clone, Debug)]
enum Step {
    /// Device, page, entry.
    Map(usize, u64, u64),
    /// Device, and the domain it is given.
    Attach(usize, u16),
    Access(usize, u64, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let entry = (0..4_u64, 0..16_u64).prop_map(|(rights, page)| page << 12 | rights);
    prop_oneof![
        2 => (0..3_usize, 0..6_u64, entry).prop_map(|(d, page, entry)| Step::Map(d, page, entry)),
        1 => (0..3_usize, 1..4_u16).prop_map(|(device, domain)| Step::Attach(device, domain)),
        4 => (0..3_usize, 0..6_u64, any::<bool>()).prop_map(|(d, page, w)| Step::Access(d, page, w)),
    ]
}

const DEVICES: [SourceId; 3] = [
    SourceId::new(0, 2, 0),
    SourceId::new(0, 2, 1),
    SourceId::new(0, 31, 7),
];

proptest! {
    /// Three devices in three domains beside a unit that has just begun and has cached nothing.
    #[test]
    fn caches_change_no_answer(
        steps in prop::collection::vec(step(), 1..60),
        entries in prop::sample::select(vec![4, 16, 256]),
    ) {
        let capabilities = small(entries);
        let mut guest = Guest::new(capabilities);
        let roots: Vec<u64> = (0..4).map(|_| guest.table()).collect();
        let mut domains = [1_u16, 2, 3];
        for (device, domain) in DEVICES.iter().zip(domains) {
            guest.context(*device, domain, 0, roots[usize::from(domain)], 3);
        }
        guest.enable();
        for step in steps {
            match step {
                Step::Map(device, page, entry) => {
                    let domain = domains[device];
                    guest.map(roots[usize::from(domain)], 3, page << 12, entry, 1);
                    let domain = u64::from(domain) << 16;
                    guest.submit(&[[2 | 3 << 4 | domain, page << 12]]);
                }
                Step::Attach(device, domain) => {
                    let source = DEVICES[device];
                    let old = u64::from(domains[device]) << 16;
                    domains[device] = domain;
                    let at = CONTEXTS + u64::from(source.function()) * 16;
                    guest.poke(at, 0);
                    let of_device = 1 | 3 << 4 | old | u64::from(source.0) << 32;
                    guest.submit(&[[of_device, 0], [2 | 2 << 4 | old, 0]]);
                    guest.context(source, domain, 0, roots[usize::from(domain)], 3);
                }
                Step::Access(device, page, write) => {
                    let kind = if write { AccessKind::Write } else { AccessKind::Read };
                    let request = Request::new(DEVICES[device], Iova(page << 12), kind);
                    let mut cold = Unit::restore(capabilities, &guest.unit.state()).unwrap();
                    let expected = cold.translate(&guest.memory, &request);
                    let found = guest.unit.translate(&guest.memory, &request);
                    prop_assert_eq!(found, expected);
                }
            }
            prop_assert!(guest.wait());
        }
    }
}
