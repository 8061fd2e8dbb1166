//! x87, MMX and SSE instructions: availability, operands and exceptions around what the host executes.

use crate::cpu::{CR0_EM, CR0_MP, CR0_TS, CR4_OSFXSR, CR4_OSXMMEXCPT, Cpu, Mode};
use crate::decode::Op;
use crate::exception::{Exception, GP0, MF, NM, Result, UD, XM};
use crate::native::{NativeClass, NativeMemory, NativeOp, NativeOutcome};
use crate::platform::Platform;
use crate::segment::CS;
use crate::walk::Kind;

pub(crate) fn native(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let native = op
        .native
        .as_deref()
        .expect("decode gives this handler only with a native operation");
    cpu.check_available(native)?;
    if native.waits && cpu.fx.x87_pending() {
        // FERR# and IRQ 13 (CR0.NE clear) are not wired: #MF is raised all the same.
        return Err(MF);
    }
    let linear = cpu.operand_in(p, op, native)?;
    let outcome = cpu.native.execute(native, &mut cpu.fx, &mut cpu.io);
    match outcome {
        NativeOutcome::Done { store } => cpu.operand_out(p, op, native, linear, store),
        NativeOutcome::Pending => Err(MF),
        NativeOutcome::SimdException if cpu.cr4 & CR4_OSXMMEXCPT == 0 => Err(UD),
        NativeOutcome::SimdException => Err(XM),
        NativeOutcome::ReservedMxcsr => Err(GP0),
        NativeOutcome::Stale => {
            // The stubs were thrown away: decode anew and come back, as if this had not been tried.
            cpu.forget_code();
            cpu.next_rip = cpu.rip;
            cpu.ticks = cpu.ticks.wrapping_sub(1);
            Ok(())
        }
    }
}

impl Cpu {
    /// Intel SDM volume 3, table 2-2 and 14.1.
    fn check_available(&self, native: &NativeOp) -> Result {
        let (em, ts) = (self.cr0 & CR0_EM != 0, self.cr0 & CR0_TS != 0);
        let fault: Option<Exception> = match native.class {
            NativeClass::X87 | NativeClass::Fxsr => (em || ts).then_some(NM),
            NativeClass::Wait => (ts && self.cr0 & CR0_MP != 0).then_some(NM),
            NativeClass::Mmx if em => Some(UD),
            NativeClass::Sse if em || self.cr4 & CR4_OSFXSR == 0 => Some(UD),
            NativeClass::Mmx | NativeClass::Sse => ts.then_some(NM),
            NativeClass::Plain => None,
        };
        fault.map_or(Ok(()), Err)
    }

    /// Fills the inputs; returns the linear address of the memory operand.
    fn operand_in(&mut self, p: &mut dyn Platform, op: &Op, native: &NativeOp) -> Result<u64> {
        if native.class == NativeClass::X87 || native.class == NativeClass::Fxsr {
            self.io.fop = op.immediate as u16;
            self.io.fip = self.x87_pointer(CS, self.rip);
            self.io.fdp = if op.has_memory {
                self.x87_pointer(op.segment, self.offset(op))
            } else {
                0
            };
            self.io.real_mode = matches!(self.mode, Mode::Real | Mode::V86);
        }
        self.io.eflags = self.flags;
        for (value, (register, number)) in self
            .io
            .gpr
            .iter_mut()
            .zip(native.gpr_in.iter().zip([op.r0, op.r1]))
        {
            if register.is_some() {
                *value = self.regs[usize::from(number & 15)];
            }
        }
        let (kind, len) = match native.memory {
            NativeMemory::None => return Ok(0),
            NativeMemory::Read(len) => (Kind::Read, usize::from(len)),
            NativeMemory::Touch => (Kind::Read, 1),
            NativeMemory::Write(len) => (Kind::Write, usize::from(len)),
            NativeMemory::Masked(len) => {
                return self.linear(op.segment, self.offset(op), usize::from(len), Kind::Write);
            }
        };
        // Misalignment is #GP before the segment is looked at.
        let offset = self.offset(op);
        let linear = self.base[usize::from(op.segment & 7)].wrapping_add(offset) & self.linear_mask;
        if linear & (u64::from(native.alignment) - 1) != 0 {
            return Err(GP0);
        }
        // FXSAVE and FXRSTOR check more bytes than they use.
        let span = len.max(usize::from(native.span));
        self.linear(op.segment, offset, span, kind)?;
        let targets = self.operand_targets(linear, span, kind, op.segment)?;
        if kind == Kind::Read {
            if len <= 16 {
                let mut bytes = [0; 16];
                self.read_targets(p, targets, linear, &mut bytes[..len]);
                self.io.memory[..16].copy_from_slice(&bytes);
            } else {
                let mut bytes = [0; 512];
                self.read_targets(p, targets, linear, &mut bytes[..len]);
                self.io.memory = bytes;
            }
        }
        Ok(linear)
    }

    fn x87_pointer(&self, segment: u8, offset: u64) -> u64 {
        if self.code_bits == 64 {
            offset
        } else {
            offset & 0xffff_ffff | u64::from(self.seg[usize::from(segment)].selector) << 32
        }
    }

    /// Takes the outputs; memory was checked before the state changed.
    fn operand_out(
        &mut self,
        p: &mut dyn Platform,
        op: &Op,
        native: &NativeOp,
        linear: u64,
        store: bool,
    ) -> Result {
        if native.writes_flags {
            self.flags = self.flags & !crate::flags::STATUS | self.io.eflags & crate::flags::STATUS;
        }
        if native.gpr_out.is_some() {
            let value = self.io.gpr_out;
            match op.size {
                2 => self.set_reg(op.r2, value as u16),
                4 => self.set_reg(op.r2, value as u32),
                _ => self.set_reg(op.r2, value),
            }
        }
        match native.memory {
            NativeMemory::Write(len) if store => {
                let len = usize::from(len);
                if len <= 16 {
                    let bytes: [u8; 16] = self.io.memory[..16].try_into().expect("16 of 512 bytes");
                    self.write_bytes(p, linear, op.segment, &bytes[..len])
                } else {
                    let bytes = self.io.memory;
                    self.write_bytes(p, linear, op.segment, &bytes[..len])
                }
            }
            NativeMemory::Masked(len) => self.store_masked(p, op, linear, len),
            _ => Ok(()),
        }
    }

    fn store_masked(&mut self, p: &mut dyn Platform, op: &Op, linear: u64, len: u16) -> Result {
        let (memory, mask) = (self.io.memory, self.io.byte_mask);
        for n in (0..len).filter(|n| mask >> n & 1 != 0) {
            self.probe(
                linear.wrapping_add(u64::from(n)) & self.linear_mask,
                1,
                Kind::Write,
                op.segment,
            )?;
        }
        for n in (0..len).filter(|n| mask >> n & 1 != 0) {
            let at = linear.wrapping_add(u64::from(n)) & self.linear_mask;
            self.write_linear(p, at, op.segment, memory[usize::from(n)])?;
        }
        Ok(())
    }
}
