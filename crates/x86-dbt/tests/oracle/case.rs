//! What goes into one instruction and what comes out.

use iced_x86::Register;

use super::segments;

/// How wide the code is; privilege level 3 and long mode with paging throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// 64-bit code.
    Long,
    /// 32-bit code in compatibility mode.
    Compat,
    /// 16-bit code in compatibility mode.
    Word,
}

impl Mode {
    pub(crate) fn bitness(self) -> u32 {
        match self {
            Self::Long => 64,
            Self::Compat => 32,
            Self::Word => 16,
        }
    }
}

/// The state before the instruction.
///
/// Linear memory: one executable page at [`CODE`] filled with INT3 but for the instruction, one writable page at
/// [`DATA`] and one at [`STACK`], all user pages, and nothing else below 4 GiB. The descriptor tables are those of
/// [`segments`]. CR0 has PE, NE, WP, AM and PG; CR4 has PAE, OSFXSR, OSXMMEXCPT, UMIP and FSGSBASE; IOPL is 0;
/// there is no I/O permission; the IDT's gates have DPL 0 but for vectors 3, 4 and 0x80.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) mode: Mode,
    pub(crate) code: [u8; 16],
    pub(crate) len: usize,
    /// Whether this is a string instruction with a repeat prefix.
    pub(crate) repeats: bool,
    /// In the order RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub(crate) gpr: [u64; 16],
    /// The offset in CS.
    pub(crate) rip: u64,
    /// Bits outside [`FLAGS`] are clear; the reserved bit 1 and IF are set.
    pub(crate) rflags: u64,
    /// CS, SS, DS, ES, FS, GS.
    pub(crate) selectors: [u16; 6],
    /// In 64-bit code; else the segment's.
    pub(crate) gs_base: u64,
    /// An FXSAVE64 image; the pointers FIP, FDP and FOP do not take part.
    pub(crate) fx: [u8; 512],
    pub(crate) data: [u8; PAGE],
    pub(crate) stack: [u8; PAGE],
}

/// The state after it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) event: Event,
    pub(crate) gpr: [u64; 16],
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    /// CS, SS, DS, ES, FS, GS.
    pub(crate) selectors: [u16; 6],
    pub(crate) gs_base: u64,
    pub(crate) fx: [u8; 512],
    pub(crate) data: [u8; PAGE],
    pub(crate) stack: [u8; PAGE],
}

/// How the instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It completed.
    Retired,
    /// It raised an exception. `error_code` is zero for vectors without one, `cr2` for all but #PF.
    Exception {
        vector: u8,
        error_code: u32,
        cr2: u64,
    },
}

/// Something that executes one instruction: the code under test.
pub(crate) trait Subject {
    /// The outcome, `None` when the subject does not claim to execute this instruction.
    fn step(&mut self, state: &State) -> Option<Outcome>;
}

impl State {
    /// The outcome of an instruction that does nothing at all.
    pub(crate) fn unchanged(&self) -> Outcome {
        Outcome {
            event: Event::Retired,
            gpr: self.gpr,
            rip: self.rip,
            rflags: self.rflags,
            selectors: self.selectors,
            gs_base: self.gs_base,
            fx: self.fx,
            data: self.data,
            stack: self.stack,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.code[..self.len]
    }

    /// The value of a general register or a part of it.
    pub(crate) fn register(&self, register: Register) -> u64 {
        let full = self.gpr[register.full_register().number()];
        match register.size() {
            8 => full,
            4 => full & 0xffff_ffff,
            2 => full & 0xffff,
            _ if (Register::AH..=Register::BH).contains(&register) => full >> 8 & 0xff,
            _ => full & 0xff,
        }
    }

    /// What a register contributes to an address: segment registers their base.
    pub(crate) fn value(&self, register: Register) -> u64 {
        match register {
            Register::RIP | Register::EIP => self.rip,
            _ if register.is_segment_register() => self.segment_base(register),
            _ if register.is_gpr() => self.register(register),
            _ => 0,
        }
    }

    pub(crate) fn selector(&self, register: Register) -> u16 {
        let [cs, ss, ds, es, fs, gs] = self.selectors;
        match register {
            Register::CS => cs,
            Register::SS => ss,
            Register::DS => ds,
            Register::ES => es,
            Register::FS => fs,
            _ => gs,
        }
    }

    pub(crate) fn segment_base(&self, register: Register) -> u64 {
        match (self.mode, register) {
            (Mode::Long, Register::GS) => self.gs_base,
            (Mode::Long, _) => 0,
            _ => segments::base(self.selector(register)),
        }
    }

    /// The linear address of the instruction.
    pub(crate) fn code_address(&self) -> u64 {
        self.segment_base(Register::CS) + self.rip
    }

    /// The linear address that SS and the stack pointer give.
    pub(crate) fn stack_top(&self) -> u64 {
        let mask = match self.mode {
            Mode::Long => u64::MAX,
            _ if self.is_stack_short() => 0xffff,
            _ => 0xffff_ffff,
        };
        self.segment_base(Register::SS) + (self.gpr[RSP] & mask)
    }

    /// The two bytes at a linear address in one of the writable pages, else zero.
    pub(crate) fn peek(&self, at: u64) -> u16 {
        let pages = [(DATA, &self.data), (STACK, &self.stack)];
        let found = pages.into_iter().find_map(|(page_at, page)| {
            let offset = usize::try_from(at.wrapping_sub(page_at)).ok()?;
            page.get(offset..)?.first_chunk::<2>()
        });
        found.map_or(0, |bytes| u16::from_le_bytes(*bytes))
    }

    /// Whether the stack pointer has 16 bits.
    pub(crate) fn is_stack_short(&self) -> bool {
        segments::segment(self.selectors[1]).is_some_and(|segment| !segment.big)
            && self.mode != Mode::Long
    }

    /// Puts `bytes` at a linear address if they fit one of the writable pages.
    pub(crate) fn poke(&mut self, at: u64, bytes: &[u8]) {
        for (page_at, page) in [(DATA, &mut self.data), (STACK, &mut self.stack)] {
            let offset = at.wrapping_sub(page_at);
            if offset <= (PAGE - bytes.len()) as u64 {
                page[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

pub(crate) const PAGE: usize = 4096;
pub(crate) const CODE: u64 = 0x1000_0000;
pub(crate) const DATA: u64 = 0x2000_0000;
pub(crate) const STACK: u64 = 0x3000_0000;

/// CF PF AF ZF SF DF OF AC: the flags that a case sets freely.
pub(crate) const FLAGS: u64 = 0x4_0cd5;
/// Set in every case: the reserved bit 1, and IF.
pub(crate) const FLAGS_FIXED: u64 = 0x202;

/// The place of RSP in [`State::gpr`].
pub(crate) const RSP: usize = 4;
