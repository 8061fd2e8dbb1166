//! Code out of line: what is rarely needed, behind the unit.

use core::mem::offset_of;

use super::access::Repin;
use super::classify::Registers;
use super::emit::*;
use super::flags::Flags;
use super::lower::{Latest, Lowering, count};
use crate::frame::Header;

/// The second turn of a unit's loop: its instructions once more, from flags that are left to a comparison.
pub(super) struct Turn {
    pub(super) comparison: usize,
    /// Where it starts, once it is there.
    pub(super) start: Option<usize>,
    /// Jumps to it from before.
    pub(super) from: Vec<Fixup>,
}

/// Code out of line.
pub(super) enum Cold {
    /// The interpreter executes instruction `op`; then, if it may, translated code goes on at `resume`.
    Simulate {
        from: Vec<Fixup>,
        repins: Vec<Repin>,
        op: usize,
        resume: usize,
        before: Flags,
        flags: Flags,
        x87: Latest,
    },
    /// A branch is taken after `op`.
    Taken {
        from: Fixup,
        op: usize,
        target: u64,
        flags: Flags,
        x87: Latest,
    },
    /// The budget does not reach for the whole unit.
    Budget { from: Fixup },
}

impl Lowering<'_> {
    pub(super) fn out_of_line(&mut self) {
        while let Some(cold) = self.cold.pop() {
            self.cold(cold);
        }
    }

    pub(super) fn cold(&mut self, cold: Cold) {
        let here = self.code.here();
        match cold {
            Cold::Simulate {
                mut from,
                repins,
                op,
                resume,
                before,
                flags,
                x87,
            } => {
                for repin in repins {
                    self.repin(repin);
                }
                from.append(&mut self.slow);
                let here = self.code.here();
                for fixup in from {
                    self.code.bind(fixup, here);
                }
                // The check was made behind this, so that the host's flags are gone.
                self.spill_from(Flags {
                    host: false,
                    header: before.header || before.comparison.is_none(),
                    ..before
                });
                self.settle_x87(x87);
                self.call_simulate(op);
                if flags.host {
                    self.code.restore_flags();
                }
                let back = self.code.jmp();
                self.code.bind(back, resume);
            }
            Cold::Taken {
                from,
                op,
                target,
                flags,
                x87,
            } => {
                self.code.bind(from, here);
                (self.flags, self.x87) = (flags, x87);
                match flags.comparison {
                    Some(comparison) if self.turns_at(target, comparison) => {
                        self.turn(op + 1, comparison);
                    }
                    _ => self.exit(op + 1, target),
                }
            }
            Cold::Budget { from } => {
                self.code.bind(from, here);
                let start = self.instructions[0].ip();
                self.leave_for(start);
            }
        }
    }

    /// Whether a branch to `target` may enter the second turn of the unit's loop.
    pub(super) fn turns_at(&self, target: u64, comparison: usize) -> bool {
        let known = self.turn.as_ref().map(|turn| turn.comparison);
        target == self.block.linear()
            && self.registers != Registers::X87
            && known.is_none_or(|known| known == comparison)
    }

    /// Back to the start of the unit with the flags left to `comparison`, or out if the budget is at its end.
    pub(super) fn turn(&mut self, executed: usize, comparison: usize) {
        self.charge(executed);
        let instructions = count(self.instructions.len());
        self.code
            .alu_frame_imm(Alu::Cmp, offset_of!(Header, budget), instructions);
        let from = self.code.jcc(GREATER_EQUAL);
        let turn = self.turn.get_or_insert_with(|| Turn {
            comparison,
            start: None,
            from: Vec::new(),
        });
        match turn.start {
            Some(start) => self.code.bind(from, start),
            None => turn.from.push(from),
        }
        self.flags.host = false;
        self.spill_flags();
        self.leave_for(self.block.linear());
    }

    /// Leaves translated code, with RIP at `target`.
    pub(super) fn leave_for(&mut self, target: u64) {
        self.code.mov_imm(S0, target);
        self.code.jump_frame(offset_of!(Header, exit));
    }
}
