//! Address spaces and their incarnations.

use super::INCARNATION_BITS;

/// An address space whose translations are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Space {
    /// The domain.
    pub domain: u16,
    /// Below 2^20. Has no meaning where the kind is a second stage.
    pub pasid: u32,
    /// Which translation it is.
    pub kind: Kind,
}

/// What translated the addresses of a [`Space`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The second stage of a domain.
    Second = 0,
    /// The same with accessed and dirty flags: without, a cached page says nothing of its flags.
    SecondFlags = 1,
    /// The first stage of a PASID.
    First = 2,
    /// The first stage of a PASID over the second.
    Nested = 3,
}

/// Which incarnation each space has.
#[derive(Clone, Debug)]
pub(super) struct Spaces {
    domains: Vec<Domain>,
    pasids: Vec<[Named; 4]>,
    victim: u8,
    /// The last incarnation that was given out.
    last: u64,
    /// No incarnation up to this one is in force.
    floor: u64,
}

/// Incarnations of a domain. 0 is none.
#[derive(Clone, Copy, Debug, Default)]
struct Domain {
    second: [u64; 2],
    /// No incarnation of the domain's PASIDs up to this one is in force.
    floor: u64,
    /// The same for nested spaces alone.
    nested_floor: u64,
}

/// An incarnation of a PASID's space.
#[derive(Clone, Copy, Debug, Default)]
struct Named {
    /// [`name`] of the space, or 0.
    name: u64,
    incarnation: u64,
}

/// Sets of PASID spaces, four each.
const SETS: usize = 1024;

impl Spaces {
    pub(super) fn new(domain_bits: u8) -> Self {
        Self {
            domains: vec![Domain::default(); 1 << domain_bits],
            pasids: vec![[Named::default(); 4]; SETS],
            victim: 0,
            last: 0,
            floor: 0,
        }
    }

    #[inline]
    fn domain(&self, domain: u16) -> usize {
        usize::from(domain) & (self.domains.len() - 1)
    }

    #[inline]
    pub(super) fn incarnation(&self, space: Space) -> Option<u64> {
        let domain = &self.domains[self.domain(space.domain)];
        let incarnation = match space.kind {
            Kind::Second => domain.second[0],
            Kind::SecondFlags => domain.second[1],
            Kind::First | Kind::Nested => return self.of_pasid(space, domain),
        };
        (incarnation > self.floor).then_some(incarnation)
    }

    fn of_pasid(&self, space: Space, domain: &Domain) -> Option<u64> {
        let name = name(space);
        let found = self.pasids[set(name)].iter().find(|one| one.name == name)?;
        let mut floor = self.floor.max(domain.floor);
        if space.kind == Kind::Nested {
            floor = floor.max(domain.nested_floor);
        }
        (found.incarnation > floor).then_some(found.incarnation)
    }

    /// Whether all incarnations were given out.
    pub(super) fn is_exhausted(&self) -> bool {
        self.last >> INCARNATION_BITS != 0 || self.last + 1 == 1 << INCARNATION_BITS
    }

    pub(super) fn incarnate(&mut self, space: Space) -> u64 {
        self.last += 1;
        let incarnation = self.last;
        let domain = self.domain(space.domain);
        match space.kind {
            Kind::Second => self.domains[domain].second[0] = incarnation,
            Kind::SecondFlags => self.domains[domain].second[1] = incarnation,
            Kind::First | Kind::Nested => self.name(space, incarnation),
        }
        incarnation
    }

    /// A space that must give way is merely given another incarnation when it is used again.
    fn name(&mut self, space: Space, incarnation: u64) {
        let name = name(space);
        let ways = &mut self.pasids[set(name)];
        let way = ways.iter().position(|one| one.name == name);
        let way = way.or_else(|| ways.iter().position(|one| one.name == 0));
        let way = way.unwrap_or_else(|| {
            self.victim = (self.victim + 1) % 4;
            usize::from(self.victim)
        });
        ways[way] = Named { name, incarnation };
    }

    pub(super) fn forget_all(&mut self) {
        self.floor = self.last;
    }

    pub(super) fn forget_domain(&mut self, domain: u16) {
        let domain = self.domain(domain);
        self.domains[domain] = Domain {
            second: [0; 2],
            floor: self.last,
            nested_floor: self.last,
        };
    }

    pub(super) fn forget_nested(&mut self, domain: u16) {
        let domain = self.domain(domain);
        self.domains[domain].nested_floor = self.last;
    }

    pub(super) fn forget(&mut self, space: Space) {
        let domain = self.domain(space.domain);
        match space.kind {
            Kind::Second => self.domains[domain].second[0] = 0,
            Kind::SecondFlags => self.domains[domain].second[1] = 0,
            Kind::First | Kind::Nested => {
                let name = name(space);
                for one in &mut self.pasids[set(name)] {
                    if one.name == name {
                        *one = Named::default();
                    }
                }
            }
        }
    }

    /// Counts from the beginning again. Nothing may be cached under any incarnation.
    pub(super) fn restart(&mut self) {
        self.domains.fill(Domain::default());
        self.pasids.fill([Named::default(); 4]);
        (self.last, self.floor) = (0, 0);
    }

    #[cfg(test)]
    pub(super) fn exhaust(&mut self) {
        self.last = (1 << INCARNATION_BITS) - 1;
    }
}

/// Never 0.
fn name(space: Space) -> u64 {
    let pasid = u64::from(space.pasid & 0xf_ffff);
    pasid << 20 | u64::from(space.domain) << 4 | space.kind as u64
}

fn set(name: u64) -> usize {
    let hash = name.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    usize::try_from(hash).expect("10 bits")
}
