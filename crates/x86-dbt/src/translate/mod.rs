//! The translator: blocks that run often become host code that keeps the guest's registers in the host's.
//!
//! A [`Unit`] is one block's host code for one [`Mode`]. It is entered only if the budget reaches for all of its
//! instructions, charges those that ran when it is left, and leaves where it cannot go on: through a link to a unit not yet chained, to the interpreter for one instruction
//! (a TLB miss, a device, whatever has no template), or because the budget ends. Links inside a page hold as long as
//! both blocks are valid; what is kept by linear address (links across pages, the jump caches) is forgotten with
//! the TLB's entries.

mod access;
mod cache;
mod classify;
mod cold;
mod emit;
#[expect(unsafe_code, reason = "enters translated code, which calls back")]
mod enter;
mod flags;
mod ident;
mod lower;
mod pages;
mod site;
mod string;
mod transfer;

use std::ops::AddAssign;
use std::rc::Rc;

use iced_x86::{Decoder, DecoderOptions, Instruction};

use crate::alu::{image, status};
use crate::block::{Block, OPS_MAX};
use crate::cpu::{CR0_EM, CR0_TS, CR4_OSFXSR, Cpu, EVENT_BREAK, EVENT_POLL};
use crate::frame::{Header, MODES, NO_LINK};
use crate::ops::interrupt::Origin;
use crate::platform::Platform;
use crate::ram::PAGE;
use crate::walk;
pub(crate) use cache::Translator;
use pages::{Dependent, Home};
use site::Site;

/// How often a block is interpreted before it is translated.
const THRESHOLD: u32 = 16;

/// What host code depends on beside the guest's bytes: the TLB bank, and whether x87 and SSE instructions need no
/// check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode(u8);

/// A unit's number in this generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct UnitId(u32);

/// What the translator did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TranslatorStats {
    /// Blocks translated.
    pub units: u64,
    /// Guest instructions in them.
    pub instructions: u64,
    /// Of those, left to the interpreter.
    pub left_to_interpreter: u64,
    /// Bytes of host code made.
    pub code_bytes: u64,
    /// Times translated code was entered from outside.
    pub entries: u64,
    /// Instructions that translated code had the interpreter execute.
    pub simulated: u64,
    /// Of those, instructions without a template.
    pub simulated_untranslated: u64,
    /// Of those, instructions that came to a device or wrote to a page with code; the rest had a TLB miss or a fault.
    pub simulated_trapped: u64,
    /// Runs of several instructions that one call of the interpreter executed.
    pub clusters: u64,
    /// Instructions that trapped so often that they were left to the interpreter.
    pub adapted: u64,
    /// Instructions that were translated again because they no longer trapped.
    pub cooled: u64,
    /// Links chained.
    pub chained: u64,
    /// Times all translations were thrown away.
    pub resets: u64,
}

impl AddAssign for TranslatorStats {
    /// Adds what another translator did.
    fn add_assign(&mut self, other: Self) {
        self.units += other.units;
        self.instructions += other.instructions;
        self.left_to_interpreter += other.left_to_interpreter;
        self.code_bytes += other.code_bytes;
        self.entries += other.entries;
        self.simulated += other.simulated;
        self.simulated_untranslated += other.simulated_untranslated;
        self.simulated_trapped += other.simulated_trapped;
        self.clusters += other.clusters;
        self.adapted += other.adapted;
        self.cooled += other.cooled;
        self.chained += other.chained;
        self.resets += other.resets;
    }
}

impl Mode {
    pub(crate) fn index(self) -> usize {
        usize::from(self.0) & (MODES - 1)
    }

    fn bank(self) -> u8 {
        self.0 & 3
    }

    fn floats(self) -> bool {
        self.0 & 4 != 0
    }
}

impl Cpu {
    /// Sets how often a block is interpreted before it is translated: 16 times at first, never with `None`. Results
    /// are the same whatever it is, to the instruction.
    pub fn set_translation(&mut self, after: Option<u32>) {
        self.translator.threshold = after;
    }

    /// What the translator did so far.
    #[must_use]
    pub fn translator_stats(&self) -> TranslatorStats {
        self.translator.stats
    }

    /// The mode to translate for; `None` where the interpreter must run.
    fn translation_mode(&self) -> Option<Mode> {
        if self.code_bits != 64 || self.translator.threshold.is_none() {
            return None;
        }
        const MXCSR_MASKED: u32 = 0x3f << 7;
        const FCW_MASKED: u16 = 0x3f;
        let floats = self.cr0 & (CR0_EM | CR0_TS) == 0
            && self.cr4 & CR4_OSFXSR != 0
            && self.fx.mxcsr() & MXCSR_MASKED == MXCSR_MASKED
            && self.fx.fcw() & FCW_MASKED == FCW_MASKED;
        Some(Mode(self.bank as u8 | u8::from(floats) << 2))
    }

    /// Runs `block` as host code, and what it leads to, if that is how it should run; whether it was.
    pub(crate) fn run_translated(&mut self, p: &mut dyn Platform, block: &Rc<Block>) -> bool {
        let code = self.host_code(block);
        if let Some(code) = code {
            self.enter(p, code);
        }
        code.is_some()
    }

    /// Runs host code at RIP if it is known, and no link waits to be chained to it; whether it was.
    pub(crate) fn run_known(&mut self, p: &mut dyn Platform) -> bool {
        if self.translator.pending.is_some() {
            return false;
        }
        let code = self.known_code();
        if let Some(code) = code {
            self.enter(p, code);
        }
        code.is_some()
    }

    /// Where to enter `block`'s host code, if that is how it should run.
    fn host_code(&mut self, block: &Rc<Block>) -> Option<*const u8> {
        let mode = self.translation_mode()?;
        if self.deadline - self.ticks < block.ops.len() as u64 {
            return None;
        }
        let unit = block.unit(mode).or_else(|| self.translate(block, mode))?;
        self.follow_tlb();
        let linear = block.linear();
        let home = Home::of(block, self.fetch_bank());
        let global = self.tlb.is_global_fetch(home.bank, linear);
        let code = self.translator.address(unit);
        self.translator
            .chain(&mut self.tlb.frame, unit, home, global);
        if self.tlb.frame.remember_jump(mode.index(), linear, code) {
            let jump = Dependent::Jump(unit);
            self.translator
                .depend(&mut self.tlb.frame, home, global, jump);
        }
        Some(code)
    }

    /// Where to enter the host code at RIP, if a jump there would find it.
    fn known_code(&mut self) -> Option<*const u8> {
        let mode = self.translation_mode()?;
        // Units that the budget does not reach for are left at once.
        if self.deadline - self.ticks < OPS_MAX as u64 {
            return None;
        }
        self.follow_tlb();
        let linear = self.code_address();
        self.tlb.frame.jump(mode.index(), linear)
    }

    /// Forgets what was kept for pages that are no longer where they were.
    fn follow_tlb(&mut self) {
        let (ram, paging, a20) = (&self.ram, &self.paging, self.a20_mask);
        let is_home = |home: Home| {
            let found = walk::code_page(ram, paging, home.linear, home.bank);
            found.is_some_and(|gpa| gpa & a20 == home.gpa)
        };
        self.translator.follow(&mut self.tlb, is_home);
    }

    fn translate(&mut self, block: &Rc<Block>, mode: Mode) -> Option<UnitId> {
        let threshold = self.translator.threshold?;
        if block.warm() < threshold || !block.is_in_one_page() || !block.is_valid() {
            return None;
        }
        let mut bytes = vec![0; block.len()];
        self.ram
            .page(block.gpa())?
            .read(block.gpa() % PAGE, &mut bytes);
        let decoder = Decoder::with_ip(64, &bytes, block.linear(), DecoderOptions::NONE);
        let instructions: Vec<Instruction> = decoder.into_iter().take(block.ops.len()).collect();
        let placed = self.translator.place(block, mode, &instructions, &bytes);
        placed.or_else(|| {
            self.translator.reset(&mut self.tlb.frame);
            self.translator.place(block, mode, &instructions, &bytes)
        })
    }

    /// Runs host code until it leaves, and takes the state back.
    fn enter(&mut self, p: &mut dyn Platform, code: *const u8) {
        let budget = self.budget();
        self.translator.stats.entries += 1;
        self.translator.end = self.ticks + budget;
        self.translator.simulated = false;
        self.lend(budget);
        let header = self.tlb.frame.header();
        header.link = NO_LINK;
        self.translator.publish();
        let header = self.tlb.frame.header();
        (header.xmm_live, header.x87_live, header.x87_saved) = (0, 0, 0);
        enter::run(self, p, code);
        if self.translator.simulated {
            return;
        }
        self.take_x87();
        let header = self.tlb.frame.header();
        self.rip = header.rip;
        self.ticks = self.translator.end.wrapping_add_signed(-header.budget);
        self.flags = self.flags & !crate::flags::STATUS | status(header.flags);
        self.translator.pending = u32::try_from(header.link).ok();
    }

    /// Puts into the header what translated code takes from there.
    fn lend(&mut self, budget: u64) {
        let (fs, gs) = (self.base[4], self.base[5]);
        let x87 = (u64::from(self.fx.fop()), self.fx.fip(), self.fx.fdp());
        let flags = self.flags;
        let header: &mut Header = self.tlb.frame.header();
        header.direction = flags & crate::flags::DF;
        header.fs_base = fs;
        header.gs_base = gs;
        (header.fop, header.fip, header.fdp) = x87;
        header.flags = image(flags);
        header.budget = budget.cast_signed();
    }

    /// Puts the x87 pointers beside the registers, if translated code had those.
    fn take_x87(&mut self) {
        let header = self.tlb.frame.header();
        if header.x87_saved != 0 {
            header.x87_saved = 0;
            let fop = header.fop as u16;
            self.fx.adopt_host_image(fop, header.fip, header.fdp);
        }
    }

    /// Executes the instruction that translated code has come to, and its cluster; whether translated code must be left.
    fn simulate(&mut self, p: &mut dyn Platform) -> bool {
        self.take_x87();
        let header = self.tlb.frame.header();
        let site = Site(header.site as u32);
        let (budget, flags) = (header.budget, header.flags);
        let (first, end) = (site.first(), site.end());
        let unit = &self.translator.units[site.unit().0 as usize];
        let (block, mode) = (Rc::clone(&unit.block), unit.mode);
        self.ticks = self.translator.end.wrapping_add_signed(-budget) + first as u64;
        self.rip = block.linear().wrapping_add(block.start(first));
        self.flags = self.flags & !crate::flags::STATUS | status(flags);
        let mut at = first;
        let mut after = self.simulate_one(p, &block, site, at);
        let fetches = self.fetch_bank();
        while after.is_straight
            && at + 1 < end
            && block.is_valid()
            && self.ticks < self.deadline
            // The bytes behind are still those that would be fetched.
            && self.tlb.epoch == self.translator.epoch
            && (self.code_bits, self.fetch_bank()) == (64, fetches)
        {
            at += 1;
            after = self.simulate_one(p, &block, site, at);
        }
        self.translator.stats.clusters += u64::from(at > first);
        let ahead = (block.ops.len() - at) as u64;
        let goes_on = after.is_straight
            && at + 1 == end
            && ahead > 1
            && block.is_valid()
            && self.tlb.epoch == self.translator.epoch
            && self.translation_mode() == Some(mode)
            && self.deadline.saturating_sub(self.ticks) >= ahead - 1;
        // What the unit has executed is charged when it is left.
        let charged_later = if goes_on { at as u64 + 1 } else { 0 };
        let resumes = goes_on || after.is_settled && self.resume_elsewhere(p);
        if resumes {
            self.translator.publish();
            self.translator.end = self.ticks + self.budget();
            self.lend(self.translator.end - self.ticks + charged_later);
        }
        self.translator.simulated = !resumes;
        !resumes
    }

    /// Looks at what an instruction asked to be looked at; whether that leaves nothing more to look at.
    fn has_settled(&mut self, p: &mut dyn Platform) -> bool {
        self.events & !(EVENT_BREAK | EVENT_POLL) == 0
            && self.attend(p).is_none()
            && self.events == 0
            && !self.is_careful()
    }

    /// Makes translated code go on at RIP, which is not behind the instruction just run; whether it can.
    fn resume_elsewhere(&mut self, p: &mut dyn Platform) -> bool {
        if self.ticks >= self.deadline {
            return false;
        }
        let code = match self.known_code() {
            Some(code) => code,
            // A fault is found again, and raised, by who runs the block.
            None => {
                let Ok(block) = self.block(p) else {
                    return false;
                };
                let Some(code) = self.host_code(&block).filter(|_| self.events == 0) else {
                    return false;
                };
                code
            }
        };
        self.tlb.frame.header().resume = code as u64;
        true
    }

    /// Instructions to the deadline, a signed word's worth at most.
    fn budget(&self) -> u64 {
        (self.deadline - self.ticks).min(i64::MAX.cast_unsigned() / 2)
    }

    /// Executes instruction `at` of `block`, at RIP, and learns whether it traps.
    fn simulate_one(
        &mut self,
        p: &mut dyn Platform,
        block: &Block,
        site: Site,
        at: usize,
    ) -> After {
        let op = &block.ops[at];
        let behind = self.rip.wrapping_add(u64::from(op.len));
        let traps = self.stats.mmio + self.stats.traced_writes;
        self.translator.stats.simulated += 1;
        self.next_rip = behind;
        let faulted = match (op.handler)(self, p, op) {
            Ok(()) => {
                self.rip = self.next_rip;
                self.ticks += 1;
                false
            }
            Err(exception) => {
                self.raise(p, exception, Origin::Fault);
                true
            }
        };
        let trapped = self.stats.mmio + self.stats.traced_writes != traps;
        let stats = &mut self.translator.stats;
        stats.simulated_untranslated += u64::from(site.is_untranslated());
        if !site.is_untranslated() && (trapped || block.is_trapping(at)) {
            self.translator
                .adapt(&mut self.tlb.frame, site.unit(), at, trapped);
        }
        let is_settled = self.events == 0 || self.has_settled(p);
        After {
            is_settled,
            is_straight: is_settled && !faulted && self.rip == behind,
        }
    }
}

/// How the interpreter left the processor.
#[derive(Clone, Copy)]
struct After {
    /// Nothing waits to be looked at.
    is_settled: bool,
    /// And the instruction behind comes next.
    is_straight: bool,
}
