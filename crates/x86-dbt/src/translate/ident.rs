//! Instructions that are kept: the same on moved registers and a moved memory operand.

use core::mem::offset_of;

use iced_x86::{
    Code as Opcode, Instruction, MemoryOperand, Mnemonic, OpAccess, OpCodeOperandKind, OpKind,
    Register,
};

use super::access::Access;
use super::classify::{Ident, Registers};
use super::emit::*;
use super::lower::Lowering;
use crate::frame::Header;

impl Lowering<'_> {
    pub(super) fn ident_registers(&mut self, op: usize, i: &Instruction, bytes: &[u8]) {
        self.prepare_flags(op, i);
        if (0..i.op_count()).any(|n| is_moved(i, n)) {
            self.encode_moved(i, &[S0, S1]);
        } else {
            self.code.put(bytes);
        }
        self.settle_flags(op, i);
    }

    pub(super) fn ident_memory(&mut self, op: usize, i: &Instruction, ident: Ident) {
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

    /// Emits `i` with its memory operand at S0 and registers that have moved in the `free` ones, or where they live.
    pub(super) fn encode_moved(&mut self, i: &Instruction, free: &[Reg]) {
        if let Some(moved) = self.at_home(i) {
            return self.encode(&moved);
        }
        let mut moved = *i;
        moved.set_has_lock_prefix(false);
        let mut homes: [Option<Lodger>; 2] = [None; 2];
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
                    let known = homes.iter().flatten().find(|home| home.number == number);
                    let host = match number {
                        4 => STACK,
                        _ if !has_home(number) => continue,
                        _ => match known {
                            Some(lodger) => lodger.host,
                            None => self.lodge(i, number, free, &mut homes),
                        },
                    };
                    moved.set_op_register(n, same_size(register, host));
                }
                _ => {}
            }
        }
        self.encode(&moved);
        for lodger in homes.into_iter().flatten().filter(|lodger| lodger.written) {
            self.code.store(lodger.host, home(lodger.number));
        }
    }

    /// `i` with the one register of it that lives in the header as a memory operand, if that does the same.
    fn at_home(&mut self, i: &Instruction) -> Option<Instruction> {
        let lives_there = |n: &u32| {
            i.op_kind(*n) == OpKind::Register
                && i.op_register(*n).is_gpr()
                && has_home(gpr_number(i.op_register(*n)))
        };
        let mut there = (0..i.op_count()).filter(lives_there);
        let (n, None) = (there.next()?, there.next()) else {
            return None;
        };
        let register = i.op_register(n);
        let access = self.factory.info(i).op_access(n);
        // A part that is written would be slow to read as a whole; 32 bits clear the rest.
        if !(access == OpAccess::Read || register.size() == 8) || is_otherwise_in_memory(i) {
            return None;
        }
        let (mut moved, n) = with_either_operand(i, n)?;
        moved.set_op_kind(n, OpKind::Memory);
        moved.set_memory_base(Register::RSP);
        moved.set_memory_displacement64(home(gpr_number(register)) as u64);
        moved.set_memory_displ_size(8);
        // PEXTRB stores a byte, and clears the rest of a register.
        if moved.memory_size().size() != register.size() {
            return None;
        }
        for other in (0..i.op_count()).filter(|&other| other != n) {
            if is_moved(&moved, other) {
                let register = same_size(moved.op_register(other), STACK);
                moved.set_op_register(other, register);
            }
        }
        Some(moved)
    }

    /// Brings register `number`, which lives in the header, to one of the `free` ones for `i`.
    fn lodge(
        &mut self,
        i: &Instruction,
        number: Reg,
        free: &[Reg],
        homes: &mut [Option<Lodger>; 2],
    ) -> Reg {
        let slot = homes
            .iter()
            .position(Option::is_none)
            .expect("two registers at most");
        let host = free[slot];
        let (mut read, mut written) = (false, false);
        for n in (0..i.op_count()).filter(|&n| is_gpr_operand(i, n, number)) {
            match self.factory.info(i).op_access(n) {
                OpAccess::Read | OpAccess::CondRead => read = true,
                OpAccess::Write if i.op_register(n).size() >= 4 => written = true,
                _ => (read, written) = (true, true),
            }
        }
        if read {
            self.code.load(host, home(number));
        }
        homes[slot] = Some(Lodger {
            number,
            host,
            written,
        });
        host
    }

    pub(super) fn encode(&mut self, i: &Instruction) {
        self.encoder
            .set_buffer(std::mem::take(&mut self.code.bytes));
        let encoded = self.encoder.encode(i, 0);
        self.code.bytes = self.encoder.take_buffer();
        self.refused |= encoded.is_err();
    }

    pub(super) fn lea(&mut self, i: &Instruction) {
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

    pub(super) fn encode_mov16(&mut self, to: Register) {
        let mov = Instruction::with2(Opcode::Mov_r16_rm16, to, Register::R14W)
            .expect("MOV takes these operands");
        self.encode(&mov);
    }

    /// The host register that holds a guest register of an address, loaded into `free` if it lives in the header.
    pub(super) fn address_register(&mut self, register: Register, free: Reg) -> Register {
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

    pub(super) fn divide(&mut self, i: &Instruction, signed: bool) {
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
    pub(super) fn guard_unsigned(&mut self, wide: bool) {
        self.code.alu(Alu::Cmp, wide, RDX, S0);
        let overflow = self.code.jcc(ABOVE_EQUAL);
        self.slow.push(overflow);
    }

    /// Lets through only dividends that are one word sign-extended, and divisors other than 0 and -1.
    pub(super) fn guard_signed(&mut self, wide: bool) {
        self.code.mov(S1, RAX);
        self.code.sar(wide, S1, if wide { 63 } else { 31 });
        self.code.alu(Alu::Cmp, wide, S1, RDX);
        let long = self.code.jcc(NOT_EQUAL);
        self.code.lea_sized(wide, S1, S0, 1);
        self.code.alu_imm(Alu::Cmp, wide, S1, 1);
        let edge = self.code.jcc(BELOW_EQUAL);
        self.slow.extend([long, edge]);
    }
}

/// A guest register that lives in the header, brought to a free host register for one instruction.
#[derive(Clone, Copy)]
struct Lodger {
    number: Reg,
    host: Reg,
    written: bool,
}

/// `i` with its register operand `n` where a memory operand can stand, and its place there.
fn with_either_operand(i: &Instruction, n: u32) -> Option<(Instruction, u32)> {
    use OpCodeOperandKind as K;
    let mut swapped = *i;
    let is_either = |i: &Instruction, n| {
        matches!(
            i.op_code().op_kind(n),
            K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem
        )
    };
    if is_either(i, n) {
        return Some((swapped, n));
    }
    let (first, second) = (i.op_register(0), i.op_register(1));
    if i.mnemonic() == Mnemonic::Test {
        swapped.set_op_register(0, second);
        swapped.set_op_register(1, first);
        return Some((swapped, 0));
    }
    swapped.set_code(load_form(i.code())?);
    is_either(&swapped, n).then_some((swapped, n))
}

/// The same operation with a register as destination and anything as source.
fn load_form(store_form: Opcode) -> Option<Opcode> {
    use Opcode as C;
    Some(match store_form {
        C::Mov_rm32_r32 => C::Mov_r32_rm32,
        C::Mov_rm64_r64 => C::Mov_r64_rm64,
        C::Add_rm32_r32 => C::Add_r32_rm32,
        C::Add_rm64_r64 => C::Add_r64_rm64,
        C::Adc_rm32_r32 => C::Adc_r32_rm32,
        C::Adc_rm64_r64 => C::Adc_r64_rm64,
        C::Sub_rm32_r32 => C::Sub_r32_rm32,
        C::Sub_rm64_r64 => C::Sub_r64_rm64,
        C::Sbb_rm32_r32 => C::Sbb_r32_rm32,
        C::Sbb_rm64_r64 => C::Sbb_r64_rm64,
        C::And_rm32_r32 => C::And_r32_rm32,
        C::And_rm64_r64 => C::And_r64_rm64,
        C::Or_rm32_r32 => C::Or_r32_rm32,
        C::Or_rm64_r64 => C::Or_r64_rm64,
        C::Xor_rm32_r32 => C::Xor_r32_rm32,
        C::Xor_rm64_r64 => C::Xor_r64_rm64,
        C::Cmp_rm32_r32 => C::Cmp_r32_rm32,
        C::Cmp_rm64_r64 => C::Cmp_r64_rm64,
        _ => return None,
    })
}

/// Whether `i` has a memory operand, or would do something else if it had one.
fn is_otherwise_in_memory(i: &Instruction) -> bool {
    use Mnemonic as M;
    i.op_kinds().any(|kind| kind == OpKind::Memory)
        || matches!(
            i.mnemonic(),
            // A register counts bits beyond the operand; XCHG locks.
            M::Bt | M::Bts | M::Btr | M::Btc | M::Xchg | M::Xadd | M::Cmpxchg
        )
}

fn is_gpr_operand(i: &Instruction, n: u32, number: Reg) -> bool {
    i.op_kind(n) == OpKind::Register
        && i.op_register(n).is_gpr()
        && gpr_number(i.op_register(n)) == number
}

pub(super) fn is_wide(i: &Instruction) -> bool {
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
