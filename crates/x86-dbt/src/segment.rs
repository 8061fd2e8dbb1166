//! Segment registers with their hidden parts, and descriptors. Intel SDM volume 3, 3.4.

/// The segment registers in encoding order.
pub(crate) const ES: u8 = 0;
pub(crate) const CS: u8 = 1;
pub(crate) const SS: u8 = 2;
pub(crate) const DS: u8 = 3;
pub(crate) const FS: u8 = 4;
pub(crate) const GS: u8 = 5;

// Attribute bits: descriptor bits 40-47 in the low byte, bits 52-55 at 12-15.
pub(crate) const ACCESSED: u16 = 1 << 0;
/// Writable data or readable code.
pub(crate) const READ_WRITE: u16 = 1 << 1;
/// Expand-down data or conforming code.
pub(crate) const DOWN_CONFORMING: u16 = 1 << 2;
pub(crate) const CODE: u16 = 1 << 3;
/// Code or data, not a system segment.
pub(crate) const NORMAL: u16 = 1 << 4;
pub(crate) const DPL_SHIFT: u32 = 5;
pub(crate) const PRESENT: u16 = 1 << 7;
pub(crate) const LONG: u16 = 1 << 13;
/// D/B: 32-bit default operand size, or 32-bit stack pointer.
pub(crate) const BIG: u16 = 1 << 14;
pub(crate) const GRANULAR: u16 = 1 << 15;

/// A segment register: its selector and what the processor cached from the descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Bits 0-7 are descriptor bits 40-47 (type, S, DPL, P); bits 12-15 are 52-55 (AVL, L, D/B, G).
    pub attributes: u16,
    /// The last valid offset, granularity applied.
    pub limit: u32,
    /// The linear base address.
    pub base: u64,
}

impl Segment {
    /// The segment that real mode makes of `selector`: 64 KiB at `selector * 16`.
    #[must_use]
    pub const fn real(selector: u16) -> Self {
        Self {
            selector,
            attributes: PRESENT | NORMAL | READ_WRITE | ACCESSED,
            limit: 0xffff,
            base: (selector as u64) << 4,
        }
    }

    /// A present, accessed, flat 4 GiB segment with `attributes` added: what boot protocols ask for.
    #[must_use]
    pub const fn flat(selector: u16, attributes: u16) -> Self {
        Self {
            selector,
            attributes: attributes | PRESENT | NORMAL | READ_WRITE | ACCESSED,
            limit: u32::MAX,
            base: 0,
        }
    }

    /// The descriptor privilege level.
    #[must_use]
    pub const fn dpl(self) -> u8 {
        ((self.attributes >> DPL_SHIFT) & 3) as u8
    }

    pub(crate) const fn has(self, attribute: u16) -> bool {
        self.attributes & attribute == attribute
    }

    pub(crate) const fn is_code(self) -> bool {
        self.has(NORMAL | CODE)
    }

    pub(crate) const fn is_conforming(self) -> bool {
        self.has(NORMAL | CODE | DOWN_CONFORMING)
    }

    pub(crate) const fn is_writable(self) -> bool {
        self.attributes & (NORMAL | CODE | READ_WRITE) == NORMAL | READ_WRITE
    }

    pub(crate) const fn is_readable(self) -> bool {
        self.has(NORMAL) && self.attributes & (CODE | READ_WRITE) != CODE
    }

    pub(crate) const fn is_expand_down(self) -> bool {
        self.attributes & (NORMAL | CODE | DOWN_CONFORMING) == NORMAL | DOWN_CONFORMING
    }

    /// Whether the `len` bytes at `offset` lie inside the limit.
    pub(crate) fn contains(self, offset: u64, len: usize) -> bool {
        let Some(last) = offset.checked_add(len as u64 - 1) else {
            return false;
        };
        let limit = u64::from(self.limit);
        if self.is_expand_down() {
            let top = if self.has(BIG) { 0xffff_ffff } else { 0xffff };
            offset > limit && last <= top
        } else {
            last <= limit
        }
    }
}

/// A descriptor as it lies in a table: 8 bytes, or the low half of a 16-byte system descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor(pub(crate) u64);

impl Descriptor {
    pub(crate) const fn attributes(self) -> u16 {
        ((self.0 >> 40) & 0xf0ff) as u16
    }

    pub(crate) const fn base(self) -> u64 {
        ((self.0 >> 16) & 0xff_ffff) | ((self.0 >> 32) & 0xff00_0000)
    }

    pub(crate) const fn limit(self) -> u32 {
        let raw = (self.0 & 0xffff) as u32 | ((self.0 >> 32) & 0xf_0000) as u32;
        if self.attributes() & GRANULAR != 0 {
            (raw << 12) | 0xfff
        } else {
            raw
        }
    }

    pub(crate) const fn dpl(self) -> u8 {
        ((self.0 >> 45) & 3) as u8
    }

    pub(crate) const fn is_present(self) -> bool {
        self.0 & (1 << 47) != 0
    }

    pub(crate) const fn is_system(self) -> bool {
        self.0 & (1 << 44) == 0
    }

    /// The four type bits.
    pub(crate) const fn kind(self) -> u8 {
        ((self.0 >> 40) & 15) as u8
    }

    pub(crate) const fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            attributes: self.attributes(),
            limit: self.limit(),
            base: self.base(),
        }
    }

    // The fields of a gate, low half. Intel SDM volume 3, figure 6-2.
    pub(crate) const fn gate_selector(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The 32-bit offset; a 16-bit gate has only the low half.
    pub(crate) const fn gate_offset(self) -> u64 {
        (self.0 & 0xffff) | ((self.0 >> 32) & 0xffff_0000)
    }

    pub(crate) const fn gate_parameters(self) -> u8 {
        ((self.0 >> 32) & 31) as u8
    }

    pub(crate) const fn gate_ist(self) -> u8 {
        ((self.0 >> 32) & 7) as u8
    }
}

// System descriptor types. Intel SDM volume 3, table 3-2.
pub(crate) const TSS16_AVAILABLE: u8 = 1;
pub(crate) const LDT: u8 = 2;
pub(crate) const TSS16_BUSY: u8 = 3;
pub(crate) const CALL_GATE16: u8 = 4;
pub(crate) const TASK_GATE: u8 = 5;
pub(crate) const INTERRUPT_GATE16: u8 = 6;
pub(crate) const TRAP_GATE16: u8 = 7;
pub(crate) const TSS32_AVAILABLE: u8 = 9;
pub(crate) const TSS32_BUSY: u8 = 11;
pub(crate) const CALL_GATE32: u8 = 12;
pub(crate) const INTERRUPT_GATE32: u8 = 14;
pub(crate) const TRAP_GATE32: u8 = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_code_descriptor_unpacks() {
        let segment = Descriptor(0x00cf_9b00_0000_ffff).segment(8);
        assert_eq!((segment.base, segment.limit), (0, u32::MAX));
        assert!(segment.is_code() && segment.has(BIG) && !segment.has(LONG));
    }

    #[test]
    fn an_expand_down_segment_is_valid_above_its_limit() {
        let mut segment = Segment::flat(0, DOWN_CONFORMING);
        segment.limit = 0xfff;
        assert!(!segment.contains(0xfff, 1));
        assert!(segment.contains(0x1000, 4));
        assert!(!segment.contains(0xfffe, 4));
    }

    #[test]
    fn a_range_that_wraps_is_outside() {
        assert!(!Segment::flat(0, 0).contains(u64::MAX, 2));
    }
}
