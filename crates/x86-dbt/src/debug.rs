//! Hardware breakpoints. Intel SDM volume 3, 18.2.

use crate::cpu::{CR4_DE, Cpu, EVENT_BREAK, EVENT_TRAP};
use crate::walk::Kind;

/// What a breakpoint waits for: the R/W field of DR7.
const EXECUTE: u64 = 0;
const WRITE: u64 = 1;
const PORT: u64 = 2;
const READ_WRITE: u64 = 3;

/// One enabled breakpoint.
struct Breakpoint {
    number: usize,
    address: u64,
    len: u64,
    condition: u64,
}

impl Cpu {
    fn breakpoints(&self) -> impl Iterator<Item = Breakpoint> + '_ {
        let dr7 = self.dr[7];
        (0..4)
            .filter(move |n| dr7 >> (2 * n) & 3 != 0)
            .map(move |number| Breakpoint {
                number,
                address: self.dr[number],
                // LEN: 1, 2, 8 or 4 bytes.
                len: [1, 2, 8, 4][(dr7 >> (18 + 4 * number) & 3) as usize],
                condition: dr7 >> (16 + 4 * number) & 3,
            })
    }

    pub(crate) fn data_breakpoints(&self) -> bool {
        self.dr[7] & 0xff != 0
            && self
                .breakpoints()
                .any(|b| matches!(b.condition, WRITE | READ_WRITE))
    }

    pub(crate) fn code_breakpoints(&self) -> bool {
        self.dr[7] & 0xff != 0 && self.breakpoints().any(|b| b.condition == EXECUTE)
    }

    /// Notes the data breakpoints that an access of `len` bytes at `linear` hits; they trap after the instruction.
    pub(crate) fn match_data_breakpoints(&mut self, linear: u64, len: usize, kind: Kind) {
        let conditions: &[u64] = if kind == Kind::Write {
            &[WRITE, READ_WRITE]
        } else {
            &[READ_WRITE]
        };
        self.match_breakpoints(linear, len as u64, conditions);
    }

    /// Notes the I/O breakpoints that an access hits, under CR4.DE.
    pub(crate) fn match_port_breakpoints(&mut self, port: u16, len: usize) {
        if self.dr[7] & 0xff != 0 && self.cr4 & CR4_DE != 0 {
            self.match_breakpoints(u64::from(port), len as u64, &[PORT]);
        }
    }

    fn match_breakpoints(&mut self, at: u64, len: u64, conditions: &[u64]) {
        let hit = self
            .breakpoints()
            .filter(|b| conditions.contains(&b.condition))
            .filter(|b| {
                let start = b.address & !(b.len - 1);
                at < start.saturating_add(b.len) && start < at.saturating_add(len)
            })
            .fold(0, |hit, b| hit | 1 << b.number);
        if hit != 0 {
            self.note_debug_condition(hit);
            self.events |= EVENT_TRAP | EVENT_BREAK;
        }
    }

    /// Whether a code breakpoint is on the next instruction; sets its bit in DR6.
    pub(crate) fn match_code_breakpoints(&mut self) -> bool {
        if self.dr[7] & 0xff == 0 {
            return false;
        }
        let at = self.code_address();
        let hit = self
            .breakpoints()
            .filter(|b| b.condition == EXECUTE && b.address == at)
            .fold(0, |hit, b| hit | 1 << b.number);
        if hit != 0 {
            self.note_debug_condition(hit);
        }
        hit != 0
    }

    /// Notes in DR6 why #DB comes. B0 to B3 are those of this #DB, the rest stays until software clears it. AMD APM volume
    /// 2, 13.1.1.3.
    pub(crate) fn note_debug_condition(&mut self, bits: u64) {
        if self.events & EVENT_TRAP == 0 {
            self.dr[6] &= !0xf;
        }
        self.dr[6] |= bits;
    }
}
