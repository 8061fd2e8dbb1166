//! The translator: blocks that run often become host code that keeps the guest's registers in the host's.
//!
//! A [`Unit`] is one block's host code for one [`Mode`]. It charges its instructions to the budget when it is entered,
//! and leaves where it cannot go on: through a link to a unit not yet chained, to the interpreter for one instruction
//! (a TLB miss, a device, whatever has no template), or because the budget ends. Links inside a page hold as long as
//! both blocks are valid; what is kept by linear address (links across pages, the jump caches) is forgotten with
//! the TLB's entries.

mod access;
mod classify;
mod cold;
mod emit;
#[expect(unsafe_code, reason = "enters translated code, which calls back")]
mod enter;
mod flags;
mod ident;
mod lower;
mod transfer;

use std::io;
use std::rc::Rc;

use iced_x86::{Decoder, DecoderOptions, Instruction};
use rustc_hash::FxHashMap;

use crate::alu::{image, status};
use crate::arena::Arena;
use crate::block::Block;
use crate::cpu::{CR0_EM, CR0_TS, CR4_OSFXSR, Cpu, EVENT_BREAK, EVENT_POLL};
use crate::exception::Result;
use crate::frame::{Frame, Header, MODES, NO_LINK, jump_slot};
use crate::ops::interrupt::Origin;
use crate::platform::Platform;
use crate::ram::PAGE;
use crate::tlb::{Bank, Gone, Tlb};
use classify::{Class, classify};
use emit::{LINK_BYTES, jump};
use lower::Lowering;

/// How often a block is interpreted before it is translated.
const THRESHOLD: u32 = 16;
/// Bytes of host code before all of it is thrown away.
const ARENA_BYTES: usize = 32 << 20;
/// Units and links before all are thrown away, as their numbers are part of the code.
const UNITS_MAX: usize = 1 << 18;
const LINKS_MAX: usize = 1 << 20;
/// Things remembered for one linear page before they are forgotten.
const DEPENDENTS_MAX: usize = 1 << 13;
/// Bits of a site's number that tell the instruction in its unit.
const SITE_OP_BITS: u32 = 6;

/// What host code depends on beside the guest's bytes: the TLB bank, and whether x87 and SSE instructions need no
/// check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode(u8);

/// A unit's number in this generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Instructions that translated code had simulated.
    pub simulated: u64,
    /// Links chained.
    pub chained: u64,
    /// Times all translations were thrown away.
    pub resets: u64,
}

struct Unit {
    block: Rc<Block>,
    mode: Mode,
    /// Where its code starts in the arena.
    code: u32,
    /// Links that were chained to it.
    incoming: Vec<u32>,
}

/// A direct jump out of a unit.
#[derive(Clone, Copy)]
struct Link {
    /// The unit it leaves.
    from: UnitId,
    /// Offset in the arena of the code that leaves.
    at: u32,
    /// What a chained link overwrites.
    unchained: [u8; LINK_BYTES],
    target: u64,
    /// The unit that has this link in its list.
    listed: Option<UnitId>,
}

/// Something that holds as long as a linear page's translation does.
enum Dependent {
    Link(u32),
    Jump { mode: Mode, slot: usize },
}

#[derive(Default)]
struct Page {
    global: bool,
    dependents: Vec<Dependent>,
}

pub(crate) struct Translator {
    /// How often a block is interpreted before it is translated.
    threshold: Option<u32>,
    arena: Arena,
    units: Vec<Unit>,
    links: Vec<Link>,
    pages: FxHashMap<u64, Page>,
    /// The link through which translated code was last left.
    pending: Option<u32>,
    /// The TLB's epoch up to which `pages` is right.
    epoch: u64,
    /// Where the budget ends, in ticks.
    end: u64,
    /// Translated code was left by a simulated instruction: the state is all in the `Cpu`.
    simulated: bool,
    pub(crate) stats: TranslatorStats,
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

impl Translator {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            threshold: Some(THRESHOLD),
            arena: Arena::new(ARENA_BYTES)?,
            units: Vec::new(),
            links: Vec::new(),
            pages: FxHashMap::default(),
            pending: None,
            epoch: 0,
            end: 0,
            simulated: false,
            stats: TranslatorStats::default(),
        })
    }

    /// Makes nothing lead to `unit` any more: its bytes have changed.
    pub(crate) fn detach(&mut self, frame: &mut Frame, unit: UnitId) {
        let gone = &mut self.units[unit.0 as usize];
        gone.block.set_unit(gone.mode, None);
        frame.forget_jump(gone.mode.index(), jump_slot(gone.block.linear()));
        for link in std::mem::take(&mut gone.incoming) {
            self.unchain(link);
            self.links[link as usize].listed = None;
        }
    }

    /// Throws everything away.
    pub(crate) fn reset(&mut self, frame: &mut Frame) {
        for unit in std::mem::take(&mut self.units) {
            unit.block.set_unit(unit.mode, None);
        }
        self.links.clear();
        self.pending = None;
        self.forget(frame, |_| true);
        self.arena.flush();
        self.stats.resets += 1;
    }

    fn unchain(&mut self, link: u32) {
        let link = &self.links[link as usize];
        self.arena.patch(link.at, &link.unchained);
    }

    /// Forgets what was kept by linear address and is gone from the TLB.
    fn follow(&mut self, tlb: &mut Tlb) {
        if self.epoch == tlb.epoch {
            return;
        }
        self.epoch = tlb.epoch;
        let Gone { pages, local, all } = tlb.take_gone();
        if all || local {
            self.forget(&mut tlb.frame, |page| all || !page.global);
        }
        for page in pages {
            if let Some(page) = self.pages.remove(&page) {
                self.forget_page(&mut tlb.frame, page);
            }
        }
    }

    fn forget(&mut self, frame: &mut Frame, goes: impl Fn(&Page) -> bool) {
        let mut pages = std::mem::take(&mut self.pages);
        pages.retain(|_, page| {
            let gone = goes(page);
            if gone {
                self.forget_page(frame, std::mem::take(page));
            }
            !gone
        });
        self.pages = pages;
    }

    fn forget_page(&mut self, frame: &mut Frame, page: Page) {
        for dependent in page.dependents {
            match dependent {
                // After a reset the links are gone, and with them the code they were in.
                Dependent::Link(link) if (link as usize) < self.links.len() => self.unchain(link),
                Dependent::Link(_) => {}
                Dependent::Jump { mode, slot } => frame.forget_jump(mode.index(), slot),
            }
        }
    }

    /// Notes that `dependent` holds while the translation of `linear`'s page does.
    fn depend(&mut self, frame: &mut Frame, linear: u64, global: bool, dependent: Dependent) {
        let page = self.pages.entry(linear & !(PAGE - 1)).or_default();
        page.global = global;
        page.dependents.push(dependent);
        if page.dependents.len() > DEPENDENTS_MAX {
            let page = std::mem::take(page);
            self.forget_page(frame, page);
        }
    }

    fn address(&self, unit: UnitId) -> *const u8 {
        self.arena.address(self.units[unit.0 as usize].code)
    }

    /// Chains the link through which translated code was left to `unit`, which it leads to.
    fn chain(&mut self, frame: &mut Frame, unit: UnitId, global: bool) {
        let Some(number) = self.pending.take() else {
            return;
        };
        let link = self.links[number as usize];
        let (from, to) = (
            &self.units[link.from.0 as usize],
            &self.units[unit.0 as usize],
        );
        if link.target != to.block.linear() || from.mode != to.mode {
            return;
        }
        let jump = jump(link.at as usize, to.code as usize);
        let same_page = |a: u64, b: u64| a / PAGE == b / PAGE;
        let near = same_page(from.block.linear(), to.block.linear())
            && same_page(from.block.gpa(), to.block.gpa());
        self.arena.patch(link.at, &jump);
        self.stats.chained += 1;
        if link.listed != Some(unit) {
            self.units[unit.0 as usize].incoming.push(number);
            self.links[number as usize].listed = Some(unit);
        }
        if !near {
            self.depend(frame, link.target, global, Dependent::Link(number));
        }
    }

    /// Places host code for `block`; `None` when it has no room.
    fn place(
        &mut self,
        block: &Rc<Block>,
        mode: Mode,
        instructions: &[Instruction],
        bytes: &[u8],
    ) -> Option<UnitId> {
        let id = UnitId(u32::try_from(self.units.len()).ok()?);
        let mut lowered = Lowering::new(block, instructions, bytes, mode, id.0).run();
        if self.units.len() >= UNITS_MAX || self.links.len() + lowered.links.len() > LINKS_MAX {
            return None;
        }
        for (number, link) in (self.links.len()..).zip(&lowered.links) {
            let number = u32::try_from(number).ok()?;
            lowered.code.bytes[link.number_at..link.number_at + 4]
                .copy_from_slice(&number.to_le_bytes());
        }
        let code = self.arena.push(&lowered.code.bytes)?.offset;
        for link in lowered.links {
            self.links.push(Link {
                from: id,
                at: code + u32::try_from(link.at).ok()?,
                unchained: std::array::from_fn(|n| lowered.code.bytes[link.at + n]),
                target: link.target,
                listed: None,
            });
        }
        self.stats.units += 1;
        self.stats.instructions += instructions.len() as u64;
        self.stats.code_bytes += lowered.code.bytes.len() as u64;
        self.units.push(Unit {
            block: Rc::clone(block),
            mode,
            code,
            incoming: Vec::new(),
        });
        block.set_unit(mode, Some(id));
        Some(id)
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
        let Some(mode) = self.translation_mode() else {
            return false;
        };
        if self.deadline - self.ticks < block.ops.len() as u64 {
            return false;
        }
        let Some(unit) = block.unit(mode).or_else(|| self.translate(block, mode)) else {
            return false;
        };
        self.translator.follow(&mut self.tlb);
        let linear = block.linear();
        let bank = if self.cpl == 3 {
            Bank::User
        } else {
            Bank::Supervisor
        };
        let global = self.tlb.is_global_fetch(bank, linear);
        let code = self.translator.address(unit);
        self.translator.chain(&mut self.tlb.frame, unit, global);
        if self.tlb.frame.remember_jump(mode.index(), linear, code) {
            let slot = jump_slot(linear);
            let jump = Dependent::Jump { mode, slot };
            self.translator
                .depend(&mut self.tlb.frame, linear, global, jump);
        }
        self.enter(p, code);
        true
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
        for (i, op) in instructions.iter().zip(block.ops.iter()) {
            let simulated = classify(i, op, mode.floats()) == Class::Simulate;
            self.translator.stats.left_to_interpreter += u64::from(simulated);
        }
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

    /// Executes the instruction that translated code has come to; whether translated code must be left.
    fn simulate(&mut self, p: &mut dyn Platform) -> bool {
        self.take_x87();
        let header = self.tlb.frame.header();
        let (unit, at) = (
            header.site >> SITE_OP_BITS,
            header.site as usize & ((1 << SITE_OP_BITS) - 1),
        );
        let (budget, flags) = (header.budget, header.flags);
        let unit = &self.translator.units[unit as usize];
        let (block, mode) = (Rc::clone(&unit.block), unit.mode);
        let ahead = (block.ops.len() - at) as u64;
        self.ticks = self.translator.end.wrapping_add_signed(-budget) + at as u64;
        self.rip = block.linear().wrapping_add(block.start(at));
        self.flags = self.flags & !crate::flags::STATUS | status(flags);
        self.translator.stats.simulated += 1;
        let behind = self.rip.wrapping_add(u64::from(block.ops[at].len));
        self.translator.simulated = true;
        if let Err(exception) = self.simulate_one(p, &block, at, behind) {
            self.raise(p, exception, Origin::Fault);
            return true;
        }
        let settled = self.events == 0 || self.has_settled(p, &block);
        let goes_on = settled
            && ahead > 1
            && self.rip == behind
            && self.tlb.epoch == self.translator.epoch
            && self.translation_mode() == Some(mode)
            && self.deadline.saturating_sub(self.ticks) >= ahead - 1;
        if goes_on {
            self.translator.simulated = false;
            self.translator.end = self.ticks + self.budget();
            // What the unit has executed is charged when it is left.
            self.lend(self.translator.end - self.ticks + at as u64 + 1);
        }
        !goes_on
    }

    /// Looks at what an instruction asked to be looked at; whether that leaves nothing to do and `block` as it was.
    fn has_settled(&mut self, p: &mut dyn Platform, block: &Block) -> bool {
        self.events & !(EVENT_BREAK | EVENT_POLL) == 0
            && self.attend(p).is_none()
            && self.events == 0
            && !self.is_careful()
            && block.is_valid()
    }

    /// Instructions to the deadline, a signed word's worth at most.
    fn budget(&self) -> u64 {
        (self.deadline - self.ticks).min(i64::MAX.cast_unsigned() / 2)
    }

    fn simulate_one(
        &mut self,
        p: &mut dyn Platform,
        block: &Block,
        at: usize,
        behind: u64,
    ) -> Result {
        let op = &block.ops[at];
        self.next_rip = behind;
        (op.handler)(self, p, op)?;
        self.rip = self.next_rip;
        self.ticks += 1;
        Ok(())
    }
}
