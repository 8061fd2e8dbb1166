//! What the interpreter and the stub assembler must know about an instruction, read off its decoding.

use iced_x86::{
    Code, CpuidFeature, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register, RflagsBits,
};

use super::io::{FxKind, NativeClass, NativeMemory};
use super::stub::{Access, Plan, move_memory};

/// An instruction that runs in a stub.
#[derive(Clone, Copy, Debug)]
pub(super) struct Description {
    pub(super) class: NativeClass,
    pub(super) memory: NativeMemory,
    pub(super) alignment: u8,
    pub(super) gpr_in: [Option<Register>; 2],
    pub(super) gpr_out: Option<Register>,
    pub(super) waits: bool,
    /// `None` when the instruction needs only the XMM registers it names.
    pub(super) fx: Option<FxKind>,
    pub(super) plan: Plan,
}

/// The operands that differ between uses of one stub.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Operands {
    /// Numbers of the first and the second XMM register named.
    pub(super) xmm: [u8; 2],
    pub(super) gpr: Option<Register>,
}

/// Whether `instruction` belongs to the families that run here and is not a control instruction.
pub(super) fn is_native(instruction: &Instruction) -> bool {
    let code = instruction.code();
    let integer = matches!(code.mnemonic(), Mnemonic::Movnti | Mnemonic::Crc32);
    instruction.encoding() == EncodingKind::Legacy
        && !integer
        && !code.op_code().fwait()
        && code
            .cpuid_features()
            .iter()
            .all(|feature| FAMILIES.contains(feature))
        && code
            .cpuid_features()
            .iter()
            .any(|&feature| feature != CpuidFeature::CMOV)
}

/// Moves the operands of `instruction` to their places in a stub.
pub(super) fn move_operands(instruction: &Instruction) -> (Instruction, Operands) {
    let mut moved = *instruction;
    move_memory(&mut moved);
    let mut operands = Operands::default();
    let whole_state = uses_fx(instruction);
    let mut xmm_count = 0;
    for op in 0..instruction.op_count() {
        if instruction.op_kind(op) != OpKind::Register {
            continue;
        }
        let register = instruction.op_register(op);
        if register.is_xmm() && !whole_state {
            operands.xmm[xmm_count] = number(register);
            moved.set_op_register(op, [Register::XMM1, Register::XMM2][xmm_count]);
            xmm_count += 1;
        } else if register.is_gpr() {
            operands.gpr = Some(register);
            moved.set_op_register(op, accumulator(register));
        }
    }
    (moved, operands)
}

/// Describes `instruction`, of which `moved` is the form in the stub.
pub(super) fn describe(
    factory: &mut InstructionInfoFactory,
    instruction: &Instruction,
    moved: Instruction,
    operands: Operands,
) -> Description {
    let info = factory.info(instruction);
    let writes_op0 = matches!(
        info.op0_access(),
        OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
    );
    let memory = memory(instruction, writes_op0);
    let (gpr_in, gpr_out) = gprs(instruction, operands, writes_op0);
    let fx = uses_fx(instruction).then(|| fx_kind(instruction));
    let plan = Plan {
        moved,
        xmm_count: (0..instruction.op_count())
            .filter(|&op| is_xmm_operand(instruction, op))
            .count(),
        writes_first: writes_op0 && is_xmm_operand(instruction, 0),
        implicit_xmm0: implicit_xmm0(instruction.mnemonic()),
        gpr_in: gpr_in.iter().flatten().count(),
        gpr_out: gpr_out.map(|register| {
            if operands.gpr.is_some() {
                accumulator(register)
            } else {
                register
            }
        }),
        reads_flags: instruction.rflags_read() & ARITHMETIC_FLAGS != 0,
        writes_flags: instruction.rflags_modified() & ARITHMETIC_FLAGS != 0,
        mxcsr: uses_mxcsr(instruction.mnemonic()),
    };
    Description {
        class: class(instruction),
        memory,
        alignment: alignment(instruction, memory),
        gpr_in,
        gpr_out,
        waits: fx.is_some(),
        fx,
        plan,
    }
}

fn class(instruction: &Instruction) -> NativeClass {
    let has_xmm = instruction.code().op_code().op_kinds().iter().any(|&kind| {
        use iced_x86::OpCodeOperandKind as Kind;
        matches!(kind, Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_or_mem)
    });
    if has_xmm {
        NativeClass::Sse
    } else if is_x87(instruction) {
        NativeClass::X87
    } else {
        NativeClass::Mmx
    }
}

fn memory(instruction: &Instruction, writes_op0: bool) -> NativeMemory {
    let Some(op) =
        (0..instruction.op_count()).find(|&op| instruction.op_kind(op) == OpKind::Memory)
    else {
        return NativeMemory::None;
    };
    let size = u16::try_from(instruction.memory_size().size()).expect("at most 512 bytes");
    if op == 0 && writes_op0 {
        NativeMemory::Write(size)
    } else {
        NativeMemory::Read(size)
    }
}

/// SDM volume 1, 4.1.1: 16-byte operands of legacy SSE are aligned, but for those of these instructions.
fn alignment(instruction: &Instruction, memory: NativeMemory) -> u8 {
    let unaligned = matches!(
        instruction.mnemonic(),
        Mnemonic::Movups
            | Mnemonic::Movupd
            | Mnemonic::Movdqu
            | Mnemonic::Lddqu
            | Mnemonic::Pcmpestri
            | Mnemonic::Pcmpestrm
            | Mnemonic::Pcmpestri64
            | Mnemonic::Pcmpestrm64
            | Mnemonic::Pcmpistri
            | Mnemonic::Pcmpistrm
    );
    match memory {
        NativeMemory::Read(16) | NativeMemory::Write(16) if !unaligned => 16,
        _ => 1,
    }
}

type Gprs = ([Option<Register>; 2], Option<Register>);

fn gprs(instruction: &Instruction, operands: Operands, writes_op0: bool) -> Gprs {
    let implicit = |a, b| [Some(a), Some(b)];
    match instruction.mnemonic() {
        Mnemonic::Pcmpestri => (implicit(Register::EAX, Register::EDX), Some(Register::ECX)),
        Mnemonic::Pcmpestri64 => (implicit(Register::RAX, Register::RDX), Some(Register::ECX)),
        Mnemonic::Pcmpestrm => (implicit(Register::EAX, Register::EDX), None),
        Mnemonic::Pcmpestrm64 => (implicit(Register::RAX, Register::RDX), None),
        Mnemonic::Pcmpistri => ([None; 2], Some(Register::ECX)),
        _ if operands.gpr.is_none() => ([None; 2], None),
        _ if writes_op0 && instruction.op0_register().is_gpr() => ([None; 2], operands.gpr),
        _ => ([operands.gpr, None], None),
    }
}

fn implicit_xmm0(mnemonic: Mnemonic) -> Option<Access> {
    match mnemonic {
        Mnemonic::Pblendvb | Mnemonic::Blendvps | Mnemonic::Blendvpd | Mnemonic::Sha256rnds2 => {
            Some(Access::Read)
        }
        Mnemonic::Pcmpestrm | Mnemonic::Pcmpestrm64 | Mnemonic::Pcmpistrm => Some(Access::Write),
        _ => None,
    }
}

fn is_x87(instruction: &Instruction) -> bool {
    instruction
        .code()
        .cpuid_features()
        .iter()
        .any(|feature| X87.contains(feature))
}

/// Whether the x87 or MMX state takes part. CVTPI2PD from memory does not enter MMX state (SDM volume 2), nor does
/// CVTPI2PS on AMD's processors; the manual of Intel has it enter.
fn uses_fx(instruction: &Instruction) -> bool {
    is_x87(instruction)
        || instruction.mnemonic() == Mnemonic::Emms
        || (0..instruction.op_count()).any(|op| {
            instruction.op_kind(op) == OpKind::Register && instruction.op_register(op).is_mm()
        })
}

fn fx_kind(instruction: &Instruction) -> FxKind {
    if is_x87(instruction) {
        FxKind::X87
    } else if uses_mxcsr(instruction.mnemonic()) {
        FxKind::MmxSimd
    } else {
        FxKind::Mmx
    }
}

fn is_xmm_operand(instruction: &Instruction, op: u32) -> bool {
    op < instruction.op_count()
        && instruction.op_kind(op) == OpKind::Register
        && instruction.op_register(op).is_xmm()
}

/// The accumulator of the same size, where a stub has its general register.
fn accumulator(register: Register) -> Register {
    match register.size() {
        8 => Register::RAX,
        4 => Register::EAX,
        2 => Register::AX,
        _ => Register::AL,
    }
}

pub(super) fn number(register: Register) -> u8 {
    u8::try_from(register.number()).expect("register numbers are below 32")
}

/// The instructions that read the rounding mode, denormals-are-zeros or flush-to-zero, or set exception flags.
fn uses_mxcsr(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Addps
            | M::Addss
            | M::Addpd
            | M::Addsd
            | M::Subps
            | M::Subss
            | M::Subpd
            | M::Subsd
            | M::Mulps
            | M::Mulss
            | M::Mulpd
            | M::Mulsd
            | M::Divps
            | M::Divss
            | M::Divpd
            | M::Divsd
            | M::Minps
            | M::Minss
            | M::Minpd
            | M::Minsd
            | M::Maxps
            | M::Maxss
            | M::Maxpd
            | M::Maxsd
            | M::Sqrtps
            | M::Sqrtss
            | M::Sqrtpd
            | M::Sqrtsd
            | M::Rcpps
            | M::Rcpss
            | M::Rsqrtps
            | M::Rsqrtss
            | M::Cmpps
            | M::Cmpss
            | M::Cmppd
            | M::Cmpsd
            | M::Comiss
            | M::Comisd
            | M::Ucomiss
            | M::Ucomisd
            | M::Haddps
            | M::Haddpd
            | M::Hsubps
            | M::Hsubpd
            | M::Addsubps
            | M::Addsubpd
            | M::Dpps
            | M::Dppd
            | M::Roundps
            | M::Roundpd
            | M::Roundss
            | M::Roundsd
            | M::Cvtpi2ps
            | M::Cvtpi2pd
            | M::Cvtps2pi
            | M::Cvttps2pi
            | M::Cvtpd2pi
            | M::Cvttpd2pi
            | M::Cvtsi2ss
            | M::Cvtsi2sd
            | M::Cvtss2si
            | M::Cvtsd2si
            | M::Cvttss2si
            | M::Cvttsd2si
            | M::Cvtss2sd
            | M::Cvtsd2ss
            | M::Cvtps2pd
            | M::Cvtpd2ps
            | M::Cvtdq2ps
            | M::Cvtdq2pd
            | M::Cvtps2dq
            | M::Cvttps2dq
            | M::Cvtpd2dq
            | M::Cvttpd2dq
    )
}

const X87: [CpuidFeature; 3] = [
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
];

const FAMILIES: [CpuidFeature; 15] = [
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::CMOV,
    CpuidFeature::MMX,
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
];

const ARITHMETIC_FLAGS: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::PF
    | RflagsBits::CF;

/// What identifies a stub: everything that the assembled bytes depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    code: Code,
    memory: bool,
    registers: [Register; 2],
    immediate: u8,
}

impl Shape {
    pub(super) fn of(moved: &Instruction) -> Self {
        let register = |op| {
            if op < moved.op_count() && moved.op_kind(op) == OpKind::Register {
                moved.op_register(op)
            } else {
                Register::None
            }
        };
        let kinds = || (0..moved.op_count()).map(|op| moved.op_kind(op));
        Self {
            code: moved.code(),
            memory: kinds().any(|kind| kind == OpKind::Memory),
            registers: [register(0), register(1)],
            immediate: if kinds().any(|kind| kind == OpKind::Immediate8) {
                moved.immediate8()
            } else {
                0
            },
        }
    }
}
