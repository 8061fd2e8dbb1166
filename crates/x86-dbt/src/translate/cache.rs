//! Translations: where they are, what leads to them, and when that ends.

use std::io;
use std::rc::Rc;

use iced_x86::Instruction;

use super::emit::{LINK_BYTES, jump};
use super::lower::Lowering;
use super::pages::{Change, Dependent, Home, Pages};
use super::site::Site;
use super::{Mode, THRESHOLD, TranslatorStats, UnitId};
use crate::arena::Arena;
use crate::block::Block;
use crate::frame::Frame;
use crate::ram::PAGE;
use crate::tlb::{Gone, Tlb};

/// Bytes of host code before all of it is thrown away.
const ARENA_BYTES: usize = 32 << 20;
/// Links before all is thrown away, as their numbers are part of the code.
const LINKS_MAX: usize = 1 << 20;
/// How often an instruction must trap, or not trap, to be translated otherwise.
const ADAPT_AFTER: u8 = 32;

pub(super) struct Unit {
    pub(super) block: Rc<Block>,
    pub(super) mode: Mode,
    /// Where its code starts in the arena.
    code: u32,
    /// Links that were chained to it.
    incoming: Vec<u32>,
    /// For each instruction how often it has trapped lately, or how often not, if it is left to the interpreter for
    /// that.
    heat: Vec<u8>,
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

pub(crate) struct Translator {
    /// How often a block is interpreted before it is translated.
    pub(super) threshold: Option<u32>,
    /// PAUSE is left to the interpreter.
    pub(crate) simulates_pause: bool,
    arena: Arena,
    pub(super) units: Vec<Unit>,
    links: Vec<Link>,
    pages: Pages,
    /// The link through which translated code was last left.
    pub(super) pending: Option<u32>,
    /// The TLB's epoch up to which `pages` is right.
    pub(super) epoch: u64,
    /// Where the budget ends, in ticks.
    pub(super) end: u64,
    /// Translated code was left by a simulated instruction: the state is all in the `Cpu`.
    pub(super) simulated: bool,
    pub(crate) stats: TranslatorStats,
}

impl Translator {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            threshold: Some(THRESHOLD),
            simulates_pause: false,
            arena: Arena::new(ARENA_BYTES)?,
            units: Vec::new(),
            links: Vec::new(),
            pages: Pages::default(),
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
        frame.forget_jump(gone.mode.index(), gone.block.linear());
        for link in std::mem::take(&mut gone.incoming) {
            self.unchain(link);
            self.links[link as usize].listed = None;
        }
    }

    /// Learns whether instruction `op` has trapped (come to a device or a traced page) when the interpreter ran it. One
    /// that often does is left to the interpreter from the next translation on, until it often does not.
    pub(super) fn adapt(&mut self, frame: &mut Frame, unit: UnitId, op: usize, trapped: bool) {
        // The interpreter may have thrown it away.
        let Some(here) = self.units.get_mut(unit.0 as usize) else {
            return;
        };
        here.heat.resize(here.block.ops.len(), 0);
        self.stats.simulated_trapped += u64::from(trapped);
        let trapping = here.block.is_trapping(op);
        let Some(heat) = here.heat.get_mut(op) else {
            return;
        };
        *heat = match trapped != trapping {
            true => *heat + 1,
            false => 0,
        };
        if *heat < ADAPT_AFTER {
            return;
        }
        *heat = 0;
        here.block.set_trapping(op, !trapping);
        if trapping {
            self.stats.cooled += 1;
        } else {
            self.stats.adapted += 1;
        }
        self.detach(frame, unit);
    }

    /// Throws everything away.
    pub(crate) fn reset(&mut self, frame: &mut Frame) {
        self.change_pages(frame, |noted, change| noted.forget_all(change));
        for unit in std::mem::take(&mut self.units) {
            unit.block.set_unit(unit.mode, None);
        }
        self.links.clear();
        self.pending = None;
        self.arena.flush();
        self.stats.resets += 1;
    }

    fn unchain(&mut self, link: u32) {
        let link = &self.links[link as usize];
        self.arena.patch(link.at, &link.unchained);
    }

    /// Forgets what was kept by linear address and is gone from the TLB, but for pages that `is_home` finds where they
    /// were.
    pub(super) fn follow(&mut self, tlb: &mut Tlb, is_home: impl Fn(Home) -> bool) {
        if self.epoch == tlb.epoch {
            return;
        }
        self.epoch = tlb.epoch;
        let Gone { pages, local, all } = tlb.take_gone();
        self.change_pages(&mut tlb.frame, |noted, change| {
            if all {
                noted.forget_all(&mut *change);
            }
            for page in pages {
                noted.forget(page, &mut *change);
            }
            if local && !all {
                noted.settle(is_home, change);
            }
        });
    }

    fn change_pages(
        &mut self,
        frame: &mut Frame,
        change: impl FnOnce(&mut Pages, &mut dyn FnMut(Change)),
    ) {
        let mut pages = std::mem::take(&mut self.pages);
        change(&mut pages, &mut |change| match change {
            Change::TakeDown(dependent) => self.take_down(frame, dependent),
            Change::PutBack(dependent) => self.put_back(frame, dependent),
        });
        self.pages = pages;
    }

    fn take_down(&mut self, frame: &mut Frame, dependent: Dependent) {
        match dependent {
            Dependent::Link(link, _) => self.unchain(link),
            Dependent::Jump(unit) => {
                let unit = &self.units[unit.0 as usize];
                frame.forget_jump(unit.mode.index(), unit.block.linear());
            }
        }
    }

    fn put_back(&mut self, frame: &mut Frame, dependent: Dependent) {
        let (Dependent::Jump(id) | Dependent::Link(_, id)) = dependent;
        let unit = &self.units[id.0 as usize];
        // Its bytes may have changed while it was away.
        if unit.block.unit(unit.mode) != Some(id) {
            return;
        }
        match dependent {
            Dependent::Link(link, _) => self.join(link, id),
            Dependent::Jump(_) => {
                let (mode, linear) = (unit.mode.index(), unit.block.linear());
                frame.remember_jump(mode, linear, self.arena.address(unit.code));
            }
        }
    }

    /// Notes that `dependent` holds while `home` does.
    pub(super) fn depend(
        &mut self,
        frame: &mut Frame,
        home: Home,
        global: bool,
        dependent: Dependent,
    ) {
        self.change_pages(frame, |noted, change| {
            noted.depend(home, global, dependent, change);
        });
    }

    /// Must come before code runs that may have been chained, or unchained, since the last time.
    pub(super) fn publish(&mut self) {
        self.arena.publish();
    }

    pub(super) fn address(&self, unit: UnitId) -> *const u8 {
        self.arena.address(self.units[unit.0 as usize].code)
    }

    /// Chains the link through which translated code was left to `unit`, which it leads to.
    pub(super) fn chain(&mut self, frame: &mut Frame, unit: UnitId, home: Home, global: bool) {
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
        let same_page = |a: u64, b: u64| a / PAGE == b / PAGE;
        let near = same_page(from.block.linear(), to.block.linear())
            && same_page(from.block.gpa(), to.block.gpa());
        self.join(number, unit);
        self.stats.chained += 1;
        if !near {
            self.depend(frame, home, global, Dependent::Link(number, unit));
        }
    }

    /// Makes a link a jump to `unit`.
    fn join(&mut self, number: u32, unit: UnitId) {
        let link = self.links[number as usize];
        let to = &mut self.units[unit.0 as usize];
        let jump = jump(link.at as usize, to.code as usize);
        self.arena.patch(link.at, &jump);
        if link.listed != Some(unit) {
            to.incoming.push(number);
            // A link that goes to and fro between units is listed each time.
            if to.incoming.len() >= 1024 && to.incoming.len().is_power_of_two() {
                to.incoming.sort_unstable();
                to.incoming.dedup();
            }
            self.links[number as usize].listed = Some(unit);
        }
    }

    /// Places host code for `block`; `None` when it has no room.
    pub(super) fn place(
        &mut self,
        block: &Rc<Block>,
        mode: Mode,
        instructions: &[Instruction],
        bytes: &[u8],
    ) -> Option<UnitId> {
        let id = UnitId(u32::try_from(self.units.len()).ok()?);
        let mut lowered =
            Lowering::new(block, instructions, bytes, mode, id, self.simulates_pause).run();
        if self.units.len() >= Site::UNITS_MAX || self.links.len() + lowered.links.len() > LINKS_MAX
        {
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
        self.stats.left_to_interpreter += lowered.untranslated as u64;
        self.stats.code_bytes += lowered.code.bytes.len() as u64;
        self.units.push(Unit {
            block: Rc::clone(block),
            mode,
            code,
            incoming: Vec::new(),
            heat: Vec::new(),
        });
        block.set_unit(mode, Some(id));
        Some(id)
    }
}
