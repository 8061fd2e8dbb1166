//! Privileged behaviour by the manual: delivery of exceptions and interrupts, gates, tasks, traps and shadows.
#![expect(
    clippy::cast_possible_truncation,
    reason = "addresses of 32-bit guests"
)]

mod common;

use common::{CODE, Guest, STACK};
use iced_x86::code_asm::*;
use x86_dbt::{Exit, Features, Segment, State, TableRegister};

const GDT: u64 = 0x6000;
const IDT: u64 = 0x6800;
const TSS: u64 = 0x7000;
const SECOND_TSS: u64 = 0x7100;
const HANDLER: u64 = 0x2000;
const RING0_STACK: u64 = 0x8000;

const CODE0: u16 = 0x08;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x1b;
const DATA3: u16 = 0x23;
const GATE: u16 = 0x28;
const TSS_SELECTOR: u16 = 0x30;
const SECOND_TSS_SELECTOR: u16 = 0x38;

/// A 32-bit guest with flat descriptors for rings 0 and 3, a TSS, an empty IDT, and a handler that halts.
fn protected(assemble: impl FnOnce(&mut CodeAssembler)) -> Guest {
    let mut guest = Guest::protected_mode(assemble);
    let descriptors = [
        0,
        0x00cf_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        // A 32-bit call gate for ring 3 with two parameters.
        gate(HANDLER, 0x8c | 3 << 5) | 2 << 32,
        tss_descriptor(TSS, 0x8b),
        tss_descriptor(SECOND_TSS, 0x89),
    ];
    for (n, descriptor) in (0..).zip(descriptors) {
        guest.load(GDT + n * 8, &descriptor.to_le_bytes());
    }
    guest.load(TSS + 4, &RING0_STACK.to_le_bytes()[..4]);
    guest.load(TSS + 8, &DATA0.to_le_bytes());
    guest.load(HANDLER, &[0xf4]);
    change(&mut guest, |state| {
        state.gdtr = TableRegister {
            base: GDT,
            limit: 0x3f,
        };
        state.idtr = TableRegister {
            base: IDT,
            limit: 0x7ff,
        };
        state.tr = Segment {
            selector: TSS_SELECTOR,
            attributes: 0x8b,
            limit: 0x67,
            base: TSS,
        };
    });
    guest
}

fn change(guest: &mut Guest, change: impl FnOnce(&mut State)) {
    let mut state = guest.cpu.state();
    change(&mut state);
    guest.cpu.set_state(&state);
}

/// A gate to `CODE0:offset` of the given access byte.
fn gate(offset: u64, access: u64) -> u64 {
    offset & 0xffff | u64::from(CODE0) << 16 | access << 40 | (offset >> 16 & 0xffff) << 48
}

fn tss_descriptor(base: u64, access: u64) -> u64 {
    0x67 | (base & 0xff_ffff) << 16 | access << 40
}

fn set_gate(guest: &Guest, vector: u64, access: u64) {
    guest.load(IDT + vector * 8, &gate(HANDLER, access).to_le_bytes());
}

/// Drops to ring 3 at `CODE`.
fn to_ring3(guest: &mut Guest) {
    change(guest, |state| {
        state.cpl = 3;
        for (number, segment) in state.segments.iter_mut().enumerate() {
            *segment = if number == 1 {
                Segment::flat(CODE3, 0xc068)
            } else {
                Segment::flat(DATA3, 0xc060)
            };
        }
    });
}

fn words(guest: &Guest, at: u64, count: u64) -> Vec<u32> {
    (0..count).map(|n| guest.read_u32(at + n * 4)).collect()
}

#[test]
fn a_fault_from_ring_3_switches_to_the_stack_of_the_tss() {
    let mut guest = protected(|a| {
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    set_gate(&guest, 13, 0x8e);
    to_ring3(&mut guest);
    assert_eq!(guest.run(), Exit::Halt);
    let state = guest.cpu.state();
    assert_eq!((state.cpl, state.segments[2].selector), (0, DATA0));
    let frame = words(&guest, state.registers.gpr[4], 6);
    // Error code, EIP, CS, EFLAGS with RF, ESP, SS.
    let expected = [
        0,
        CODE as u32 + 1,
        u32::from(CODE3),
        0x1_0002,
        STACK as u32,
        u32::from(DATA3),
    ];
    assert_eq!(frame, expected);
}

#[test]
fn int_n_needs_a_gate_of_its_privilege() {
    let mut guest = protected(|a| a.int(0x40).unwrap());
    set_gate(&guest, 13, 0x8e);
    set_gate(&guest, 0x40, 0x8e);
    to_ring3(&mut guest);
    assert_eq!(guest.run(), Exit::Halt);
    // #GP with the gate's index and the IDT bit; a software interrupt is not external.
    assert_eq!(guest.read_u32(guest.gpr(4)), 0x40 * 8 + 2);
}

#[test]
fn a_fault_while_delivering_a_fault_is_a_double_fault_and_then_a_shutdown() {
    let mut guest = protected(|a| a.ud2().unwrap());
    set_gate(&guest, 8, 0x8e);
    // #UD has no gate: #NP, which has none either: a double fault with error code 0.
    set_gate(&guest, 6, 0x0e);
    set_gate(&guest, 11, 0x0e);
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(guest.read_u32(guest.gpr(4)), 0);
    let mut guest = protected(|a| a.ud2().unwrap());
    assert_eq!(guest.run(), Exit::Shutdown);
    assert_eq!(guest.run(), Exit::Shutdown);
}

#[test]
fn a_call_gate_copies_parameters_to_the_inner_stack() {
    let mut guest = protected(|a| {
        a.push(0x1111i32).unwrap();
        a.push(0x2222i32).unwrap();
        // call far GATE|3:0
        a.db(&[0x9a, 0, 0, 0, 0, (GATE | 3) as u8, 0]).unwrap();
    });
    to_ring3(&mut guest);
    assert_eq!(guest.run(), Exit::Halt);
    let state = guest.cpu.state();
    assert_eq!((state.cpl, state.segments[1].selector), (0, CODE0));
    let frame = words(&guest, state.registers.gpr[4], 6);
    // EIP, CS, the two parameters, ESP, SS.
    let after_call = CODE as u32 + 17;
    let expected = [
        after_call,
        u32::from(CODE3),
        0x2222,
        0x1111,
        STACK as u32 - 8,
        u32::from(DATA3),
    ];
    assert_eq!(frame, expected);
}

#[test]
fn a_nested_task_returns_by_iret() {
    let mut guest = protected(|a| {
        a.mov(ebx, 7).unwrap();
        // call far SECOND_TSS_SELECTOR:0
        a.db(&[0x9a, 0, 0, 0, 0, SECOND_TSS_SELECTOR as u8, 0])
            .unwrap();
        a.add(ebx, 1).unwrap();
        a.hlt().unwrap();
    });
    // The second task: IRET at HANDLER, its own stack, flat segments.
    guest.load(HANDLER, &[0xcf]);
    for (at, value) in [(0x20, HANDLER as u32), (0x24, 2), (0x38, 0x5000)] {
        guest.load(SECOND_TSS + at, &value.to_le_bytes());
    }
    for (n, selector) in [DATA0, CODE0, DATA0, DATA0, DATA0, DATA0]
        .into_iter()
        .enumerate()
    {
        guest.load(
            SECOND_TSS + 0x48 + 4 * n as u64,
            &u32::from(selector).to_le_bytes(),
        );
    }
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(guest.gpr(3), 8);
    // The second TSS is available again, and its link names the first.
    assert_eq!(guest.read_u32(GDT + 0x38 + 4) >> 8 & 0xff, 0x89);
    assert_eq!(guest.read_u32(SECOND_TSS) & 0xffff, u32::from(TSS_SELECTOR));
    assert_eq!(guest.cpu.state().cr0 & 8, 8, "TS is set");
}

#[test]
fn sti_holds_an_interrupt_back_for_one_instruction() {
    let mut guest = protected(|a| {
        a.sti().unwrap();
        a.inc(eax).unwrap();
        a.inc(eax).unwrap();
    });
    set_gate(&guest, 0x20, 0x8e);
    guest.bare.vector = Some(0x20);
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(guest.gpr(0), 1);
    assert_eq!(guest.read_u32(guest.gpr(4)), CODE as u32 + 2);
}

#[test]
fn an_interrupt_wakes_a_halted_processor_behind_the_hlt() {
    let mut guest = protected(|a| {
        a.sti().unwrap();
        a.hlt().unwrap();
        a.inc(eax).unwrap();
    });
    set_gate(&guest, 0x20, 0x8e);
    // The handler returns.
    guest.load(HANDLER, &[0xcf]);
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(guest.run(), Exit::Halt, "nothing has come");
    guest.bare.vector = Some(0x20);
    guest.load(CODE + 3, &[0xfa, 0xf4]);
    guest.cpu.memory_written(CODE, 8);
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(guest.gpr(0), 1);
}

#[test]
fn a_second_nmi_waits_for_iret() {
    let mut guest = protected(|a| a.nop().unwrap());
    set_gate(&guest, 2, 0x8e);
    guest.bare.nmi = true;
    assert_eq!(guest.run(), Exit::Halt);
    guest.bare.nmi = true;
    assert_eq!(guest.run(), Exit::Halt);
    assert!(guest.bare.nmi, "still blocked in the handler");
}

#[test]
fn single_stepping_traps_behind_each_instruction_but_not_behind_mov_ss() {
    let mut guest = protected(|a| {
        a.mov(ss, eax).unwrap();
        a.nop().unwrap();
        a.nop().unwrap();
    });
    set_gate(&guest, 1, 0x8e);
    change(&mut guest, |state| {
        state.registers.rflags |= 1 << 8;
        state.registers.gpr[0] = u64::from(DATA0);
    });
    assert_eq!(guest.run(), Exit::Halt);
    // Behind the NOP that follows MOV SS.
    assert_eq!(guest.read_u32(guest.gpr(4)), CODE as u32 + 3);
    assert_eq!(guest.cpu.state().debug[6] & 0xf00f, 0x4000);
}

#[test]
fn breakpoints_strike_before_code_and_behind_data() {
    let program = |a: &mut CodeAssembler| {
        a.mov(dword_ptr(0x3000), 5).unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
    };
    let mut guest = protected(program);
    set_gate(&guest, 1, 0x8e);
    change(&mut guest, |state| {
        // DR0: four bytes written at 0x3002, which the access touches.
        state.debug[0] = 0x3002;
        state.debug[7] = 1 | 1 << 16 | 3 << 18;
    });
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(
        (guest.read_u32(0x3000), guest.cpu.state().debug[6] & 15),
        (5, 1)
    );
    let behind_mov = guest.read_u32(guest.gpr(4));
    assert_eq!(behind_mov, CODE as u32 + 10);

    let mut guest = protected(program);
    set_gate(&guest, 1, 0x8e);
    change(&mut guest, |state| {
        state.debug[1] = CODE + 10;
        state.debug[7] = 1 << 2;
    });
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(guest.read_u32(guest.gpr(4)), behind_mov);
    assert_eq!(guest.cpu.state().debug[6] & 15, 2);
    // RF in the pushed flags lets the instruction run when the handler returns.
    assert_eq!(guest.read_u32(guest.gpr(4) + 8) >> 16 & 1, 1);
}

#[test]
fn a_rep_move_that_faults_can_go_on() {
    let mut guest = Guest::long_mode(|a| {
        a.rep().movsb().unwrap();
        a.hlt().unwrap();
    });
    // The destination runs out of the 2 MiB that are mapped; there is no IDT, so step by step.
    change(&mut guest, |state| {
        state.registers.gpr[1] = 100;
        state.registers.gpr[6] = 0x3000;
        state.registers.gpr[7] = 0x20_0000 - 40;
        state.idtr = TableRegister {
            base: IDT,
            limit: 0xfff,
        };
    });
    let low = HANDLER & 0xffff | u64::from(CODE0) << 16 | 0x8e << 40;
    guest.load(IDT + 14 * 16, &low.to_le_bytes());
    guest.load(GDT + 8, &0x00af_9b00_0000_ffffu64.to_le_bytes());
    guest.load(HANDLER, &[0xf4]);
    change(&mut guest, |state| {
        state.gdtr = TableRegister {
            base: GDT,
            limit: 0x1f,
        }
    });
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(
        (guest.gpr(1), guest.gpr(6), guest.gpr(7)),
        (60, 0x3000 + 40, 0x20_0000)
    );
    assert_eq!(guest.cpu.state().cr2, 0x20_0000);
    assert_eq!(
        guest.read_u64(guest.gpr(4)),
        2,
        "a write to a page that is not present"
    );
    assert_eq!(guest.read_u64(guest.gpr(4) + 8), CODE);
}

#[test]
fn syscall_and_sysret_keep_rip_and_flags_in_rcx_and_r11() {
    let mut guest = Guest::long_mode(|a| {
        a.syscall().unwrap();
    });
    // SYSRETQ.
    guest.load(HANDLER, &[0x48, 0x0f, 0x07]);
    change(&mut guest, |state| {
        state.msrs[0] = 0x0010_0008 << 32;
        state.msrs[1] = HANDLER;
        state.msrs[3] = 0x200;
        state.registers.rflags = 0x202;
        state.cpl = 3;
    });
    assert_eq!(guest.cpu.step(&mut guest.bare), None);
    let inside = guest.cpu.state();
    assert_eq!(
        (
            inside.registers.rip,
            inside.cpl,
            inside.segments[1].selector
        ),
        (HANDLER, 0, 8)
    );
    assert_eq!(
        (inside.registers.gpr[1], inside.registers.gpr[11]),
        (CODE + 2, 0x202)
    );
    assert_eq!(inside.registers.rflags & 0x200, 0, "FMASK clears IF");
    assert_eq!(guest.cpu.step(&mut guest.bare), None);
    let back = guest.cpu.state();
    assert_eq!(
        (back.registers.rip, back.cpl, back.registers.rflags),
        (CODE + 2, 3, 0x202)
    );
    assert_eq!(
        (back.segments[1].selector, back.segments[2].selector),
        (0x23, 0x1b)
    );
}

/// Intel SDM volume 2, CLI, table 3-7: the outcomes by PE, VM, IOPL against CPL, VME and PVI.
#[test]
fn cli_has_its_outcomes() {
    const VME: u64 = 1;
    const PVI: u64 = 2;
    #[derive(Debug, PartialEq)]
    enum Outcome {
        If,
        Vif,
        Fault,
    }
    let outcome = |pe: bool, vm: bool, cpl: u8, iopl: u64, extensions: u64| {
        let mut guest = protected(|a| a.cli().unwrap());
        change(&mut guest, |state| {
            state.cr0 = if pe { 0x11 } else { 0x10 };
            state.cr4 = extensions;
            if vm || !pe {
                let attributes = if vm { 0xf3 } else { 0x93 };
                state.segments = [Segment {
                    attributes,
                    ..Segment::real(0)
                }; 6];
            }
            state.cpl = cpl;
            // IF and VIF are set.
            state.registers.rflags = 0x8_0202 | iopl << 12 | u64::from(vm) << 17;
        });
        guest.cpu.step(&mut guest.bare);
        let state = guest.cpu.state();
        match (
            state.registers.rip == CODE + 1,
            state.registers.rflags & 0x8_0200,
        ) {
            (true, 0x8_0000) => Outcome::If,
            (true, 0x0_0200) => Outcome::Vif,
            _ => Outcome::Fault,
        }
    };
    assert_eq!(outcome(false, false, 0, 0, 0), Outcome::If);
    assert_eq!(outcome(true, false, 0, 0, 0), Outcome::If);
    assert_eq!(outcome(true, false, 3, 3, 0), Outcome::If);
    assert_eq!(outcome(true, false, 3, 0, PVI), Outcome::Vif);
    assert_eq!(outcome(true, false, 3, 0, 0), Outcome::Fault);
    assert_eq!(outcome(true, false, 2, 0, PVI), Outcome::Fault);
    assert_eq!(outcome(true, true, 3, 3, 0), Outcome::If);
    assert_eq!(outcome(true, true, 3, 0, VME), Outcome::Vif);
    assert_eq!(outcome(true, true, 3, 0, 0), Outcome::Fault);
}

#[test]
fn the_a20_gate_wraps_addresses_at_one_megabyte() {
    let mut guest = Guest::new(Features::ALL);
    // mov ax, ffff; mov ds, ax; mov byte [0x20], 0x5a; hlt
    guest.load(
        CODE,
        &[
            0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xc6, 0x06, 0x20, 0x00, 0x5a, 0xf4,
        ],
    );
    change(&mut guest, |state| {
        state.segments = [Segment::real(0); 6];
        state.registers.rip = CODE;
    });
    guest.cpu.set_a20(false);
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(guest.read_u32(0x10) & 0xff, 0x5a);
    assert_eq!(guest.read_u32(0x10_0010) & 0xff, 0);
}

#[test]
fn two_runs_from_one_state_are_identical() {
    let program = |a: &mut CodeAssembler| {
        let mut top = a.create_label();
        a.mov(ecx, 500).unwrap();
        a.set_label(&mut top).unwrap();
        a.rdtsc().unwrap();
        a.mul(ecx).unwrap();
        a.add(dword_ptr(0x3000), eax).unwrap();
        a.cvtsi2sd(xmm0, eax).unwrap();
        a.sqrtsd(xmm1, xmm0).unwrap();
        a.loop_(top).unwrap();
        a.hlt().unwrap();
    };
    let mut first = Guest::long_mode(program);
    let mut second = Guest::long_mode(program);
    assert_eq!((first.run(), second.run()), (Exit::Halt, Exit::Halt));
    assert_eq!(first.cpu.state(), second.cpu.state());
    assert_eq!(
        (first.cpu.retired(), first.read_u32(0x3000)),
        (second.cpu.retired(), second.read_u32(0x3000))
    );
}

#[test]
fn an_instruction_that_crosses_into_a_page_remapped_each_time_is_decoded_each_time() {
    // mov eax, imm32 with its last two bytes on the next page, then hlt.
    let mut guest = Guest::long_mode(|a| a.nop().unwrap());
    let crossing = 0x3ffd;
    guest.load(crossing, &[0xb8, 0x11, 0x22]);
    guest.load(0x5000, &[0x33, 0x44, 0xf4]);
    guest.load(0x6000, &[0x55, 0x66, 0xf4]);
    // 4 KiB pages: 0x4000 is mapped to 0x5000, then to 0x6000.
    guest.load(0x10_2000, &0x10_3007u64.to_le_bytes());
    for page in 0..16u64 {
        guest.load(0x10_3000 + page * 8, &(page * 0x1000 + 7).to_le_bytes());
    }
    for turn in 0..50u64 {
        let (target, expected) = if turn % 2 == 0 {
            (0x5000u64, 0x4433_2211)
        } else {
            (0x6000, 0x6655_2211)
        };
        guest.load(0x10_3000 + 4 * 8, &(target | 7).to_le_bytes());
        change(&mut guest, |state| {
            state.registers.rip = crossing;
            state.halted = false;
        });
        assert_eq!(guest.run(), Exit::Halt);
        assert_eq!(guest.gpr(0), expected);
    }
    assert_eq!(guest.cpu.stats().blocks_invalidated, 0);
}

#[test]
fn syscall_and_sysret_trap_by_the_tf_they_leave() {
    let mut guest = Guest::long_mode(|a| {
        a.syscall().unwrap();
        a.nop().unwrap();
    });
    guest.load(HANDLER, &[0x48, 0x0f, 0x07]);
    change(&mut guest, |state| {
        state.msrs[0] = 0x0010_0008 << 32;
        state.msrs[1] = HANDLER;
        state.msrs[3] = 0x100;
        state.registers.rflags = 0x102;
        state.cpl = 3;
    });
    // Without an IDT a trap would be a shutdown.
    assert_eq!(guest.cpu.step(&mut guest.bare), None);
    let inside = guest.cpu.state();
    assert_eq!(
        (inside.registers.rip, inside.debug[6]),
        (HANDLER, 0xffff_0ff0)
    );
    assert_eq!(guest.cpu.step(&mut guest.bare), None);
    assert_eq!(guest.cpu.state().registers.rip, CODE + 2);
    assert_eq!(guest.cpu.state().debug[6] & 0x4000, 0x4000);
    assert_eq!(
        guest.cpu.step(&mut guest.bare),
        Some(Exit::Shutdown),
        "the trap comes before the next instruction"
    );
}

#[test]
fn a_single_step_trap_ends_a_halt() {
    let mut guest = protected(|a| {
        a.hlt().unwrap();
        a.nop().unwrap();
    });
    set_gate(&guest, 1, 0x8e);
    change(&mut guest, |state| state.registers.rflags |= 1 << 8);
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(
        guest.read_u32(guest.gpr(4)),
        CODE as u32 + 1,
        "in the handler"
    );
}

#[test]
fn dr6_shows_the_breakpoints_of_the_last_trap_only() {
    let mut guest = protected(|a| {
        a.mov(dword_ptr(0x3000), 5).unwrap();
    });
    set_gate(&guest, 1, 0x8e);
    change(&mut guest, |state| {
        state.debug[0] = 0x3000;
        state.debug[6] |= 0x400e;
        state.debug[7] = 1 | 1 << 16 | 3 << 18;
    });
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!(
        guest.cpu.state().debug[6] & 0xf00f,
        0x4001,
        "BS is software's to clear"
    );
}

#[test]
fn a_task_register_with_a_base_that_is_not_canonical_is_refused() {
    // The processor knows 5-level paging, though it is off.
    for (high, refused) in [(0x00ff_ffff_u32, false), (0x0100_0000, true)] {
        let mut guest = Guest::long_mode(|a| {
            a.ltr(ax).unwrap();
        });
        let low = tss_descriptor(TSS, 0x89).to_le_bytes();
        guest.load(GDT + 0x30, &low);
        guest.load(GDT + 0x38, &high.to_le_bytes());
        guest.load(GDT + 0x3c, &[0; 4]);
        change(&mut guest, |state| {
            state.gdtr = TableRegister {
                base: GDT,
                limit: 0x3f,
            };
            state.registers.gpr[0] = u64::from(TSS_SELECTOR);
        });
        let before = guest.cpu.state().tr;
        guest.cpu.step(&mut guest.bare);
        assert_eq!(guest.cpu.state().tr == before, refused, "{high:#x}");
    }
}

#[test]
fn pcids_begin_with_zero_and_invpcid_checks_its_descriptor() {
    const DESCRIPTOR: u64 = 0x3000;
    let invpcid = |root: u64, pcids: bool, kind: u64, descriptor: [u64; 2]| {
        let mut guest = Guest::long_mode(|a| {
            a.mov(rax, cr4).unwrap();
            if pcids {
                a.bts(rax, 17).unwrap();
            }
            a.mov(cr4, rax).unwrap();
            a.mov(rbx, root).unwrap();
            a.bts(rbx, 63).unwrap();
            if pcids {
                a.mov(cr3, rbx).unwrap();
            }
            a.mov(ecx, u32::try_from(kind).unwrap()).unwrap();
            a.invpcid(rcx, xmmword_ptr(DESCRIPTOR)).unwrap();
            a.hlt().unwrap();
        });
        for (at, word) in (DESCRIPTOR..).step_by(8).zip(descriptor) {
            guest.load(at, &word.to_le_bytes());
        }
        // Without an IDT a fault is a shutdown.
        guest.run()
    };
    let fine = Exit::Halt;
    let refused = Exit::Shutdown;
    assert_eq!(invpcid(0x10_0000, true, 0, [0, 0x5000]), fine);
    assert_eq!(invpcid(0x10_0007, true, 1, [7, 0]), fine);
    assert_eq!(invpcid(0x10_0000, true, 1, [7, 0]), fine, "another PCID");
    assert_eq!(invpcid(0x10_0000, false, 2, [0, 0]), fine);
    assert_eq!(invpcid(0x10_0000, true, 4, [0, 0]), refused, "kind");
    assert_eq!(
        invpcid(0x10_0000, true, 1, [1 << 12, 0]),
        refused,
        "reserved"
    );
    assert_eq!(invpcid(0x10_0000, false, 0, [1, 0]), refused, "no PCIDs");
    assert_eq!(
        invpcid(0x10_0000, true, 0, [0, 1 << 63]),
        refused,
        "address"
    );
}

#[test]
fn pcids_need_long_mode_and_a_root_without_one() {
    for (root, refused) in [(0x10_0000, false), (0x10_0001, true)] {
        let mut guest = Guest::long_mode(|a| {
            a.mov(rax, cr4).unwrap();
            a.bts(rax, 17).unwrap();
            a.mov(cr4, rax).unwrap();
            a.hlt().unwrap();
        });
        change(&mut guest, |state| state.cr3 = root);
        assert_eq!(guest.run() == Exit::Shutdown, refused, "{root:#x}");
    }
    let mut guest = protected(|a| {
        a.mov(eax, cr4).unwrap();
        a.bts(eax, 17).unwrap();
        a.mov(cr4, eax).unwrap();
    });
    assert_eq!(guest.run(), Exit::Shutdown);
}
