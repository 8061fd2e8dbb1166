//! The processor state in which each kind of guest is entered, as plain data for any engine.

use crate::layout::{BOOT_GDT, BOOT_PAGE_TABLES, MULTIBOOT_INFO, PVH_START_INFO, ZERO_PAGE};

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes: the last valid offset.
    pub limit: u32,
    /// Type (bits 3:0), S (4), DPL (6:5), P (7), AVL (12), L (13), D/B (14), G (15): the layout of
    /// bits 55:40 of a descriptor.
    pub access: u16,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// What a processor holds when it starts. General registers not named are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartState {
    /// First instruction, relative to CS.
    pub rip: u64,
    /// Multiboot: its magic number.
    pub rax: u64,
    /// PVH and Multiboot: start information.
    pub rbx: u64,
    /// After reset: the processor's signature.
    pub rdx: u64,
    /// Linux: the zero page.
    pub rsi: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Flags.
    pub rflags: u64,
    /// Control registers 0, 3 and 4.
    pub cr0: u64,
    /// Page table root.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended feature enables.
    pub efer: u64,
    /// Code segment.
    pub cs: Segment,
    /// DS, ES, FS, GS and SS alike.
    pub data: Segment,
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Global descriptor table.
    pub gdt: DescriptorTable,
    /// Interrupt descriptor table.
    pub idt: DescriptorTable,
}

impl StartState {
    /// The 64-bit entry of the Linux boot protocol: paging over an identity map, flat segments,
    /// RSI at the zero page (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
    #[must_use]
    pub fn linux_64(entry: u64) -> Self {
        Self {
            rip: entry,
            rsi: ZERO_PAGE,
            rsp: BOOT_PAGE_TABLES - 16,
            cr0: CR0_PE | CR0_ET | CR0_NE | CR0_PG,
            cr3: BOOT_PAGE_TABLES,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            cs: Segment {
                selector: BOOT_CS,
                base: 0,
                limit: u32::MAX,
                access: 0xa09b,
            },
            ..Self::flat_32()
        }
    }

    /// The PVH entry: 32-bit protected mode, paging off, RBX at the start information (Xen
    /// docs/misc/pvh.pandoc).
    #[must_use]
    pub fn pvh(entry: u64) -> Self {
        Self {
            rip: entry,
            rbx: PVH_START_INFO,
            ..Self::flat_32()
        }
    }

    /// The Multiboot entry: 32-bit protected mode, paging off, EBX at the boot information
    /// (Multiboot Specification 0.6.96, 3.2).
    #[must_use]
    pub fn multiboot(entry: u64) -> Self {
        Self {
            rip: entry,
            rax: MULTIBOOT_MAGIC,
            rbx: MULTIBOOT_INFO,
            ..Self::flat_32()
        }
    }

    /// Real mode at `segment:offset`, as firmware enters a boot sector.
    #[must_use]
    pub fn real_mode(segment: u16, offset: u16) -> Self {
        let code = Segment {
            selector: segment,
            base: u64::from(segment) << 4,
            ..REAL_MODE
        };
        Self {
            rip: offset.into(),
            cs: Segment {
                access: 0x9b,
                ..code
            },
            data: REAL_MODE,
            rsp: 0x7c00,
            cr0: CR0_ET,
            gdt: DescriptorTable {
                base: 0,
                limit: 0xffff,
            },
            ..Self::flat_32()
        }
    }

    /// After RESET: real mode at `0xffff_fff0` (SDM volume 3, table 10-1).
    #[must_use]
    pub fn reset() -> Self {
        let cs = Segment {
            selector: 0xf000,
            base: 0xffff_0000,
            limit: 0xffff,
            access: 0x9b,
        };
        let cr0 = CR0_ET | CR0_NW | CR0_CD;
        Self {
            rip: 0xfff0,
            rsp: 0,
            rdx: 0x600,
            cr0,
            cs,
            ..Self::real_mode(0, 0)
        }
    }

    fn flat_32() -> Self {
        Self {
            rip: 0,
            rax: 0,
            rbx: 0,
            rdx: 0,
            rsi: 0,
            rsp: 0,
            rflags: 2,
            cr0: CR0_PE | CR0_ET,
            cr3: 0,
            cr4: 0,
            efer: 0,
            cs: Segment {
                selector: BOOT_CS,
                base: 0,
                limit: u32::MAX,
                access: 0xc09b,
            },
            data: Segment {
                selector: BOOT_DS,
                base: 0,
                limit: u32::MAX,
                access: 0xc093,
            },
            tr: Segment {
                selector: 0,
                base: 0,
                limit: 0xffff,
                access: 0x8b,
            },
            ldtr: Segment {
                selector: 0,
                base: 0,
                limit: 0xffff,
                access: 0x82,
            },
            gdt: DescriptorTable {
                base: BOOT_GDT,
                limit: BOOT_GDT_LIMIT,
            },
            idt: DescriptorTable {
                base: 0,
                limit: 0xffff,
            },
        }
    }
}

/// The descriptors at [`BOOT_GDT`]: two empty ones, 64-bit code, flat data.
pub(crate) const BOOT_DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const BOOT_GDT_LIMIT: u16 = 31;
// boot.rst: "__BOOT_CS (0x10) and __BOOT_DS (0x18)".
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
const REAL_MODE: Segment = Segment {
    selector: 0,
    base: 0,
    limit: 0xffff,
    access: 0x93,
};
const MULTIBOOT_MAGIC: u64 = 0x2bad_b002;
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
