//! IRET. Intel SDM volume 2, IRET/IRETD/IRETQ.

use super::far::Size;
use super::selector::{rpl, v86_segment};
use super::task::Switch;
use crate::alu::Width;
use crate::cpu::{CR4_VME, Cpu, EVENT_BREAK, EVENT_POLL, Mode};
use crate::decode::Op;
use crate::exception::{GP0, Result};
use crate::flags::{self, AC, DF, ID, IF, IOPL, NT, RF, STATUS, TF, VIF, VIP, VM};
use crate::platform::Platform;
use crate::segment::{CS, DS, ES, FS, GS, SS};

pub(crate) fn iret<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    let size = T::BYTES as Size;
    cpu.attempt(|cpu| match cpu.mode {
        Mode::Real => cpu.iret_real(p, size),
        Mode::V86 => cpu.iret_v86(p, size),
        _ if cpu.flags & NT != 0 => {
            if cpu.is_long() {
                Err(GP0)
            } else {
                cpu.task_return(p)
            }
        }
        _ => cpu.iret_protected(p, size),
    })?;
    cpu.nmi_blocked = false;
    cpu.events |= EVENT_BREAK | EVENT_POLL;
    Ok(())
}

/// What every IRET restores, by operand size.
fn base_mask(size: Size) -> u64 {
    let wide = if size > 2 { RF | AC | ID } else { 0 };
    STATUS | TF | DF | NT | wide
}

impl Cpu {
    /// IP, CS and FLAGS from the stack.
    fn return_frame(&mut self, p: &mut dyn Platform, size: Size) -> Result<(u64, u16, u64)> {
        // The order shows in which of two page faults comes first.
        let image = self.peek_sized(p, size, 2)?;
        let selector = self.peek_sized(p, size, 1)? as u16;
        Ok((self.peek_sized(p, size, 0)?, selector, image))
    }

    fn iret_real(&mut self, p: &mut dyn Platform, size: Size) -> Result {
        let (rip, selector, image) = self.return_frame(p, size)?;
        self.enter_real_code(selector, rip)?;
        self.set_stack_pointer(self.stack_pointer().wrapping_add(3 * u64::from(size)));
        self.replace_flags(image, base_mask(size) | IF | IOPL);
        Ok(())
    }

    fn iret_v86(&mut self, p: &mut dyn Platform, size: Size) -> Result {
        let (rip, selector, image) = self.return_frame(p, size)?;
        let mut mask = base_mask(size);
        let mut image = image;
        if self.iopl() == 3 {
            mask |= IF;
        } else if size == 2 && self.cr4 & CR4_VME != 0 {
            if image & TF != 0 || image & IF != 0 && self.flags & VIP != 0 {
                return Err(GP0);
            }
            image = image & !VIF | if image & IF != 0 { VIF } else { 0 };
            mask |= VIF;
        } else {
            return Err(GP0);
        }
        self.enter_real_code(selector, rip)?;
        self.set_stack_pointer(self.stack_pointer().wrapping_add(3 * u64::from(size)));
        self.replace_flags(image, mask);
        Ok(())
    }

    fn task_return(&mut self, p: &mut dyn Platform) -> Result {
        let link: u16 = self.read_system(p, self.tr.base)?;
        self.switch_task(p, link, Switch::Return)
    }

    fn iret_protected(&mut self, p: &mut dyn Platform, size: Size) -> Result {
        let (rip, selector, image) = self.return_frame(p, size)?;
        if image & VM != 0 && self.cpl == 0 && size == 4 && !self.is_long() {
            return self.iret_to_v86(p, rip, selector, image);
        }
        let mask = self.iret_mask(size);
        let with_stack = rpl(selector) != self.cpl || self.mode == Mode::Long64;
        // Processors read the outer SS and rSP before they look at CS.
        let (stack, sp) = if with_stack {
            (
                self.peek_sized(p, size, 4)? as u16,
                self.peek_sized(p, size, 3)?,
            )
        } else {
            (0, 0)
        };
        let cs = self.return_segment(p, selector)?;
        let outward = rpl(selector) > self.cpl;
        if with_stack {
            let stack = self.return_stack(p, stack, cs)?;
            self.enter_code(cs, rip)?;
            self.set_segment(SS, stack);
            self.set_stack_pointer(sp);
        } else {
            self.set_stack_pointer(self.stack_pointer().wrapping_add(3 * u64::from(size)));
            self.enter_code(cs, rip)?;
        }
        self.replace_flags(image, mask);
        if outward {
            self.drop_inner_segments();
        }
        Ok(())
    }

    /// Which flags IRET may change at the privilege it starts from.
    fn iret_mask(&self, size: Size) -> u64 {
        let mut mask = base_mask(size);
        if self.cpl <= self.iopl() {
            mask |= IF;
        }
        if self.cpl == 0 {
            mask |= IOPL | if size > 2 { VIF | VIP } else { 0 };
        }
        mask
    }

    fn iret_to_v86(&mut self, p: &mut dyn Platform, rip: u64, selector: u16, image: u64) -> Result {
        let mut slots = [0; 6];
        for (slot, value) in (3..).zip(&mut slots) {
            *value = self.peek_sized(p, 4, slot)?;
        }
        let [sp, ss, es, ds, fs, gs] = slots;
        if rip > 0xffff {
            return Err(GP0);
        }
        self.flags = image & flags::DEFINED | flags::FIXED;
        self.cpl = 3;
        let all = [
            (CS, u64::from(selector)),
            (SS, ss),
            (ES, es),
            (DS, ds),
            (FS, fs),
            (GS, gs),
        ];
        for (number, selector) in all {
            self.seg[usize::from(number)] = v86_segment(selector as u16);
        }
        self.mode_changed();
        self.regs[4] = sp;
        self.next_rip = rip;
        Ok(())
    }
}
