//! Far transfers: JMP, CALL and RET between segments, through call gates and to tasks.
//! Intel SDM volume 3, 5.8; volume 2, CALL, JMP, RET.

use super::selector::{code_of, is_null, null_stack, rpl};
use super::task::Switch;
use crate::alu::Width;
use crate::cpu::{Cpu, EVENT_BREAK, EVENT_POLL};
use crate::cpuid::Vendor;
use crate::decode::Op;
use crate::exception::{GP0, Result, SS0, gp, np, ss, ts};
use crate::platform::Platform;
use crate::segment::{
    BIG, CALL_GATE16, CALL_GATE32, CS, Descriptor, LONG, SS, Segment, TASK_GATE, TSS16_AVAILABLE,
    TSS32_AVAILABLE,
};
use crate::walk::Kind;

/// An operand size in bytes, 2, 4 or 8, as a value.
pub(crate) type Size = u8;

/// What a failed transfer must put back.
struct Saved {
    seg: [Segment; 6],
    sp: u64,
    cpl: u8,
    flags: u64,
    next_rip: u64,
}

impl Cpu {
    /// Runs a transfer; when it faults, stack, segments, privilege and flags are as before.
    pub(crate) fn attempt<R>(
        &mut self,
        transfer: impl FnOnce(&mut Self) -> Result<R>,
    ) -> Result<R> {
        let saved = Saved {
            seg: self.seg,
            sp: self.regs[4],
            cpl: self.cpl,
            flags: self.flags,
            next_rip: self.next_rip,
        };
        let result = transfer(self);
        if result.is_err() && std::mem::take(&mut self.task_entered) {
            // Past a task switch's commit point the fault is the new task's, at its first instruction.
            self.rip = self.next_rip;
            self.mode_changed();
        } else if result.is_err() {
            self.seg = saved.seg;
            self.regs[4] = saved.sp;
            self.cpl = saved.cpl;
            self.flags = saved.flags;
            self.next_rip = saved.next_rip;
            self.mode_changed();
        }
        result
    }

    /// Enters the code segment `cs`, already checked, at `offset`; the new CPL is its RPL.
    pub(crate) fn enter_code(&mut self, cs: Segment, offset: u64) -> Result {
        let to_64_bit = self.is_long() && cs.has(LONG);
        let allowed = if to_64_bit {
            self.is_canonical(offset)
        } else {
            offset <= u64::from(cs.limit)
        };
        if !allowed {
            return Err(GP0);
        }
        self.cpl = rpl(cs.selector);
        self.seg[usize::from(CS)] = cs;
        self.next_rip = offset;
        self.events |= EVENT_BREAK | EVENT_POLL;
        self.mode_changed();
        Ok(())
    }

    /// A far transfer in real or virtual-8086 mode.
    pub(crate) fn enter_real_code(&mut self, selector: u16, offset: u64) -> Result {
        if offset > u64::from(self.seg[usize::from(CS)].limit) {
            return Err(GP0);
        }
        let segment = self.real_segment(CS, selector);
        self.set_segment(CS, segment);
        self.next_rip = offset;
        Ok(())
    }

    /// Pushes a value of the operand size.
    pub(crate) fn push_sized(&mut self, p: &mut dyn Platform, size: Size, value: u64) -> Result {
        match size {
            2 => self.push(p, value as u16),
            4 => self.push(p, value as u32),
            _ => self.push(p, value),
        }
    }

    pub(crate) fn peek_sized(
        &mut self,
        p: &mut dyn Platform,
        size: Size,
        slot: u64,
    ) -> Result<u64> {
        Ok(match size {
            2 => u64::from(self.peek::<u16>(p, slot)?),
            4 => u64::from(self.peek::<u32>(p, slot)?),
            _ => self.peek(p, slot)?,
        })
    }

    fn peek_at(&mut self, size: Size, offset: u64) -> Result {
        let offset = offset & self.stack_mask;
        let linear = self.linear(SS, offset, usize::from(size), Kind::Read)?;
        self.probe(linear, usize::from(size), Kind::Read, SS)
    }

    fn far_transfer(
        &mut self,
        p: &mut dyn Platform,
        selector: u16,
        offset: u64,
        size: Size,
        call: bool,
    ) -> Result {
        if !self.is_protected() {
            let back = (u64::from(self.seg[usize::from(CS)].selector), self.next_rip);
            if call {
                self.push_sized(p, size, back.0)?;
                self.push_sized(p, size, back.1)?;
            }
            return self.enter_real_code(selector, offset);
        }
        if is_null(selector) {
            return Err(GP0);
        }
        let descriptor = self.descriptor(p, selector, gp)?;
        if !descriptor.is_system() {
            return self.transfer_to_code(p, selector, descriptor, offset, size, call);
        }
        match descriptor.kind() {
            CALL_GATE32 => self.transfer_through_gate(p, selector, descriptor, call),
            CALL_GATE16 if !self.is_long() => {
                self.transfer_through_gate(p, selector, descriptor, call)
            }
            TSS16_AVAILABLE | TSS32_AVAILABLE if !self.is_long() => {
                self.check_gate_privilege(selector, descriptor)?;
                self.switch_task(p, selector, if call { Switch::Call } else { Switch::Jump })
            }
            TASK_GATE if !self.is_long() => {
                self.check_gate_privilege(selector, descriptor)?;
                let tss = descriptor.gate_selector();
                self.switch_task(p, tss, if call { Switch::Call } else { Switch::Jump })
            }
            _ => Err(gp(code_of(selector))),
        }
    }

    fn check_gate_privilege(&self, selector: u16, gate: Descriptor) -> Result {
        if gate.dpl() < self.cpl.max(rpl(selector)) {
            return Err(gp(code_of(selector)));
        }
        if gate.is_present() {
            Ok(())
        } else {
            Err(np(code_of(selector)))
        }
    }

    fn transfer_to_code(
        &mut self,
        p: &mut dyn Platform,
        selector: u16,
        mut descriptor: Descriptor,
        offset: u64,
        size: Size,
        call: bool,
    ) -> Result {
        let segment = descriptor.segment(selector);
        let allowed = if segment.is_conforming() {
            segment.dpl() <= self.cpl
        } else {
            segment.dpl() == self.cpl && rpl(selector) <= self.cpl
        };
        if !segment.is_code() || !allowed || self.has_bad_size(segment) {
            return Err(gp(code_of(selector)));
        }
        if !descriptor.is_present() {
            return Err(np(code_of(selector)));
        }
        let back = (u64::from(self.seg[usize::from(CS)].selector), self.next_rip);
        if call && self.is_long() && segment.has(LONG) {
            // The stack is already that of 64-bit code.
            self.set_segment(CS, segment);
        }
        if call {
            self.push_sized(p, size, back.0)?;
            self.push_sized(p, size, back.1)?;
        }
        self.mark_accessed(p, selector, &mut descriptor)?;
        let selector = selector & !3 | u16::from(self.cpl);
        self.enter_code(descriptor.segment(selector), offset)
    }

    /// In long mode, L and D together are reserved.
    pub(crate) fn has_bad_size(&self, segment: Segment) -> bool {
        self.is_long() && segment.has(LONG | BIG)
    }

    fn transfer_through_gate(
        &mut self,
        p: &mut dyn Platform,
        selector: u16,
        gate: Descriptor,
        call: bool,
    ) -> Result {
        self.check_gate_privilege(selector, gate)?;
        let long = self.is_long();
        let mut offset = gate.gate_offset();
        if long {
            offset |= self.high_half(p, selector)? << 32;
        }
        let size: Size = match (long, gate.kind()) {
            (true, _) => 8,
            (_, CALL_GATE32) => 4,
            _ => 2,
        };
        if size == 2 {
            offset &= 0xffff;
        }
        let target = gate.gate_selector();
        if is_null(target) {
            return Err(GP0);
        }
        let mut descriptor = self.descriptor(p, target, gp)?;
        let segment = descriptor.segment(target);
        let inward = !segment.is_conforming() && segment.dpl() < self.cpl;
        let wrong_size = long && (!segment.has(LONG) || segment.has(BIG));
        let outward = segment.dpl() > self.cpl || !call && inward;
        if !segment.is_code() || outward || wrong_size {
            return Err(gp(code_of(target)));
        }
        if !descriptor.is_present() {
            return Err(np(code_of(target)));
        }
        self.mark_accessed(p, target, &mut descriptor)?;
        let back = (u64::from(self.seg[usize::from(CS)].selector), self.next_rip);
        let new_cpl = if inward { segment.dpl() } else { self.cpl };
        if call && inward {
            self.switch_to_inner_stack(p, new_cpl, size, gate.gate_parameters())?;
        }
        if call {
            self.push_sized(p, size, back.0)?;
            self.push_sized(p, size, back.1)?;
        }
        self.enter_code(descriptor.segment(target & !3 | u16::from(new_cpl)), offset)
    }

    /// The upper 32 bits of a 16-byte descriptor; its type field, bits 12:8 of the last word, must be zero.
    pub(crate) fn high_half(&mut self, p: &mut dyn Platform, selector: u16) -> Result<u64> {
        let fault = gp(code_of(selector));
        let at = self.descriptor_address(selector, 16).ok_or(fault)?;
        let high: u64 = self.read_system(p, at.wrapping_add(8))?;
        if high >> 40 & 0x1f != 0 {
            Err(fault)
        } else {
            Ok(high & 0xffff_ffff)
        }
    }

    /// CALL through a gate to an inner ring: its stack, with the old one's pointer and `parameters` on it.
    fn switch_to_inner_stack(
        &mut self,
        p: &mut dyn Platform,
        cpl: u8,
        size: Size,
        parameters: u8,
    ) -> Result {
        let old = (self.seg[usize::from(SS)].selector, self.regs[4]);
        let mut copied = [0; 31];
        let count = if size == 8 {
            0
        } else {
            usize::from(parameters)
        };
        for (slot, value) in (0..).zip(&mut copied[..count]) {
            *value = self.peek_sized(p, size, slot)?;
        }
        self.load_inner_stack(p, cpl, 0)?;
        self.push_sized(p, size, u64::from(old.0))?;
        self.push_sized(p, size, old.1)?;
        for &value in copied[..count].iter().rev() {
            self.push_sized(p, size, value)?;
        }
        Ok(())
    }

    /// Takes SS:rSP of ring `cpl` from the TSS and enters that ring for what is pushed next.
    /// `external` is the EXT bit of error codes.
    pub(crate) fn load_inner_stack(
        &mut self,
        p: &mut dyn Platform,
        cpl: u8,
        external: u16,
    ) -> Result {
        if self.is_long() {
            let sp = self.tss_u64(p, 4 + 8 * u64::from(cpl), external)?;
            self.set_inner_stack(null_stack(u16::from(cpl)), sp, cpl);
            return if self.is_canonical(sp) {
                Ok(())
            } else {
                Err(SS0)
            };
        }
        let fault = ts(code_of(self.tr.selector) | external);
        let wide = self.tr.attributes & 8 != 0;
        let (at, len) = if wide {
            (4 + 8 * u64::from(cpl), 8)
        } else {
            (2 + 4 * u64::from(cpl), 4)
        };
        if at + len - 1 > u64::from(self.tr.limit) {
            return Err(fault);
        }
        let at = self.tr.base.wrapping_add(at);
        let (sp, selector): (u64, u16) = if wide {
            (
                u64::from(self.read_system::<u32>(p, at)?),
                self.read_system(p, at + 4)?,
            )
        } else {
            (
                u64::from(self.read_system::<u16>(p, at)?),
                self.read_system(p, at + 2)?,
            )
        };
        let segment = self.checked_inner_stack(p, selector, cpl, external)?;
        self.set_inner_stack(segment, sp, cpl);
        Ok(())
    }

    fn set_inner_stack(&mut self, segment: Segment, sp: u64, cpl: u8) {
        self.seg[usize::from(SS)] = segment;
        self.cpl = cpl;
        // In long mode the pushes that follow are 64-bit, whatever code was interrupted.
        if self.is_long() {
            self.seg[usize::from(CS)].attributes |= LONG;
            self.seg[usize::from(CS)].attributes &= !BIG;
        }
        self.flags &= !crate::flags::VM;
        self.mode_changed();
        self.set_stack_pointer(sp);
    }

    fn checked_inner_stack(
        &mut self,
        p: &mut dyn Platform,
        selector: u16,
        cpl: u8,
        external: u16,
    ) -> Result<Segment> {
        let fault = ts(code_of(selector) | external);
        if is_null(selector) {
            return Err(ts(external));
        }
        let at = self.descriptor_address(selector, 8).ok_or(fault)?;
        let mut descriptor = Descriptor(self.read_system(p, at)?);
        let segment = descriptor.segment(selector);
        if rpl(selector) != cpl || segment.dpl() != cpl || !segment.is_writable() {
            return Err(fault);
        }
        if !descriptor.is_present() {
            return Err(ss(code_of(selector) | external));
        }
        self.mark_accessed(p, selector, &mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// A quadword of the 64-bit TSS.
    pub(crate) fn tss_u64(&mut self, p: &mut dyn Platform, at: u64, external: u16) -> Result<u64> {
        if at + 7 > u64::from(self.tr.limit) {
            return Err(ts(code_of(self.tr.selector) | external));
        }
        self.read_system(p, self.tr.base.wrapping_add(at))
    }

    /// The code segment that RETF or IRET returns to, checked. Intel SDM volume 2, RET and IRET.
    pub(crate) fn return_segment(
        &mut self,
        p: &mut dyn Platform,
        selector: u16,
    ) -> Result<Segment> {
        if is_null(selector) {
            return Err(GP0);
        }
        let mut descriptor = self.descriptor(p, selector, gp)?;
        let segment = descriptor.segment(selector);
        let allowed = if segment.is_conforming() {
            segment.dpl() <= rpl(selector)
        } else {
            segment.dpl() == rpl(selector)
        };
        if rpl(selector) < self.cpl || !segment.is_code() || !allowed || self.has_bad_size(segment)
        {
            return Err(gp(code_of(selector)));
        }
        if !descriptor.is_present() {
            return Err(np(code_of(selector)));
        }
        self.mark_accessed(p, selector, &mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// The stack segment that a return to `cs` in ring `rpl(cs)` restores, checked.
    pub(crate) fn return_stack(
        &mut self,
        p: &mut dyn Platform,
        selector: u16,
        cs: Segment,
    ) -> Result<Segment> {
        let ring = rpl(cs.selector);
        if is_null(selector) {
            let usable = self.is_long() && cs.has(LONG) && ring != 3 && rpl(selector) == ring;
            return if usable {
                Ok(null_stack(selector))
            } else {
                Err(GP0)
            };
        }
        let mut descriptor = self.descriptor(p, selector, gp)?;
        let segment = descriptor.segment(selector);
        if rpl(selector) != ring || !segment.is_writable() || segment.dpl() != ring {
            return Err(gp(code_of(selector)));
        }
        if !descriptor.is_present() {
            return Err(ss(code_of(selector)));
        }
        self.mark_accessed(p, selector, &mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    fn far_return(&mut self, p: &mut dyn Platform, size: Size, release: u64) -> Result {
        // CS is read before the offset: seen in which of two page faults comes first.
        let selector = self.peek_sized(p, size, 1)? as u16;
        let offset = self.peek_sized(p, size, 0)?;
        let popped = 2 * u64::from(size) + release;
        if !self.is_protected() {
            self.enter_real_code(selector, offset)?;
            self.set_stack_pointer(self.stack_pointer().wrapping_add(popped));
            return Ok(());
        }
        let outer = self.stack_pointer().wrapping_add(popped) & self.stack_mask;
        if rpl(selector) != self.cpl {
            // Processors read the outer SS, then rSP, before they look at CS: a page fault there comes first.
            self.peek_at(size, outer.wrapping_add(u64::from(size)))?;
            self.peek_at(size, outer)?;
        }
        let cs = self.return_segment(p, selector)?;
        if rpl(selector) == self.cpl {
            let top = self.stack_pointer().wrapping_add(popped);
            self.set_stack_pointer(top);
            return self.enter_code(cs, offset);
        }
        self.set_stack_pointer(outer);
        let sp = self.peek_sized(p, size, 0)?;
        let stack = self.peek_sized(p, size, 1)? as u16;
        let stack = self.return_stack(p, stack, cs)?;
        self.enter_code(cs, offset)?;
        self.set_segment(SS, stack);
        self.set_stack_pointer(sp.wrapping_add(release));
        self.drop_inner_segments();
        Ok(())
    }
}

/// JMP and CALL (`CALL`) ptr16:16 and ptr16:32: the offset is the immediate, the selector bits 63:32 above it.
pub(crate) fn far_direct<T: Width, const CALL: bool>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    let (selector, offset) = ((op.immediate >> 32) as u16, op.immediate & 0xffff_ffff);
    cpu.attempt(|cpu| cpu.far_transfer(p, selector, offset, T::BYTES as Size, CALL))
}

/// JMP and CALL m16:16, m16:32 and m16:64.
pub(crate) fn far_indirect<T: Width, const CALL: bool>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    if T::BYTES == 8 && cpu.cpuid.vendor() == Vendor::Amd {
        // AMD ignores REX.W here (APM volume 3, CALL and JMP).
        return far_indirect::<u32, CALL>(cpu, p, op);
    }
    let at = cpu.offset(op);
    let offset: T = cpu.read(p, op.segment, at)?;
    let selector: u16 = cpu.read(
        p,
        op.segment,
        at.wrapping_add(T::BYTES as u64) & op.address_mask,
    )?;
    cpu.attempt(|cpu| cpu.far_transfer(p, selector, offset.to_u64(), T::BYTES as Size, CALL))
}

pub(crate) fn retf<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    cpu.attempt(|cpu| cpu.far_return(p, T::BYTES as Size, op.immediate))
}
