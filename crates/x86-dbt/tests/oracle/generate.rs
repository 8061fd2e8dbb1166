//! Random cases of one form: an encoding, and a state in which its addresses are harmless.

use iced_x86::{
    Code, ConstantOffsets, CpuidFeature, Decoder, DecoderOptions, Instruction,
    InstructionInfoFactory, MemorySize, Mnemonic, OpKind, Register,
};

use super::case::{CODE, DATA, Mode, PAGE, STACK, State};
use super::forms::{Form, Template};
use super::rng::Rng;
use super::values;

/// Makes cases.
pub(crate) struct Generator {
    factory: InstructionInfoFactory,
}

/// A decoded encoding.
struct Encoded {
    bytes: [u8; 16],
    instruction: Instruction,
    offsets: ConstantOffsets,
}

impl Generator {
    pub(crate) fn new() -> Self {
        Self {
            factory: InstructionInfoFactory::new(),
        }
    }

    /// A case of `form`; `None` when none was found in a bounded number of attempts.
    pub(crate) fn case(
        &mut self,
        form: Form,
        templates: &[Template],
        rng: &mut Rng,
    ) -> Option<Box<State>> {
        (0..ATTEMPTS_MAX).find_map(|attempt| self.attempt(form, templates, attempt, rng))
    }

    fn attempt(
        &mut self,
        form: Form,
        templates: &[Template],
        attempt: usize,
        rng: &mut Rng,
    ) -> Option<Box<State>> {
        let template = rng.pick(templates);
        let rip = CODE + 0x100 + rng.below(0xe00);
        // The first attempts vary the encoding; the last ones take the template as it is.
        let vary = attempt < ATTEMPTS_MAX * 3 / 4;
        let mut encoded = encode(form, &template, vary, rip, rng)?;
        let mut state = Box::new(random_state(form.mode, rip, rng));
        self.place(&mut encoded, &mut state, rng)?;
        special_operands(&encoded.instruction, &mut state, rng);
        state.code = encoded.bytes;
        state.len = encoded.instruction.len();
        state.repeats = is_repeated(&encoded.instruction);
        if form.mode == Mode::Compat {
            state.gpr = state.gpr.map(|value| value & 0xffff_ffff);
        }
        let accepted = self.is_harmless(&encoded.instruction, &state)
            && !is_model_specific(&encoded.instruction, &state);
        accepted.then_some(state)
    }

    /// Chooses register values and displacements so that addresses fall on or around the pages.
    fn place(&mut self, encoded: &mut Encoded, state: &mut State, rng: &mut Rng) -> Option<()> {
        let instruction = encoded.instruction;
        if is_repeated(&instruction) {
            let high = if rng.chance(50) {
                0
            } else {
                !address_mask(&instruction)
            };
            state.gpr[RCX] = rng.next() & high | rng.below(20);
        }
        for memory in self.factory.info(&instruction).used_memory() {
            let (base, index) = (memory.base(), memory.index());
            if base.size() == 2 || base == Register::None || base.full_register() == Register::RSP {
                continue;
            }
            if base == Register::RIP || base == Register::EIP || !base.is_gpr() {
                continue;
            }
            let target = target(memory.memory_size().size() as u64, state.mode, rng);
            let offset = target.wrapping_sub(segment_base(memory.segment(), state));
            let index_value = if index == Register::None {
                0
            } else {
                state.register(index)
            };
            let rest = offset.wrapping_sub(memory.displacement());
            let base_number = base.full_register().number();
            state.gpr[base_number] = if index.full_register() == base.full_register() {
                rest / (1 + u64::from(memory.scale()))
            } else {
                rest.wrapping_sub(index_value.wrapping_mul(u64::from(memory.scale())))
            };
            if base.size() == 4 && rng.chance(50) {
                state.gpr[base_number] &= 0xffff_ffff;
            }
        }
        if let Some(op) =
            (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory)
        {
            let target = target(instruction.memory_size().size() as u64, state.mode, rng);
            place_displacement(encoded, op, target, state)?;
            place_index(&instruction, target, state);
        }
        Some(())
    }

    /// Whether every byte that the instruction may touch is one of the pages or certainly unmapped.
    fn is_harmless(&mut self, instruction: &Instruction, state: &State) -> bool {
        let bits = bit_offset_bytes(instruction, state);
        self.factory
            .info(instruction)
            .used_memory()
            .iter()
            .all(|memory| {
                let address =
                    memory.virtual_address(0, |register, _, _| Some(state.value(register)));
                let Some(address) = address else { return false };
                let from = address.wrapping_add(bits as u64);
                let size = memory.memory_size().size() as u64 + 16;
                is_unmapped_or_ours(state.mode, from)
                    && is_unmapped_or_ours(state.mode, from.wrapping_add(size))
            })
    }
}

fn random_state(mode: Mode, rip: u64, rng: &mut Rng) -> State {
    let mut state = State {
        mode,
        code: [0; 16],
        len: 0,
        repeats: false,
        gpr: std::array::from_fn(|_| values::integer(rng)),
        rip,
        rflags: values::rflags(rng),
        gs_base: DATA + rng.below(PAGE as u64) / 16 * 16,
        fx: values::fx(rng),
        data: [0; PAGE],
        stack: [0; PAGE],
    };
    rng.fill(&mut state.data);
    rng.fill(&mut state.stack);
    state.gpr[RSP] = STACK
        + match rng.below(16) {
            0 => rng.pick(&[0, 2, 4, 8, PAGE as u64 - 8, PAGE as u64 - 4, PAGE as u64]),
            1 => 64 + rng.below(PAGE as u64 - 128),
            _ => 64 + rng.below(PAGE as u64 / 8 - 16) * 8,
        };
    if mode == Mode::Compat {
        state.gpr[8..].fill(0);
    }
    state
}

fn encode(form: Form, template: &Template, vary: bool, rip: u64, rng: &mut Rng) -> Option<Encoded> {
    let mut bytes = Vec::with_capacity(24);
    if vary && form.mode == Mode::Long && form.memory && rng.chance(8) {
        bytes.push(GS);
    }
    if vary && form.memory && form.code.op_code().can_use_lock_prefix() && rng.chance(15) {
        bytes.push(LOCK);
    }
    let prefix_len = bytes.len();
    bytes.extend_from_slice(template.bytes());
    if vary && form.mode == Mode::Long {
        vary_rex(&mut bytes, prefix_len, template, rng);
    }
    if vary {
        let last = bytes.len() - 1;
        let random = rng.byte();
        let reg = if rng.chance(50) { random } else { bytes[last] } & 0x38;
        let modrm_mod = if form.memory {
            rng.pick(&[0, 0x40, 0x80])
        } else {
            0xc0
        };
        bytes[last] = modrm_mod | reg | random & 7;
    }
    // SIB, displacement and immediates: small values are likelier than in random bytes.
    for _ in 0..12 {
        let byte = if rng.chance(70) {
            rng.byte()
        } else {
            rng.pick(&[0, 1, 0x7f, 0x80, 0xff])
        };
        bytes.push(byte);
    }
    bytes.truncate(15);
    let mut padded = [0; 16];
    padded[..bytes.len()].copy_from_slice(&bytes);
    let mut decoder = Decoder::with_ip(form.mode.bitness(), &bytes, rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let accepted = !instruction.is_invalid()
        && Form::of(form.mode, &instruction) == form
        && is_comparable(form.mode, &instruction, &bytes);
    accepted.then(|| Encoded {
        bytes: padded,
        instruction,
        offsets: decoder.get_constant_offsets(&instruction),
    })
}

fn vary_rex(bytes: &mut Vec<u8>, prefix_len: usize, template: &Template, rng: &mut Rng) {
    match template.rex_at {
        Some(at) => bytes[prefix_len + at] |= rng.byte() & 7,
        None if rng.chance(40) => {
            let legacy = bytes
                .iter()
                .take_while(|byte| LEGACY_PREFIXES.contains(byte))
                .count();
            bytes.insert(legacy, 0x40 | rng.byte() & 7);
        }
        None => {}
    }
}

/// Encodings whose meaning differs between vendors, that call the kernel, or whose result is undefined, are passed over.
fn is_comparable(mode: Mode, instruction: &Instruction, bytes: &[u8]) -> bool {
    let operand_size_prefix = bytes
        .iter()
        .take_while(|byte| LEGACY_PREFIXES.contains(byte))
        .any(|&b| b == 0x66);
    let near_branch = instruction.is_jcc_short_or_near()
        || instruction.is_jmp_short_or_near()
        || instruction.is_call_near()
        || instruction.is_jmp_near_indirect()
        || instruction.is_call_near_indirect()
        || instruction.is_loop()
        || instruction.is_loopcc()
        || instruction.is_jcx_short()
        || instruction.mnemonic() == Mnemonic::Ret;
    // A near branch with an operand-size prefix in 64-bit code: Intel ignores the prefix, AMD does not.
    if mode == Mode::Long && near_branch && operand_size_prefix {
        return false;
    }
    match instruction.mnemonic() {
        Mnemonic::Int => instruction.immediate8() != 0x80,
        _ => true,
    }
}

fn place_displacement(encoded: &mut Encoded, op: u32, target: u64, state: &State) -> Option<()> {
    let instruction = &encoded.instruction;
    let relative = instruction.is_ip_rel_memory_operand();
    let absolute = instruction.op_kind(op) == OpKind::Memory
        && instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None;
    if !(relative || absolute) {
        return Some(());
    }
    let offset = target.wrapping_sub(segment_base(instruction.memory_segment(), state));
    let value = if relative {
        offset.wrapping_sub(instruction.next_ip())
    } else {
        offset
    };
    let (at, size) = (
        encoded.offsets.displacement_offset(),
        encoded.offsets.displacement_size(),
    );
    encoded.bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    let bitness = state.mode.bitness();
    let mut decoder = Decoder::with_ip(bitness, &encoded.bytes, state.rip, DecoderOptions::NONE);
    encoded.instruction = decoder.decode();
    Some(())
}

/// An index register without a base.
fn place_index(instruction: &Instruction, target: u64, state: &mut State) {
    let index = instruction.memory_index();
    if instruction.memory_base() != Register::None || index == Register::None {
        return;
    }
    let offset = target.wrapping_sub(segment_base(instruction.memory_segment(), state));
    let rest = offset.wrapping_sub(instruction.memory_displacement64());
    let value = rest / u64::from(instruction.memory_index_scale());
    state.gpr[index.full_register().number()] = value & register_mask(index);
}

fn segment_base(segment: Register, state: &State) -> u64 {
    if segment == Register::GS {
        state.gs_base
    } else {
        0
    }
}

/// An address for `size` bytes: mostly inside the data page and aligned, sometimes over its edges or elsewhere.
fn target(size: u64, mode: Mode, rng: &mut Rng) -> u64 {
    let page = PAGE as u64;
    let room = page - size.min(page);
    match rng.below(32) {
        0..=21 => DATA + rng.below(room / 64 + 1) * 64,
        22..=26 => DATA + rng.below(room + 1),
        27 => DATA + page - rng.below(size + 2),
        28 => DATA - rng.below(size + 2),
        29 => STACK + rng.below(room + 1),
        30 => CODE + rng.below(room + 1),
        _ if mode == Mode::Long => rng.pick(&[1 << 47, 1 << 63, 0x7fff_ffff_ffff_ff00]),
        _ => 0x3800_0000,
    }
}

/// Values that random bytes would never be: selectors, branch targets, bit offsets, numbers in memory.
fn special_operands(instruction: &Instruction, state: &mut State, rng: &mut Rng) {
    let memory = (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory);
    let address = memory.and_then(|op| {
        instruction.virtual_address(op, 0, |register, _, _| Some(state.value(register)))
    });
    if let Some(address) = address {
        memory_operand(instruction, address, state, rng);
    }
    match instruction.mnemonic() {
        Mnemonic::Mov if instruction.op0_register().is_segment_register() => {
            selector_register(instruction.op1_register(), state, rng);
        }
        Mnemonic::Lar | Mnemonic::Lsl => selector_register(instruction.op1_register(), state, rng),
        Mnemonic::Verr | Mnemonic::Verw => {
            selector_register(instruction.op0_register(), state, rng);
        }
        Mnemonic::Pop => {
            let selector = selector(rng);
            state.poke(state.gpr[RSP], &selector.to_le_bytes());
        }
        Mnemonic::Ret if rng.chance(70) => {
            let target = code_target(rng);
            state.poke(state.gpr[RSP], &target.to_le_bytes());
        }
        Mnemonic::Retf | Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq if rng.chance(80) => {
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

fn memory_operand(instruction: &Instruction, address: u64, state: &mut State, rng: &mut Rng) {
    match instruction.memory_size() {
        MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::SegPtr64 => {
            let size = instruction.memory_size().size() as u64 - 2;
            let target = code_target(rng).to_le_bytes();
            state.poke(address, &target[..size as usize]);
            let selector = selector(rng);
            state.poke(address.wrapping_add(size), &selector.to_le_bytes());
        }
        MemorySize::UInt16 if rng.chance(50) => {
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
    let frame = [
        code_target(rng),
        u64::from(selector(rng)),
        state.rflags | 0x202,
        STACK + 64 + rng.below(PAGE as u64 / 8 - 16) * 8,
        u64::from(if rng.chance(80) { 0x2b } else { selector(rng) }),
    ];
    for (i, value) in frame.into_iter().enumerate() {
        let at = state.gpr[RSP].wrapping_add(size * i as u64);
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

/// Null, the user's and the kernel's segments with several RPLs, beyond the GDT's limit, and the absent LDT.
fn selector(rng: &mut Rng) -> u16 {
    rng.pick(&[
        0, 1, 2, 3, 0x10, 0x13, 0x18, 0x1b, 0x20, 0x23, 0x23, 0x28, 0x2a, 0x2b, 0x2b, 0x30, 0x33,
        0x33, 0x0080, 0x0088, 0xfffb, 0x0004, 0x0007, 0x1234,
    ])
}

fn code_target(rng: &mut Rng) -> u64 {
    match rng.below(16) {
        0 => rng.next(),
        1 => rng.pick(&[1 << 47, 1 << 63, 0x1234]),
        _ => CODE + rng.below(PAGE as u64 - 64),
    }
}

fn is_repeated(instruction: &Instruction) -> bool {
    instruction.is_string_instruction()
        && (instruction.has_rep_prefix() || instruction.has_repne_prefix())
}

fn address_mask(instruction: &Instruction) -> u64 {
    let pointer = (0..instruction.op_count())
        .map(|op| instruction.op_kind(op))
        .find_map(|kind| {
            Some(match kind {
                OpKind::MemorySegSI | OpKind::MemoryESDI => 0xffff,
                OpKind::MemorySegESI | OpKind::MemoryESEDI => 0xffff_ffff,
                OpKind::MemorySegRSI | OpKind::MemoryESRDI => u64::MAX,
                _ => return None,
            })
        });
    pointer.unwrap_or(u64::MAX)
}

fn register_mask(register: Register) -> u64 {
    match register.size() {
        8 => u64::MAX,
        4 => 0xffff_ffff,
        2 => 0xffff,
        _ => 0xff,
    }
}

/// Cases in which vendors and models differ, and the manuals allow it.
fn is_model_specific(instruction: &Instruction, state: &State) -> bool {
    let alignment_check = state.rflags & values::AC != 0;
    let Some(op) =
        (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory)
    else {
        // Whether a masked move checks alignment.
        let masked = matches!(
            instruction.mnemonic(),
            Mnemonic::Maskmovq | Mnemonic::Maskmovdqu
        );
        return masked && alignment_check;
    };
    let address = instruction.virtual_address(op, 0, |register, _, _| Some(state.value(register)));
    let address = address.unwrap_or(0);
    let misaligned = !address.is_multiple_of(16);
    // AMD lets the SHA instructions read anywhere; Intel raises #GP.
    let sha = instruction
        .code()
        .cpuid_features()
        .contains(&CpuidFeature::SHA);
    // #AC or #GP, #SS or #GP: SDM volume 2, FXSAVE and FXRSTOR.
    let fx = instruction
        .code()
        .cpuid_features()
        .contains(&CpuidFeature::FXSR);
    // Whether CVTPI2PS from memory is an MMX instruction, and so reports a pending x87 exception.
    let pending = instruction.mnemonic() == Mnemonic::Cvtpi2ps && state.fx[2] & 0x80 != 0;
    pending || misaligned && (sha || fx && (alignment_check || address >> 32 != 0))
}

/// How far from its address a bit test with a register offset reaches.
fn bit_offset_bytes(instruction: &Instruction, state: &State) -> i64 {
    let tests_bits = matches!(
        instruction.mnemonic(),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    );
    if !tests_bits || instruction.op1_kind() != OpKind::Register {
        return 0;
    }
    let value = state.register(instruction.op1_register());
    match instruction.op1_register().size() {
        2 => i64::from(value as i16) >> 3,
        4 => i64::from(value as i32) >> 3,
        _ => (value as i64) >> 3,
    }
}

/// Below 4 GiB only the three pages are mapped; a non-canonical address never is.
fn is_unmapped_or_ours(mode: Mode, address: u64) -> bool {
    let canonical = ((address << 16) as i64 >> 16) as u64 == address;
    mode == Mode::Compat || address < 1 << 32 || !canonical
}

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSP: usize = 4;
const GS: u8 = 0x65;
const LOCK: u8 = 0xf0;
const LEGACY_PREFIXES: [u8; 6] = [0x66, 0x67, 0xf2, 0xf3, GS, LOCK];
const ATTEMPTS_MAX: usize = 64;
