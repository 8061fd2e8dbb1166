//! The fault recording registers (VT-d 7.2.1 and 11.4.7.3).

use crate::fault::{Fault, RECORDED};

/// A ring of recorded faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FaultLog {
    records: Vec<[u64; 2]>,
    next: usize,
    collapse: bool,
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// In the record with this index.
    At(usize),
    /// Not, for the requester has one recorded already.
    Collapsed,
    /// Not, for the next record is in use.
    Overflow,
}

impl FaultLog {
    pub(crate) fn new(records: u16, collapse: bool) -> Self {
        Self {
            records: vec![[0; 2]; usize::from(records)],
            next: 0,
            collapse,
        }
    }

    /// Takes what was saved, if there are as many records, and each is one that can be.
    pub(crate) fn restore(&self, records: &[[u64; 2]], next: u16) -> Option<Self> {
        let next = usize::from(next);
        let legal = |[low, high]: &[u64; 2]| {
            high & !(RECORDED | 1 << 62 | 0xffff_ffff << 32 | 1 << 31 | 3 << 28 | 0xffff) == 0
                && (*low & 0xfff == 0)
        };
        let fits = records.len() == self.records.len() && next < records.len();
        (fits && records.iter().all(legal)).then(|| Self {
            records: records.to_vec(),
            next,
            collapse: self.collapse,
        })
    }

    pub(crate) fn record(&mut self, fault: &Fault) -> Recorded {
        let record = fault.record();
        let same = |[_, high]: &[u64; 2]| high & RECORDED != 0 && (high ^ record[1]) & 0xffff == 0;
        if self.collapse && self.records.iter().any(same) {
            return Recorded::Collapsed;
        }
        let at = self.next;
        if self.records[at][1] & RECORDED != 0 {
            return Recorded::Overflow;
        }
        self.records[at] = record;
        self.next = (at + 1) % self.records.len();
        Recorded::At(at)
    }

    /// Whether a fault is recorded: FSTS.PPF.
    pub(crate) fn is_pending(&self) -> bool {
        self.records.iter().any(|[_, high]| high & RECORDED != 0)
    }

    /// The word `offset` bytes into the registers.
    pub(crate) fn get(&self, offset: u64) -> Option<u32> {
        let record = self.records.get(usize::try_from(offset / 16).ok()?)?;
        let half = record[usize::from(offset & 8 != 0)];
        Some(crate::ids::u32_at(
            half,
            if offset & 4 == 0 { 0 } else { 32 },
        ))
    }

    /// Writes of one to F, in the last word of a register, clear it.
    pub(crate) fn write(&mut self, offset: u64, value: u32) {
        let index = usize::try_from(offset / 16).unwrap_or(usize::MAX);
        if let Some([_, high]) = self.records.get_mut(index)
            && offset & 0xc == 0xc
            && value >> 31 != 0
        {
            *high &= !RECORDED;
        }
    }

    pub(crate) fn records(&self) -> &[[u64; 2]] {
        &self.records
    }

    pub(crate) fn next(&self) -> usize {
        self.next
    }
}
