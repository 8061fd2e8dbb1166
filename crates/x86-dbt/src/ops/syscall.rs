//! SYSCALL, SYSRET, SYSENTER, SYSEXIT. AMD APM volume 3; Intel SDM volume 2.

use crate::alu::Width;
use crate::cpu::{Cpu, DR6_SINGLE_STEP, EFER_SCE, EVENT_BREAK, EVENT_POLL, EVENT_TRAP, Mode};
use crate::cpuid::Vendor;
use crate::decode::Op;
use crate::exception::{GP0, Result, UD};
use crate::flags::{self, IF, RF, TF, VM};
use crate::platform::Platform;
use crate::segment::{BIG, CODE, CS, GRANULAR, LONG, SS, Segment};

const RCX: usize = 1;
const RDX: usize = 2;
const RSP: usize = 4;
const R11: usize = 11;

impl Cpu {
    /// Flat code and stack segments of ring `cpl`, as these instructions make them without a descriptor.
    fn set_flat(&mut self, cs: u16, ss: u16, cpl: u8, size: u16) {
        let dpl = u16::from(cpl) << crate::segment::DPL_SHIFT;
        let ring = u16::from(cpl);
        self.seg[usize::from(CS)] = Segment::flat(cs & !3 | ring, CODE | GRANULAR | size | dpl);
        self.seg[usize::from(SS)] = Segment::flat(ss & !3 | ring, BIG | GRANULAR | dpl);
        self.cpl = cpl;
        self.events |= EVENT_BREAK | EVENT_POLL;
        self.mode_changed();
    }

    /// In long mode the TF that SYSCALL and SYSRET leave traps behind themselves, not the one they found (Linux,
    /// `arch/x86/entry/entry_64.S`, on returning with TF; kvm-unit-tests, syscall).
    fn step_by_new_flags(&mut self) {
        self.stepping = false;
        if self.flags & TF != 0 {
            self.note_debug_condition(DR6_SINGLE_STEP);
            self.events |= EVENT_TRAP;
        }
    }
}

pub(crate) fn syscall(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    let compatibility = cpu.mode != Mode::Long64;
    if cpu.efer & EFER_SCE == 0
        || !cpu.is_protected()
        || compatibility && cpu.cpuid.vendor() == Vendor::Intel
    {
        return Err(UD);
    }
    let selector = (cpu.msr.star >> 32) as u16;
    if !cpu.is_long() {
        cpu.regs[RCX] = cpu.next_rip & 0xffff_ffff;
        cpu.next_rip = cpu.msr.star & 0xffff_ffff;
        cpu.flags &= !(IF | VM | RF);
        cpu.set_flat(selector, selector.wrapping_add(8), 0, BIG);
        return Ok(());
    }
    cpu.regs[RCX] = cpu.next_rip;
    cpu.regs[R11] = cpu.flags & !RF;
    cpu.next_rip = if compatibility {
        cpu.msr.cstar
    } else {
        cpu.msr.lstar
    };
    cpu.flags = cpu.flags & !(cpu.msr.fmask | RF) | flags::FIXED;
    cpu.set_flat(selector, selector.wrapping_add(8), 0, LONG);
    cpu.step_by_new_flags();
    Ok(())
}

/// SYSRET; `T` is the operand size: u64 returns to 64-bit code.
pub(crate) fn sysret<T: Width>(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    let compatibility = cpu.mode != Mode::Long64;
    if cpu.efer & EFER_SCE == 0
        || !cpu.is_protected()
        || compatibility && cpu.cpuid.vendor() == Vendor::Intel
    {
        return Err(UD);
    }
    if cpu.cpl != 0 {
        return Err(GP0);
    }
    let base = (cpu.msr.star >> 48) as u16;
    if !cpu.is_long() {
        cpu.next_rip = cpu.regs[RCX] & 0xffff_ffff;
        cpu.flags |= IF;
        cpu.set_flat(base, base.wrapping_add(8), 3, BIG);
        return Ok(());
    }
    let to_64_bit = T::BYTES == 8;
    let target = if to_64_bit {
        cpu.regs[RCX]
    } else {
        cpu.regs[RCX] & 0xffff_ffff
    };
    if to_64_bit && cpu.cpuid.vendor() == Vendor::Intel && !cpu.is_canonical(target) {
        return Err(GP0);
    }
    let restored = cpu.regs[R11] & flags::DEFINED & !(RF | VM) | flags::FIXED;
    cpu.flags = restored;
    cpu.next_rip = target;
    let cs = if to_64_bit {
        base.wrapping_add(16)
    } else {
        base
    };
    cpu.set_flat(
        cs,
        base.wrapping_add(8),
        3,
        if to_64_bit { LONG } else { BIG },
    );
    cpu.step_by_new_flags();
    Ok(())
}

pub(crate) fn sysenter(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    if cpu.is_long() && cpu.cpuid.vendor() == Vendor::Amd {
        return Err(UD);
    }
    if !cpu.is_protected() && cpu.mode != Mode::V86 || cpu.msr.sysenter_cs & 0xfffc == 0 {
        return Err(GP0);
    }
    let selector = cpu.msr.sysenter_cs as u16;
    let long = cpu.is_long();
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.flags &= !(VM | IF | RF);
    cpu.regs[RSP] = cpu.msr.sysenter_esp & mask;
    cpu.next_rip = cpu.msr.sysenter_eip & mask;
    cpu.set_flat(
        selector,
        selector.wrapping_add(8),
        0,
        if long { LONG } else { BIG },
    );
    Ok(())
}

/// SYSEXIT; `T` is the operand size: u64 returns to 64-bit code.
pub(crate) fn sysexit<T: Width>(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    if !cpu.is_protected() || cpu.cpl != 0 || cpu.msr.sysenter_cs & 0xfffc == 0 {
        return Err(GP0);
    }
    if cpu.is_long() && cpu.cpuid.vendor() == Vendor::Amd {
        return Err(UD);
    }
    let selector = cpu.msr.sysenter_cs as u16;
    let to_64_bit = T::BYTES == 8;
    if to_64_bit && !(cpu.is_canonical(cpu.regs[RCX]) && cpu.is_canonical(cpu.regs[RDX])) {
        return Err(GP0);
    }
    let mask = if to_64_bit { u64::MAX } else { 0xffff_ffff };
    cpu.regs[RSP] = cpu.regs[RCX] & mask;
    cpu.next_rip = cpu.regs[RDX] & mask;
    let (cs, ss, size) = if to_64_bit {
        (32, 40, LONG)
    } else {
        (16, 24, BIG)
    };
    cpu.set_flat(
        selector.wrapping_add(cs),
        selector.wrapping_add(ss),
        3,
        size,
    );
    Ok(())
}
