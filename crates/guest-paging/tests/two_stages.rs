//! Arm's stage 1 over stage 2, and VT-d's first stage over its second, beside walks of each stage by
//! itself.

use guest_paging::arm::{self, Granule, Registers, Stage as ArmStage};
use guest_paging::nested::{
    self, Cause, Failure, Ground, GuestPaging, Purpose, Stage, StageAccess, StageFault, Structures,
    Trace,
};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use guest_paging::x86::{Access, AccessKind, Privilege};
use guest_paging::{
    Exchange, Gpa, Gva, Paging, PinnedMemory, Reference, TableMemory, Unbacked, WalkError, vtd,
};
use proptest::prelude::*;
use support::random::Random;

mod support {
    pub(crate) mod random;
}

/// Pages of the ground; the upper half holds the tables of the lower stage.
const PAGES: u64 = 32;
const LOWER: u64 = PAGES / 2;

fn memory() -> GuestMemoryMmap {
    let size = usize::try_from(PAGES << 12).unwrap();
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap()
}

/// Memory behind a stage, whose every access is a walk of its own from scratch.
struct Behind<'m, S> {
    ground: &'m PinnedMemory<'m>,
    structures: &'m S,
}

impl<S: Structures> Behind<'_, S> {
    fn find(&self, at: Gpa, kind: AccessKind, purpose: Purpose, user: bool) -> Option<Gpa> {
        let access = StageAccess {
            kind,
            purpose,
            user_address: user,
        };
        let walked = self.structures.walk::<_, _, true>(
            self.ground,
            at,
            access,
            &mut Vec::<Reference>::new(),
        );
        walked.ok().map(|mapping| mapping.address)
    }

    fn entry(&self, at: Gpa, kind: AccessKind) -> Result<Gpa, Unbacked> {
        self.find(at, kind, Purpose::Table, false).ok_or(Unbacked)
    }
}

impl<S: Structures> TableMemory for Behind<'_, S> {
    type Error = Unbacked;

    fn load_u32(&self, _: Gpa) -> Result<u32, Unbacked> {
        Err(Unbacked)
    }

    fn load_u64(&self, at: Gpa) -> Result<u64, Unbacked> {
        self.ground.load_u64(self.entry(at, AccessKind::Read)?)
    }

    fn compare_exchange_u32(&self, _: Gpa, _: u32, _: u32) -> Exchange<u32, Unbacked> {
        Err(Unbacked)
    }

    fn compare_exchange_u64(&self, at: Gpa, current: u64, new: u64) -> Exchange<u64, Unbacked> {
        let at = self.entry(at, AccessKind::Write)?;
        self.ground.compare_exchange_u64(at, current, new)
    }
}

/// What came of a walk: an address, the guest's fault, or a matter of the stage below.
#[derive(Debug, PartialEq)]
enum Outcome<F> {
    Address(Gpa),
    Fault(F),
    Below,
}

/// Walks the same question through a stack and through `Behind`, on copies of the same memory.
fn compare<C, S>(words: &[u64], upper: &C, lower: &S, input: C::Input, access: C::Access) -> bool
where
    C: GuestPaging<Input: Copy, Fault: std::fmt::Debug + PartialEq>,
    Cause: From<C::Fault>,
    S: Structures,
    C::Fault: TryFrom<Cause>,
{
    let memories = [memory(), memory()];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    for memory in &memories {
        memory.write_slice(&bytes, GuestAddress(0)).unwrap();
    }
    let [ground, other] = memories.each_ref().map(|of| PinnedMemory::new(of).unwrap());
    let stack = Stage::new(1, lower, Ground::new(&ground, 1), ());
    let found = match nested::walk(&stack, upper, input, access, &mut ()) {
        Ok(found) => Outcome::Address(found.address),
        Err(Failure {
            dimension: 0,
            cause,
        }) => Outcome::Fault(C::Fault::try_from(cause).ok().expect("the guest's fault")),
        Err(_) => Outcome::Below,
    };
    let behind = Behind {
        ground: &other,
        structures: lower,
    };
    let expected = match guest_paging::walk(&behind, upper, input, access, &mut Vec::new()) {
        Ok(translation) => {
            let (gpa, access) = C::to_stage(&translation, access);
            let last = behind.find(gpa, access.kind, access.purpose, access.user_address);
            last.map_or(Outcome::Below, Outcome::Address)
        }
        Err(WalkError::Fault(fault)) => Outcome::Fault(fault),
        Err(_) => Outcome::Below,
    };
    assert_eq!(found, expected);
    let [left, right] = memories.each_ref().map(|memory| {
        let mut bytes = bytes.clone();
        memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    });
    assert!(left == right, "the flags differ");
    matches!(found, Outcome::Address(_))
}

/// Random tables of the upper stage in the first 8 pages, and the identity in the lower one, of which
/// some entries are bad.
fn words(random: &mut Random, entry: impl Fn(u64, u64) -> u64, lower_flags: u64) -> Vec<u64> {
    let mut words = vec![0; usize::try_from(PAGES * 512).unwrap()];
    let mut store = |page: u64, index: u64, word| {
        words[usize::try_from(page * 512 + index).unwrap()] = word;
    };
    for page in 0..8 {
        for index in 0..8 {
            let number = random.next();
            store(page, index, entry(number % 8, number >> 3));
        }
    }
    for level in 0..3 {
        store(LOWER + level, 0, (LOWER + level + 1) << 12 | lower_flags);
    }
    for page in 0..8 {
        let number = random.next();
        let bad = if number.is_multiple_of(16) {
            number & 0xfff
        } else {
            0
        };
        store(LOWER + 3, page, page << 12 | lower_flags ^ bad);
    }
    words
}

/// An input whose indices are below 8.
fn address(random: &mut Random) -> u64 {
    let index = |shift: u32, number: u64| (number >> shift & 7) << (12 + 9 * (shift / 3));
    let number = random.next();
    [0, 3, 6, 9]
        .map(|shift| index(shift, number))
        .iter()
        .sum::<u64>()
        | number >> 40 & 0xff8
}

const KINDS: [AccessKind; 3] = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];

fn arm_registers(stage: ArmStage, table: u64, number: u64) -> Registers {
    Registers {
        stage,
        granule: Granule::Size4K,
        tsz: 16,
        output_bits: 48,
        levels: 4,
        table: Gpa(table),
        hardware_access: number & 1 != 0,
        hardware_dirty: number & 2 != 0,
    }
}

/// A descriptor of stage 1 that leads to another more often than not.
fn descriptor(frame: u64, number: u64) -> u64 {
    let mut entry = frame << 12 | number & 0xc0 | 0x403;
    if number >> 12 & 15 == 0 {
        entry &= !(1 << (number >> 16 & 1));
    }
    if number >> 20 & 7 == 0 {
        entry &= !0x400;
    }
    entry | (number >> 24 & 1) << 51 | (number >> 32 & number >> 36 & 3) << 53
}

/// A descriptor of stage 2: valid, a table or page, accessed, readable and writable.
const STAGE_2: u64 = 0x4c3;

fn first_stage_entry(frame: u64, number: u64) -> u64 {
    let mut entry = frame << 12 | 7 | number & 0x360;
    if number >> 12 & 7 == 0 {
        entry &= !(1 << (number >> 16 & 3));
    }
    if number >> 20 & 15 == 0 {
        entry |= 1 << 7;
    }
    entry
}

/// An entry of the second stage that gives both rights.
const SECOND_STAGE: u64 = 3;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn arm_stages_compose_as_walks_from_scratch(seed: u64) {
        let mut random = Random(seed);
        let words = words(&mut random, descriptor, STAGE_2);
        let pan = random.next() & 1 != 0;
        let one = ArmStage::One { upper: false, pan };
        let upper = arm::Context::new(&arm_registers(one, 0, random.next()));
        let lower = arm::Context::new(&arm_registers(ArmStage::Two, LOWER << 12, random.next()));
        for _ in 0..8 {
            let number = random.next();
            let kind = KINDS[usize::try_from(number % 3).unwrap()];
            let access = arm::Access { kind, el0: number & 64 != 0 };
            compare(&words, &upper, &lower, address(&mut random), access);
        }
    }

    #[test]
    fn vtd_stages_compose_as_walks_from_scratch(seed: u64) {
        let mut random = Random(seed);
        let words = words(&mut random, first_stage_entry, SECOND_STAGE);
        let (upper, lower) = vtd_stages(random.next() & 1 != 0);
        for _ in 0..8 {
            let number = random.next();
            let kind = KINDS[usize::try_from(number % 3).unwrap()];
            let privilege = [Privilege::User, Privilege::Supervisor];
            let access = Access::new(kind, privilege[usize::from(number & 64 != 0)]);
            compare(&words, &upper, &lower, Gva(address(&mut random)), access);
        }
    }
}

fn vtd_stages(flags: bool) -> (guest_paging::x86::Context, vtd::Context) {
    let first = vtd::FirstStage {
        table: 0,
        five_levels: false,
        write_protect: true,
        haw: 48,
        gib_pages: true,
    };
    let capabilities = vtd::Capabilities {
        haw: 48,
        mib_pages: true,
        gib_pages: true,
        snoop_control: false,
        flags,
    };
    let second = vtd::Context::new(&capabilities, Gpa(LOWER << 12), 4);
    (first.context(), second)
}

#[test]
fn random_stages_let_some_accesses_through() {
    let (mut arm_through, mut vtd_through) = (0, 0);
    let mut random = Random(1);
    for _ in 0..200 {
        let tables = words(&mut random, descriptor, STAGE_2);
        let one = ArmStage::One {
            upper: false,
            pan: false,
        };
        let upper = arm::Context::new(&arm_registers(one, 0, 1));
        let lower = arm::Context::new(&arm_registers(ArmStage::Two, LOWER << 12, 1));
        let access = arm::Access {
            kind: AccessKind::Read,
            el0: true,
        };
        let input = address(&mut random);
        arm_through += u32::from(compare(&tables, &upper, &lower, input, access));
        let tables = words(&mut random, first_stage_entry, SECOND_STAGE);
        let (upper, lower) = vtd_stages(true);
        let access = Access::new(AccessKind::Read, Privilege::User);
        let input = Gva(address(&mut random));
        vtd_through += u32::from(compare(&tables, &upper, &lower, input, access));
    }
    assert!(
        arm_through > 5 && vtd_through > 5,
        "{arm_through}, {vtd_through}"
    );
}

/// Four levels over four: each of the four tables, and the page itself.
fn count<C, S>(memory: &GuestMemoryMmap, upper: &C, lower: &S, input: C::Input, access: C::Access)
where
    C: GuestPaging,
    Cause: From<C::Fault>,
    S: Structures,
    Failure: std::fmt::Debug,
    <C as Paging>::Translation: std::fmt::Debug,
{
    let pinned = PinnedMemory::new(memory).unwrap();
    let trace = Trace::default();
    let stack = Stage::new(1, lower, Ground::new(&pinned, 1), &trace);
    let walked = nested::walk(&stack, upper, input, access, &mut &trace).unwrap();
    assert_eq!(walked.address, Gpa(0x5678));
    let references = trace.take();
    let upper = references.iter().filter(|of| of.dimension == 0).count();
    assert_eq!((references.len(), upper), (24, 4));
}

/// The identity for all pages of the ground, with these flags in the tables and pages of a stage.
fn identity(memory: &GuestMemoryMmap, first: u64, table: u64, page: u64) {
    let store = |at: u64, entry: u64| memory.write_obj(entry, GuestAddress(at)).unwrap();
    for level in 0..3 {
        store((first + level) << 12, (first + level + 1) << 12 | table);
    }
    for number in 0..PAGES {
        store(((first + 3) << 12) + 8 * number, number << 12 | page);
    }
}

#[test]
fn four_levels_over_four_make_24_references() {
    let arm_memory = memory();
    identity(&arm_memory, 0, 3, 0x443);
    identity(&arm_memory, LOWER, 3, 0x4c3);
    let one = ArmStage::One {
        upper: false,
        pan: false,
    };
    let upper = arm::Context::new(&arm_registers(one, 0, 0));
    let lower = arm::Context::new(&arm_registers(ArmStage::Two, LOWER << 12, 0));
    let access = arm::Access {
        kind: AccessKind::Read,
        el0: true,
    };
    count(&arm_memory, &upper, &lower, 0x5678, access);

    let vtd_memory = memory();
    identity(&vtd_memory, 0, 0x27, 0x67);
    identity(&vtd_memory, LOWER, 3, 3);
    let (upper, lower) = vtd_stages(false);
    let access = Access::new(AccessKind::Read, Privilege::User);
    count(&vtd_memory, &upper, &lower, Gva(0x5678), access);
}

#[test]
fn a_fault_of_stage_2_says_whose_it_is() {
    let memory = memory();
    identity(&memory, 0, 3, 0x443);
    identity(&memory, LOWER, 3, 0x4c3);
    // Stage 2 lets nothing at the page of the level 2 table (the manual's) through.
    let at = GuestAddress(((LOWER + 3) << 12) + 8 * 2);
    memory.write_obj(0_u64, at).unwrap();
    let one = ArmStage::One {
        upper: false,
        pan: false,
    };
    let upper = arm::Context::new(&arm_registers(one, 0, 0));
    let lower = arm::Context::new(&arm_registers(ArmStage::Two, LOWER << 12, 0));
    let pinned = PinnedMemory::new(&memory).unwrap();
    let stack = Stage::new(1, &lower, Ground::new(&pinned, 1), ());
    let access = arm::Access {
        kind: AccessKind::Read,
        el0: true,
    };
    let failure = nested::walk(&stack, &upper, 0x5678, access, &mut ()).unwrap_err();
    let fault = arm::Fault {
        kind: arm::FaultKind::Translation,
        level: 3,
    };
    let cause = Cause::Stage(StageFault::Arm(fault));
    assert_eq!(
        failure,
        Failure {
            dimension: 1,
            cause
        }
    );
}
