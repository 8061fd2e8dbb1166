//! Translated code against the interpreter: random programs that load, store, branch, call and write themselves.

mod common;

use common::{Guest, STACK};
use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};
use x86_dbt::{Exit, State};

/// Data that programs read and write: the last bytes of one page and the first of the next.
const DATA: u64 = 0x1_0000;
/// A run is stopped behind so many.
const INSTRUCTIONS: u64 = 3000;

/// One step of a program, in bytes.
fn step() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => arithmetic(),
        4 => memory(),
        2 => shifts(),
        2 => stack(),
        1 => multiply_divide(),
        1 => conditional(),
        1 => addresses(),
        1 => sse(),
        1 => x87(),
        1 => interpreted(),
        1 => repeated(),
        1 => writes_code(),
        2 => inner_loop(),
    ]
}

/// A loop of up to 20 turns over one or two steps, ended by CMP or TEST and a branch back.
fn inner_loop() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        memory(),
        arithmetic(),
        stack(),
        sse(),
        interpreted(),
        conditional()
    ];
    (vec(body, 1..3), 1u8..20, any::<bool>(), any::<bool>()).prop_map(|(body, turns, test, add)| {
        // mov ecx, turns
        let mut code = vec![0xb9, turns, 0, 0, 0];
        let top = code.len();
        code.extend(body.concat());
        // sub ecx, 1; then test ecx, ecx or cmp ecx, 0; jg
        code.extend([0x83, 0xe9, 1]);
        code.extend_from_slice(if test {
            &[0x85, 0xc9]
        } else {
            &[0x83, 0xf9, 0]
        });
        if add {
            code.extend([0x48, 0x8b, 0x75, 0x00]); // mov rsi, [rbp]
        }
        code.extend([0x0f, 0x8f]);
        let back = i32::try_from(top).unwrap() - i32::try_from(code.len() + 4).unwrap();
        code.extend_from_slice(&back.to_le_bytes());
        code
    })
}

fn rex(wide: bool, reg: u8, rm: u8) -> u8 {
    0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | rm >> 3
}

fn registers(reg: u8, rm: u8) -> u8 {
    0xc0 | (reg & 7) << 3 | rm & 7
}

/// Registers that programs change freely: not RSP, not RBP (the data's address), not R15 (the loop counter).
fn free() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![0u8, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14])
}

fn arithmetic() -> impl Strategy<Value = Vec<u8>> {
    (0u8..8, any::<bool>(), any::<bool>(), free(), free()).prop_map(|(op, wide, byte, a, b)| {
        vec![rex(wide, a, b), op << 3 | u8::from(!byte), registers(a, b)]
    })
}

/// An operand at RBP + displacement, near the end of the data's first page.
fn memory() -> impl Strategy<Value = Vec<u8>> {
    (0u8..12, any::<bool>(), free(), any::<i8>()).prop_map(|(op, wide, reg, displacement)| {
        let opcode: &[u8] = match op {
            0..=7 => &[op << 3 | 1],
            8 => &[0x8b],
            9 => &[0x0f, 0xb6],
            10 => &[0x87],
            _ => &[0x0f, 0xc1],
        };
        let mut bytes = vec![rex(wide, reg, 5)];
        bytes.extend_from_slice(opcode);
        bytes.extend([0x45 | (reg & 7) << 3, displacement.cast_unsigned()]);
        bytes
    })
}

fn shifts() -> impl Strategy<Value = Vec<u8>> {
    let one = prop::sample::select(vec![0xc1u8, 0xd3, 0xd1]);
    (one, 0u8..8, any::<bool>(), free(), any::<u8>()).prop_map(|(opcode, op, wide, rm, count)| {
        let mut bytes = vec![rex(wide, 0, rm), opcode, registers(op, rm)];
        if opcode == 0xc1 {
            bytes.push(count);
        }
        bytes
    })
}

fn stack() -> impl Strategy<Value = Vec<u8>> {
    (0u8..5, free(), any::<i8>()).prop_map(|(form, reg, value)| {
        let push = vec![0x40 | reg >> 3, 0x50 | reg & 7];
        match form {
            0 => push,
            1 => vec![0x40 | reg >> 3, 0x58 | reg & 7],
            2 => vec![0x6a, value.cast_unsigned()],
            // push rsp; pop reg
            3 => vec![0x54, 0x40 | reg >> 3, 0x58 | reg & 7],
            // push [rbp + 8]
            _ => vec![0xff, 0x75, 8],
        }
    })
}

/// MUL, IMUL, DIV, IDIV; divisions mostly of what fits.
fn multiply_divide() -> impl Strategy<Value = Vec<u8>> {
    (4u8..8, any::<bool>(), prop::bool::weighted(0.9), free()).prop_map(|(op, wide, safe, rm)| {
        let mut bytes = Vec::new();
        if safe && op > 5 {
            // or rm, 1; then a sign- or zero-extended dividend.
            bytes.extend([rex(true, 0, rm), 0x83, registers(1, rm), 1]);
            let extend: &[u8] = if op == 7 {
                &[rex(wide, 0, 0), 0x99]
            } else {
                &[0x31, 0xd2]
            };
            bytes.extend_from_slice(extend);
        }
        bytes.extend([rex(wide, 0, rm), 0xf7, registers(op, rm)]);
        bytes
    })
}

/// A branch over the next two bytes, `SETcc` or `CMOVcc`.
fn conditional() -> impl Strategy<Value = Vec<u8>> {
    (0u8..3, 0u8..16, free(), free()).prop_map(|(form, condition, a, b)| match form {
        0 => vec![0x70 | condition, 2, 0xff, 0xc0],
        1 => vec![rex(false, 0, a), 0x0f, 0x90 | condition, registers(0, a)],
        _ => vec![rex(true, a, b), 0x0f, 0x40 | condition, registers(a, b)],
    })
}

/// LEA with base, index and scale, with and without an address-size prefix.
fn addresses() -> impl Strategy<Value = Vec<u8>> {
    (any::<bool>(), any::<bool>(), free(), free(), free(), 0u8..4).prop_map(
        |(narrow, wide, reg, base, index, scale)| {
            let mut bytes = Vec::new();
            if narrow {
                bytes.push(0x67);
            }
            bytes.push(rex(wide, reg, base) | (index >> 3) << 1);
            let sib = scale << 6 | (index & 7) << 3 | base & 7;
            bytes.extend([0x8d, 0x84 | (reg & 7) << 3, sib, 1, 2, 3, 4]);
            bytes
        },
    )
}

fn sse() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop::sample::select(vec![0x58u8, 0x59, 0x5c, 0x54, 0x57, 0xfe, 0xef, 0x6f, 0x7f]);
    (opcode, 0u8..8, 0u8..8, any::<bool>()).prop_map(|(opcode, a, b, memory)| {
        if memory {
            // [rbp - 64], aligned
            vec![0x66, 0x0f, opcode, 0x45 | a << 3, 0xc0]
        } else {
            vec![0x66, 0x0f, opcode, registers(a, b)]
        }
    })
}

fn x87() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        vec![0xd9, 0xe8],             // fld1
        vec![0xd9, 0xeb],             // fldpi
        vec![0xde, 0xc1],             // faddp
        vec![0xd8, 0xf1],             // fdiv st, st(1)
        vec![0xdf, 0xf1],             // fcomip
        vec![0xda, 0xc9],             // fcmove st, st(1)
        vec![0xdd, 0xd8],             // fstp st(0)
        vec![0xdc, 0x45, 0xc0],       // fadd qword [rbp - 64]
        vec![0xdb, 0x6d, 0xd0],       // fld tbyte [rbp - 48]
        vec![0xdb, 0x7d, 0xd0],       // fstp tbyte [rbp - 48]
        vec![0xdd, 0x5d, 0x3c],       // fstp qword [rbp + 60], across the pages
        vec![0xdf, 0xe0],             // fnstsw ax
        vec![0xd9, 0x7d, 0xe0],       // fnstcw [rbp - 32]
        vec![0xdb, 0xe3],             // fninit
        vec![0x64, 0xdc, 0x45, 0xc0], // fadd qword fs:[rbp - 64]
    ])
}

/// What has no template: the flags register, strings, CPUID, a port, x87, bit strings.
fn interpreted() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        vec![0x9c, 0x58],
        vec![0x0f, 0xa2],
        vec![0xe6, 0x80],
        vec![0xd9, 0xe8, 0xdd, 0xd8],
        vec![0xfd, 0xfc],
        vec![0x0f, 0xa3, 0x45, 0x00],
        vec![0xc8, 0x10, 0x00, 0x00, 0xc9],
        vec![0x0f, 0x31],
    ])
}

/// REP STOS and REP MOVS around the end of the data's first page, up- or downwards, the two sides overlapping at times.
fn repeated() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop::sample::select(vec![0xaau8, 0xab, 0xa4, 0xa5]);
    let width = prop::sample::select(vec![&[0xf3u8][..], &[0xf3, 0x48], &[0x66, 0xf3]]);
    (
        opcode,
        width,
        any::<i8>(),
        any::<i8>(),
        0u8..40,
        any::<bool>(),
    )
        .prop_map(|(opcode, width, to, from, count, down)| {
            // lea rdi, [rbp + to]; lea rsi, [rbp + from]; mov ecx, count
            let mut bytes = vec![0x48, 0x8d, 0x7d, to.cast_unsigned()];
            bytes.extend([0x48, 0x8d, 0x75, from.cast_unsigned()]);
            bytes.extend([0xb9, count, 0, 0, 0]);
            bytes.extend(down.then_some(0xfd));
            bytes.extend_from_slice(width);
            bytes.extend([opcode, 0xfc]);
            bytes
        })
}

/// Writes a byte into the instructions ahead: `mov byte [rip + ..], value`, over an immediate.
fn writes_code() -> impl Strategy<Value = Vec<u8>> {
    any::<u8>().prop_map(|value| {
        // mov byte [rip + 1], value; mov al, 0: the store changes the next instruction's immediate.
        vec![0xc6, 0x05, 1, 0, 0, 0, value, 0xb0, 0]
    })
}

/// The program in a loop of 40 turns, with a call in it; then it halts.
fn program(steps: &[Vec<u8>]) -> Vec<u8> {
    // fninit; mov r15d, 40
    let mut code = vec![0xdb, 0xe3, 0x41, 0xbf, 40, 0, 0, 0];
    let top = code.len();
    for step in steps {
        code.extend_from_slice(step);
    }
    // mov rsp, STACK
    code.extend([0x48, 0xc7, 0xc4]);
    code.extend_from_slice(&u32::try_from(STACK).unwrap().to_le_bytes());
    // call 1f; jmp 2f; 1: ret; 2:
    code.extend([0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3]);
    // dec r15d; jnz top
    code.extend([0x41, 0xff, 0xcf, 0x0f, 0x85]);
    let back = i32::try_from(top).unwrap() - i32::try_from(code.len() + 4).unwrap();
    code.extend_from_slice(&back.to_le_bytes());
    code.push(0xf4);
    code
}

fn data(guest: &Guest) -> Vec<u8> {
    let mut bytes = vec![0; 0x2000];
    guest
        .memory
        .read_slice(&mut bytes, GuestAddress(DATA))
        .unwrap();
    bytes
}

/// What can be seen after a part of a run.
type Ending = (State, u64, Vec<u8>, Vec<(u16, u64)>);

/// Runs to the end by `budgets`, again and again.
fn run(code: &[u8], seed: u64, translate: Option<u32>, budgets: &[u64]) -> (Vec<Ending>, u64) {
    let mut guest = Guest::long_mode(|a| a.db(code).unwrap());
    guest.cpu.set_translation(translate);
    let mut registers = guest.cpu.registers();
    for (n, value) in (0u32..).zip(&mut registers.gpr) {
        *value = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7 * n) >> (n % 4 * 16);
    }
    registers.gpr[4] = STACK;
    registers.gpr[5] = DATA + 0xfc0;
    guest.cpu.set_registers(&registers);
    guest.bare.deadline = u64::MAX;
    let mut endings = Vec::new();
    for &budget in budgets.iter().cycle() {
        let exit = guest.cpu.run(&mut guest.bare, budget);
        let retired = guest.cpu.retired();
        let ports = std::mem::take(&mut guest.bare.ports);
        endings.push((guest.cpu.state(), retired, data(&guest), ports));
        if exit != Exit::Deadline || retired > INSTRUCTIONS {
            break;
        }
    }
    (endings, guest.cpu.translator_stats().units)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn translated_code_does_what_the_interpreter_does(
        steps in vec(step(), 1..24),
        seed in any::<u64>(),
        threshold in 0u32..4,
        budgets in vec(1u64..200, 1..5),
    ) {
        let code = program(&steps);
        let (expected, _) = run(&code, seed, None, &budgets);
        let (found, _) = run(&code, seed, Some(threshold), &budgets);
        prop_assert_eq!(expected.len(), found.len());
        for (expected, found) in expected.iter().zip(&found) {
            prop_assert_eq!(expected, found);
        }
    }
}

#[test]
fn programs_are_translated() {
    let add = vec![0x48, 0x01, 0x45, 0x00];
    let (endings, units) = run(&program(&[add]), 1, Some(2), &[u64::MAX]);
    assert!(endings[0].0.halted);
    assert!(units >= 3, "{units}");
}
