//! Memory operands: from a guest's address to a host's, or out to the interpreter.
//!
//! Two ways lead through the soft TLB. The usual one computes the entry's place from the address. The short one looks
//! into a [`Pin`] that belongs to the place in the code: the page that was used there last. Loops that go along memory have
//! pins, and programs one for their stack. Elsewhere, on the kernel's stacks too, what a pin saves is lost again to the
//! changes of address space that empty it.

use core::mem::offset_of;

use iced_x86::{Instruction, Mnemonic, Register};

use super::emit::*;
use super::flags::writes;
use super::ident::gpr_number;
use super::lower::Lowering;
use crate::frame::{Header, PINS, PINS_EACH, Pin, TLB};
use crate::ram::PAGE;
use crate::tlb::{Bank, Entry};

/// What is accessed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) span: u16,
    pub(super) write: bool,
    pub(super) aligned: bool,
    /// The registers that the address is made of.
    pub(super) base: Register,
    pub(super) index: Register,
}

/// The long way behind a pin that holds another page, out of line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repin {
    from: Fixup,
    back: usize,
    pin: usize,
    access: Access,
}

impl Access {
    /// A read of the memory operand.
    pub(super) fn read(span: u16, i: &Instruction) -> Self {
        Self {
            span,
            write: false,
            aligned: false,
            base: i.memory_base(),
            index: i.memory_index(),
        }
    }

    /// Eight bytes of the stack.
    pub(super) fn pop() -> Self {
        Self {
            span: 8,
            write: false,
            aligned: false,
            base: Register::RSP,
            index: Register::None,
        }
    }

    pub(super) fn push() -> Self {
        Self {
            write: true,
            ..Self::pop()
        }
    }

    fn tag(self) -> usize {
        if self.write {
            offset_of!(Entry, write)
        } else {
            offset_of!(Entry, read)
        }
    }

    /// The last offset in a page at which all of it is in the page.
    fn last_offset(self) -> i32 {
        i32::try_from(PAGE).expect("4096") - i32::from(self.span)
    }
}

impl Lowering<'_> {
    /// The linear address of the memory operand, to S0. Takes S1.
    pub(super) fn address(&mut self, i: &Instruction) {
        self.lea_to(i, Register::R14);
        let base = match i.memory_segment() {
            Register::FS => offset_of!(Header, fs_base),
            Register::GS => offset_of!(Header, gs_base),
            _ => return,
        };
        self.code.load(S1, base);
        self.code.add_quietly(S0, S1);
    }

    /// From the linear address in S0 to a host address, or out to the interpreter. Takes S1 and the flags.
    pub(super) fn check(&mut self, access: Access) {
        self.release_flags();
        match self.pin(access) {
            Some(pin) => self.check_pin(pin, access),
            None => {
                self.look_up_page(access);
                let host = self.table() + offset_of!(Entry, host);
                self.code.alu_indexed(Alu::Add, S0, S1, host);
            }
        }
        if access.aligned {
            self.code.test8_imm(S0, 15);
            let misaligned = self.code.jcc(NOT_EQUAL);
            self.slow.push(misaligned);
        }
    }

    /// Offset of this mode's TLB entries in the frame.
    fn table(&self) -> usize {
        TLB + usize::from(self.mode.bank()) * 1024 * size_of::<Entry>()
    }

    /// The entry's place to S1, the offset in its page to S0; out to the interpreter if it is another page's.
    fn look_up_page(&mut self, access: Access) {
        self.code.mov(S1, S0);
        // Page number times 32, the size of an entry.
        self.code.shr(S1, 7);
        self.code.alu_imm(Alu::And, false, S1, 1023 * 32);
        self.code
            .alu_indexed(Alu::Xor, S0, S1, self.table() + access.tag());
        // What is left is the offset in the page, if the page is that of the tag.
        self.code.alu_imm(Alu::Cmp, true, S0, access.last_offset());
        let miss = self.code.jcc(ABOVE);
        self.slow.push(miss);
    }

    fn check_pin(&mut self, pin: usize, access: Access) {
        self.code
            .alu_frame(Alu::Xor, S0, pin + offset_of!(Pin, page));
        self.code
            .alu_frame(Alu::Cmp, S0, pin + offset_of!(Pin, limit));
        let from = self.code.jcc(ABOVE_EQUAL);
        self.repins.push(Repin {
            from,
            back: self.code.here(),
            pin,
            access,
        });
        self.code
            .alu_frame(Alu::Add, S0, pin + offset_of!(Pin, host));
    }

    /// Takes the page from the TLB into the pin, and goes back to where it is used.
    pub(super) fn repin(&mut self, repin: Repin) {
        let Repin {
            from,
            back,
            pin,
            access,
        } = repin;
        let here = self.code.here();
        self.code.bind(from, here);
        let page = pin + offset_of!(Pin, page);
        self.code.alu_frame(Alu::Xor, S0, page);
        self.look_up_page(access);
        let offset = offset_of!(Header, temporary) + 8;
        self.code.store(S0, offset);
        self.code.load_indexed(S0, S1, self.table() + access.tag());
        self.code.store(S0, page);
        self.code
            .load_indexed(S0, S1, self.table() + offset_of!(Entry, host));
        self.code.store(S0, pin + offset_of!(Pin, host));
        self.code
            .store_imm(pin + offset_of!(Pin, limit), Pin::LIMIT);
        self.code.load(S0, offset);
        let jump = self.code.jmp();
        self.code.bind(jump, back);
    }

    /// Offset in the frame of the pin for `access`. Reads and writes, and each bank, have pins of their own: what is in
    /// one has been checked for exactly its use.
    fn pin(&mut self, access: Access) -> Option<usize> {
        let on_user_stack = access.base == Register::RSP && self.mode.bank() == Bank::User as u8;
        let slot = if on_user_stack {
            STACK_PIN
        } else if self.is_loop && self.strides(access) {
            self.loop_pin(access.base)
        } else {
            return None;
        };
        let kind = usize::from(self.mode.bank()) * 2 + usize::from(access.write);
        Some(PINS + (kind * PINS_EACH + slot) * size_of::<Pin>())
    }

    /// Whether the unit changes the address's registers only by what moves them along.
    fn strides(&mut self, access: Access) -> bool {
        use Mnemonic as M;
        let parts = [access.base, access.index].map(Register::full_register);
        let is_part = |register| register != Register::None && parts.contains(&register);
        self.instructions.iter().all(|i| {
            let moves = matches!(i.mnemonic(), M::Add | M::Sub | M::Inc | M::Dec);
            moves || !writes(self.factory.info(i), is_part)
        })
    }

    /// One of the pins of loops: the same for one base register in one unit.
    fn loop_pin(&self, base: Register) -> usize {
        let base = if base == Register::None {
            0
        } else {
            usize::from(gpr_number(base))
        };
        // Nearby units start elsewhere, so that an outer loop keeps its own.
        (base + self.unit.0 as usize * 5) % STACK_PIN
    }
}

/// The pin of a program's stack; those of loops are the others.
const STACK_PIN: usize = PINS_EACH - 1;

/// `look_up_page` turns a page number into an entry's place by a shift.
const _: () = assert!(size_of::<Entry>() == 32);
