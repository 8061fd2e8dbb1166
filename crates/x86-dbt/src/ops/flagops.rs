//! Instructions on single flags and on the flags register.

use crate::cpu::{CR4_PVI, CR4_SMAP, CR4_VME, Cpu, EVENT_BREAK, EVENT_POLL, EVENT_SHADOW, Mode};
use crate::decode::Op;
use crate::exception::{GP0, Result, UD};
use crate::flags::{self, CF, DF, IF, VIF, VIP};
use crate::platform::Platform;

pub(crate) fn clc(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    cpu.flags &= !CF;
    Ok(())
}

pub(crate) fn stc(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    cpu.flags |= CF;
    Ok(())
}

pub(crate) fn cmc(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    cpu.flags ^= CF;
    Ok(())
}

pub(crate) fn cld(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    cpu.flags &= !DF;
    Ok(())
}

pub(crate) fn std(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    cpu.flags |= DF;
    Ok(())
}

/// SALC, undocumented but real outside 64-bit mode: AL = CF ? 0xff : 0.
pub(crate) fn salc(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    let al = if cpu.flags & CF != 0 { 0xffu8 } else { 0 };
    cpu.set_reg(0, al);
    Ok(())
}

pub(crate) fn lahf(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    cpu.set_reg(0x10, (cpu.flags & 0xd5) as u8 | 2);
    Ok(())
}

pub(crate) fn sahf(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    let ah: u8 = cpu.reg(0x10);
    cpu.flags = (cpu.flags & !0xd5) | u64::from(ah & 0xd5);
    Ok(())
}

/// What CLI and STI may do in the present mode. Intel SDM volume 2, CLI, table 3-7; STI, table 4-20.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InterruptFlag {
    Real,
    Virtual,
    Forbidden,
}

impl Cpu {
    fn interrupt_flag(&self) -> InterruptFlag {
        let v86 = self.mode == Mode::V86;
        if !v86 && self.cpl <= self.iopl() || v86 && self.iopl() == 3 {
            InterruptFlag::Real
        } else if v86 && self.cr4 & CR4_VME != 0 || !v86 && self.cpl == 3 && self.cr4 & CR4_PVI != 0
        {
            InterruptFlag::Virtual
        } else {
            InterruptFlag::Forbidden
        }
    }

    /// Replaces the flags in `mask` by those of `value`, as POPF, IRET and SYSRET do, and takes note of what
    /// that may have enabled.
    pub(crate) fn replace_flags(&mut self, value: u64, mask: u64) {
        let old = self.flags;
        self.flags = (old & !mask) | (value & mask & flags::DEFINED) | flags::FIXED;
        let changed = old ^ self.flags;
        if changed & flags::VM != 0 {
            self.mode_changed();
        } else if changed & flags::AC != 0 {
            self.access_changed();
        }
        if changed & (IF | flags::TF) != 0 {
            self.events |= EVENT_BREAK | EVENT_POLL;
        }
    }
}

pub(crate) fn cli(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    match cpu.interrupt_flag() {
        InterruptFlag::Real => cpu.flags &= !IF,
        InterruptFlag::Virtual => cpu.flags &= !VIF,
        InterruptFlag::Forbidden => return Err(GP0),
    }
    Ok(())
}

pub(crate) fn sti(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    match cpu.interrupt_flag() {
        InterruptFlag::Real => {
            if cpu.flags & IF == 0 {
                cpu.flags |= IF;
                cpu.events |= EVENT_BREAK | EVENT_POLL | EVENT_SHADOW;
            }
        }
        InterruptFlag::Virtual if cpu.flags & VIP == 0 => cpu.flags |= VIF,
        InterruptFlag::Virtual | InterruptFlag::Forbidden => return Err(GP0),
    }
    Ok(())
}

/// CLAC and STAC (`SET`).
pub(crate) fn access_flag<const SET: bool>(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    if cpu.cpl != 0 || cpu.cr4 & CR4_SMAP == 0 && !cpu.cpuid.has_smap() {
        return Err(UD);
    }
    cpu.flags = if SET {
        cpu.flags | flags::AC
    } else {
        cpu.flags & !flags::AC
    };
    cpu.access_changed();
    Ok(())
}
