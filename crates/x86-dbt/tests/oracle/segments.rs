//! The segments that cases use: Linux's own in the GDT, and an LDT that the child installs.

use super::case::{CODE, DATA, STACK};

/// One descriptor at privilege level 3 (but for the kernel's).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// With RPL 3 for the user's.
    pub(crate) selector: u16,
    pub(crate) base: u32,
    /// In bytes, the last valid offset (expand-down: the last invalid one).
    pub(crate) limit: u32,
    kind: Kind,
    /// The D/B bit.
    pub(crate) big: bool,
    present: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    ReadOnly,
    ExpandDown,
    Code,
    ExecuteOnly,
    LongCode,
    KernelData,
    KernelCode,
}

impl Segment {
    const fn new(selector: u16, kind: Kind, base: u64, limit: u32, big: bool) -> Self {
        Self {
            selector,
            base: base as u32,
            limit,
            kind,
            big,
            present: true,
        }
    }

    /// The 8 bytes of the descriptor, with the accessed bit set, as the host's tables have it.
    pub(crate) fn descriptor(&self) -> u64 {
        let type_and_s: u64 = match self.kind {
            Kind::Data | Kind::KernelData => 0x13,
            Kind::ReadOnly => 0x11,
            Kind::ExpandDown => 0x17,
            Kind::Code | Kind::LongCode | Kind::KernelCode => 0x1b,
            Kind::ExecuteOnly => 0x19,
        };
        let dpl = if matches!(self.kind, Kind::KernelData | Kind::KernelCode) {
            0
        } else {
            3
        };
        let long = matches!(self.kind, Kind::LongCode | Kind::KernelCode);
        // Linux sets AVL for an LDT entry that is `useable`.
        let available = self.selector & 4 != 0;
        let pages = self.limit > 0xf_ffff;
        let limit = u64::from(if pages { self.limit >> 12 } else { self.limit });
        let base = u64::from(self.base);
        limit & 0xffff
            | (base & 0xff_ffff) << 16
            | (type_and_s | dpl << 5 | u64::from(self.present) << 7) << 40
            | (limit >> 16 & 0xf) << 48
            | u64::from(available) << 52
            | u64::from(long) << 53
            | u64::from(self.big) << 54
            | u64::from(pages) << 55
            | (base >> 24) << 56
    }

    /// The flags word of Linux's `struct user_desc`.
    pub(crate) fn user_desc_flags(&self) -> u32 {
        let contents = match self.kind {
            Kind::ExpandDown => 1,
            Kind::Code | Kind::ExecuteOnly => 2,
            _ => 0,
        };
        let read_exec_only = matches!(self.kind, Kind::ReadOnly | Kind::ExecuteOnly);
        u32::from(self.big)
            | contents << 1
            | u32::from(read_exec_only) << 3
            | u32::from(!self.present) << 5
            | 1 << 6
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.kind != Kind::ExecuteOnly
    }

    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.kind, Kind::Data | Kind::ExpandDown)
    }

    /// Whether the offsets from `first` to `last` are within the limit.
    pub(crate) fn holds(&self, first: u32, last: u32) -> bool {
        match self.kind {
            Kind::ExpandDown => {
                let top = if self.big { u32::MAX } else { 0xffff };
                first > self.limit && last >= first && last <= top
            }
            _ => last <= self.limit && last >= first,
        }
    }
}

/// The segment that a selector names, `None` for null ones and those of no case.
pub(crate) fn segment(selector: u16) -> Option<&'static Segment> {
    let named = |segment: &&Segment| segment.selector | 3 == selector | 3;
    GDT.iter().chain(&LDT).find(named)
}

pub(crate) fn base(selector: u16) -> u64 {
    segment(selector).map_or(0, |segment| u64::from(segment.base))
}

pub(crate) const LONG_CS: u16 = 0x33;
pub(crate) const FLAT_CS: u16 = 0x23;
pub(crate) const FLAT_DS: u16 = 0x2b;
pub(crate) const WORD_CS: u16 = 0x07;
pub(crate) const SHORT_CS: u16 = 0x2f;

/// Linux's segments. The GDT's limit is 127; every other entry is null or not for programs.
pub(crate) const GDT: [Segment; 5] = [
    Segment::new(0x10, Kind::KernelCode, 0, u32::MAX, false),
    Segment::new(0x18, Kind::KernelData, 0, u32::MAX, true),
    Segment::new(FLAT_CS, Kind::Code, 0, u32::MAX, true),
    Segment::new(FLAT_DS, Kind::Data, 0, u32::MAX, true),
    Segment::new(LONG_CS, Kind::LongCode, 0, u32::MAX, false),
];

/// What the child gives to `modify_ldt`. The limit of the LDT is that of its last entry.
pub(crate) const LDT: [Segment; 10] = [
    Segment::new(WORD_CS, Kind::Code, CODE, 0x1fff, false),
    Segment::new(0x0f, Kind::Data, DATA, 0xfff, false),
    Segment::new(0x17, Kind::ExpandDown, DATA - 0x8000, 0x7fff, false),
    Segment::new(0x1f, Kind::Data, STACK, 0xfff, false),
    Segment::new(0x27, Kind::ReadOnly, DATA, 0xfff, false),
    Segment::new(SHORT_CS, Kind::Code, CODE, 0xfff, true),
    Segment {
        present: false,
        ..Segment::new(0x37, Kind::Data, DATA, 0xfff, true)
    },
    Segment::new(0x3f, Kind::Data, STACK, 0xfff, true),
    Segment::new(0x47, Kind::ExpandDown, DATA - 0x1_0000, 0xffff, true),
    Segment::new(0x4f, Kind::ExecuteOnly, CODE, 0xfff, true),
];
