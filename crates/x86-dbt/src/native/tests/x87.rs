//! x87 and MMX: published constants, models, pending exceptions.

use iced_x86::code_asm::{
    ax, dword_ptr, mm0, mm1, mm5, qword_ptr, rax, st0, st1, tbyte_ptr, word_ptr, xmm0, xmm1,
};
use proptest::prelude::{any, prop_assert_eq, proptest};

use super::super::{FCW_DEFAULT, FSW_B, FSW_ES, NativeOutcome, X87_EXCEPTIONS};
use super::{DONE, Machine};

/// Sign and exponent, and significand.
fn st(m: &Machine, index: usize) -> (u16, u64) {
    let bytes = m.fx.st(index);
    let (significand, exponent) = bytes.split_at(8);
    (
        u16::from_le_bytes(exponent.try_into().unwrap()),
        u64::from_le_bytes(significand.try_into().unwrap()),
    )
}

fn load(m: &mut Machine, value: f64) {
    m.set_memory(&value.to_le_bytes());
    assert_eq!(m.run(|a| a.fld(qword_ptr(rax))), DONE);
}

fn stored(m: &mut Machine) -> f64 {
    assert_eq!(m.run(|a| a.fstp(qword_ptr(rax))), DONE);
    f64::from_le_bytes(m.io.memory[..8].try_into().unwrap())
}

/// pi, log2(e) and ln(2) to 64 bits, rounded to nearest (SDM volume 1, 8.3.8 names the constants).
#[test]
fn constants_have_their_bits() {
    let mut m = Machine::new();
    m.run(|a| a.fldpi());
    m.run(|a| a.fldl2e());
    m.run(|a| a.fldln2());
    assert_eq!(st(&m, 2), (0x4000, 0xc90f_daa2_2168_c235));
    assert_eq!(st(&m, 1), (0x3fff, 0xb8aa_3b29_5c17_f0bc));
    assert_eq!(st(&m, 0), (0x3ffe, 0xb172_17f7_d1cf_79ac));
    assert_eq!((m.fx.top(), m.fx.ftw_abridged()), (5, 0b1110_0000));
}

#[test]
fn stack_overflow_gives_the_indefinite_and_c1() {
    let mut m = Machine::new();
    for _ in 0..8 {
        m.run(|a| a.fldz());
    }
    assert_eq!(m.run(|a| a.fld1()), DONE);
    assert_eq!(st(&m, 0), (0xffff, 0xc000_0000_0000_0000));
    // IE, SF and C1.
    assert_eq!(m.fx.fsw() & 0x0241, 0x0241);
}

#[test]
fn integers_are_stored_by_the_rounding_mode() {
    let mut m = Machine::new();
    for (mode, expected) in (0..).zip([-2i32, -3, -2, -2]) {
        m.fx.set_fcw(FCW_DEFAULT | mode << 10);
        load(&mut m, -2.5);
        assert_eq!(m.run(|a| a.fistp(dword_ptr(rax))), DONE);
        assert_eq!(m.io.memory[..4], expected.to_le_bytes(), "mode {mode}");
    }
}

#[test]
fn an_unmasked_exception_waits_for_the_next_waiting_instruction() {
    let mut m = Machine::new();
    m.fx.set_fcw(FCW_DEFAULT & !ZE);
    load(&mut m, 1.0);
    load(&mut m, 0.0);
    assert_eq!(m.run(|a| a.fdivp(st1, st0)), DONE);
    assert!(m.fx.x87_pending());
    assert_eq!(m.fx.fsw() & (FSW_ES | FSW_B | ZE), FSW_ES | FSW_B | ZE);
    let before = m.fx.clone();
    assert_eq!(m.run(|a| a.fld1()), NativeOutcome::Pending);
    assert_eq!(m.run(|a| a.wait()), NativeOutcome::Pending);
    assert_eq!(m.run(|a| a.paddb(mm0, mm1)), NativeOutcome::Pending);
    assert_eq!(m.run(|a| a.emms()), NativeOutcome::Pending);
    assert_eq!(m.fx, before);
    assert_eq!(m.run(|a| a.fnstsw(ax)), DONE);
    assert_eq!(m.io.gpr_out, u64::from(before.fsw()));
    assert_eq!(m.run(|a| a.fnclex()), DONE);
    assert_eq!(m.fx.fsw() & (FSW_ES | FSW_B | ZE), 0);
    assert_eq!(m.run(|a| a.fld1()), DONE);
}

#[test]
fn sse_does_not_wait() {
    let mut m = Machine::new();
    m.fx.set_fsw(ZE);
    m.fx.set_fcw(FCW_DEFAULT & !ZE);
    assert!(m.fx.x87_pending());
    assert_eq!(m.run(|a| a.addps(xmm0, xmm1)), DONE);
}

#[test]
fn an_unmasked_invalid_store_writes_nothing_and_keeps_the_stack() {
    let mut m = Machine::new();
    load(&mut m, f64::INFINITY);
    m.fx.set_fcw(FCW_DEFAULT & !1);
    let top = m.fx.top();
    assert_eq!(
        m.run(|a| a.fistp(dword_ptr(rax))),
        NativeOutcome::Done { store: false }
    );
    assert_eq!(m.fx.top(), top);
    assert!(m.fx.x87_pending());
}

#[test]
fn an_unmasked_inexact_store_writes_and_pops() {
    let mut m = Machine::new();
    load(&mut m, 1.5);
    m.fx.set_fcw(FCW_DEFAULT & !PE);
    assert_eq!(m.run(|a| a.fistp(dword_ptr(rax))), DONE);
    assert_eq!(m.io.memory[..4], 2i32.to_le_bytes());
    assert_eq!(m.fx.ftw_abridged(), 0);
    assert!(m.fx.x87_pending());
}

#[test]
fn unmasking_a_set_flag_makes_it_pending() {
    let mut m = Machine::new();
    load(&mut m, 1.0);
    load(&mut m, 0.0);
    m.run(|a| a.fdivp(st1, st0));
    assert!(!m.fx.x87_pending());
    m.set_memory(&(FCW_DEFAULT & !ZE).to_le_bytes());
    assert_eq!(m.run(|a| a.fldcw(word_ptr(rax))), DONE);
    assert!(m.fx.x87_pending());
    assert_eq!(m.fx.fsw() & (FSW_ES | FSW_B), FSW_ES | FSW_B);
}

#[test]
fn pointers_are_the_guests_own() {
    let mut m = Machine::new();
    m.io.fip = 0x1111;
    m.io.fdp = 0x2222;
    m.io.fop = 0x1e8;
    m.run(|a| a.fld1());
    assert_eq!((m.fx.fip(), m.fx.fdp(), m.fx.fop()), (0x1111, 0, 0x1e8));
    m.io.fip = 0x3333;
    m.run(|a| a.fadd(dword_ptr(rax)));
    assert_eq!((m.fx.fip(), m.fx.fdp()), (0x3333, 0x2222));
    // Neither control instructions nor MMX change them.
    m.io.fip = 0x4444;
    m.run(|a| a.fnstcw(word_ptr(rax)));
    m.run(|a| a.fnclex());
    m.run(|a| a.emms());
    m.run(|a| a.pxor(mm1, mm1));
    assert_eq!(
        (m.fx.fip(), m.fx.fdp(), m.fx.fop()),
        (0x3333, 0x2222, 0x1e8)
    );
}

#[test]
fn conditional_moves_and_compares_use_the_guests_flags() {
    let mut m = Machine::new();
    load(&mut m, 5.0);
    load(&mut m, 3.0);
    m.io.eflags = 0xfffc_0000 | 0x8d5;
    m.run(|a| a.fcomi(st0, st1));
    // Less: CF; the bits that are not arithmetic flags stay.
    assert_eq!(m.io.eflags & 0x45, 0x01);
    assert_eq!(m.io.eflags >> 16, 0xfffc);
    m.run(|a| a.fcmovnb(st0, st1));
    assert_eq!(stored(&mut m), 3.0);
    load(&mut m, 3.0);
    m.run(|a| a.fcmovb(st0, st1));
    assert_eq!(stored(&mut m), 5.0);
}

#[test]
fn mmx_aliases_the_physical_registers() {
    let mut m = Machine::new();
    load(&mut m, 1.0);
    m.io.gpr[0] = 0x0102_0304_0506_0708;
    assert_eq!(m.run(|a| a.movq(mm5, rax)), DONE);
    assert_eq!((m.fx.top(), m.fx.ftw_abridged()), (0, 0xff));
    assert_eq!(m.fx.mm(5), 0x0102_0304_0506_0708);
    assert_eq!(st(&m, 5), (0xffff, 0x0102_0304_0506_0708));
    // 1.0 went to physical register 7.
    assert_eq!(m.fx.mm(7), 1 << 63);
    m.run(|a| a.emms());
    assert_eq!(m.fx.ftw_abridged(), 0);
    m.fx.set_mm(3, 9);
    assert_eq!((m.fx.mm(3), m.fx.ftw_abridged()), (9, 0xff));
}

proptest! {
    #[test]
    fn double_precision_is_that_of_f64(x in -1e100..1e100f64, y in -1e100..1e100f64) {
        let mut m = Machine::new();
        // 53 bits of precision; no result of these leaves the range of a double.
        m.fx.set_fcw(FCW_DEFAULT & !0x300 | 0x200);
        let mut result = |op: &dyn Fn(&mut Machine) -> NativeOutcome| {
            load(&mut m, x);
            load(&mut m, y);
            assert_eq!(op(&mut m), DONE);
            let value = stored(&mut m);
            assert_eq!(m.fx.ftw_abridged(), 0);
            value
        };
        prop_assert_eq!(result(&|m| m.run(|a| a.faddp(st1, st0))), x + y);
        prop_assert_eq!(result(&|m| m.run(|a| a.fsubp(st1, st0))), x - y);
        prop_assert_eq!(result(&|m| m.run(|a| a.fmulp(st1, st0))), x * y);
        prop_assert_eq!(result(&|m| m.run(|a| a.fdivp(st1, st0))), x / y);
    }

    #[test]
    fn packed_decimals_are_stored(value in -999_999_999_999_999_999i64..=999_999_999_999_999_999) {
        let mut m = Machine::new();
        m.set_memory(&value.to_le_bytes());
        m.run(|a| a.fild(qword_ptr(rax)));
        m.run(|a| a.fbstp(tbyte_ptr(rax)));
        let digits = m.io.memory[..9].iter().rev().fold(0, |n, byte| n * 100 + u64::from(byte >> 4) * 10 + u64::from(byte & 15));
        prop_assert_eq!(digits, value.unsigned_abs());
        prop_assert_eq!(m.io.memory[9], if value < 0 { 0x80 } else { 0 });
    }

    #[test]
    fn the_summary_always_follows_from_flags_and_masks(fcw in any::<u16>(), fsw in any::<u16>()) {
        let mut m = Machine::new();
        m.fx.set_fsw(fsw);
        m.fx.set_fcw(fcw);
        let pending = fsw & !fcw & X87_EXCEPTIONS != 0;
        prop_assert_eq!(m.fx.x87_pending(), pending);
        prop_assert_eq!(m.fx.fsw() & (FSW_ES | FSW_B) == FSW_ES | FSW_B, pending);
    }
}

const ZE: u16 = 1 << 2;
const PE: u16 = 1 << 5;
