//! Nested walks against a slow composition: each dimension a function from address to address.
#![expect(clippy::cast_possible_truncation, reason = "offsets in a small memory")]

use guest_paging::ept::{self, Fault};
use guest_paging::nested::{self, Cause, Failure, Ground, Stage, StageFault, Trace};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use guest_paging::x86::{Access, AccessKind, Context, Privilege, Processor, Registers, Vendor};
use guest_paging::{Gva, PinnedMemory};
use proptest::prelude::*;

/// 32 pages that hold tables of all dimensions at once: they overlap as they like.
const RAM: usize = 0x2_0000;

/// What became of an access: the address, or the dimension that failed and how.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Address(u64),
    PageFault(u32),
    Violation(u8, u64, u64),
    Misconfigured(u8, u64),
    Absent(u64),
}

struct Model<'a> {
    ram: &'a mut [u8],
    /// Whether EPT of dimension 1, 2, ... has flags.
    stages: &'a [(u64, bool)],
}

impl Model<'_> {
    /// The byte address on the ground of `input` of the space of `dimension`.
    fn down(&mut self, dimension: usize, input: u64, access: &str) -> Result<u64, Outcome> {
        let Some(&(root, flags)) = self.stages.get(dimension - 1) else {
            return Ok(input);
        };
        let output = self.ept(dimension, root, flags, input, access)?;
        self.down(dimension + 1, output, access)
    }

    /// Entries are read and written through the spaces below.
    fn load(&mut self, below: usize, at: u64) -> Result<u64, Outcome> {
        let ground = self.down(below, at, "load")?;
        match self.ram.get(ground as usize..).and_then(|ram| ram.get(..8)) {
            Some(bytes) => Ok(u64::from_le_bytes(bytes.try_into().unwrap())),
            None => Err(Outcome::Absent(ground)),
        }
    }

    fn set(&mut self, below: usize, at: u64, entry: u64, marks: u64) -> Result<(), Outcome> {
        if entry | marks == entry {
            return Ok(());
        }
        let ground = self.down(below, at, "update")? as usize;
        self.ram[ground..ground + 8].copy_from_slice(&(entry | marks).to_le_bytes());
        Ok(())
    }

    fn ept(
        &mut self,
        dimension: usize,
        root: u64,
        flags: bool,
        input: u64,
        access: &str,
    ) -> Result<u64, Outcome> {
        let reads_and_writes = access == "update" || access == "load" && flags;
        let (asked, of_table) = match access {
            _ if reads_and_writes => (0b011, true),
            "load" => (0b001, true),
            "read" => (0b001, false),
            "write" => (0b010, false),
            _ => (0b100, false),
        };
        let linear = if of_table { 0x80 } else { 0x180 };
        let number = dimension as u8;
        let violation =
            |rights: u64| Outcome::Violation(number, input, asked | rights << 3 | linear);
        if input >= 1 << 48 {
            return Err(violation(0));
        }
        let mut table = root;
        let mut rights = 7;
        for level in (1..=4).rev() {
            let at = table + (input >> (12 + 9 * (level - 1))) % 512 * 8;
            let entry = self.load(dimension + 1, at)?;
            if entry % 8 == 0 {
                return Err(violation(0));
            }
            let large = entry & 0x80 != 0;
            let leaf = level == 1 || level < 4 && large;
            let page = 1 << (12 + 9 * (level - 1));
            let malformed = entry % 8 == 2
                || entry % 8 == 6
                || entry % 8 == 4
                || entry & 0x000f_c000_0000_0000 != 0
                || leaf && [2, 3, 7].contains(&(entry >> 3 & 7))
                || !leaf && entry & 0xf8 != 0
                || leaf && entry & 0x000f_ffff_ffff_f000 & (page - 1) != 0;
            if malformed {
                return Err(Outcome::Misconfigured(number, input));
            }
            rights &= entry % 8;
            if leaf {
                if rights & asked != asked {
                    return Err(violation(rights));
                }
                let dirty = if asked & 2 != 0 { 0x200 } else { 0 };
                if flags {
                    self.set(dimension + 1, at, entry, 0x100 | dirty)?;
                }
                return Ok((entry & 0x000f_ffff_ffff_f000) + input % page);
            }
            if flags {
                self.set(dimension + 1, at, entry, 0x100)?;
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
        unreachable!("level 1 is a leaf")
    }

    /// The guest's 4-level tables at 0, at CPL 3, without NXE.
    fn guest(&mut self, gva: u64, access: &str) -> Result<u64, Outcome> {
        let write = access == "write";
        let code = 4 | u32::from(write) << 1;
        let mut table = 0;
        let mut rights = 7;
        for level in (1..=4).rev() {
            let at = table + (gva >> (12 + 9 * (level - 1))) % 512 * 8;
            let entry = self.load(1, at)?;
            if entry & 1 == 0 {
                return Err(Outcome::PageFault(code));
            }
            let large = entry & 0x80 != 0;
            let leaf = level == 1 || large;
            let page = 1 << (12 + 9 * (level - 1));
            let misaligned = level > 1 && entry & 0x000f_ffff_ffff_e000 & (page - 1) != 0;
            if entry & 0x800f_c000_0000_0000 != 0 || large && level == 4 || leaf && misaligned {
                return Err(Outcome::PageFault(code | 9));
            }
            rights &= entry;
            if leaf {
                if rights & 4 == 0 || write && rights & 2 == 0 {
                    return Err(Outcome::PageFault(code | 1));
                }
                self.set(1, at, entry, if write { 0x60 } else { 0x20 })?;
                let output = (entry & 0x000f_ffff_ffff_f000 & !(page - 1)) + gva % page;
                return self.down(1, output, access);
            }
            self.set(1, at, entry, 0x20)?;
            table = entry & 0x000f_ffff_ffff_f000;
        }
        unreachable!("level 1 is a leaf")
    }
}

fn outcome(walked: Result<nested::Nested, Failure>) -> Outcome {
    let Failure { dimension, cause } = match walked {
        Ok(nested) => return Outcome::Address(nested.address.0),
        Err(failure) => failure,
    };
    match cause {
        Cause::PageFault(fault) => {
            assert_eq!(dimension, 0);
            Outcome::PageFault(fault.error_code.bits())
        }
        Cause::Stage(StageFault::Ept(Fault::Violation { gpa, qualification })) => {
            Outcome::Violation(dimension, gpa.0, qualification.bits())
        }
        Cause::Stage(StageFault::Ept(Fault::Misconfiguration { gpa })) => {
            Outcome::Misconfigured(dimension, gpa.0)
        }
        Cause::Absent { at, .. } => Outcome::Absent(at.0),
        other => panic!("{other}"),
    }
}

/// Fills the memory with entries of which `of_64` in 64 have something wrong.
fn fill(random: &mut impl FnMut() -> u64, of_64: u64) -> Vec<u8> {
    let mut entry = || {
        let page = (random() % (RAM as u64 >> 12)) << 12;
        // A whole entry for both formats: rights, write-back where EPT sees a leaf.
        let mut entry = page | 7 | random() & 0x360;
        if random().is_multiple_of(4) {
            entry |= 0x30;
        }
        if random() % 64 < of_64 {
            entry ^= 1 << (random() % 64);
        }
        if random() % 64 < of_64 {
            entry = entry & !7 | (random() % 8);
        }
        if random().is_multiple_of(24) {
            entry = entry & 0xfff | 0x80 | (random() % 2) << 12;
        }
        entry
    };
    (0..RAM / 8).flat_map(|_| entry().to_le_bytes()).collect()
}

/// Returns what the model said, for counting.
fn compare(seed: u64, stages: usize) -> Vec<Outcome> {
    let mut state = seed;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    let mut ram = fill(&mut random, seed % 3);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
    let roots: Vec<(u64, bool)> = (0..stages)
        .map(|_| ((random() % 32) << 12, random().is_multiple_of(2)))
        .collect();
    // EPT needs tables without bits 6:3, so its upper levels get pages of their own kind.
    for at in (RAM / 2..RAM).step_by(8) {
        let entry = u64::from_le_bytes(ram[at..at + 8].try_into().unwrap());
        if random() % 16 != 0 {
            ram[at..at + 8].copy_from_slice(&(entry & !0xf8).to_le_bytes());
        }
    }
    (0..16)
        .map(|_| {
            let gva = random() % (1 << 47);
            let (name, kind) = [
                ("read", AccessKind::Read),
                ("write", AccessKind::Write),
                ("fetch", AccessKind::Fetch),
            ][(random() % 3) as usize];
            let before = ram.clone();
            let mut model = Model {
                ram: &mut ram,
                stages: &roots,
            };
            let expected = match model.guest(gva, name) {
                Ok(address) => Outcome::Address(address),
                Err(outcome) => outcome,
            };
            for heard in [true, false] {
                memory.write_slice(&before, GuestAddress(0)).unwrap();
                let access = Access::new(kind, Privilege::User);
                assert_eq!(walk(&memory, &roots, gva, access, heard), expected);
                let mut after = vec![0; RAM];
                memory.read_slice(&mut after, GuestAddress(0)).unwrap();
                assert!(after == ram, "flags differ after {expected:x?}");
            }
            expected
        })
        .collect()
}

fn walk(
    memory: &GuestMemoryMmap,
    roots: &[(u64, bool)],
    gva: u64,
    access: Access,
    heard: bool,
) -> Outcome {
    let processor = Processor {
        vendor: Vendor::Intel,
        maxphyaddr: 46,
        gib_pages: true,
        pse36: true,
    };
    let registers = Registers {
        cr0: 1 << 31 | 1 << 16,
        cr4: 1 << 5,
        efer: 1 << 10,
        ..Registers::default()
    };
    let guest = Context::new(&processor, &registers);
    let capabilities = ept::Capabilities {
        maxphyaddr: 46,
        execute_only: false,
        mib_pages: true,
        gib_pages: true,
        mode_based_execute: false,
    };
    let epts: Vec<_> = roots
        .iter()
        .map(|&(root, flags)| {
            ept::Context::new(&capabilities, root | 3 << 3 | u64::from(flags) << 6)
        })
        .collect();
    let pinned = PinnedMemory::new(memory).unwrap();
    let ground = Ground::new(&pinned, roots.len() as u8);
    let trace = Trace::default();
    let gva = Gva(gva);
    outcome(match (&epts[..], heard) {
        ([one], true) => {
            let stack = Stage::new(1, one, ground, &trace);
            nested::walk(&stack, &guest, gva, access, &mut &trace)
        }
        ([one], false) => {
            let stack = Stage::new(1, one, ground, ());
            nested::walk(&stack, &guest, gva, access, &mut ())
        }
        ([one, two], true) => {
            let stack = Stage::new(1, one, Stage::new(2, two, ground, &trace), &trace);
            nested::walk(&stack, &guest, gva, access, &mut &trace)
        }
        ([one, two], false) => {
            let stack = Stage::new(1, one, Stage::new(2, two, ground, ()), ());
            nested::walk(&stack, &guest, gva, access, &mut ())
        }
        _ => unreachable!("one or two stages"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn two_dimensions_agree_with_the_composition(seed: u64) {
        compare(seed, 1);
    }

    #[test]
    fn three_dimensions_agree_with_the_composition(seed: u64) {
        compare(seed, 2);
    }
}

#[test]
fn random_stacks_lead_to_every_outcome() {
    for stages in [1, 2] {
        let outcomes: Vec<_> = (0..400).flat_map(|seed| compare(seed, stages)).collect();
        let count = |of: fn(&Outcome) -> bool| outcomes.iter().filter(|o| of(o)).count();
        let counts = [
            count(|o| matches!(o, Outcome::Address(_))),
            count(|o| matches!(o, Outcome::PageFault(_))),
            count(|o| matches!(o, Outcome::Violation(..))),
            count(|o| matches!(o, Outcome::Misconfigured(..))),
            count(|o| matches!(o, Outcome::Absent(_))),
        ];
        assert!(
            counts.iter().all(|&n| n >= 5),
            "{stages} stages: {counts:?}"
        );
    }
}
