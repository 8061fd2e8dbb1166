//! What translated code addresses through RSP: its registers' homes, the soft TLB's first way, and the jump caches.
//!
//! While translated code runs, RSP is [`Frame::base`] and never a guest's value, so that a signal that the host
//! delivers at that moment finds a real stack: the room below the header.
//!
//! ```text
//! guard | signal stack | header | pins | TLB entries | jump caches | guard
//!                      ^ RSP
//! ```

use std::io;

use crate::arena::Mapping;
use crate::tlb::Entry;

/// TLB entries: four banks of 1,024 sets.
pub(crate) const ENTRIES: usize = 4096;
/// Entries of one jump cache, indexed by the low 16 bits of a linear address.
pub(crate) const JUMPS: usize = 1 << 16;
/// Jump caches, one for each [`crate::translate::Mode`].
pub(crate) const MODES: usize = 8;

/// Pins for reads, and for writes, of each TLB bank.
pub(crate) const PINS_EACH: usize = 64;
const PIN_COUNT: usize = 4 * 2 * PINS_EACH;
/// Offset of the pins from RSP.
pub(crate) const PINS: usize = 4096;
/// Offset of the TLB from RSP.
pub(crate) const TLB: usize = PINS + PIN_COUNT * size_of::<Pin>();
/// Offset of the first jump cache from RSP.
pub(crate) const JUMP_CACHES: usize = TLB + ENTRIES * size_of::<Entry>();
/// Bytes of one jump cache.
pub(crate) const JUMP_CACHE_BYTES: usize = JUMPS * size_of::<Jump>();

/// Room for signal handlers, which may need an AVX-512 frame and more.
const SIGNAL_STACK: usize = 256 << 10;
const BYTES: usize = SIGNAL_STACK + JUMP_CACHES + MODES * JUMP_CACHE_BYTES;

/// The words that translated code and the code around it share.
#[repr(C)]
pub(crate) struct Header {
    /// The guest's status flags while translated code runs: AH as LAHF makes it, and OF in AL.
    pub(crate) flags: u64,
    /// Guest R13, R14 and R15, whose host registers are taken.
    pub(crate) homes: [u64; 3],
    /// Instructions left before the deadline when the unit that runs was entered.
    pub(crate) budget: i64,
    /// Not 0 while EFLAGS.DF is set.
    pub(crate) direction: u64,
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    pub(crate) temporary: [u64; 2],
    /// Which instruction [`crate::translate`] is to simulate.
    pub(crate) site: u64,
    /// The link through which translated code was left, or [`NO_LINK`].
    pub(crate) link: u64,
    /// 1 while the guest's XMM registers and MXCSR are in the host's.
    pub(crate) xmm_live: u64,
    /// 1 while its x87 registers are too.
    pub(crate) x87_live: u64,
    /// 1 when the x87 registers were saved and the pointers below are to go with them.
    pub(crate) x87_saved: u64,
    pub(crate) host_mxcsr: u64,
    pub(crate) host_fcw: u64,
    /// The x87 pointers, as translated code keeps them.
    pub(crate) fop: u64,
    pub(crate) fip: u64,
    pub(crate) fdp: u64,
    /// Where to go on after a simulated instruction.
    pub(crate) resume: u64,
    pub(crate) host_rsp: u64,
    /// RIP, when translated code is left by an exit.
    pub(crate) rip: u64,
    /// `Cpu::regs` and the FXSAVE image.
    pub(crate) regs: *mut u64,
    pub(crate) fx: *mut u8,
    /// What `simulate` is called with.
    pub(crate) call: *mut u8,
    /// Entry points of the code around translated code.
    pub(crate) exit: usize,
    pub(crate) simulate: usize,
    pub(crate) load_xmm: usize,
    pub(crate) load_x87: usize,
}

/// [`Header::link`]: not left through a link.
pub(crate) const NO_LINK: u64 = u64::MAX;

/// A page that code at one place used last. Zeroes hold none.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Pin {
    /// Its linear address.
    pub(crate) page: u64,
    /// Offsets below this are inside; none are when it is 0.
    pub(crate) limit: u64,
    pub(crate) host: u64,
    unused: u64,
}

impl Pin {
    /// The limit of a page, so that 16 bytes from any offset below it are in the page.
    pub(crate) const LIMIT: u32 = 4081;
}

/// Where an indirect jump to `linear` goes on in translated code.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Jump {
    pub(crate) linear: u64,
    pub(crate) code: *const u8,
}

pub(crate) struct Frame {
    mapping: Mapping,
}

impl Frame {
    /// # Errors
    ///
    /// When the host refuses the memory.
    pub(crate) fn new() -> io::Result<Self> {
        let mapping = Mapping::reserve(BYTES)?;
        mapping.allocate(0, BYTES)?;
        let mut frame = Self { mapping };
        for mode in 0..MODES {
            // Zeroes match only the address zero, whose slot this is.
            frame.forget_jump(mode, 0);
        }
        Ok(frame)
    }

    /// What RSP is in translated code.
    pub(crate) fn base(&self) -> *mut u8 {
        self.mapping.inner().wrapping_add(SIGNAL_STACK)
    }

    pub(crate) fn header(&mut self) -> &mut Header {
        let at = self.base().cast::<Header>();
        // SAFETY: the header lies in this frame's own memory, page-aligned, and every bit pattern is a `Header`; the
        // borrow of `self` keeps translated code, which also writes it, from running meanwhile.
        unsafe { &mut *at }
    }

    #[inline(always)]
    pub(crate) fn entries(&self) -> &[Entry; ENTRIES] {
        let at = self.base().wrapping_add(TLB).cast::<[Entry; ENTRIES]>();
        // SAFETY: the table lies in this frame's own memory, page-aligned, and every bit pattern is an `Entry`.
        unsafe { &*at }
    }

    #[inline(always)]
    pub(crate) fn entries_mut(&mut self) -> &mut [Entry; ENTRIES] {
        let at = self.base().wrapping_add(TLB).cast::<[Entry; ENTRIES]>();
        // SAFETY: as in `entries`, and `&mut self` is the only way to it.
        unsafe { &mut *at }
    }

    /// Forgets what the pins hold; must follow whatever takes a translation or a permission away.
    pub(crate) fn unpin(&mut self) {
        let at = self.base().wrapping_add(PINS).cast::<[Pin; PIN_COUNT]>();
        // SAFETY: the pins lie in this frame's own memory, page-aligned, and every bit pattern is a `Pin`; `&mut self`
        // is the only way to them.
        let pins = unsafe { &mut *at };
        for pin in pins {
            pin.limit = 0;
        }
    }

    fn jumps(&mut self, mode: usize) -> &mut [Jump; JUMPS] {
        assert!(mode < MODES);
        let offset = JUMP_CACHES + mode * JUMP_CACHE_BYTES;
        let at = self.base().wrapping_add(offset).cast::<[Jump; JUMPS]>();
        // SAFETY: as in `entries_mut`; `mode` was checked.
        unsafe { &mut *at }
    }

    /// Where jumps to `linear` go on, if that is known.
    pub(crate) fn jump(&mut self, mode: usize, linear: u64) -> Option<*const u8> {
        let jump = self.jumps(mode)[jump_slot(linear)];
        (jump.linear == linear).then_some(jump.code)
    }

    /// Remembers that jumps to `linear` go on at `code`; `false` when that was known.
    pub(crate) fn remember_jump(&mut self, mode: usize, linear: u64, code: *const u8) -> bool {
        let jump = &mut self.jumps(mode)[jump_slot(linear)];
        let new = jump.linear != linear || jump.code != code;
        *jump = Jump { linear, code };
        new
    }

    /// Forgets where jumps to `linear` go on.
    pub(crate) fn forget_jump(&mut self, mode: usize, linear: u64) {
        let slot = jump_slot(linear);
        let jump = &mut self.jumps(mode)[slot];
        if jump.linear == linear {
            *jump = Jump {
                // Never looked for in this slot.
                linear: slot as u64 ^ 1,
                code: std::ptr::null(),
            };
        }
    }
}

fn jump_slot(linear: u64) -> usize {
    (linear as usize) & (JUMPS - 1)
}

// SAFETY: the frame is plain process memory; the pointers in it are set anew before each use.
unsafe impl Send for Frame {}
