use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(Space, u64, u8),
    Lookup(Space, u64),
    All,
    Domain(u16),
    Pasid(u16, u32),
    Second(u16, u64, u8),
    First(u16, u32, u64, u8),
}

fn space() -> impl Strategy<Value = Space> {
    let kinds = [Kind::Second, Kind::SecondFlags, Kind::First, Kind::Nested];
    (0..3_u16, 0..3_u32, prop::sample::select(kinds.to_vec())).prop_map(|(domain, pasid, kind)| {
        let pasid = if matches!(kind, Kind::First | Kind::Nested) {
            pasid
        } else {
            0
        };
        Space {
            domain,
            pasid,
            kind,
        }
    })
}

/// A few pages in each of a few large pages, low and high.
fn iova() -> impl Strategy<Value = u64> {
    let (gib, mib, page) = (0..3_u64, 0..3_u64, 0..6_u64);
    (gib, mib, page).prop_map(|(gib, mib, page)| gib << 55 | mib << 21 | page << 12 | 0x123)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (space(), iova(), prop::sample::select(SIZES.to_vec()))
            .prop_map(|(space, iova, size)| Step::Insert(space, iova, size)),
        8 => (space(), iova()).prop_map(|(space, iova)| Step::Lookup(space, iova)),
        1 => Just(Step::All),
        1 => (0..3_u16).prop_map(Step::Domain),
        1 => (0..3_u16, 0..3_u32).prop_map(|(domain, pasid)| Step::Pasid(domain, pasid)),
        3 => (0..3_u16, iova(), 0..12_u8).prop_map(|(d, iova, mask)| Step::Second(d, iova, mask)),
        3 => (0..3_u16, 0..3_u32, iova(), 0..12_u8)
            .prop_map(|(d, pasid, iova, mask)| Step::First(d, pasid, iova, mask)),
    ]
}

/// Pages by space, size and number.
#[derive(Default)]
struct Model {
    pages: HashMap<(Space, u8, u64), u64>,
}

impl Model {
    fn find(&self, space: Space, iova: u64) -> Option<u64> {
        let page = |size: &u8| self.pages.get(&(space, *size, iova >> size)).copied();
        SIZES.iter().find_map(page)
    }

    fn forget(&mut self, of: impl Fn(Space) -> bool) {
        self.pages.retain(|(space, ..), _| !of(*space));
    }

    fn forget_pages(&mut self, of: impl Fn(Space) -> bool, iova: u64, mask: u8) {
        let first = iova >> (12 + mask) << (12 + mask);
        let last = first + (1 << (12 + mask)) - 1;
        let whole = 1 << mask > PRECISE_PAGES_MAX;
        self.pages.retain(|(space, size, page), _| {
            let (begins, ends) = (page << size, (page << size) + (1 << size) - 1);
            !of(*space) || !(whole || begins <= last && ends >= first)
        });
    }
}

fn is_first(kind: Kind) -> bool {
    matches!(kind, Kind::First | Kind::Nested)
}

proptest! {
    /// Large enough that nothing gives way: then it must hold exactly what the model holds.
    #[test]
    fn it_holds_what_was_inserted_and_not_invalidated(steps in prop::collection::vec(step(), 1..200)) {
        let mut iotlb = Iotlb::new(4096, 4);
        let mut model = Model::default();
        for (number, step) in (1..).zip(steps) {
            match step {
                Step::Insert(space, iova, inside_bits) => {
                    let page = number << 30;
                    let entry = Entry { page, inside_bits, rights: Rights::READ };
                    iotlb.insert(space, iova, entry);
                    model.pages.insert((space, inside_bits, iova >> inside_bits), page);
                }
                Step::Lookup(space, iova) => {
                    let found = iotlb.lookup(space, iova).map(|entry| entry.page);
                    prop_assert_eq!(found, model.find(space, iova));
                }
                Step::All => {
                    iotlb.invalidate_all();
                    model.pages.clear();
                }
                Step::Domain(domain) => {
                    iotlb.invalidate_domain(domain);
                    model.forget(|space| space.domain == domain);
                }
                Step::Pasid(domain, pasid) => {
                    iotlb.invalidate_pasid(domain, pasid);
                    model.forget(|space| {
                        space.domain == domain && space.pasid == pasid && is_first(space.kind)
                    });
                }
                Step::Second(domain, iova, mask) => {
                    iotlb.invalidate_second_pages(domain, iova, mask);
                    model.forget(|space| space.domain == domain && space.kind == Kind::Nested);
                    model.forget_pages(
                        |space| space.domain == domain && !is_first(space.kind), iova, mask,
                    );
                }
                Step::First(domain, pasid, iova, mask) => {
                    iotlb.invalidate_first_pages(domain, pasid, iova, mask);
                    model.forget_pages(
                        |space| {
                            space.domain == domain && space.pasid == pasid && is_first(space.kind)
                        },
                        iova,
                        mask,
                    );
                }
            }
        }
    }

    /// As small as can be: what it still holds must be right.
    #[test]
    fn a_small_one_forgets_and_never_lies(steps in prop::collection::vec(step(), 1..200)) {
        let mut iotlb = Iotlb::new(4, 4);
        let mut truth = HashMap::new();
        for (number, step) in (1..).zip(steps) {
            match step {
                Step::Insert(space, iova, _) => {
                    let entry = Entry { page: number << 12, inside_bits: 12, rights: Rights::all() };
                    iotlb.insert(space, iova, entry);
                    truth.insert((space, iova >> 12), number << 12);
                }
                Step::Lookup(space, iova) => {
                    if let Some(entry) = iotlb.lookup(space, iova) {
                        prop_assert_eq!(Some(&entry.page), truth.get(&(space, iova >> 12)));
                        prop_assert_eq!(entry.translate(iova), entry.page | 0x123);
                    }
                }
                Step::Domain(domain) => {
                    iotlb.invalidate_domain(domain);
                    truth.retain(|(space, _), _| space.domain != domain);
                }
                _ => {
                    iotlb.invalidate_all();
                    truth.clear();
                }
            }
        }
    }
}

#[test]
fn incarnations_that_run_out_begin_again_with_nothing_cached() {
    let mut iotlb = Iotlb::new(64, 4);
    let space = |domain| Space {
        domain,
        pasid: 0,
        kind: Kind::Second,
    };
    let entry = Entry {
        page: 0x5000,
        inside_bits: 12,
        rights: Rights::READ,
    };
    iotlb.insert(space(1), 0x1000, entry);
    iotlb.spaces.exhaust();
    iotlb.insert(space(2), 0x1000, entry);
    assert_eq!(iotlb.lookup(space(1), 0x1000), None);
    assert_eq!(iotlb.lookup(space(2), 0x1000), Some(entry));
}

#[test]
fn evictions_are_counted() {
    let mut iotlb = Iotlb::new(4, 4);
    let space = Space {
        domain: 0,
        pasid: 0,
        kind: Kind::Second,
    };
    for page in 0..5 {
        let entry = Entry {
            page: 0,
            inside_bits: 12,
            rights: Rights::READ,
        };
        iotlb.insert(space, page << 12, entry);
    }
    assert_eq!(iotlb.counters().evictions, 1);
}
