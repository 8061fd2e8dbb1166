//! Hostile instructions on hostile floating-point state, executed by the host.

use arbitrary::{Result, Unstructured};
use iced_x86::{Decoder, DecoderOptions};
use x86_dbt::native::{FSW_B, FSW_ES, FxState, MXCSR_MASK, NativeIo, NativeOutcome, NativeUnit};

/// Decodes `data` as instructions of any mode and executes those that are native.
///
/// # Panics
///
/// When a state breaks an invariant of [`FxState`], a refused instruction changed it, or two executions from one
/// state differ.
pub fn native_unit(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut unit = NativeUnit::with_budget(BUDGET).expect("the host gives executable memory");
    let mut state = arbitrary_state(u)?;
    let mut io = NativeIo::new();
    u.fill_buffer(&mut io.memory)?;
    let bitness = u.choose(&[16, 32, 64]).copied()?;
    for _ in 0..INSTRUCTIONS_MAX {
        let bytes = arbitrary_bytes(u)?;
        let instruction = Decoder::new(bitness, &bytes, DecoderOptions::NONE).decode();
        let Ok(op) = unit.prepare(&instruction) else {
            continue;
        };
        io.gpr = u.arbitrary()?;
        io.eflags = u.arbitrary()?;
        io.real_mode = u.arbitrary()?;
        let (mut again, mut io_again) = (state.clone(), io.clone());
        let before = state.clone();
        let outcome = unit.execute(&op, &mut state, &mut io);
        assert_eq!(
            outcome,
            unit.execute(&op, &mut again, &mut io_again),
            "{bytes:02x?}"
        );
        assert_eq!(state, again, "{bytes:02x?}");
        assert_eq!(io.memory, io_again.memory, "{bytes:02x?}");
        check(outcome, &before, &state);
    }
    Ok(())
}

fn check(outcome: NativeOutcome, before: &FxState, after: &FxState) {
    assert_eq!(after.mxcsr() & !MXCSR_MASK, 0);
    let summary = after.fsw() & (FSW_ES | FSW_B);
    assert_eq!(
        summary,
        if after.x87_pending() {
            FSW_ES | FSW_B
        } else {
            0
        }
    );
    match outcome {
        NativeOutcome::Done { .. } => {}
        NativeOutcome::Pending | NativeOutcome::ReservedMxcsr => assert_eq!(before, after),
        NativeOutcome::SimdException => {
            assert!((0..16).all(|i| before.xmm(i) == after.xmm(i)));
            assert!((0..8).all(|i| before.mm(i) == after.mm(i)));
        }
        NativeOutcome::Stale => panic!("it was prepared just now"),
    }
}

/// Mostly of the maps that hold x87, MMX and SSE.
fn arbitrary_bytes(u: &mut Unstructured<'_>) -> Result<[u8; 15]> {
    let mut bytes: [u8; 15] = u.arbitrary()?;
    let escapes: [&[u8]; 7] = [
        &[],
        &[0x0f],
        &[0x66, 0x0f],
        &[0xf2, 0x0f],
        &[0xf3, 0x0f],
        &[0x66, 0x0f, 0x38],
        &[0x66, 0x0f, 0x3a],
    ];
    let escape = u.choose(&escapes)?;
    bytes[..escape.len()].copy_from_slice(escape);
    if escape.is_empty() {
        bytes[0] = 0xd8 | bytes[0] & 7;
    }
    Ok(bytes)
}

fn arbitrary_state(u: &mut Unstructured<'_>) -> Result<FxState> {
    let mut state = FxState::power_on();
    state.set_fcw(u.arbitrary()?);
    state.set_fsw(u.arbitrary()?);
    state.set_ftw_abridged(u.arbitrary()?);
    // A value with a reserved bit is refused, and the state stays valid.
    let _ = state.set_mxcsr(u.arbitrary()?);
    for i in 0..8 {
        state.set_st(i, u.arbitrary()?);
    }
    for i in 0..16 {
        state.set_xmm(i, u.arbitrary()?);
    }
    Ok(state)
}

/// Small, so that long inputs flush.
const BUDGET: usize = 4096;
const INSTRUCTIONS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    #[test]
    fn smoke() {
        arbtest::arbtest(super::run).budget_ms(1000);
    }
}
