//! Second-level structures for a nested guest: EPT0-2 composed of EPT1-2, which the guest hypervisor keeps,
//! and EPT0-1; and the same with nested page tables.
//!
//! The hardware has one stage and two are needed (Ben-Yehuda et al., "The Turtles Project", OSDI 2010,
//! 3.3). Level 0 is the monitor, 1 its guest hypervisor, 2 that one's guest. The composed structures
//! are filled on violations and emptied when level 1 executes INVEPT, or has the ASID flushed, which
//! is when its changes must be seen.

use std::marker::PhantomData;

use super::{Failure, Ground, Stage, StageAccess, StageFault, Structures};
use crate::ept::{self, MemoryType, Rights};
use crate::memory::Exchange;
use crate::nine_bits::PAGE;
use crate::x86::spec::{ACCESSED, CR0_PG, CR0_WP, CR4_PAE, DIRTY, EFER_LMA, EFER_NXE};
use crate::x86::spec::{NO_EXECUTE, PRESENT, USER, WRITE};
use crate::x86::{self, Attributes, Processor, Registers, Vendor};
use crate::{Gpa, Paging, TableMemory, Unbacked, WalkError, npt, walk};

/// Structures of a stage that can be composed, level by level, of two of their kind.
pub trait Composable: Paging<Input = Gpa, Access = StageAccess> + Structures {
    /// What one of the two gives for an address.
    fn part(&self, translation: &Self::Translation) -> Part;

    /// An entry of four-level structures that references a table.
    const TABLE: u64;
    /// Bits of which a present entry has one.
    const PRESENCE: u64;
    /// Bits that deny where they are set, among those of [`Part::granted`].
    const DENYING: u64;
    /// Bits that an entry which maps a page has in any case: flags, so that none need be set.
    const MARKED: u64;
}

/// What one stage gives for an address, as far as it matters to an entry composed of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where the address leads.
    pub address: Gpa,
    /// Address bits inside the page that the leaf maps.
    pub inside_bits: u8,
    /// Rights as entry bits, all set where they are given. A write is given if it leaves no flag to set.
    pub granted: u64,
    /// Other bits of the entry, which the lower stage decides.
    pub attributes: u64,
}

/// Composed structures in a memory of their own, table n at page n, the root at 0.
///
/// They are a [`TableMemory`] that the hardware's context walks, so they can stand under a [`Stage`].
#[derive(Clone, Debug)]
pub struct ComposedTables<C> {
    words: Vec<u64>,
    used: usize,
    counters: ComposedCounters,
    of: PhantomData<fn(&C)>,
}

/// EPT0-2.
pub type ComposedEpt = ComposedTables<ept::Context>;

/// Nested page tables of level 2, of those of level 1 and the monitor's, in 4-level paging.
pub type ComposedNpt = ComposedTables<npt::Context>;

/// What a violation in composed structures came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Composed<E = Unbacked, F = ept::Fault> {
    /// The structures have what the access needs: resume level 2.
    Filled,
    /// The structures of level 1 do not let the access through: level 1 gets this exit.
    Reflect(F),
    /// The monitor's do not, or a table is absent: its own matter.
    Own(Failure<E>),
}

/// What has been done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComposedCounters {
    /// Violations that ended with an entry filled.
    pub filled: u64,
    /// Violations that level 1 must handle.
    pub reflected: u64,
    /// Violations of the monitor's own structures.
    pub own: u64,
    /// Times that everything was emptied: by INVEPT, and for want of tables.
    pub emptied: u64,
}

impl ComposedEpt {
    /// The EPTP of the structures: 4 levels, without accessed and dirty flags, which are kept in the
    /// two EPTs that are composed.
    pub const EPTP: u64 = 3 << 3 | 6;
}

impl ComposedNpt {
    /// The context in which the hardware walks the structures: nCR3 is 0, all flags are set.
    pub fn context() -> npt::Context {
        let processor = Processor {
            vendor: Vendor::Amd,
            maxphyaddr: 52,
            gib_pages: true,
            pse36: false,
        };
        let registers = Registers {
            cr0: CR0_PG | CR0_WP,
            cr4: CR4_PAE,
            efer: EFER_LMA | EFER_NXE,
            ..Registers::default()
        };
        npt::Context::new(&processor, &registers)
    }
}

impl<C: Composable> ComposedTables<C>
where
    StageFault: From<C::Fault>,
{
    /// Empty structures of at most so many tables.
    ///
    /// # Panics
    ///
    /// Panics if `tables_max` is less than 4.
    pub fn new(tables_max: u16) -> Self {
        assert!(tables_max >= 4, "one access needs a table of each level");
        Self {
            words: vec![0; usize::from(tables_max) * 512],
            used: 1,
            counters: ComposedCounters::default(),
            of: PhantomData,
        }
    }

    /// Handles a violation of an access to the level 2 address `gpa`. The tables of `level_1_2` have
    /// addresses of level 1, which `level_0_1` translates to those of `memory`.
    ///
    /// # Panics
    ///
    /// Panics if `level_1_2` translates more than 48 address bits, and `gpa` has them.
    pub fn violation<M: TableMemory>(
        &mut self,
        memory: &M,
        level_0_1: &C,
        level_1_2: &C,
        gpa: Gpa,
        access: StageAccess,
    ) -> Composed<M::Error, C::Fault> {
        let outcome = self.compose(memory, level_0_1, level_1_2, gpa, access);
        *match outcome {
            Composed::Filled => &mut self.counters.filled,
            Composed::Reflect(_) => &mut self.counters.reflected,
            Composed::Own(_) => &mut self.counters.own,
        } += 1;
        outcome
    }

    /// Empties everything: when level 1 executes INVEPT or has the ASID flushed, and when the monitor's
    /// own structures change.
    pub fn invept(&mut self) {
        self.words[..self.used * 512].fill(0);
        self.used = 1;
        self.counters.emptied += 1;
    }

    /// What has been done so far.
    pub fn counters(&self) -> &ComposedCounters {
        &self.counters
    }

    /// Bytes of the tables in use.
    pub fn table_bytes(&self) -> u64 {
        self.used as u64 * 4096
    }

    fn compose<M: TableMemory>(
        &mut self,
        memory: &M,
        level_0_1: &C,
        level_1_2: &C,
        gpa: Gpa,
        access: StageAccess,
    ) -> Composed<M::Error, C::Fault> {
        let ground = Ground::new(memory, 2);
        let level_1 = Stage::new(2, level_0_1, &ground, ());
        let upper = match walk(&level_1, level_1_2, gpa, access, &mut ()) {
            Ok(upper) => level_1_2.part(&upper),
            Err(WalkError::Fault(fault)) => return Composed::Reflect(fault),
            Err(error) => return Composed::Own(own(1, error)),
        };
        assert!(gpa.0 >> 48 == 0, "composed structures have 4 levels");
        let lower = match walk(&ground, level_0_1, upper.address, access, &mut ()) {
            Ok(lower) => level_0_1.part(&lower),
            Err(error) => return Composed::Own(own(2, error)),
        };
        let (level, inside_bits) = match upper.inside_bits.min(lower.inside_bits) {
            0..21 => (1, 12),
            21..30 => (2, 21),
            30.. => (3, 30),
        };
        let frame = lower.address.0 >> inside_bits << inside_bits;
        let rights = upper.granted & lower.granted ^ C::DENYING;
        let mut entry = frame | rights | lower.attributes | C::MARKED;
        if level > 1 {
            entry |= PAGE;
        }
        self.insert(gpa, level, entry);
        Composed::Filled
    }

    fn insert(&mut self, gpa: Gpa, leaf: u32, entry: u64) {
        if (self.used + 4) * 512 > self.words.len() {
            self.invept();
        }
        let mut table = 0;
        for level in (leaf + 1..=4).rev() {
            table = self.child(table * 512 + index(gpa, level));
        }
        self.words[table * 512 + index(gpa, leaf)] = entry;
    }

    /// The table that the entry references. A page that covered what is now a table goes.
    fn child(&mut self, word: usize) -> usize {
        let entry = self.words[word];
        if entry & C::PRESENCE != 0 && entry & PAGE == 0 {
            return usize::try_from(entry >> 12).expect("the number of a table");
        }
        let child = self.used;
        self.used += 1;
        self.words[word] = (child as u64) << 12 | C::TABLE;
        child
    }
}

impl Composable for ept::Context {
    const TABLE: u64 = EPT_RIGHTS;
    const PRESENCE: u64 = EPT_RIGHTS;
    const DENYING: u64 = 0;
    const MARKED: u64 = 0;

    fn part(&self, translation: &ept::Translation) -> Part {
        let rights = translation.rights;
        // A write through an entry that is not dirty must be seen, and be marked.
        let rights = if self.flags() && !rights.contains(Rights::DIRTY) {
            rights - Rights::WRITE
        } else {
            rights
        };
        Part {
            address: translation.address,
            inside_bits: translation.size as u8,
            granted: ept_bits(rights),
            attributes: memory_type(translation.memory_type) << 3,
        }
    }
}

impl Composable for npt::Context {
    const TABLE: u64 = PRESENT | WRITE | USER | ACCESSED;
    const PRESENCE: u64 = PRESENT;
    const DENYING: u64 = NO_EXECUTE;
    const MARKED: u64 = PRESENT | ACCESSED | DIRTY;

    fn part(&self, translation: &x86::Translation) -> Part {
        let has = |right| translation.attributes.contains(right);
        let mut granted = 0;
        for (given, bit) in [
            (has(Attributes::WRITE | Attributes::DIRTY), WRITE),
            (has(Attributes::USER), USER),
            (has(Attributes::EXECUTE), NO_EXECUTE),
        ] {
            granted |= if given { bit } else { 0 };
        }
        Part {
            address: translation.gpa,
            inside_bits: translation.size as u8,
            granted,
            attributes: 0,
        }
    }
}

fn ept_bits(rights: Rights) -> u64 {
    let bits = [
        (Rights::READ, 1 << 0),
        (Rights::WRITE, 1 << 1),
        (Rights::EXECUTE, 1 << 2),
        (Rights::EXECUTE_USER, 1 << 10),
    ];
    bits.iter()
        .filter(|(right, _)| rights.contains(*right))
        .fold(0, |all, (_, bit)| all | bit)
}

fn memory_type(memory_type: MemoryType) -> u64 {
    match memory_type {
        MemoryType::Uncacheable => 0,
        MemoryType::WriteCombining => 1,
        MemoryType::WriteThrough => 4,
        MemoryType::WriteProtected => 5,
        MemoryType::WriteBack => 6,
    }
}

fn own<E, F>(dimension: u8, error: WalkError<F, Failure<E>>) -> Failure<E>
where
    StageFault: From<F>,
{
    Failure::of_stage_walk(dimension, error.map_fault(StageFault::from))
}

fn index(gpa: Gpa, level: u32) -> usize {
    usize::try_from(gpa.0 >> (3 + 9 * level) & 511).expect("nine bits")
}

impl<C> TableMemory for ComposedTables<C> {
    type Error = Unbacked;

    fn load_u32(&self, _: Gpa) -> Result<u32, Unbacked> {
        Err(Unbacked)
    }

    fn load_u64(&self, at: Gpa) -> Result<u64, Unbacked> {
        let word = usize::try_from(at.0 / 8).map_err(|_| Unbacked)?;
        self.words.get(word).copied().ok_or(Unbacked)
    }

    fn compare_exchange_u32(&self, _: Gpa, _: u32, _: u32) -> Exchange<u32, Unbacked> {
        Err(Unbacked)
    }

    /// Never asked for: no flag is left to set.
    fn compare_exchange_u64(&self, _: Gpa, _: u64, _: u64) -> Exchange<u64, Unbacked> {
        Err(Unbacked)
    }
}

/// Read, write, execute; and execute for user addresses, which counts under mode-based execute control.
const EPT_RIGHTS: u64 = 7 | 1 << 10;
