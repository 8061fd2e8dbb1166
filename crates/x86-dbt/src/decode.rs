//! From bytes to [`Op`]s: `iced-x86` decodes, and each instruction gets the handler for its operands.

/// `f::<u8, ..>` to `f::<u64, ..>` by the size in bytes.
macro_rules! sized {
    ($size:expr, $f:path $(, $($generic:tt),*)?) => { sized!(@ $size, $f, [$($($generic),*)?]) };
    (@ $size:expr, $f:path, [$($generic:tt),*]) => {
        match $size {
            1 => { use $f as f; f::<u8 $(, $generic)*> as Handler }
            2 => { use $f as f; f::<u16 $(, $generic)*> as Handler }
            4 => { use $f as f; f::<u32 $(, $generic)*> as Handler }
            _ => { use $f as f; f::<u64 $(, $generic)*> as Handler }
        }
    };
}

/// The same without bytes.
macro_rules! wide {
    ($size:expr, $f:path $(, $($generic:tt),*)?) => { wide!(@ $size, $f, [$($($generic),*)?]) };
    (@ $size:expr, $f:path, [$($generic:tt),*]) => {
        match $size {
            2 => { use $f as f; f::<u16 $(, $generic)*> as Handler }
            4 => { use $f as f; f::<u32 $(, $generic)*> as Handler }
            _ => { use $f as f; f::<u64 $(, $generic)*> as Handler }
        }
    };
}

/// For handlers of one size.
macro_rules! fixed {
    ($size:expr, $f:path $(, $($generic:tt),*)?) => { fixed!(@ $f, [$($($generic),*)?]) };
    (@ $f:path, [$($generic:tt),*]) => {{ use $f as f; f::<$($generic),*> as Handler }};
}

/// A handler that reads operand `n` from a register or from memory.
macro_rules! read_either {
    ($i:expr, $n:expr, $register:ident, $kind:ident, $size:expr, $f:path $(, $generic:tt)*) => {
        if $i.op_kind($n) == OpKind::Memory {
            $kind!($size, $f, Mem $(, $generic)*)
        } else {
            $kind!($size, $f, $register $(, $generic)*)
        }
    };
}

mod families;
mod operands;
mod table;

use std::rc::Rc;

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Register};

use crate::cpu::Cpu;
use crate::exception::Result;
use crate::native::{NativeOp, NativeUnit, x87_opcode};
use crate::ops::operand::R0;
use crate::ops::{data, interrupt, simd};
use crate::platform::Platform;

use operands::{number, operands};
use table::integer;

/// Executes one instruction.
pub(crate) type Handler = fn(&mut Cpu, &mut dyn Platform, &Op) -> Result;

/// [`Op::repeat`]: REP or REPE.
pub(crate) const REP: u8 = 1;
/// [`Op::repeat`]: REPNE.
pub(crate) const REPNE: u8 = 2;

/// A decoded instruction, resolved as far as its bytes allow.
#[derive(Clone)]
pub(crate) struct Op {
    pub(crate) handler: Handler,
    /// The displacement of the memory operand; absolute for RIP-relative ones.
    pub(crate) displacement: u64,
    /// The immediate, sign-extended; for branches, the distance from the next instruction.
    pub(crate) immediate: u64,
    /// All ones in the bits that an address has.
    pub(crate) address_mask: u64,
    /// What [`simd::native`] executes.
    pub(crate) native: Option<Rc<NativeOp>>,
    /// Bytes of the instruction.
    pub(crate) len: u8,
    /// Operand size in bytes, where a handler asks.
    pub(crate) size: u8,
    /// Register numbers of operands 0 to 2; [`HIGH_BYTE`] is set for AH to BH. `r2` also holds a condition code.
    pub(crate) r0: u8,
    pub(crate) r1: u8,
    pub(crate) r2: u8,
    pub(crate) base: u8,
    pub(crate) index: u8,
    /// log2 of the index's factor.
    pub(crate) scale: u8,
    pub(crate) segment: u8,
    pub(crate) repeat: u8,
    pub(crate) has_memory: bool,
}

/// Decodes the instructions in `bytes`, which lie at `linear`, up to `most` or to the first that cannot fall through.
/// Empty if not even one is complete.
pub(crate) fn block(
    bytes: &[u8],
    linear: u64,
    code_bits: u8,
    most: usize,
    native: &mut NativeUnit,
) -> Vec<Op> {
    let mut decoder = Decoder::with_ip(u32::from(code_bits), bytes, linear, DecoderOptions::NONE);
    let mut ops = Vec::new();
    let mut instruction = Instruction::default();
    while ops.len() < most && decoder.can_decode() {
        let start = decoder.position();
        decoder.decode_out(&mut instruction);
        if decoder.last_error() == DecoderError::NoMoreBytes {
            break;
        }
        let own = &bytes[start..decoder.position()];
        let op = lower(&instruction, own, code_bits, native);
        ops.push(op);
        if !falls_through(&instruction) {
            break;
        }
    }
    ops
}

/// Whether the next instruction may be the one behind.
pub(crate) fn falls_through(i: &Instruction) -> bool {
    matches!(
        i.flow_control(),
        FlowControl::Next | FlowControl::ConditionalBranch
    )
}

fn lower(i: &Instruction, bytes: &[u8], code_bits: u8, native: &mut NativeUnit) -> Op {
    let mut op = operands(i, code_bits);
    if i.code() == Code::Pause && is_extended_pause(bytes) {
        return exchange_with_r8(op, bytes);
    }
    op.handler = match integer(i, &mut op) {
        Some(handler) => handler,
        None => vector(i, bytes, &mut op, native),
    };
    op
}

/// F3 90 with REX.B is XCHG with R8, which the decoder takes for PAUSE.
fn is_extended_pause(bytes: &[u8]) -> bool {
    matches!(bytes, [.., rex, 0x90] if rex & 0xf1 == 0x41)
}

fn exchange_with_r8(mut op: Op, bytes: &[u8]) -> Op {
    let wide = bytes[bytes.len() - 2] & 8 != 0;
    op.size = if wide {
        8
    } else if bytes.contains(&0x66) {
        2
    } else {
        4
    };
    op.r0 = 8;
    op.handler = wide!(op.size, data::xchg, R0);
    op
}

/// The handler of an x87, MMX or SSE instruction, #UD for everything else.
fn vector(i: &Instruction, bytes: &[u8], op: &mut Op, unit: &mut NativeUnit) -> Handler {
    let Ok(native) = unit.prepare(i) else {
        return interrupt::ud;
    };
    let register = |register: Option<Register>| register.map_or(0, number);
    op.r0 = register(native.gpr_in[0]);
    op.r1 = register(native.gpr_in[1]);
    op.r2 = register(native.gpr_out);
    op.size = native.gpr_out.map_or(0, |register| register.size() as u8);
    op.immediate = u64::from(x87_opcode(bytes));
    op.native = Some(Rc::new(native));
    simd::native
}
