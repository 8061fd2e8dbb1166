//! SSE against obvious models, published vectors, and the exception rules.

use iced_x86::code_asm::{
    CodeAssembler, dword_ptr, eax, ebx, esi, qword_ptr, r9d, rax, rbx, xmm1, xmm2, xmm3, xmm4,
    xmm5, xmm7, xmm9, xmm13,
};
use iced_x86::{IcedError, Register};
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::super::{MXCSR_DEFAULT, NativeOutcome};
use super::{DONE, Machine, doubles, low_double};

#[test]
fn registers_and_memory_reach_an_addition() {
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
    let op = m.prepare(|a| a.movd(xmm2, r9d));
    assert_eq!(op.gpr_in, [Some(Register::R9D), None]);
    m.io.gpr[0] = 0xffff_ffff_1234_5678;
    m.unit.execute(&op, &mut m.fx, &mut m.io);
    assert_eq!(m.fx.xmm(2), 0x1234_5678);
    let op = m.prepare(|a| a.pextrw(esi, xmm2, 0));
    assert_eq!((op.gpr_in, op.gpr_out), ([None; 2], Some(Register::ESI)));
    m.unit.execute(&op, &mut m.fx, &mut m.io);
    assert_eq!(m.io.gpr_out, 0x5678);
}

#[test]
fn the_next_use_of_a_stub_has_its_own_registers() {
    let mut m = Machine::new();
    m.prepare(|a| a.pextrw(esi, xmm2, 0));
    m.fx.set_xmm(9, 0x4321);
    let op = m.prepare(|a| a.pextrw(ebx, xmm9, 0));
    assert_eq!(op.gpr_out, Some(Register::EBX));
    m.unit.execute(&op, &mut m.fx, &mut m.io);
    assert_eq!(m.io.gpr_out, 0x4321);
}

#[test]
fn implicit_xmm0_is_a_mask_and_a_destination() {
    let mut m = Machine::new();
    m.fx.set_xmm(0, 0x80);
    m.fx.set_xmm(4, 0x1111);
    m.fx.set_xmm(5, 0x2222);
    m.run(|a| a.pblendvb(xmm4, xmm5));
    assert_eq!(m.fx.xmm(4), 0x1122);
    m.fx.set_xmm(4, u128::from(b'b'));
    m.fx.set_xmm(5, u128::from_le_bytes(*b"abcabcabcabcabc\0"));
    m.run(|a| a.pcmpistrm(xmm4, xmm5, 0));
    assert_eq!(m.fx.xmm(0), 0b10_0100_1001_0010);
}

/// FIPS 197, appendix B: round 1 of the cipher example, in memory order.
#[test]
fn aesenc_does_the_first_round_of_the_standard() {
    let mut m = Machine::new();
    let bytes = |text: &str| u128::from_str_radix(text, 16).unwrap().swap_bytes();
    m.fx.set_xmm(1, bytes("193de3bea0f4e22b9ac68d2ae9f84808"));
    m.fx.set_xmm(2, bytes("a0fafe1788542cb123a339392a6c7605"));
    m.run(|a| a.aesenc(xmm1, xmm2));
    assert_eq!(m.fx.xmm(1), bytes("a49c7ff2689f352b6b5bea43026a5049"));
}

/// SDM volume 1, table 4-8: rounding modes 0 to 3, of the immediate and of MXCSR.
#[test]
fn rounding_follows_the_mode() {
    let mut m = Machine::new();
    m.fx.set_xmm(2, doubles(-2.5, 0.0));
    for (mode, expected) in (0u32..).zip([-2i32, -3, -2, -2]) {
        m.run(|a| a.roundsd(xmm1, xmm2, mode));
        assert_eq!(
            low_double(m.fx.xmm(1)),
            f64::from(expected),
            "immediate {mode}"
        );
        assert!(m.fx.set_mxcsr(MXCSR_DEFAULT | mode << 13));
        m.run(|a| a.cvtsd2si(eax, xmm2));
        assert_eq!(
            m.io.gpr_out,
            u64::from(expected.cast_unsigned()),
            "MXCSR {mode}"
        );
    }
}

#[test]
fn denormals_are_zeros_and_results_are_flushed_when_asked() {
    let mut m = Machine::new();
    let tiny = f64::MIN_POSITIVE / 4.0;
    let mut add = |mxcsr| {
        assert!(m.fx.set_mxcsr(mxcsr));
        m.fx.set_xmm(1, doubles(tiny, 0.0));
        m.fx.set_xmm(2, doubles(tiny, 0.0));
        m.run(|a| a.addsd(xmm1, xmm2));
        (low_double(m.fx.xmm(1)), m.fx.mxcsr() & 0x3f)
    };
    assert_eq!(add(MXCSR_DEFAULT), (2.0 * tiny, DE));
    assert_eq!(add(MXCSR_DEFAULT | DAZ), (0.0, 0));
    assert_eq!(add(MXCSR_DEFAULT | FTZ), (0.0, DE | UE | PE));
}

#[test]
fn a_masked_exception_only_sets_its_flag() {
    let mut m = Machine::new();
    m.fx.set_xmm(1, doubles(1.0, 0.0));
    assert_eq!(m.run(|a| a.divsd(xmm1, xmm2)), DONE);
    assert_eq!(low_double(m.fx.xmm(1)), f64::INFINITY);
    assert_eq!(m.fx.mxcsr(), MXCSR_DEFAULT | ZE);
    // Sticky.
    m.run(|a| a.addsd(xmm2, xmm2));
    assert_eq!(m.fx.mxcsr(), MXCSR_DEFAULT | ZE);
}

#[test]
fn an_unmasked_exception_leaves_the_destination() {
    let mut m = Machine::new();
    m.fx.set_xmm(1, doubles(1.0, 9.0));
    assert!(m.fx.set_mxcsr(MXCSR_DEFAULT & !(ZE << 7)));
    let before = m.fx.clone();
    assert_eq!(m.run(|a| a.divsd(xmm1, xmm2)), NativeOutcome::SimdException);
    assert_eq!(m.fx.xmm(1), before.xmm(1));
    assert_eq!(m.fx.mxcsr(), before.mxcsr() | ZE);
}

#[test]
fn an_unmasked_exception_leaves_the_flags() {
    let mut m = Machine::new();
    m.fx.set_xmm(1, doubles(f64::NAN, 0.0));
    m.io.eflags = 0x8d5;
    assert!(m.fx.set_mxcsr(MXCSR_DEFAULT & !(IE << 7)));
    assert_eq!(
        m.run(|a| a.comisd(xmm1, xmm2)),
        NativeOutcome::SimdException
    );
    assert_eq!(m.io.eflags, 0x8d5);
    assert!(m.fx.set_mxcsr(MXCSR_DEFAULT));
    m.run(|a| a.comisd(xmm1, xmm2));
    // Unordered: ZF, PF and CF, the others cleared.
    assert_eq!(m.io.eflags, 0x45);
}

/// SDM volume 1, 4.9.1.5: unmasked, every tiny result underflows, exact or not.
#[test]
fn an_exact_tiny_result_underflows_only_unmasked() {
    let mut m = Machine::new();
    let set = |m: &mut Machine, mxcsr| {
        assert!(m.fx.set_mxcsr(mxcsr));
        m.fx.set_xmm(1, doubles(f64::MIN_POSITIVE, 0.0));
        m.fx.set_xmm(2, doubles(0.5, 0.0));
    };
    set(&mut m, MXCSR_DEFAULT);
    assert_eq!(m.run(|a| a.mulsd(xmm1, xmm2)), DONE);
    assert_eq!(m.fx.mxcsr(), MXCSR_DEFAULT);
    set(&mut m, MXCSR_DEFAULT & !(UE << 7));
    assert_eq!(m.run(|a| a.mulsd(xmm1, xmm2)), NativeOutcome::SimdException);
    assert_eq!(m.fx.mxcsr() & 0x3f, UE);
}

#[test]
fn operands_end_the_instruction_before_results_do() {
    let mut m = Machine::new();
    m.fx.set_xmm(1, doubles(1.0, f64::MAX));
    m.fx.set_xmm(2, doubles(0.0, f64::MIN_POSITIVE));
    assert!(m.fx.set_mxcsr(MXCSR_DEFAULT & !(ZE << 7)));
    assert_eq!(m.run(|a| a.divpd(xmm1, xmm2)), NativeOutcome::SimdException);
    assert_eq!(
        m.fx.mxcsr() & 0x3f,
        ZE,
        "the overflow of the other half is not reported"
    );
}

#[test]
fn masked_moves_give_their_bytes() {
    let mut m = Machine::new();
    let data = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100u128;
    m.fx.set_xmm(1, data);
    m.fx.set_xmm(2, 0x80 << 120 | 0x7f << 16 | 0xff);
    assert_eq!(m.run(|a| a.maskmovdqu(xmm1, xmm2)), DONE);
    assert_eq!(m.io.byte_mask, 0x8001);
    assert_eq!(m.io.memory[..16], data.to_le_bytes());
}

#[test]
fn mxcsr_is_stored_and_loaded() {
    let mut m = Machine::new();
    m.set_memory(&0xffc0u32.to_le_bytes());
    assert_eq!(m.run(|a| a.ldmxcsr(dword_ptr(rax))), DONE);
    assert_eq!(m.fx.mxcsr(), 0xffc0);
    m.set_memory(&[0; 4]);
    assert_eq!(m.run(|a| a.stmxcsr(dword_ptr(rax))), DONE);
    assert_eq!(m.io.memory[..4], 0xffc0u32.to_le_bytes());
}

type Build<'a> = &'a dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>;

proptest! {
    #[test]
    fn scalar_arithmetic_is_that_of_f64(a in any::<u64>(), b in any::<u64>()) {
        let (x, y) = (f64::from_bits(a), f64::from_bits(b));
        let mut m = Machine::new();
        let cases: [(Build, f64); 5] = [
            (&|a| a.addsd(xmm1, xmm2), x + y),
            (&|a| a.subsd(xmm1, xmm2), x - y),
            (&|a| a.mulsd(xmm1, xmm2), x * y),
            (&|a| a.divsd(xmm1, xmm2), x / y),
            (&|a| a.sqrtsd(xmm1, xmm2), y.sqrt()),
        ];
        for (build, expected) in cases {
            m.fx.set_xmm(1, doubles(x, 7.0));
            m.fx.set_xmm(2, doubles(y, 8.0));
            m.run(|assembler| build(assembler));
            let result = low_double(m.fx.xmm(1));
            let same = result.to_bits() == expected.to_bits() || result.is_nan() && expected.is_nan();
            prop_assert!(same, "{x:e} {y:e}: {result:e}, not {expected:e}");
            prop_assert_eq!(m.fx.xmm(1) >> 64, u128::from(7.0f64.to_bits()));
        }
    }

    #[test]
    fn packed_integers_match_a_model(a in any::<[u8; 16]>(), b in any::<[u8; 16]>()) {
        let mut m = Machine::new();
        let pick = |i: usize| if b[i] & 0x80 == 0 { a[usize::from(b[i] & 15)] } else { 0 };
        let cases: [(Build, &dyn Fn(usize) -> u8); 4] = [
            (&|x| x.paddb(xmm1, xmm2), &|i| a[i].wrapping_add(b[i])),
            (&|x| x.psubusb(xmm1, xmm2), &|i| a[i].saturating_sub(b[i])),
            (&|x| x.pminub(xmm1, xmm2), &|i| a[i].min(b[i])),
            (&|x| x.pshufb(xmm1, xmm2), &pick),
        ];
        for (build, model) in cases {
            m.fx.set_xmm(1, u128::from_le_bytes(a));
            m.fx.set_xmm(2, u128::from_le_bytes(b));
            m.run(|assembler| build(assembler));
            prop_assert_eq!(m.fx.xmm(1).to_le_bytes(), core::array::from_fn::<u8, 16, _>(model));
        }
    }

    #[test]
    fn carry_less_products_match_a_model(a in any::<u64>(), b in any::<u64>()) {
        let mut m = Machine::new();
        m.fx.set_xmm(1, u128::from(a));
        m.fx.set_xmm(2, u128::from(b));
        m.run(|x| x.pclmulqdq(xmm1, xmm2, 0));
        let product = (0..64).filter(|i| b >> i & 1 != 0).fold(0, |p, i| p ^ u128::from(a) << i);
        prop_assert_eq!(m.fx.xmm(1), product);
    }
}

const IE: u32 = 1 << 0;
const DE: u32 = 1 << 1;
const ZE: u32 = 1 << 2;
const UE: u32 = 1 << 4;
const PE: u32 = 1 << 5;
const DAZ: u32 = 1 << 6;
const FTZ: u32 = 1 << 15;
