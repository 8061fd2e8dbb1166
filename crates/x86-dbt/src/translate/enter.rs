//! The code around translated code: the way in, the way out, and the call back for one instruction.
//!
//! Between `enter` and its return RSP is the frame's [`Header`] and every other general register is the guest's or
//! scratch; Rust runs only on the host stack that `enter` was called on.

use core::arch::naked_asm;
use core::mem::offset_of;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::cpu::Cpu;
use crate::frame::Header;
use crate::native::FxState;
use crate::platform::Platform;

/// What a simulated instruction answers: leave translated code.
pub(super) const LEAVE: u64 = 1;
/// Go on behind the instruction.
pub(super) const RESUME: u64 = 0;

/// The callee of `simulate_entry`, found through [`Header::call`].
#[repr(C)]
pub(super) struct Call<'a, 'p> {
    /// Receives this value's address.
    pub(super) function: unsafe extern "sysv64" fn(*mut Self) -> u64,
    pub(super) cpu: *mut Cpu,
    pub(super) platform: &'a mut (dyn Platform + 'p),
    pub(super) panic: Option<Box<dyn Any + Send>>,
}

macro_rules! load_guest {
    () => {
        concat!(
            "mov r15, [rsp + {regs}]\n",
            "mov rax, [r15 + 13*8]\n mov [rsp + {homes}], rax\n",
            "mov rax, [r15 + 14*8]\n mov [rsp + {homes} + 8], rax\n",
            "mov rax, [r15 + 15*8]\n mov [rsp + {homes} + 16], rax\n",
            "mov rax, [r15]\n mov rcx, [r15 + 8]\n mov rdx, [r15 + 16]\n mov rbx, [r15 + 24]\n",
            "mov r13, [r15 + 32]\n mov rbp, [r15 + 40]\n mov rsi, [r15 + 48]\n mov rdi, [r15 + 56]\n",
            "mov r8, [r15 + 64]\n mov r9, [r15 + 72]\n mov r10, [r15 + 80]\n mov r11, [r15 + 88]\n",
            "mov r12, [r15 + 96]\n",
        )
    };
}

/// XMM registers to the image at R15.
macro_rules! save_xmm {
    () => {
        concat!(
            "movaps [r15 + {xmm}], xmm0\n movaps [r15 + {xmm} + 16], xmm1\n",
            "movaps [r15 + {xmm} + 32], xmm2\n movaps [r15 + {xmm} + 48], xmm3\n",
            "movaps [r15 + {xmm} + 64], xmm4\n movaps [r15 + {xmm} + 80], xmm5\n",
            "movaps [r15 + {xmm} + 96], xmm6\n movaps [r15 + {xmm} + 112], xmm7\n",
            "movaps [r15 + {xmm} + 128], xmm8\n movaps [r15 + {xmm} + 144], xmm9\n",
            "movaps [r15 + {xmm} + 160], xmm10\n movaps [r15 + {xmm} + 176], xmm11\n",
            "movaps [r15 + {xmm} + 192], xmm12\n movaps [r15 + {xmm} + 208], xmm13\n",
            "movaps [r15 + {xmm} + 224], xmm14\n movaps [r15 + {xmm} + 240], xmm15\n",
        )
    };
}

/// Leaves S0 (R14) alone.
macro_rules! save_guest {
    () => {
        concat!(
            "mov r15, [rsp + {regs}]\n",
            "mov [r15], rax\n mov [r15 + 8], rcx\n mov [r15 + 16], rdx\n mov [r15 + 24], rbx\n",
            "mov [r15 + 32], r13\n mov [r15 + 40], rbp\n mov [r15 + 48], rsi\n mov [r15 + 56], rdi\n",
            "mov [r15 + 64], r8\n mov [r15 + 72], r9\n mov [r15 + 80], r10\n mov [r15 + 88], r11\n",
            "mov [r15 + 96], r12\n",
            "mov rax, [rsp + {homes}]\n mov [r15 + 13*8], rax\n",
            "mov rax, [rsp + {homes} + 8]\n mov [r15 + 14*8], rax\n",
            "mov rax, [rsp + {homes} + 16]\n mov [r15 + 15*8], rax\n",
            // The x87 and XMM registers, if they are the guest's.
            "cmp qword ptr [rsp + {xmm_live}], 0\n je 2f\n",
            "mov r15, [rsp + {fx}]\n",
            "cmp qword ptr [rsp + {xmm_live} + 8], 0\n je 4f\n",
            "fxsave64 [r15]\n fninit\n fldcw [rsp + {host_fcw}]\n",
            "mov qword ptr [rsp + {xmm_live} + 8], 0\n mov qword ptr [rsp + {xmm_live} + 16], 1\n",
            "jmp 5f\n",
            "4:\n",
            save_xmm!(),
            "stmxcsr [r15 + {mxcsr}]\n",
            "5:\n",
            "ldmxcsr [rsp + {host_mxcsr}]\n",
            "mov qword ptr [rsp + {xmm_live}], 0\n",
            "2:\n",
        )
    };
}

/// Runs translated code at `code` in the frame at `header` until it leaves.
///
/// # Safety
///
/// `code` must be the entry of a unit of the arena's present generation, and `header` a header whose pointers
/// (`regs`, `fx`, `call`) are valid and not otherwise borrowed until this returns.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn enter(header: *mut Header, code: *const u8) {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15", "sub rsp, 8",
        "mov [rdi + {host_rsp}], rsp",
        "mov rsp, rdi",
        "mov r14, rsi",
        load_guest!(),
        "jmp r14",
        host_rsp = const offset_of!(Header, host_rsp),
        regs = const offset_of!(Header, regs),
        homes = const offset_of!(Header, homes),
    )
}

/// Where exits of translated code go: RIP is in S0.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn exit() {
    naked_asm!(
        save_guest!(),
        "mov [rsp + {rip}], r14",
        "mov rsp, [rsp + {host_rsp}]",
        "add rsp, 8", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
        "ret",
        rip = const offset_of!(Header, rip),
        host_rsp = const offset_of!(Header, host_rsp),
        regs = const offset_of!(Header, regs),
        homes = const offset_of!(Header, homes),
        fx = const offset_of!(Header, fx),
        xmm = const FxState::XMM0,
        mxcsr = const FxState::MXCSR_OFFSET,
        xmm_live = const offset_of!(Header, xmm_live),
        host_mxcsr = const offset_of!(Header, host_mxcsr),
        host_fcw = const offset_of!(Header, host_fcw),
    )
}

/// Called by translated code that has an instruction simulated: [`Header::site`] says which.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn simulate_entry() {
    naked_asm!(
        // POP to memory computes its address with RSP as it is afterwards.
        "pop qword ptr [rsp + {resume}]",
        save_guest!(),
        "mov rbx, rsp",
        "mov rdi, [rsp + {call}]",
        "mov rsp, [rsp + {host_rsp}]",
        "call [rdi]",
        "test eax, eax",
        "jne 3f",
        "mov rsp, rbx",
        load_guest!(),
        "jmp [rsp + {resume}]",
        "3:",
        "add rsp, 8", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
        "ret",
        resume = const offset_of!(Header, resume),
        call = const offset_of!(Header, call),
        host_rsp = const offset_of!(Header, host_rsp),
        regs = const offset_of!(Header, regs),
        homes = const offset_of!(Header, homes),
        fx = const offset_of!(Header, fx),
        xmm = const FxState::XMM0,
        mxcsr = const FxState::MXCSR_OFFSET,
        xmm_live = const offset_of!(Header, xmm_live),
        host_mxcsr = const offset_of!(Header, host_mxcsr),
        host_fcw = const offset_of!(Header, host_fcw),
    )
}

/// Called by translated code before its first x87 instruction: brings the whole state in. Takes S1 and the flags.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn load_x87() {
    naked_asm!(
        // One word of return address lies under the header here.
        "mov r15, [rsp + {fx} + 8]",
        "cmp qword ptr [rsp + {xmm_live} + 8], 0", "jne 2f",
        "stmxcsr [rsp + {host_mxcsr} + 8]",
        "jmp 3f",
        "2:",
        save_xmm!(),
        "stmxcsr [r15 + {mxcsr}]",
        "3:",
        "fnstcw [rsp + {host_fcw} + 8]",
        "fxrstor64 [r15]",
        "mov qword ptr [rsp + {xmm_live} + 8], 1", "mov qword ptr [rsp + {xmm_live} + 16], 1",
        "ret",
        fx = const offset_of!(Header, fx),
        xmm = const FxState::XMM0,
        mxcsr = const FxState::MXCSR_OFFSET,
        xmm_live = const offset_of!(Header, xmm_live),
        host_mxcsr = const offset_of!(Header, host_mxcsr),
        host_fcw = const offset_of!(Header, host_fcw),
    )
}

/// The code around knows where these lie from the first of them.
const _: () = assert!(
    offset_of!(Header, x87_live) == offset_of!(Header, xmm_live) + 8
        && offset_of!(Header, x87_saved) == offset_of!(Header, xmm_live) + 16
);

/// Called by translated code before its first SSE instruction: brings the guest's XMM registers in. Takes S1 and
/// the flags.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn load_xmm() {
    naked_asm!(
        // One word of return address lies under the header here.
        "mov r15, [rsp + {fx} + 8]",
        "stmxcsr [rsp + {host_mxcsr} + 8]",
        "ldmxcsr [r15 + {mxcsr}]",
        "movaps xmm0, [r15 + {xmm}]", "movaps xmm1, [r15 + {xmm} + 16]",
        "movaps xmm2, [r15 + {xmm} + 32]", "movaps xmm3, [r15 + {xmm} + 48]",
        "movaps xmm4, [r15 + {xmm} + 64]", "movaps xmm5, [r15 + {xmm} + 80]",
        "movaps xmm6, [r15 + {xmm} + 96]", "movaps xmm7, [r15 + {xmm} + 112]",
        "movaps xmm8, [r15 + {xmm} + 128]", "movaps xmm9, [r15 + {xmm} + 144]",
        "movaps xmm10, [r15 + {xmm} + 160]", "movaps xmm11, [r15 + {xmm} + 176]",
        "movaps xmm12, [r15 + {xmm} + 192]", "movaps xmm13, [r15 + {xmm} + 208]",
        "movaps xmm14, [r15 + {xmm} + 224]", "movaps xmm15, [r15 + {xmm} + 240]",
        "mov qword ptr [rsp + {xmm_live} + 8], 1",
        "ret",
        fx = const offset_of!(Header, fx),
        xmm = const FxState::XMM0,
        mxcsr = const FxState::MXCSR_OFFSET,
        xmm_live = const offset_of!(Header, xmm_live),
        host_mxcsr = const offset_of!(Header, host_mxcsr),
    )
}

/// Runs translated code at `code` on `cpu` until it leaves. A panic of the platform's goes on from here.
pub(super) fn run(cpu: &mut Cpu, platform: &mut dyn Platform, code: *const u8) {
    let mut call = Call {
        function: simulate,
        cpu,
        platform,
        panic: None,
    };
    let at = &raw mut call;
    // SAFETY: `cpu` was made from a live reference, which is not used again before `enter` has returned.
    let cpu = unsafe { &mut *call.cpu };
    let regs = cpu.regs.as_mut_ptr();
    let fx = cpu.fx.image_mut().as_mut_ptr();
    let header = cpu.tlb.frame.header();
    header.regs = regs;
    header.fx = fx;
    header.call = at.cast();
    header.exit = exit as *const () as usize;
    header.simulate = simulate_entry as *const () as usize;
    header.load_xmm = load_xmm as *const () as usize;
    header.load_x87 = load_x87 as *const () as usize;
    let header = cpu.tlb.frame.base().cast::<Header>();
    // SAFETY: the caller took `code` from the arena's present generation, and code of it is not gone back to after a
    // flush: whatever flushes it sets an event, at which `Cpu::simulate` leaves, or is `Cpu::host_code`, after which it
    // resumes in new code. The header's pointers were set just above.
    unsafe { enter(header, code) };
    if let Some(panic) = call.panic {
        resume_unwind(panic);
    }
}

/// Runs one instruction for translated code; no panic may cross that.
unsafe extern "sysv64" fn simulate(call: *mut Call<'_, '_>) -> u64 {
    // SAFETY: `run` put the address of its own `Call` into the header, and waits in `enter`.
    let call = unsafe { &mut *call };
    // SAFETY: as `call`; nobody else uses the processor while `run` waits.
    let cpu = unsafe { &mut *call.cpu };
    let platform = &mut *call.platform;
    match catch_unwind(AssertUnwindSafe(|| cpu.simulate(platform))) {
        Ok(leave) => {
            if leave {
                LEAVE
            } else {
                RESUME
            }
        }
        Err(panic) => {
            call.panic = Some(panic);
            LEAVE
        }
    }
}
