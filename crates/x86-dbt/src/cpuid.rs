//! What the processor says of itself, and which control bits follow from that.

use guest_paging::x86::Processor;

use crate::cpu::{
    CR4_DE, CR4_FSGSBASE, CR4_LA57, CR4_MCE, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_PAE, CR4_PCE,
    CR4_PCIDE, CR4_PGE, CR4_PKE, CR4_PKS, CR4_PSE, CR4_PVI, CR4_SMAP, CR4_SMEP, CR4_TSD, CR4_UMIP,
    CR4_VME,
};

pub use guest_paging::x86::Vendor;

/// The CPUID table of a processor.
///
/// Starts from what this crate implements; features can be withheld, none can be claimed that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpuid {
    vendor: Vendor,
    features: Features,
    /// Bits of a physical address.
    maxphyaddr: u8,
    /// Leaf 0x15 or nothing: the TSC's frequency in Hz.
    tsc_hz: u64,
    apic_id: u8,
    /// Processors of the package, each a core of its own.
    processors: u8,
}

/// The feature bits that can be withheld, by leaf and register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Features {
    /// CPUID.1:EDX.
    pub leaf1_edx: u32,
    /// CPUID.1:ECX.
    pub leaf1_ecx: u32,
    /// CPUID.7.0:EBX.
    pub leaf7_ebx: u32,
    /// CPUID.7.0:ECX.
    pub leaf7_ecx: u32,
    /// CPUID.80000001:EDX.
    pub ext_edx: u32,
    /// CPUID.80000001:ECX.
    pub ext_ecx: u32,
}

// CPUID.1:EDX. Intel SDM volume 2, table 3-11.
/// VME, CR4.VME and CR4.PVI.
pub const EDX_VME: u32 = 1 << 1;
/// The local APIC.
pub const EDX_APIC: u32 = 1 << 9;
/// FXSAVE.
pub const EDX_FXSR: u32 = 1 << 24;
/// SSE.
pub const EDX_SSE: u32 = 1 << 25;
/// More than one logical processor in the package.
const EDX_HTT: u32 = 1 << 28;
/// MTRRs.
pub const EDX_MTRR: u32 = 1 << 12;
// CPUID.1:ECX.
/// PCID: every load of CR3 forgets what is not global all the same, as a processor may.
pub const ECX_PCID: u32 = 1 << 17;
/// x2APIC.
pub const ECX_X2APIC: u32 = 1 << 21;
/// The LAPIC timer's TSC-deadline mode.
pub const ECX_TSC_DEADLINE: u32 = 1 << 24;

const fn bits(list: &[u32]) -> u32 {
    let (mut mask, mut n) = (0, 0);
    while n < list.len() {
        mask |= 1 << list[n];
        n += 1;
    }
    mask
}

impl Features {
    /// All that is implemented.
    ///
    /// 1:EDX: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE-36 CLFLUSH MMX FXSR SSE SSE2.
    /// 1:ECX: SSE3 PCLMULQDQ SSSE3 CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT TSC-deadline AES.
    /// 7:EBX: FSGSBASE SMEP SMAP ADX CLFLUSHOPT CLWB ERMS INVPCID SHA. 7:ECX: UMIP PKU LA57 RDPID PKS.
    /// 80000001: SYSCALL NX 1GB-pages RDTSCP LM; LAHF CR8 LZCNT.
    pub const ALL: Self = Self {
        leaf1_edx: bits(&[
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26,
        ]),
        leaf1_ecx: bits(&[0, 1, 9, 13, 17, 19, 20, 21, 22, 23, 24, 25]),
        leaf7_ebx: bits(&[0, 7, 9, 10, 19, 20, 23, 24, 29]),
        leaf7_ecx: bits(&[2, 3, 16, 22, 31]),
        ext_edx: bits(&[11, 20, 26, 27, 29]),
        ext_ecx: bits(&[0, 4, 5]),
    };

    /// What the example machines offer: everything that costs a guest nothing to ignore.
    pub const DEFAULT: Self = Self {
        leaf1_edx: Self::ALL.leaf1_edx & !EDX_MTRR,
        leaf1_ecx: Self::ALL.leaf1_ecx & !ECX_PCID,
        leaf7_ebx: bits(&[0, 7, 9, 19, 23, 24]),
        leaf7_ecx: bits(&[2, 22]),
        ..Self::ALL
    };

    fn and(self, other: Self) -> Self {
        Self {
            leaf1_edx: self.leaf1_edx & other.leaf1_edx,
            leaf1_ecx: self.leaf1_ecx & other.leaf1_ecx,
            leaf7_ebx: self.leaf7_ebx & other.leaf7_ebx,
            leaf7_ecx: self.leaf7_ecx & other.leaf7_ecx,
            ext_edx: self.ext_edx & other.ext_edx,
            ext_ecx: self.ext_ecx & other.ext_ecx,
        }
    }
}

impl Cpuid {
    /// A processor of `vendor` that offers `features`, as far as they are implemented.
    ///
    /// `tsc_hz` is told in leaf 0x15 (0 leaves it out).
    #[must_use]
    pub fn new(vendor: Vendor, features: Features, tsc_hz: u64) -> Self {
        Self {
            vendor,
            features: features.and(Features::ALL),
            maxphyaddr: 40,
            tsc_hz,
            apic_id: 0,
            processors: 1,
        }
    }

    /// The same processor with another initial APIC ID.
    #[must_use]
    pub fn with_apic_id(mut self, apic_id: u8) -> Self {
        self.apic_id = apic_id;
        self
    }

    /// The same processor as one of `count` cores of a package, with APIC ids from 0.
    ///
    /// # Panics
    ///
    /// When `count` is zero, or 128 or more.
    #[must_use]
    pub fn with_processors(mut self, count: u8) -> Self {
        assert!((1..128).contains(&count), "{count} processors");
        self.processors = count;
        self
    }

    /// Whose rules apply where vendors differ.
    #[must_use]
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// What paging depends on.
    #[must_use]
    pub fn processor(&self) -> Processor {
        Processor {
            vendor: self.vendor,
            maxphyaddr: self.maxphyaddr,
            gib_pages: self.features.ext_edx & 1 << 26 != 0,
            pse36: self.features.leaf1_edx & 1 << 17 != 0,
        }
    }

    /// Family, model and stepping: CPUID.1:EAX, and EDX at reset.
    #[must_use]
    pub fn signature(&self) -> u32 {
        match self.vendor {
            // Family 15, model 107, stepping 1: an Athlon 64, which no kernel has a quirk for that matters here.
            Vendor::Amd => 0x0006_0fb1,
            // Family 6, model 15, stepping 11: a Core 2.
            Vendor::Intel => 0x0000_06fb,
        }
    }

    /// EAX, EBX, ECX, EDX of a leaf.
    #[must_use]
    pub fn leaf(&self, leaf: u32, subleaf: u32, cr4: u64) -> [u32; 4] {
        let f = self.features;
        match leaf {
            0 => {
                let [ebx, edx, ecx] = self.vendor_words();
                [0x15, ebx, ecx, edx]
            }
            1 => [
                self.signature(),
                u32::from(self.apic_id) << 24 | u32::from(self.processors) << 16 | 8 << 8,
                f.leaf1_ecx,
                f.leaf1_edx | if self.has_siblings() { EDX_HTT } else { 0 },
            ],
            4 if self.has_siblings() && self.vendor == Vendor::Intel => self.caches(subleaf),
            0xb if self.has_siblings() => self.topology(subleaf),
            7 if subleaf == 0 => {
                let ospke = if cr4 & CR4_PKE != 0 { 1 << 4 } else { 0 };
                [0, f.leaf7_ebx, f.leaf7_ecx | ospke, 0]
            }
            // A crystal of 1 MHz.
            0x15 if self.tsc_hz > 0 => [1, (self.tsc_hz / 1_000_000) as u32, 1_000_000, 0],
            0x8000_0000 => {
                let [ebx, edx, ecx] = self.vendor_words();
                [0x8000_0008, ebx, ecx, edx]
            }
            0x8000_0001 => [
                self.signature(),
                0,
                f.ext_ecx | self.amd_cores(),
                f.ext_edx | self.amd_duplicates(),
            ],
            0x8000_0002..=0x8000_0004 => brand(leaf),
            // Invariant TSC.
            0x8000_0007 => [0, 0, 0, 1 << 8],
            0x8000_0008 => {
                let linear = if self.has_la57() { 57 } else { 48 };
                [
                    linear << 8 | u32::from(self.maxphyaddr),
                    0,
                    self.amd_core_count(),
                    0,
                ]
            }
            _ => [0; 4],
        }
    }

    fn has_siblings(&self) -> bool {
        self.processors > 1
    }

    /// Bits of an APIC id that tell the cores of the package apart.
    fn core_bits(&self) -> u32 {
        u32::from(self.processors).next_power_of_two().ilog2()
    }

    /// Leaf 4: where Intel's processors have the number of cores, beside a cache. The cache is data, 32 KiB in 8 ways of
    /// 64-byte lines, each core's own. Intel SDM volume 2, table 3-8.
    fn caches(&self, subleaf: u32) -> [u32; 4] {
        let cores = (1 << self.core_bits()) - 1;
        match subleaf {
            0 => [cores << 26 | 1 << 8 | 1 << 5 | 1, 7 << 22 | 63, 63, 0],
            _ => [0; 4],
        }
    }

    /// Leaf 0Bh: one thread a core, and how many cores.
    fn topology(&self, subleaf: u32) -> [u32; 4] {
        const THREADS: u32 = 1 << 8;
        const CORES: u32 = 2 << 8;
        let id = u32::from(self.apic_id);
        match subleaf {
            0 => [0, 1, THREADS, id],
            1 => [self.core_bits(), u32::from(self.processors), CORES | 1, id],
            _ => [0, 0, subleaf & 0xff, id],
        }
    }

    /// `CmpLegacy`: the siblings are cores, not threads. AMD APM volume 3, appendix E.4.1.
    fn amd_cores(&self) -> u32 {
        const CMP_LEGACY: u32 = 1 << 1;
        if self.vendor == Vendor::Amd && self.has_siblings() {
            CMP_LEGACY
        } else {
            0
        }
    }

    /// CPUID.80000008:ECX: bits of an APIC id that are the core's, and how many cores more than one.
    fn amd_core_count(&self) -> u32 {
        if self.vendor == Vendor::Amd {
            self.core_bits() << 12 | (u32::from(self.processors) - 1)
        } else {
            0
        }
    }

    /// AMD repeats part of leaf 1 in the extended leaf. AMD APM volume 3, E.4.2.
    fn amd_duplicates(&self) -> u32 {
        const SHARED: u32 = 0x0183_f3ff;
        if self.vendor == Vendor::Amd {
            self.features.leaf1_edx & SHARED
        } else {
            0
        }
    }

    fn vendor_words(&self) -> [u32; 3] {
        let name: &[u8; 12] = match self.vendor {
            Vendor::Amd => b"AuthenticAMD",
            Vendor::Intel => b"GenuineIntel",
        };
        [0, 4, 8].map(|at| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]))
    }

    pub(crate) fn has_smap(&self) -> bool {
        self.features.leaf7_ebx & 1 << 20 != 0
    }

    pub(crate) fn has_pks(&self) -> bool {
        self.features.leaf7_ecx & 1 << 31 != 0
    }

    pub(crate) fn has_invpcid(&self) -> bool {
        self.features.leaf7_ebx & 1 << 10 != 0
    }

    pub(crate) fn has_la57(&self) -> bool {
        self.features.leaf7_ecx & 1 << 16 != 0
    }

    pub(crate) fn has_rdtscp(&self) -> bool {
        self.features.ext_edx & 1 << 27 != 0
    }

    /// The features of this table.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// The bits of CR4 that exist.
    pub(crate) fn cr4_mask(&self) -> u64 {
        let f = self.features;
        let mut mask = CR4_TSD
            | CR4_DE
            | CR4_PSE
            | CR4_PAE
            | CR4_MCE
            | CR4_PGE
            | CR4_PCE
            | CR4_OSFXSR
            | CR4_OSXMMEXCPT;
        let optional = [
            (f.leaf1_edx, 1, CR4_VME | CR4_PVI),
            (f.leaf1_ecx, 17, CR4_PCIDE),
            (f.leaf7_ebx, 0, CR4_FSGSBASE),
            (f.leaf7_ebx, 7, CR4_SMEP),
            (f.leaf7_ebx, 20, CR4_SMAP),
            (f.leaf7_ecx, 2, CR4_UMIP),
            (f.leaf7_ecx, 3, CR4_PKE),
            (f.leaf7_ecx, 31, CR4_PKS),
            (f.leaf7_ecx, 16, CR4_LA57),
        ];
        for (word, bit, control) in optional {
            if word >> bit & 1 != 0 {
                mask |= control;
            }
        }
        mask
    }
}

/// One third of the brand string.
fn brand(leaf: u32) -> [u32; 4] {
    const NAME: &[u8; 48] = b"softmetal x86-dbt virtual processor\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let start = (leaf - 0x8000_0002) as usize * 16;
    [0, 4, 8, 12].map(|at| {
        let at = start + at;
        u32::from_le_bytes([NAME[at], NAME[at + 1], NAME[at + 2], NAME[at + 3]])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_implemented_cannot_be_claimed() {
        let mut features = Features::ALL;
        features.leaf1_ecx = u32::MAX;
        let cpuid = Cpuid::new(Vendor::Amd, features, 0);
        // AVX and XSAVE.
        assert_eq!(cpuid.leaf(1, 0, 0)[2] & (1 << 28 | 1 << 26), 0);
    }

    #[test]
    fn a_withheld_feature_takes_its_control_bit_along() {
        let mut features = Features::ALL;
        assert_ne!(
            Cpuid::new(Vendor::Amd, features, 0).cr4_mask() & CR4_SMEP,
            0
        );
        features.leaf7_ebx &= !(1 << 7);
        assert_eq!(
            Cpuid::new(Vendor::Amd, features, 0).cr4_mask() & CR4_SMEP,
            0
        );
    }

    #[test]
    fn each_of_several_processors_knows_its_place() {
        for (vendor, count, bits) in [(Vendor::Amd, 4, 2), (Vendor::Intel, 3, 2)] {
            let cpuid = Cpuid::new(vendor, Features::ALL, 0).with_processors(count);
            let third = cpuid.with_apic_id(2);
            let [_, ebx, _, edx] = third.leaf(1, 0, 0);
            assert_eq!((ebx >> 24, ebx >> 16 & 0xff), (2, count.into()));
            assert_ne!(edx & EDX_HTT, 0);
            assert_eq!(third.leaf(0xb, 0, 0), [0, 1, 0x100, 2]);
            assert_eq!(third.leaf(0xb, 1, 0), [bits, count.into(), 0x201, 2]);
            assert_eq!(third.leaf(0xb, 2, 0), [0, 0, 2, 2]);
        }
        let amd = Cpuid::new(Vendor::Amd, Features::ALL, 0).with_processors(4);
        assert_eq!(amd.leaf(0x8000_0008, 0, 0)[2], 2 << 12 | 3);
        assert_ne!(amd.leaf(0x8000_0001, 0, 0)[2] & 2, 0);
        let intel = Cpuid::new(Vendor::Intel, Features::ALL, 0).with_processors(4);
        assert_eq!(intel.leaf(4, 0, 0)[0] >> 26, 3);
        assert_eq!(intel.leaf(4, 1, 0), [0; 4]);
    }

    #[test]
    fn one_processor_has_no_siblings() {
        let cpuid = Cpuid::new(Vendor::Amd, Features::ALL, 0);
        let [_, ebx, _, edx] = cpuid.leaf(1, 0, 0);
        assert_eq!((ebx >> 16 & 0xff, edx & EDX_HTT), (1, 0));
        assert_eq!(cpuid.leaf(0xb, 0, 0), [0; 4]);
        assert_eq!(cpuid.leaf(0x8000_0008, 0, 0)[2], 0);
    }

    #[test]
    fn the_vendor_is_spelled_over_three_registers() {
        let [_, ebx, ecx, edx] = Cpuid::new(Vendor::Intel, Features::ALL, 0).leaf(0, 0, 0);
        let name: Vec<u8> = [ebx, edx, ecx]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert_eq!(name, b"GenuineIntel");
    }
}
