//! The oracle: the host's processor, stepped by the trap flag in a forked child.
//!
//! The child maps the three pages, and lives in its signal handler: each signal ends one case, whose outcome the
//! handler takes from the signal frame, and the frame is then overwritten with the state of the next. Returning
//! from the handler makes the kernel load that state, TF makes the processor stop after one instruction.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use core::arch::asm;

use super::case::{CODE, DATA, Event, FLAGS_FIXED, Mode, Outcome, PAGE, STACK, State};
use super::segments::{LDT, Segment};

/// Why the host cannot be an oracle here.
#[derive(Debug)]
pub(crate) enum Unavailable {
    /// The kernel does not let programs use WRGSBASE.
    NoFsGsBase,
    Io(io::Error),
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoFsGsBase => f.write_str("the kernel does not enable FSGSBASE"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Unavailable {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Executes the instruction of each state on the host's processor.
///
/// # Panics
///
/// When the child dies, which names the case it died in.
pub(crate) fn run(states: &[&State]) -> Result<Vec<Outcome>, Unavailable> {
    // SAFETY: getauxval only reads the auxiliary vector.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE == 0 {
        return Err(Unavailable::NoFsGsBase);
    }
    let shared = Shared::new(states)?;
    // SAFETY: the child calls only system calls and code of this file that neither allocates nor locks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error().into()),
        0 => child(&shared),
        pid => {
            shared.wait(pid, states);
            Ok(shared.outcomes())
        }
    }
}

/// What parent and child share: the cases, and the child's progress.
struct Shared {
    header: *mut Header,
    len: usize,
    count: usize,
}

struct Header {
    /// The case that runs, or that the child died in.
    current: usize,
}

struct Slot {
    state: State,
    outcome: MaybeUninit<Outcome>,
}

impl Shared {
    fn new(states: &[&State]) -> io::Result<Self> {
        let len = SLOTS_AT + states.len() * size_of::<Slot>();
        let header = map(
            0,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
        )?;
        let shared = Self {
            header: header.cast(),
            len,
            count: states.len(),
        };
        for (i, state) in states.iter().enumerate() {
            let slot = Slot {
                state: (*state).clone(),
                outcome: MaybeUninit::uninit(),
            };
            // SAFETY: slot `i` is inside the mapping by the length above, and aligned since a page is.
            unsafe { shared.slot(i).write(slot) };
        }
        Ok(shared)
    }

    fn slot(&self, i: usize) -> *mut Slot {
        assert!(i < self.count);
        self.header
            .cast::<u8>()
            .wrapping_add(SLOTS_AT + i * size_of::<Slot>())
            .cast()
    }

    fn wait(&self, pid: libc::pid_t, states: &[&State]) {
        let mut status = 0;
        // SAFETY: `pid` is our child and `status` a local.
        let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
        // SAFETY: the child is gone, so nobody writes the header now.
        let header = unsafe { &*self.header };
        if waited == pid && status == 0 && header.current == self.count {
            return;
        }
        let case = states
            .get(header.current)
            .map(|state| super::compare::describe(state));
        panic!(
            "the child ended with status {status:#x} in case {}: {case:?}",
            header.current
        );
    }

    fn outcomes(&self) -> Vec<Outcome> {
        // SAFETY: the child is gone, so the slots are this thread's alone.
        let slot = |i| unsafe { &*self.slot(i) };
        // SAFETY: `wait` saw `current == count`, and the child writes an outcome before it counts it.
        let outcome = |i| unsafe { slot(i).outcome.assume_init_ref() };
        (0..self.count).map(|i| outcome(i).clone()).collect()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own and no reference into it is left.
        unsafe { libc::munmap(self.header.cast(), self.len) };
    }
}

/// The child's own, reached from the handler.
struct Child<'a> {
    shared: &'a Shared,
    started: bool,
    /// The code page, writable.
    code: *mut u8,
    fs_base: u64,
    steps: u32,
}

static CHILD: AtomicPtr<Child<'static>> = AtomicPtr::new(ptr::null_mut());

fn child(shared: &Shared) -> ! {
    // Cases use the LDT only where `offers_ldt`.
    let _ = install_ldt();
    if let Ok(code) = map_pages() {
        let mut child = Child {
            shared,
            started: false,
            code,
            fs_base: fs_base(),
            steps: 0,
        };
        CHILD.store((&raw mut child).cast(), Ordering::Relaxed);
        if install().is_ok() {
            // SAFETY: raises the signal that the handler takes over with; it never returns here.
            unsafe { libc::raise(libc::SIGTRAP) };
        }
    }
    exit(1)
}

/// Maps the three pages with 64 KiB of inaccessible addresses around each; returns the code page's other, writable
/// address.
fn map_pages() -> io::Result<*mut u8> {
    let fixed = libc::MAP_FIXED_NOREPLACE;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    for at in [CODE, DATA, STACK] {
        map(
            at - GUARD as u64,
            2 * GUARD + PAGE,
            libc::PROT_NONE,
            anonymous | fixed,
            -1,
        )?;
    }
    let read_write = libc::PROT_READ | libc::PROT_WRITE;
    for at in [DATA, STACK] {
        map(
            at,
            PAGE,
            read_write,
            anonymous | libc::MAP_FIXED | libc::MAP_POPULATE,
            -1,
        )?;
    }
    // SAFETY: the name is a NUL-terminated literal.
    let fd = unsafe { libc::memfd_create(c"oracle".as_ptr(), 0) };
    // SAFETY: two numbers; a bad descriptor is an error like any other.
    if unsafe { libc::ftruncate(fd, PAGE as libc::off_t) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let shared = libc::MAP_SHARED | libc::MAP_POPULATE;
    map(
        CODE,
        PAGE,
        libc::PROT_READ | libc::PROT_EXEC,
        shared | libc::MAP_FIXED,
        fd,
    )?;
    Ok(map(0, PAGE, read_write, shared, fd)?.cast())
}

fn map(at: u64, len: usize, protection: i32, flags: i32, fd: i32) -> io::Result<*mut libc::c_void> {
    let at = ptr::without_provenance_mut(at as usize);
    // SAFETY: the kernel picks the address, or the range holds nothing but this file's own mappings
    // (MAP_FIXED_NOREPLACE before MAP_FIXED).
    let address = unsafe { libc::mmap(at, len, protection, flags, fd, 0) };
    if address == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(address)
    }
}

fn install() -> io::Result<()> {
    let size = 256 << 10;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let stack = map(0, size, libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
    let alternate = libc::stack_t {
        ss_sp: stack,
        ss_flags: 0,
        ss_size: size,
    };
    // SAFETY: the mapping above stays for the child's life.
    if unsafe { libc::sigaltstack(&alternate, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    for signal in [
        libc::SIGTRAP,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
    ] {
        // SAFETY: the handler has the signature that SA_SIGINFO asks for.
        if unsafe { libc::sigaction(signal, &action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // An instruction that never ends must not hang the test.
    // SAFETY: one number.
    unsafe { libc::alarm(SECONDS_MAX) };
    Ok(())
}

extern "C" fn handler(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let segments = Segments::take();
    // SAFETY: `child` stored its local, which lives as long as the process; the handler is not re-entered while
    // it holds this, since its own code raises no signal.
    let child = unsafe { &mut *CHILD.load(Ordering::Relaxed) };
    restore_fs(child.fs_base);
    // SAFETY: the kernel passes the frame's ucontext to an SA_SIGINFO handler.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // SAFETY: the parent only waits; this thread alone uses the header.
    let header = unsafe { &mut *child.shared.header };
    if child.started {
        // SAFETY: `current < count`, since the child exits when they are equal, and the slot is this thread's.
        let slot = unsafe { &mut *child.shared.slot(header.current) };
        let mid_repeat = slot.state.repeats && is_mid_repeat(context, &slot.state);
        if mid_repeat && child.steps < STEPS_MAX {
            child.steps += 1;
            return;
        }
        slot.outcome.write(capture(context, &segments, &slot.state));
        header.current += 1;
    }
    if header.current == child.shared.count {
        exit(0);
    }
    child.started = true;
    child.steps = 0;
    // SAFETY: `current < count`, as above.
    let slot = unsafe { &*child.shared.slot(header.current) };
    load(context, &slot.state, child.code);
}

/// TF stops a repeated string instruction after each iteration, with RIP still on it.
fn is_mid_repeat(context: &libc::ucontext_t, state: &State) -> bool {
    let gregs = &context.uc_mcontext.gregs;
    gregs[libc::REG_TRAPNO as usize] == 1 && gregs[libc::REG_RIP as usize] as u64 == state.rip
}

fn capture(context: &libc::ucontext_t, segments: &Segments, state: &State) -> Outcome {
    let gregs = &context.uc_mcontext.gregs;
    let greg = |register: i32| gregs[register as usize] as u64;
    let vector = greg(libc::REG_TRAPNO) as u8;
    let mut rip = greg(libc::REG_RIP);
    let is_int3 = matches!(state.bytes(), [.., 0xcc] | [.., 0xcd, 3]);
    let event = match vector {
        1 => Event::Retired,
        // TF was lost or held back (IRET, MOV SS): the INT3 at the target stopped it.
        3 if !is_int3 => {
            rip -= 1;
            Event::Retired
        }
        _ => {
            let has_code = matches!(vector, 8 | 10..=14 | 17);
            Event::Exception {
                vector,
                error_code: if has_code {
                    greg(libc::REG_ERR) as u32
                } else {
                    0
                },
                cr2: if vector == 14 { greg(libc::REG_CR2) } else { 0 },
            }
        }
    };
    let mut gpr = [0; 16];
    for (value, register) in gpr.iter_mut().zip(GREGS) {
        *value = greg(register);
    }
    let csgsfs = greg(libc::REG_CSGSFS);
    let [ds, es, fs, gs] = segments.selectors;
    let mut fx = [0; 512];
    // SAFETY: the frame's fpstate begins with a 512-byte FXSAVE image.
    unsafe { ptr::copy_nonoverlapping(context.uc_mcontext.fpregs.cast(), fx.as_mut_ptr(), 512) };
    Outcome {
        event,
        gpr,
        rip,
        rflags: greg(libc::REG_EFL),
        selectors: [csgsfs as u16, (csgsfs >> 48) as u16, ds, es, fs, gs],
        gs_base: segments.gs_base,
        fx,
        data: page(DATA),
        stack: page(STACK),
    }
}

fn load(context: &mut libc::ucontext_t, state: &State, code: *mut u8) {
    let gregs = &mut context.uc_mcontext.gregs;
    for (value, register) in state.gpr.iter().zip(GREGS) {
        gregs[register as usize] = *value as i64;
    }
    gregs[libc::REG_RIP as usize] = state.rip as i64;
    gregs[libc::REG_EFL as usize] = (state.rflags | FLAGS_FIXED | TF) as i64;
    let [cs, ss, ..] = state.selectors.map(u64::from);
    gregs[libc::REG_CSGSFS as usize] = (ss << 48 | cs) as i64;
    context.uc_flags |= UC_STRICT_RESTORE_SS;
    let fpregs = context.uc_mcontext.fpregs.cast::<u8>();
    // SAFETY: the frame's fpstate begins with an FXSAVE image. Its last 48 bytes are the kernel's own.
    unsafe { ptr::copy_nonoverlapping(state.fx.as_ptr(), fpregs, 416) };
    // Bits 0 and 1 of XSTATE_BV, in the XSAVE header after the image, make the kernel load the x87 and SSE parts.
    let xstate_bv = fpregs.wrapping_add(512);
    // SAFETY: frames are XSAVE images where there is FSGSBASE, since no processor has that without XSAVE.
    let components = unsafe { xstate_bv.read() };
    // SAFETY: as above.
    unsafe { xstate_bv.write(components | 3) };
    let offset = (state.code_address() - CODE) as usize;
    assert!(offset + state.len <= PAGE);
    // SAFETY: `code` is the writable mapping of the code page.
    unsafe { ptr::write_bytes(code, 0xcc, PAGE) };
    // SAFETY: as above, and the range was checked.
    unsafe { ptr::copy_nonoverlapping(state.code.as_ptr(), code.wrapping_add(offset), state.len) };
    for (at, bytes) in [(DATA, &state.data), (STACK, &state.stack)] {
        let page = ptr::without_provenance_mut::<u8>(at as usize);
        // SAFETY: `map_pages` mapped a writable page there.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), page, PAGE) };
    }
    set_segments(state);
}

fn page(at: u64) -> [u8; PAGE] {
    let mut bytes = [0; PAGE];
    let page = ptr::without_provenance::<u8>(at as usize);
    // SAFETY: `map_pages` mapped a readable page there.
    unsafe { ptr::copy_nonoverlapping(page, bytes.as_mut_ptr(), PAGE) };
    bytes
}

/// DS, ES, FS and GS are not in a 64-bit signal frame: they are still in the registers.
struct Segments {
    selectors: [u16; 4],
    gs_base: u64,
}

impl Segments {
    fn take() -> Self {
        let (ds, es, fs, gs): (u16, u16, u16, u16);
        let gs_base: u64;
        // SAFETY: clears what the case left in EFLAGS (AC, NT, ID; the kernel clears TF and DF), then only reads.
        unsafe {
            asm!("push 0x202", "popfq", "mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
                "rdgsbase {4}", out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, out(reg) gs_base);
        }
        Self {
            selectors: [ds, es, fs, gs],
            gs_base,
        }
    }
}

/// Thread-local storage is behind FS.
fn restore_fs(base: u64) {
    // SAFETY: puts FS back to what the child started with.
    unsafe { asm!("mov fs, {0:x}", "wrfsbase {1}", in(reg) 0, in(reg) base) };
}

fn set_segments(state: &State) {
    let [_, _, ds, es, fs, gs] = state.selectors.map(u32::from);
    // SAFETY: 64-bit code does not use DS and ES, nothing here uses GS, and thread-local storage behind FS is not
    // used again before the handler restores it. The selectors are null or of `segments`, so they load.
    unsafe {
        asm!("mov ds, {0:x}", "mov es, {1:x}", "mov fs, {2:x}", "mov gs, {3:x}",
            in(reg) ds, in(reg) es, in(reg) fs, in(reg) gs);
    }
    if state.mode == Mode::Long {
        // SAFETY: as above.
        unsafe { asm!("wrgsbase {}", in(reg) state.gs_base) };
    }
}

/// Linux `asm/ldt.h`, `struct user_desc`.
#[repr(C)]
struct UserDesc {
    entry_number: u32,
    base_addr: u32,
    limit: u32,
    flags: u32,
}

/// Whether the kernel lets programs have an LDT with 16-bit segments, which [`Mode::Word`] needs.
pub(crate) fn offers_ldt() -> bool {
    // The test's own process gets an LDT by this, which it does not use.
    install_ldt().is_ok()
}

fn install_ldt() -> io::Result<()> {
    const WRITE: libc::c_ulong = 0x11;
    for (entry_number, segment) in (0..).zip(&LDT) {
        let Segment {
            base: base_addr,
            limit,
            ..
        } = *segment;
        let entry = UserDesc {
            entry_number,
            base_addr,
            limit,
            flags: segment.user_desc_flags(),
        };
        let pointer = &raw const entry;
        // SAFETY: the kernel reads the 16 bytes of a local.
        if unsafe { libc::syscall(libc::SYS_modify_ldt, WRITE, pointer, size_of::<UserDesc>()) }
            != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn fs_base() -> u64 {
    let base: u64;
    // SAFETY: only reads.
    unsafe { asm!("rdfsbase {}", out(reg) base) };
    base
}

fn exit(code: i32) -> ! {
    // SAFETY: ends the child without running the parent's destructors.
    unsafe { libc::_exit(code) }
}

/// In the order of [`State::gpr`].
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

const TF: u64 = 1 << 8;
const GUARD: usize = 64 << 10;
const SLOTS_AT: usize = PAGE;
const STEPS_MAX: u32 = 10_000;
const SECONDS_MAX: u32 = 5;
/// Linux `asm/hwcap2.h`.
const HWCAP2_FSGSBASE: u64 = 1 << 1;
/// Linux `asm/ucontext.h`.
const UC_STRICT_RESTORE_SS: u64 = 4;

const _: () = assert!(size_of::<Mode>() == 1);
