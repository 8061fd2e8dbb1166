use std::collections::BTreeSet;

use iced_x86::code_asm::*;
use iced_x86::{Code, Decoder, DecoderOptions, IcedError};

use super::*;

fn decode(bytes: &[u8], bitness: u32) -> Instruction {
    Decoder::with_ip(bitness, bytes, 0x1000, DecoderOptions::NONE).decode()
}

fn assembled(build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Instruction {
    let mut a = CodeAssembler::new(64).unwrap();
    build(&mut a).unwrap();
    decode(&a.assemble(0x1000).unwrap(), 64)
}

struct Machine {
    unit: NativeUnit,
    fx: FxState,
    io: NativeIo,
}

impl Machine {
    fn new() -> Self {
        let mut fx = FxState::power_on();
        fx.fninit();
        Self {
            unit: NativeUnit::new().unwrap(),
            fx,
            io: NativeIo::new(),
        }
    }

    fn run(
        &mut self,
        build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> NativeOutcome {
        let op = self.unit.prepare(&assembled(build)).unwrap();
        self.unit.execute(&op, &mut self.fx, &mut self.io)
    }

    fn set_memory(&mut self, bytes: &[u8]) {
        self.io.memory[..bytes.len()].copy_from_slice(bytes);
    }
}

const DONE: NativeOutcome = NativeOutcome::Done { store: true };

fn doubles(low: f64, high: f64) -> u128 {
    u128::from(high.to_bits()) << 64 | u128::from(low.to_bits())
}

#[test]
fn registers_and_memory_reach_an_sse_addition() {
    let mut m = Machine::new();
    m.fx.set_xmm(13, doubles(1.5, 2.5));
    m.fx.set_xmm(3, doubles(10.0, 20.0));
    assert_eq!(m.run(|a| a.addpd(xmm13, xmm3)), DONE);
    assert_eq!(m.fx.xmm(13), doubles(11.5, 22.5));
    assert_eq!(m.fx.xmm(3), doubles(10.0, 20.0));
    m.set_memory(&100.0f64.to_le_bytes());
    assert_eq!(
        m.run(|a| a.addsd(xmm13, qword_ptr(rax + rbx * 4 + 0x1234))),
        DONE
    );
    assert_eq!(m.fx.xmm(13), doubles(111.5, 22.5));
}

#[test]
fn one_register_as_both_operands_is_read_twice() {
    let mut m = Machine::new();
    m.fx.set_xmm(7, doubles(3.0, 5.0));
    m.run(|a| a.mulpd(xmm7, xmm7));
    assert_eq!(m.fx.xmm(7), doubles(9.0, 25.0));
    m.run(|a| a.pxor(xmm7, xmm7));
    assert_eq!(m.fx.xmm(7), 0);
}

#[test]
fn general_registers_go_in_and_out() {
    let mut m = Machine::new();
    let op = m.unit.prepare(&assembled(|a| a.movd(xmm2, r9d))).unwrap();
    assert_eq!(op.gpr_in, [Some(iced_x86::Register::R9D), None]);
    m.io.gpr[0] = 0xffff_ffff_1234_5678;
    m.unit.execute(&op, &mut m.fx, &mut m.io);
    assert_eq!(m.fx.xmm(2), 0x1234_5678);
    let op = m
        .unit
        .prepare(&assembled(|a| a.pextrw(esi, xmm2, 0)))
        .unwrap();
    assert_eq!(
        (op.gpr_in, op.gpr_out),
        ([None; 2], Some(iced_x86::Register::ESI))
    );
    m.unit.execute(&op, &mut m.fx, &mut m.io);
    assert_eq!(m.io.gpr_out, 0x5678);
    // The stub of another use of the same shape must not keep the first one's registers.
    let op = m
        .unit
        .prepare(&assembled(|a| a.pextrw(ebx, xmm9, 0)))
        .unwrap();
    assert_eq!(op.gpr_out, Some(iced_x86::Register::EBX));
}

#[test]
fn every_decodable_instruction_prepares_or_is_refused() {
    let mut unit = NativeUnit::new().unwrap();
    let mut native = BTreeSet::new();
    let mut refused = BTreeSet::new();
    for bytes in encodings() {
        let instruction = decode(&bytes, 64);
        if instruction.is_invalid() {
            continue;
        }
        match unit.prepare(&instruction) {
            Ok(_) => native.insert(instruction.code() as u32),
            Err(_) => refused.insert(instruction.code() as u32),
        };
    }
    assert!(native.is_disjoint(&refused));
    for code in Code::values().filter(|&code| is_claimed(code)) {
        let reached = native.contains(&(code as u32));
        assert!(
            reached || !host_has(code),
            "{code:?} is of a native family but was not prepared"
        );
    }
}

/// Every two-byte prefix-and-opcode combination of the legacy maps with every `ModRM` byte.
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
    use iced_x86::{CpuidFeature as F, EncodingKind, Mnemonic};
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
