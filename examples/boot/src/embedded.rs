//! The guest that is built in: 64-bit code that computes, prints whether it came out right, and powers off.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use machine::layout::{ACPI_PM, COM1, S5_SLEEP_TYPE};

/// What it executes, rounded.
pub(crate) const MILLIONS: u32 = 50;
/// What it prints when its sum is right.
pub(crate) const RIGHT: &str = "softmetal: the sum is right\n";
pub(crate) const WRONG: &str = "softmetal: the sum is wrong\n";
const ENTRY: u64 = 0x10_0000;

/// The program as an ELF image.
pub(crate) fn elf() -> Vec<u8> {
    let code = code().expect("the program is the same each time, and assembles");
    let mut elf = header(code.len() as u64);
    elf.resize(CODE_OFFSET, 0);
    elf.extend_from_slice(&code);
    elf
}

/// Five instructions a turn.
const TURNS: u32 = MILLIONS * 1_000_000 / 5;

fn code() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let (mut turn, mut wrong, mut print, mut next, mut off) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    let (mut right_text, mut wrong_text) = (a.create_label(), a.create_label());
    a.mov(ecx, TURNS)?;
    a.xor(eax, eax)?;
    a.xor(ebx, ebx)?;
    a.set_label(&mut turn)?;
    a.add(rax, rcx)?;
    a.xor(rbx, rax)?;
    a.rol(rbx, 7)?;
    a.dec(ecx)?;
    a.jnz(turn)?;
    a.mov(rdx, expected())?;
    a.lea(rsi, qword_ptr(right_text))?;
    a.cmp(rbx, rdx)?;
    a.je(print)?;
    a.set_label(&mut wrong)?;
    a.lea(rsi, qword_ptr(wrong_text))?;
    a.set_label(&mut print)?;
    a.mov(edx, u32::from(COM1))?;
    a.set_label(&mut next)?;
    a.lodsb()?;
    a.test(al, al)?;
    a.jz(off)?;
    a.out(dx, al)?;
    a.jmp(next)?;
    a.set_label(&mut off)?;
    // PM1a control: SLP_TYP and SLP_EN (ACPI 6.5, 4.8.3.2.1).
    a.mov(edx, u32::from(ACPI_PM) + 4)?;
    a.mov(eax, u32::from(S5_SLEEP_TYPE) << 10 | 1 << 13)?;
    a.out(dx, ax)?;
    // A machine without ACPI ends here.
    a.cli()?;
    a.hlt()?;
    a.set_label(&mut right_text)?;
    a.db(RIGHT.as_bytes())?;
    a.db(&[0])?;
    a.set_label(&mut wrong_text)?;
    a.db(WRONG.as_bytes())?;
    a.db(&[0])?;
    a.assemble(ENTRY)
}

/// What the loop leaves in RBX.
fn expected() -> u64 {
    let (mut sum, mut mixed) = (0u64, 0u64);
    for n in (1..=u64::from(TURNS)).rev() {
        sum = sum.wrapping_add(n);
        mixed = (mixed ^ sum).rotate_left(7);
    }
    mixed
}

/// An ELF header and one program header for `length` bytes at [`ENTRY`].
fn header(length: u64) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    for field in [ENTRY, 64, 0] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // PT_LOAD, readable and executable.
    bytes.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]);
    for field in [CODE_OFFSET as u64, ENTRY, ENTRY, length, length, 4096] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes
}

const CODE_OFFSET: usize = 4096;
