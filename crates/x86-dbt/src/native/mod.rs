//! x87, MMX and SSE instructions, executed by the host's own.
//!
//! The guest and the host have the same instruction set, so the exact result of an instruction is whatever
//! the host computes. [`NativeUnit::prepare`] assembles a few host instructions around one guest instruction
//! whose memory operand is moved to a buffer; [`NativeUnit::execute`] runs them on an [`FxState`].
//! No guest address or guest general register is ever a host one, and nothing here can fault:
//! SIMD exceptions are masked while a stub runs and evaluated afterwards, and a pending x87 exception is
//! refused before it.

#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "calls assembled code")]
mod call;
mod describe;
mod fx_state;
mod host;
mod io;
mod simd;
mod soft;
mod stub;

use std::collections::HashMap;
use std::io::Error;

use iced_x86::{CpuidFeature, Instruction, InstructionInfoFactory};

use crate::arena::{Arena, StubHandle};
use describe::{Description, Operands, Shape};
use io::{FxKind, Run};
use soft::Soft;

pub use fx_state::{
    FCW_DEFAULT, FSW_B, FSW_ES, FxState, MXCSR_DEFAULT, MXCSR_FLAGS, MXCSR_MASK, X87_EXCEPTIONS,
};
pub use host::host_supports;
pub use io::{NativeClass, NativeIo, NativeMemory, NativeOp, NativeOutcome};

/// Why an instruction does not run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNative {
    /// It is not of the x87, MMX, SSE to SSE4.2, AES, PCLMULQDQ, SHA or GFNI families, or is an integer one.
    #[error("not an x87, MMX or SSE instruction")]
    OtherFamily,
    /// The host's processor does not have it.
    #[error("the host lacks {0:?}")]
    HostLacks(CpuidFeature),
}

/// Prepares and executes instructions. Holds the stubs, no guest state.
#[derive(Debug)]
pub struct NativeUnit {
    arena: Arena,
    prepared: HashMap<Shape, NativeOp>,
    factory: InstructionInfoFactory,
}

impl NativeUnit {
    /// A unit whose stubs fill at most [`ARENA_BYTES`].
    ///
    /// # Errors
    ///
    /// When the host refuses executable memory.
    pub fn new() -> Result<Self, Error> {
        Self::with_budget(ARENA_BYTES)
    }

    /// A unit whose stubs fill at most `bytes`, rounded up to pages.
    ///
    /// # Errors
    ///
    /// When the host refuses executable memory.
    ///
    /// # Panics
    ///
    /// When `bytes` does not fit 32 bits.
    pub fn with_budget(bytes: usize) -> Result<Self, Error> {
        Ok(Self {
            arena: Arena::new(bytes)?,
            prepared: HashMap::new(),
            factory: InstructionInfoFactory::new(),
        })
    }

    /// Makes `instruction`, decoded from 16-, 32- or 64-bit code, ready to run, and describes it.
    ///
    /// Costs a hash lookup when its like was prepared before, else about 5 us. When the budget is used up
    /// every earlier operation becomes [`NativeOutcome::Stale`].
    ///
    /// # Errors
    ///
    /// [`NotNative`] when the interpreter has to run it itself, or raise #UD.
    pub fn prepare(&mut self, instruction: &Instruction) -> Result<NativeOp, NotNative> {
        if let Some(soft) = Soft::of(instruction) {
            return Ok(soft_op(soft, instruction));
        }
        if !describe::is_native(instruction) {
            return Err(NotNative::OtherFamily);
        }
        let (moved, operands) = describe::move_operands(instruction);
        let shape = Shape::of(&moved);
        if let Some(op) = self.prepared.get(&shape) {
            return Ok(with_operands(*op, operands));
        }
        let features = instruction.cpuid_features();
        if let Some(&lacking) = features.iter().find(|&&feature| !host_supports(feature)) {
            return Err(NotNative::HostLacks(lacking));
        }
        let description = describe::describe(&mut self.factory, instruction, moved, operands);
        let op = self.assemble(&description, features);
        self.prepared.insert(shape, op);
        Ok(with_operands(op, operands))
    }

    /// Runs `op` on `state`, with the operands in `io`.
    ///
    /// Memory and registers are the caller's: it checks that a memory operand can be read or written before
    /// the call, because the state is changed by it.
    #[inline]
    pub fn execute(&self, op: &NativeOp, state: &mut FxState, io: &mut NativeIo) -> NativeOutcome {
        if op.waits && state.x87_pending() {
            return NativeOutcome::Pending;
        }
        match op.run {
            Run::Xmm {
                stub,
                first,
                second,
                mxcsr,
            } => {
                if mxcsr {
                    self.execute_simd(op, stub, (first, second), state, io)
                } else {
                    done(
                        self.arena.call_xmm(stub, io, state, (first, second)),
                        op,
                        io,
                    )
                }
            }
            Run::Fx { stub, kind } => self.execute_fx(op, stub, kind, state, io),
            Run::Soft(soft) => soft.run(state, io),
        }
    }

    /// How often the budget was used up. Operations prepared in an earlier generation are stale.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.arena.generation()
    }

    fn execute_fx(
        &self,
        op: &NativeOp,
        stub: StubHandle,
        kind: FxKind,
        state: &mut FxState,
        io: &mut NativeIo,
    ) -> NativeOutcome {
        if kind == FxKind::MmxSimd {
            return self.execute_mmx_simd(op, stub, state, io);
        }
        let (fop, fip, fdp) = (state.fop(), state.fip(), state.fdp());
        io.flags = io.eflags & EFLAGS_ARITHMETIC;
        if !self.arena.call_fx(stub, io, state) {
            return NativeOutcome::Stale;
        }
        if kind == FxKind::X87 {
            let fdp = if op.memory == NativeMemory::None {
                fdp
            } else {
                io.fdp
            };
            state.adopt_host_image(io.fop, io.fip, fdp);
        } else {
            state.adopt_host_image(fop, fip, fdp);
        }
        merge_flags(op, io);
        let writes = matches!(op.memory, NativeMemory::Write(_));
        NativeOutcome::Done {
            store: !(writes && store_suppressed(state)),
        }
    }

    fn assemble(&mut self, d: &Description, features: &'static [CpuidFeature]) -> NativeOp {
        let code = match d.fx {
            Some(_) => stub::fx_stub(&d.plan),
            None => stub::xmm_stub(&d.plan),
        };
        let code = code.expect("a decoded instruction with moved operands can be encoded");
        let stub = self
            .arena
            .push(&code)
            .unwrap_or_else(|| self.push_after_flush(&code));
        NativeOp {
            class: d.class,
            memory: d.memory,
            span: d.memory.size(),
            alignment: d.alignment,
            gpr_in: d.gpr_in,
            gpr_out: d.gpr_out,
            reads_flags: d.plan.reads_flags,
            writes_flags: d.plan.writes_flags,
            waits: d.waits,
            features,
            run: match d.fx {
                Some(kind) => Run::Fx { stub, kind },
                None => Run::Xmm {
                    stub,
                    first: 0,
                    second: 0,
                    mxcsr: d.plan.mxcsr,
                },
            },
        }
    }

    fn push_after_flush(&mut self, code: &[u8]) -> StubHandle {
        self.prepared.clear();
        self.arena.flush();
        self.arena
            .push(code)
            .expect("one stub is smaller than a page")
    }
}

/// The opcode that FOP holds for the x87 instruction in `bytes`: bits 2:0 of the escape byte (D8 to DF)
/// and the `ModRM` byte after it. Zero when no escape byte is found.
#[must_use]
pub fn x87_opcode(bytes: &[u8]) -> u16 {
    bytes
        .windows(2)
        .find(|pair| pair[0] & 0xf8 == 0xd8)
        .map_or(0, |pair| u16::from(pair[0] & 7) << 8 | u16::from(pair[1]))
}

fn soft_op(soft: Soft, instruction: &Instruction) -> NativeOp {
    let memory = soft.memory(instruction);
    let is_image = matches!(soft, Soft::Fxsave(_) | Soft::Fxrstor(_));
    NativeOp {
        class: Soft::class(instruction),
        memory,
        span: if is_image { 512 } else { memory.size() },
        alignment: if is_image { 16 } else { 1 },
        gpr_in: [None; 2],
        gpr_out: (soft == Soft::FnstswAx).then_some(iced_x86::Register::AX),
        reads_flags: false,
        writes_flags: false,
        waits: soft.waits(instruction),
        features: instruction.cpuid_features(),
        run: Run::Soft(soft),
    }
}

/// `op`, prepared for another use of the same stub, with the registers of this one.
fn with_operands(mut op: NativeOp, operands: Operands) -> NativeOp {
    if let Some(gpr) = operands.gpr {
        op.gpr_in = op.gpr_in.map(|register| register.map(|_| gpr));
        op.gpr_out = op.gpr_out.map(|_| gpr);
    }
    if let Run::Xmm { first, second, .. } = &mut op.run {
        [*first, *second] = operands.xmm;
    }
    op
}

#[inline]
fn done(ran: bool, op: &NativeOp, io: &mut NativeIo) -> NativeOutcome {
    if !ran {
        return NativeOutcome::Stale;
    }
    merge_flags(op, io);
    NativeOutcome::Done { store: true }
}

#[inline]
fn merge_flags(op: &NativeOp, io: &mut NativeIo) {
    if op.writes_flags {
        io.eflags = io.eflags & !EFLAGS_ARITHMETIC | io.flags & EFLAGS_ARITHMETIC;
    }
}

/// A pending exception that was not there before the instruction keeps a store from happening, unless it is
/// precision, which is reported with the result in place (SDM volume 1, 8.5).
fn store_suppressed(state: &FxState) -> bool {
    const PRECISION: u16 = 1 << 5;
    state.fsw() & !state.fcw() & X87_EXCEPTIONS & !PRECISION != 0
}

/// The default budget of a unit's stubs: 4 MiB, about 40,000 of them.
pub const ARENA_BYTES: usize = 4 << 20;

/// CF, PF, AF, ZF, SF and OF.
const EFLAGS_ARITHMETIC: u64 = 0x8d5;

#[cfg(test)]
mod tests;
