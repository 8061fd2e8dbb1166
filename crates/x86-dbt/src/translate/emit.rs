//! Host code as bytes: the templates around guest instructions.

use core::mem::offset_of;

use crate::frame::Header;

/// A host register by its encoding.
pub(super) type Reg = u8;

pub(super) const RAX: Reg = 0;
pub(super) const RDX: Reg = 2;
/// Holds guest RSP.
pub(super) const STACK: Reg = 13;
/// Free between instructions: the address, and what it becomes.
pub(super) const S0: Reg = 14;
/// Free between instructions.
pub(super) const S1: Reg = 15;

/// Conditions by their encoding.
pub(super) const BELOW_EQUAL: u8 = 6;
pub(super) const ABOVE: u8 = 7;
pub(super) const ABOVE_EQUAL: u8 = 3;
pub(super) const NOT_EQUAL: u8 = 5;
pub(super) const LESS: u8 = 12;
pub(super) const GREATER_EQUAL: u8 = 13;

/// Arithmetic by its number in the encoding.
#[derive(Clone, Copy)]
pub(super) enum Alu {
    Add = 0,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Where the four bytes of a distance are to be filled in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fixup(pub(super) usize);

/// Code being written. Addresses in it are offsets from its start.
#[derive(Default)]
pub(super) struct Code {
    pub(super) bytes: Vec<u8>,
}

/// Whether guest register `number` lives in the header.
pub(super) fn has_home(number: Reg) -> bool {
    matches!(number, 13..=15)
}

/// Where guest register `number` lives, of those that [`has_home`] names.
pub(super) fn home(number: Reg) -> usize {
    offset_of!(Header, homes) + usize::from(number - 13) * 8
}

impl Code {
    pub(super) fn here(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn put_i32(&mut self, value: i32) {
        self.put(&value.to_le_bytes());
    }

    /// `opcode reg, [rsp + offset]`, 64-bit.
    fn frame(&mut self, opcode: &[u8], reg: Reg, offset: usize) {
        self.frame_sized(0x48, opcode, reg, offset);
    }

    fn frame_sized(&mut self, rex: u8, opcode: &[u8], reg: Reg, offset: usize) {
        let rex = rex | (reg >> 3) << 2;
        if rex != 0 {
            self.put(&[0x40 | rex]);
        }
        self.put(opcode);
        self.modrm_frame(reg, offset);
    }

    fn modrm_frame(&mut self, reg: Reg, offset: usize) {
        if let Ok(short) = i8::try_from(offset) {
            self.put(&[0x44 | (reg & 7) << 3, 0x24, short.cast_unsigned()]);
        } else {
            self.put(&[0x84 | (reg & 7) << 3, 0x24]);
            self.put_i32(distance(offset));
        }
    }

    /// `opcode reg, [rsp + index + offset]`, 64-bit.
    fn indexed(&mut self, opcode: u8, reg: Reg, index: Reg, offset: usize) {
        self.put(&[
            0x48 | (reg >> 3) << 2 | (index >> 3) << 1,
            opcode,
            0x84 | (reg & 7) << 3,
            0x04 | (index & 7) << 3,
        ]);
        self.put_i32(distance(offset));
    }

    pub(super) fn load(&mut self, reg: Reg, offset: usize) {
        self.frame(&[0x8b], reg, offset);
    }

    pub(super) fn store(&mut self, reg: Reg, offset: usize) {
        self.frame(&[0x89], reg, offset);
    }

    /// `mov word [rsp + offset], reg`.
    pub(super) fn store16(&mut self, reg: Reg, offset: usize) {
        self.put(&[0x66]);
        self.frame_sized(0, &[0x89], reg, offset);
    }

    /// `op reg, [rsp + offset]`.
    pub(super) fn alu_frame(&mut self, op: Alu, reg: Reg, offset: usize) {
        self.frame(&[(op as u8) << 3 | 3], reg, offset);
    }

    /// `op qword [rsp + offset], value`.
    pub(super) fn alu_frame_imm(&mut self, op: Alu, offset: usize, value: i32) {
        if let Ok(short) = i8::try_from(value) {
            self.frame(&[0x83], op as u8, offset);
            self.put(&[short.cast_unsigned()]);
        } else {
            self.frame(&[0x81], op as u8, offset);
            self.put_i32(value);
        }
    }

    /// `mov qword [rsp + offset], value`, zero-extended.
    pub(super) fn store_imm(&mut self, offset: usize, value: u32) {
        if let Ok(value) = i32::try_from(value) {
            self.frame(&[0xc7], 0, offset);
            self.put_i32(value);
        } else {
            self.mov_imm(S0, u64::from(value));
            self.store(S0, offset);
        }
    }

    pub(super) fn load_indexed(&mut self, reg: Reg, index: Reg, offset: usize) {
        self.indexed(0x8b, reg, index, offset);
    }

    pub(super) fn alu_indexed(&mut self, op: Alu, reg: Reg, index: Reg, offset: usize) {
        self.indexed((op as u8) << 3 | 3, reg, index, offset);
    }

    /// `jmp [rsp + index + offset]`.
    pub(super) fn jump_indexed(&mut self, index: Reg, offset: usize) {
        self.indexed(0xff, 4, index, offset);
    }

    pub(super) fn jump_frame(&mut self, offset: usize) {
        self.frame_sized(0, &[0xff], 4, offset);
    }

    pub(super) fn call_frame(&mut self, offset: usize) {
        self.frame_sized(0, &[0xff], 2, offset);
    }

    pub(super) fn mov(&mut self, to: Reg, from: Reg) {
        self.rr(0x48, &[0x89], from, to);
    }

    /// `opcode` with registers in `ModRM`'s reg and r/m.
    fn rr(&mut self, rex: u8, opcode: &[u8], reg: Reg, rm: Reg) {
        self.put(&[rex | 0x40 | (reg >> 3) << 2 | rm >> 3]);
        self.put(opcode);
        self.put(&[0xc0 | (reg & 7) << 3 | rm & 7]);
    }

    pub(super) fn mov_imm(&mut self, to: Reg, value: u64) {
        if let Ok(value) = u32::try_from(value) {
            if to > 7 {
                self.put(&[0x41]);
            }
            self.put(&[0xb8 | to & 7]);
            self.put(&value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value.cast_signed()) {
            self.put(&[0x48 | to >> 3, 0xc7, 0xc0 | to & 7]);
            self.put_i32(value);
        } else {
            self.put(&[0x48 | to >> 3, 0xb8 | to & 7]);
            self.put(&value.to_le_bytes());
        }
    }

    /// `op to, from`, of 32 or 64 bits.
    pub(super) fn alu(&mut self, op: Alu, wide: bool, to: Reg, from: Reg) {
        self.rr(u8::from(wide) << 3, &[(op as u8) << 3 | 1], from, to);
    }

    /// `op to, value`, of 32 or 64 bits.
    pub(super) fn alu_imm(&mut self, op: Alu, wide: bool, to: Reg, value: i32) {
        if let Ok(short) = i8::try_from(value) {
            self.rr(u8::from(wide) << 3, &[0x83], op as u8, to);
            self.put(&[short.cast_unsigned()]);
        } else {
            self.rr(u8::from(wide) << 3, &[0x81], op as u8, to);
            self.put_i32(value);
        }
    }

    /// `shr`, `shl` or `sar` by an immediate; `extension` is the encoding's.
    fn shift(&mut self, extension: u8, wide: bool, to: Reg, count: u8) {
        self.rr(u8::from(wide) << 3, &[0xc1], extension, to);
        self.put(&[count]);
    }

    pub(super) fn shr(&mut self, to: Reg, count: u8) {
        self.shift(5, true, to, count);
    }

    pub(super) fn shl32(&mut self, to: Reg, count: u8) {
        self.shift(4, false, to, count);
    }

    pub(super) fn sar(&mut self, wide: bool, to: Reg, count: u8) {
        self.shift(7, wide, to, count);
    }

    /// `movzx to, word from`.
    pub(super) fn movzx16(&mut self, to: Reg, from: Reg) {
        self.rr(0, &[0x0f, 0xb7], to, from);
    }

    /// `test byte reg, value`.
    pub(super) fn test8_imm(&mut self, reg: Reg, value: u8) {
        self.rr(0, &[0xf6], 0, reg);
        self.put(&[value]);
    }

    /// `lea to, [base + displacement]`.
    pub(super) fn lea(&mut self, to: Reg, base: Reg, displacement: i32) {
        self.lea_sized(true, to, base, displacement);
    }

    pub(super) fn lea_sized(&mut self, wide: bool, to: Reg, base: Reg, displacement: i32) {
        self.put(&[
            0x40 | u8::from(wide) << 3 | (to >> 3) << 2 | base >> 3,
            0x8d,
            0x80 | (to & 7) << 3 | base & 7,
        ]);
        // A base of RSP or R12 would need a SIB byte; none is used so.
        debug_assert!(base & 7 != 4);
        self.put_i32(displacement);
    }

    /// `lea to, [to + from]`: an addition that leaves the flags.
    pub(super) fn add_quietly(&mut self, to: Reg, from: Reg) {
        debug_assert!(to & 7 != 5);
        self.put(&[
            0x48 | (to >> 3) << 2 | (from >> 3) << 1 | to >> 3,
            0x8d,
            0x04 | (to & 7) << 3,
            (from & 7) << 3 | to & 7,
        ]);
    }

    /// `lea to, [from * size]`.
    pub(super) fn scale(&mut self, to: Reg, from: Reg, size: u8) {
        let log = u8::try_from(size.trailing_zeros()).expect("at most 7");
        self.put(&[
            0x48 | (to >> 3) << 2 | (from >> 3) << 1,
            0x8d,
            0x04 | (to & 7) << 3,
            log << 6 | (from & 7) << 3 | 5,
        ]);
        self.put(&[0; 4]);
    }

    /// `rep movs` or `rep stos` of elements of `size` bytes.
    pub(super) fn rep(&mut self, moves: bool, size: u8) {
        let wide = u8::from(size > 1);
        let opcode = if moves { 0xa4 } else { 0xaa } | wide;
        match size {
            2 => self.put(&[0x66, 0xf3, opcode]),
            8 => self.put(&[0xf3, 0x48, opcode]),
            _ => self.put(&[0xf3, opcode]),
        }
    }

    /// `mov to, [base]` for S0 or S1 as base, of 32 or 64 bits.
    pub(super) fn load_at(&mut self, wide: bool, to: Reg, base: Reg) {
        self.at(0x8b, wide, to, base);
    }

    pub(super) fn store_at(&mut self, wide: bool, from: Reg, base: Reg) {
        self.at(0x89, wide, from, base);
    }

    fn at(&mut self, opcode: u8, wide: bool, reg: Reg, base: Reg) {
        debug_assert!(base == S0 || base == S1);
        self.put(&[
            0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | base >> 3,
            opcode,
            (reg & 7) << 3 | base & 7,
        ]);
    }

    /// `mov qword [base], value`, sign-extended.
    pub(super) fn store_imm_at(&mut self, base: Reg, value: i32) {
        self.put(&[0x48 | base >> 3, 0xc7, base & 7]);
        self.put_i32(value);
    }

    pub(super) fn jcc(&mut self, condition: u8) -> Fixup {
        self.put(&[0x0f, 0x80 | condition]);
        self.fixup()
    }

    pub(super) fn jmp(&mut self) -> Fixup {
        self.put(&[0xe9]);
        self.fixup()
    }

    fn fixup(&mut self) -> Fixup {
        let at = self.here();
        self.put(&[0; 4]);
        Fixup(at)
    }

    /// Makes the jump at `fixup` go to `target`.
    pub(super) fn bind(&mut self, fixup: Fixup, target: usize) {
        let relative = relative(fixup.0, target);
        self.bytes[fixup.0..fixup.0 + 4].copy_from_slice(&relative.to_le_bytes());
    }

    /// Host flags to the header. Takes S1.
    pub(super) fn save_flags(&mut self) {
        self.mov(S1, RAX);
        // lahf; seto al
        self.put(&[0x9f, 0x0f, 0x90, 0xc0]);
        self.store16(RAX, offset_of!(Header, flags));
        self.mov(RAX, S1);
    }

    /// Flags from the header to the host's. Takes S1.
    pub(super) fn restore_flags(&mut self) {
        self.mov(S1, RAX);
        self.frame_sized(0, &[0x0f, 0xb7], RAX, offset_of!(Header, flags));
        // add al, 127 overflows if AL is 1; sahf leaves OF.
        self.put(&[0x04, 0x7f, 0x9e]);
        self.mov(RAX, S1);
    }
}

/// Bytes of the jump that chains a link.
pub(super) const LINK_BYTES: usize = 5;

/// The jump from `at` to `target`.
pub(super) fn jump(at: usize, target: usize) -> [u8; LINK_BYTES] {
    let [a, b, c, d] = relative(at + 1, target).to_le_bytes();
    [0xe9, a, b, c, d]
}

/// The distance that the four bytes at `at` hold for a jump to `target`.
fn relative(at: usize, target: usize) -> i32 {
    let from = i64::try_from(at + 4).expect("code offsets are small");
    let to = i64::try_from(target).expect("code offsets are small");
    i32::try_from(to - from).expect("the arena spans less than 2 GiB")
}

fn distance(offset: usize) -> i32 {
    i32::try_from(offset).expect("the frame spans less than 2 GiB")
}
