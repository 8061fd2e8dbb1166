//! The native unit as a subject: x87, MMX and SSE instructions, with the memory checks of a flat user program.

use iced_x86::{Instruction, OpKind, Register};
use x86_dbt::native::{
    FxState, NativeIo, NativeMemory, NativeOp, NativeOutcome, NativeUnit, x87_opcode,
};

use super::case::{CODE, DATA, Event, Mode, Outcome, PAGE, STACK, State, Subject};
use super::compare::decode;
use super::segments;

pub(crate) struct NativeSubject {
    unit: NativeUnit,
}

impl NativeSubject {
    pub(crate) fn new() -> Self {
        Self {
            unit: NativeUnit::new().expect("the host gives executable memory"),
        }
    }
}

impl Subject for NativeSubject {
    fn step(&mut self, state: &State) -> Option<Outcome> {
        let instruction = decode(state);
        let op = self.unit.prepare(&instruction).ok()?;
        let mut outcome = state.unchanged();
        match self.execute(state, &instruction, &op, &mut outcome) {
            Ok(()) => outcome.rip = instruction.next_ip() & ip_mask(state.mode),
            Err(event) => outcome.event = event,
        }
        Some(outcome)
    }
}

impl NativeSubject {
    fn execute(
        &self,
        state: &State,
        instruction: &Instruction,
        op: &NativeOp,
        outcome: &mut Outcome,
    ) -> Result<(), Event> {
        let mut fx = load_fx(&state.fx);
        if op.waits && fx.x87_pending() {
            return Err(exception(MF));
        }
        let address = address(state, instruction);
        let mut io = NativeIo::new();
        io.eflags = state.rflags;
        io.fop = x87_opcode(state.bytes());
        for (value, register) in io.gpr.iter_mut().zip(op.gpr_in) {
            *value = register.map_or(0, |register| state.gpr[register.full_register().number()]);
        }
        check(state, instruction, op, address)?;
        if let NativeMemory::Read(size) = op.memory {
            for i in 0..usize::from(size) {
                io.memory[i] = byte_at(state, address + i as u64);
            }
        }
        let result = self.unit.execute(op, &mut fx, &mut io);
        outcome.fx = *fx.image();
        match result {
            NativeOutcome::Done { store } => {
                outcome.rflags = io.eflags;
                if store {
                    write_back(op, &io, address, outcome);
                }
                write_register(state, op, &io, outcome);
                Ok(())
            }
            NativeOutcome::Pending => Err(exception(MF)),
            NativeOutcome::SimdException => Err(exception(XM)),
            NativeOutcome::ReservedMxcsr => Err(exception(GP)),
            NativeOutcome::Stale => unreachable!("one unit, never full"),
        }
    }
}

fn load_fx(image: &[u8; 512]) -> FxState {
    let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let mut fx = FxState::power_on();
    fx.set_fcw(word(0));
    fx.set_fsw(word(2));
    fx.set_ftw_abridged(image[4]);
    assert!(fx.set_mxcsr(u32::from(word(24))));
    for i in 0..8 {
        fx.set_st(i, image[32 + 16 * i..][..10].try_into().unwrap());
    }
    for i in 0..16 {
        fx.set_xmm(
            i,
            u128::from_le_bytes(image[160 + 16 * i..][..16].try_into().unwrap()),
        );
    }
    fx
}

fn address(state: &State, instruction: &Instruction) -> u64 {
    let op = (0..instruction.op_count()).find(|&op| {
        matches!(
            instruction.op_kind(op),
            OpKind::Memory | OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI
        )
    });
    let address = op.and_then(|op| {
        instruction.virtual_address(op, 0, |register, _, _| Some(state.value(register)))
    });
    let address = address.unwrap_or(0);
    if state.mode == Mode::Long {
        address
    } else {
        address & 0xffff_ffff
    }
}

/// The checks of a memory operand, in the order of their priority.
fn check(state: &State, instruction: &Instruction, op: &NativeOp, at: u64) -> Result<(), Event> {
    if op.span == 0 {
        return Ok(());
    }
    let size = u64::from(op.span);
    // Bytes that the mask of a masked move leaves alone are checked too; the manual allows it.
    let write = matches!(op.memory, NativeMemory::Write(_) | NativeMemory::Masked(_));
    if !at.is_multiple_of(u64::from(op.alignment)) {
        return Err(exception(GP));
    }
    if state.mode == Mode::Long {
        check_canonical(instruction, at, size)?;
    } else {
        check_segment(state, instruction, op, write)?;
    }
    let masked = matches!(op.memory, NativeMemory::Masked(_));
    if state.rflags & AC_FLAG != 0 && !masked && !at.is_multiple_of(natural_alignment(size)) {
        return Err(exception(AC));
    }
    (at..)
        .take(size as usize)
        .try_for_each(|byte| check_page(byte, write))
}

fn check_page(byte: u64, write: bool) -> Result<(), Event> {
    let page = byte & !(PAGE as u64 - 1);
    let mapped = page == DATA || page == STACK || page == CODE;
    if mapped && !(write && page == CODE) {
        return Ok(());
    }
    let error_code = u32::from(mapped) | u32::from(write) << 1 | 1 << 2;
    Err(Event::Exception {
        vector: 14,
        error_code,
        cr2: byte,
    })
}

fn check_canonical(instruction: &Instruction, at: u64, size: u64) -> Result<(), Event> {
    if is_canonical(at) && is_canonical(at.wrapping_add(size - 1)) {
        return Ok(());
    }
    Err(exception(if instruction.memory_segment() == Register::SS {
        SS
    } else {
        GP
    }))
}

/// Type and limit, in compatibility mode.
fn check_segment(
    state: &State,
    instruction: &Instruction,
    op: &NativeOp,
    write: bool,
) -> Result<(), Event> {
    let register = instruction.memory_segment();
    let Some(segment) = segments::segment(state.selector(register)) else {
        return Err(exception(GP));
    };
    let first = (address(state, instruction).wrapping_sub(u64::from(segment.base))) as u32;
    let last = first.wrapping_add(u32::from(op.span) - 1);
    let allowed = if write {
        segment.is_writable()
    } else {
        segment.is_readable()
    };
    if !allowed {
        return Err(exception(GP));
    }
    if !segment.holds(first, last) {
        return Err(exception(if register == Register::SS { SS } else { GP }));
    }
    Ok(())
}

/// SDM volume 3, table 7-7.
fn natural_alignment(size: u64) -> u64 {
    match size {
        10 => 8,
        14 | 94 => 2,
        28 | 108 => 4,
        512 => 16,
        _ => size,
    }
}

fn byte_at(state: &State, at: u64) -> u8 {
    let offset = at as usize & (PAGE - 1);
    match at & !(PAGE as u64 - 1) {
        DATA => state.data[offset],
        STACK => state.stack[offset],
        _ => {
            let own = at.wrapping_sub(state.code_address()) as usize;
            if own < state.len {
                state.code[own]
            } else {
                0xcc
            }
        }
    }
}

fn write_back(op: &NativeOp, io: &NativeIo, address: u64, outcome: &mut Outcome) {
    let (size, mask) = match op.memory {
        NativeMemory::Write(size) => (size, u64::MAX),
        NativeMemory::Masked(size) => (size, u64::from(io.byte_mask)),
        _ => return,
    };
    for i in (0..usize::from(size)).filter(|&i| i >= 64 || mask >> i & 1 != 0) {
        let at = address + i as u64;
        let page = if at & !(PAGE as u64 - 1) == DATA {
            &mut outcome.data
        } else {
            &mut outcome.stack
        };
        page[at as usize & (PAGE - 1)] = io.memory[i];
    }
}

fn write_register(state: &State, op: &NativeOp, io: &NativeIo, outcome: &mut Outcome) {
    let Some(register) = op.gpr_out else { return };
    let number = register.full_register().number();
    outcome.gpr[number] = match register.size() {
        2 => state.gpr[number] & !0xffff | io.gpr_out,
        _ => io.gpr_out,
    };
}

fn ip_mask(mode: Mode) -> u64 {
    u64::MAX >> (64 - mode.bitness())
}

fn is_canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}

fn exception(vector: u8) -> Event {
    Event::Exception {
        vector,
        error_code: 0,
        cr2: 0,
    }
}

const AC_FLAG: u64 = 1 << 18;
const SS: u8 = 12;
const GP: u8 = 13;
const MF: u8 = 16;
const AC: u8 = 17;
const XM: u8 = 19;
