//! Small guests with several processors.

use std::time::Duration;

use iced_x86::code_asm::*;
use vm_memory::{Bytes, GuestAddress};
use x86_dbt::State;

use crate::board::{Board, BoardConfig, Chipset};
use crate::dbt::{CpuModel, DbtEngine};
use crate::engine::Stop;
use crate::kernel::{Ram, allocate_ram, write_boot_tables};
use crate::layout::{BOOT_GDT, BOOT_PAGE_TABLES};
use crate::start_state::StartState;

/// Where the bootstrap processor starts, in 64-bit mode.
const FIRST: u64 = 0x1_0000;
/// Where the others are brought to, in 64-bit mode.
const OTHERS: u64 = 0x1_1000;
/// The page of the start-up message.
const START_UP: u64 = 0x8000;
/// `add rbx, n; ret`, and where `n` is.
const FUNCTION: u64 = 0x1_2000;
const OPERAND: u64 = FUNCTION + 3;
/// Words that they share.
const WORDS: u64 = 0x1_3000;
const IDT: u64 = 0x1_4000;
const HANDLERS: u64 = 0x1_5000;
const LAPIC: u64 = 0xfee0_0000;

const INIT_OTHERS: u32 = 0xc_4500;
const START_OTHERS: u32 = 0xc_4608;

struct Machine {
    engine: DbtEngine,
    board: Board,
    ram: Ram,
}

impl Machine {
    fn new(processors: u8, first: &[u8], others: &[u8]) -> Self {
        let ram = allocate_ram(2 << 20).unwrap();
        write_boot_tables(&ram).unwrap();
        for (at, code) in [
            (FIRST, first),
            (OTHERS, others),
            (START_UP, &to_64_bit()),
            (FUNCTION, &[0x48, 0x83, 0xc3, 1, 0xc3]),
        ] {
            ram.write_slice(code, GuestAddress(at)).unwrap();
        }
        let start = StartState::linux_64(FIRST);
        let board = Board::new(BoardConfig {
            chipset: Chipset::M1,
            processors,
            ram: 2 << 20,
            unix_seconds: 0,
            ns_per_instruction: 2,
            test_device: None,
            disk: None,
            firmware_files: Vec::new(),
            console: Box::new(std::io::sink()),
            network: None,
            x2apic: true,
            iommu: None,
        });
        let model = CpuModel::Default;
        let mut engine =
            DbtEngine::with_processors(processors, &ram, &start, Chipset::M1, model).unwrap();
        engine.make_repeatable();
        Self { engine, board, ram }
    }

    fn run(&mut self) -> Stop {
        self.engine.run(&mut self.board, Duration::from_secs(60))
    }

    fn word(&self, number: u64) -> u64 {
        self.ram.read_obj(GuestAddress(WORDS + 8 * number)).unwrap()
    }

    fn states(&self) -> Vec<State> {
        self.engine.processors.states().collect()
    }
}

fn assembled(bits: u32, at: u64, assemble: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).unwrap();
    assemble(&mut a);
    a.assemble(at).unwrap()
}

/// Unwraps what every instruction answers.
macro_rules! asm {
    ($a:ident; $($call:ident($($argument:expr),*));+ $(;)?) => {
        $($a.$call($($argument),*).unwrap();)+
    };
}

/// From real mode to [`OTHERS`] in 64-bit mode, with the tables of the boot protocol.
fn to_64_bit() -> Vec<u8> {
    const TABLE: u64 = START_UP + 0xf0;
    let mut code = assembled(16, START_UP, |a| {
        asm!(a;
            mov(eax, cr4); or(eax, 0x20); mov(cr4, eax);
            mov(eax, low(BOOT_PAGE_TABLES)); mov(cr3, eax);
            mov(ecx, 0xc000_0080_u32); rdmsr(); or(eax, 0x100); wrmsr();
            // LGDT of a 16-bit address.
            db(&[0x0f, 0x01, 0x16]); dw(&[u16::try_from(TABLE).unwrap()]);
            mov(eax, cr0); or(eax, 0x8000_0001_u32.cast_signed()); mov(cr0, eax);
            // JMP FAR with a 32-bit offset.
            db(&[0x66, 0xea]); dd(&[low(OTHERS)]); dw(&[0x10]));
    });
    code.resize(0xf0, 0xcc);
    code.extend(31u16.to_le_bytes());
    code.extend(low(BOOT_GDT).to_le_bytes());
    code
}

fn low(address: u64) -> u32 {
    u32::try_from(address).unwrap()
}

fn start_others(a: &mut CodeAssembler) {
    asm!(a;
        mov(rdi, LAPIC);
        mov(dword_ptr(rdi + 0x300), INIT_OTHERS.cast_signed());
        mov(dword_ptr(rdi + 0x300), START_OTHERS.cast_signed()));
}

/// Waits until a shared word is `value`.
fn await_word(a: &mut CodeAssembler, number: u64, value: i32) {
    let (mut again, mut done) = (a.create_label(), a.create_label());
    asm!(a;
        set_label(&mut again);
        cmp(qword_ptr(WORDS + 8 * number), value);
        je(done);
        pause();
        jmp(again);
        set_label(&mut done));
}

fn end(a: &mut CodeAssembler) {
    asm!(a; cli(); hlt());
}

/// Loads the IDT, enables the local APIC, and gives each processor a stack by its APIC id.
fn set_up(a: &mut CodeAssembler) {
    let (mut table, mut behind) = (a.create_label(), a.create_label());
    asm!(a;
        jmp(behind);
        set_label(&mut table);
        dw(&[0xfff]); dq(&[IDT]);
        set_label(&mut behind);
        lidt(ptr(table));
        mov(eax, 1); cpuid(); shr(ebx, 24); mov(r15d, ebx);
        shl(ebx, 12); lea(rsp, qword_ptr(rbx + 0x1_8000));
        mov(rdi, LAPIC);
        mov(dword_ptr(rdi + 0xf0), 0x1ff));
}

/// Sends what the low word of ICR says to a physical id.
fn send(a: &mut CodeAssembler, id: i32, low: i32) {
    asm!(a;
        mov(rdi, LAPIC);
        mov(dword_ptr(rdi + 0x310), id << 24);
        mov(dword_ptr(rdi + 0x300), low));
}

/// Handlers for some vectors: each adds one to the shared word of its place, from 8 on, and ends the interrupt.
fn install_handlers(ram: &Ram, vectors: &[u8]) {
    for (place, &vector) in (0u64..).zip(vectors) {
        let at = HANDLERS + 64 * place;
        let code = assembled(64, at, |a| {
            a.lock().inc(qword_ptr(WORDS + 64 + 8 * place)).unwrap();
            asm!(a; push(rdi); mov(rdi, LAPIC));
            if vector != 2 {
                asm!(a; mov(dword_ptr(rdi + 0xb0), 0));
            }
            asm!(a; pop(rdi); iretq());
        });
        assert!(code.len() <= 64 && at + 64 < 1 << 16 << 1);
        ram.write_slice(&code, GuestAddress(at)).unwrap();
        // Offset 15:0, selector, interrupt gate, offset 31:16.
        let gate = at & 0xffff | 0x10 << 16 | 0x8e00 << 32 | at >> 16 << 48;
        ram.write_obj(gate, GuestAddress(IDT + 16 * u64::from(vector)))
            .unwrap();
    }
}

#[test]
fn others_wait_for_init_and_start_up_and_take_the_first_of_two() {
    let first = assembled(64, FIRST, |a| {
        start_others(a);
        await_word(a, 0, 2);
        // A second one, at a page without code.
        asm!(a; mov(dword_ptr(rdi + 0x300), 0xc_460f));
        for _ in 0..10 {
            a.pause().unwrap();
        }
        end(a);
    });
    let mut machine = Machine::new(3, &first, &[]);
    // In real mode: counts, tells its code segment, halts.
    let real = assembled(16, 0, |a| {
        a.mov(bx, 0x1300).unwrap();
        a.mov(ds, bx).unwrap();
        a.xor(bx, bx).unwrap();
        a.mov(word_ptr(bx + 8), cs).unwrap();
        a.lock().inc(dword_ptr(bx)).unwrap();
        asm!(a; cli(); hlt());
    });
    machine
        .ram
        .write_slice(&real, GuestAddress(START_UP))
        .unwrap();
    assert_eq!(machine.run(), Stop::Halted);
    assert_eq!((machine.word(0), machine.word(1)), (2, 0x800));
    for state in &machine.states()[1..] {
        assert_eq!((state.halted, state.cr0 & 1), (true, 0));
        assert_eq!(state.registers.rip, real.len() as u64);
    }
}

#[test]
fn start_up_without_init_is_lost_and_init_puts_a_processor_back_to_wait() {
    let first = assembled(64, FIRST, |a| {
        start_others(a);
        await_word(a, 0, 1);
        // It runs for ever: INIT alone ends that.
        asm!(a; mov(dword_ptr(rdi + 0x300), START_OTHERS.cast_signed()));
        for _ in 0..10 {
            a.pause().unwrap();
        }
        asm!(a; mov(dword_ptr(rdi + 0x300), INIT_OTHERS.cast_signed()));
        for _ in 0..10 {
            a.pause().unwrap();
        }
        end(a);
    });
    let others = assembled(64, OTHERS, |a| {
        let mut forever = a.create_label();
        a.lock().inc(qword_ptr(WORDS)).unwrap();
        asm!(a; set_label(&mut forever); jmp(forever));
    });
    let mut machine = Machine::new(2, &first, &others);
    assert_eq!(machine.run(), Stop::Halted);
    assert_eq!(machine.word(0), 1);
    let state = &machine.states()[1];
    assert_eq!(
        (state.registers.rip, state.cr0, state.efer),
        (0xfff0, 0x6000_0010, 0)
    );
    assert!(!state.halted);
}

#[test]
fn interrupts_go_both_ways_and_wake_from_hlt() {
    const ROUNDS: i32 = 100;
    let first = assembled(64, FIRST, |a| {
        set_up(a);
        start_others(a);
        await_word(a, 0, 1);
        let mut round = a.create_label();
        asm!(a; mov(r14d, ROUNDS); set_label(&mut round));
        // A vector for the other, whose answer ends this HLT.
        send(a, 1, 0x4041);
        asm!(a; sti(); hlt(); cli(); dec(r14d); jnz(round));
        // NMI and, by lowest priority and logically, itself.
        send(a, 1, 0x4400);
        asm!(a; mov(dword_ptr(rdi + 0xd0), 1 << 24); mov(dword_ptr(rdi + 0x310), 1 << 24));
        asm!(a; mov(dword_ptr(rdi + 0x300), 0x4943); sti(); nop(); cli());
        await_word(a, 10, 1);
        end(a);
    });
    let others = assembled(64, OTHERS, |a| {
        set_up(a);
        let mut round = a.create_label();
        asm!(a; mov(qword_ptr(WORDS), 1); set_label(&mut round); sti(); hlt(); cli());
        send(a, 0, 0x4042);
        asm!(a; jmp(round));
    });
    let mut machine = Machine::new(2, &first, &others);
    install_handlers(&machine.ram, &[0x41, 0x42, 2, 0x43]);
    assert_eq!(machine.run(), Stop::Halted);
    let counts = [8, 9, 10, 11].map(|number| machine.word(number));
    // Behind the NMI it answers once more, which the first, at its end, does not take.
    assert_eq!(counts, [100, 100, 1, 1]);
}

#[test]
fn who_waits_without_pause_does_not_keep_others_from_running() {
    let first = assembled(64, FIRST, |a| {
        start_others(a);
        let mut again = a.create_label();
        asm!(a;
            set_label(&mut again);
            cmp(qword_ptr(WORDS), 100_000 * 3);
            jne(again));
        end(a);
    });
    let others = assembled(64, OTHERS, |a| {
        let mut again = a.create_label();
        asm!(a; mov(ecx, 100_000); set_label(&mut again));
        a.lock().inc(qword_ptr(WORDS)).unwrap();
        asm!(a; dec(ecx); jnz(again));
        end(a);
    });
    let mut machine = Machine::new(4, &first, &others);
    assert_eq!(machine.run(), Stop::Halted);
    assert_eq!(machine.word(0), 300_000);
}

/// One processor patches a function that another runs, by the manual's protocol (SDM volume 3, 9.1.3): a flag, and
/// CPUID.
#[test]
fn one_processor_modifies_the_code_of_another() {
    const ROUNDS: i32 = 40;
    for after in [None, Some(1), Some(16)] {
        let first = assembled(64, FIRST, |a| {
            start_others(a);
            let (mut round, mut call) = (a.create_label(), a.create_label());
            asm!(a; xor(r12d, r12d); mov(r14d, 1); set_label(&mut round); nop());
            let (mut wait, mut go) = (a.create_label(), a.create_label());
            asm!(a;
                set_label(&mut wait); cmp(qword_ptr(WORDS), r14); je(go); pause(); jmp(wait);
                set_label(&mut go);
                xor(eax, eax); cpuid();
                xor(ebx, ebx); mov(r13d, 1000);
                set_label(&mut call); call(FUNCTION); dec(r13d); jnz(call);
                add(r12, rbx);
                mov(qword_ptr(WORDS + 8), r14);
                inc(r14d); cmp(r14d, ROUNDS); jle(round));
            asm!(a; mov(qword_ptr(WORDS + 16), r12));
            end(a);
        });
        let others = assembled(64, OTHERS, |a| {
            let mut round = a.create_label();
            let (mut wait, mut go) = (a.create_label(), a.create_label());
            asm!(a;
                mov(r14d, 1); set_label(&mut round);
                mov(byte_ptr(OPERAND), r14b);
                mov(qword_ptr(WORDS), r14);
                set_label(&mut wait); cmp(qword_ptr(WORDS + 8), r14); je(go); pause(); jmp(wait);
                set_label(&mut go);
                inc(r14d); cmp(r14d, ROUNDS); jle(round));
            end(a);
        });
        let mut machine = Machine::new(2, &first, &others);
        machine.engine.set_translation(after);
        assert_eq!(machine.run(), Stop::Halted);
        assert_eq!(
            machine.word(2),
            1000 * 40 * 41 / 2,
            "translated after {after:?}"
        );
    }
}

/// Three processors with timers of their own count under a lock, with interrupts and PAUSE in between.
fn contenders(after: Option<u32>) -> Machine {
    let first = assembled(64, FIRST, |a| {
        start_others(a);
        asm!(a; jmp(OTHERS));
    });
    let others = assembled(64, OTHERS, |a| {
        set_up(a);
        // Divide by one; periodic, vector 0x41; some thousand nanoseconds, different for each.
        asm!(a;
            mov(dword_ptr(rdi + 0x3e0), 0xb);
            mov(dword_ptr(rdi + 0x320), 0x2_0041);
            mov(eax, r15d); imul_3(eax, eax, 1777); add(eax, 9001);
            mov(dword_ptr(rdi + 0x380), eax);
            sti(); mov(r14d, 3000));
        let (mut round, mut take, mut held) =
            (a.create_label(), a.create_label(), a.create_label());
        asm!(a; set_label(&mut round); mov(eax, 1);
            set_label(&mut take); xchg(qword_ptr(WORDS), rax); test(eax, eax); jz(held); pause(); jmp(take);
            set_label(&mut held);
            mov(rbx, qword_ptr(WORDS + 8)); nop(); inc(rbx); mov(qword_ptr(WORDS + 8), rbx);
            mov(qword_ptr(WORDS), 0);
            rdtsc(); xor(qword_ptr(WORDS + 16), rax);
            dec(r14d); jnz(round));
        end(a);
    });
    let mut machine = Machine::new(3, &first, &others);
    install_handlers(&machine.ram, &[0x41]);
    machine.engine.set_translation(after);
    machine
}

#[test]
fn the_same_start_leads_to_the_same_end() {
    let ends = [Some(16), Some(16), Some(1), None].map(|after| {
        let mut machine = contenders(after);
        assert_eq!(machine.run(), Stop::Halted);
        assert_eq!(machine.word(1), 3 * 3000, "the lock holds");
        assert!(machine.word(8) > 10, "timers interrupt");
        let instructions = machine.engine.cost().instructions;
        (
            instructions,
            machine.board.now(),
            machine.engine.digest().unwrap(),
        )
    });
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:x?}");
}

#[test]
fn the_8259a_pair_interrupts_the_bootstrap_processor_alone() {
    let mut machine = Machine::new(2, &[], &[]);
    let board = &mut machine.board;
    use x86_dbt::{InterruptSource, PortIo};
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0)] {
        board.port_write(port, &[value]);
    }
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        board.port_write(port, &[value]);
    }
    assert!(board.skip_idle());
    board.switch_to(1, 0, 2);
    assert!(!board.interrupt_pending());
    board.switch_to(0, 0, 2);
    assert!(board.interrupt_pending());
    assert_eq!(board.acknowledge(), Some(0x30));
}
