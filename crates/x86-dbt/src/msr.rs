//! Model-specific registers of the processor itself; the rest is the platform's to answer.

use crate::cpu::{Cpu, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, EVENT_BREAK};
use crate::exception::{GP0, Result};
use crate::platform::Platform;
use crate::segment::{FS, GS};

/// The registers with a value of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Msrs {
    pub(crate) star: u64,
    pub(crate) lstar: u64,
    pub(crate) cstar: u64,
    pub(crate) fmask: u64,
    pub(crate) kernel_gs_base: u64,
    pub(crate) sysenter_cs: u64,
    pub(crate) sysenter_esp: u64,
    pub(crate) sysenter_eip: u64,
    pub(crate) pat: u64,
    pub(crate) tsc_aux: u64,
    /// Added to the platform's time-stamp counter.
    pub(crate) tsc_offset: u64,
    pub(crate) mtrr_default: u64,
    pub(crate) mtrr: [u64; MTRRS.len()],
}

// Intel SDM volume 4, table 2-2; AMD APM volume 2, appendix A.
const TSC: u32 = 0x10;
const BIOS_SIGN_ID: u32 = 0x8b;
const MTRRCAP: u32 = 0xfe;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const PAT: u32 = 0x277;
const PKRS: u32 = 0x6e1;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const FMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
// AMD: read as zero, writes ignored, so that an AMD-aware kernel finds nothing to do.
const AMD_QUIET: [u32; 8] = [
    0xc001_0000, // PERF_CTL0-3
    0xc001_0001,
    0xc001_0002,
    0xc001_0003,
    0xc001_0010, // SYSCFG
    0xc001_0015, // HWCR
    0xc001_0055, // interrupt pending and C1E
    0xc001_1029, // DE_CFG
];
const AMD_PERF_COUNTERS: std::ops::RangeInclusive<u32> = 0xc001_0004..=0xc001_0007;
/// Eight variable ranges and the eleven fixed ones.
const MTRRS: [u32; 27] = [
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c,
    0x20d, 0x20e, 0x20f, 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e,
    0x26f,
];

impl Default for Msrs {
    fn default() -> Self {
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            // Intel SDM volume 3, 12.12.4.
            pat: 0x0007_0406_0007_0406,
            tsc_aux: 0,
            tsc_offset: 0,
            // MTRRs off: all memory is treated alike.
            mtrr_default: 0,
            mtrr: [0; MTRRS.len()],
        }
    }
}

impl Cpu {
    /// The guest's time-stamp counter.
    pub(crate) fn tsc(&mut self, p: &mut dyn Platform) -> u64 {
        p.set_retired(self.ticks);
        p.tsc().wrapping_add(self.msr.tsc_offset)
    }

    pub(crate) fn read_msr(&mut self, p: &mut dyn Platform, index: u32) -> Result<u64> {
        Ok(match index {
            TSC => self.tsc(p),
            EFER => self.efer,
            STAR => self.msr.star,
            LSTAR => self.msr.lstar,
            CSTAR => self.msr.cstar,
            FMASK => self.msr.fmask,
            FS_BASE => self.seg[usize::from(FS)].base,
            GS_BASE => self.seg[usize::from(GS)].base,
            KERNEL_GS_BASE => self.msr.kernel_gs_base,
            TSC_AUX => self.msr.tsc_aux,
            SYSENTER_CS => self.msr.sysenter_cs,
            SYSENTER_ESP => self.msr.sysenter_esp,
            SYSENTER_EIP => self.msr.sysenter_eip,
            PKRS if self.cpuid.has_pks() => self.pkrs.into(),
            PAT => self.msr.pat,
            // Write-combining, fixed ranges, eight variable ranges.
            MTRRCAP => 0x508,
            MTRR_DEF_TYPE => self.msr.mtrr_default,
            BIOS_SIGN_ID | MCG_CAP | MCG_STATUS => 0,
            _ if AMD_QUIET.contains(&index) || AMD_PERF_COUNTERS.contains(&index) => 0,
            _ => match MTRRS.iter().position(|&mtrr| mtrr == index) {
                Some(at) => self.msr.mtrr[at],
                None => {
                    self.before_device(p);
                    p.msr_read(index).ok_or(GP0)?
                }
            },
        })
    }

    pub(crate) fn write_msr(&mut self, p: &mut dyn Platform, index: u32, value: u64) -> Result {
        match index {
            TSC => {
                let now = self.tsc(p).wrapping_sub(self.msr.tsc_offset);
                self.msr.tsc_offset = value.wrapping_sub(now);
            }
            EFER => self.write_efer(value)?,
            STAR => self.msr.star = value,
            LSTAR => self.msr.lstar = self.canonical(value)?,
            CSTAR => self.msr.cstar = self.canonical(value)?,
            FMASK => self.msr.fmask = value & 0xffff_ffff,
            FS_BASE => self.set_base(FS, value)?,
            GS_BASE => self.set_base(GS, value)?,
            KERNEL_GS_BASE => self.msr.kernel_gs_base = self.canonical(value)?,
            TSC_AUX => self.msr.tsc_aux = value & 0xffff_ffff,
            SYSENTER_CS => self.msr.sysenter_cs = value & 0xffff,
            SYSENTER_ESP => self.msr.sysenter_esp = self.canonical(value)?,
            SYSENTER_EIP => self.msr.sysenter_eip = self.canonical(value)?,
            PKRS if self.cpuid.has_pks() => {
                self.pkrs = u32::try_from(value).map_err(|_| GP0)?;
                self.paging_changed();
                self.events |= EVENT_BREAK;
            }
            PAT if is_pat(value) => self.msr.pat = value,
            MTRR_DEF_TYPE if value & !0xcff == 0 => self.msr.mtrr_default = value,
            BIOS_SIGN_ID | MCG_STATUS => {}
            _ if AMD_QUIET.contains(&index) || AMD_PERF_COUNTERS.contains(&index) => {}
            PAT | MTRR_DEF_TYPE | MTRRCAP | MCG_CAP => return Err(GP0),
            _ => match MTRRS.iter().position(|&mtrr| mtrr == index) {
                Some(at) => self.msr.mtrr[at] = value,
                None => {
                    self.before_device(p);
                    if !p.msr_write(index, value) {
                        return Err(GP0);
                    }
                }
            },
        }
        Ok(())
    }

    fn canonical(&self, value: u64) -> Result<u64> {
        if self.is_canonical_base(value) {
            Ok(value)
        } else {
            Err(GP0)
        }
    }

    fn set_base(&mut self, segment: u8, value: u64) -> Result {
        self.seg[usize::from(segment)].base = self.canonical(value)?;
        self.segments_changed();
        Ok(())
    }

    fn write_efer(&mut self, value: u64) -> Result {
        let known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
        let toggles_lme = (value ^ self.efer) & EFER_LME != 0;
        if value & !known != 0 || toggles_lme && self.cr0 & crate::cpu::CR0_PG != 0 {
            return Err(GP0);
        }
        self.efer = value & !EFER_LMA | self.efer & EFER_LMA;
        self.paging_changed();
        Ok(())
    }
}

/// Every byte is a memory type: 0, 1, 4, 5, 6 or 7.
fn is_pat(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|kind| matches!(kind, 0 | 1 | 4..=7))
}
