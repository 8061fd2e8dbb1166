//! The host's own control registers survive, whatever the embedding program set them to.

use core::arch::asm;

use iced_x86::code_asm::{CodeAssembler, mm0, mm1, st0, st1, xmm0, xmm1, xmm2};
use iced_x86::{Decoder, DecoderOptions, IcedError, Instruction};
use x86_dbt::native::{FxState, NativeIo, NativeUnit};

#[test]
fn control_words_are_the_hosts_after_every_kind_of_stub() {
    let mut unit = NativeUnit::new().unwrap();
    let mut io = NativeIo::new();
    let mut fx = FxState::power_on();
    fx.fninit();
    // The guest unmasks everything, and its division by zero is pending when the second stub ends.
    fx.set_fcw(0);
    assert!(fx.set_mxcsr(0x6000));
    type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let kinds: [Build; 6] = [
        |a| a.fld1(),
        |a| a.fdiv_2(st0, st1),
        |a| a.paddb(mm0, mm1),
        |a| a.addps(xmm1, xmm2),
        |a| a.paddd(xmm1, xmm2),
        |a| a.cvtpi2ps(xmm0, mm1),
    ];
    let ours = (0x0f7f, 0x5fa0);
    let before = control_words();
    set_control_words(ours);
    let after = kinds.map(|build| {
        fx.set_fsw(0);
        let op = unit.prepare(&assembled(build)).unwrap();
        unit.execute(&op, &mut fx, &mut io);
        (control_words(), x87_tags())
    });
    set_control_words(before);
    for (words, tags) in after {
        assert_eq!(words, ours);
        assert_eq!(tags, 0xffff, "the x87 stack is empty, as the ABI has it");
    }
}

fn assembled(build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Instruction {
    let mut a = CodeAssembler::new(64).unwrap();
    build(&mut a).unwrap();
    let bytes = a.assemble(0).unwrap();
    Decoder::new(64, &bytes, DecoderOptions::NONE).decode()
}

fn control_words() -> (u16, u32) {
    let mut fcw = 0u16;
    let mut mxcsr = 0u32;
    // SAFETY: stores 2 bytes to a local.
    unsafe { asm!("fnstcw [{}]", in(reg) &raw mut fcw) };
    // SAFETY: stores 4 bytes to a local.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr) };
    (fcw, mxcsr)
}

/// Only rounding differs from the ABI's, for the integer code between two calls.
fn set_control_words((fcw, mxcsr): (u16, u32)) {
    // SAFETY: loads 2 bytes of a local; no exception is unmasked.
    unsafe { asm!("fldcw [{}]", in(reg) &raw const fcw) };
    // SAFETY: loads 4 bytes of a local; no exception is unmasked and no reserved bit set.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr) };
}

fn x87_tags() -> u16 {
    let mut environment = [0u32; 7];
    // SAFETY: stores and loads the 28 bytes of a local; FNSTENV alone would leave exceptions masked.
    unsafe { asm!("fnstenv [{0}]", "fldenv [{0}]", in(reg) &raw mut environment) };
    u16::try_from(environment[2] & 0xffff).unwrap()
}
