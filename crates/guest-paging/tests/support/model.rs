//! Address translation as the manuals tell it: slow, one rule after the other, and built unlike
//! the walker. It first collects the entries that control the address, then asks questions of the
//! whole list.
#![expect(
    clippy::cast_possible_truncation,
    reason = "indexes and keys are few bits"
)]

use guest_paging::x86::{Access, AccessKind, Pdptes, Privilege, Processor, Registers, Vendor};

/// Memory as a list of pieces: where each begins, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image(pub(crate) Vec<(u64, Vec<u8>)>);

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Mapped(Mapped),
    PageFault { error_code: u32, cr2: u64 },
    Absent { level: u8, at: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) gpa: u64,
    pub(crate) size: u64,
    pub(crate) writable: bool,
    pub(crate) user: bool,
    pub(crate) executable: bool,
    pub(crate) global: bool,
    pub(crate) dirty: bool,
    pub(crate) key: u8,
}

/// The processor, its registers, and one access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) processor: Processor,
    pub(crate) registers: Registers,
    pub(crate) gva: u64,
    pub(crate) access: Access,
    /// Whether accessed and dirty flags are set.
    pub(crate) marking: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Bits32,
    Pae,
    Long { levels: u8 },
}

/// One entry that controls the address.
#[derive(Clone, Copy, Debug)]
struct Used {
    level: u8,
    at: Option<u64>,
    value: u64,
}

impl Question {
    pub(crate) fn answer(&self, image: &mut Image) -> Outcome {
        let Some(mode) = self.mode() else {
            return Outcome::Mapped(self.unpaged());
        };
        match self.collect(mode, image) {
            Ok(used) => self.access(mode, &used, image),
            Err(outcome) => outcome,
        }
    }

    fn mode(&self) -> Option<Mode> {
        let Registers { cr0, cr4, efer, .. } = self.registers;
        if !bit(cr0, 31) {
            return None;
        }
        Some(match (bit(cr4, 5), bit(efer, 10), bit(cr4, 12)) {
            (false, _, _) => Mode::Bits32,
            (true, false, _) => Mode::Pae,
            (true, true, false) => Mode::Long { levels: 4 },
            (true, true, true) => Mode::Long { levels: 5 },
        })
    }

    fn unpaged(&self) -> Mapped {
        Mapped {
            gpa: self.gva % (1 << 32),
            size: 4096,
            writable: true,
            user: true,
            executable: true,
            global: false,
            dirty: true,
            key: 0,
        }
    }

    /// Follows the tables. Entries that reference a table are marked as they are passed.
    fn collect(&self, mode: Mode, image: &mut Image) -> Result<Vec<Used>, Outcome> {
        let mut used = Vec::new();
        let mut table = field(self.registers.cr3, 12, 51) << 12;
        let mut level = match mode {
            Mode::Bits32 => 2,
            Mode::Pae => 3,
            Mode::Long { levels } => levels,
        };
        if mode == Mode::Bits32 {
            table %= 1 << 32;
        }
        if mode == Mode::Pae {
            table = field(self.registers.cr3, 5, 31) << 5;
        }
        loop {
            let (size, index) = match (mode, level) {
                (Mode::Bits32, 2) => (4, field(self.gva, 22, 31)),
                (Mode::Bits32, _) => (4, field(self.gva, 12, 21)),
                (Mode::Pae, 3) => (8, field(self.gva, 30, 31)),
                (_, 5) => (8, field(self.gva, 48, 56)),
                (_, 4) => (8, field(self.gva, 39, 47)),
                (_, 3) => (8, field(self.gva, 30, 38)),
                (_, 2) => (8, field(self.gva, 21, 29)),
                (_, _) => (8, field(self.gva, 12, 20)),
            };
            let at = table + index * size;
            let (at, value) = match (mode, level, self.registers.pdptes) {
                (Mode::Pae, 3, Pdptes::Latched(pdptes)) => (None, pdptes[index as usize]),
                _ => match image.read(at, size as usize) {
                    Some(value) => (Some(at), value),
                    None => return Err(Outcome::Absent { level, at }),
                },
            };
            if !bit(value, 0) {
                return Err(self.page_fault(false, false, false));
            }
            let reserved = self.reserved(mode, level, value);
            if reserved.iter().any(|&n| bit(value, n)) {
                return Err(self.page_fault(true, true, false));
            }
            used.push(Used { level, at, value });
            if level == 1 || self.maps_page(mode, level, value) {
                return Ok(used);
            }
            if let (Some(at), true) = (at, self.marking && !(mode == Mode::Pae && level == 3)) {
                image.set_bits(at, &[5]);
            }
            table = field(value, 12, if mode == Mode::Bits32 { 31 } else { 51 }) << 12;
            level -= 1;
        }
    }

    fn maps_page(&self, mode: Mode, level: u8, value: u64) -> bool {
        match (mode, level) {
            (Mode::Bits32, 2) => bit(value, 7) && bit(self.registers.cr4, 4),
            (Mode::Pae, 2) | (Mode::Long { .. }, 2 | 3) => bit(value, 7),
            _ => false,
        }
    }

    /// The numbers of the bits that must be zero.
    fn reserved(&self, mode: Mode, level: u8, value: u64) -> Vec<u8> {
        let m = self.processor.maxphyaddr;
        let mut reserved: Vec<u8> = Vec::new();
        match mode {
            Mode::Bits32 => {
                if level == 2 && self.maps_page(mode, level, value) {
                    if self.processor.pse36 {
                        let m = m.min(40);
                        reserved.extend(m - 19..=21);
                    } else {
                        reserved.extend(13..=21);
                    }
                }
            }
            Mode::Pae => {
                reserved.extend(m..=62);
                if level == 3 {
                    reserved.extend([1, 2, 5, 6, 7, 8, 63]);
                }
            }
            Mode::Long { .. } => reserved.extend(m..=51),
        }
        if mode != Mode::Bits32 && !bit(self.registers.efer, 11) {
            reserved.push(63);
        }
        if let Mode::Long { .. } = mode {
            if level >= 4 {
                reserved.push(7);
                if self.processor.vendor == Vendor::Amd {
                    reserved.push(8);
                }
            }
            if level == 3 && !self.processor.gib_pages {
                reserved.push(7);
            }
        }
        if mode != Mode::Bits32 && self.maps_page(mode, level, value) {
            reserved.extend(13..=if level == 2 { 20 } else { 29 });
        }
        reserved
    }

    /// Decides over the access, and marks the leaf.
    fn access(&self, mode: Mode, used: &[Used], image: &mut Image) -> Outcome {
        let leaf = *used.last().expect("a walk uses at least one entry");
        // SDM 4.4.1: a PDPTE holds no access rights.
        let rights: Vec<u64> = used
            .iter()
            .filter(|used| !(mode == Mode::Pae && used.level == 3))
            .map(|used| used.value)
            .collect();
        let writable = rights.iter().all(|&value| bit(value, 1));
        let user = rights.iter().all(|&value| bit(value, 2));
        let executable = mode == Mode::Bits32 || !rights.iter().any(|&value| bit(value, 63));

        let Registers {
            cr0,
            cr4,
            pkru,
            pkrs,
            ..
        } = self.registers;
        let (wp, pge) = (bit(cr0, 16), bit(cr4, 7));
        let (smep, smap, pke, pks) = (bit(cr4, 20), bit(cr4, 21), bit(cr4, 22), bit(cr4, 24));
        let Access {
            kind,
            privilege,
            ac,
        } = self.access;
        let user_mode = privilege == Privilege::User;
        let explicit = privilege != Privilege::ImplicitSupervisor;
        let write = kind == AccessKind::Write;
        let data = kind != AccessKind::Fetch;

        // SDM 4.6.1.
        let smap_forbids = smap && !(explicit && ac);
        let allowed = match (user_mode, user, kind) {
            (false, false, AccessKind::Read) => true,
            (false, true, AccessKind::Read) => !smap_forbids,
            (false, false, AccessKind::Write) => !wp || writable,
            (false, true, AccessKind::Write) => !smap_forbids && (!wp || writable),
            (false, false, AccessKind::Fetch) => executable,
            (false, true, AccessKind::Fetch) => !smep && executable,
            (true, false, _) => false,
            (true, true, AccessKind::Read) => true,
            (true, true, AccessKind::Write) => writable,
            (true, true, AccessKind::Fetch) => executable,
        };

        // SDM 4.6.2.
        let long = matches!(mode, Mode::Long { .. });
        let key = if long && (pke || pks) {
            field(leaf.value, 59, 62)
        } else {
            0
        };
        let pair = match (long, user) {
            (true, true) if pke => pkru >> (2 * key) & 3,
            (true, false) if pks => pkrs >> (2 * key) & 3,
            _ => 0,
        };
        let access_disabled = pair & 1 == 1;
        let write_disabled = pair & 2 == 2 && (wp || user_mode);
        let key_forbids = data && (access_disabled || write && write_disabled);

        if !allowed || key_forbids {
            return self.page_fault(true, false, key_forbids);
        }
        if self.marking {
            let at = leaf.at.expect("a PDPTE maps no page");
            image.set_bits(at, if write { &[5, 6] } else { &[5] });
        }
        let (gpa, size) = self.page(mode, leaf);
        Outcome::Mapped(Mapped {
            gpa,
            size,
            writable,
            user,
            executable,
            global: bit(leaf.value, 8) && pge,
            dirty: bit(leaf.value, 6) || write && self.marking,
            key: key as u8,
        })
    }

    fn page(&self, mode: Mode, leaf: Used) -> (u64, u64) {
        let shift = match (mode, leaf.level) {
            (_, 1) => 12,
            (Mode::Bits32, _) => 22,
            (_, 2) => 21,
            _ => 30,
        };
        let size = 1 << shift;
        let mut page = field(leaf.value, shift, 51) << shift;
        if shift == 22 {
            page = field(leaf.value, 22, 31) << 22 | field(leaf.value, 13, 20) << 32;
        }
        (page + self.gva % size, size)
    }

    /// SDM 4.7.
    fn page_fault(&self, present: bool, reserved: bool, key: bool) -> Outcome {
        let Registers { cr4, efer, .. } = self.registers;
        let fetch = self.access.kind == AccessKind::Fetch;
        let reports_fetch = bit(cr4, 20) || bit(cr4, 5) && bit(efer, 11);
        let flags = [
            present,
            self.access.kind == AccessKind::Write,
            self.access.privilege == Privilege::User,
            reserved,
            fetch && reports_fetch,
            key,
        ];
        let error_code = (0..).zip(flags).map(|(n, flag)| u32::from(flag) << n).sum();
        Outcome::PageFault {
            error_code,
            cr2: self.gva,
        }
    }
}

impl Image {
    fn bytes(&mut self, at: u64, size: usize) -> Option<&mut [u8]> {
        self.0.iter_mut().find_map(|(base, bytes)| {
            let offset = usize::try_from(at.checked_sub(*base)?).ok()?;
            bytes.get_mut(offset..offset.checked_add(size)?)
        })
    }

    fn read(&mut self, at: u64, size: usize) -> Option<u64> {
        let bytes = self.bytes(at, size)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |value, &byte| value << 8 | u64::from(byte)),
        )
    }

    /// All of them lie in the lowest byte.
    fn set_bits(&mut self, at: u64, numbers: &[u8]) {
        let bytes = self.bytes(at, 1).expect("the entry was read");
        for number in numbers {
            bytes[0] |= 1 << number;
        }
    }
}

fn bit(value: u64, number: u8) -> bool {
    value >> number & 1 == 1
}

/// Bits `low` to `high`, both included.
fn field(value: u64, low: u32, high: u32) -> u64 {
    (value >> low) & (u64::MAX >> (63 - (high - low)))
}
