//! What `prepare` says about instructions, and which it takes.

use std::collections::BTreeSet;

use iced_x86::code_asm::{
    byte_ptr, eax, mm1, ptr, qword_ptr, rax, st0, st1, xmm1, xmm2, xmmword_ptr,
};
use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic, Register};

use super::super::{NativeClass, NativeMemory, NotNative, host_supports, x87_opcode};
use super::{Machine, NativeOutcome, NativeUnit, decode};

#[test]
fn every_instruction_of_the_families_prepares() {
    let mut unit = NativeUnit::new().unwrap();
    let mut native = BTreeSet::new();
    let mut refused = BTreeSet::new();
    for bytes in encodings() {
        for bitness in [16, 32, 64] {
            let instruction = decode(&bytes, bitness);
            if !instruction.is_invalid() {
                let taken = unit.prepare(&instruction).is_ok();
                let set = if taken { &mut native } else { &mut refused };
                set.insert(instruction.code());
            }
        }
    }
    assert!(native.is_disjoint(&refused));
    for code in Code::values().filter(|&code| is_claimed(code)) {
        let reached = native.contains(&code);
        assert!(reached || !host_has(code), "{code:?} was not prepared");
    }
}

/// Every opcode of the legacy maps with every mandatory prefix and `ModRM` byte.
fn encodings() -> impl Iterator<Item = Vec<u8>> {
    let prefixes: [&[u8]; 8] = [
        &[],
        &[0x66],
        &[0xf3],
        &[0xf2],
        &[0x48],
        &[0x66, 0x48],
        &[0xf3, 0x48],
        &[0xf2, 0x48],
    ];
    let maps: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    prefixes.into_iter().flat_map(move |prefix| {
        maps.into_iter().flat_map(move |map| {
            (0..=255u8).flat_map(move |opcode| {
                (0..=255u8).map(move |modrm| {
                    [prefix, map, &[opcode, modrm, 0x25, 1, 0, 0, 0, 2, 0, 0, 0]].concat()
                })
            })
        })
    })
}

fn is_claimed(code: Code) -> bool {
    use CpuidFeature as F;
    let op_code = code.op_code();
    let families = [
        F::FPU,
        F::FPU287,
        F::FPU387,
        F::MMX,
        F::SSE,
        F::SSE2,
        F::SSE3,
        F::SSSE3,
        F::SSE4_1,
        F::SSE4_2,
        F::AES,
        F::PCLMULQDQ,
        F::SHA,
        F::GFNI,
        F::FXSR,
    ];
    op_code.encoding() == EncodingKind::Legacy
        && op_code.mode64()
        && op_code.is_instruction()
        && !op_code.fwait()
        && !matches!(code.mnemonic(), Mnemonic::Movnti | Mnemonic::Crc32)
        && code
            .cpuid_features()
            .iter()
            .any(|feature| families.contains(feature))
}

fn host_has(code: Code) -> bool {
    code.cpuid_features()
        .iter()
        .all(|&feature| host_supports(feature))
}

#[test]
fn integer_and_vex_instructions_are_refused() {
    let mut unit = NativeUnit::new().unwrap();
    for bytes in [
        &[0x01u8, 0xd8][..],
        &[0x0f, 0xc3, 0x00],
        &[0xf2, 0x0f, 0x38, 0xf1, 0xc0],
        &[0x0f, 0x45, 0xc1],
        &[0xc5, 0xf0, 0x58, 0xc2],
        &[0x0f, 0x0f, 0xc1, 0x9e],
    ] {
        let instruction = decode(bytes, 64);
        assert!(!instruction.is_invalid(), "{bytes:x?}");
        assert_eq!(
            unit.prepare(&instruction).unwrap_err(),
            NotNative::OtherFamily,
            "{bytes:x?}"
        );
    }
}

#[test]
fn descriptions_follow_the_manual() {
    let mut m = Machine::new();
    let op = m.prepare(|a| a.movaps(xmm1, xmmword_ptr(rax)));
    assert_eq!(
        (op.class, op.memory, op.alignment),
        (NativeClass::Sse, NativeMemory::Read(16), 16)
    );
    let op = m.prepare(|a| a.movups(xmmword_ptr(rax), xmm1));
    assert_eq!((op.memory, op.alignment), (NativeMemory::Write(16), 1));
    assert_eq!(m.prepare(|a| a.lddqu(xmm1, xmmword_ptr(rax))).alignment, 1);
    assert_eq!(
        m.prepare(|a| a.movntdqa(xmm1, xmmword_ptr(rax))).alignment,
        16
    );
    assert_eq!(
        m.prepare(|a| a.pcmpistri(xmm1, xmmword_ptr(rax), 0))
            .alignment,
        1
    );
    assert_eq!(m.prepare(|a| a.movsd_2(xmm1, qword_ptr(rax))).alignment, 1);
    let op = m.prepare(|a| a.pcmpestri(xmm1, xmm2, 0));
    assert_eq!(op.gpr_in, [Some(Register::EAX), Some(Register::EDX)]);
    assert_eq!((op.gpr_out, op.writes_flags), (Some(Register::ECX), true));
    let op = m.prepare(|a| a.pmovmskb(eax, mm1));
    assert_eq!(
        (op.class, op.waits, op.gpr_out),
        (NativeClass::Mmx, true, Some(Register::EAX))
    );
    let op = m.prepare(|a| a.cvtpi2pd(xmm1, qword_ptr(rax)));
    assert_eq!((op.class, op.waits), (NativeClass::Sse, false));
    let op = m.prepare(|a| a.cvtpi2pd(xmm1, mm1));
    assert_eq!((op.class, op.waits), (NativeClass::Sse, true));
    let op = m.prepare(|a| a.fxsave(ptr(rax)));
    assert_eq!(
        (op.class, op.memory),
        (NativeClass::Fxsr, NativeMemory::Write(416))
    );
    assert_eq!((op.span, op.alignment), (512, 16));
    let op = m.prepare(|a| a.wait());
    assert_eq!((op.class, op.waits), (NativeClass::Wait, true));
    let op = m.prepare(|a| a.mfence());
    assert_eq!(
        (op.class, op.memory),
        (NativeClass::Plain, NativeMemory::None)
    );
    assert_eq!(
        m.prepare(|a| a.clflush(byte_ptr(rax))).memory,
        NativeMemory::Touch
    );
    let op = m.prepare(|a| a.fcomi(st0, st1));
    assert_eq!(op.features, [CpuidFeature::FPU, CpuidFeature::CMOV]);
}

#[test]
fn fewer_xmm_registers_are_saved_outside_64_bit_code() {
    let mut unit = NativeUnit::new().unwrap();
    let op = unit.prepare(&decode(&[0x0f, 0xae, 0x00], 32)).unwrap();
    assert_eq!((op.memory, op.span), (NativeMemory::Write(288), 512));
}

#[test]
fn operations_from_before_a_flush_are_stale() {
    let mut m = Machine::new();
    m.unit = NativeUnit::with_budget(4096).unwrap();
    let first = m.prepare(|a| a.pshufd(xmm1, xmm2, 0));
    m.fx.set_xmm(1, 7);
    m.fx.set_xmm(2, 3);
    for order in 1..=255 {
        m.prepare(|a| a.pshufd(xmm1, xmm2, order));
        m.prepare(|a| a.pshuflw(xmm1, xmm2, order));
    }
    assert!(m.unit.generation() > 0);
    let outcome = m.unit.execute(&first, &mut m.fx, &mut m.io);
    assert_eq!((outcome, m.fx.xmm(1)), (NativeOutcome::Stale, 7));
    let again = m.prepare(|a| a.pshufd(xmm1, xmm2, 0));
    m.unit.execute(&again, &mut m.fx, &mut m.io);
    assert_eq!(m.fx.xmm(1), 3 << 96 | 3 << 64 | 3 << 32 | 3);
}

#[test]
fn the_x87_opcode_is_found_after_prefixes() {
    assert_eq!(x87_opcode(&[0xd9, 0xe8]), 0x1e8);
    assert_eq!(x87_opcode(&[0x66, 0x67, 0xdd, 0x36, 0x00]), 0x536);
    assert_eq!(x87_opcode(&[0x90]), 0);
}
