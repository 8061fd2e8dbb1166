//! Delivery of interrupts and exceptions, and INT, INT3, INTO, INT1. Intel SDM volume 3, chapters 6 and 21.

use super::selector::{code_of, is_null, null_stack};
use super::task::Switch;
use crate::cpu::{
    CR4_VME, Cpu, DR7_FIXED, EVENT_BREAK, EVENT_POLL, EVENT_SHUTDOWN, EVENT_TRAP, Mode,
};
use crate::decode::Op;
use crate::exception::{Exception, GP0, Result, SS0, Vector, gp, np};
use crate::flags::{self, IF, NT, OF, RF, TF, VM};
use crate::platform::Platform;
use crate::segment::{
    BIG, CS, DS, Descriptor, ES, FS, GS, INTERRUPT_GATE16, INTERRUPT_GATE32, LONG, SS, Segment,
    TASK_GATE, TRAP_GATE16, TRAP_GATE32,
};

/// Where an event comes from: it decides privilege checks, EXT in error codes and the saved RF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// INT n, INT3, INTO: the gate's DPL counts.
    Software,
    /// INT1 and interrupts from outside.
    External,
    /// A fault: RIP is the instruction that raised it.
    Fault,
    /// A trap: RIP is already past the instruction.
    Trap,
}

/// One event to deliver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) vector: u8,
    pub(crate) error: Option<u16>,
    pub(crate) origin: Origin,
    /// What the handler returns to.
    pub(crate) rip: u64,
}

impl Event {
    /// EXT: the event is not the program's own instruction.
    fn external(self) -> u16 {
        u16::from(self.origin != Origin::Software)
    }

    fn gate_code(self) -> u16 {
        u16::from(self.vector) * 8 + 2 + self.external()
    }
}

impl Cpu {
    /// Delivers an exception that the instruction at RIP raised; failing that a double fault, failing that a shutdown.
    pub(crate) fn raise(&mut self, p: &mut dyn Platform, exception: Exception, origin: Origin) {
        let mut current = exception;
        let rip = self.rip;
        loop {
            self.stats.exceptions[usize::from(current.vector as u8) & 31] += 1;
            if current.vector == Vector::Debug {
                // Intel SDM volume 3, 18.2.4: general detection is for one exception.
                self.dr[7] &= !(1 << 13);
            }
            let event = Event {
                vector: current.vector as u8,
                error: current.error,
                origin,
                rip,
            };
            match self.deliver(p, event) {
                Ok(()) => return,
                Err(second) => match current.then(second) {
                    Some(next) => current = next,
                    None => {
                        self.events |= EVENT_SHUTDOWN | EVENT_BREAK;
                        return;
                    }
                },
            }
        }
    }

    /// Delivers an interrupt from outside; its own faults are exceptions at RIP.
    pub(crate) fn interrupt(&mut self, p: &mut dyn Platform, vector: u8) {
        let event = Event {
            vector,
            error: None,
            origin: Origin::External,
            rip: self.rip,
        };
        if let Err(exception) = self.deliver(p, event) {
            self.raise(p, exception, Origin::Fault);
        }
    }

    /// Makes the handler of `event` the next code to run: RIP is set.
    fn deliver(&mut self, p: &mut dyn Platform, event: Event) -> Result {
        self.attempt(|cpu| match cpu.mode {
            Mode::Real => cpu.deliver_real(p, event),
            _ if cpu.is_long() => cpu.deliver_long(p, event),
            _ => cpu.deliver_protected(p, event),
        })?;
        self.rip = self.next_rip;
        self.events |= EVENT_BREAK | EVENT_POLL;
        Ok(())
    }

    fn deliver_real(&mut self, p: &mut dyn Platform, event: Event) -> Result {
        let entry = u64::from(event.vector) * 4;
        if entry + 3 > u64::from(self.idtr.limit) {
            return Err(Exception {
                vector: Vector::GeneralProtection,
                error: None,
            });
        }
        let target: u32 = self.read_system(p, self.idtr.base.wrapping_add(entry))?;
        self.deliver_through_vector(p, event, target)
    }

    /// Pushes FLAGS, CS and IP as 16 bits and goes to segment:offset `target`.
    fn deliver_through_vector(
        &mut self,
        p: &mut dyn Platform,
        event: Event,
        target: u32,
    ) -> Result {
        let cs = self.seg[usize::from(CS)].selector;
        self.push(p, self.flags as u16)?;
        self.push(p, cs)?;
        self.push(p, event.rip as u16)?;
        self.flags &= !(IF | TF | flags::AC | RF);
        self.enter_real_code((target >> 16) as u16, u64::from(target & 0xffff))?;
        self.mode_changed();
        Ok(())
    }

    fn gate(&mut self, p: &mut dyn Platform, event: Event, size: u64) -> Result<(Descriptor, u64)> {
        let fault = gp(event.gate_code());
        let entry = u64::from(event.vector) * size;
        if entry + size - 1 > u64::from(self.idtr.limit) {
            return Err(fault);
        }
        let at = self.idtr.base.wrapping_add(entry);
        let gate = Descriptor(self.read_system(p, at)?);
        let high = if size == 16 {
            self.read_system(p, at.wrapping_add(8))?
        } else {
            0u64
        };
        let known = match gate.kind() {
            INTERRUPT_GATE32 | TRAP_GATE32 => true,
            INTERRUPT_GATE16 | TRAP_GATE16 | TASK_GATE => size == 8,
            _ => false,
        };
        if !gate.is_system() || !known || event.origin == Origin::Software && gate.dpl() < self.cpl
        {
            return Err(fault);
        }
        if !gate.is_present() {
            return Err(np(event.gate_code()));
        }
        Ok((gate, high))
    }

    fn deliver_protected(&mut self, p: &mut dyn Platform, event: Event) -> Result {
        let (gate, _) = self.gate(p, event, 8)?;
        if gate.kind() == TASK_GATE {
            return self.deliver_to_task(p, event, gate);
        }
        let wide = gate.kind() & 8 != 0;
        let size = if wide { 4 } else { 2 };
        let code = self.handler_segment(p, event, gate)?;
        let (old_flags, from_v86) = (self.saved_flags(event), self.flags & VM != 0);
        let old_cs = self.seg[usize::from(CS)].selector;
        let inward = !code.is_conforming() && code.dpl() < self.cpl;
        if from_v86 && (code.is_conforming() || code.dpl() != 0) {
            return Err(gp(code_of(code.selector) | event.external()));
        }
        let cpl = if inward { code.dpl() } else { self.cpl };
        if inward {
            let old = self.seg;
            let old_sp = self.regs[4];
            self.load_inner_stack(p, cpl, event.external())?;
            if from_v86 {
                for number in [GS, FS, DS, ES] {
                    self.push_sized(p, size, u64::from(old[usize::from(number)].selector))?;
                    self.seg[usize::from(number)] = Segment::default();
                }
            }
            self.push_sized(p, size, u64::from(old[usize::from(SS)].selector))?;
            self.push_sized(p, size, old_sp)?;
        }
        self.push_sized(p, size, old_flags)?;
        self.push_sized(p, size, u64::from(old_cs))?;
        self.push_sized(p, size, event.rip)?;
        if let Some(error) = event.error {
            self.push_sized(p, size, u64::from(error))?;
        }
        let offset = if wide {
            gate.gate_offset()
        } else {
            gate.gate_offset() & 0xffff
        };
        let selector = code.selector & !3 | u16::from(cpl);
        self.enter_code(Segment { selector, ..code }, offset)?;
        self.mask_flags(gate);
        Ok(())
    }

    /// The code segment a gate leads to, with the checks that interrupts make.
    fn handler_segment(
        &mut self,
        p: &mut dyn Platform,
        event: Event,
        gate: Descriptor,
    ) -> Result<Segment> {
        let selector = gate.gate_selector();
        let external = event.external();
        if is_null(selector) {
            return Err(gp(external));
        }
        let fault = gp(code_of(selector) | external);
        let at = self.descriptor_address(selector, 8).ok_or(fault)?;
        let mut descriptor = Descriptor(self.read_system(p, at)?);
        let segment = descriptor.segment(selector);
        let wrong_size = self.is_long() && (!segment.has(LONG) || segment.has(BIG));
        if !segment.is_code() || segment.dpl() > self.cpl || wrong_size {
            return Err(fault);
        }
        if !descriptor.is_present() {
            return Err(np(code_of(selector) | external));
        }
        self.mark_accessed(p, selector, &mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    fn deliver_to_task(&mut self, p: &mut dyn Platform, event: Event, gate: Descriptor) -> Result {
        // The old task's saved EIP is the event's return address.
        self.next_rip = event.rip;
        self.switch_task(p, gate.gate_selector(), Switch::Call)?;
        if let Some(error) = event.error {
            let size = if self.tr.attributes & 8 != 0 { 4 } else { 2 };
            self.push_sized(p, size, u64::from(error))?;
        }
        Ok(())
    }

    fn deliver_long(&mut self, p: &mut dyn Platform, event: Event) -> Result {
        let (gate, high) = self.gate(p, event, 16)?;
        let code = self.handler_segment(p, event, gate)?;
        let offset = gate.gate_offset() | (high & 0xffff_ffff) << 32;
        let inward = !code.is_conforming() && code.dpl() < self.cpl;
        let cpl = if inward { code.dpl() } else { self.cpl };
        let old_ss = self.seg[usize::from(SS)].selector;
        let (old_sp, old_flags) = (self.regs[4], self.saved_flags(event));
        let old_cs = self.seg[usize::from(CS)].selector;
        let top = match (gate.gate_ist(), inward) {
            (0, false) => old_sp,
            (0, true) => self.tss_u64(p, 4 + 8 * u64::from(cpl), event.external())?,
            (ist, _) => self.tss_u64(p, 28 + 8 * u64::from(ist), event.external())?,
        };
        if !self.is_canonical(top) {
            return Err(SS0);
        }
        if inward {
            self.seg[usize::from(SS)] = null_stack(u16::from(cpl));
        }
        self.cpl = cpl;
        self.seg[usize::from(CS)] = Segment {
            selector: code.selector & !3 | u16::from(cpl),
            ..code
        };
        self.mode_changed();
        self.set_stack_pointer(top & !15);
        for value in [
            u64::from(old_ss),
            old_sp,
            old_flags,
            u64::from(old_cs),
            event.rip,
        ] {
            self.push(p, value)?;
        }
        if let Some(error) = event.error {
            self.push(p, u64::from(error))?;
        }
        self.enter_code(self.seg[usize::from(CS)], offset)?;
        self.mask_flags(gate);
        Ok(())
    }

    /// The flags image that is pushed: faults set RF, so that a code breakpoint does not strike again.
    fn saved_flags(&self, event: Event) -> u64 {
        if event.origin == Origin::Fault {
            self.flags | RF
        } else {
            self.flags & !RF
        }
    }

    fn mask_flags(&mut self, gate: Descriptor) {
        self.flags &= !(TF | NT | RF | VM);
        if gate.kind() & 1 == 0 {
            self.flags &= !IF;
        }
        self.mode_changed();
    }

    /// Delivers a software interrupt; what it returns to is the next instruction.
    fn software_interrupt(&mut self, p: &mut dyn Platform, vector: u8, origin: Origin) -> Result {
        let event = Event {
            vector,
            error: None,
            origin,
            rip: self.next_rip,
        };
        self.deliver(p, event)?;
        self.next_rip = self.rip;
        self.stepping = false;
        Ok(())
    }

    /// INT n in virtual-8086 mode. Intel SDM volume 3, table 21-2.
    fn v86_interrupt(&mut self, p: &mut dyn Platform, vector: u8) -> Result {
        let redirected = self.cr4 & CR4_VME != 0 && !self.interrupt_bitmap(p, vector)?;
        if redirected {
            let event = Event {
                vector,
                error: None,
                origin: Origin::Software,
                rip: self.next_rip,
            };
            let target: u32 = self.read_linear(p, u64::from(vector) * 4, DS)?;
            return self.attempt(|cpu| {
                if cpu.iopl() == 3 {
                    return cpu.deliver_through_vector(p, event, target);
                }
                // IF on the stack is VIF, and VIF is cleared instead of IF.
                let (real_if, vif) = (cpu.flags & IF, cpu.flags & flags::VIF != 0);
                let iopl = cpu.flags & flags::IOPL;
                cpu.flags = cpu.flags & !IF | flags::IOPL | if vif { IF } else { 0 };
                cpu.deliver_through_vector(p, event, target)?;
                cpu.flags = cpu.flags & !(flags::VIF | flags::IOPL) | real_if | iopl;
                Ok(())
            });
        }
        if self.iopl() < 3 {
            return Err(GP0);
        }
        self.software_interrupt(p, vector, Origin::Software)
    }

    /// The bit of `vector` in the TSS's software-interrupt redirection map: set means through the IDT.
    fn interrupt_bitmap(&mut self, p: &mut dyn Platform, vector: u8) -> Result<bool> {
        let map_base: u16 = self.read_system(p, self.tr.base.wrapping_add(0x66))?;
        let at = (u64::from(map_base) + u64::from(vector / 8)).wrapping_sub(32);
        if at > u64::from(self.tr.limit) {
            return Err(GP0);
        }
        let bits: u8 = self.read_system(p, self.tr.base.wrapping_add(at))?;
        Ok(bits >> (vector % 8) & 1 != 0)
    }
}

/// INT n.
pub(crate) fn int(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let vector = op.immediate as u8;
    if cpu.mode == Mode::V86 {
        cpu.v86_interrupt(p, vector)
    } else {
        cpu.software_interrupt(p, vector, Origin::Software)
    }
}

/// INT3: a trap that virtual-8086 mode does not redirect.
pub(crate) fn int3(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    cpu.software_interrupt(p, Vector::Breakpoint as u8, Origin::Software)
}

pub(crate) fn into(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    if cpu.flags & OF == 0 {
        return Ok(());
    }
    cpu.software_interrupt(p, Vector::Overflow as u8, Origin::Software)
}

/// INT1: #DB without a privilege check and without touching DR6. It reports a data breakpoint that MOV SS has held back.
pub(crate) fn int1(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    cpu.events &= !EVENT_TRAP;
    cpu.dr[7] = cpu.dr[7] & !(1 << 13) | DR7_FIXED;
    cpu.software_interrupt(p, Vector::Debug as u8, Origin::Trap)
}

pub(crate) fn ud(_: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    Err(crate::exception::UD)
}
