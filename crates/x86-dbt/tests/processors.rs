//! Several processors over one RAM: code that one writes and another runs, INIT, start-up, and PAUSE.

mod common;

use common::{Bare, CODE, Guest, assembled, long_mode_state};
use iced_x86::code_asm::*;
use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use x86_dbt::{Cpu, Cpuid, Exit, Features, Ram, Segment, Vendor};

/// The other processor's code.
const OTHER: u64 = 0x4000;
/// Functions of 16 bytes each: `add rbx, n; ret`.
const FUNCTIONS: u64 = 0x6000;
/// Where `n` is.
const OPERAND: u64 = 3;

/// Processors that take turns.
struct Machine {
    cpus: Vec<(Cpu, Bare)>,
    memory: GuestMemoryMmap,
}

impl Machine {
    /// Two in 64-bit mode, at `CODE` and `OTHER`, the first 2 MiB identity-mapped. Without `shared`, each has RAM of its own
    /// at the same place, and does not hear of the other.
    fn new(first: &[u8], second: &[u8], shared: bool, after: Option<u32>) -> Self {
        let tables = Guest::long_mode(|a| a.hlt().unwrap());
        let memory = tables.memory;
        for n in 0..8u8 {
            let function = [0x48, 0x83, 0xc3, n + 1, 0xc3];
            let at = FUNCTIONS + u64::from(n) * 16;
            memory.write_slice(&function, GuestAddress(at)).unwrap();
        }
        for (at, code) in [(CODE, first), (OTHER, second)] {
            memory.write_slice(code, GuestAddress(at)).unwrap();
        }
        let ram = Ram::new(memory.clone()).unwrap();
        let cpus = (0..2u8).map(|id| {
            let cpuid = Cpuid::new(Vendor::Amd, Features::ALL, 0).with_processors(2);
            let ram = if shared {
                ram.clone()
            } else {
                Ram::new(memory.clone()).unwrap()
            };
            let mut cpu = Cpu::new(cpuid.with_apic_id(id), ram).unwrap();
            cpu.set_translation(after);
            let mut state = cpu.state();
            long_mode_state(&mut state);
            if id == 1 {
                state.registers.rip = OTHER;
                state.registers.gpr[4] -= 0x800;
            }
            cpu.set_state(&state);
            let bare = Bare {
                deadline: u64::MAX,
                ..Bare::default()
            };
            (cpu, bare)
        });
        let cpus = cpus.collect();
        Self { cpus, memory }
    }

    fn run(&mut self, number: usize, budget: u64) -> Exit {
        let (cpu, bare) = &mut self.cpus[number];
        cpu.run(bare, budget)
    }

    fn rbx(&self, number: usize) -> u64 {
        self.cpus[number].0.registers().gpr[3]
    }
}

/// Calls the first function for ever.
fn caller(at: u64) -> Vec<u8> {
    assembled(64, at, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.call(FUNCTIONS).unwrap();
        a.jmp(again).unwrap();
    })
}

/// Makes the first function add one more each time, for ever: five instructions a turn.
fn patcher(at: u64) -> Vec<u8> {
    assembled(64, at, |a| {
        let mut again = a.create_label();
        a.mov(rsi, FUNCTIONS + OPERAND).unwrap();
        a.set_label(&mut again).unwrap();
        a.inc(byte_ptr(rsi)).unwrap();
        a.nop().unwrap();
        a.jmp(again).unwrap();
    })
}

#[test]
fn what_one_patches_the_other_runs_in_its_next_turn() {
    for after in [None, Some(1), Some(16)] {
        let mut machine = Machine::new(&caller(CODE), &patcher(OTHER), true, after);
        let mut expected = 0;
        // The one instruction before its loop.
        machine.run(1, 1);
        for round in 1..100 {
            // A hundred turns of call, add, ret, jmp.
            assert_eq!(machine.run(0, 400), Exit::Deadline);
            expected += 100 * round;
            assert_eq!(machine.rbx(0), expected, "round {round}, after {after:?}");
            machine.run(1, 3);
        }
        let translated = machine.cpus[0].0.translator_stats().units > 0;
        assert_eq!(translated, after.is_some());
    }
}

#[test]
fn both_run_what_both_patch() {
    let mut machine = Machine::new(&caller(CODE), &caller(OTHER), true, Some(1));
    for n in 1..50u8 {
        machine.run(0, 400);
        machine.run(1, 400);
        let at = FUNCTIONS + OPERAND;
        machine
            .memory
            .write_obj(n + 1, GuestAddress(at))
            .expect("RAM");
        // Whoever runs next takes what a device wrote, for all.
        machine.cpus[usize::from(n % 2)].1.written.push((at, 1));
        machine.run(usize::from(n % 2), 4);
        machine.run(usize::from(n % 2), 4);
        let before = [machine.rbx(0), machine.rbx(1)];
        machine.run(0, 4);
        machine.run(1, 4);
        let expected = before.map(|sum| sum + u64::from(n) + 1);
        assert_eq!([machine.rbx(0), machine.rbx(1)], expected);
    }
}

#[test]
fn a_page_that_was_only_data_is_watched_once_another_runs_it() {
    let mut machine = Machine::new(&caller(CODE), &patcher(OTHER), true, Some(1));
    // The second has the page in its TLB, to write.
    machine.run(1, 1 + 3 * 10);
    machine.run(0, 400);
    assert_eq!(machine.rbx(0), 100 * 11);
    machine.run(1, 3);
    machine.run(0, 400);
    assert_eq!(machine.rbx(0), 100 * 11 + 100 * 12);
    assert!(machine.cpus[1].0.stats().traced_writes > 0);
}

#[test]
fn a_processor_that_ends_lets_go_of_its_pages() {
    let mut machine = Machine::new(&caller(CODE), &patcher(OTHER), true, Some(1));
    machine.run(0, 400);
    machine.cpus.remove(0);
    machine.run(0, 301);
    assert_eq!(machine.cpus[0].0.stats().traced_writes, 0);
}

/// What a processor does in its loop.
#[derive(Clone, Copy, Debug)]
enum Step {
    Call(u8),
    Patch(u8, i8),
    /// A locked addition to a word that both count in.
    Count,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..8).prop_map(Step::Call),
        1 => (0u8..8, any::<i8>()).prop_map(|(function, n)| Step::Patch(function, n)),
        1 => Just(Step::Count),
    ]
}

fn program(at: u64, steps: &[Step]) -> Vec<u8> {
    assembled(64, at, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        for &step in steps {
            match step {
                Step::Call(function) => a.call(FUNCTIONS + u64::from(function) * 16),
                Step::Patch(function, n) => {
                    let operand = FUNCTIONS + u64::from(function) * 16 + OPERAND;
                    a.mov(byte_ptr(operand), i32::from(n))
                }
                Step::Count => a.lock().inc(qword_ptr(0x8000)),
            }
            .unwrap();
        }
        a.jmp(again).unwrap();
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against processors that interpret, and are told before each turn that all of memory was written.
    #[test]
    fn turns_end_as_without_anything_kept(
        programs in [vec(step(), 1..8), vec(step(), 1..8)],
        turns in vec((0usize..2, 1u64..60), 1..120),
    ) {
        let [first, second] = [(CODE, &programs[0]), (OTHER, &programs[1])]
            .map(|(at, steps)| program(at, steps));
        let mut subject = Machine::new(&first, &second, true, Some(1));
        let mut model = Machine::new(&first, &second, false, None);
        for (number, budget) in turns {
            subject.run(number, budget);
            model.cpus[number].0.memory_written(0, 2 << 20);
            model.run(number, budget);
            let (subject, model) = (&subject.cpus[number].0, &model.cpus[number].0);
            prop_assert_eq!(subject.state(), model.state());
            prop_assert_eq!(subject.ticks(), model.ticks());
        }
        let count = |machine: &Machine| machine.memory.read_obj::<u64>(GuestAddress(0x8000));
        prop_assert_eq!(count(&subject).unwrap(), count(&model).unwrap());
    }
}

#[test]
fn pause_ends_a_run_where_it_is_told_to() {
    let code = assembled(64, CODE, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.inc(rbx).unwrap();
        a.pause().unwrap();
        a.jmp(again).unwrap();
    });
    for after in [None, Some(1)] {
        let mut machine = Machine::new(&code, &code, true, after);
        machine.run(0, 300);
        assert_eq!(machine.rbx(0), 100, "not at first");
        machine.cpus[0].0.set_pause_exit(true);
        for turn in 1..100 {
            assert_eq!(machine.run(0, 300), Exit::Deadline);
            assert_eq!(machine.rbx(0), 100 + turn);
            let ticks = machine.cpus[0].0.ticks();
            assert_eq!(ticks, 300 + 3 * turn - 1, "behind PAUSE");
        }
        machine.cpus[0].0.set_pause_exit(false);
        machine.run(0, 301);
        assert_eq!(machine.rbx(0), 299, "not any more");
    }
}

#[test]
fn init_and_start_up_begin_in_real_mode_at_the_vectors_page() {
    let mut guest = Guest::long_mode(|a| {
        a.mov(rbx, 7u64).unwrap();
        a.movq(xmm1, rbx).unwrap();
        a.hlt().unwrap();
    });
    assert_eq!(guest.run(), Exit::Halt);
    let before = guest.cpu.state();
    guest.cpu.init();
    let state = guest.cpu.state();
    assert_eq!((state.registers.rip, state.registers.rflags), (0xfff0, 2));
    assert_eq!(state.registers.gpr[2], 0x0006_0fb1, "the signature");
    assert_eq!(state.segments[1].base, 0xffff_0000);
    assert_eq!((state.cr0, state.cr3, state.cr4), (0x10, 0, 0));
    assert_eq!((state.efer, state.halted), (0, false));
    assert_eq!((state.debug[6], state.debug[7]), (0xffff_0ff0, 0x400));
    assert_eq!(state.fx, before.fx, "x87 and SSE stay");

    guest.load(
        0x9_a000,
        &assembled(16, 0, |a| {
            a.mov(ax, cs).unwrap();
            a.mov(bx, 0x1234).unwrap();
            a.hlt().unwrap();
        }),
    );
    guest.cpu.start_up(0x9a);
    assert_eq!(guest.cpu.state().segments[1], Segment::real(0x9a00));
    assert_eq!(guest.run(), Exit::Halt);
    assert_eq!((guest.gpr(0), guest.gpr(3)), (0x9a00, 0x1234));
}
