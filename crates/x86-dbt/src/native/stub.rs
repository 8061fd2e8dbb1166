//! Assembles the host code around one guest instruction.
//!
//! Register convention inside a stub: RDI is the [`NativeIo`], so `[rdi]` is the memory operand. An XMM stub has
//! the instruction's first and second XMM operand at RSI and RDX (held in XMM1 and XMM2) and the guest's XMM0
//! at RCX; an FX stub has the whole state at RSI.

use core::mem::offset_of;

use iced_x86::code_asm::{
    AsmMemoryOperand, CodeAssembler, dword_ptr, ptr, qword_ptr, rax, rcx, rdi, rdx, rsi, word_ptr,
    xmm0, xmm1, xmm2, xmmword_ptr,
};
use iced_x86::{IcedError, Instruction, OpKind, Register};

use super::io::NativeIo;

/// The parts of a stub that depend on the instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The instruction with its operands moved to where the stub has them.
    pub(super) moved: Instruction,
    /// How many XMM operands are named.
    pub(super) xmm_count: usize,
    /// Whether the first XMM operand is written.
    pub(super) writes_first: bool,
    /// XMM0 is an implicit operand, and whether it is written.
    pub(super) implicit_xmm0: Option<Access>,
    /// How many general registers are read.
    pub(super) gpr_in: usize,
    /// The general register that is written, in its stub position.
    pub(super) gpr_out: Option<Register>,
    pub(super) reads_flags: bool,
    pub(super) writes_flags: bool,
    pub(super) mxcsr: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Assembles a stub that touches only the XMM registers that the instruction names.
pub(super) fn xmm_stub(plan: &Plan) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    if plan.xmm_count > 0 {
        a.movups(xmm1, xmmword_ptr(rsi))?;
    }
    if plan.xmm_count > 1 {
        a.movups(xmm2, xmmword_ptr(rdx))?;
    }
    if plan.implicit_xmm0 == Some(Access::Read) {
        a.movups(xmm0, xmmword_ptr(rcx))?;
    }
    load_gprs(&mut a, plan)?;
    if plan.mxcsr {
        a.stmxcsr(dword_ptr(field(offset_of!(NativeIo, host_mxcsr))))?;
        a.ldmxcsr(dword_ptr(field(offset_of!(NativeIo, mxcsr))))?;
    }
    a.add_instruction(plan.moved)?;
    if plan.mxcsr {
        a.stmxcsr(dword_ptr(field(offset_of!(NativeIo, mxcsr))))?;
        a.ldmxcsr(dword_ptr(field(offset_of!(NativeIo, host_mxcsr))))?;
    }
    store_flags(&mut a, plan)?;
    store_gpr(&mut a, plan)?;
    if plan.implicit_xmm0 == Some(Access::Write) {
        a.movups(xmmword_ptr(rcx), xmm0)?;
    }
    if plan.writes_first {
        a.movups(xmmword_ptr(rsi), xmm1)?;
    }
    a.ret()?;
    a.assemble(0)
}

/// Assembles a stub that runs the instruction on the guest's whole x87, MMX and SSE state.
pub(super) fn fx_stub(plan: &Plan) -> Result<Vec<u8>, IcedError> {
    let host_fcw = || word_ptr(field(offset_of!(NativeIo, host_fcw)));
    let host_mxcsr = || dword_ptr(field(offset_of!(NativeIo, host_mxcsr)));
    let mut a = CodeAssembler::new(64)?;
    a.fnstcw(host_fcw())?;
    a.stmxcsr(host_mxcsr())?;
    load_gprs(&mut a, plan)?;
    a.fxrstor64(ptr(rsi))?;
    if plan.reads_flags || plan.writes_flags {
        a.push(qword_ptr(field(offset_of!(NativeIo, flags))))?;
        a.popfq()?;
    }
    a.add_instruction(plan.moved)?;
    store_flags(&mut a, plan)?;
    a.fxsave64(ptr(rsi))?;
    store_gpr(&mut a, plan)?;
    // FNINIT first: it drops a pending exception, which FLDCW would otherwise report to the host.
    a.fninit()?;
    a.fldcw(host_fcw())?;
    a.ldmxcsr(host_mxcsr())?;
    a.ret()?;
    a.assemble(0)
}

/// Moves the memory operand to `[rdi]`, and drops what only mattered to the guest's address computation.
pub(super) fn move_memory(instruction: &mut Instruction) {
    if (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory) {
        instruction.set_memory_base(Register::RDI);
        instruction.set_memory_index(Register::None);
        instruction.set_memory_index_scale(1);
        instruction.set_memory_displacement64(0);
        instruction.set_memory_displ_size(0);
    }
    instruction.set_segment_prefix(Register::None);
    instruction.set_has_rep_prefix(false);
    instruction.set_has_repne_prefix(false);
}

fn load_gprs(a: &mut CodeAssembler, plan: &Plan) -> Result<(), IcedError> {
    if plan.gpr_in > 0 {
        a.mov(rax, qword_ptr(field(offset_of!(NativeIo, gpr))))?;
    }
    if plan.gpr_in > 1 {
        a.mov(rdx, qword_ptr(field(offset_of!(NativeIo, gpr) + 8)))?;
    }
    Ok(())
}

fn store_gpr(a: &mut CodeAssembler, plan: &Plan) -> Result<(), IcedError> {
    let out = || qword_ptr(field(offset_of!(NativeIo, gpr_out)));
    match plan.gpr_out {
        Some(Register::RCX | Register::ECX) => a.mov(out(), rcx),
        Some(_) => a.mov(out(), rax),
        None => Ok(()),
    }
}

fn store_flags(a: &mut CodeAssembler, plan: &Plan) -> Result<(), IcedError> {
    if plan.writes_flags {
        a.pushfq()?;
        a.pop(qword_ptr(field(offset_of!(NativeIo, flags))))?;
    }
    Ok(())
}

fn field(offset: usize) -> AsmMemoryOperand {
    rdi + offset
}
