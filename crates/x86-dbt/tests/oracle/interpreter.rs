//! The interpreter and the translator as subjects: a processor whose page tables, descriptor tables and IDT are those that
//! [`State`] describes, and whose exceptions end in ring 0.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use x86_dbt::{Cpu, Cpuid, Exit, Features, Isolated, Ram, Segment, TableRegister, Vendor};

use super::case::{CODE, DATA, Event, FLAGS_FIXED, Mode, Outcome, PAGE, STACK, State, Subject};
use super::segments;

pub(crate) struct Interpreter {
    cpu: Cpu,
    memory: GuestMemoryMmap,
    outside: Isolated,
    /// What lies behind the instruction.
    behind: [u8; 2],
}

impl Interpreter {
    pub(crate) fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
        let ram = Ram::new(memory.clone()).unwrap();
        let features = Features {
            // What the cases' CR4 allows; the host that is compared with may lack the rest.
            leaf7_ecx: Features::ALL.leaf7_ecx & !(1 << 16),
            ..Features::ALL
        };
        let cpu = Cpu::new(Cpuid::new(vendor(), features, 0), ram).unwrap();
        let interpreter = Self {
            cpu,
            memory,
            outside: Isolated,
            behind: [0xcc; 2],
        };
        interpreter.write_tables();
        interpreter
    }

    fn put(&self, at: u64, value: u64) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    /// Page tables, GDT, LDT, TSS and IDT.
    fn write_tables(&self) {
        const USER: u64 = 7;
        self.put(PML4, PDPT | USER);
        for (linear, gpa, writable) in [
            (CODE, CODE_GPA, 0),
            (DATA, DATA_GPA, 2),
            (STACK, STACK_GPA, 2),
        ] {
            let table = PD + (linear >> 28) * 0x1000;
            self.put(PDPT, PD | USER);
            self.put(PD + (linear >> 21 & 511) * 8, table | USER);
            self.put(table, gpa | 0x65 | writable);
        }
        self.put(PML4 + 256 * 8, SYSTEM_PDPT | 3);
        self.put(SYSTEM_PDPT, (SYSTEM_PDPT + 0x1000) | 3);
        self.put(SYSTEM_PDPT + 0x1000, (SYSTEM_PDPT + 0x2000) | 3);
        for page in 0..8 {
            self.put(
                SYSTEM_PDPT + 0x2000 + page * 8,
                (SYSTEM_GPA + page * 0x1000) | 0x63,
            );
        }
        for segment in &segments::GDT {
            self.put(
                GDT_GPA + u64::from(segment.selector & !7),
                segment.descriptor(),
            );
        }
        for segment in &segments::LDT {
            self.put(
                LDT_GPA + u64::from(segment.selector & !7),
                segment.descriptor(),
            );
        }
        self.put(TSS_GPA + 4, SYSTEM + KERNEL_STACK);
        // No I/O permission map: its base is beyond the limit.
        self.put(TSS_GPA + 0x60, 0xffff << 48);
        for vector in 0..256u64 {
            let handler = SYSTEM + HANDLERS + vector * 8;
            let dpl = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
            let low = handler & 0xffff
                | 0x10 << 16
                | (0x8e | dpl << 5) << 40
                | (handler >> 16 & 0xffff) << 48;
            self.put(IDT_GPA + vector * 16, low);
            self.put(IDT_GPA + vector * 16 + 8, handler >> 32);
            let at = SYSTEM_GPA + HANDLERS + vector * 8;
            self.memory
                .write_obj(JUMP_TO_SELF, GuestAddress(at))
                .unwrap();
        }
    }

    fn load(&mut self, state: &State) {
        let mut code = [0xcc; PAGE];
        let at = (state.code_address() - CODE) as usize;
        code[at..at + state.len].copy_from_slice(state.bytes());
        if let Some(behind) = code.get_mut(at + state.len..at + state.len + 2) {
            behind.copy_from_slice(&self.behind);
        }
        self.memory
            .write_slice(&code, GuestAddress(CODE_GPA))
            .unwrap();
        self.memory
            .write_slice(&state.data, GuestAddress(DATA_GPA))
            .unwrap();
        self.memory
            .write_slice(&state.stack, GuestAddress(STACK_GPA))
            .unwrap();
        self.cpu.memory_written(CODE_GPA, PAGE as u64);

        let mut cpu = self.cpu.state();
        cpu.registers.gpr = state.gpr;
        cpu.registers.rip = state.rip;
        cpu.registers.rflags = state.rflags | FLAGS_FIXED;
        // CS, SS, DS, ES, FS, GS to encoding order.
        let [cs, ss, ds, es, fs, gs] = state.selectors.map(segment);
        cpu.segments = [es, cs, ss, ds, fs, gs];
        if state.mode == Mode::Long {
            cpu.segments[5].base = state.gs_base;
        }
        cpu.cr0 = 0x8005_0033;
        cpu.cr2 = 0;
        cpu.cr3 = PML4;
        cpu.cr4 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 16;
        cpu.efer = 0xd01;
        cpu.cpl = 3;
        cpu.gdtr = TableRegister {
            base: SYSTEM + (GDT_GPA - SYSTEM_GPA),
            limit: 127,
        };
        cpu.idtr = TableRegister {
            base: SYSTEM + (IDT_GPA - SYSTEM_GPA),
            limit: 0xfff,
        };
        cpu.ldtr = system_segment(0x68, 0x82, LDT_GPA, 10 * 8 - 1);
        cpu.tr = system_segment(0x40, 0x8b, TSS_GPA, 0x67);
        cpu.fx = state.fx;
        self.cpu.set_state(&cpu);
    }

    fn outcome(&mut self, state: &State) -> Outcome {
        let mut outcome = state.unchanged();
        let cpu = self.cpu.state();
        outcome.gpr = cpu.registers.gpr;
        outcome.rip = cpu.registers.rip;
        outcome.rflags = cpu.registers.rflags;
        outcome.fx = cpu.fx;
        let [es, cs, ss, ds, fs, gs] = cpu.segments;
        outcome.selectors = [cs, ss, ds, es, fs, gs].map(|segment| segment.selector);
        // The kernel's IRET to the host's signal handler takes the RPL from null selectors.
        for selector in &mut outcome.selectors[2..] {
            *selector = if *selector < 4 { 0 } else { *selector };
        }
        if state.mode == Mode::Long {
            outcome.gs_base = gs.base;
        }
        self.memory
            .read_slice(&mut outcome.data, GuestAddress(DATA_GPA))
            .unwrap();
        self.memory
            .read_slice(&mut outcome.stack, GuestAddress(STACK_GPA))
            .unwrap();
        if cpu.cpl == 0 {
            self.unwind(&mut outcome, cpu.cr2);
        }
        outcome
    }

    /// From the handler's first instruction back to what was interrupted.
    fn unwind(&self, outcome: &mut Outcome, cr2: u64) {
        let vector = ((outcome.rip - SYSTEM - HANDLERS) / 8) as u8;
        let coded = matches!(vector, 8 | 10..=14 | 17);
        let mut frame = [0u64; 6];
        for (n, word) in (0..).zip(&mut frame) {
            *word = self
                .memory
                .read_obj(GuestAddress(SYSTEM_GPA + outcome.gpr[4] - SYSTEM + n * 8))
                .unwrap_or(0);
        }
        let [error, rip, cs, rflags, rsp, ss] = if coded {
            frame
        } else {
            [0, frame[0], frame[1], frame[2], frame[3], frame[4]]
        };
        outcome.event = Event::Exception {
            vector,
            error_code: error as u32,
            cr2: if vector == 14 { cr2 } else { 0 },
        };
        outcome.rip = rip;
        outcome.rflags = rflags;
        outcome.gpr[4] = rsp;
        outcome.selectors[0] = cs as u16;
        outcome.selectors[1] = ss as u16;
    }
}

impl Subject for Interpreter {
    fn step(&mut self, state: &State) -> Option<Outcome> {
        self.load(state);
        for _ in 0..STEPS_MAX {
            assert_eq!(self.cpu.step(&mut self.outside), None);
            let unfinished = state.repeats && self.cpu.registers().rip == state.rip;
            if !unfinished {
                break;
            }
        }
        Some(self.outcome(state))
    }
}

/// The translator as a subject. Two instructions are run, as code is translated by blocks: the case's, and behind it
/// or in the exception's handler a jump to itself.
pub(crate) struct Translator(Interpreter);

impl Translator {
    pub(crate) fn new() -> Self {
        let mut interpreter = Interpreter::new();
        interpreter.cpu.set_translation(Some(0));
        interpreter.behind = JUMP_TO_SELF;
        Self(interpreter)
    }

    /// How many cases ran as host code, and how many of their instructions had no translation.
    pub(crate) fn translated(&self) -> (u64, u64) {
        let stats = self.0.cpu.translator_stats();
        (stats.units, stats.left_to_interpreter)
    }
}

impl Subject for Translator {
    fn step(&mut self, state: &State) -> Option<Outcome> {
        let mut decoder = Decoder::new(64, state.bytes(), DecoderOptions::NONE);
        let instruction = decoder.decode();
        // POPF may set TF, which traps behind the second instruction here.
        let traps = matches!(instruction.mnemonic(), Mnemonic::Popf | Mnemonic::Popfq);
        let falls_through = instruction.flow_control() == FlowControl::Next && !traps;
        let has_room = (state.code_address() - CODE) as usize + state.len + 2 <= PAGE;
        if state.mode != Mode::Long || state.repeats || !falls_through || !has_room {
            return None;
        }
        self.0.load(state);
        assert_eq!(self.0.cpu.run(&mut self.0.outside, 2), Exit::Deadline);
        Some(self.0.outcome(state))
    }
}

const JUMP_TO_SELF: [u8; 2] = [0xeb, 0xfe];

/// What a segment register holds after it was loaded with `selector`.
fn segment(selector: u16) -> Segment {
    let Some(described) = segments::segment(selector) else {
        return Segment {
            selector,
            ..Segment::default()
        };
    };
    let descriptor = described.descriptor();
    Segment {
        selector,
        attributes: (descriptor >> 40 & 0xf0ff) as u16,
        limit: described.limit,
        base: u64::from(described.base),
    }
}

fn system_segment(selector: u16, attributes: u16, gpa: u64, limit: u32) -> Segment {
    Segment {
        selector,
        attributes,
        limit,
        base: SYSTEM + (gpa - SYSTEM_GPA),
    }
}

/// The host's, since some rules differ.
fn vendor() -> Vendor {
    let leaf = std::arch::x86_64::__cpuid(0);
    if leaf.ebx == u32::from_le_bytes(*b"Genu") {
        Vendor::Intel
    } else {
        Vendor::Amd
    }
}

const RAM: usize = 1 << 20;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
/// The page directory of the first GiB, and behind it a page table for each of the three pages.
const PD: u64 = 0x3000;
const SYSTEM_PDPT: u64 = 0x1_0000;
const CODE_GPA: u64 = 0x2_0000;
const DATA_GPA: u64 = 0x2_1000;
const STACK_GPA: u64 = 0x2_2000;
/// Supervisor pages: where they lie, and where they are mapped.
const SYSTEM_GPA: u64 = 0x3_0000;
const SYSTEM: u64 = 0xffff_8000_0000_0000;
const GDT_GPA: u64 = SYSTEM_GPA;
const LDT_GPA: u64 = SYSTEM_GPA + 0x400;
const TSS_GPA: u64 = SYSTEM_GPA + 0x800;
const IDT_GPA: u64 = SYSTEM_GPA + 0x1000;
const HANDLERS: u64 = 0x3000;
const KERNEL_STACK: u64 = 0x7000;
/// A REP instruction over the two pages takes few slices.
const STEPS_MAX: u32 = 64;
