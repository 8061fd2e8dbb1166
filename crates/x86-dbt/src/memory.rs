//! Data accesses: segment check, soft TLB, and the slow path for everything else.

use crate::alu::Width;
use crate::cpu::{Cpu, EVENT_BREAK, EVENT_POLL, Mode};
use crate::exception::{AC, GP0, Result, SS0};
use crate::platform::Platform;
use crate::ram::{HostPage, PAGE};
use crate::segment::SS;
use crate::tlb::Bank;
use crate::walk::Kind;

const OFFSET: u64 = PAGE - 1;
/// Bytes in one access to a device.
const MMIO_MAX: usize = 8;

/// Where one page's part of an access ends up.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    Ram { host: HostPage, gpa: u64 },
    Mmio { gpa: u64 },
}

impl Cpu {
    /// Reads a `T` at `segment:offset`.
    #[inline(always)]
    pub(crate) fn read<T: Width>(
        &mut self,
        p: &mut dyn Platform,
        segment: u8,
        offset: u64,
    ) -> Result<T> {
        let linear = self.linear(segment, offset, T::BYTES, Kind::Read)?;
        self.read_linear(p, linear, segment)
    }

    /// Writes a `T` at `segment:offset`.
    #[inline(always)]
    pub(crate) fn write<T: Width>(
        &mut self,
        p: &mut dyn Platform,
        segment: u8,
        offset: u64,
        value: T,
    ) -> Result {
        let linear = self.linear(segment, offset, T::BYTES, Kind::Write)?;
        self.write_linear(p, linear, segment, value)
    }

    /// Replaces the `T` at `segment:offset` by what `change` makes of it; the access counts as a write throughout.
    #[inline(always)]
    pub(crate) fn modify<T: Width>(
        &mut self,
        p: &mut dyn Platform,
        segment: u8,
        offset: u64,
        change: impl FnOnce(T, &mut u64) -> T,
    ) -> Result {
        let linear = self.linear(segment, offset, T::BYTES, Kind::Write)?;
        let entry = self.tlb.entry(self.bank, linear);
        if entry.write == linear & !OFFSET && linear & OFFSET <= PAGE - T::BYTES as u64 {
            let host = entry.host;
            let new = change(host.load(linear & OFFSET), &mut self.flags);
            host.store(linear & OFFSET, new);
            return Ok(());
        }
        let targets = self.operand_targets(linear, T::BYTES, Kind::Write, segment)?;
        let mut bytes = [0; 8];
        self.read_targets(p, targets, linear, &mut bytes[..T::BYTES]);
        let new = change(T::from_bytes(&bytes), &mut self.flags);
        new.to_bytes(&mut bytes);
        self.write_targets(p, targets, linear, &bytes[..T::BYTES]);
        Ok(())
    }

    /// The linear address of `len` bytes at `segment:offset`, checked against the segment.
    #[inline(always)]
    pub(crate) fn linear(&self, segment: u8, offset: u64, len: usize, kind: Kind) -> Result<u64> {
        let linear = self.base[usize::from(segment & 7)].wrapping_add(offset) & self.linear_mask;
        if self.unchecked & (1 << segment) == 0 {
            self.check_segment(segment, offset, len, kind)?;
        }
        Ok(linear)
    }

    /// Intel SDM volume 3, 5.3 and 5.5; in real and virtual-8086 mode only the limit counts.
    #[inline(never)]
    pub(crate) fn check_segment(&self, segment: u8, offset: u64, len: usize, kind: Kind) -> Result {
        let fault = if segment == SS { SS0 } else { GP0 };
        let cached = self.seg[usize::from(segment)];
        if self.is_protected() {
            let allowed = match kind {
                Kind::Read => cached.is_readable(),
                Kind::Write => cached.is_writable(),
                Kind::Fetch => true,
            };
            if !allowed || !cached.has(crate::segment::PRESENT) {
                return Err(fault);
            }
        }
        if cached.contains(offset, len) {
            Ok(())
        } else {
            Err(fault)
        }
    }

    /// Reads at a linear address with the rights of the running code; `segment` only picks #SS or #GP.
    #[inline(always)]
    pub(crate) fn read_linear<T: Width>(
        &mut self,
        p: &mut dyn Platform,
        linear: u64,
        segment: u8,
    ) -> Result<T> {
        let entry = self.tlb.entry(self.bank, linear);
        if entry.read == linear & !OFFSET && linear & OFFSET <= PAGE - T::BYTES as u64 {
            return Ok(entry.host.load(linear & OFFSET));
        }
        self.read_slow(p, linear, segment)
    }

    /// Writes at a linear address with the rights of the running code.
    #[inline(always)]
    pub(crate) fn write_linear<T: Width>(
        &mut self,
        p: &mut dyn Platform,
        linear: u64,
        segment: u8,
        value: T,
    ) -> Result {
        let entry = self.tlb.entry(self.bank, linear);
        if entry.write == linear & !OFFSET && linear & OFFSET <= PAGE - T::BYTES as u64 {
            entry.host.store(linear & OFFSET, value);
            return Ok(());
        }
        self.write_slow(p, linear, segment, value)
    }

    #[inline(never)]
    fn read_slow<T: Width>(&mut self, p: &mut dyn Platform, linear: u64, segment: u8) -> Result<T> {
        let mut bytes = [0; 8];
        self.read_bytes(p, linear, segment, &mut bytes[..T::BYTES])?;
        Ok(T::from_bytes(&bytes))
    }

    #[inline(never)]
    fn write_slow<T: Width>(
        &mut self,
        p: &mut dyn Platform,
        linear: u64,
        segment: u8,
        value: T,
    ) -> Result {
        let mut bytes = [0; 8];
        value.to_bytes(&mut bytes);
        self.write_bytes(p, linear, segment, &bytes[..T::BYTES])
    }

    /// Reads up to a page of bytes that may cross into the next page.
    pub(crate) fn read_bytes(
        &mut self,
        p: &mut dyn Platform,
        linear: u64,
        segment: u8,
        bytes: &mut [u8],
    ) -> Result {
        let targets = self.operand_targets(linear, bytes.len(), Kind::Read, segment)?;
        self.read_targets(p, targets, linear, bytes);
        Ok(())
    }

    /// Writes likewise; nothing is written when any byte would fault.
    pub(crate) fn write_bytes(
        &mut self,
        p: &mut dyn Platform,
        linear: u64,
        segment: u8,
        bytes: &[u8],
    ) -> Result {
        let targets = self.operand_targets(linear, bytes.len(), Kind::Write, segment)?;
        self.write_targets(p, targets, linear, bytes);
        Ok(())
    }

    /// Checks that `len` bytes could be accessed so, without touching them.
    pub(crate) fn probe(&mut self, linear: u64, len: usize, kind: Kind, segment: u8) -> Result {
        self.operand_targets(linear, len, kind, segment).map(|_| ())
    }

    /// Whether the fast path would take a write here.
    #[inline(always)]
    pub(crate) fn is_writable(&self, linear: u64, len: usize) -> bool {
        self.tlb.entry(self.bank, linear).write == linear & !OFFSET
            && linear & OFFSET <= PAGE - len as u64
    }

    /// An implicit supervisor read of a descriptor table, TSS or the like, whatever the CPL.
    pub(crate) fn read_system<T: Width>(&mut self, p: &mut dyn Platform, linear: u64) -> Result<T> {
        let linear = linear & self.system_mask();
        let targets = self.pages(linear, T::BYTES, Kind::Read, Bank::Supervisor)?;
        let mut bytes = [0; 8];
        self.read_targets(p, targets, linear, &mut bytes[..T::BYTES]);
        Ok(T::from_bytes(&bytes))
    }

    /// An implicit supervisor write.
    pub(crate) fn write_system<T: Width>(
        &mut self,
        p: &mut dyn Platform,
        linear: u64,
        value: T,
    ) -> Result {
        let linear = linear & self.system_mask();
        let targets = self.pages(linear, T::BYTES, Kind::Write, Bank::Supervisor)?;
        let mut bytes = [0; 8];
        value.to_bytes(&mut bytes);
        self.write_targets(p, targets, linear, &bytes[..T::BYTES]);
        Ok(())
    }

    fn system_mask(&self) -> u64 {
        if self.is_long() {
            u64::MAX
        } else {
            0xffff_ffff
        }
    }

    /// The one or two pages of an explicit access, after the checks that the fast path leaves out.
    pub(crate) fn operand_targets(
        &mut self,
        linear: u64,
        len: usize,
        kind: Kind,
        segment: u8,
    ) -> Result<[Option<Target>; 2]> {
        if self.mode == Mode::Long64 && !self.is_canonical_range(linear, len) {
            return Err(if segment == SS { SS0 } else { GP0 });
        }
        if self.bank == Bank::Slow {
            let checked = self.cpl == 3
                && self.flags & crate::flags::AC != 0
                && self.cr0 & crate::cpu::CR0_AM != 0;
            if checked && linear & (natural_alignment(len) - 1) != 0 {
                return Err(AC);
            }
            self.match_data_breakpoints(linear, len, kind);
        }
        let bank = self.data_bank();
        self.pages(linear, len, kind, bank)
    }

    fn pages(
        &mut self,
        linear: u64,
        len: usize,
        kind: Kind,
        bank: Bank,
    ) -> Result<[Option<Target>; 2]> {
        let first = self.target(linear, kind, bank)?;
        let in_first = PAGE - (linear & OFFSET);
        let second = if len as u64 > in_first {
            let mask = if self.mode == Mode::Long64 {
                u64::MAX
            } else {
                self.system_mask()
            };
            Some(self.target(linear.wrapping_add(in_first) & mask, kind, bank)?)
        } else {
            None
        };
        Ok([Some(first), second])
    }

    /// Translates one address, through the TLB.
    pub(crate) fn target(&mut self, linear: u64, kind: Kind, bank: Bank) -> Result<Target> {
        for _ in 0..2 {
            let entry = self.tlb.entry(bank, linear);
            let tag = match kind {
                Kind::Read => entry.read,
                Kind::Write => entry.write,
                Kind::Fetch => entry.fetch,
            };
            if tag == linear & !OFFSET {
                return Ok(Target::Ram {
                    host: entry.host,
                    gpa: self.tlb.physical(bank, linear),
                });
            }
            if !self.tlb.promote(bank, linear) {
                break;
            }
        }
        self.walk_and_fill(linear, kind, bank)
    }

    pub(crate) fn read_targets(
        &mut self,
        p: &mut dyn Platform,
        targets: [Option<Target>; 2],
        linear: u64,
        bytes: &mut [u8],
    ) {
        let split = bytes.len().min((PAGE - (linear & OFFSET)) as usize);
        let (first, second) = bytes.split_at_mut(split);
        for (target, part) in targets.into_iter().zip([first, second]) {
            match target {
                Some(Target::Ram { host, gpa }) => host.read(gpa & OFFSET, part),
                Some(Target::Mmio { gpa }) => self.mmio_read(p, gpa, part),
                None => {}
            }
        }
    }

    pub(crate) fn write_targets(
        &mut self,
        p: &mut dyn Platform,
        targets: [Option<Target>; 2],
        linear: u64,
        bytes: &[u8],
    ) {
        let split = bytes.len().min((PAGE - (linear & OFFSET)) as usize);
        let (first, second) = bytes.split_at(split);
        for (target, part) in targets.into_iter().zip([first, second]) {
            match target {
                Some(Target::Ram { host, gpa }) => {
                    host.write(gpa & OFFSET, part);
                    self.code_written(gpa, part.len() as u64);
                }
                Some(Target::Mmio { gpa }) => self.mmio_write(p, gpa, part),
                None => {}
            }
        }
    }

    fn mmio_read(&mut self, p: &mut dyn Platform, gpa: u64, bytes: &mut [u8]) {
        self.before_device(p);
        for (at, chunk) in (gpa..).step_by(MMIO_MAX).zip(bytes.chunks_mut(MMIO_MAX)) {
            self.stats.mmio += 1;
            p.mmio_read(at, chunk);
        }
    }

    fn mmio_write(&mut self, p: &mut dyn Platform, gpa: u64, bytes: &[u8]) {
        self.before_device(p);
        for (at, chunk) in (gpa..).step_by(MMIO_MAX).zip(bytes.chunks(MMIO_MAX)) {
            self.stats.mmio += 1;
            p.mmio_write(at, chunk);
        }
    }

    /// Sets the platform's clock, and asks it for interrupts and its deadline after this instruction.
    pub(crate) fn before_device(&mut self, p: &mut dyn Platform) {
        p.set_retired(self.ticks);
        self.events |= EVENT_BREAK | EVENT_POLL;
    }

    pub(crate) fn is_canonical(&self, address: u64) -> bool {
        is_sign_extended(address, self.cr4 & crate::cpu::CR4_LA57 != 0)
    }

    /// Whether `base` may be loaded into a segment, a descriptor-table register or an MSR that holds an address: its
    /// width is that of the widest paging there is, not of what is enabled (Linux, KVM's `is_noncanonical_base_address`;
    /// kvm-unit-tests, la57).
    pub(crate) fn is_canonical_base(&self, base: u64) -> bool {
        is_sign_extended(base, self.cpuid.has_la57())
    }

    fn is_canonical_range(&self, address: u64, len: usize) -> bool {
        self.is_canonical(address) && self.is_canonical(address.wrapping_add(len as u64 - 1))
    }
}

/// Whether `address` is canonical for 5-level paging (`wide`: 57 bits), else for 4-level paging (48 bits).
fn is_sign_extended(address: u64, wide: bool) -> bool {
    let shift = if wide { 64 - 57 } else { 64 - 48 };
    ((address << shift).cast_signed() >> shift).cast_unsigned() == address
}

/// What alignment checking wants of an access of `len` bytes. Intel SDM volume 3, table 6-7.
fn natural_alignment(len: usize) -> u64 {
    match len {
        2 | 4 | 8 | 16 => len as u64,
        10 => 8,
        14 | 94 => 2,
        28 | 108 => 4,
        _ => 1,
    }
}
