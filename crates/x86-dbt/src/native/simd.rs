//! SIMD floating-point exceptions: run masked, then decide (SDM volume 1, 11.5).

use super::fx_state::{FxState, MXCSR_FLAGS};
use super::io::{NativeIo, NativeOp, NativeOutcome};
use super::{NativeUnit, done, merge_flags};
use crate::arena::StubHandle;

impl NativeUnit {
    #[inline]
    pub(super) fn execute_simd(
        &self,
        op: &NativeOp,
        stub: StubHandle,
        registers: (u8, u8),
        state: &mut FxState,
        io: &mut NativeIo,
    ) -> NativeOutcome {
        let mxcsr = state.mxcsr();
        io.mxcsr = mxcsr & !MXCSR_FLAGS | MASKS;
        if mxcsr & MASKS == MASKS {
            let ran = self.arena.call_xmm(stub, io, state, registers);
            add_flags(state, io.mxcsr);
            return done(ran, op, io);
        }
        let before = state.clone();
        let Some(flags) = self.flags_when_unmasked(stub, registers, state, io) else {
            return NativeOutcome::Stale;
        };
        settle(op, flags, &before, state, io)
    }

    pub(super) fn execute_mmx_simd(
        &self,
        op: &NativeOp,
        stub: StubHandle,
        state: &mut FxState,
        io: &mut NativeIo,
    ) -> NativeOutcome {
        let before = state.clone();
        let accepted = state.set_mxcsr(before.mxcsr() & !MXCSR_FLAGS | MASKS);
        debug_assert!(
            accepted,
            "clearing flags and setting masks keeps the reserved bits clear"
        );
        if !self.arena.call_fx(stub, io, state) {
            *state = before;
            return NativeOutcome::Stale;
        }
        let flags = state.mxcsr();
        state.adopt_host_image(before.fop(), before.fip(), before.fdp());
        let accepted = state.set_mxcsr(before.mxcsr());
        debug_assert!(accepted, "it was the state's own");
        settle(op, flags, &before, state, io)
    }

    /// Runs masked, and returns the flags as if the exceptions unmasked in `state` had been so.
    ///
    /// Underflow differs: masked, an exact tiny result raises nothing; unmasked, every tiny result does.
    /// Flush-to-zero raises it for every tiny result too, and changes no other, so it finds them.
    fn flags_when_unmasked(
        &self,
        stub: StubHandle,
        registers: (u8, u8),
        state: &mut FxState,
        io: &mut NativeIo,
    ) -> Option<u32> {
        let mxcsr = io.mxcsr;
        if state.mxcsr() & UNDERFLOW << MASK_SHIFT != 0 {
            return self
                .arena
                .call_xmm(stub, io, state, registers)
                .then_some(io.mxcsr);
        }
        let before = state.clone();
        io.mxcsr = mxcsr | FLUSH_TO_ZERO;
        if !self.arena.call_xmm(stub, io, state, registers) {
            return None;
        }
        if io.mxcsr & UNDERFLOW == 0 {
            return Some(io.mxcsr);
        }
        // Flushing also raised precision: ask again, without it.
        state.clone_from(&before);
        io.mxcsr = mxcsr & !FLUSH_TO_ZERO;
        let ran = self.arena.call_xmm(stub, io, state, registers);
        ran.then_some(io.mxcsr | UNDERFLOW)
    }
}

/// Commits the run when it raised nothing unmasked, else takes it back but for the flags.
fn settle(
    op: &NativeOp,
    flags: u32,
    before: &FxState,
    state: &mut FxState,
    io: &mut NativeIo,
) -> NativeOutcome {
    let unmasked = !(before.mxcsr() >> MASK_SHIFT) & MXCSR_FLAGS;
    if flags & unmasked == 0 {
        add_flags(state, flags);
        merge_flags(op, io);
        return NativeOutcome::Done { store: true };
    }
    let entered_mmx = op.waits && state.top() == 0 && state.ftw_abridged() == 0xff;
    state.clone_from(before);
    if entered_mmx {
        // The move to MMX state comes before the exception and stays.
        state.enter_mmx();
    }
    // An unmasked pre-computation exception ends the instruction before results are rounded.
    let computed = flags & unmasked & PRE_COMPUTATION == 0;
    add_flags(
        state,
        if computed {
            flags
        } else {
            flags & PRE_COMPUTATION
        },
    );
    NativeOutcome::SimdException
}

fn add_flags(state: &mut FxState, flags: u32) {
    let accepted = state.set_mxcsr(state.mxcsr() | flags & MXCSR_FLAGS);
    debug_assert!(accepted, "flags are not reserved bits");
}

/// IM DM ZM OM UM PM.
const MASKS: u32 = 0x3f << MASK_SHIFT;
const MASK_SHIFT: u32 = 7;
/// IE, DE and ZE, found by looking at the operands.
const PRE_COMPUTATION: u32 = 7;
const UNDERFLOW: u32 = 1 << 4;
const FLUSH_TO_ZERO: u32 = 1 << 15;
