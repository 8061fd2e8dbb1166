//! Nested walks: how many references, which faults, which flags.

use guest_paging::ept::{self, Fault, Qualification};
use guest_paging::nested::{self, Cause, Failure, Ground, Nested, Stage, StageFault, Trace};
use guest_paging::npt::{self, ExitInfo1};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use guest_paging::x86::{Access, AccessKind, Context, ErrorCode, Privilege, Processor};
use guest_paging::x86::{Registers, Vendor};
use guest_paging::{Gpa, Gva, PinnedMemory, Reference, ReferenceKind};
use support::tables::{EPT, Pages, Tree, X86};

mod support {
    pub(crate) mod tables;
}

const GVA: u64 = 0x1_2345_6789;
const PAGE_GPA: u64 = 0x5_4000;
const RAM: u64 = 0x20_0000;
const CAPABILITIES: ept::Capabilities = ept::Capabilities {
    maxphyaddr: 46,
    execute_only: false,
    mib_pages: true,
    gib_pages: true,
    mode_based_execute: false,
};
const FLAGS: u64 = 1 << 6;

/// Guest tables whose root is at 0 of its space, over stages that move each space up by 2 MiB.
struct Machine {
    memory: GuestMemoryMmap,
    guest: Context,
    /// From the one that translates guest physical addresses down.
    trees: Vec<Tree>,
    guest_tree: Tree,
}

impl Machine {
    fn new(guest_levels: u32, stages: &[u32]) -> Self {
        let depth = stages.len() as u64;
        let memory = GuestMemoryMmap::from_ranges(&[(
            GuestAddress(0),
            usize::try_from(RAM * (depth + 1)).unwrap(),
        )])
        .unwrap();
        let guest_tree = Tree {
            root: 0,
            levels: guest_levels,
            bits: X86,
            offset: RAM * depth,
        };
        let mut pages = Pages {
            memory: &memory,
            next: guest_tree.offset + 0x1000,
        };
        pages.map(&guest_tree, GVA, PAGE_GPA);
        let trees = stages.iter().zip(1..);
        let trees: Vec<_> = trees
            .map(|(&levels, dimension)| {
                let offset = RAM * (depth - dimension);
                let tree = Tree {
                    root: 0,
                    levels,
                    bits: EPT,
                    offset,
                };
                let mut pages = Pages {
                    memory: &memory,
                    next: offset + 0x1000,
                };
                // Everything above lies 2 MiB higher in the space below than in its own.
                for page in (0..dimension * RAM).step_by(0x1000) {
                    pages.map(&tree, page, page + RAM);
                }
                tree
            })
            .collect();
        Self {
            guest: guest(guest_levels, 0),
            memory,
            trees,
            guest_tree,
        }
    }

    fn ept(&self, stage: usize, eptp: u64) -> ept::Context {
        let levels = u64::from(self.trees[stage].levels);
        ept::Context::new(&CAPABILITIES, (levels - 1) << 3 | eptp)
    }

    /// Where the entry of the only stage lies for a guest physical address.
    fn ept_entry(&self, gpa: u64, level: u32) -> GuestAddress {
        let mut pages = Pages {
            memory: &self.memory,
            next: u64::MAX,
        };
        GuestAddress(pages.entry(&self.trees[0], gpa, level))
    }

    fn guest_entry(&self, level: u32) -> GuestAddress {
        let mut pages = Pages {
            memory: &self.memory,
            next: u64::MAX,
        };
        GuestAddress(pages.entry(&self.guest_tree, GVA, level))
    }

    fn change(&self, at: GuestAddress, f: impl FnOnce(u64) -> u64) {
        let entry: u64 = self.memory.read_obj(at).unwrap();
        self.memory.write_obj(f(entry), at).unwrap();
    }

    fn read(&self, at: GuestAddress) -> u64 {
        self.memory.read_obj(at).unwrap()
    }

    /// A walk over one stage of EPT, heard and unheard: both must tell the same.
    fn over_ept(&self, ept: &ept::Context, access: Access) -> Result<Nested, Failure> {
        let pinned = PinnedMemory::new(&self.memory).unwrap();
        let ground = Ground::new(&pinned, 1);
        let trace = Trace::default();
        let stage = Stage::new(1, ept, ground, &trace);
        let heard = nested::walk(&stage, &self.guest, Gva(GVA), access, &mut &trace);
        let stage = Stage::new(1, ept, ground, ());
        let unheard = nested::walk(&stage, &self.guest, Gva(GVA), access, &mut ());
        assert_eq!(heard, unheard);
        heard
    }
}

fn guest(levels: u32, cr3: u64) -> Context {
    let processor = Processor {
        vendor: Vendor::Intel,
        maxphyaddr: 46,
        gib_pages: true,
        pse36: true,
    };
    let la57 = if levels == 5 { 1 << 12 } else { 0 };
    let registers = Registers {
        cr0: 1 << 31 | 1 << 16 | 1,
        cr3,
        cr4: 1 << 5 | la57,
        efer: 0xd00,
        ..Registers::default()
    };
    Context::new(&processor, &registers)
}

const READ: Access = Access::new(AccessKind::Read, Privilege::User);
const WRITE: Access = Access::new(AccessKind::Write, Privilege::User);
const FETCH: Access = Access::new(AccessKind::Fetch, Privilege::User);

fn references_of_two_dimensions(guest_levels: u32, ept_levels: u32) -> Vec<Reference> {
    let machine = Machine::new(guest_levels, &[ept_levels]);
    let ept = machine.ept(0, FLAGS);
    let pinned = PinnedMemory::new(&machine.memory).unwrap();
    let trace = Trace::default();
    let stage = Stage::new(1, &ept, Ground::new(&pinned, 1), &trace);
    let nested = nested::walk(&stage, &machine.guest, Gva(GVA), WRITE, &mut &trace).unwrap();
    assert_eq!(nested.address, Gpa(PAGE_GPA + 0x789 + RAM));
    trace.take()
}

#[test]
fn four_levels_over_four_make_24_references() {
    let references = references_of_two_dimensions(4, 4);
    assert_eq!(references.len(), 24);
    let dimensions: Vec<_> = references.iter().map(|r| r.dimension).collect();
    let mut expected = [1, 1, 1, 1, 0].repeat(4);
    expected.extend([1, 1, 1, 1]);
    assert_eq!(dimensions, expected);
}

#[test]
fn five_levels_over_five_make_35_references() {
    assert_eq!(references_of_two_dimensions(5, 5).len(), 35);
    assert_eq!(references_of_two_dimensions(5, 4).len(), 29);
    assert_eq!(references_of_two_dimensions(4, 5).len(), 29);
}

#[test]
fn three_dimensions_of_four_levels_make_124_references() {
    let machine = Machine::new(4, &[4, 4]);
    let (upper, lower) = (machine.ept(0, FLAGS), machine.ept(1, FLAGS));
    let pinned = PinnedMemory::new(&machine.memory).unwrap();
    let trace = Trace::default();
    let lower_stage = Stage::new(2, &lower, Ground::new(&pinned, 2), &trace);
    let stack = Stage::new(1, &upper, &lower_stage, &trace);
    let heard = nested::walk(&stack, &machine.guest, Gva(GVA), READ, &mut &trace).unwrap();
    assert_eq!(heard.address, Gpa(PAGE_GPA + 0x789 + 2 * RAM));
    let references = trace.take();
    assert_eq!(references.len(), 124);
    let of = |dimension| {
        references
            .iter()
            .filter(|r| r.dimension == dimension)
            .count()
    };
    assert_eq!([of(0), of(1), of(2)], [4, 20, 100]);

    let lower_stage = Stage::new(2, &lower, Ground::new(&pinned, 2), ());
    let stack = Stage::new(1, &upper, &lower_stage, ());
    let unheard = nested::walk(&stack, &machine.guest, Gva(GVA), READ, &mut ());
    assert_eq!(unheard, Ok(heard));
}

fn violation(gpa: u64, bits: Qualification) -> Failure {
    Failure {
        dimension: 1,
        cause: Cause::Stage(StageFault::Ept(Fault::Violation {
            gpa: Gpa(gpa),
            qualification: bits,
        })),
    }
}

fn misconfiguration(gpa: u64) -> Failure {
    Failure {
        dimension: 1,
        cause: Cause::Stage(StageFault::Ept(Fault::Misconfiguration { gpa: Gpa(gpa) })),
    }
}

const ALL_PERMITTED: Qualification = Qualification::READABLE
    .union(Qualification::WRITABLE)
    .union(Qualification::EXECUTABLE);
const FINAL: Qualification = Qualification::LINEAR.union(Qualification::TRANSLATED);

#[test]
fn a_page_that_is_absent_in_ept_is_a_violation_of_the_access_proper() {
    let machine = Machine::new(4, &[4]);
    let ept = machine.ept(0, 0);
    machine.change(machine.ept_entry(PAGE_GPA, 1), |_| 0);
    for (access, bit) in [
        (READ, Qualification::READ),
        (WRITE, Qualification::WRITE),
        (FETCH, Qualification::FETCH),
    ] {
        let failed = machine.over_ept(&ept, access).unwrap_err();
        assert_eq!(failed, violation(PAGE_GPA + 0x789, bit | FINAL));
    }
}

#[test]
fn rights_reported_are_those_of_all_levels_together() {
    let machine = Machine::new(4, &[4]);
    let ept = machine.ept(0, 0);
    machine.change(machine.ept_entry(PAGE_GPA, 3), |entry| entry & !4);
    machine.change(machine.ept_entry(PAGE_GPA, 1), |entry| entry & !2);
    let failed = machine.over_ept(&ept, WRITE).unwrap_err();
    let expected = Qualification::WRITE | Qualification::READABLE | FINAL;
    assert_eq!(failed, violation(PAGE_GPA + 0x789, expected));
    assert!(machine.over_ept(&ept, READ).is_ok());
}

#[test]
fn a_guest_table_is_read_and_its_update_is_a_write() {
    let machine = Machine::new(4, &[4]);
    // The guest's PML4 lies in its page 0, which EPT lets nobody write.
    machine.change(machine.ept_entry(0, 1), |entry| entry & !2);
    let pml4e = (GVA >> 39 & 511) * 8;
    let both = Qualification::READ | Qualification::WRITE;
    let permitted = ALL_PERMITTED.difference(Qualification::WRITABLE);
    let expected = violation(pml4e, both | permitted | Qualification::LINEAR);

    let without_flags = machine.ept(0, 0);
    assert!(machine.over_ept(&without_flags, READ).is_ok());
    machine.change(machine.guest_entry(4), |entry| entry & !0x20);
    assert_eq!(machine.over_ept(&without_flags, READ), Err(expected));
    machine.change(machine.guest_entry(4), |entry| entry | 0x20);
    // With flags in EPT the load alone counts as a write.
    assert_eq!(
        machine.over_ept(&machine.ept(0, FLAGS), READ),
        Err(expected)
    );
}

#[test]
fn malformed_entries_are_misconfigurations_and_have_no_qualification() {
    let gpa = PAGE_GPA + 0x789;
    for (level, bad) in [
        (1, 0x0000_0000_0000_0032_u64), // writable, not readable
        (1, 0x0000_0000_0000_0036),
        (1, 0x0000_0000_0000_0034), // execute-only, which this processor lacks
        (1, 0x0000_0000_0000_0017), // memory types 2, 3 and 7
        (1, 0x0000_0000_0000_001f),
        (1, 0x0000_0000_0000_003f),
        (1, 0x0000_4000_0000_0037), // beyond MAXPHYADDR
        (2, 0x0000_0000_0000_000f), // bits 6:3 of an entry that references a table
        (2, 0x0000_0000_0000_10b7), // a 2 MiB page that is not aligned
        (3, 0x0000_0000_0020_00b7),
        (4, 0x0000_0000_0000_0087), // bit 7 of a PML4E
    ] {
        let machine = Machine::new(4, &[4]);
        let pinned = PinnedMemory::new(&machine.memory).unwrap();
        let ept = machine.ept(0, 0);
        machine
            .memory
            .write_obj(bad, machine.ept_entry(PAGE_GPA, level))
            .unwrap();
        let access = nested::StageAccess {
            kind: AccessKind::Read,
            purpose: nested::Purpose::Physical,
            user_address: false,
        };
        let stage = Stage::new(1, &ept, Ground::new(&pinned, 1), ());
        let failed = stage.translate(Gpa(gpa), access).unwrap_err();
        assert_eq!(failed, misconfiguration(gpa), "level {level}: {bad:#x}");
    }
}

#[test]
fn execute_only_pages_are_fetched_and_not_read() {
    let machine = Machine::new(4, &[4]);
    let ept = ept::Context::new(
        &ept::Capabilities {
            execute_only: true,
            ..CAPABILITIES
        },
        3 << 3,
    );
    machine.change(machine.ept_entry(PAGE_GPA, 1), |entry| entry & !3);
    assert!(machine.over_ept(&ept, FETCH).is_ok());
    let expected = Qualification::READ | Qualification::EXECUTABLE | FINAL;
    let failed = machine.over_ept(&ept, READ).unwrap_err();
    assert_eq!(failed, violation(PAGE_GPA + 0x789, expected));
}

#[test]
fn mode_based_execute_control_asks_bit_10_for_user_addresses() {
    let machine = Machine::new(4, &[4]);
    let ept = ept::Context::new(
        &ept::Capabilities {
            mode_based_execute: true,
            ..CAPABILITIES
        },
        3 << 3,
    );
    let failed = machine.over_ept(&ept, FETCH).unwrap_err();
    let expected = Qualification::FETCH | ALL_PERMITTED | FINAL;
    assert_eq!(failed, violation(PAGE_GPA + 0x789, expected));
    for level in 1..=4 {
        machine.change(machine.ept_entry(PAGE_GPA, level), |entry| {
            entry & !4 | 1 << 10
        });
    }
    assert!(machine.over_ept(&ept, FETCH).is_ok());
    // A supervisor-mode linear address: U/S is clear.
    machine.change(machine.guest_entry(1), |entry| entry & !4);
    let kernel = Access::new(AccessKind::Fetch, Privilege::Supervisor);
    let failed = machine.over_ept(&ept, kernel).unwrap_err();
    let permitted = Qualification::READABLE | Qualification::WRITABLE;
    let expected = Qualification::FETCH | permitted | Qualification::EXECUTABLE_USER | FINAL;
    assert_eq!(failed, violation(PAGE_GPA + 0x789, expected));
}

#[test]
fn accessed_and_dirty_flags_are_set_in_each_dimension() {
    let machine = Machine::new(4, &[4]);
    let table = machine.ept_entry(PAGE_GPA, 2);
    let leaf = machine.ept_entry(PAGE_GPA, 1);
    let pml4_leaf = machine.ept_entry(0, 1);
    let clear = || {
        for at in [table, leaf, pml4_leaf] {
            machine.change(at, |entry| entry & !0x300);
        }
        machine.change(machine.guest_entry(1), |entry| entry & !0x60);
    };
    clear();
    machine.over_ept(&machine.ept(0, 0), WRITE).unwrap();
    assert_eq!(machine.read(leaf) & 0x300, 0, "flags are not enabled");
    assert_eq!(machine.read(machine.guest_entry(1)) & 0x60, 0x60);

    clear();
    machine.over_ept(&machine.ept(0, FLAGS), READ).unwrap();
    assert_eq!(machine.read(table) & 0x300, 0x100);
    assert_eq!(machine.read(leaf) & 0x300, 0x100);
    assert_eq!(machine.read(pml4_leaf) & 0x300, 0x300, "tables are written");
    assert_eq!(machine.read(machine.guest_entry(1)) & 0x60, 0x20);
    machine.over_ept(&machine.ept(0, FLAGS), WRITE).unwrap();
    assert_eq!(machine.read(leaf) & 0x300, 0x300);
}

#[test]
fn probing_stages_write_nothing() {
    let machine = Machine::new(4, &[4]);
    let ept = machine.ept(0, FLAGS);
    let leaf = machine.ept_entry(PAGE_GPA, 1);
    machine.change(leaf, |entry| entry & !0x300);
    machine.change(machine.guest_entry(2), |entry| entry & !0x20);
    let pinned = PinnedMemory::new(&machine.memory).unwrap();
    let trace = Trace::default();
    let stage = Stage::new(1, &ept, Ground::new(&pinned, 1), &trace).probing();
    nested::probe(&stage, &machine.guest, Gva(GVA), WRITE, &mut &trace).unwrap();
    let references = trace.take();
    assert!(references.iter().all(|r| r.kind == ReferenceKind::Load));
    assert_eq!(machine.read(leaf) & 0x300, 0);
}

#[test]
fn the_guests_fault_is_that_of_dimension_0() {
    let machine = Machine::new(4, &[4]);
    machine.change(machine.guest_entry(1), |entry| entry & !2);
    let failed = machine.over_ept(&machine.ept(0, 0), WRITE).unwrap_err();
    assert_eq!(failed.dimension, 0);
    let Cause::PageFault(fault) = failed.cause else {
        panic!("{failed}");
    };
    let expected = ErrorCode::PRESENT | ErrorCode::WRITE | ErrorCode::USER;
    assert_eq!(fault.error_code, expected);
}

#[test]
fn faults_of_a_lower_stage_carry_its_dimension() {
    let machine = Machine::new(4, &[4, 4]);
    let (upper, lower) = (machine.ept(0, 0), machine.ept(1, 0));
    let mut pages = Pages {
        memory: &machine.memory,
        next: u64::MAX,
    };
    // What the lower stage translates here is the page of the upper stage's root.
    let at = pages.entry(&machine.trees[1], 0, 1);
    machine.change(GuestAddress(at), |_| 0);
    let pinned = PinnedMemory::new(&machine.memory).unwrap();
    let lower_stage = Stage::new(2, &lower, Ground::new(&pinned, 2), ());
    let stack = Stage::new(1, &upper, &lower_stage, ());
    let failed = nested::walk(&stack, &machine.guest, Gva(GVA), READ, &mut ()).unwrap_err();
    assert_eq!(failed.dimension, 2);
    let StageFault::Ept(Fault::Violation { gpa, qualification }) = (match failed.cause {
        Cause::Stage(fault) => fault,
        other => panic!("{other}"),
    }) else {
        panic!("{failed}");
    };
    assert_eq!(gpa, Gpa(0));
    assert_eq!(qualification, Qualification::READ | Qualification::LINEAR);
}

#[test]
fn an_address_beyond_the_structures_is_a_violation() {
    let machine = Machine::new(4, &[4]);
    machine.change(machine.guest_entry(1), |_| 1 << 48 >> 4 | 0x67);
    let ept = machine.ept(0, 0);
    let failed = machine.over_ept(&ept, READ).unwrap_err();
    let expected = Qualification::READ | FINAL;
    assert_eq!(failed, violation((1 << 44) + 0x789, expected));
    let pinned = PinnedMemory::new(&machine.memory).unwrap();
    let stage = Stage::new(1, &ept, Ground::new(&pinned, 1), ());
    let access = nested::StageAccess {
        kind: AccessKind::Read,
        purpose: nested::Purpose::Physical,
        user_address: false,
    };
    let failed = stage.translate(Gpa(1 << 48), access).unwrap_err();
    assert_eq!(failed, violation(1 << 48, Qualification::READ));
}

/// Nested page tables: the guest's own, whose entries have the same format, as both.
fn npt_machine() -> (GuestMemoryMmap, Context, npt::Context, [Tree; 2]) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x40_0000)]).unwrap();
    let tree = |offset| Tree {
        root: 0,
        levels: 4,
        bits: X86,
        offset,
    };
    let (guest_tree, nested_tree) = (tree(RAM), tree(0));
    let mut pages = Pages {
        memory: &memory,
        next: RAM + 0x1000,
    };
    pages.map(&guest_tree, GVA, PAGE_GPA);
    pages.next = 0x1000;
    for page in (0..RAM).step_by(0x1000) {
        pages.map(&nested_tree, page, page + RAM);
    }
    let processor = Processor {
        vendor: Vendor::Amd,
        maxphyaddr: 48,
        gib_pages: true,
        pse36: true,
    };
    let registers = Registers {
        cr0: 1 << 31 | 1 << 16 | 1,
        cr4: 1 << 5,
        efer: 0xd00,
        ..Registers::default()
    };
    let npt = npt::Context::new(&processor, &registers);
    (memory, guest(4, 0), npt, [guest_tree, nested_tree])
}

fn npt_failure(
    level: u32,
    gpa: u64,
    access: Access,
    change: impl FnOnce(u64) -> u64,
) -> npt::NestedPageFault {
    let (memory, guest, npt, [_, tree]) = npt_machine();
    let mut pages = Pages {
        memory: &memory,
        next: u64::MAX,
    };
    let at = GuestAddress(pages.entry(&tree, gpa, level));
    let entry: u64 = memory.read_obj(at).unwrap();
    memory.write_obj(change(entry), at).unwrap();
    let pinned = PinnedMemory::new(&memory).unwrap();
    let stage = Stage::new(1, &npt, Ground::new(&pinned, 1), ());
    let failed = nested::walk(&stage, &guest, Gva(GVA), access, &mut ()).unwrap_err();
    match failed.cause {
        Cause::Stage(StageFault::Npt(fault)) => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn nested_page_faults_say_where_they_were_met() {
    let final_fault = npt_failure(1, PAGE_GPA, READ, |_| 0);
    assert_eq!(final_fault.exit_info_2, Gpa(PAGE_GPA + 0x789));
    let expected = ExitInfo1::USER | ExitInfo1::FINAL_ADDRESS;
    assert_eq!(final_fault.exit_info_1, expected);

    // Read-only guest tables: even their load counts as a write.
    let table_fault = npt_failure(1, 0, FETCH, |entry| entry & !2);
    assert_eq!(table_fault.exit_info_2, Gpa((GVA >> 39 & 511) * 8));
    let expected = ExitInfo1::PRESENT | ExitInfo1::WRITE | ExitInfo1::USER | ExitInfo1::GUEST_TABLE;
    assert_eq!(table_fault.exit_info_1, expected);

    // Supervisor pages of the host: every access is one of user mode.
    let user_fault = npt_failure(1, PAGE_GPA, FETCH, |entry| entry & !4);
    let expected =
        ExitInfo1::PRESENT | ExitInfo1::USER | ExitInfo1::FETCH | ExitInfo1::FINAL_ADDRESS;
    assert_eq!(user_fault.exit_info_1, expected);

    let reserved = npt_failure(2, PAGE_GPA, READ, |entry| entry | 1 << 50);
    // That entry is on the way to every guest table too, and so is met there first.
    let expected = ExitInfo1::PRESENT
        | ExitInfo1::WRITE
        | ExitInfo1::USER
        | ExitInfo1::RESERVED
        | ExitInfo1::GUEST_TABLE;
    assert_eq!(reserved.exit_info_1, expected);
}

#[test]
fn nested_page_tables_of_four_levels_make_24_references() {
    let (memory, guest, npt, _) = npt_machine();
    let pinned = PinnedMemory::new(&memory).unwrap();
    let trace = Trace::default();
    let stage = Stage::new(1, &npt, Ground::new(&pinned, 1), &trace);
    let nested = nested::walk(&stage, &guest, Gva(GVA), WRITE, &mut &trace).unwrap();
    assert_eq!(nested.address, Gpa(PAGE_GPA + 0x789 + RAM));
    assert_eq!(trace.take().len(), 24);
}
