//! Every integer and system instruction by its mnemonic.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::families::*;
use super::{Handler, Op};
use crate::ops::operand::{Mem, R0, R1};
use crate::ops::{
    arith, bcd, bits, branch, data, far, flagops, gate, interrupt, io, muldiv, selector, shift,
    stack, string, syscall, system,
};

/// The handler of an integer or system instruction; `None` for the vector families and for what does not exist.
pub(super) fn integer(i: &Instruction, op: &mut Op) -> Option<Handler> {
    use Mnemonic as M;
    let size = op.size;
    Some(match i.mnemonic() {
        M::INVALID | M::Ud0 | M::Ud1 | M::Ud2 => interrupt::ud,

        M::Add => binary::<arith::Add>(i, size),
        M::Adc => binary::<arith::Adc>(i, size),
        M::Sub => binary::<arith::Sub>(i, size),
        M::Sbb => binary::<arith::Sbb>(i, size),
        M::And => binary::<arith::And>(i, size),
        M::Or => binary::<arith::Or>(i, size),
        M::Xor => binary::<arith::Xor>(i, size),
        M::Cmp => compare::<arith::Sub>(i, size),
        M::Test => compare::<arith::And>(i, size),
        M::Inc => unary::<arith::Inc>(i, size),
        M::Dec => unary::<arith::Dec>(i, size),
        M::Neg => unary::<arith::Neg>(i, size),
        M::Not => unary::<arith::Not>(i, size),
        M::Adcx => read_either!(i, 1, R1, wide, size, arith::add_one_flag, true),
        M::Adox => read_either!(i, 1, R1, wide, size, arith::add_one_flag, false),
        M::Cmpxchg if op.has_memory => sized!(size, arith::cmpxchg_mem),
        M::Cmpxchg => sized!(size, arith::cmpxchg_reg),
        M::Xadd => read_either!(i, 0, R0, sized, size, arith::xadd),
        M::Cmpxchg8b => arith::cmpxchg_pair::<u32>,
        M::Cmpxchg16b => arith::cmpxchg_pair::<u64>,

        M::Shl | M::Sal => shift::<shift::Shl>(i, size),
        M::Shr => shift::<shift::Shr>(i, size),
        M::Sar => shift::<shift::Sar>(i, size),
        M::Rol => shift::<shift::Rol>(i, size),
        M::Ror => shift::<shift::Ror>(i, size),
        M::Rcl => shift::<shift::Rcl>(i, size),
        M::Rcr => shift::<shift::Rcr>(i, size),
        M::Shld => double_shift::<true>(i, size),
        M::Shrd => double_shift::<false>(i, size),
        M::Crc32 => read_either!(i, 1, R1, sized, source_size(i), shift::crc32),

        M::Mul => read_either!(i, 0, R0, sized, size, muldiv::multiply, false),
        M::Imul if i.op_count() == 1 => read_either!(i, 0, R0, sized, size, muldiv::multiply, true),
        M::Imul if i.op_count() == 2 => read_either!(i, 1, R1, wide, size, muldiv::imul2),
        M::Imul => read_either!(i, 1, R1, wide, size, muldiv::imul3),
        M::Div => read_either!(i, 0, R0, sized, size, muldiv::divide, false),
        M::Idiv => read_either!(i, 0, R0, sized, size, muldiv::divide, true),

        M::Bt => bit::<bits::Keep>(i, size),
        M::Bts => bit::<bits::Set>(i, size),
        M::Btr => bit::<bits::Reset>(i, size),
        M::Btc => bit::<bits::Complement>(i, size),
        M::Bsf => read_either!(i, 1, R1, wide, size, bits::scan, false),
        M::Bsr => read_either!(i, 1, R1, wide, size, bits::scan, true),
        M::Tzcnt => read_either!(i, 1, R1, wide, size, bits::tzcnt),
        M::Lzcnt => read_either!(i, 1, R1, wide, size, bits::lzcnt),
        M::Popcnt => read_either!(i, 1, R1, wide, size, bits::popcnt),

        M::Mov => mov(i, op),
        M::Movnti => wide!(size, data::mov, Mem, R1),
        M::Movzx => movzx(i, size),
        M::Movsx | M::Movsxd => movsx(i, size),
        M::Movbe if form(i) == Form::RegMem => wide!(size, data::movbe, R0, Mem),
        M::Movbe => wide!(size, data::movbe, Mem, R1),
        M::Lea => wide!(size, data::lea),
        M::Xchg => read_either!(i, 0, R0, sized, size, data::xchg),
        M::Bswap => wide!(size, data::bswap),
        M::Cbw => data::extend_accumulator::<u16, u8>,
        M::Cwde => data::extend_accumulator::<u32, u16>,
        M::Cdqe => data::extend_accumulator::<u64, u32>,
        M::Cwd => data::extend_sign::<u16>,
        M::Cdq => data::extend_sign::<u32>,
        M::Cqo => data::extend_sign::<u64>,
        M::Xlatb => data::xlat,
        M::Bound => {
            if size == 2 {
                data::bound::<u16>
            } else {
                data::bound::<u32>
            }
        }
        M::Pause => system::pause,
        M::Nop | M::Reservednop | M::Endbr32 | M::Endbr64 | M::Rdsspd | M::Rdsspq => data::nop,
        // A prefetch that faults is dropped, and nothing else of it shows.
        M::Prefetch
        | M::Prefetchw
        | M::Prefetchwt1
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2 => data::nop,
        M::Lahf => flagops::lahf,
        M::Sahf => flagops::sahf,
        M::Salc => flagops::salc,
        M::Clc => flagops::clc,
        M::Stc => flagops::stc,
        M::Cmc => flagops::cmc,
        M::Cld => flagops::cld,
        M::Std => flagops::std,
        M::Cli => flagops::cli,
        M::Sti => flagops::sti,
        M::Clac => flagops::access_flag::<false>,
        M::Stac => flagops::access_flag::<true>,
        M::Aaa => bcd::ascii_adjust::<false>,
        M::Aas => bcd::ascii_adjust::<true>,
        M::Daa => bcd::decimal_adjust::<false>,
        M::Das => bcd::decimal_adjust::<true>,
        M::Aam => bcd::aam,
        M::Aad => bcd::aad,

        M::Push => push(i),
        M::Pop => pop(i),
        M::Pusha => stack::push_all::<u16>,
        M::Pushad => stack::push_all::<u32>,
        M::Popa => stack::pop_all::<u16>,
        M::Popad => stack::pop_all::<u32>,
        M::Pushf => stack::pushf::<u16>,
        M::Pushfd => stack::pushf::<u32>,
        M::Pushfq => stack::pushf::<u64>,
        M::Popf => stack::popf::<u16>,
        M::Popfd => stack::popf::<u32>,
        M::Popfq => stack::popf::<u64>,
        M::Enter => wide!(frame_size(i.code()), stack::enter),
        M::Leave => wide!(frame_size(i.code()), stack::leave),

        M::Jmp => jmp(i, op),
        M::Call => call(i, op),
        M::Ret => wide!(ret_size(i.code()), branch::ret),
        M::Retf => wide!(ret_size(i.code()), far::retf),
        M::Iret => gate::iret::<u16>,
        M::Iretd => gate::iret::<u32>,
        M::Iretq => gate::iret::<u64>,
        M::Loop => wide!(size, branch::counted, { branch::LOOP }),
        M::Loope => wide!(size, branch::counted, { branch::LOOPE }),
        M::Loopne => wide!(size, branch::counted, { branch::LOOPNE }),
        M::Jcxz | M::Jecxz | M::Jrcxz => wide!(size, branch::counted, { branch::JCXZ }),
        M::Int => interrupt::int,
        M::Int3 => interrupt::int3,
        M::Int1 => interrupt::int1,
        M::Into => interrupt::into,
        M::Syscall => syscall::syscall,
        M::Sysret => syscall::sysret::<u32>,
        M::Sysretq => syscall::sysret::<u64>,
        M::Sysenter => syscall::sysenter,
        M::Sysexit => syscall::sysexit::<u32>,
        M::Sysexitq => syscall::sysexit::<u64>,

        M::Movsb => string::movs::<u8>,
        M::Movsw => string::movs::<u16>,
        M::Movsd if is_string(i) => string::movs::<u32>,
        M::Movsq => string::movs::<u64>,
        M::Stosb => string::stos::<u8>,
        M::Stosw => string::stos::<u16>,
        M::Stosd => string::stos::<u32>,
        M::Stosq => string::stos::<u64>,
        M::Lodsb => string::lods::<u8>,
        M::Lodsw => string::lods::<u16>,
        M::Lodsd => string::lods::<u32>,
        M::Lodsq => string::lods::<u64>,
        M::Scasb => string::scas::<u8>,
        M::Scasw => string::scas::<u16>,
        M::Scasd => string::scas::<u32>,
        M::Scasq => string::scas::<u64>,
        M::Cmpsb => string::cmps::<u8>,
        M::Cmpsw => string::cmps::<u16>,
        M::Cmpsd if is_string(i) => string::cmps::<u32>,
        M::Cmpsq => string::cmps::<u64>,
        M::Insb => string::ins::<u8>,
        M::Insw => string::ins::<u16>,
        M::Insd => string::ins::<u32>,
        M::Outsb => string::outs::<u8>,
        M::Outsw => string::outs::<u16>,
        M::Outsd => string::outs::<u32>,
        M::In => port_in(i, size),
        M::Out => port_out(i),

        M::Les => far_pointer_load(op, crate::segment::ES),
        M::Lds => far_pointer_load(op, crate::segment::DS),
        M::Lss => far_pointer_load(op, crate::segment::SS),
        M::Lfs => far_pointer_load(op, crate::segment::FS),
        M::Lgs => far_pointer_load(op, crate::segment::GS),
        M::Verr => read_either!(i, 0, R0, fixed, 2, selector::verify, false),
        M::Verw => read_either!(i, 0, R0, fixed, 2, selector::verify, true),
        M::Lar => read_either!(i, 1, R1, wide, size, selector::load_rights, false),
        M::Lsl => read_either!(i, 1, R1, wide, size, selector::load_rights, true),
        M::Arpl => read_either!(i, 0, R0, fixed, 2, selector::arpl),

        M::Clts => system::clts,
        M::Lmsw => read_either!(i, 0, R0, fixed, 2, system::lmsw),
        M::Smsw if op.has_memory => system::smsw_mem,
        M::Smsw => wide!(size, system::smsw),
        M::Sldt if op.has_memory => system::store_selector_mem::<false>,
        M::Sldt => wide!(size, system::store_selector, false),
        M::Str if op.has_memory => system::store_selector_mem::<true>,
        M::Str => wide!(size, system::store_selector, true),
        M::Ltr => read_either!(i, 0, R0, fixed, 2, system::ltr),
        M::Lldt => read_either!(i, 0, R0, fixed, 2, system::lldt),
        M::Lgdt => {
            op.size = table_operand_size(i.code());
            system::load_table::<false>
        }
        M::Lidt => {
            op.size = table_operand_size(i.code());
            system::load_table::<true>
        }
        M::Sgdt => system::store_table::<false>,
        M::Sidt => system::store_table::<true>,
        M::Hlt => system::hlt,
        M::Invd | M::Wbinvd | M::Wbnoinvd => system::cache,
        M::Invlpg => system::invlpg,
        M::Invpcid => system::invpcid,
        M::Rdmsr => system::rdmsr,
        M::Wrmsr => system::wrmsr,
        M::Rdtsc => system::rdtsc,
        M::Rdtscp => system::rdtscp,
        M::Rdpmc => system::rdpmc,
        M::Cpuid => system::cpuid,
        M::Swapgs => system::swapgs,
        M::Rdfsbase => wide!(size, system::read_base, false),
        M::Rdgsbase => wide!(size, system::read_base, true),
        M::Wrfsbase => wide!(size, system::write_base, false),
        M::Wrgsbase => wide!(size, system::write_base, true),
        M::Rdpid => system::rdpid,
        M::Rdpkru => system::pkru::<false>,
        M::Wrpkru => system::pkru::<true>,
        _ => return conditional(i, op),
    })
}

fn conditional(i: &Instruction, op: &mut Op) -> Option<Handler> {
    if i.condition_code() == iced_x86::ConditionCode::None {
        return None;
    }
    let code = condition_code(i);
    if i.is_jcc_short_or_near() {
        return Some(jcc(code, op.size));
    }
    op.r2 = code;
    if i.op_count() == 1 {
        return Some(if op.has_memory {
            data::setcc::<Mem>
        } else {
            data::setcc::<R0>
        });
    }
    let is_cmov =
        i.op_count() == 2 && i.op_kind(0) == OpKind::Register && i.op_register(0).is_gpr();
    is_cmov.then(|| read_either!(i, 1, R1, wide, op.size, data::cmov))
}

/// MOVSD and CMPSD are also SSE2 instructions.
fn is_string(i: &Instruction) -> bool {
    (0..i.op_count()).all(|n| i.op_kind(n) != OpKind::Register)
}

fn table_operand_size(code: Code) -> u8 {
    match code {
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 2,
        Code::Lgdt_m1632 | Code::Lidt_m1632 => 4,
        _ => 8,
    }
}

fn port_in(i: &Instruction, size: u8) -> Handler {
    use crate::ops::io::{ByDx, ByImm};
    if i.op_kind(1) == OpKind::Register {
        sized!(size, io::input, ByDx)
    } else {
        sized!(size, io::input, ByImm)
    }
}

fn port_out(i: &Instruction) -> Handler {
    use crate::ops::io::{ByDx, ByImm};
    let size = i.op_register(1).size();
    if i.op_kind(0) == OpKind::Register {
        sized!(size, io::output, ByDx)
    } else {
        sized!(size, io::output, ByImm)
    }
}
