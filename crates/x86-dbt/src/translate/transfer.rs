//! The stack, and transfers: direct ones become links, indirect ones go through a jump cache.

use core::mem::offset_of;

use iced_x86::{Instruction, OpKind};

use super::access::Access;
use super::cold::Cold;
use super::emit::*;
use super::ident::gpr_number;
use super::lower::{Link, Lowering};
use crate::frame::{Header, JUMP_CACHE_BYTES, JUMP_CACHES, Jump};

impl Lowering<'_> {
    pub(super) fn push(&mut self, i: &Instruction) {
        if i.op_kind(0) == OpKind::Memory {
            self.address(i);
            self.check(Access::read(8, i));
            self.code.load_at(true, S0, S0);
            self.code.store(S0, offset_of!(Header, temporary));
            self.check_push();
            self.code.load(S1, offset_of!(Header, temporary));
            self.code.store_at(true, S1, S0);
        } else if i.op_kind(0) == OpKind::Register {
            self.check_push();
            let from = match gpr_number(i.op_register(0)) {
                4 => STACK,
                number if has_home(number) => {
                    self.code.load(S1, home(number));
                    S1
                }
                number => number,
            };
            self.code.store_at(true, from, S0);
        } else {
            self.check_push();
            let value = i.immediate(0).cast_signed();
            self.code
                .store_imm_at(S0, i32::try_from(value).expect("PUSH has 32 bits at most"));
        }
        self.code.lea(STACK, STACK, -8);
    }

    /// The host address of what a push of eight bytes would write, to S0.
    pub(super) fn check_push(&mut self) {
        self.code.lea(S0, STACK, -8);
        self.check(Access::push());
    }

    pub(super) fn pop(&mut self, i: &Instruction) {
        self.code.mov(S0, STACK);
        self.check(Access::pop());
        match gpr_number(i.op_register(0)) {
            number if has_home(number) => {
                self.code.load_at(true, S0, S0);
                self.code.store(S0, home(number));
            }
            number => self.code.load_at(true, number, S0),
        }
        self.code.lea(STACK, STACK, 8);
    }

    pub(super) fn leave(&mut self) {
        const RBP: Reg = 5;
        self.code.mov(S0, RBP);
        self.check(Access::pop());
        self.code.lea(STACK, RBP, 8);
        self.code.load_at(true, RBP, S0);
    }

    pub(super) fn branch(&mut self, op: usize, i: &Instruction) {
        self.fill_flags();
        let condition = condition(i);
        let from = self.code.jcc(condition);
        self.cold.push(Cold::Taken {
            from,
            op,
            target: i.near_branch64(),
            flags: self.flags,
            x87: self.x87,
        });
    }

    pub(super) fn call(&mut self, i: &Instruction) {
        self.check_push();
        self.push_return(i.next_ip());
        self.exit(self.instructions.len(), i.near_branch64());
    }

    pub(super) fn push_return(&mut self, to: u64) {
        if let Ok(short) = i32::try_from(to.cast_signed()) {
            self.code.store_imm_at(S0, short);
        } else {
            self.code.mov_imm(S1, to);
            self.code.store_at(true, S1, S0);
        }
        self.code.lea(STACK, STACK, -8);
    }

    pub(super) fn ret(&mut self, i: &Instruction) {
        self.spill_flags();
        self.settle_x87(self.x87);
        self.code.mov(S0, STACK);
        self.check(Access::pop());
        self.code.load_at(true, S0, S0);
        self.look_up();
        let released = if i.op_count() > 0 {
            i32::from(i.immediate16())
        } else {
            0
        };
        self.code.lea(STACK, STACK, 8 + released);
        self.charge(self.instructions.len());
        self.code
            .jump_indexed(S1, self.jump_cache() + offset_of!(Jump, code));
    }

    pub(super) fn jump_indirect(&mut self, i: &Instruction) {
        self.spill_flags();
        self.settle_x87(self.x87);
        self.indirect_target(i);
        self.look_up();
        self.charge(self.instructions.len());
        self.code
            .jump_indexed(S1, self.jump_cache() + offset_of!(Jump, code));
    }

    pub(super) fn call_indirect(&mut self, i: &Instruction) {
        self.spill_flags();
        self.settle_x87(self.x87);
        self.indirect_target(i);
        self.look_up();
        let code = self.jump_cache() + offset_of!(Jump, code);
        self.code.load_indexed(S1, S1, code);
        self.code.store(S1, offset_of!(Header, temporary));
        self.check_push();
        self.push_return(i.next_ip());
        self.charge(self.instructions.len());
        self.code.jump_frame(offset_of!(Header, temporary));
    }

    /// The target of an indirect transfer, to S0.
    pub(super) fn indirect_target(&mut self, i: &Instruction) {
        if i.op_kind(0) == OpKind::Memory {
            self.address(i);
            self.check(Access::read(8, i));
            self.code.load_at(true, S0, S0);
            return;
        }
        match gpr_number(i.op_register(0)) {
            4 => self.code.mov(S0, STACK),
            number if has_home(number) => self.code.load(S0, home(number)),
            number => self.code.mov(S0, number),
        }
    }

    /// The offset of the jump cache's slot for the address in S0, to S1; out to the interpreter if another is there.
    pub(super) fn look_up(&mut self) {
        debug_assert!(self.flags.header);
        self.code.movzx16(S1, S0);
        self.code.shl32(S1, 4);
        let linear = self.jump_cache() + offset_of!(Jump, linear);
        self.code.alu_indexed(Alu::Cmp, S0, S1, linear);
        let miss = self.code.jcc(NOT_EQUAL);
        self.slow.push(miss);
    }

    pub(super) fn jump_cache(&self) -> usize {
        JUMP_CACHES + self.mode.index() * JUMP_CACHE_BYTES
    }

    /// Leaves the unit for `target`, with so many of its instructions executed.
    pub(super) fn exit(&mut self, executed: usize, target: u64) {
        self.spill_flags();
        self.charge(executed);
        self.settle_x87(self.x87);
        if target == self.block.linear() {
            // The unit is valid as long as it runs.
            let from = self.code.jmp();
            self.code.bind(from, 0);
        } else {
            self.link(target);
        }
    }

    /// Leaves translated code for `target`, by code that a jump can overwrite. What is overwritten must not be a
    /// jump itself: processors here keep mispredicting a direct jump whose distance has changed.
    pub(super) fn link(&mut self, target: u64) {
        let at = self.code.here();
        self.code.store_imm(offset_of!(Header, link), 0);
        self.links.push(Link {
            at,
            number_at: self.code.here() - 4,
            target,
        });
        self.leave_for(target);
    }
}

/// The condition's encoding.
fn condition(i: &Instruction) -> u8 {
    use iced_x86::ConditionCode as C;
    match i.condition_code() {
        C::o | C::None => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        C::g => 15,
    }
}
