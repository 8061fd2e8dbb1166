//! Which instruction forms there are, found by decoding every opcode of the legacy maps.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind,
};

use super::case::Mode;

/// A form: an instruction of one operand size and kind, in one mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Form {
    pub(crate) mode: Mode,
    pub(crate) code: Code,
    /// Whether an operand is explicitly in memory.
    pub(crate) memory: bool,
}

/// One encoding of a form: prefixes, opcode, and the byte after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Template {
    bytes: [u8; 8],
    len: usize,
    /// Where a REX prefix is.
    pub(crate) rex_at: Option<usize>,
}

impl Template {
    fn new(parts: [&[u8]; 3]) -> Self {
        let joined = parts.concat();
        let mut bytes = [0; 8];
        bytes[..joined.len()].copy_from_slice(&joined);
        let rex_at = parts[0]
            .last()
            .filter(|&&last| last & 0xf0 == 0x40)
            .map(|_| parts[0].len() - 1);
        Self {
            bytes,
            len: joined.len(),
            rex_at,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Every form, and why the others are left out.
pub(crate) struct Catalogue {
    pub(crate) forms: BTreeMap<Form, Vec<Template>>,
    pub(crate) left_out: BTreeMap<&'static str, BTreeSet<Code>>,
}

impl Catalogue {
    pub(crate) fn new(modes: &[Mode]) -> Self {
        let mut forms: BTreeMap<Form, Vec<Template>> = BTreeMap::new();
        for &mode in modes {
            for template in templates(mode) {
                let instruction = decode(mode, template.bytes());
                if instruction.is_invalid() || reason_left_out(instruction.code()).is_some() {
                    continue;
                }
                let form = Form::of(mode, &instruction);
                let known = forms.entry(form).or_default();
                if known.len() < TEMPLATES_MAX {
                    known.push(template);
                }
            }
        }
        Self {
            left_out: left_out(&forms),
            forms,
        }
    }
}

impl Form {
    pub(crate) fn of(mode: Mode, instruction: &Instruction) -> Self {
        let memory = instruction.op_kinds().any(|kind| kind == OpKind::Memory);
        Self {
            mode,
            code: instruction.code(),
            memory,
        }
    }
}

/// Decodes the bytes followed by an absolute or small displacement and immediates.
fn decode(mode: Mode, bytes: &[u8]) -> Instruction {
    let mut buffer = [0; 20];
    buffer[..bytes.len()].copy_from_slice(bytes);
    Decoder::with_ip(mode.bitness(), &buffer, 0, DecoderOptions::NONE).decode()
}

fn templates(mode: Mode) -> impl Iterator<Item = Template> {
    let prefixes: &[&[u8]] = match mode {
        Mode::Long => &LONG_PREFIXES,
        Mode::Compat | Mode::Word => &COMPAT_PREFIXES,
    };
    prefixes.iter().flat_map(|prefix| {
        MAPS.iter().flat_map(move |map| {
            (0..=255u8).flat_map(move |opcode| {
                MODRM_MODS.into_iter().flat_map(move |modrm_mod| {
                    (0..64u8).map(move |rest| {
                        let tail = [opcode, modrm_mod << 6 | rest];
                        Template::new([prefix, map, &tail])
                    })
                })
            })
        })
    })
}

fn left_out(forms: &BTreeMap<Form, Vec<Template>>) -> BTreeMap<&'static str, BTreeSet<Code>> {
    let covered: BTreeSet<Code> = forms.keys().map(|form| form.code).collect();
    let mut left_out: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for code in Code::values().filter(|code| !covered.contains(code)) {
        if !code.op_code().is_instruction() || code.op_code().fwait() {
            continue;
        }
        let reason = reason_left_out(code).unwrap_or(UNREACHED);
        left_out.entry(reason).or_default().insert(code);
    }
    left_out
}

/// Why an instruction cannot be compared with the host.
pub(crate) fn reason_left_out(code: Code) -> Option<&'static str> {
    use Mnemonic as M;
    let op_code = code.op_code();
    if op_code.encoding() != EncodingKind::Legacy {
        return Some("VEX, EVEX, XOP and 3DNow! encodings: not offered to guests");
    }
    match code.mnemonic() {
        M::Syscall | M::Sysenter | M::Vmcall | M::Vmmcall | M::Vmgexit => {
            return Some("calls the host's kernel or hypervisor");
        }
        M::Rdtsc | M::Rdtscp | M::Rdpmc | M::Rdrand | M::Rdseed | M::Cpuid | M::Rdpid => {
            return Some("the result is not a function of the state");
        }
        M::Sgdt | M::Sidt | M::Smsw | M::Sldt | M::Str => {
            return Some("the host's kernel emulates it under UMIP");
        }
        M::Rdfsbase | M::Wrfsbase => return Some("FS is the harness's own"),
        M::Int1 => return Some("its trap looks like the harness's single step"),
        M::Bswap if op_code.operand_size() == 16 => return Some("the result is undefined"),
        M::Rdsspd | M::Rdsspq => return None,
        _ => {}
    }
    if matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
    ) {
        return Some("AMD raises #UD where Intel does nothing");
    }
    let offered = code
        .cpuid_features()
        .iter()
        .all(|feature| OFFERED.contains(feature));
    (!offered).then_some("of a feature not offered to guests")
}

const UNREACHED: &str = "not decoded in these modes";

const MAPS: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];

const MODRM_MODS: [u8; 2] = [0, 3];

const LONG_PREFIXES: [&[u8]; 12] = [
    &[],
    &[0x66],
    &[0xf3],
    &[0xf2],
    &[0x48],
    &[0x66, 0x48],
    &[0xf3, 0x48],
    &[0xf2, 0x48],
    &[0x67],
    &[0x67, 0x66],
    &[0x67, 0x48],
    &[0x66, 0xf2],
];

const COMPAT_PREFIXES: [&[u8]; 8] = [
    &[],
    &[0x66],
    &[0xf3],
    &[0xf2],
    &[0x67],
    &[0x67, 0x66],
    &[0x66, 0xf2],
    &[0x66, 0xf3],
];

const TEMPLATES_MAX: usize = 64;

const OFFERED: [CpuidFeature; 44] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CMOV,
    CpuidFeature::CX8,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::MMX,
    CpuidFeature::FXSR,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::AES,
    CpuidFeature::PCLMULQDQ,
    CpuidFeature::SHA,
    CpuidFeature::GFNI,
    CpuidFeature::POPCNT,
    CpuidFeature::LZCNT,
    CpuidFeature::BMI1,
    CpuidFeature::MOVBE,
    CpuidFeature::ADX,
    CpuidFeature::CLFSH,
    CpuidFeature::CLFLUSHOPT,
    CpuidFeature::CLWB,
    CpuidFeature::PAUSE,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PREFETCHW,
    CpuidFeature::CET_IBT,
    CpuidFeature::FSGSBASE,
    CpuidFeature::MSR,
    CpuidFeature::SYSCALL,
    CpuidFeature::SEP,
    CpuidFeature::SMM,
    CpuidFeature::TSC,
    CpuidFeature::RDTSCP,
    CpuidFeature::SMAP,
];
