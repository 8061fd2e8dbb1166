//! The registers of the 82540EM: offsets into BAR 0, reset values, writable bits.
//!
//! Intel PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (317453-006),
//! table 13-2 and the sections after it.

// General.
pub const CTRL: u32 = 0x0000;
pub const STATUS: u32 = 0x0008;
pub const EECD: u32 = 0x0010;
pub const EERD: u32 = 0x0014;
pub const CTRL_EXT: u32 = 0x0018;
pub const MDIC: u32 = 0x0020;
pub const FCAL: u32 = 0x0028;
pub const FCAH: u32 = 0x002c;
pub const FCT: u32 = 0x0030;
pub const VET: u32 = 0x0038;
pub const LEDCTL: u32 = 0x0e00;
pub const PBA: u32 = 0x1000;
// Interrupts.
pub const ICR: u32 = 0x00c0;
pub const ITR: u32 = 0x00c4;
pub const ICS: u32 = 0x00c8;
pub const IMS: u32 = 0x00d0;
pub const IMC: u32 = 0x00d8;
// Receive.
pub const RCTL: u32 = 0x0100;
pub const FCTTV: u32 = 0x0170;
pub const FCRTL: u32 = 0x2160;
pub const FCRTH: u32 = 0x2168;
pub const RDBAL: u32 = 0x2800;
pub const RDBAH: u32 = 0x2804;
pub const RDLEN: u32 = 0x2808;
pub const RDH: u32 = 0x2810;
pub const RDT: u32 = 0x2818;
pub const RDTR: u32 = 0x2820;
pub const RXDCTL: u32 = 0x2828;
pub const RADV: u32 = 0x282c;
pub const RSRPD: u32 = 0x2c00;
pub const RXCSUM: u32 = 0x5000;
pub const MTA: u32 = 0x5200;
pub const RAL: u32 = 0x5400;
pub const VFTA: u32 = 0x5600;
// Transmit.
pub const TCTL: u32 = 0x0400;
pub const TIPG: u32 = 0x0410;
pub const AIFS: u32 = 0x0458;
pub const TDBAL: u32 = 0x3800;
pub const TDBAH: u32 = 0x3804;
pub const TDLEN: u32 = 0x3808;
pub const TDH: u32 = 0x3810;
pub const TDT: u32 = 0x3818;
pub const TIDV: u32 = 0x3820;
pub const TXDCTL: u32 = 0x3828;
pub const TADV: u32 = 0x382c;
pub const TSPMT: u32 = 0x3830;
// Wake-up and management.
pub const WUC: u32 = 0x5800;
pub const WUFC: u32 = 0x5808;
pub const WUS: u32 = 0x5810;
pub const MANC: u32 = 0x5820;
pub const IPAV: u32 = 0x5838;
pub const IP4AT: u32 = 0x5840;

// CTRL, 13.4.1.
pub const CTRL_SLU: u32 = 1 << 6;
pub const CTRL_RST: u32 = 1 << 26;
pub const CTRL_VME: u32 = 1 << 30;
pub const CTRL_PHY_RST: u32 = 1 << 31;
// STATUS, 13.4.2.
pub const STATUS_LU: u32 = 1 << 1;
// ICR, 13.4.17.
pub const ICR_TXDW: u32 = 1 << 0;
pub const ICR_TXQE: u32 = 1 << 1;
pub const ICR_LSC: u32 = 1 << 2;
pub const ICR_RXDMT0: u32 = 1 << 4;
pub const ICR_RXO: u32 = 1 << 6;
pub const ICR_RXT0: u32 = 1 << 7;
pub const ICR_MDAC: u32 = 1 << 9;
pub const ICR_TXD_LOW: u32 = 1 << 15;
/// All causes there are.
pub const ICR_CAUSES: u32 = 0x0001_f6df;
// RCTL, 13.4.22.
pub const RCTL_EN: u32 = 1 << 1;
pub const RCTL_UPE: u32 = 1 << 3;
pub const RCTL_MPE: u32 = 1 << 4;
pub const RCTL_LPE: u32 = 1 << 5;
pub const RCTL_LBM_SHIFT: u32 = 6;
pub const RCTL_RDMTS_SHIFT: u32 = 8;
pub const RCTL_MO_SHIFT: u32 = 12;
pub const RCTL_BAM: u32 = 1 << 15;
pub const RCTL_BSIZE_SHIFT: u32 = 16;
pub const RCTL_VFE: u32 = 1 << 18;
pub const RCTL_CFIEN: u32 = 1 << 19;
pub const RCTL_CFI: u32 = 1 << 20;
pub const RCTL_BSEX: u32 = 1 << 25;
pub const RCTL_SECRC: u32 = 1 << 26;
// RXCSUM, 13.5.15.
pub const RXCSUM_IPOFL: u32 = 1 << 8;
pub const RXCSUM_TUOFL: u32 = 1 << 9;
// TCTL, 13.4.33.
pub const TCTL_EN: u32 = 1 << 1;
pub const TCTL_PSP: u32 = 1 << 3;
// RAH, 13.5.3.
pub const RAH_AV: u32 = 1 << 31;
// RDTR and TIDV, 13.4.30 and 13.4.44: "flush partial descriptor block", which reads as 0.
pub const FLUSH: u32 = 1 << 31;

// Statistics, 13.7: cleared when read, and they stop at their highest value.
pub const STATISTICS: u32 = 0x4000;
pub const STATISTICS_END: u32 = 0x4100;
pub const MPC: u32 = 0x4010;
pub const PRC64: u32 = 0x405c;
pub const GPRC: u32 = 0x4074;
pub const BPRC: u32 = 0x4078;
pub const MPRC: u32 = 0x407c;
pub const GPTC: u32 = 0x4080;
pub const GORCL: u32 = 0x4088;
pub const GORCH: u32 = 0x408c;
pub const GOTCL: u32 = 0x4090;
pub const GOTCH: u32 = 0x4094;
pub const RNBC: u32 = 0x40a0;
pub const RUC: u32 = 0x40a4;
pub const ROC: u32 = 0x40ac;
pub const TORL: u32 = 0x40c0;
pub const TORH: u32 = 0x40c4;
pub const TOTL: u32 = 0x40c8;
pub const TOTH: u32 = 0x40cc;
pub const TPR: u32 = 0x40d0;
pub const TPT: u32 = 0x40d4;
pub const PTC64: u32 = 0x40d8;
pub const MPTC: u32 = 0x40f0;
pub const BPTC: u32 = 0x40f4;
pub const TSCTC: u32 = 0x40f8;

/// One past the last register; the packet buffer memory above it is not modelled.
pub const END: u32 = 0x6000;

/// The manual's name of the register at `offset`, for tables of exits; of arrays, that of the array.
#[must_use]
pub fn name(offset: u32) -> &'static str {
    let within = |start: u32, length: u32| (start..start + length).contains(&offset);
    let found = NAMES.iter().find(|(register, _)| *register == offset);
    match found {
        Some((_, name)) => name,
        None if within(STATISTICS, 0x100) => "statistics",
        None if within(MTA, 0x200) => "MTA",
        None if within(RAL, 0x80) => "RAL, RAH",
        None if within(VFTA, 0x200) => "VFTA",
        None => "other",
    }
}

const NAMES: [(u32, &str); 34] = [
    (CTRL, "CTRL"),
    (STATUS, "STATUS"),
    (EECD, "EECD"),
    (EERD, "EERD"),
    (CTRL_EXT, "CTRL_EXT"),
    (MDIC, "MDIC"),
    (ICR, "ICR"),
    (ITR, "ITR"),
    (ICS, "ICS"),
    (IMS, "IMS"),
    (IMC, "IMC"),
    (RCTL, "RCTL"),
    (RDBAL, "RDBAL"),
    (RDBAH, "RDBAH"),
    (RDLEN, "RDLEN"),
    (RDH, "RDH"),
    (RDT, "RDT"),
    (RDTR, "RDTR"),
    (RXDCTL, "RXDCTL"),
    (RADV, "RADV"),
    (RXCSUM, "RXCSUM"),
    (TCTL, "TCTL"),
    (TIPG, "TIPG"),
    (AIFS, "AIFS"),
    (TDBAL, "TDBAL"),
    (TDBAH, "TDBAH"),
    (TDLEN, "TDLEN"),
    (TDH, "TDH"),
    (TDT, "TDT"),
    (TIDV, "TIDV"),
    (TXDCTL, "TXDCTL"),
    (TADV, "TADV"),
    (MANC, "MANC"),
    (PBA, "PBA"),
];

/// What a write of 32 bits may change in a register that only stores, 0 for all others.
pub(crate) fn writable(offset: u32) -> u32 {
    match offset {
        CTRL_EXT | FCAL | FCAH | FCT | VET | FCTTV | FCRTL | FCRTH | LEDCTL | PBA | RXDCTL
        | RXCSUM | TIPG | AIFS | TXDCTL | TSPMT | WUC | WUFC | MANC | IPAV | RSRPD => u32::MAX,
        // All but the reserved bits 0, 14, 21, 24 and 27 to 31.
        RCTL => 0x06df_bffe,
        // All but the reserved bits 0, 2, 23 and 26 to 31.
        TCTL => 0x037f_fffa,
        RDBAL | TDBAL => !0xf,
        RDBAH | TDBAH => u32::MAX,
        RDLEN | TDLEN => 0x000f_ff80,
        RDH | TDH | RDT | TDT | ITR | RADV | TADV => 0xffff,
        RDTR | TIDV => 0xffff,
        _ if (MTA..MTA + 0x200).contains(&offset) => u32::MAX,
        _ if (RAL..RAL + 0x80).contains(&offset) => {
            // The high halves: address valid, address select, 16 bits of address.
            if offset & 4 == 0 {
                u32::MAX
            } else {
                0x8003_ffff
            }
        }
        _ if (VFTA..VFTA + 0x200).contains(&offset) => u32::MAX,
        _ if (IP4AT..IP4AT + 0x20).contains(&offset) => u32::MAX,
        _ => 0,
    }
}

/// Whether a register is one of the statistics, which a read clears.
pub(crate) fn is_statistic(offset: u32) -> bool {
    (STATISTICS..STATISTICS_END).contains(&offset)
}

/// The registers that are not zero after reset, without those that depend on the address.
pub(crate) const RESET: [(u32, u32); 6] = [
    (CTRL, 0x0014_0240),
    // Full duplex, 1000 Mb/s, and the same found by auto-speed detection; link comes by itself.
    (STATUS, 0x0000_0781),
    (LEDCTL, 0x0706_8302),
    (PBA, 0x0010_0030),
    (MANC, 0x0030_0000),
    (VET, 0x0000_8100),
];
