//! How the guest's tables lie under their shadows, which have 512 entries of 64 bits whatever the guest's
//! are.
//!
//! In 4-level and 5-level paging one table has one shadow. PAE paging has four entries at the top that
//! are in registers, not in a table: the shadow's root, of level 3, stands for those. 32-bit paging has
//! tables of 1024 entries: each half of a page table has a shadow of its own, and each quarter of a page
//! directory, in whose shadow two entries stand for one of the guest's. The root above the quarters
//! stands for nothing of the guest.

use std::ops::Range;

use super::store::{ENTRIES, EntryId, Kind, Role};
use crate::x86::spec::{ADDRESS, ADDRESS_4M, ADDRESS_4M_HIGH, ADDRESS_32, PAGE_SIZE, PRESENT};
use crate::x86::{Context, PagingMode, Pdptes};
use crate::{Gpa, Gva, TableMemory};

/// The shape of a guest's tables, as its registers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Long { levels: u8 },
    Pae { pdptes: [u64; 4] },
    Legacy { large_pages: bool },
}

/// What a guest's entry is to the shadow entry that stands for it, or for a half of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// It references the guest's table that has this shadow.
    Table { gfn: u64, quadrant: u8 },
    /// It maps pages, of which the shadow entry has those from this one on.
    Page { gfn: u64 },
}

impl Shape {
    pub(super) fn of(context: &Context) -> Self {
        match (context.mode(), *context.pdptes()) {
            (PagingMode::FourLevel, _) => Self::Long { levels: 4 },
            (PagingMode::FiveLevel, _) => Self::Long { levels: 5 },
            (PagingMode::Legacy, _) => Self::Legacy {
                large_pages: context.page_size_extensions(),
            },
            (PagingMode::Pae, Pdptes::Latched(pdptes)) => Self::Pae { pdptes },
            (PagingMode::Pae, Pdptes::Memory) => {
                panic!("a guest in PAE paging under a shadow has its PDPTEs latched")
            }
            (PagingMode::Off, _) => panic!("a guest without paging is not shadowed"),
        }
    }

    /// The highest level whose entries lie in guest memory.
    pub(super) fn top(self) -> u8 {
        match self {
            Self::Long { levels } => levels,
            Self::Pae { .. } | Self::Legacy { .. } => 2,
        }
    }

    /// The table that a root of this guest has, whose CR3 holds the address of the frame.
    pub(super) fn root(self, gfn: u32, cr3: Gpa) -> Role {
        match self {
            Self::Long { levels } => Role {
                gfn,
                level: levels,
                kind: Kind::Guest { quadrant: 0 },
            },
            Self::Pae { .. } | Self::Legacy { .. } => Role {
                gfn,
                level: TOP_LEVEL,
                kind: Kind::Top {
                    slot: u8::try_from(cr3.0 >> 5 & 0x7f).expect("seven bits"),
                },
            },
        }
    }

    /// What entry `index` of a root of [`Kind::Top`] leads to.
    pub(super) fn top_target(self, root: Role, index: u32) -> Option<Target> {
        match self {
            Self::Long { .. } => None,
            Self::Pae { pdptes } => {
                let pdpte = *pdptes.get(index as usize)?;
                (pdpte & PRESENT != 0).then_some(Target::Table {
                    gfn: (pdpte & ADDRESS) >> 12,
                    quadrant: 0,
                })
            }
            Self::Legacy { .. } => (index < 4).then(|| Target::Table {
                gfn: root.gfn.into(),
                quadrant: low_bits(index),
            }),
        }
    }

    /// An address as far as this paging looks at it.
    pub(super) fn linear(self, gva: Gva) -> Gva {
        match self {
            Self::Long { .. } => gva,
            Self::Pae { .. } | Self::Legacy { .. } => Gva(gva.0 & 0xffff_ffff),
        }
    }

    /// The quadrant of the table of `level` that `gva` goes through.
    pub(super) fn quadrant(self, gva: Gva, level: u8) -> u8 {
        match (self, level) {
            (Self::Legacy { .. }, 1) => low_bits(gva.0 >> 21 & 1),
            (Self::Legacy { .. }, 2) => low_bits(gva.0 >> 30 & 3),
            _ => 0,
        }
    }

    /// Where the guest's entry lies that the shadow entry stands for.
    fn entry_at(self, id: EntryId, role: Role) -> Gpa {
        let Kind::Guest { quadrant } = role.kind else {
            unreachable!("only a guest's table has entries in memory");
        };
        let index = match (self, role.level) {
            (Self::Legacy { .. }, 1) => u32::from(quadrant) * 512 + id.index(),
            (Self::Legacy { .. }, _) => u32::from(quadrant) * 256 + id.index() / 2,
            _ => id.index(),
        };
        Gpa((u64::from(role.gfn) << 12) + self.entry_bytes() * u64::from(index))
    }

    /// The guest's entry that the shadow entry stands for.
    pub(super) fn load<M: TableMemory>(
        self,
        memory: &M,
        id: EntryId,
        role: Role,
    ) -> Result<u64, M::Error> {
        let at = self.entry_at(id, role);
        match self {
            Self::Legacy { .. } => memory.load_u32(at).map(u64::from),
            Self::Long { .. } | Self::Pae { .. } => memory.load_u64(at),
        }
    }

    /// The entries of the shadow of `role` that stand for the bytes from `first` to `last` of its frame.
    pub(super) fn entries(self, role: Role, first: u64, last: u64) -> Range<u32> {
        let Kind::Guest { quadrant } = role.kind else {
            return 0..0;
        };
        let entry =
            |byte: u64| i64::try_from(byte / self.entry_bytes()).expect("an offset in a page");
        let (low, end) = (entry(first), entry(last) + 1);
        let quadrant = i64::from(quadrant);
        let (low, end) = match (self, role.level) {
            (Self::Legacy { .. }, 1) => (low - quadrant * 512, end - quadrant * 512),
            (Self::Legacy { .. }, _) => (2 * (low - quadrant * 256), 2 * (end - quadrant * 256)),
            _ => (low, end),
        };
        let clip = |index: i64| {
            u32::try_from(index.clamp(0, ENTRIES.into())).expect("clamped to the entries")
        };
        clip(low)..clip(end)
    }

    /// What the guest's `entry` is to shadow entry `index` of `level`.
    pub(super) fn target(self, level: u8, index: u32, entry: u64) -> Target {
        let half = u64::from(index & 1);
        match self {
            Self::Legacy { large_pages } => {
                let low = entry & u64::from(ADDRESS_32);
                if level == 1 {
                    Target::Page { gfn: low >> 12 }
                } else if large_pages && entry & PAGE_SIZE != 0 {
                    let high = (entry & u64::from(ADDRESS_4M_HIGH)) << (32 - 13);
                    let page = entry & u64::from(ADDRESS_4M) | high;
                    Target::Page {
                        gfn: (page >> 12) + half * 512,
                    }
                } else {
                    Target::Table {
                        gfn: low >> 12,
                        quadrant: low_bits(half),
                    }
                }
            }
            Self::Long { .. } | Self::Pae { .. } => {
                let gfn = (entry & ADDRESS) >> 12;
                let leaf = level == 1 || level <= 3 && entry & PAGE_SIZE != 0;
                if leaf {
                    Target::Page {
                        gfn: gfn & !((1 << (9 * (level - 1))) - 1),
                    }
                } else {
                    Target::Table { gfn, quadrant: 0 }
                }
            }
        }
    }

    fn entry_bytes(self) -> u64 {
        match self {
            Self::Legacy { .. } => 4,
            Self::Long { .. } | Self::Pae { .. } => 8,
        }
    }
}

fn low_bits(number: impl TryInto<u8>) -> u8 {
    number.try_into().ok().expect("at most two bits")
}

/// The level of a root that no table of the guest has.
const TOP_LEVEL: u8 = 3;
