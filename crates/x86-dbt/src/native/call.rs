//! Running a stub.

use super::fx_state::FxState;
use super::io::NativeIo;
use crate::arena::{Arena, StubHandle};

/// A stub that works on copies of the XMM registers it names: `(io, first, second, xmm0)`.
type XmmStub = unsafe extern "sysv64" fn(*mut NativeIo, *mut u8, *const u8, *mut u8);
/// A stub that loads and stores the whole x87, MMX and SSE state: `(io, state)`.
type FxStub = unsafe extern "sysv64" fn(*mut NativeIo, *mut u8);

impl Arena {
    /// Runs a stub that `stub::xmm_stub` assembled, with `first` and `second` (below 16) as its XMM operands.
    /// `false`, and nothing happened, when the handle is from before a flush.
    #[inline]
    pub(super) fn call_xmm(
        &self,
        handle: StubHandle,
        io: &mut NativeIo,
        state: &mut FxState,
        (first, second): (u8, u8),
    ) -> bool {
        let Some(code) = self.resolve(handle) else {
            return false;
        };
        let image = state.image_mut().as_mut_ptr();
        let xmm = |index: u8| image.wrapping_add(FxState::xmm_offset(usize::from(index)));
        // SAFETY: `resolve` gives the start of a stub of the current generation, and the caller took `handle`
        // from an operation whose stub `xmm_stub` wrote with this signature.
        let stub: XmmStub = unsafe { core::mem::transmute(code) };
        // SAFETY: the stub reads and writes only 16 bytes at each of the three registers, all inside the image
        // (`xmm_offset` asserts it), and `io`'s fields; it keeps the callee-saved registers and the host's MXCSR.
        unsafe { stub(io, xmm(first), xmm(second), xmm(0)) };
        true
    }

    /// Runs a stub that `stub::fx_stub` assembled. `false`, and nothing happened, when the handle is from
    /// before a flush.
    #[inline]
    pub(super) fn call_fx(
        &self,
        handle: StubHandle,
        io: &mut NativeIo,
        state: &mut FxState,
    ) -> bool {
        let Some(code) = self.resolve(handle) else {
            return false;
        };
        // SAFETY: as in `call_xmm`, with `fx_stub` as the writer.
        let stub: FxStub = unsafe { core::mem::transmute(code) };
        // SAFETY: `FxState` is 512 bytes aligned to 64 and keeps MXCSR free of reserved bits, so FXRSTOR64
        // cannot fault; the stub leaves the host's x87 stack empty and its control words as they were.
        unsafe { stub(io, state.image_mut().as_mut_ptr()) };
        true
    }
}
