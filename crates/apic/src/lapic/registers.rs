//! Numbers of SDM volume 3, chapter 11. Register numbers are xAPIC offsets / 16, which are x2APIC
//! MSR indices - 0x800 as well (tables 11-1 and 11-6).

pub(crate) const ID: u8 = 0x02;
pub(crate) const VERSION: u8 = 0x03;
pub(crate) const TPR: u8 = 0x08;
pub(crate) const APR: u8 = 0x09;
pub(crate) const PPR: u8 = 0x0a;
pub(crate) const EOI: u8 = 0x0b;
pub(crate) const RRD: u8 = 0x0c;
pub(crate) const LDR: u8 = 0x0d;
pub(crate) const DFR: u8 = 0x0e;
pub(crate) const SVR: u8 = 0x0f;
pub(crate) const ISR: u8 = 0x10;
pub(crate) const ISR_LAST: u8 = 0x17;
pub(crate) const TMR: u8 = 0x18;
pub(crate) const TMR_LAST: u8 = 0x1f;
pub(crate) const IRR: u8 = 0x20;
pub(crate) const IRR_LAST: u8 = 0x27;
pub(crate) const ESR: u8 = 0x28;
pub(crate) const ICR_LOW: u8 = 0x30;
pub(crate) const ICR_HIGH: u8 = 0x31;
pub(crate) const LVT: u8 = 0x32;
pub(crate) const LVT_LAST: u8 = 0x37;
pub(crate) const INITIAL_COUNT: u8 = 0x38;
pub(crate) const CURRENT_COUNT: u8 = 0x39;
pub(crate) const DIVIDE: u8 = 0x3e;
pub(crate) const SELF_IPI: u8 = 0x3f;

// Positions in the local vector table; 1 and 2 are the thermal and performance entries.
pub(crate) const TIMER: usize = 0;
pub(crate) const LINT0: usize = 3;
pub(crate) const LINT1: usize = 4;
pub(crate) const ERROR: usize = 5;

// Figure 11-5, IA32_APIC_BASE.
pub(crate) const IA32_APIC_BASE: u32 = 0x1b;
pub(crate) const IA32_TSC_DEADLINE: u32 = 0x6e0;
pub(crate) const X2APIC_FIRST: u32 = 0x800;
pub(crate) const X2APIC_LAST: u32 = 0x83f;
pub(crate) const BASE_BSP: u64 = 1 << 8;
pub(crate) const BASE_X2APIC: u64 = 1 << 10;
pub(crate) const BASE_ENABLED: u64 = 1 << 11;
pub(crate) const DEFAULT_BASE: u64 = 0xfee0_0000;

/// Version 0x14 with six LVT entries and suppression of EOI broadcasts (figure 11-7).
pub(crate) const VERSION_VALUE: u32 = 1 << 24 | 5 << 16 | 0x14;

// Figure 11-8, local vector table.
pub(crate) const LVT_DELIVERY: u32 = 0b111 << 8;
pub(crate) const LVT_REMOTE_IRR: u32 = 1 << 14;
pub(crate) const LVT_LEVEL: u32 = 1 << 15;
pub(crate) const LVT_MASKED: u32 = 1 << 16;
/// Writable bits of each entry.
pub(crate) const LVT_WRITABLE: [u32; 6] = [
    0x0007_00ff,
    0x0001_07ff,
    0x0001_07ff,
    0x0001_a7ff,
    0x0001_a7ff,
    0x0001_00ff,
];

// Figure 11-9, error status.
pub(crate) const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
pub(crate) const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
pub(crate) const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;
pub(crate) const ESR_BITS: u32 =
    ESR_SEND_ILLEGAL_VECTOR | ESR_RECEIVE_ILLEGAL_VECTOR | ESR_ILLEGAL_REGISTER;

// Figure 11-12, interrupt command. Delivery status (bit 12) always reads as idle.
pub(crate) const ICR_LOGICAL: u32 = 1 << 11;
pub(crate) const ICR_ASSERT: u32 = 1 << 14;
pub(crate) const ICR_LEVEL: u32 = 1 << 15;
pub(crate) const ICR_WRITABLE: u32 = 0x000c_cfff;

// Figures 11-13 and 11-14, logical destination and its format.
pub(crate) const LDR_BITS: u32 = 0xff << 24;
pub(crate) const DFR_BITS: u32 = 0xf << 28;
pub(crate) const DFR_FLAT: u32 = 0xf;
pub(crate) const DFR_CLUSTER: u32 = 0;

// Figure 11-23, spurious-interrupt vector.
pub(crate) const SVR_ENABLED: u32 = 1 << 8;
pub(crate) const SVR_NO_EOI_BROADCAST: u32 = 1 << 12;
pub(crate) const SVR_WRITABLE: u32 = 0x13ff;

// Figure 11-10, divide configuration.
pub(crate) const DIVIDE_WRITABLE: u32 = 0b1011;
