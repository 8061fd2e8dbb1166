//! Loading segment registers: descriptors, their checks, and the instructions that do it.

use super::operand::Source;
use crate::alu::Width;
use crate::cpu::{Cpu, EVENT_BREAK, EVENT_SHADOW, EVENT_SHADOW_DEBUG, Mode};
use crate::cpuid::Vendor;
use crate::decode::Op;
use crate::exception::{Exception, GP0, Result, gp, np, ss};
use crate::platform::Platform;
use crate::segment::{ACCESSED, CS, DS, Descriptor, ES, FS, GS, PRESENT, SS, Segment};

/// A selector without its RPL: what error codes hold.
pub(crate) const fn code_of(selector: u16) -> u16 {
    selector & !3
}

pub(crate) const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

pub(crate) const fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

impl Cpu {
    /// Reads the descriptor of `selector`; one outside its table is `fault(selector)`.
    pub(crate) fn descriptor(
        &mut self,
        p: &mut dyn Platform,
        selector: u16,
        fault: fn(u16) -> Exception,
    ) -> Result<Descriptor> {
        let at = self
            .descriptor_address(selector, 8)
            .ok_or_else(|| fault(code_of(selector)))?;
        Ok(Descriptor(self.read_system(p, at)?))
    }

    /// The linear address of the descriptor, if all `len` bytes of it are in the table.
    pub(crate) fn descriptor_address(&self, selector: u16, len: u64) -> Option<u64> {
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, u64::from(self.gdtr.limit))
        } else if self.ldtr.has(PRESENT) && !is_null(self.ldtr.selector) {
            (self.ldtr.base, u64::from(self.ldtr.limit))
        } else {
            return None;
        };
        let offset = u64::from(selector & !7);
        (offset + len - 1 <= limit).then(|| base.wrapping_add(offset))
    }

    /// Sets the accessed bit of a code or data descriptor in memory, where it is not set.
    pub(crate) fn mark_accessed(
        &mut self,
        p: &mut dyn Platform,
        selector: u16,
        descriptor: &mut Descriptor,
    ) -> Result {
        if descriptor.attributes() & ACCESSED == 0 {
            descriptor.0 |= u64::from(ACCESSED) << 40;
            if let Some(at) = self.descriptor_address(selector, 8) {
                self.write_system(p, at + 5, (descriptor.0 >> 40) as u8)?;
            }
        }
        Ok(())
    }

    /// MOV or POP to ES, SS, DS, FS or GS.
    pub(crate) fn load_segment(
        &mut self,
        p: &mut dyn Platform,
        number: u8,
        selector: u16,
    ) -> Result {
        let segment = match self.mode {
            Mode::Real => self.real_segment(number, selector),
            Mode::V86 => v86_segment(selector),
            _ if number == SS => self.checked_stack_segment(p, selector)?,
            _ if is_null(selector) => Segment {
                selector,
                ..Segment::default()
            },
            _ => self.checked_data_segment(p, selector)?,
        };
        self.set_segment(number, segment);
        Ok(())
    }

    /// Real mode changes only selector and base; the limit and the attributes stay ("unreal mode").
    pub(crate) fn real_segment(&self, number: u8, selector: u16) -> Segment {
        Segment {
            selector,
            base: u64::from(selector) << 4,
            ..self.seg[usize::from(number)]
        }
    }

    pub(crate) fn set_segment(&mut self, number: u8, segment: Segment) {
        self.seg[usize::from(number)] = segment;
        if number == CS || number == SS {
            self.mode_changed();
        } else {
            self.segments_changed();
        }
    }

    /// Intel SDM volume 2, MOV, for SS.
    fn checked_stack_segment(&mut self, p: &mut dyn Platform, selector: u16) -> Result<Segment> {
        if is_null(selector) {
            if self.mode == Mode::Long64 && self.cpl < 3 && rpl(selector) == self.cpl {
                return Ok(null_stack(selector));
            }
            return Err(GP0);
        }
        let mut descriptor = self.descriptor(p, selector, gp)?;
        let segment = descriptor.segment(selector);
        if rpl(selector) != self.cpl || !segment.is_writable() || segment.dpl() != self.cpl {
            return Err(gp(code_of(selector)));
        }
        if !descriptor.is_present() {
            return Err(ss(code_of(selector)));
        }
        self.mark_accessed(p, selector, &mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    fn checked_data_segment(&mut self, p: &mut dyn Platform, selector: u16) -> Result<Segment> {
        let mut descriptor = self.descriptor(p, selector, gp)?;
        let segment = descriptor.segment(selector);
        let privileged = !segment.is_conforming() && segment.dpl() < self.cpl.max(rpl(selector));
        if !segment.is_readable() || privileged {
            return Err(gp(code_of(selector)));
        }
        if !descriptor.is_present() {
            return Err(np(code_of(selector)));
        }
        self.mark_accessed(p, selector, &mut descriptor)?;
        Ok(descriptor.segment(selector))
    }

    /// After a return to an outer ring: data segments that it may not use become null, and null ones lose their RPL.
    pub(crate) fn drop_inner_segments(&mut self) {
        for number in [ES, DS, FS, GS] {
            let segment = self.seg[usize::from(number)];
            if !segment.is_conforming() && segment.dpl() < self.cpl {
                self.seg[usize::from(number)] = Segment {
                    base: segment.base,
                    ..Segment::default()
                };
            }
        }
        self.segments_changed();
    }
}

/// The stack segment of an inner ring in 64-bit mode: null, but usable.
pub(crate) fn null_stack(selector: u16) -> Segment {
    let dpl = u16::from(rpl(selector)) << crate::segment::DPL_SHIFT;
    Segment {
        selector,
        attributes: dpl,
        ..Segment::default()
    }
}

/// A segment as virtual-8086 mode has it. Intel SDM volume 3, 21.2.1.
pub(crate) fn v86_segment(selector: u16) -> Segment {
    let dpl3 = 3 << crate::segment::DPL_SHIFT;
    let real = Segment::real(selector);
    Segment {
        attributes: real.attributes | dpl3,
        ..real
    }
}

/// MOV Sreg, r/m16; the register is `op.r0`.
pub(crate) fn mov_to_segment<S: Source>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let selector: u16 = S::get(cpu, p, op)?;
    cpu.load_segment(p, op.r0, selector)?;
    if op.r0 == SS {
        cpu.events |= EVENT_BREAK | EVENT_SHADOW | EVENT_SHADOW_DEBUG;
    }
    Ok(())
}

/// MOV r, Sreg: zero-extended into a register of the operand size.
pub(crate) fn mov_from_segment<T: Width>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result {
    let selector = cpu.seg[usize::from(op.r1)].selector;
    cpu.set_reg(op.r0, T::from_u64(u64::from(selector)));
    Ok(())
}

/// MOV m16, Sreg.
pub(crate) fn store_segment(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    let selector = cpu.seg[usize::from(op.r1)].selector;
    cpu.write(p, op.segment, cpu.offset(op), selector)
}

/// LES, LDS, LSS, LFS, LGS; the segment register is `op.r2`.
pub(crate) fn load_far_pointer<T: Width>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    if T::BYTES == 8 && cpu.cpuid.vendor() == Vendor::Amd {
        // AMD ignores REX.W here (APM volume 3, LSS).
        return load_far_pointer::<u32>(cpu, p, op);
    }
    let offset = cpu.offset(op);
    let value: T = cpu.read(p, op.segment, offset)?;
    let selector: u16 = cpu.read(
        p,
        op.segment,
        offset.wrapping_add(T::BYTES as u64) & op.address_mask,
    )?;
    cpu.load_segment(p, op.r2, selector)?;
    cpu.set_reg(op.r0, value);
    Ok(())
}

/// What a selector can be asked about without loading it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Query {
    Read,
    Write,
    AccessRights,
    Limit,
}

impl Cpu {
    /// The descriptor of `selector` if `query` may see it at this privilege, else `None`: ZF is then cleared.
    /// Intel SDM volume 2, LAR, LSL, VERR/VERW.
    fn query(
        &mut self,
        p: &mut dyn Platform,
        selector: u16,
        query: Query,
    ) -> Result<Option<Descriptor>> {
        if is_null(selector) {
            return Ok(None);
        }
        let Some(at) = self.descriptor_address(selector, 8) else {
            return Ok(None);
        };
        let descriptor = Descriptor(self.read_system(p, at)?);
        let segment = descriptor.segment(selector);
        let visible = segment.is_conforming() || segment.dpl() >= self.cpl.max(rpl(selector));
        let allowed = match query {
            Query::Read => visible && segment.is_readable(),
            Query::Write => visible && segment.is_writable(),
            Query::AccessRights => {
                visible && (!descriptor.is_system() || self.has_rights(descriptor.kind(), false))
            }
            Query::Limit => {
                visible && (!descriptor.is_system() || self.has_rights(descriptor.kind(), true))
            }
        };
        Ok(allowed.then_some(descriptor))
    }

    /// Which system descriptors LAR and LSL (`limit`) know. Intel SDM volume 2, tables 3-52 and 3-54.
    fn has_rights(&self, kind: u8, limit: bool) -> bool {
        match kind {
            2 | 9 | 11 => true,
            1 | 3 => !self.is_long(),
            12 => !limit,
            4 | 5 => !limit && !self.is_long(),
            _ => false,
        }
    }

    fn set_zf(&mut self, on: bool) {
        self.flags &= !crate::flags::ZF;
        self.flags |= if on { crate::flags::ZF } else { 0 };
    }
}

/// VERR, and VERW (`WRITE`).
pub(crate) fn verify<S: Source, const WRITE: bool>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    require_protected(cpu)?;
    let selector: u16 = S::get(cpu, p, op)?;
    let query = if WRITE { Query::Write } else { Query::Read };
    let found = cpu.query(p, selector, query)?;
    cpu.set_zf(found.is_some());
    Ok(())
}

/// LAR, and LSL (`LIMIT`).
pub(crate) fn load_rights<T: Width, S: Source, const LIMIT: bool>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    require_protected(cpu)?;
    let selector: u16 = S::get(cpu, p, op)?;
    let query = if LIMIT {
        Query::Limit
    } else {
        Query::AccessRights
    };
    let found = cpu.query(p, selector, query)?;
    if let Some(descriptor) = found {
        let value = if LIMIT {
            u64::from(descriptor.limit())
        } else {
            (descriptor.0 >> 32) & 0x00ff_ff00
        };
        cpu.set_reg(op.r0, T::from_u64(value));
    }
    cpu.set_zf(found.is_some());
    Ok(())
}

/// ARPL.
pub(crate) fn arpl<D: super::operand::Place>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    require_protected(cpu)?;
    let wanted = cpu.reg::<u16>(op.r1) & 3;
    let found: u16 = D::get(cpu, p, op)?;
    let raise = found & 3 < wanted;
    if raise {
        D::set(cpu, p, op, found & !3 | wanted)?;
    }
    cpu.set_zf(raise);
    Ok(())
}

/// #UD in real and virtual-8086 mode.
pub(crate) fn require_protected(cpu: &Cpu) -> Result {
    if cpu.is_protected() {
        Ok(())
    } else {
        Err(crate::exception::UD)
    }
}
