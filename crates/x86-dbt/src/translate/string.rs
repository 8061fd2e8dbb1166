//! REP STOS and REP MOVS that stay in one page on each side: the host's own.

use core::mem::offset_of;

use iced_x86::Register;

use super::access::Access;
use super::classify::Text;
use super::emit::*;
use super::lower::Lowering;
use crate::frame::Header;
use crate::ops::string::SLICE;

const RCX: Reg = 1;
const RSI: Reg = 6;
const RDI: Reg = 7;
const PAGE: i32 = 4096;

impl Lowering<'_> {
    /// The interpreter takes what goes downwards, leaves its page, or takes more than one slice.
    pub(super) fn text(&mut self, text: Text) {
        self.text_at(RDI, Register::RDI, text, true);
        if text.moves {
            self.code.store(S0, offset_of!(Header, temporary));
            self.text_at(RSI, Register::RSI, text, false);
        }
        self.code
            .alu_frame_imm(Alu::Cmp, offset_of!(Header, direction), 0);
        let downwards = self.code.jcc(NOT_EQUAL);
        self.slow.push(downwards);
        if text.moves {
            self.code.mov(S1, RSI);
            self.code.mov(RSI, S0);
            self.code.load(S0, offset_of!(Header, temporary));
            self.code.store(S1, offset_of!(Header, temporary));
        }
        self.code.mov(S1, RDI);
        self.code.mov(RDI, S0);
        self.code.scale(S0, RCX, text.size);
        self.code.rep(text.moves, text.size);
        self.code.mov(RDI, S1);
        self.code.add_quietly(RDI, S0);
        if text.moves {
            self.code.load(RSI, offset_of!(Header, temporary));
            self.code.add_quietly(RSI, S0);
        }
    }

    /// The host address of one side, to S0, if all of it is in one page.
    fn text_at(&mut self, pointer: Reg, register: Register, text: Text, write: bool) {
        self.code.mov(S0, pointer);
        self.check(Access {
            span: 1,
            write,
            aligned: false,
            base: register,
            index: Register::None,
        });
        let slice = i32::try_from(SLICE).expect("4096");
        self.code.alu_imm(Alu::Cmp, true, RCX, slice);
        let long = self.code.jcc(ABOVE);
        self.code.scale(S1, RCX, text.size);
        self.code
            .store(S1, offset_of!(Header, temporary) + size_of::<u64>());
        self.code.mov(S1, pointer);
        self.code.alu_imm(Alu::And, false, S1, PAGE - 1);
        let bytes = offset_of!(Header, temporary) + size_of::<u64>();
        self.code.alu_frame(Alu::Add, S1, bytes);
        self.code.alu_imm(Alu::Cmp, true, S1, PAGE);
        let crosses = self.code.jcc(ABOVE);
        self.slow.extend([long, crosses]);
    }
}
