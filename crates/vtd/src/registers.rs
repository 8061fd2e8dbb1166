//! Offsets and bits of the registers (VT-d 11.4), named as the manual names them.

#![expect(
    missing_docs,
    reason = "the names are the manual's, and their meaning stands there"
)]

/// Length of the register window in bytes.
pub const LENGTH: u64 = 0x1000;

pub const VER: u64 = 0x00;
pub const CAP: u64 = 0x08;
pub const ECAP: u64 = 0x10;
pub const GCMD: u64 = 0x18;
pub const GSTS: u64 = 0x1c;
pub const RTADDR: u64 = 0x20;
pub const CCMD: u64 = 0x28;
pub const FSTS: u64 = 0x34;
pub const FECTL: u64 = 0x38;
pub const FEDATA: u64 = 0x3c;
pub const FEADDR: u64 = 0x40;
pub const FEUADDR: u64 = 0x44;
pub const PMEN: u64 = 0x64;
pub const IQH: u64 = 0x80;
pub const IQT: u64 = 0x88;
pub const IQA: u64 = 0x90;
pub const ICS: u64 = 0x9c;
pub const IECTL: u64 = 0xa0;
pub const IEDATA: u64 = 0xa4;
pub const IEADDR: u64 = 0xa8;
pub const IEUADDR: u64 = 0xac;
pub const IQERCD: u64 = 0xb0;
pub const IRTA: u64 = 0xb8;
pub const PQH: u64 = 0xc0;
pub const PQT: u64 = 0xc8;
pub const PQA: u64 = 0xd0;
pub const PRS: u64 = 0xdc;
pub const PECTL: u64 = 0xe0;
pub const PEDATA: u64 = 0xe4;
pub const PEADDR: u64 = 0xe8;
pub const PEUADDR: u64 = 0xec;
/// At ECAP.IRO.
pub const IVA: u64 = 0xf0;
pub const IOTLB: u64 = 0xf8;
/// The first fault recording register, at CAP.FRO; each has 16 bytes.
pub const FRCD: u64 = 0x220;

/// GCMD and GSTS share their places: a command's bit and its status.
pub const TE: u32 = 1 << 31;
pub const SRTP: u32 = 1 << 30;
pub const WBF: u32 = 1 << 27;
pub const QIE: u32 = 1 << 26;
pub const IRE: u32 = 1 << 25;
pub const SIRTP: u32 = 1 << 24;
pub const CFI: u32 = 1 << 23;

/// CCMD.ICC.
pub const ICC: u64 = 1 << 63;
/// IOTLB.IVT.
pub const IVT: u64 = 1 << 63;

pub const FSTS_PFO: u32 = 1 << 0;
pub const FSTS_PPF: u32 = 1 << 1;
pub const FSTS_IQE: u32 = 1 << 4;
pub const FSTS_ICE: u32 = 1 << 5;
pub const FSTS_ITE: u32 = 1 << 6;
/// FSTS.FRI begins here and has eight bits.
pub const FSTS_FRI_SHIFT: u32 = 8;

/// FECTL, IECTL and PECTL: the message is held back.
pub const INTERRUPT_MASK: u32 = 1 << 31;
/// FECTL, IECTL and PECTL: a message is due.
pub const INTERRUPT_PENDING: u32 = 1 << 30;

pub const ICS_IWC: u32 = 1 << 0;
pub const PRS_PPR: u32 = 1 << 0;
pub const PRS_PRO: u32 = 1 << 1;

/// IQA.DW: descriptors of 256 bits.
pub const IQA_DW: u64 = 1 << 11;
/// IRTA.EIME.
pub const IRTA_EIME: u64 = 1 << 11;
