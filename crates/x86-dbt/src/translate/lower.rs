//! From a block of guest instructions to host code.
//!
//! Between instructions the guest's registers are in the host's of the same name, but for RSP, which is in R13, and
//! R11 and R13 to R15, which are in the header. The status flags are in the host's, in the header, or in both: [`Flags`].
//! Nothing of the guest changes before the last check of an instruction, so that any of them can be given to the
//! interpreter instead.

use core::mem::offset_of;

use iced_x86::{
    Code as Opcode, Encoder, Instruction, InstructionInfoFactory, MemoryOperand, OpKind, Register,
};

use super::access::{Access, Repin};
use super::classify::{Class, Ident, Registers, classify};
use super::emit::*;
use super::flags::Flags;
use super::{Mode, SITE_OP_BITS};
use crate::block::Block;
use crate::decode::falls_through;
use crate::frame::{Header, JUMP_CACHE_BYTES, JUMP_CACHES, Jump, NO_LINK};
use crate::tlb::{self, Entry};

/// Host code for one block, not yet placed.
pub(super) struct Lowered {
    pub(super) code: Code,
    pub(super) links: Vec<Link>,
}

/// A direct jump out of the unit, to be chained to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Where the code that leaves starts, to be overwritten by a jump of [`LINK_BYTES`].
    pub(super) at: usize,
    /// Where the link's number is to be filled in.
    pub(super) number_at: usize,
    pub(super) target: u64,
}

/// RIP and opcode of the latest x87 instruction of the unit.
type Latest = Option<(u64, u16)>;

/// The second turn of a unit's loop: its instructions once more, from flags that are left to a comparison.
struct Turn {
    comparison: usize,
    /// Where it starts, once it is there.
    start: Option<usize>,
    /// Jumps to it from before.
    from: Vec<Fixup>,
}

/// Code out of line.
enum Cold {
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

pub(super) struct Lowering<'a> {
    pub(super) block: &'a Block,
    pub(super) instructions: &'a [Instruction],
    bytes: &'a [u8],
    pub(super) mode: Mode,
    pub(super) unit: u32,
    registers: Registers,
    x87: Latest,
    pub(super) code: Code,
    encoder: Encoder,
    pub(super) flags: Flags,
    pub(super) factory: InstructionInfoFactory,
    turn: Option<Turn>,
    cold: Vec<Cold>,
    links: Vec<Link>,
    /// Checks of the present instruction that send it to the interpreter.
    pub(super) slow: Vec<Fixup>,
    /// Pins of the present instruction that may hold another page.
    pub(super) repins: Vec<Repin>,
    /// The unit branches back to its own start.
    pub(super) is_loop: bool,
    /// The encoder has no encoding for the present instruction with its operands moved.
    refused: bool,
}

impl<'a> Lowering<'a> {
    /// `instructions` are the block's, decoded from `bytes`.
    pub(super) fn new(
        block: &'a Block,
        instructions: &'a [Instruction],
        bytes: &'a [u8],
        mode: Mode,
        unit: u32,
    ) -> Self {
        let registers = |(i, op)| match classify(i, op, mode.floats()) {
            Class::Ident(ident) => ident.registers,
            _ => Registers::General,
        };
        let pairs = instructions.iter().zip(block.ops.iter());
        Self {
            block,
            instructions,
            bytes,
            mode,
            unit,
            registers: pairs.map(registers).max().unwrap_or(Registers::General),
            x87: None,
            code: Code::default(),
            encoder: Encoder::new(64),
            flags: Flags::ENTRY,
            factory: InstructionInfoFactory::new(),
            turn: None,
            cold: Vec::new(),
            links: Vec::new(),
            slow: Vec::new(),
            repins: Vec::new(),
            is_loop: instructions.iter().any(|i| is_branch_to(i, block.linear())),
            refused: false,
        }
    }

    pub(super) fn run(mut self) -> Lowered {
        self.check_budget();
        self.load_registers();
        self.body();
        self.out_of_line();
        if let Some(turn) = &mut self.turn {
            // Again, for those turns of the loop that find the flags in a comparison.
            turn.start = Some(self.code.here());
            self.flags = Flags::compared(turn.comparison);
            for fixup in std::mem::take(&mut turn.from) {
                let here = self.code.here();
                self.code.bind(fixup, here);
            }
            self.x87 = None;
            self.body();
            self.out_of_line();
        }
        Lowered {
            code: self.code,
            links: self.links,
        }
    }

    fn out_of_line(&mut self) {
        while let Some(cold) = self.cold.pop() {
            self.cold(cold);
        }
    }

    /// Every instruction, from the flags as they are now.
    fn body(&mut self) {
        let mut at = 0;
        for (op, i) in self.instructions.iter().enumerate() {
            let class = classify(i, &self.block.ops[op], self.mode.floats());
            let bytes = &self.bytes[at..at + i.len()];
            at += i.len();
            self.instruction(op, i, bytes, class);
        }
        let last = self.instructions.last().expect("a block is not empty");
        if falls_through(last) {
            self.exit(self.instructions.len(), last.next_ip());
        }
    }

    pub(super) fn bytes_of(&self, op: usize) -> &'a [u8] {
        let start: usize = self.instructions[..op].iter().map(Instruction::len).sum();
        &self.bytes[start..start + self.instructions[op].len()]
    }

    /// Leaves if the unit is longer than what is left of the budget.
    fn check_budget(&mut self) {
        self.code
            .alu_imm(Alu::Cmp, true, BUDGET, count(self.instructions.len()));
        let from = self.code.jcc(LESS);
        self.cold.push(Cold::Budget { from });
    }

    /// Takes `executed` instructions off the budget, when the unit is left. Takes the flags.
    fn charge(&mut self, executed: usize) {
        self.code.lea(BUDGET, BUDGET, -count(executed));
    }

    /// Brings the guest's XMM or x87 registers in, if the unit needs them and they are not.
    fn load_registers(&mut self) {
        let (live, load) = match self.registers {
            Registers::General => return,
            Registers::Xmm => (offset_of!(Header, xmm_live), offset_of!(Header, load_xmm)),
            Registers::X87 => (offset_of!(Header, x87_live), offset_of!(Header, load_x87)),
        };
        self.code.alu_frame_imm(Alu::Cmp, live, 0);
        let ready = self.code.jcc(NOT_EQUAL);
        self.code.call_frame(load);
        let here = self.code.here();
        self.code.bind(ready, here);
    }

    /// Before translated code is left: what the x87 instructions so far did to the pointers.
    fn settle_x87(&mut self, latest: Latest) {
        let Some((rip, opcode)) = latest else {
            return;
        };
        self.code.mov_imm(S0, rip);
        self.code.store(S0, offset_of!(Header, fip));
        self.code
            .store_imm(offset_of!(Header, fop), u32::from(opcode));
    }

    fn instruction(&mut self, op: usize, i: &Instruction, bytes: &[u8], class: Class) {
        self.keep_comparison(op);
        let (start, flags, cold) = (self.code.here(), self.flags, self.cold.len());
        let x87 = self.x87;
        self.template(op, i, bytes, class);
        if std::mem::take(&mut self.refused) {
            self.code.bytes.truncate(start);
            self.flags = flags;
            self.cold.truncate(cold);
            self.slow.clear();
            self.repins.clear();
            self.simulate(op);
        }
        if !self.slow.is_empty() || !self.repins.is_empty() {
            let from = std::mem::take(&mut self.slow);
            let repins = std::mem::take(&mut self.repins);
            self.cold.push(Cold::Simulate {
                from,
                repins,
                op,
                resume: self.code.here(),
                before: flags,
                flags: self.flags,
                x87,
            });
        }
        match class {
            Class::Ident(ident) if ident.registers == Registers::X87 => {
                self.x87 = Some((i.ip(), self.block.ops[op].immediate as u16));
            }
            // The interpreter has put everything in its place.
            Class::Simulate => self.x87 = None,
            _ => {}
        }
    }

    fn template(&mut self, op: usize, i: &Instruction, bytes: &[u8], class: Class) {
        match class {
            Class::Nothing => {}
            Class::Ident(ident) => {
                if ident.span == 0 {
                    self.ident_registers(op, i, bytes);
                } else {
                    self.ident_memory(op, i, ident);
                }
            }
            Class::Lea => self.lea(i),
            Class::Divide { signed } => self.divide(i, signed),
            Class::Push => self.push(i),
            Class::Pop => self.pop(i),
            Class::Leave => self.leave(),
            Class::Jump => self.exit(op + 1, i.near_branch64()),
            Class::Branch => self.branch(op, i),
            Class::Call => self.call(i),
            Class::Return => self.ret(i),
            Class::JumpIndirect => self.jump_indirect(i),
            Class::CallIndirect => self.call_indirect(i),
            Class::Simulate => self.simulate(op),
        }
    }

    // Instructions kept as they are.

    fn ident_registers(&mut self, op: usize, i: &Instruction, bytes: &[u8]) {
        self.prepare_flags(op, i);
        if (0..i.op_count()).any(|n| is_moved(i, n)) {
            self.encode_moved(i, &[S0, S1]);
        } else {
            self.code.put(bytes);
        }
        self.settle_flags(op, i);
    }

    fn ident_memory(&mut self, op: usize, i: &Instruction, ident: Ident) {
        self.address(i);
        let is_x87 = ident.registers == Registers::X87;
        if is_x87 {
            self.code.store(S0, offset_of!(Header, temporary));
        }
        self.check(Access {
            write: ident.writes_memory,
            aligned: ident.aligned,
            ..Access::read(ident.span, i)
        });
        if is_x87 {
            self.code.load(S1, offset_of!(Header, temporary));
            self.code.store(S1, offset_of!(Header, fdp));
        }
        // S0 holds the address; this takes S1 only.
        self.prepare_flags(op, i);
        self.encode_moved(i, &[S1]);
        self.settle_flags(op, i);
    }

    /// Emits `i` with its memory operand at S0 and registers that have moved in the `free` ones.
    fn encode_moved(&mut self, i: &Instruction, free: &[Reg]) {
        let mut moved = *i;
        moved.set_has_lock_prefix(false);
        let mut homes: [Option<(u8, Reg)>; 2] = [None; 2];
        for n in 0..i.op_count() {
            match i.op_kind(n) {
                OpKind::Memory => {
                    moved.set_segment_prefix(Register::None);
                    moved.set_memory_base(Register::R14);
                    moved.set_memory_index(Register::None);
                    moved.set_memory_index_scale(1);
                    moved.set_memory_displacement64(0);
                    moved.set_memory_displ_size(0);
                }
                OpKind::Register if i.op_register(n).is_gpr() => {
                    let register = i.op_register(n);
                    let number = gpr_number(register);
                    if let Some(host) = self.host_of(number, free, &mut homes) {
                        moved.set_op_register(n, same_size(register, host));
                    }
                }
                _ => {}
            }
        }
        self.encode(&moved);
        for (number, host) in homes.into_iter().flatten() {
            // What was only read is stored back as it was.
            self.code.store(host, home(number));
        }
    }

    /// The host register of a guest's that has moved; loads those that live in the header.
    fn host_of(
        &mut self,
        number: u8,
        free: &[Reg],
        homes: &mut [Option<(u8, Reg)>; 2],
    ) -> Option<Reg> {
        match number {
            4 => return Some(STACK),
            _ if has_home(number) => {}
            _ => return None,
        }
        if let Some((_, host)) = homes.iter().flatten().find(|(known, _)| *known == number) {
            return Some(*host);
        }
        let slot = homes
            .iter()
            .position(Option::is_none)
            .expect("two registers at most");
        let host = free[slot];
        self.code.load(host, home(number));
        homes[slot] = Some((number, host));
        Some(host)
    }

    fn encode(&mut self, i: &Instruction) {
        self.encoder
            .set_buffer(std::mem::take(&mut self.code.bytes));
        let encoded = self.encoder.encode(i, 0);
        self.code.bytes = self.encoder.take_buffer();
        self.refused |= encoded.is_err();
    }

    fn lea(&mut self, i: &Instruction) {
        let register = i.op_register(0);
        let number = gpr_number(register);
        let (host, stored) = match number {
            4 => (STACK, false),
            _ if has_home(number) => (S0, true),
            _ => (number, false),
        };
        if stored && register.size() == 2 {
            // The rest of the register stays.
            self.lea_to(i, Register::R14);
            self.code.store16(S0, home(number));
            return;
        }
        self.lea_to(i, same_size(register, host));
        if stored {
            self.code.store(S0, home(number));
        }
    }

    /// `lea to, [operand]` on the guest's registers, without its segment. Takes S0 and S1.
    pub(super) fn lea_to(&mut self, i: &Instruction, to: Register) {
        if i.is_ip_rel_memory_operand() {
            let address = i.ip_rel_memory_address();
            if to.size() == 2 {
                self.code.mov_imm(S0, address);
                self.encode_mov16(to);
            } else {
                let address = if to.size() == 4 {
                    address & 0xffff_ffff
                } else {
                    address
                };
                self.code.mov_imm(gpr_number(to), address);
            }
            return;
        }
        let base = self.address_register(i.memory_base(), S0);
        let index = if i.memory_index() == i.memory_base() && i.memory_index() != Register::None {
            base
        } else {
            self.address_register(i.memory_index(), S1)
        };
        let (base, index, scale) = (base, index, i.memory_index_scale());
        let displacement = i.memory_displacement64().cast_signed();
        let size = match i.memory_displ_size() {
            0 if base == Register::None => 4,
            size => size,
        };
        let operand =
            MemoryOperand::with_base_index_scale_displ_size(base, index, scale, displacement, size);
        let opcode = match to.size() {
            2 => Opcode::Lea_r16_m,
            4 => Opcode::Lea_r32_m,
            _ => Opcode::Lea_r64_m,
        };
        let lea = Instruction::with2(opcode, to, operand).expect("LEA takes these operands");
        self.encode(&lea);
    }

    fn encode_mov16(&mut self, to: Register) {
        let mov = Instruction::with2(Opcode::Mov_r16_rm16, to, Register::R14W)
            .expect("MOV takes these operands");
        self.encode(&mov);
    }

    /// The host register that holds a guest register of an address, loaded into `free` if it lives in the header.
    fn address_register(&mut self, register: Register, free: Reg) -> Register {
        if register == Register::None {
            return register;
        }
        match gpr_number(register) {
            4 => same_size(register, STACK),
            number if has_home(number) => {
                self.code.load(free, home(number));
                same_size(register, free)
            }
            _ => register,
        }
    }

    fn divide(&mut self, i: &Instruction, signed: bool) {
        let memory = i.op_kind(0) == OpKind::Memory;
        if memory {
            self.address(i);
            let span = if is_wide(i) { 8 } else { 4 };
            self.check(Access::read(span, i));
        } else {
            self.spill_flags();
            match gpr_number(i.op_register(0)) {
                number if has_home(number) => self.code.load(S0, home(number)),
                4 => self.code.mov(S0, STACK),
                number => self.code.mov(S0, number),
            }
        }
        if memory {
            self.code.load_at(is_wide(i), S0, S0);
        }
        if signed {
            self.guard_signed(is_wide(i));
        } else {
            self.guard_unsigned(is_wide(i));
        }
        let register = if is_wide(i) {
            Register::R14
        } else {
            Register::R14D
        };
        let opcode = match (signed, is_wide(i)) {
            (false, false) => Opcode::Div_rm32,
            (false, true) => Opcode::Div_rm64,
            (true, false) => Opcode::Idiv_rm32,
            (true, true) => Opcode::Idiv_rm64,
        };
        let divide = Instruction::with1(opcode, register).expect("DIV takes a register");
        self.encode(&divide);
    }

    /// The quotient fits exactly if the high half is below the divisor.
    fn guard_unsigned(&mut self, wide: bool) {
        self.code.alu(Alu::Cmp, wide, RDX, S0);
        let overflow = self.code.jcc(ABOVE_EQUAL);
        self.slow.push(overflow);
    }

    /// Lets through only dividends that are one word sign-extended, and divisors other than 0 and -1.
    fn guard_signed(&mut self, wide: bool) {
        self.code.mov(S1, RAX);
        self.code.sar(wide, S1, if wide { 63 } else { 31 });
        self.code.alu(Alu::Cmp, wide, S1, RDX);
        let long = self.code.jcc(NOT_EQUAL);
        self.code.lea_sized(wide, S1, S0, 1);
        self.code.alu_imm(Alu::Cmp, wide, S1, 1);
        let edge = self.code.jcc(BELOW_EQUAL);
        self.slow.extend([long, edge]);
    }

    // The stack.

    fn push(&mut self, i: &Instruction) {
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
    fn check_push(&mut self) {
        self.code.lea(S0, STACK, -8);
        self.check(Access::push());
    }

    fn pop(&mut self, i: &Instruction) {
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

    fn leave(&mut self) {
        const RBP: Reg = 5;
        self.code.mov(S0, RBP);
        self.check(Access::pop());
        self.code.lea(STACK, RBP, 8);
        self.code.load_at(true, RBP, S0);
    }

    // Transfers.

    fn branch(&mut self, op: usize, i: &Instruction) {
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

    fn call(&mut self, i: &Instruction) {
        self.check_push();
        self.push_return(i.next_ip());
        self.exit(self.instructions.len(), i.near_branch64());
    }

    fn push_return(&mut self, to: u64) {
        if let Ok(short) = i32::try_from(to.cast_signed()) {
            self.code.store_imm_at(S0, short);
        } else {
            self.code.mov_imm(S1, to);
            self.code.store_at(true, S1, S0);
        }
        self.code.lea(STACK, STACK, -8);
    }

    fn ret(&mut self, i: &Instruction) {
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

    fn jump_indirect(&mut self, i: &Instruction) {
        self.spill_flags();
        self.settle_x87(self.x87);
        self.indirect_target(i);
        self.look_up();
        self.charge(self.instructions.len());
        self.code
            .jump_indexed(S1, self.jump_cache() + offset_of!(Jump, code));
    }

    fn call_indirect(&mut self, i: &Instruction) {
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
    fn indirect_target(&mut self, i: &Instruction) {
        if i.op_kind(0) == OpKind::Memory {
            self.address(i);
            self.check(Access::read(8, i));
            self.code.load_at(true, S0, S0);
            return;
        }
        self.spill_flags();
        match gpr_number(i.op_register(0)) {
            4 => self.code.mov(S0, STACK),
            number if has_home(number) => self.code.load(S0, home(number)),
            number => self.code.mov(S0, number),
        }
    }

    /// The offset of the jump cache's slot for the address in S0, to S1; out to the interpreter if another is there.
    fn look_up(&mut self) {
        debug_assert!(self.flags.header);
        self.code.movzx16(S1, S0);
        self.code.shl32(S1, 4);
        let linear = self.jump_cache() + offset_of!(Jump, linear);
        self.code.alu_indexed(Alu::Cmp, S0, S1, linear);
        let miss = self.code.jcc(NOT_EQUAL);
        self.slow.push(miss);
    }

    fn jump_cache(&self) -> usize {
        JUMP_CACHES + self.mode.index() * JUMP_CACHE_BYTES
    }

    /// Leaves the unit for `target`, with so many of its instructions executed.
    fn exit(&mut self, executed: usize, target: u64) {
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
    fn link(&mut self, target: u64) {
        let at = self.code.here();
        self.code.store_imm(offset_of!(Header, link), 0);
        self.links.push(Link {
            at,
            number_at: self.code.here() - 4,
            target,
        });
        self.leave_for(target);
    }

    // The interpreter.

    fn simulate(&mut self, op: usize) {
        self.spill_flags();
        self.settle_x87(self.x87);
        self.call_simulate(op);
        self.flags = Flags::ENTRY;
    }

    fn call_simulate(&mut self, op: usize) {
        let op = u32::try_from(op).expect("a block is short");
        let site = self.unit << SITE_OP_BITS | op;
        self.code.store_imm(offset_of!(Header, site), site);
        self.code.call_frame(offset_of!(Header, simulate));
        self.load_registers();
    }

    // Out of line.

    fn cold(&mut self, cold: Cold) {
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
    fn turns_at(&self, target: u64, comparison: usize) -> bool {
        let known = self.turn.as_ref().map(|turn| turn.comparison);
        target == self.block.linear()
            && self.registers != Registers::X87
            && known.is_none_or(|known| known == comparison)
    }

    /// Back to the start of the unit with the flags left to `comparison`, or out if the budget is at its end.
    fn turn(&mut self, executed: usize, comparison: usize) {
        self.charge(executed);
        let instructions = count(self.instructions.len());
        self.code.alu_imm(Alu::Cmp, true, BUDGET, instructions);
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
    fn leave_for(&mut self, target: u64) {
        self.code.mov_imm(S0, target);
        self.code.jump_frame(offset_of!(Header, exit));
    }
}

fn is_branch_to(i: &Instruction, target: u64) -> bool {
    i.op_kind(0) == OpKind::NearBranch64 && i.near_branch64() == target
}

fn count(instructions: usize) -> i32 {
    i32::try_from(instructions).expect("a block is short")
}

fn is_wide(i: &Instruction) -> bool {
    match i.op_kind(0) {
        OpKind::Memory => i.memory_size().size() == 8,
        _ => i.op_register(0).is_gpr64(),
    }
}

/// Whether operand `n` is a general register that is not in the host's of the same name.
pub(super) fn is_moved(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Register && {
        let register = i.op_register(n);
        let number = gpr_number(register);
        register.is_gpr() && (number == 4 || has_home(number))
    }
}

/// The number of the full register; AH to BH belong to RAX to RBX.
pub(super) fn gpr_number(register: Register) -> u8 {
    u8::try_from(register.full_register().number()).expect("there are 16 general registers")
}

/// The part of host register `host` that is as wide as `register`.
fn same_size(register: Register, host: Reg) -> Register {
    let base = match register.size() {
        1 => {
            // AL CL DL BL AH CH DH BH SPL ..: only registers from R8 on are asked for.
            debug_assert!(host >= 8);
            return Register::R8L + u32::from(host - 8);
        }
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    base + u32::from(host)
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

/// The TLB slot and the tags' places are part of the code.
const _: () = assert!(size_of::<Entry>() == 32 && NO_LINK == u64::MAX);
const _: fn(tlb::Bank, u64) -> usize = tlb::slot;
