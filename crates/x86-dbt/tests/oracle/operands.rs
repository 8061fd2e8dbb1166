//! Operand values that random bytes would never be: selectors, branch targets, bit offsets, numbers in memory.

use iced_x86::{Code, Instruction, MemorySize, Mnemonic, OpKind, Register};

use super::case::{CODE, PAGE, RSP, STACK, State};
use super::rng::Rng;
use super::segments;
use super::values;

/// Gives the operands of `instruction` such values.
pub(crate) fn special_operands(instruction: &Instruction, state: &mut State, rng: &mut Rng) {
    let memory = (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory);
    let address = memory.and_then(|op| {
        instruction.virtual_address(op, 0, |register, _, _| Some(state.value(register)))
    });
    if let Some(address) = address {
        memory_operand(instruction, address, state, rng);
    }
    if let Some(register) = selector_source(instruction) {
        selector_register(register, state, rng);
    }
    match instruction.mnemonic() {
        Mnemonic::Pop => {
            let selector = selector(rng);
            state.poke(state.stack_top(), &selector.to_le_bytes());
        }
        Mnemonic::Ret if rng.chance(70) => {
            let target = code_target(rng);
            state.poke(state.stack_top(), &target.to_le_bytes());
        }
        Mnemonic::Retf | Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => {
            far_frame(instruction.code(), state, rng);
        }
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
            if memory.is_some() && instruction.op1_kind() == OpKind::Register =>
        {
            let register = instruction.op1_register();
            let value = (rng.below(1024) as i64 - 512) as u64;
            let number = register.full_register().number();
            let mask = register_mask(register);
            state.gpr[number] = state.gpr[number] & !mask | value & mask;
        }
        Mnemonic::Cmpxchg if rng.chance(50) => equal_accumulator(instruction, address, state),
        Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b if rng.chance(50) => {
            equal_pair(instruction, address, state);
        }
        Mnemonic::Div | Mnemonic::Idiv if rng.chance(60) => {
            state.gpr[RDX] = if rng.chance(70) {
                0
            } else {
                state.gpr[RDX] >> 60
            };
        }
        _ => {}
    }
}

/// The operand that is a selector; [`Register::None`] when it is in memory.
pub(crate) fn selector_source(instruction: &Instruction) -> Option<Register> {
    match instruction.mnemonic() {
        Mnemonic::Mov if instruction.op0_register().is_segment_register() => {
            Some(instruction.op1_register())
        }
        Mnemonic::Lar | Mnemonic::Lsl => Some(instruction.op1_register()),
        Mnemonic::Verr | Mnemonic::Verw => Some(instruction.op0_register()),
        _ => None,
    }
}

fn memory_operand(instruction: &Instruction, address: u64, state: &mut State, rng: &mut Rng) {
    match instruction.memory_size() {
        MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::SegPtr64 => {
            let size = instruction.memory_size().size() as u64 - 2;
            let target = code_target(rng).to_le_bytes();
            state.poke(address, &target[..size as usize]);
            let selector = selector(rng);
            state.poke(address.wrapping_add(size), &selector.to_le_bytes());
        }
        MemorySize::UInt16 if selector_source(instruction).is_some() || rng.chance(50) => {
            let selector = selector(rng);
            state.poke(address, &selector.to_le_bytes());
        }
        MemorySize::QwordOffset | MemorySize::DwordOffset if rng.chance(70) => {
            let target = code_target(rng).to_le_bytes();
            state.poke(address, &target[..instruction.memory_size().size()]);
        }
        MemorySize::Float80 | MemorySize::Bcd => {
            let value = values::extended(rng);
            state.poke(address, &value);
        }
        MemorySize::FpuEnv14
        | MemorySize::FpuEnv28
        | MemorySize::FpuState94
        | MemorySize::FpuState108 => {
            environment(instruction, address, state, rng);
        }
        MemorySize::Fxsave_512Byte | MemorySize::Fxsave64_512Byte => {
            let image = values::fx(rng);
            state.poke(address, &image);
        }
        MemorySize::UInt32 if instruction.mnemonic() == Mnemonic::Ldmxcsr && rng.chance(80) => {
            let image = values::fx(rng);
            state.poke(address, &image[24..28]);
        }
        size if rng.chance(60) => {
            let value = values::vector(rng);
            state.poke(address, &value[..size.size().min(16)]);
        }
        _ => {}
    }
}

fn environment(instruction: &Instruction, address: u64, state: &mut State, rng: &mut Rng) {
    let wide = matches!(
        instruction.memory_size(),
        MemorySize::FpuEnv28 | MemorySize::FpuState108
    );
    let (step, length) = if wide { (4, 28) } else { (2, 14) };
    let image = values::fx(rng);
    state.poke(address, &image[..2]);
    state.poke(address.wrapping_add(step), &image[2..4]);
    if matches!(
        instruction.memory_size(),
        MemorySize::FpuState94 | MemorySize::FpuState108
    ) {
        for i in 0..8 {
            let value = values::extended(rng);
            state.poke(address.wrapping_add(length + 10 * i), &value);
        }
    }
}

fn far_frame(code: Code, state: &mut State, rng: &mut Rng) {
    let size = match code.op_code().operand_size() {
        16 => 2,
        64 => 8,
        _ => 4,
    };
    let target = code_target(rng);
    // Which of several faults is raised first differs, so a target out of some reach comes with good selectors.
    let canonical = target < 1 << 47;
    let within_limits = target < PAGE as u64;
    let cs = if canonical {
        selector(rng)
    } else {
        segments::LONG_CS
    };
    let ss = if within_limits && rng.chance(40) {
        selector(rng)
    } else {
        segments::FLAT_DS
    };
    let frame = [
        target,
        u64::from(cs),
        state.rflags | 0x202,
        STACK + 64 + rng.below(PAGE as u64 / 8 - 16) * 8,
        u64::from(ss),
    ];
    for (i, value) in frame.into_iter().enumerate() {
        let at = state.stack_top().wrapping_add(size * i as u64);
        state.poke(at, &value.to_le_bytes()[..size as usize]);
    }
}

fn equal_accumulator(instruction: &Instruction, address: Option<u64>, state: &mut State) {
    let size = instruction.op1_register().size();
    let mut bytes = state.gpr[RAX].to_le_bytes();
    match address {
        Some(address) => state.poke(address, &bytes[..size]),
        None => {
            let number = instruction.op0_register().full_register().number();
            bytes[size..].copy_from_slice(&state.gpr[number].to_le_bytes()[size..]);
            if (Register::AH..=Register::BH).contains(&instruction.op0_register()) || number == RSP
            {
                return;
            }
            state.gpr[number] = u64::from_le_bytes(bytes);
        }
    }
}

fn equal_pair(instruction: &Instruction, address: Option<u64>, state: &mut State) {
    let half = instruction.memory_size().size() / 2;
    let Some(address) = address else { return };
    let (low, high) = (state.gpr[RAX].to_le_bytes(), state.gpr[RDX].to_le_bytes());
    state.poke(address, &low[..half]);
    state.poke(address.wrapping_add(half as u64), &high[..half]);
}

fn selector_register(register: Register, state: &mut State, rng: &mut Rng) {
    if register.is_gpr() && register.full_register() != Register::RSP {
        let number = register.full_register().number();
        state.gpr[number] = state.gpr[number] & !0xffff | u64::from(selector(rng));
    }
}

/// Null, the user's and the kernel's segments with several RPLs, those of the LDT, and beyond the tables' limits.
fn selector(rng: &mut Rng) -> u16 {
    match rng.below(4) {
        0 => rng.pick(&segments::LDT).selector & !rng.pick(&[0, 0, 0, 3]),
        1 => rng.pick(&segments::GDT).selector ^ rng.pick(&[0, 0, 1, 3]),
        2 => rng.pick(&[0x23, 0x2b, 0x33]),
        _ => rng.pick(&[0, 1, 2, 3, 0x0080, 0x0088, 0xfffb, 0x0104, 0xffff, 0x1234]),
    }
}

/// An offset in the flat code segment or in one that begins with the page.
fn code_target(rng: &mut Rng) -> u64 {
    match rng.below(16) {
        0 => rng.next(),
        1 => rng.pick(&[1 << 47, 1 << 63, 0x1234]),
        n => CODE * (n & 1) + rng.below(PAGE as u64 - 64),
    }
}

pub(crate) fn register_mask(register: Register) -> u64 {
    match register.size() {
        8 => u64::MAX,
        4 => 0xffff_ffff,
        2 => 0xffff,
        _ => 0xff,
    }
}

const RAX: usize = 0;
const RDX: usize = 2;
