//! Privileged instructions on control, debug and table registers, and CPUID, TSC and cache control.

use guest_paging::Gva;

use super::operand::Source;
use super::selector::require_protected;
use crate::alu::Width;
use crate::cpu::{
    CR0_AM, CR0_CD, CR0_EM, CR0_ET, CR0_MP, CR0_NE, CR0_NW, CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_DE,
    CR4_FSGSBASE, CR4_LA57, CR4_PAE, CR4_PCE, CR4_PCIDE, CR4_TSD, CR4_UMIP, Cpu, DR6_DETECTED,
    EFER_LMA, EFER_LME, EVENT_BREAK, EVENT_HALT, EVENT_POLL, Mode, TableRegister,
};
use crate::cpuid::EDX_APIC;
use crate::decode::Op;
use crate::exception::{DB, GP0, Result, UD};
use crate::platform::Platform;
use crate::segment::{CS, FS, GS, LONG};

fn require_ring0(cpu: &Cpu) -> Result {
    if cpu.cpl == 0 { Ok(()) } else { Err(GP0) }
}

/// SGDT, SIDT, SLDT, STR, SMSW outside ring 0. Intel SDM volume 3, 2.5, UMIP.
fn check_umip(cpu: &Cpu) -> Result {
    if cpu.cpl > 0 && cpu.cr4 & CR4_UMIP != 0 {
        Err(GP0)
    } else {
        Ok(())
    }
}

/// MOV r, `CRn`; `op.r1` is the control register.
pub(crate) fn mov_from_control(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    require_ring0(cpu)?;
    let value = match op.r1 {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        8 => {
            cpu.before_device(p);
            u64::from(p.task_priority())
        }
        _ => return Err(UD),
    };
    set_control_width(cpu, op.r0, value);
    Ok(())
}

/// These moves are 64-bit in 64-bit mode and 32-bit elsewhere, whatever the prefixes.
fn set_control_width(cpu: &mut Cpu, register: u8, value: u64) {
    if cpu.code_bits == 64 {
        cpu.set_reg(register, value);
    } else {
        cpu.set_reg(register, value as u32);
    }
}

fn control_width(cpu: &Cpu, register: u8) -> u64 {
    if cpu.code_bits == 64 {
        cpu.reg(register)
    } else {
        u64::from(cpu.reg::<u32>(register))
    }
}

/// MOV `CRn`, r; `op.r0` is the control register.
pub(crate) fn mov_to_control(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    require_ring0(cpu)?;
    let value = control_width(cpu, op.r1);
    match op.r0 {
        0 => cpu.write_cr0(value)?,
        2 => cpu.cr2 = value,
        3 => cpu.load_cr3(value)?,
        4 => cpu.write_cr4(value)?,
        8 => {
            if value > 15 {
                return Err(GP0);
            }
            cpu.before_device(p);
            p.set_task_priority(value as u8);
        }
        _ => return Err(UD),
    }
    cpu.events |= EVENT_BREAK;
    Ok(())
}

impl Cpu {
    /// MOV to CR0 and LMSW. Intel SDM volume 3, 2.5 and 4.1.2.
    pub(crate) fn write_cr0(&mut self, value: u64) -> Result {
        const KNOWN: u64 = CR0_PE
            | CR0_MP
            | CR0_EM
            | CR0_TS
            | CR0_ET
            | CR0_NE
            | CR0_WP
            | CR0_AM
            | CR0_NW
            | CR0_CD
            | CR0_PG;
        if value >> 32 != 0
            || value & CR0_PG != 0 && value & CR0_PE == 0
            || value & (CR0_NW | CR0_CD) == CR0_NW
        {
            return Err(GP0);
        }
        let value = value & KNOWN | CR0_ET;
        let paging_on = value & CR0_PG != 0 && self.cr0 & CR0_PG == 0;
        let paging_off = value & CR0_PG == 0 && self.cr0 & CR0_PG != 0;
        let mut efer = self.efer;
        if paging_on && efer & EFER_LME != 0 {
            if self.cr4 & CR4_PAE == 0 || self.seg[usize::from(CS)].has(LONG) {
                return Err(GP0);
            }
            efer |= EFER_LMA;
        }
        if paging_off {
            if self.mode == Mode::Long64 || self.cr4 & CR4_PCIDE != 0 {
                return Err(GP0);
            }
            efer &= !EFER_LMA;
        }
        let pae = value & CR0_PG != 0 && self.cr4 & CR4_PAE != 0 && efer & EFER_LMA == 0;
        let reload = pae && (value ^ self.cr0) & (CR0_PG | CR0_CD | CR0_NW) != 0;
        let pdptes = if reload {
            Some(self.load_pdptes(self.cr3)?)
        } else {
            self.pdptes.filter(|_| pae)
        };
        let changed = value ^ self.cr0;
        self.cr0 = value;
        self.efer = efer;
        self.pdptes = pdptes;
        if changed & CR0_PE != 0 && value & CR0_PE == 0 {
            self.cpl = 0;
        }
        if changed & (CR0_PG | CR0_PE | CR0_WP) != 0 || reload {
            self.paging_changed();
        }
        self.mode_changed();
        Ok(())
    }

    /// MOV to CR4.
    pub(crate) fn write_cr4(&mut self, value: u64) -> Result {
        let long = self.efer & EFER_LMA != 0;
        let reserved = value & !self.cpuid.cr4_mask() != 0;
        let leaves_pae = long && value & CR4_PAE == 0;
        let changes_la57 = long && (value ^ self.cr4) & CR4_LA57 != 0;
        // Intel SDM volume 3, 4.10.1: PCIDs begin in long mode, with PCID 0.
        let begins_pcids = value & !self.cr4 & CR4_PCIDE != 0 && (!long || self.cr3 & 0xfff != 0);
        if reserved || leaves_pae || changes_la57 || begins_pcids {
            return Err(GP0);
        }
        let pdptes = if self.is_pae(self.cr0, value) {
            Some(self.load_pdptes(self.cr3)?)
        } else {
            None
        };
        self.cr4 = value;
        self.pdptes = pdptes;
        self.paging_changed();
        self.mode_changed();
        Ok(())
    }

    /// MOV to CR3, and the CR3 of a new task.
    ///
    /// With PCIDs bit 63 asks to keep what is cached under the new one, of which nothing is.
    pub(crate) fn load_cr3(&mut self, value: u64) -> Result {
        let keep = if self.cr4 & CR4_PCIDE != 0 {
            1 << 63
        } else {
            0
        };
        let value = value & !keep;
        if self.is_long() && value >> self.cpuid.processor().maxphyaddr != 0 {
            return Err(GP0);
        }
        if self.is_pae(self.cr0, self.cr4) {
            self.pdptes = Some(self.load_pdptes(value)?);
        }
        self.cr3 = value;
        self.root_changed();
        Ok(())
    }
}

/// CLTS.
pub(crate) fn clts(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    require_ring0(cpu)?;
    cpu.cr0 &= !CR0_TS;
    Ok(())
}

/// LMSW: the low four bits of CR0; PE can be set, not cleared.
pub(crate) fn lmsw<S: Source>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    require_ring0(cpu)?;
    let value = u64::from(S::get::<u16>(cpu, p, op)?);
    let keep = cpu.cr0 & CR0_PE;
    cpu.write_cr0(cpu.cr0 & !0xf | value & 0xf | keep)?;
    cpu.events |= EVENT_BREAK;
    Ok(())
}

/// SMSW into a register of the operand size.
pub(crate) fn smsw<T: Width>(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result {
    check_umip(cpu)?;
    cpu.set_reg(op.r0, T::from_u64(cpu.cr0));
    Ok(())
}

/// SMSW, SLDT and STR to memory store 16 bits.
pub(crate) fn smsw_mem(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    check_umip(cpu)?;
    let value = cpu.cr0 as u16;
    cpu.write(p, op.segment, cpu.offset(op), value)
}

/// SLDT, and STR (`TASK`), into a register of the operand size.
pub(crate) fn store_selector<T: Width, const TASK: bool>(
    cpu: &mut Cpu,
    _: &mut dyn Platform,
    op: &Op,
) -> Result {
    require_protected(cpu)?;
    check_umip(cpu)?;
    let selector = if TASK {
        cpu.tr.selector
    } else {
        cpu.ldtr.selector
    };
    cpu.set_reg(op.r0, T::from_u64(u64::from(selector)));
    Ok(())
}

pub(crate) fn store_selector_mem<const TASK: bool>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    require_protected(cpu)?;
    check_umip(cpu)?;
    let selector = if TASK {
        cpu.tr.selector
    } else {
        cpu.ldtr.selector
    };
    cpu.write(p, op.segment, cpu.offset(op), selector)
}

/// LTR.
pub(crate) fn ltr<S: Source>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    require_protected(cpu)?;
    require_ring0(cpu)?;
    let selector: u16 = S::get(cpu, p, op)?;
    cpu.load_task_register(p, selector)
}

/// LLDT.
pub(crate) fn lldt<S: Source>(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    require_protected(cpu)?;
    require_ring0(cpu)?;
    let selector: u16 = S::get(cpu, p, op)?;
    cpu.load_ldt_register(p, selector)
}

/// LGDT, and LIDT (`INTERRUPT`).
pub(crate) fn load_table<const INTERRUPT: bool>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    require_ring0(cpu)?;
    let offset = cpu.offset(op);
    let limit: u16 = cpu.read(p, op.segment, offset)?;
    let at = offset.wrapping_add(2) & op.address_mask;
    let base = if cpu.code_bits == 64 {
        let base: u64 = cpu.read(p, op.segment, at)?;
        if !cpu.is_canonical_base(base) {
            return Err(GP0);
        }
        base
    } else {
        let base: u32 = cpu.read(p, op.segment, at)?;
        u64::from(if op.size == 2 { base & 0xff_ffff } else { base })
    };
    let table = TableRegister { base, limit };
    if INTERRUPT {
        cpu.idtr = table;
    } else {
        cpu.gdtr = table;
    }
    Ok(())
}

/// SGDT, and SIDT (`INTERRUPT`). The whole base is stored, as processors since the 386 do.
pub(crate) fn store_table<const INTERRUPT: bool>(
    cpu: &mut Cpu,
    p: &mut dyn Platform,
    op: &Op,
) -> Result {
    check_umip(cpu)?;
    let table = if INTERRUPT { cpu.idtr } else { cpu.gdtr };
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    let len = if cpu.code_bits == 64 { 10 } else { 6 };
    let linear = cpu.linear(op.segment, cpu.offset(op), len, crate::walk::Kind::Write)?;
    cpu.write_bytes(p, linear, op.segment, &bytes[..len])
}

/// MOV r, `DRn`. Intel SDM volume 3, 18.2.
pub(crate) fn mov_from_debug(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result {
    let number = debug_register(cpu, op.r1)?;
    set_control_width(cpu, op.r0, cpu.dr[number]);
    Ok(())
}

/// MOV `DRn`, r.
pub(crate) fn mov_to_debug(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result {
    let number = debug_register(cpu, op.r0)?;
    let value = control_width(cpu, op.r1);
    if number >= 6 && value >> 32 != 0 {
        return Err(GP0);
    }
    cpu.dr[number] = match number {
        6 => value & 0xe00f | crate::cpu::DR6_FIXED,
        7 => value & 0xffff_2fff | crate::cpu::DR7_FIXED,
        _ => value,
    };
    cpu.access_changed();
    cpu.events |= EVENT_BREAK;
    Ok(())
}

/// The register meant, after #UD for DR4 and DR5 under CR4.DE, #GP outside ring 0, and #DB under DR7.GD.
fn debug_register(cpu: &mut Cpu, number: u8) -> Result<usize> {
    let number = match number {
        4 | 5 if cpu.cr4 & CR4_DE != 0 => return Err(UD),
        4 => 6,
        5 => 7,
        n if n > 7 => return Err(UD),
        n => n,
    };
    require_ring0(cpu)?;
    if cpu.dr[7] & (1 << 13) != 0 {
        cpu.note_debug_condition(DR6_DETECTED);
        return Err(DB);
    }
    Ok(usize::from(number))
}

/// HLT.
pub(crate) fn hlt(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    require_ring0(cpu)?;
    cpu.halted = true;
    cpu.events |= EVENT_HALT | EVENT_BREAK;
    Ok(())
}

/// PAUSE.
pub(crate) fn pause(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    if cpu.pause_ends_run {
        cpu.limit = cpu.ticks + 1;
        cpu.events |= EVENT_BREAK | EVENT_POLL;
    }
    Ok(())
}

/// INVD, WBINVD, WBNOINVD: there is no cache to act on.
pub(crate) fn cache(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    require_ring0(cpu)
}

/// INVLPG.
pub(crate) fn invlpg(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result {
    require_ring0(cpu)?;
    let linear = cpu.base[usize::from(op.segment)].wrapping_add(cpu.offset(op)) & cpu.linear_mask;
    cpu.tlb.flush_page(linear);
    cpu.tell(|observer, context| observer.page_flushed(context, Gva(linear)));
    cpu.events |= EVENT_BREAK;
    Ok(())
}

/// INVPCID. Only the present PCID has anything cached. Intel SDM volume 2.
pub(crate) fn invpcid(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    if !cpu.cpuid.has_invpcid() {
        return Err(UD);
    }
    require_ring0(cpu)?;
    let kind = control_width(cpu, op.r0);
    let offset = cpu.offset(op);
    let low: u64 = cpu.read(p, op.segment, offset)?;
    let address: u64 = cpu.read(p, op.segment, offset.wrapping_add(8) & op.address_mask)?;
    let pcids = cpu.cr4 & CR4_PCIDE != 0;
    let present = if pcids { cpu.cr3 & 0xfff } else { 0 };
    let of_one = kind < 2;
    if kind > 3
        || low >> 12 != 0
        || of_one && !pcids && low != 0
        || kind == 0 && !cpu.is_canonical_base(address)
    {
        return Err(GP0);
    }
    if of_one && low != present {
        return Ok(());
    }
    match kind {
        0 => {
            cpu.tlb.flush_page(address);
            cpu.tell(|observer, context| observer.page_flushed(context, Gva(address)));
        }
        2 => cpu.paging_changed(),
        _ => cpu.root_changed(),
    }
    cpu.events |= EVENT_BREAK;
    Ok(())
}

/// RDMSR.
pub(crate) fn rdmsr(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    require_ring0(cpu)?;
    let value = cpu.read_msr(p, cpu.reg(1))?;
    cpu.set_reg(0, value as u32);
    cpu.set_reg(2, (value >> 32) as u32);
    Ok(())
}

/// WRMSR.
pub(crate) fn wrmsr(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    require_ring0(cpu)?;
    let value = u64::from(cpu.reg::<u32>(2)) << 32 | u64::from(cpu.reg::<u32>(0));
    cpu.write_msr(p, cpu.reg(1), value)?;
    cpu.events |= EVENT_BREAK;
    Ok(())
}

/// RDTSC.
pub(crate) fn rdtsc(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    if cpu.cr4 & CR4_TSD != 0 && cpu.cpl > 0 {
        return Err(GP0);
    }
    let tsc = cpu.tsc(p);
    cpu.set_reg(0, tsc as u32);
    cpu.set_reg(2, (tsc >> 32) as u32);
    Ok(())
}

/// RDTSCP.
pub(crate) fn rdtscp(cpu: &mut Cpu, p: &mut dyn Platform, op: &Op) -> Result {
    if !cpu.cpuid.has_rdtscp() {
        return Err(UD);
    }
    rdtsc(cpu, p, op)?;
    cpu.set_reg(1, cpu.msr.tsc_aux as u32);
    Ok(())
}

/// RDPMC: no counter exists.
pub(crate) fn rdpmc(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    if cpu.cpl > 0 && cpu.cr4 & CR4_PCE == 0 {
        return Err(GP0);
    }
    Err(GP0)
}

/// CPUID. The APIC's bit follows its enable bit. Intel SDM volume 3, 11.4.3.
pub(crate) fn cpuid(cpu: &mut Cpu, p: &mut dyn Platform, _: &Op) -> Result {
    let number = cpu.reg(0);
    let mut leaf = cpu.cpuid.leaf(number, cpu.reg(1), cpu.cr4);
    if matches!(number, 1 | 0x8000_0001) && !p.apic_enabled() {
        leaf[3] &= !EDX_APIC;
    }
    for (register, value) in [0, 3, 1, 2].into_iter().zip(leaf) {
        cpu.set_reg(register, value);
    }
    Ok(())
}

/// SWAPGS.
pub(crate) fn swapgs(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    if cpu.mode != Mode::Long64 {
        return Err(UD);
    }
    require_ring0(cpu)?;
    let base = &mut cpu.seg[usize::from(GS)].base;
    std::mem::swap(base, &mut cpu.msr.kernel_gs_base);
    cpu.base[usize::from(GS)] = *base;
    Ok(())
}

/// RDFSBASE and RDGSBASE (`GS_BASE`).
pub(crate) fn read_base<T: Width, const GS_BASE: bool>(
    cpu: &mut Cpu,
    _: &mut dyn Platform,
    op: &Op,
) -> Result {
    require_fsgsbase(cpu)?;
    let base = cpu.seg[usize::from(if GS_BASE { GS } else { FS })].base;
    cpu.set_reg(op.r0, T::from_u64(base));
    Ok(())
}

/// WRFSBASE and WRGSBASE (`GS_BASE`).
pub(crate) fn write_base<T: Width, const GS_BASE: bool>(
    cpu: &mut Cpu,
    _: &mut dyn Platform,
    op: &Op,
) -> Result {
    require_fsgsbase(cpu)?;
    let base = cpu.reg::<T>(op.r0).to_u64();
    if !cpu.is_canonical_base(base) {
        return Err(GP0);
    }
    cpu.seg[usize::from(if GS_BASE { GS } else { FS })].base = base;
    cpu.segments_changed();
    Ok(())
}

fn require_fsgsbase(cpu: &Cpu) -> Result {
    if cpu.mode == Mode::Long64 && cpu.cr4 & CR4_FSGSBASE != 0 {
        Ok(())
    } else {
        Err(UD)
    }
}

/// RDPKRU and WRPKRU (`WRITE`).
pub(crate) fn pkru<const WRITE: bool>(cpu: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Result {
    if cpu.cr4 & crate::cpu::CR4_PKE == 0 {
        return Err(UD);
    }
    if cpu.reg::<u32>(1) != 0 || WRITE && cpu.reg::<u32>(2) != 0 {
        return Err(GP0);
    }
    if WRITE {
        cpu.pkru = cpu.reg(0);
        cpu.paging_changed();
        cpu.events |= EVENT_BREAK | EVENT_POLL;
    } else {
        cpu.set_reg(0, cpu.pkru);
        cpu.set_reg(2, 0u32);
    }
    Ok(())
}

/// RDPID.
pub(crate) fn rdpid(cpu: &mut Cpu, _: &mut dyn Platform, op: &Op) -> Result {
    cpu.regs[usize::from(op.r0 & 15)] = cpu.msr.tsc_aux;
    Ok(())
}
