//! Environments and images.

use iced_x86::code_asm::{dword_ptr, ptr, rax};
use proptest::prelude::{any, prop_assert_eq, proptest};

use super::super::{FCW_DEFAULT, FxState, MXCSR_DEFAULT, NativeIo, NativeOutcome, NativeUnit};
use super::{DONE, Machine, decode};

fn sample() -> FxState {
    let mut fx = FxState::power_on();
    fx.set_fcw(0x27f);
    fx.set_fsw(0x3800 | 0x4500);
    fx.set_ftw_abridged(0b1000_0011);
    fx.set_pointers(0x5a5, 0x1023_0001_2345, 0x102b_000a_bcde);
    // Stack order from physical register 7: ST(0) = R7, ST(1) = R0, ST(2) = R1.
    fx.set_st(0, [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
    fx.set_st(1, [0; 10]);
    fx.set_st(2, [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f]);
    fx
}

#[test]
fn power_on_and_fninit_are_those_of_the_manual() {
    let mut fx = FxState::power_on();
    assert_eq!(
        (fx.fcw(), fx.fsw(), fx.ftw(), fx.mxcsr()),
        (0x40, 0, 0x5555, MXCSR_DEFAULT)
    );
    fx.fninit();
    assert_eq!((fx.fcw(), fx.fsw(), fx.ftw()), (FCW_DEFAULT, 0, 0xffff));
}

#[test]
fn the_full_tag_word_classifies_values() {
    // R7 valid (0), R1 special (2), R0 zero (1), the others empty (3).
    assert_eq!(sample().ftw(), 0b0011_1111_1111_1001);
}

#[test]
fn fninit_moves_no_register() {
    let mut fx = sample();
    let r7 = fx.st(0);
    fx.fninit();
    assert_eq!(fx.st(7), r7);
}

#[test]
#[should_panic(expected = "there is no XMM16")]
fn there_are_sixteen_xmm_registers() {
    let _ = FxState::power_on().xmm(16);
}

/// SDM volume 1, figures 8-9 to 8-12.
#[test]
fn the_four_environments_have_their_layouts() {
    let dwords = |dwords: [u32; 7]| dwords.map(u32::to_le_bytes).concat();
    let words = |words: [u16; 7]| words.map(u16::to_le_bytes).concat();
    let protected_32 = [
        0xffff_027f,
        0xffff_7d00,
        0xffff_3ff9,
        0x0001_2345,
        0x05a5_1023,
        0x000a_bcde,
        0xffff_102b,
    ];
    assert_eq!(environment(32, false), dwords(protected_32));
    // 0x1023:0x12345 and 0x102b:0xabcde as linear addresses.
    let real_32 = [
        0xffff_027f,
        0xffff_7d00,
        0xffff_3ff9,
        0xffff_2575,
        0x0000_25a5,
        0xffff_bf8e,
        0x0000_b000,
    ];
    assert_eq!(environment(32, true), dwords(real_32));
    let protected_16 = [0x027f, 0x7d00, 0x3ff9, 0x2345, 0x1023, 0xbcde, 0x102b];
    assert_eq!(environment(16, false), words(protected_16));
    let real_16 = [0x027f, 0x7d00, 0x3ff9, 0x2575, 0x25a5, 0xbf8e, 0xb000];
    assert_eq!(environment(16, true), words(real_16));
}

fn environment(bitness: u32, real_mode: bool) -> Vec<u8> {
    let mut unit = NativeUnit::new().unwrap();
    let mut io = NativeIo {
        real_mode,
        ..NativeIo::new()
    };
    let op = unit.prepare(&decode(&[0xd9, 0x30], bitness)).unwrap();
    let mut fx = sample();
    assert_eq!(unit.execute(&op, &mut fx, &mut io), DONE);
    assert_eq!(fx.fcw(), 0x27f | 0x3f, "FNSTENV masks every exception");
    io.memory[..usize::from(op.memory.size())].to_vec()
}

#[test]
fn fnsave_stores_the_stack_and_resets() {
    let mut m = Machine::new();
    m.fx = sample();
    assert_eq!(m.run(|a| a.fnsave(ptr(rax))), DONE);
    assert_eq!(m.io.memory[28..38], sample().st(0));
    assert_eq!(m.io.memory[98..108], sample().st(7));
    assert_eq!(
        (m.fx.fcw(), m.fx.fsw(), m.fx.ftw()),
        (FCW_DEFAULT, 0, 0xffff)
    );
    assert_eq!(m.run(|a| a.frstor(ptr(rax))), DONE);
    let mut expected = sample();
    // 64-bit code keeps no selectors.
    expected.set_pointers(0x5a5, 0x0001_2345, 0x000a_bcde);
    assert_eq!(m.fx, expected);
}

#[test]
fn fldenv_moves_no_register() {
    let mut m = Machine::new();
    m.fx = sample();
    let r7 = m.fx.st(0);
    assert_eq!(m.run(|a| a.fnstenv(ptr(rax))), DONE);
    m.io.memory[4..6].copy_from_slice(&0u16.to_le_bytes());
    assert_eq!(m.run(|a| a.fldenv(ptr(rax))), DONE);
    assert_eq!((m.fx.top(), m.fx.st(7)), (0, r7));
}

#[test]
fn loading_an_environment_can_make_an_exception_pending() {
    let mut m = Machine::new();
    m.run(|a| a.fnstenv(ptr(rax)));
    m.io.memory[0..2].copy_from_slice(&0x37eu16.to_le_bytes());
    m.io.memory[4..6].copy_from_slice(&0x0001u16.to_le_bytes());
    assert_eq!(m.run(|a| a.fldenv(ptr(rax))), DONE);
    assert_eq!(m.run(|a| a.fld1()), NativeOutcome::Pending);
}

#[test]
fn reserved_mxcsr_bits_are_refused_without_a_change() {
    let mut m = Machine::new();
    let before = m.fx.clone();
    m.set_memory(&0x0001_1f80u32.to_le_bytes());
    assert_eq!(
        m.run(|a| a.ldmxcsr(dword_ptr(rax))),
        NativeOutcome::ReservedMxcsr
    );
    m.io.memory[24..28].copy_from_slice(&0x8000_0000u32.to_le_bytes());
    assert_eq!(m.run(|a| a.fxrstor(ptr(rax))), NativeOutcome::ReservedMxcsr);
    assert_eq!(m.fx, before);
}

#[test]
fn pointers_in_an_image_have_the_width_of_the_code() {
    let mut unit = NativeUnit::new().unwrap();
    let mut io = NativeIo::new();
    let (fip, fdp) = (0x1023_0001_2345u64, 0x102b_000a_bcdeu64);
    // FXSAVE64, FXSAVE in 64-bit code, FXSAVE in 32-bit code.
    let forms: [(&[u8], u32, u64); 3] = [
        (&[0x48, 0x0f, 0xae, 0x00], 64, u64::MAX),
        (&[0x0f, 0xae, 0x00], 64, 0xffff_ffff),
        (&[0x0f, 0xae, 0x00], 32, u64::MAX),
    ];
    for (bytes, bitness, kept) in forms {
        let save = unit.prepare(&decode(bytes, bitness)).unwrap();
        unit.execute(&save, &mut sample(), &mut io);
        assert_eq!(io.memory[8..16], (fip & kept).to_le_bytes());
        assert_eq!(io.memory[16..24], (fdp & kept).to_le_bytes());
    }
}

#[test]
fn images_outside_64_bit_code_leave_the_upper_registers() {
    let mut unit = NativeUnit::new().unwrap();
    let mut io = NativeIo::new();
    let mut fx = sample();
    fx.set_xmm(7, 7);
    fx.set_xmm(8, 8);
    let save = unit.prepare(&decode(&[0x0f, 0xae, 0x00], 32)).unwrap();
    unit.execute(&save, &mut fx, &mut io);
    assert_eq!(io.memory[288..], [0; 224]);
    fx.set_xmm(7, 70);
    fx.set_xmm(8, 80);
    let restore = unit.prepare(&decode(&[0x0f, 0xae, 0x08], 32)).unwrap();
    unit.execute(&restore, &mut fx, &mut io);
    assert_eq!((fx.xmm(7), fx.xmm(8)), (7, 80));
}

proptest! {
    #[test]
    fn a_wide_image_restores_everything(
        bytes in any::<[u8; 32]>(),
        st in any::<[[u8; 10]; 8]>(),
        xmm in any::<[u128; 16]>(),
    ) {
        let mut m = Machine::new();
        m.set_memory(&bytes);
        m.io.memory[24..28].copy_from_slice(&MXCSR_DEFAULT.to_le_bytes());
        prop_assert_eq!(m.run(|a| a.fxrstor64(ptr(rax))), DONE);
        (0..8).for_each(|i| m.fx.set_st(i, st[i]));
        (0..16).for_each(|i| m.fx.set_xmm(i, xmm[i]));
        let saved = m.fx.clone();
        m.run(|a| a.fxsave64(ptr(rax)));
        m.fx = FxState::power_on();
        m.run(|a| a.fxrstor64(ptr(rax)));
        prop_assert_eq!(m.fx, saved);
    }

    #[test]
    fn environments_round_trip(
        fip in 0..0x10_0000u64,
        fdp in 0..0x10_0000u64,
        fop in 0..0x800u16,
        real_mode: bool,
    ) {
        let mut m = Machine::new();
        m.fx.set_pointers(fop, fip, fdp);
        m.io.real_mode = real_mode;
        let before = m.fx.clone();
        m.run(|a| a.fnstenv(ptr(rax)));
        m.fx.set_pointers(0, 0, 0);
        m.run(|a| a.fldenv(ptr(rax)));
        prop_assert_eq!(m.fx, before);
    }
}
