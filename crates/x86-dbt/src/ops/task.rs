//! Task switches. Intel SDM volume 3, chapter 7.

use super::selector::{code_of, is_null, rpl, v86_segment};
use crate::cpu::{CR0_PG, CR0_TS, Cpu, DR6_TASK_SWITCH, EVENT_BREAK, EVENT_POLL, EVENT_TRAP};
use crate::exception::{Exception, Result, gp, np, ss, ts};
use crate::flags::{self, NT, VM};
use crate::platform::Platform;
use crate::segment::{
    CS, DS, Descriptor, ES, FS, GS, LDT, PRESENT, SS, Segment, TSS16_AVAILABLE, TSS16_BUSY,
    TSS32_AVAILABLE, TSS32_BUSY,
};

/// What causes a task switch: it decides about the busy bits and the back link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    Jump,
    /// CALL, an interrupt or an exception: the new task is nested.
    Call,
    /// IRET with NT.
    Return,
}

/// The registers a TSS holds.
#[derive(Default)]
struct Image {
    cr3: Option<u64>,
    rip: u64,
    flags: u64,
    regs: [u64; 8],
    /// In encoding order.
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

/// The busy bit in a TSS descriptor's type.
const BUSY: u64 = 1 << 41;

impl Cpu {
    /// Switches to the task of TSS `selector`; the old task resumes at `next_rip`.
    pub(crate) fn switch_task(
        &mut self,
        p: &mut dyn Platform,
        selector: u16,
        switch: Switch,
    ) -> Result {
        let fault: fn(u16) -> Exception = if switch == Switch::Return { ts } else { gp };
        let descriptor = self.available_tss(p, selector, switch, fault)?;
        let new = Segment {
            selector,
            ..descriptor.segment(selector)
        };
        let wide = descriptor.kind() & 8 != 0;
        let image = self.read_tss(p, new, wide)?;
        self.save_task(p, switch)?;
        if switch != Switch::Return {
            let at = self
                .descriptor_address(selector, 8)
                .ok_or_else(|| fault(code_of(selector)))?;
            self.write_system(p, at, descriptor.0 | BUSY)?;
        }
        if switch == Switch::Call {
            self.write_system(p, new.base, self.tr.selector)?;
        }
        self.tr = new;
        self.tr.attributes |= 2;
        self.task_entered = true;
        self.load_task(p, &image, switch)?;
        self.task_entered = false;
        Ok(())
    }

    fn available_tss(
        &mut self,
        p: &mut dyn Platform,
        selector: u16,
        switch: Switch,
        fault: fn(u16) -> Exception,
    ) -> Result<Descriptor> {
        if is_null(selector) || selector & 4 != 0 {
            return Err(fault(code_of(selector)));
        }
        let descriptor = self.descriptor(p, selector, fault)?;
        let wanted = if switch == Switch::Return {
            [TSS16_BUSY, TSS32_BUSY]
        } else {
            [TSS16_AVAILABLE, TSS32_AVAILABLE]
        };
        if !descriptor.is_system() || !wanted.contains(&descriptor.kind()) {
            return Err(fault(code_of(selector)));
        }
        if !descriptor.is_present() {
            return Err(np(code_of(selector)));
        }
        let needed = if descriptor.kind() & 8 != 0 {
            0x67
        } else {
            0x2b
        };
        if descriptor.limit() < needed {
            Err(ts(code_of(selector)))
        } else {
            Ok(descriptor)
        }
    }

    fn read_tss(&mut self, p: &mut dyn Platform, tss: Segment, wide: bool) -> Result<Image> {
        let mut image = Image::default();
        let at = |offset: u64| tss.base.wrapping_add(offset);
        if wide {
            image.cr3 = Some(u64::from(self.read_system::<u32>(p, at(0x1c))?));
            image.rip = u64::from(self.read_system::<u32>(p, at(0x20))?);
            image.flags = u64::from(self.read_system::<u32>(p, at(0x24))?);
            for (n, register) in (0..).zip(&mut image.regs) {
                *register = u64::from(self.read_system::<u32>(p, at(0x28 + 4 * n))?);
            }
            for (n, selector) in (0..).zip(&mut image.selectors) {
                *selector = self.read_system(p, at(0x48 + 4 * n))?;
            }
            image.ldt = self.read_system(p, at(0x60))?;
            image.trap = self.read_system::<u16>(p, at(0x64))? & 1 != 0;
        } else {
            image.rip = u64::from(self.read_system::<u16>(p, at(0x0e))?);
            image.flags = u64::from(self.read_system::<u16>(p, at(0x10))?);
            for (n, register) in (0..).zip(&mut image.regs) {
                *register = u64::from(self.read_system::<u16>(p, at(0x12 + 2 * n))?);
            }
            for (n, selector) in (0..4).zip(&mut image.selectors) {
                *selector = self.read_system(p, at(0x22 + 2 * n))?;
            }
            image.ldt = self.read_system(p, at(0x2a))?;
        }
        Ok(image)
    }

    fn save_task(&mut self, p: &mut dyn Platform, switch: Switch) -> Result {
        let (base, wide) = (self.tr.base, self.tr.attributes & 8 != 0);
        let saved_flags = if switch == Switch::Return {
            self.flags & !NT
        } else {
            self.flags
        };
        let at = |offset: u64| base.wrapping_add(offset);
        if wide {
            self.write_system(p, at(0x20), self.next_rip as u32)?;
            self.write_system(p, at(0x24), saved_flags as u32)?;
            for n in 0..8 {
                self.write_system(p, at(0x28 + 4 * n), self.regs[n as usize] as u32)?;
            }
            for n in 0..6 {
                self.write_system(p, at(0x48 + 4 * n), self.seg[n as usize].selector)?;
            }
        } else {
            self.write_system(p, at(0x0e), self.next_rip as u16)?;
            self.write_system(p, at(0x10), saved_flags as u16)?;
            for n in 0..8 {
                self.write_system(p, at(0x12 + 2 * n), self.regs[n as usize] as u16)?;
            }
            for n in 0..4 {
                self.write_system(p, at(0x22 + 2 * n), self.seg[n as usize].selector)?;
            }
        }
        if switch != Switch::Call
            && let Some(at) = self.descriptor_address(self.tr.selector, 8)
        {
            let descriptor: u64 = self.read_system(p, at)?;
            self.write_system(p, at, descriptor & !BUSY)?;
        }
        Ok(())
    }

    /// Past the commit point: faults from here on are the new task's.
    fn load_task(&mut self, p: &mut dyn Platform, image: &Image, switch: Switch) -> Result {
        let paging = self.cr0 & CR0_PG != 0;
        if let Some(cr3) = image.cr3.filter(|_| paging) {
            self.load_cr3(cr3)?;
        }
        self.cr0 |= CR0_TS;
        self.regs[..8].copy_from_slice(&image.regs);
        let nested = if switch == Switch::Call { NT } else { 0 };
        self.flags = image.flags & flags::DEFINED | flags::FIXED | nested;
        self.next_rip = image.rip;
        self.dr[7] &= !0x155;
        self.ldtr = Segment {
            selector: image.ldt,
            ..Segment::default()
        };
        for (segment, &selector) in self.seg.iter_mut().zip(&image.selectors) {
            *segment = Segment {
                selector,
                ..Segment::default()
            };
        }
        self.load_task_ldt(p, image.ldt)?;
        self.load_task_segments(p, image)?;
        if image.trap {
            self.note_debug_condition(DR6_TASK_SWITCH);
            self.events |= EVENT_TRAP;
        }
        self.events |= EVENT_BREAK | EVENT_POLL;
        if self.next_rip > u64::from(self.seg[usize::from(CS)].limit) {
            return Err(crate::exception::GP0);
        }
        Ok(())
    }

    fn load_task_ldt(&mut self, p: &mut dyn Platform, selector: u16) -> Result {
        if is_null(selector) {
            return Ok(());
        }
        let fault = ts(code_of(selector));
        if selector & 4 != 0 {
            return Err(fault);
        }
        let descriptor = self.descriptor(p, selector, ts)?;
        if !descriptor.is_system() || descriptor.kind() != LDT || !descriptor.is_present() {
            return Err(fault);
        }
        self.ldtr = descriptor.segment(selector);
        Ok(())
    }

    fn load_task_segments(&mut self, p: &mut dyn Platform, image: &Image) -> Result {
        if self.flags & VM != 0 {
            self.cpl = 3;
            for (segment, &selector) in self.seg.iter_mut().zip(&image.selectors) {
                *segment = v86_segment(selector);
            }
            self.mode_changed();
            return Ok(());
        }
        let cs = image.selectors[usize::from(CS)];
        self.cpl = rpl(cs);
        let code = self.task_segment(p, cs, |segment, cpl| {
            segment.is_code()
                && if segment.is_conforming() {
                    segment.dpl() <= cpl
                } else {
                    segment.dpl() == cpl
                }
        })?;
        let stack_selector = image.selectors[usize::from(SS)];
        let stack = self.task_segment(p, stack_selector, |segment, cpl| {
            segment.is_writable() && segment.dpl() == cpl
        });
        let stack = stack.map_err(|fault| match fault.vector {
            crate::exception::Vector::SegmentNotPresent => ss(code_of(stack_selector)),
            _ => fault,
        })?;
        self.seg[usize::from(CS)] = code;
        self.seg[usize::from(SS)] = stack;
        self.mode_changed();
        for number in [ES, DS, FS, GS] {
            let selector = image.selectors[usize::from(number)];
            if !is_null(selector) {
                self.seg[usize::from(number)] =
                    self.task_segment(p, selector, |segment, cpl| {
                        segment.is_readable()
                            && (segment.is_conforming() || segment.dpl() >= cpl.max(rpl(selector)))
                    })?;
            }
        }
        self.segments_changed();
        Ok(())
    }

    fn task_segment(
        &mut self,
        p: &mut dyn Platform,
        selector: u16,
        allowed: impl Fn(Segment, u8) -> bool,
    ) -> Result<Segment> {
        if is_null(selector) {
            return Err(ts(code_of(selector)));
        }
        let mut descriptor = self.descriptor(p, selector, ts)?;
        if !allowed(descriptor.segment(selector), self.cpl) {
            return Err(ts(code_of(selector)));
        }
        if !descriptor.is_present() {
            return Err(np(code_of(selector)));
        }
        self.mark_accessed(p, selector, &mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// LTR.
    pub(crate) fn load_task_register(&mut self, p: &mut dyn Platform, selector: u16) -> Result {
        if is_null(selector) || selector & 4 != 0 {
            return Err(gp(code_of(selector)));
        }
        let descriptor = self.descriptor(p, selector, gp)?;
        let known = matches!(descriptor.kind(), TSS16_AVAILABLE | TSS32_AVAILABLE);
        if !descriptor.is_system()
            || !known
            || self.is_long() && descriptor.kind() != TSS32_AVAILABLE
        {
            return Err(gp(code_of(selector)));
        }
        if !descriptor.is_present() {
            return Err(np(code_of(selector)));
        }
        let mut segment = descriptor.segment(selector);
        if self.is_long() {
            segment.base |= self.high_half(p, selector)? << 32;
            if !self.is_canonical_base(segment.base) {
                return Err(gp(code_of(selector)));
            }
        }
        let at = self
            .descriptor_address(selector, 8)
            .ok_or_else(|| gp(code_of(selector)))?;
        self.write_system(p, at, descriptor.0 | BUSY)?;
        segment.attributes |= 2;
        self.tr = segment;
        Ok(())
    }

    /// LLDT.
    pub(crate) fn load_ldt_register(&mut self, p: &mut dyn Platform, selector: u16) -> Result {
        if is_null(selector) {
            self.ldtr = Segment {
                selector,
                ..Segment::default()
            };
            return Ok(());
        }
        let descriptor = if selector & 4 == 0 {
            self.descriptor(p, selector, gp)?
        } else {
            return Err(gp(code_of(selector)));
        };
        if !descriptor.is_system() || descriptor.kind() != LDT {
            return Err(gp(code_of(selector)));
        }
        if !descriptor.is_present() {
            return Err(np(code_of(selector)));
        }
        let mut segment = descriptor.segment(selector);
        if self.is_long() {
            segment.base |= self.high_half(p, selector)? << 32;
            if !self.is_canonical_base(segment.base) {
                return Err(gp(code_of(selector)));
            }
        }
        segment.attributes |= PRESENT;
        self.ldtr = segment;
        Ok(())
    }
}
