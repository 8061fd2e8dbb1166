//! What two outcomes of one case differ in, where the manual defines them.
//!
//! Tolerated, because processors differ or the manual is silent: undefined flags, and the destination of BSF and BSR
//! of zero; bits 19:16 of what LAR gives; the byte at which an operand of several accesses (an x87 environment, an FXSAVE image, a masked move)
//! faults; MXCSR.PE beside an unmasked overflow or underflow, and all flags of DPPS and DPPD, which round twice; the
//! x87 state after a faulting MASKMOVQ, and after CVTPI2PS from memory; the MXCSR mask in an FXSAVE image.

use std::fmt::Write;

use iced_x86::{
    Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, Mnemonic, OpKind, RflagsBits,
};

use super::case::{DATA, Event, FLAGS, Mode, Outcome, PAGE, STACK, State};

/// Decodes the instruction of a case.
pub(crate) fn decode(state: &State) -> Instruction {
    let bytes = &state.code[..state.len];
    Decoder::with_ip(state.mode.bitness(), bytes, state.rip, DecoderOptions::NONE).decode()
}

/// The defined differences between the host's outcome and the subject's, in words; empty when they agree.
pub(crate) fn differences(state: &State, host: &Outcome, subject: &Outcome) -> Vec<String> {
    let instruction = decode(state);
    let host = normalised(state, &instruction, host);
    let subject = normalised(state, &instruction, subject);
    let mut found = Vec::new();
    if host.event != subject.event {
        found.push(format!(
            "event: host {:x?}, subject {:x?}",
            host.event, subject.event
        ));
    }
    registers(state, &instruction, &host, &subject, &mut found);
    flags(&instruction, &host, &subject, &mut found);
    floating_point(state.mode, &host, &subject, &mut found);
    bytes("data", &host.data, &subject.data, &mut found);
    bytes("stack", &host.stack, &subject.stack, &mut found);
    found
}

/// One case in words, for a failure's report.
pub(crate) fn describe(state: &State) -> String {
    let mut text = String::new();
    IntelFormatter::new().format(&decode(state), &mut text);
    let mut out = format!(
        "{:?} {text} {:02x?} rip {:#x} rflags {:#x} selectors {:x?} gs {:#x}",
        state.mode,
        state.bytes(),
        state.rip,
        state.rflags,
        state.selectors,
        state.gs_base
    );
    for (name, value) in NAMES.iter().zip(state.gpr) {
        let _ = write!(out, " {name}={value:#x}");
    }
    let word = |at: usize| u16::from_le_bytes([state.fx[at], state.fx[at + 1]]);
    let _ = write!(
        out,
        " fcw {:#x} fsw {:#x} ftw {:#x} mxcsr {:#x}",
        word(0),
        word(2),
        state.fx[4],
        word(24)
    );
    out
}

fn registers(
    state: &State,
    instruction: &Instruction,
    host: &Outcome,
    subject: &Outcome,
    found: &mut Vec<String>,
) {
    let (count, mask) = match state.mode {
        Mode::Long => (16, u64::MAX),
        Mode::Compat | Mode::Word => (8, 0xffff_ffff),
    };
    let undefined = undefined_register(instruction, host);
    for (i, name) in NAMES.iter().enumerate().take(count) {
        let mask = if undefined.0 == i {
            mask & !undefined.1
        } else {
            mask
        };
        if (host.gpr[i] ^ subject.gpr[i]) & mask != 0 {
            found.push(format!(
                "{name}: host {:#x}, subject {:#x}",
                host.gpr[i], subject.gpr[i]
            ));
        }
    }
    if host.rip != subject.rip {
        found.push(format!(
            "rip: host {:#x}, subject {:#x}",
            host.rip, subject.rip
        ));
    }
    if host.selectors != subject.selectors {
        found.push(format!(
            "selectors: host {:x?}, subject {:x?}",
            host.selectors, subject.selectors
        ));
    }
    if state.mode == Mode::Long && host.gs_base != subject.gs_base {
        found.push(format!(
            "gs base: host {:#x}, subject {:#x}",
            host.gs_base, subject.gs_base
        ));
    }
}

/// The register whose bits the manual leaves undefined, and which: the destination of BSF and BSR of zero, and bits
/// 19:16 of LAR's.
fn undefined_register(instruction: &Instruction, host: &Outcome) -> (usize, u64) {
    let zero = host.rflags & 1 << 6 != 0;
    let bits = match instruction.mnemonic() {
        Mnemonic::Bsf | Mnemonic::Bsr if zero => u64::MAX,
        Mnemonic::Lar => 0xf_0000,
        _ => 0,
    };
    (instruction.op0_register().full_register().number(), bits)
}

fn flags(instruction: &Instruction, host: &Outcome, subject: &Outcome, found: &mut Vec<String>) {
    let undefined = if host.event == Event::Retired {
        undefined_flags(instruction)
    } else {
        0
    };
    let differing = (host.rflags ^ subject.rflags) & FLAGS & !undefined;
    if differing != 0 {
        found.push(format!(
            "flags {differing:#x}: host {:#x}, subject {:#x}",
            host.rflags & FLAGS,
            subject.rflags & FLAGS
        ));
    }
}

/// The flags that the manual leaves undefined after the instruction.
pub(crate) fn undefined_flags(instruction: &Instruction) -> u64 {
    let undefined = instruction.rflags_undefined();
    let bits = [
        (RflagsBits::CF, 1 << 0),
        (RflagsBits::PF, 1 << 2),
        (RflagsBits::AF, 1 << 4),
        (RflagsBits::ZF, 1 << 6),
        (RflagsBits::SF, 1 << 7),
        (RflagsBits::OF, 1 << 11),
    ];
    bits.into_iter()
        .filter(|(bit, _)| undefined & bit != 0)
        .fold(0, |mask, (_, flag)| mask | flag)
}

fn floating_point(mode: Mode, host: &Outcome, subject: &Outcome, found: &mut Vec<String>) {
    let xmm_count = match mode {
        Mode::Long => 16,
        Mode::Compat | Mode::Word => 8,
    };
    let words = [
        ("fcw", 0, 2),
        ("fsw", 2, 2),
        ("ftw", 4, 1),
        ("mxcsr", 24, 4),
    ];
    let fields = words
        .map(|(name, at, len)| (name.to_owned(), at, len))
        .into_iter()
        .chain((0..8).map(|i| (format!("st{i}"), 32 + 16 * i, 10)))
        .chain((0..xmm_count).map(|i| (format!("xmm{i}"), 160 + 16 * i, 16)));
    for (name, at, len) in fields {
        let (left, right) = (&host.fx[at..at + len], &subject.fx[at..at + len]);
        if left != right {
            found.push(format!(
                "{name}: host {}, subject {}",
                hex(left),
                hex(right)
            ));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .rev()
        .fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn bytes(name: &str, host: &[u8; PAGE], subject: &[u8; PAGE], found: &mut Vec<String>) {
    let Some(at) = (0..PAGE).find(|&i| host[i] != subject[i]) else {
        return;
    };
    let end = (at + 16).min(PAGE);
    found.push(format!(
        "{name}+{at:#x}: host {:02x?}, subject {:02x?}",
        &host[at..end],
        &subject[at..end]
    ));
}

/// The outcome with what is tolerated made equal.
fn normalised(state: &State, instruction: &Instruction, outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    match outcome.event {
        Event::Retired => {
            clear_pushed_trap_flag(state, instruction, &mut outcome);
            clear_mxcsr_mask(state, instruction, &mut outcome);
        }
        Event::Exception {
            vector: SIMD_EXCEPTION,
            ..
        } => {
            outcome.fx[MXCSR] &= !tolerated_simd_flags(instruction, &outcome);
        }
        Event::Exception { ref mut cr2, .. } if is_several_accesses(instruction) => {
            *cr2 = 0;
            if instruction.mnemonic() == Mnemonic::Maskmovq {
                clear_x87(&mut outcome);
            }
        }
        Event::Exception { .. } => {}
    }
    let from_memory = instruction.op_kinds().any(|kind| kind == OpKind::Memory);
    if instruction.mnemonic() == Mnemonic::Cvtpi2ps && from_memory {
        clear_x87(&mut outcome);
    }
    outcome
}

fn clear_x87(outcome: &mut Outcome) {
    outcome.fx[..24].fill(0);
    outcome.fx[32..160].fill(0);
}

fn is_several_accesses(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Fldenv
            | Mnemonic::Fnstenv
            | Mnemonic::Frstor
            | Mnemonic::Fnsave
            | Mnemonic::Fxsave
            | Mnemonic::Fxsave64
            | Mnemonic::Fxrstor
            | Mnemonic::Fxrstor64
            | Mnemonic::Maskmovq
            | Mnemonic::Maskmovdqu
    )
}

fn tolerated_simd_flags(instruction: &Instruction, outcome: &Outcome) -> u8 {
    const OVERFLOW_UNDERFLOW: u8 = 0x18;
    const PRECISION: u8 = 0x20;
    let mxcsr = u16::from_le_bytes([outcome.fx[MXCSR], outcome.fx[MXCSR + 1]]);
    let unmasked = !(mxcsr >> 7) as u8;
    if matches!(instruction.mnemonic(), Mnemonic::Dpps | Mnemonic::Dppd) {
        0x3f
    } else if outcome.fx[MXCSR] & unmasked & OVERFLOW_UNDERFLOW != 0 {
        PRECISION
    } else {
        0
    }
}

/// The host ran with TF set, so PUSHF stored it.
fn clear_pushed_trap_flag(state: &State, instruction: &Instruction, outcome: &mut Outcome) {
    let pushes = matches!(
        instruction.mnemonic(),
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq
    );
    let after = State {
        gpr: outcome.gpr,
        ..state.clone()
    };
    let at = after.stack_top().wrapping_sub(STACK);
    if pushes && at < PAGE as u64 - 1 {
        outcome.stack[at as usize + 1] &= !1;
    }
}

fn clear_mxcsr_mask(state: &State, instruction: &Instruction, outcome: &mut Outcome) {
    if !matches!(
        instruction.mnemonic(),
        Mnemonic::Fxsave | Mnemonic::Fxsave64
    ) {
        return;
    }
    let address = instruction.virtual_address(0, 0, |register, _, _| Some(state.value(register)));
    for (page_at, page) in [(DATA, &mut outcome.data), (STACK, &mut outcome.stack)] {
        let at = address.unwrap_or(0).wrapping_sub(page_at).wrapping_add(28);
        if at < PAGE as u64 - 4 {
            page[at as usize..][..4].fill(0);
        }
    }
}

const SIMD_EXCEPTION: u8 = 19;
const MXCSR: usize = 24;
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
