//! Numbers from the manuals.

// CR0, SDM 2.5.
/// Write protect: read-only pages bind the supervisor too.
pub const CR0_WP: u64 = 1 << 16;
/// Paging.
pub const CR0_PG: u64 = 1 << 31;

// CR4, SDM 2.5.
/// Page size extensions: 4 MiB pages in 32-bit paging.
pub const CR4_PSE: u64 = 1 << 4;
/// Physical address extension.
pub const CR4_PAE: u64 = 1 << 5;
/// Global pages.
pub const CR4_PGE: u64 = 1 << 7;
/// 57-bit linear addresses.
pub const CR4_LA57: u64 = 1 << 12;
/// The supervisor may not execute user pages.
pub const CR4_SMEP: u64 = 1 << 20;
/// The supervisor may not access user pages unless EFLAGS.AC is set.
pub const CR4_SMAP: u64 = 1 << 21;
/// Protection keys for user pages.
pub const CR4_PKE: u64 = 1 << 22;
/// Protection keys for supervisor pages.
pub const CR4_PKS: u64 = 1 << 24;

// IA32_EFER, SDM 2.2.1.
/// Long mode active.
pub const EFER_LMA: u64 = 1 << 10;
/// No-execute enable.
pub const EFER_NXE: u64 = 1 << 11;

// Paging-structure entries, SDM 4.3 to 4.5.
/// Present.
pub const PRESENT: u64 = 1 << 0;
/// Writable.
pub const WRITE: u64 = 1 << 1;
/// Accessible at CPL 3.
pub const USER: u64 = 1 << 2;
/// Accessed.
pub const ACCESSED: u64 = 1 << 5;
/// Dirty; in a leaf.
pub const DIRTY: u64 = 1 << 6;
/// Maps a page; above level 1. At level 1 this bit selects a memory type.
pub const PAGE_SIZE: u64 = 1 << 7;
/// Global; in a leaf.
pub const GLOBAL: u64 = 1 << 8;
/// What the entries of an access that nothing stands in the way of have set.
pub const EASY: u64 = PRESENT | WRITE | USER | ACCESSED;
/// Protection key of a leaf in 4-level and 5-level paging.
pub const KEY_SHIFT: u32 = 59;
/// Execute disable.
pub const NO_EXECUTE: u64 = 1 << 63;
/// Where a 64-bit entry holds an address.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Where a 32-bit entry holds the address of a table or 4 KiB page.
pub const ADDRESS_32: u32 = 0xffff_f000;
/// Where a 32-bit PDE holds the low part of the address of a 4 MiB page.
pub const ADDRESS_4M: u32 = 0xffc0_0000;
/// Where such a PDE holds bits 39:32 of the address, from bit 13 up (PSE-36).
pub const ADDRESS_4M_HIGH: u32 = 0x001f_e000;
