//! EPT for a nested guest: EPT0-2 composed of EPT1-2, which the guest hypervisor keeps, and EPT0-1.
//!
//! The hardware has one stage and two are needed (Ben-Yehuda et al., "The Turtles Project", OSDI 2010,
//! 3.3). Level 0 is the monitor, 1 its guest hypervisor, 2 that one's guest. EPT0-2 is filled on
//! violations and emptied when level 1 executes INVEPT, which is when its changes must be seen.

use super::{Failure, Ground, Stage, StageAccess, StageFault};
use crate::ept::{self, MemoryType, Rights};
use crate::memory::Exchange;
use crate::{Gpa, TableMemory, Unbacked, WalkError};

/// EPT0-2: paging structures in a memory of their own, table n at page n, the root at 0.
///
/// It is a [`TableMemory`] that an [`ept::Context`] with [`EPTP`](Self::EPTP) walks, so it can stand
/// under a [`Stage`] as any EPT does.
#[derive(Clone, Debug)]
pub struct ComposedEpt {
    words: Vec<u64>,
    used: usize,
    counters: ComposedCounters,
}

/// What a violation in EPT0-2 came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Composed<E = Unbacked> {
    /// EPT0-2 has what the access needs: resume level 2.
    Filled,
    /// EPT1-2 does not let the access through: level 1 gets this exit.
    Reflect(ept::Fault),
    /// EPT0-1 does not, or a table is absent: the monitor's own matter.
    Own(Failure<E>),
}

/// What has been done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComposedCounters {
    /// Violations that ended with an entry filled.
    pub filled: u64,
    /// Violations that level 1 must handle.
    pub reflected: u64,
    /// Violations of EPT0-1.
    pub own: u64,
    /// Times that everything was emptied: by INVEPT, and for want of tables.
    pub emptied: u64,
}

impl ComposedEpt {
    /// The EPTP of the structures: 4 levels, without accessed and dirty flags, which are kept in the
    /// two EPTs that are composed.
    pub const EPTP: u64 = 3 << 3 | 6;

    /// An empty EPT0-2 of at most so many tables.
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
        }
    }

    /// Handles a violation in EPT0-2 of an access to the level 2 address `gpa`. `ept_1_2` has 4 levels;
    /// its tables have addresses of level 1, which `ept_0_1` translates to those of `memory`.
    pub fn violation<M: TableMemory>(
        &mut self,
        memory: &M,
        ept_0_1: &ept::Context,
        ept_1_2: &ept::Context,
        gpa: Gpa,
        access: StageAccess,
    ) -> Composed<M::Error> {
        let outcome = self.compose(memory, ept_0_1, ept_1_2, gpa, access);
        *match outcome {
            Composed::Filled => &mut self.counters.filled,
            Composed::Reflect(_) => &mut self.counters.reflected,
            Composed::Own(_) => &mut self.counters.own,
        } += 1;
        outcome
    }

    /// Empties everything: when level 1 executes INVEPT, and when EPT0-1 changes.
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
        ept_0_1: &ept::Context,
        ept_1_2: &ept::Context,
        gpa: Gpa,
        access: StageAccess,
    ) -> Composed<M::Error> {
        let ground = Ground::new(memory, 2);
        let level_1 = Stage::new(2, ept_0_1, &ground, ());
        let upper = match ept::walk(&level_1, ept_1_2, gpa, access, &mut ()) {
            Ok(upper) => upper,
            Err(WalkError::Fault(fault)) => return Composed::Reflect(fault),
            Err(error) => return Composed::Own(own(1, error)),
        };
        let lower = match ept::walk(&ground, ept_0_1, upper.address, access, &mut ()) {
            Ok(lower) => lower,
            Err(error) => return Composed::Own(own(2, error)),
        };
        let rights = writable_if_dirty(upper.rights, ept_1_2.flags())
            & writable_if_dirty(lower.rights, ept_0_1.flags());
        let size = upper.size.min(lower.size);
        let frame = lower.address.0 & !size.offset_mask();
        let leaf = match size as u8 {
            12 => 1,
            21 => 2,
            _ => 3,
        };
        let mut entry = frame | entry_bits(rights) | memory_type(lower.memory_type) << 3;
        if leaf > 1 {
            entry |= PAGE;
        }
        self.insert(gpa, leaf, entry);
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
        if entry & ALL_RIGHTS != 0 && entry & PAGE == 0 {
            return usize::try_from(entry >> 12).expect("the number of a table");
        }
        let child = self.used;
        self.used += 1;
        self.words[word] = (child as u64) << 12 | ALL_RIGHTS;
        child
    }
}

/// A write through an entry that is not dirty must be seen, and be marked.
fn writable_if_dirty(rights: Rights, flags: bool) -> Rights {
    if flags && !rights.contains(Rights::DIRTY) {
        rights - Rights::WRITE
    } else {
        rights
    }
}

fn entry_bits(rights: Rights) -> u64 {
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

fn own<E>(dimension: u8, error: WalkError<ept::Fault, Failure<E>>) -> Failure<E> {
    Failure::of_stage_walk(dimension, error.map_fault(StageFault::Ept))
}

fn index(gpa: Gpa, level: u32) -> usize {
    usize::try_from(gpa.0 >> (3 + 9 * level) & 511).expect("nine bits")
}

impl TableMemory for ComposedEpt {
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

    /// Never asked for: the structures have no flags.
    fn compare_exchange_u64(&self, _: Gpa, _: u64, _: u64) -> Exchange<u64, Unbacked> {
        Err(Unbacked)
    }
}

const PAGE: u64 = 1 << 7;
/// Read, write, execute; and execute for user addresses, which counts under mode-based execute control.
const ALL_RIGHTS: u64 = 7 | 1 << 10;
