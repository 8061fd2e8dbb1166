//! The EPT pointer and capabilities, and the bits that are reserved under them.

use crate::Gpa;
use crate::bits::bits;
use crate::nine_bits::{self, ADDRESS, PAGE};

/// What the processor can do, from CPUID and `IA32_VMX_EPT_VPID_CAP`, and the VM-execution controls
/// that change the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// Bits of a physical address, 32 to 52.
    pub maxphyaddr: u8,
    /// Execute-only translations, bit 0.
    pub execute_only: bool,
    /// 2 MiB pages, bit 16.
    pub mib_pages: bool,
    /// 1 GiB pages, bit 17.
    pub gib_pages: bool,
    /// The control "mode-based execute control for EPT" is 1: bit 10 of an entry permits fetches from
    /// user-mode linear addresses, bit 2 only those from others.
    pub mode_based_execute: bool,
}

/// Everything an EPT walk needs besides memory.
#[derive(Clone, Debug)]
pub struct Context {
    root: Gpa,
    levels: u8,
    flags: bool,
    capabilities: Capabilities,
    /// Reserved bits by level, then by bit 7, which maps a page.
    reserved: [[u64; 2]; 8],
    /// Bit n is set if bits 5:3 and 2:0 of a leaf, taken as n, are a misconfiguration.
    bad_leaf: u64,
    /// By level: the bits that must be as in [`PLAIN`] in an entry that references a table, gives all
    /// rights and needs no mark.
    plain: [u64; 8],
    /// Bit n is set if bits 2:0 of an entry, taken as n, are a misconfiguration.
    bad_rights: u8,
}

impl Context {
    /// Decides in advance what follows from an EPTP (SDM 25.6.11): bits 5:3 are the levels less one,
    /// bit 6 enables accessed and dirty flags, the memory type in bits 2:0 is ignored.
    ///
    /// # Panics
    ///
    /// Panics if MAXPHYADDR is not 32 to 52, or the EPTP asks for neither 4 nor 5 levels: VM entry
    /// fails on such an EPTP.
    pub fn new(capabilities: &Capabilities, eptp: u64) -> Self {
        assert!(
            (32..=52).contains(&capabilities.maxphyaddr),
            "MAXPHYADDR is 32 to 52"
        );
        let levels = match eptp >> 3 & 7 {
            3 => 4,
            4 => 5,
            _ => panic!("the EPTP asks for 4 or 5 levels"),
        };
        let bad_rights = (0..8)
            .filter(|rights| !rights_are_allowed(*rights, capabilities.execute_only))
            .fold(0, |all, rights| all | 1 << rights);
        let reserved = reserved(capabilities);
        let flags = eptp & FLAGS_ENABLE != 0;
        Self {
            root: Gpa(eptp & ADDRESS),
            levels,
            flags,
            capabilities: *capabilities,
            reserved,
            plain: reserved.map(|[table, _]| table | PAGE | plain(capabilities, flags)),
            bad_leaf: (0..64)
                .filter(|low| matches!(low >> 3, 2 | 3 | 7) || bad_rights >> (low & 7) & 1 != 0)
                .fold(0, |all, low| all | 1 << low),
            bad_rights,
        }
    }

    /// Levels of the walk: 4 or 5.
    #[inline(always)]
    pub fn levels(&self) -> u8 {
        self.levels
    }

    /// Whether accessed and dirty flags are enabled. Accesses to guest paging structures then count
    /// as writes (SDM 28.3.5).
    #[inline(always)]
    pub fn flags(&self) -> bool {
        self.flags
    }

    #[inline(always)]
    pub(super) fn root(&self) -> Gpa {
        self.root
    }

    #[inline(always)]
    pub(super) fn mode_based_execute(&self) -> bool {
        self.capabilities.mode_based_execute
    }

    /// SDM 28.3.2: present if any right is given.
    #[inline(always)]
    pub(super) fn is_present(&self, entry: u64) -> bool {
        let rights = if self.mode_based_execute() {
            RIGHTS | EXECUTE_USER
        } else {
            RIGHTS
        };
        entry & rights != 0
    }

    /// Whether a present `entry` is misconfigured (SDM 28.3.3.1).
    #[inline(always)]
    pub(super) fn is_misconfigured(&self, level: u8, entry: u64) -> bool {
        let leaf = nine_bits::is_leaf(level, entry);
        let reserved = self.reserved[usize::from(level) % 8][usize::from(entry & PAGE != 0)];
        let low = if leaf {
            self.bad_leaf >> (entry & 0x3f) & 1 != 0
        } else {
            self.bad_rights >> (entry & RIGHTS) & 1 != 0
        };
        entry & reserved != 0 || low || self.is_forbidden_user_execute(entry)
    }

    /// Whether `entry` references a table, gives all rights and needs no mark: one test for all.
    #[inline(always)]
    pub(super) fn is_plain_table(&self, level: u8, entry: u64) -> bool {
        (entry ^ PLAIN) & self.plain[usize::from(level) % 8] == 0
    }

    /// Whether a leaf is readable and not misconfigured: less to look at than in general.
    #[inline(always)]
    pub(super) fn is_plain_leaf(&self, level: u8, entry: u64) -> bool {
        let reserved = self.reserved[usize::from(level) % 8][usize::from(entry & PAGE != 0)];
        entry & READ != 0 && entry & reserved == 0 && self.bad_leaf >> (entry & 0x3f) & 1 == 0
    }

    /// Execute-only through bit 10 alone.
    #[inline(always)]
    fn is_forbidden_user_execute(&self, entry: u64) -> bool {
        self.capabilities.mode_based_execute
            && !self.capabilities.execute_only
            && entry & (READ | EXECUTE_USER) == EXECUTE_USER
    }
}

/// Write without read never is; execute without read only where the processor supports it.
fn rights_are_allowed(rights: u64, execute_only: bool) -> bool {
    rights & READ != 0 || rights & WRITE == 0 && (rights & EXECUTE == 0 || execute_only)
}

/// SDM tables 28-1 to 28-6.
fn reserved(capabilities: &Capabilities) -> [[u64; 2]; 8] {
    let always = bits(capabilities.maxphyaddr, 51);
    let page = |supported, address| if supported { always | address } else { PAGE };
    let table = always | bits(3, 6);
    let mut reserved = [[0; 2]; 8];
    reserved[5] = [table | PAGE; 2];
    reserved[4] = [table | PAGE; 2];
    reserved[3] = [table, page(capabilities.gib_pages, bits(12, 29))];
    reserved[2] = [table, page(capabilities.mib_pages, bits(12, 20))];
    reserved[1] = [always; 2];
    reserved
}

/// The bits of a plain entry that count besides reserved ones.
fn plain(capabilities: &Capabilities, flags: bool) -> u64 {
    let mut bits = RIGHTS;
    if capabilities.mode_based_execute {
        bits |= EXECUTE_USER;
    }
    if flags {
        bits |= ACCESSED;
    }
    bits
}

pub(super) const READ: u64 = 1 << 0;
pub(super) const WRITE: u64 = 1 << 1;
pub(super) const EXECUTE: u64 = 1 << 2;
pub(super) const RIGHTS: u64 = READ | WRITE | EXECUTE;
pub(super) const ACCESSED: u64 = 1 << 8;
pub(super) const DIRTY: u64 = 1 << 9;
pub(super) const EXECUTE_USER: u64 = 1 << 10;
/// A plain entry, but for its address.
const PLAIN: u64 = RIGHTS | EXECUTE_USER | ACCESSED;
/// EPTP: enables accessed and dirty flags.
const FLAGS_ENABLE: u64 = 1 << 6;
