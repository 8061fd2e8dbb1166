//! Random cases of one form: an encoding, and a state in which its addresses are harmless.

use iced_x86::{
    Code, CpuidFeature, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register,
};

use super::case::{CODE, DATA, Mode, PAGE, RSP, STACK, State};
use super::encode::{Encoded, encode};
use super::forms::{Form, Template};
use super::operands::{self, register_mask, special_operands};
use super::rng::Rng;
use super::segments::{FLAT_CS, FLAT_DS, LONG_CS, SHORT_CS, WORD_CS};
use super::values;

/// Makes cases.
pub(crate) struct Generator {
    factory: InstructionInfoFactory,
    /// Whether 32-bit cases use the LDT's segments too.
    ldt: bool,
}

impl Generator {
    pub(crate) fn new(ldt: bool) -> Self {
        Self {
            factory: InstructionInfoFactory::new(),
            ldt,
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
        // The first attempts vary the encoding; the last ones take the template as it is.
        let vary = attempt < ATTEMPTS_MAX * 3 / 4;
        let mut state = Box::new(random_state(form.mode, self.ldt, rng));
        let mut encoded = encode(form, &template, vary, state.rip, rng)?;
        self.place(&mut encoded, &mut state, rng);
        special_operands(&encoded.instruction, &mut state, rng);
        state.code = encoded.bytes;
        state.len = encoded.instruction.len();
        state.repeats = is_repeated(&encoded.instruction);
        if form.mode != Mode::Long {
            state.gpr = state.gpr.map(|value| value & 0xffff_ffff);
        }
        let accepted = self.is_harmless(&encoded.instruction, &state)
            && !is_model_specific(&encoded.instruction, &state)
            && !leaves_a_short_stack(&encoded.instruction, &state);
        accepted.then_some(state)
    }

    /// Chooses register values and displacements so that addresses fall on or around the pages.
    fn place(&mut self, encoded: &mut Encoded, state: &mut State, rng: &mut Rng) {
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
            if !base.is_gpr() || base.full_register() == Register::RSP {
                continue;
            }
            let size = memory.memory_size().size() as u64;
            let offset = target(size, memory.segment(), state, rng)
                .wrapping_sub(state.segment_base(memory.segment()));
            let rest = offset.wrapping_sub(memory.displacement());
            let scale = u64::from(memory.scale());
            let value = if index == Register::None {
                rest
            } else if index.full_register() == base.full_register() {
                rest / (1 + scale)
            } else {
                rest.wrapping_sub(state.register(index).wrapping_mul(scale))
            };
            let mask = if rng.chance(50) {
                register_mask(base)
            } else {
                u64::MAX
            };
            state.gpr[base.full_register().number()] = value & mask;
        }
        if let Some(op) = memory_operand(&instruction) {
            let size = instruction.memory_size().size() as u64;
            let target = target(size, instruction.memory_segment(), state, rng);
            let offset = target.wrapping_sub(state.segment_base(instruction.memory_segment()));
            place_displacement(encoded, op, offset, state);
            place_index(&instruction, offset, state);
        }
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

fn random_state(mode: Mode, ldt: bool, rng: &mut Rng) -> State {
    let mut state = State {
        mode,
        code: [0; 16],
        len: 0,
        repeats: false,
        gpr: std::array::from_fn(|_| values::integer(rng)),
        rip: 0,
        rflags: values::rflags(rng),
        selectors: selectors(mode, ldt, rng),
        gs_base: DATA + rng.below(PAGE as u64) / 16 * 16,
        fx: values::fx(rng),
        data: [0; PAGE],
        stack: [0; PAGE],
    };
    rng.fill(&mut state.data);
    rng.fill(&mut state.stack);
    state.rip = CODE + 0x100 + rng.below(0xe00) - state.segment_base(Register::CS);
    let top = STACK
        + match rng.below(16) {
            0 => rng.pick(&[0, 2, 4, 8, PAGE as u64 - 8, PAGE as u64 - 4, PAGE as u64]),
            1 => 64 + rng.below(PAGE as u64 - 128),
            _ => 64 + rng.below(PAGE as u64 / 8 - 16) * 8,
        };
    let offset = top - state.segment_base(Register::SS);
    let high = if state.is_stack_short() {
        rng.next() & 0xffff_0000
    } else {
        0
    };
    state.gpr[RSP] = offset | high;
    if mode != Mode::Long {
        state.gpr[8..].fill(0);
    }
    state
}

/// CS, SS, DS, ES, FS, GS: all of them load.
fn selectors(mode: Mode, ldt: bool, rng: &mut Rng) -> [u16; 6] {
    if mode == Mode::Long {
        return [LONG_CS, FLAT_DS, FLAT_DS, FLAT_DS, 0, 0];
    }
    if mode == Mode::Compat && (!ldt || rng.chance(60)) {
        return [FLAT_CS, FLAT_DS, FLAT_DS, FLAT_DS, 0, 0];
    }
    let cs = if mode == Mode::Word {
        WORD_CS
    } else {
        rng.pick(&[FLAT_CS, SHORT_CS])
    };
    let ss = rng.pick(&[FLAT_DS, 0x1f, 0x1f, 0x3f]);
    let mut data = || rng.pick(&[FLAT_DS, 0x0f, 0x0f, 0x0f, 0x17, 0x17, 0x27, 0x47, 0x0f, 0]);
    [cs, ss, data(), data(), data(), data()]
}

fn memory_operand(instruction: &Instruction) -> Option<u32> {
    (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory)
}

/// An operand without registers, or relative to RIP.
fn place_displacement(encoded: &mut Encoded, op: u32, offset: u64, state: &State) {
    let instruction = &encoded.instruction;
    let relative = instruction.is_ip_rel_memory_operand();
    let absolute = instruction.op_kind(op) == OpKind::Memory
        && instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None;
    if !(relative || absolute) {
        return;
    }
    let value = if relative {
        offset.wrapping_sub(instruction.next_ip())
    } else {
        offset
    };
    let at = encoded.offsets.displacement_offset();
    let size = encoded.offsets.displacement_size();
    encoded.bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    encoded.refresh(state.mode, state.rip);
}

/// An index register without a base.
fn place_index(instruction: &Instruction, offset: u64, state: &mut State) {
    let index = instruction.memory_index();
    if instruction.memory_base() != Register::None || index == Register::None {
        return;
    }
    let rest = offset.wrapping_sub(instruction.memory_displacement64());
    let value = rest / u64::from(instruction.memory_index_scale());
    state.gpr[index.full_register().number()] = value & register_mask(index);
}

/// A linear address for `size` bytes: mostly inside the segment's page and aligned, sometimes over its edges or
/// elsewhere.
fn target(size: u64, segment: Register, state: &State, rng: &mut Rng) -> u64 {
    let page = PAGE as u64;
    let room = page - size.min(page);
    let home = match state.segment_base(segment) {
        base @ (CODE | STACK) => base,
        _ => DATA,
    };
    match rng.below(32) {
        0..=21 => home + rng.below(room / 64 + 1) * 64,
        22..=26 => home + rng.below(room + 1),
        27 => home + page - rng.below(size + 2),
        28 => home - rng.below(size + 2),
        29 => STACK + rng.below(room + 1),
        30 => CODE + rng.below(room + 1),
        _ if state.mode == Mode::Long => rng.pick(&[1 << 47, 1 << 63, 0x7fff_ffff_ffff_ff00]),
        _ => 0x3800_0000,
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

/// Cases in which vendors and models differ, and the manuals allow it.
fn is_model_specific(instruction: &Instruction, state: &State) -> bool {
    let value = |register, _, _| Some(state.value(register));
    let alignment_check = state.rflags & values::AC != 0;
    if matches!(
        instruction.mnemonic(),
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu
    ) {
        // Whether it checks alignment, and the bytes that it leaves alone.
        let address = instruction.virtual_address(0, 0, value).unwrap_or(0);
        return alignment_check || !is_in_writable_page(address, 16);
    }
    // The host kernel's GDT has more than `segments`, and RSP is not ours to choose.
    let source = operands::selector_source(instruction).unwrap_or_default();
    if source.full_register() == Register::RSP {
        return true;
    }
    let Some(op) = memory_operand(instruction) else {
        return false;
    };
    let address = instruction.virtual_address(op, 0, value).unwrap_or(0);
    let misaligned = !address.is_multiple_of(16);
    let features = instruction.code().cpuid_features();
    // AMD lets the SHA instructions read anywhere; Intel raises #GP.
    let sha = features.contains(&CpuidFeature::SHA);
    let on_stack = instruction.memory_segment() == Register::SS;
    // #AC or #GP, #SS or #GP: SDM volume 2, FXSAVE and FXRSTOR.
    let fx = features.contains(&CpuidFeature::FXSR) && (alignment_check || on_stack);
    // AMD reads four bytes.
    let movsxd = instruction.code() == Code::Movsxd_r16_rm16;
    // Whether CVTPI2PS from memory is an MMX instruction, and so reports a pending x87 exception.
    let pending = instruction.mnemonic() == Mnemonic::Cvtpi2ps && state.fx[2] & 0x80 != 0;
    // Which of the accesses of an x87 environment is checked first.
    let environment = matches!(
        instruction.mnemonic(),
        Mnemonic::Fldenv | Mnemonic::Fnstenv | Mnemonic::Frstor | Mnemonic::Fnsave
    );
    let over_an_edge = !is_in_writable_page(address, instruction.memory_size().size() as u64);
    pending || environment && alignment_check && over_an_edge || misaligned && (sha || fx || movsxd)
}

fn is_in_writable_page(address: u64, size: u64) -> bool {
    [DATA, STACK]
        .into_iter()
        .any(|page| address >= page && address <= page + PAGE as u64 - size)
}

/// Linux's way back to a 16-bit stack leaves a kernel address in the upper half of RSP, where 64-bit code would
/// find it.
fn leaves_a_short_stack(instruction: &Instruction, state: &State) -> bool {
    let operand = instruction.code().op_code().operand_size() as u64 / 8;
    let selector = match instruction.mnemonic() {
        Mnemonic::Retf | Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => {
            state.peek(state.stack_top().wrapping_add(operand))
        }
        Mnemonic::Call | Mnemonic::Jmp => match memory_operand(instruction) {
            Some(op) => {
                let offset = instruction.memory_size().size() as u64 - 2;
                let value = |register, _, _| Some(state.value(register));
                let address = instruction.virtual_address(op, 0, value).unwrap_or(0);
                state.peek((address & 0xffff_ffff).wrapping_add(offset))
            }
            None => instruction.far_branch_selector(),
        },
        _ => return false,
    };
    state.is_stack_short() && selector | 3 == LONG_CS
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
    mode != Mode::Long || address < 1 << 32 || !canonical
}

const RCX: usize = 1;
const ATTEMPTS_MAX: usize = 64;
