//! Stages, and the ground they stand on.

use super::failure::{Cause, Failure, StageFault};
use super::trace::InDimension;
use crate::memory::{Exchange, Place, TableMemory};
use crate::x86::AccessKind;
use crate::{Gpa, Observer, Paging, WalkError};

/// One access to an address that a stage translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StageAccess {
    /// What is done.
    pub kind: AccessKind,
    /// What for.
    pub purpose: Purpose,
    /// The linear address is one of user mode: U/S is set in all its entries. Counts for fetches
    /// under mode-based execute control.
    pub user_address: bool,
}

/// What an access to a physical address is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The access proper, to the translation of a linear address.
    Translated,
    /// An access to a paging structure above this stage: a read is the load of an entry, a write the
    /// update of its flags.
    Table,
    /// Without a linear address, for instance the load of PDPTEs by MOV to CR3.
    Physical,
}

impl StageAccess {
    const LOAD: Self = Self::of_table(AccessKind::Read);
    const UPDATE: Self = Self::of_table(AccessKind::Write);

    const fn of_table(kind: AccessKind) -> Self {
        Self {
            kind,
            purpose: Purpose::Table,
            user_address: false,
        }
    }
}

/// What a stage makes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// The address of the byte in the space below.
    pub address: Gpa,
    /// Address bits inside the page that the leaf maps.
    pub inside_bits: u8,
}

/// What translates physical addresses in a stage: the structures of EPT, NPT or VT-d, as their
/// contexts describe them, or something before those.
pub trait Structures {
    /// Translates `input`. `MARKING` walks set accessed and dirty flags, others only read.
    ///
    /// # Errors
    ///
    /// Returns the fault, the entry that `memory` does not reach, or [`WalkError::Contended`].
    fn walk<M: TableMemory, O: Observer, const MARKING: bool>(
        &self,
        memory: &M,
        input: Gpa,
        access: StageAccess,
        observer: &mut O,
    ) -> Result<Mapping, WalkError<StageFault, M::Error>>;

    /// Translates `input` if that can be done at once and leaves nothing to mark. `None` says nothing.
    #[inline(always)]
    fn glance<M: TableMemory, const MARKING: bool>(
        &self,
        _memory: &M,
        _place: Place,
        _input: Gpa,
        _access: StageAccess,
    ) -> Option<Gpa> {
        None
    }
}

impl<C> Structures for C
where
    C: Paging<Input = Gpa, Access = StageAccess>,
    Mapping: From<C::Translation>,
    StageFault: From<C::Fault>,
{
    #[inline]
    fn walk<M: TableMemory, O: Observer, const MARKING: bool>(
        &self,
        memory: &M,
        input: Gpa,
        access: StageAccess,
        observer: &mut O,
    ) -> Result<Mapping, WalkError<StageFault, M::Error>> {
        self.translate::<M, O, MARKING>(memory, input, access, observer)
            .map(Mapping::from)
            .map_err(|error| error.map_fault(StageFault::from))
    }

    #[inline(always)]
    fn glance<M: TableMemory, const MARKING: bool>(
        &self,
        memory: &M,
        place: Place,
        input: Gpa,
        access: StageAccess,
    ) -> Option<Gpa> {
        Paging::glance::<M, MARKING>(self, memory, place, input, access)
            .map(|translation| Mapping::from(translation).address)
    }
}

/// Something to walk over: a [`Stage`], or the [`Ground`].
pub trait Layer: TableMemory<Error = Failure<Self::Bottom>> {
    /// Why the ground cannot be reached.
    type Bottom;

    /// Translates `input`, the address of the access proper, down to the ground.
    ///
    /// # Errors
    ///
    /// Returns the failure of the first dimension that does not translate.
    fn descend(&self, input: Gpa, access: StageAccess) -> Result<Gpa, Failure<Self::Bottom>>;

    /// [`TableMemory::peek_u32`] for the stage above.
    fn peek_u32_beneath(&self, place: Place, table: Gpa, offset: u64) -> Option<u32>;

    /// [`TableMemory::peek_u64`] for the stage above. A stage's is a call, or the code of a stack would
    /// grow with each dimension as its references do.
    fn peek_u64_beneath(&self, place: Place, table: Gpa, offset: u64) -> Option<u64>;
}

/// A layer as the stage above peeks into it.
struct Beneath<'l, L>(&'l L);

impl<L: Layer> TableMemory for Beneath<'_, L> {
    type Error = L::Error;

    fn load_u32(&self, at: Gpa) -> Result<u32, Self::Error> {
        self.0.load_u32(at)
    }

    fn load_u64(&self, at: Gpa) -> Result<u64, Self::Error> {
        self.0.load_u64(at)
    }

    #[inline(always)]
    fn peek_u32(&self, place: Place, table: Gpa, offset: u64) -> Option<u32> {
        self.0.peek_u32_beneath(place, table, offset)
    }

    #[inline(always)]
    fn peek_u64(&self, place: Place, table: Gpa, offset: u64) -> Option<u64> {
        self.0.peek_u64_beneath(place, table, offset)
    }

    fn compare_exchange_u32(&self, at: Gpa, current: u32, new: u32) -> Exchange<u32, Self::Error> {
        self.0.compare_exchange_u32(at, current, new)
    }

    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Self::Error> {
        self.0.compare_exchange_u64(at, current, new)
    }
}

/// Memory that nothing translates.
#[derive(Clone, Copy, Debug)]
pub struct Ground<M> {
    memory: M,
    dimension: u8,
}

impl<M> Ground<M> {
    /// The ground under `stages` stages: 1 for two-dimensional walks.
    pub fn new(memory: M, stages: u8) -> Self {
        Self {
            memory,
            dimension: stages,
        }
    }
}

impl<M: TableMemory> Ground<M> {
    fn answer<T>(&self, at: Gpa, answer: Result<T, M::Error>) -> Result<T, Failure<M::Error>> {
        answer.map_err(|source| Failure {
            dimension: self.dimension,
            cause: Cause::Absent { at, source },
        })
    }
}

impl<M: TableMemory> Layer for Ground<M> {
    type Bottom = M::Error;

    #[inline(always)]
    fn descend(&self, input: Gpa, _: StageAccess) -> Result<Gpa, Failure<M::Error>> {
        Ok(input)
    }

    #[inline(always)]
    fn peek_u32_beneath(&self, place: Place, table: Gpa, offset: u64) -> Option<u32> {
        self.memory.peek_u32(place, table, offset)
    }

    #[inline(always)]
    fn peek_u64_beneath(&self, place: Place, table: Gpa, offset: u64) -> Option<u64> {
        self.memory.peek_u64(place, table, offset)
    }
}

impl<M: TableMemory> TableMemory for Ground<M> {
    type Error = Failure<M::Error>;

    #[inline]
    fn load_u32(&self, at: Gpa) -> Result<u32, Self::Error> {
        self.answer(at, self.memory.load_u32(at))
    }

    #[inline]
    fn load_u64(&self, at: Gpa) -> Result<u64, Self::Error> {
        self.answer(at, self.memory.load_u64(at))
    }

    #[inline(always)]
    fn peek_u32(&self, place: Place, table: Gpa, offset: u64) -> Option<u32> {
        self.memory.peek_u32(place, table, offset)
    }

    #[inline(always)]
    fn peek_u64(&self, place: Place, table: Gpa, offset: u64) -> Option<u64> {
        self.memory.peek_u64(place, table, offset)
    }

    fn compare_exchange_u32(&self, at: Gpa, current: u32, new: u32) -> Exchange<u32, Self::Error> {
        self.answer(at, self.memory.compare_exchange_u32(at, current, new))
    }

    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Self::Error> {
        self.answer(at, self.memory.compare_exchange_u64(at, current, new))
    }
}

impl<L: Layer + ?Sized> Layer for &L {
    type Bottom = L::Bottom;

    #[inline(always)]
    fn descend(&self, input: Gpa, access: StageAccess) -> Result<Gpa, Failure<Self::Bottom>> {
        (**self).descend(input, access)
    }

    #[inline(always)]
    fn peek_u32_beneath(&self, place: Place, table: Gpa, offset: u64) -> Option<u32> {
        (**self).peek_u32_beneath(place, table, offset)
    }

    #[inline(always)]
    fn peek_u64_beneath(&self, place: Place, table: Gpa, offset: u64) -> Option<u64> {
        (**self).peek_u64_beneath(place, table, offset)
    }
}

/// A stage of translation: paging structures that lie in the layer below it.
///
/// The observer is copied for each walk: `()`, or `&Trace`.
#[derive(Clone, Copy, Debug)]
pub struct Stage<'s, S, L, O = ()> {
    dimension: u8,
    structures: &'s S,
    below: L,
    observer: O,
    marking: bool,
}

impl<'s, S: Structures, L: Layer, O: Observer + Copy> Stage<'s, S, L, O> {
    /// A stage over `below`. `dimension` is what faults and references say: 1 for the stage that
    /// translates guest physical addresses, and one more for each below it.
    pub fn new(dimension: u8, structures: &'s S, below: L, observer: O) -> Self {
        Self {
            dimension,
            structures,
            below,
            observer,
            marking: true,
        }
    }

    /// The same stage, whose walks set no flags in its own structures.
    #[must_use]
    pub fn probing(self) -> Self {
        Self {
            marking: false,
            ..self
        }
    }

    /// Translates `input` to the space of the layer below.
    ///
    /// # Errors
    ///
    /// Returns the failure of this stage or of one below it.
    #[inline]
    pub fn translate(
        &self,
        input: Gpa,
        access: StageAccess,
    ) -> Result<Mapping, Failure<L::Bottom>> {
        let mut observer = InDimension(self.dimension, self.observer);
        let walked = if self.marking {
            self.structures
                .walk::<L, _, true>(&self.below, input, access, &mut observer)
        } else {
            self.structures
                .walk::<L, _, false>(&self.below, input, access, &mut observer)
        };
        walked.map_err(|error| Failure::of_stage_walk(self.dimension, error))
    }

    /// Where an entry lies below, for a read or an update of it.
    #[inline]
    fn entry(&self, at: Gpa, access: StageAccess) -> Result<Gpa, Failure<L::Bottom>> {
        self.translate(at, access).map(|mapping| mapping.address)
    }

    #[inline(always)]
    fn glance(&self, place: Place, input: Gpa, access: StageAccess) -> Option<Gpa> {
        if self.observer.listens() {
            None
        } else if place == Place::First && self.marking {
            self.structures
                .glance::<_, true>(&Beneath(&self.below), place, input, access)
        } else {
            self.glance_apart(place, input, access)
        }
    }

    /// Whatever is not the usual case.
    #[inline(never)]
    fn glance_apart(&self, place: Place, input: Gpa, access: StageAccess) -> Option<Gpa> {
        let below = Beneath(&self.below);
        if self.marking {
            self.structures
                .glance::<_, true>(&below, place, input, access)
        } else {
            self.structures
                .glance::<_, false>(&below, place, input, access)
        }
    }

    /// The page below that holds the entry, if a glance tells.
    #[inline(always)]
    fn page_of_entry(&self, place: Place, at: Gpa) -> Option<Gpa> {
        let below = self.glance(place, at, StageAccess::LOAD)?;
        Some(Gpa(below.0 & !OFFSET))
    }
}

impl<S: Structures, L: Layer, O: Observer + Copy> Layer for Stage<'_, S, L, O> {
    type Bottom = L::Bottom;

    #[inline]
    fn descend(&self, input: Gpa, access: StageAccess) -> Result<Gpa, Failure<L::Bottom>> {
        if let Some(address) = self.glance(Place::First, input, access) {
            return self.below.descend(address, access);
        }
        let mapping = self.translate(input, access)?;
        self.below.descend(mapping.address, access)
    }

    #[inline(never)]
    fn peek_u32_beneath(&self, place: Place, table: Gpa, offset: u64) -> Option<u32> {
        self.peek_u32(place, table, offset)
    }

    #[inline(never)]
    fn peek_u64_beneath(&self, place: Place, table: Gpa, offset: u64) -> Option<u64> {
        self.peek_u64(place, table, offset)
    }
}

impl<S: Structures, L: Layer, O: Observer + Copy> TableMemory for Stage<'_, S, L, O> {
    type Error = Failure<L::Bottom>;

    fn load_u32(&self, at: Gpa) -> Result<u32, Self::Error> {
        self.below.load_u32(self.entry(at, StageAccess::LOAD)?)
    }

    fn load_u64(&self, at: Gpa) -> Result<u64, Self::Error> {
        self.below.load_u64(self.entry(at, StageAccess::LOAD)?)
    }

    #[inline(always)]
    fn peek_u32(&self, place: Place, table: Gpa, offset: u64) -> Option<u32> {
        let at = table.0 + offset;
        let page = self.page_of_entry(place, Gpa(at))?;
        self.below.peek_u32(place, page, at & OFFSET)
    }

    #[inline(always)]
    fn peek_u64(&self, place: Place, table: Gpa, offset: u64) -> Option<u64> {
        let at = table.0 + offset;
        let page = self.page_of_entry(place, Gpa(at))?;
        self.below.peek_u64(place, page, at & OFFSET)
    }

    fn compare_exchange_u32(&self, at: Gpa, current: u32, new: u32) -> Exchange<u32, Self::Error> {
        let at = self.entry(at, StageAccess::UPDATE)?;
        self.below.compare_exchange_u32(at, current, new)
    }

    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Self::Error> {
        let at = self.entry(at, StageAccess::UPDATE)?;
        self.below.compare_exchange_u64(at, current, new)
    }
}

/// The address bits inside a page, which no stage changes. Handed on apart, they are known to the
/// layer below before the page is.
const OFFSET: u64 = 0xfff;
