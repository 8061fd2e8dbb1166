//! Random encodings of a form.

use iced_x86::{ConstantOffsets, Decoder, DecoderOptions, Instruction, Mnemonic};

use super::case::Mode;
use super::forms::{Form, Template};
use super::rng::Rng;

/// A decoded encoding.
pub(crate) struct Encoded {
    pub(crate) bytes: [u8; 16],
    pub(crate) instruction: Instruction,
    pub(crate) offsets: ConstantOffsets,
}

impl Encoded {
    /// Decodes again, after a change of `bytes`.
    pub(crate) fn refresh(&mut self, mode: Mode, rip: u64) {
        let mut decoder = Decoder::with_ip(mode.bitness(), &self.bytes, rip, DecoderOptions::NONE);
        self.instruction = decoder.decode();
    }
}

pub(crate) fn encode(
    form: Form,
    template: &Template,
    vary: bool,
    rip: u64,
    rng: &mut Rng,
) -> Option<Encoded> {
    let mut bytes = Vec::with_capacity(24);
    if vary && rng.chance(8) {
        // In 64-bit code only FS and GS override, and FS is the harness's own.
        let prefix = if form.mode == Mode::Long {
            GS
        } else {
            rng.pick(&SEGMENT_PREFIXES)
        };
        bytes.push(prefix);
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
            let legacy = legacy_prefixes(bytes).count();
            bytes.insert(legacy, 0x40 | rng.byte() & 7);
        }
        None => {}
    }
}

/// Encodings whose meaning differs between vendors, that call the kernel, or whose result is undefined, are passed over.
fn is_comparable(mode: Mode, instruction: &Instruction, bytes: &[u8]) -> bool {
    let operand_size_prefix = legacy_prefixes(bytes).any(|byte| byte == 0x66);
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
    // AMD lets a repeat prefix choose the condition of LOOPE and LOOPNE.
    if instruction.is_loopcc() && legacy_prefixes(bytes).any(|byte| matches!(byte, 0xf2 | 0xf3)) {
        return false;
    }
    match instruction.mnemonic() {
        Mnemonic::Int => instruction.immediate8() != 0x80,
        _ => true,
    }
}

fn legacy_prefixes(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes
        .iter()
        .copied()
        .take_while(|byte| LEGACY_PREFIXES.contains(byte))
}

const GS: u8 = 0x65;
const LOCK: u8 = 0xf0;
const SEGMENT_PREFIXES: [u8; 6] = [0x26, 0x2e, 0x36, 0x3e, 0x64, GS];
const LEGACY_PREFIXES: [u8; 11] = [
    0x66, 0x67, 0xf2, 0xf3, LOCK, 0x26, 0x2e, 0x36, 0x3e, 0x64, GS,
];
