//! The table against a processor: every entry in every environment of protected and 64-bit mode.

use iced_x86::code_asm::*;
use iced_x86::{IcedError, Mnemonic};
use popek_goldberg::{Entry, Environment, Mode, Outcome, TABLE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use x86_dbt::{Cpu, Cpuid, Features, Isolated, Ram, Segment, State, TableRegister, Vendor};

#[test]
fn what_the_table_says_traps_traps() {
    let mut compared = 0;
    for environment in Environment::all().filter(|environment| environment.is_protected()) {
        let mut processor = Processor::new(environment);
        for entry in TABLE {
            let Some(code) = sample(entry, environment).expect("each sample assembles") else {
                continue;
            };
            let expected = entry.outcome(environment);
            let vector = processor.vector_raised_by(&code, environment);
            let agrees = match expected {
                Outcome::GeneralProtection => vector == Some(13),
                Outcome::InvalidOpcode => vector == Some(6),
                Outcome::Executes | Outcome::Differs(_) => vector.is_none(),
            };
            assert!(
                agrees,
                "{:?} in {environment:?}: {expected:?} foretold, vector {vector:?}",
                entry.mnemonic
            );
            compared += 1;
        }
    }
    assert!(compared > 15_000, "{compared} comparisons");
}

/// One instruction of the entry with operands that are good; `None` where it cannot be written in this mode, or where it
/// needs more than one instruction's set-up to be told from a bad operand.
fn sample(entry: &Entry, environment: Environment) -> Result<Option<Vec<u8>>, IcedError> {
    let long = environment.mode == Mode::Long64;
    let mut a = CodeAssembler::new(if long { 64 } else { 32 })?;
    match (entry.mnemonic, entry.forms) {
        (Mnemonic::Pushf, _) => a.pushf()?,
        (Mnemonic::Popf, _) => a.popf()?,
        (Mnemonic::Lar, _) => a.lar(eax, ecx)?,
        (Mnemonic::Lsl, _) => a.lsl(eax, ecx)?,
        (Mnemonic::Verr, _) => a.verr(cx)?,
        (Mnemonic::Verw, _) => a.verw(cx)?,
        (Mnemonic::Mov, "segment register") => a.mov(ax, cs)?,
        (Mnemonic::Push, _) => a.push(fs)?,
        (Mnemonic::Sgdt, _) if !long => a.sgdt(fword_ptr(DATA))?,
        (Mnemonic::Sidt, _) if !long => a.sidt(fword_ptr(DATA))?,
        (Mnemonic::Sldt, _) => a.sldt(eax)?,
        (Mnemonic::Str, _) => a.str(eax)?,
        (Mnemonic::Smsw, _) => a.smsw(eax)?,
        (Mnemonic::Cli, _) => a.cli()?,
        (Mnemonic::Sti, _) => a.sti()?,
        (Mnemonic::In, _) => a.in_(al, dx)?,
        (Mnemonic::Out, _) => a.out(dx, al)?,
        (Mnemonic::Outsb, _) => a.outsb()?,
        (Mnemonic::Rdtsc, _) => a.rdtsc()?,
        (Mnemonic::Rdtscp, _) => a.rdtscp()?,
        (Mnemonic::Mov, _) if long => a.mov(rax, cr0)?,
        (Mnemonic::Mov, _) => a.mov(eax, cr0)?,
        (Mnemonic::Clts, _) => a.clts()?,
        (Mnemonic::Hlt, _) => a.hlt()?,
        (Mnemonic::Invd, _) => a.invd()?,
        (Mnemonic::Wbinvd, _) => a.wbinvd()?,
        (Mnemonic::Invlpg, _) => a.invlpg(byte_ptr(DATA))?,
        (Mnemonic::Lmsw, _) => a.lmsw(bx)?,
        (Mnemonic::Swapgs, _) if long => a.swapgs()?,
        (Mnemonic::Lgdt, _) if !long => a.lgdt(fword_ptr(DATA))?,
        (Mnemonic::Lidt, _) if !long => a.lidt(fword_ptr(DATA))?,
        (Mnemonic::Rdmsr, _) => a.rdmsr()?,
        (Mnemonic::Wrmsr, _) => a.wrmsr()?,
        _ => return Ok(None),
    }
    Ok(Some(a.assemble(CODE)?))
}

/// A processor whose exceptions end in ring 0 at an address that tells the vector.
struct Processor {
    cpu: Cpu,
    memory: GuestMemoryMmap,
}

impl Processor {
    fn new(environment: Environment) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let put = |at: u64, value: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
        put(TABLES, (TABLES + 0x1000) | 7);
        put(TABLES + 0x1000, 0x87);
        let long = environment.mode == Mode::Long64;
        put(
            GDT + 8,
            if long {
                0x00af_9b00_0000_ffff
            } else {
                0x00cf_9b00_0000_ffff
            },
        );
        put(GDT + 16, 0x00cf_9300_0000_ffff);
        put(GDT + 24, 0x00cf_f300_0000_ffff);
        for vector in 0..32 {
            let handler = HANDLERS + vector * 16;
            let size = if long { 16 } else { 8 };
            put(
                IDT + vector * size,
                handler & 0xffff | 8 << 16 | 0x8e << 40 | handler >> 16 << 48,
            );
        }
        put(TSS + 4, STACK0);
        if !long {
            memory.write_obj(16u32, GuestAddress(TSS + 8)).unwrap();
        }
        // The I/O permission map lies outside the limit.
        memory
            .write_obj(0xffffu16, GuestAddress(TSS + 0x66))
            .unwrap();
        let cpuid = Cpuid::new(Vendor::Intel, Features::ALL, 1);
        let ram = Ram::new(memory.clone()).unwrap();
        Self {
            cpu: Cpu::new(cpuid, ram).unwrap(),
            memory,
        }
    }

    fn vector_raised_by(&mut self, code: &[u8], environment: Environment) -> Option<u8> {
        self.memory.write_slice(code, GuestAddress(CODE)).unwrap();
        self.memory
            .write_slice(&[0; 16], GuestAddress(DATA))
            .unwrap();
        self.cpu.memory_written(CODE, 16);
        let mut state = self.cpu.state();
        set(&mut state, environment);
        self.cpu.set_state(&state);
        self.cpu.step(&mut Isolated);
        let rip = self.cpu.registers().rip;
        let vector = rip.checked_sub(HANDLERS)? / 16;
        u8::try_from(vector).ok().filter(|&vector| vector < 32)
    }
}

fn set(state: &mut State, environment: Environment) {
    let long = environment.mode == Mode::Long64;
    let ring = u16::from(environment.cpl);
    state.cr0 = if long { 0x8000_0031 } else { 0x31 };
    state.cr3 = TABLES;
    state.efer = if long { 0xd00 } else { 0 };
    let bit = |set: bool, n: u32| u64::from(set) << n;
    state.cr4 = if long { 0x20 } else { 0 }
        | bit(environment.vme, 0)
        | bit(environment.pvi, 1)
        | bit(environment.tsd, 2)
        | bit(environment.umip, 11);
    state.segments = [Segment::flat(0x18 | ring, 0xc060); 6];
    state.segments[2] = Segment::flat(0x10 | ring, 0xc000 | ring << 5);
    state.segments[1] = Segment::flat(0x08 | ring, if long { 0xa008 } else { 0xc008 } | ring << 5);
    state.cpl = environment.cpl;
    state.gdtr = TableRegister {
        base: GDT,
        limit: 0x1f,
    };
    state.idtr = TableRegister {
        base: IDT,
        limit: 0xfff,
    };
    state.tr = Segment {
        selector: 0x28,
        attributes: 0x8b,
        limit: 0x67,
        base: TSS,
    };
    state.halted = false;
    state.registers.gpr = [0; 16];
    state.registers.gpr[3] = 0x31;
    // RDMSR and WRMSR of the TSC; a selector of the GDT's last entry.
    state.registers.gpr[1] = 0x10;
    state.registers.gpr[4] = STACK;
    state.registers.gpr[6] = DATA;
    state.registers.rip = CODE;
    state.registers.rflags = 2 | u64::from(environment.iopl) << 12;
}

const CODE: u64 = 0x1000;
const STACK: u64 = 0x2800;
const DATA: u64 = 0x3000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
const STACK0: u64 = 0x7800;
const HANDLERS: u64 = 0x9000;
const TABLES: u64 = 0xa000;
