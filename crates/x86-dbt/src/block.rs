//! Decoded code: straight-line blocks by physical and linear address, thrown away when their bytes change.

use std::cell::Cell;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::code_pages::{Mail, Seat};
use crate::cpu::{Cpu, EVENT_BREAK};
use crate::decode::{self, Op};
use crate::exception::{GP0, Result};
use crate::frame::MODES;
use crate::memory::Target;
use crate::platform::Platform;
use crate::ram::PAGE;
use crate::segment::CS;
use crate::tlb::Bank;
use crate::translate::{Mode, UnitId};
use crate::walk::Kind;

/// Instructions in a block at most: bounds what one write to its page throws away.
pub(crate) const OPS_MAX: usize = 48;
/// Blocks kept before all are thrown away: bounds the memory a guest can make us use.
const BLOCKS_MAX: usize = 1 << 17;
const JUMPS: usize = 1 << 12;
/// The longest instruction. Intel SDM volume 2, 2.3.11.
pub(crate) const INSTRUCTION_MAX: usize = 15;

/// A run of instructions that ends at the first that cannot fall through, or at the end of a page.
pub(crate) struct Block {
    key: Key,
    pub(crate) ops: Box<[Op]>,
    /// Where each starts, from the block's start.
    starts: Box<[u16]>,
    /// Bytes of code.
    len: u64,
    /// The physical page that the last instruction crosses into.
    second_page: Option<u64>,
    valid: Cell<bool>,
    /// How often it was looked up to be run.
    heat: Cell<u32>,
    /// Instructions that trap so often that translations leave them to the interpreter, a bit each.
    trapping: Cell<u64>,
    /// Its translations by [`crate::translate::Mode`].
    units: Cell<[Option<UnitId>; MODES]>,
}

/// A block's identity: the same bytes decode alike only at the same linear address and code size.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    gpa: u64,
    linear: u64,
    code_bits: u8,
}

/// A remembered answer of [`Cpu::block`].
#[derive(Clone)]
struct Jump {
    linear: u64,
    /// The TLB's epoch, the code size and the privilege under which the answer holds.
    epoch: u64,
    code_bits: u8,
    user: bool,
    block: Rc<Block>,
}

pub(crate) struct BlockCache {
    blocks: FxHashMap<Key, Rc<Block>>,
    /// The blocks that have bytes on a page.
    pages: FxHashMap<u64, Vec<Rc<Block>>>,
    /// Holds the pages that `pages` has an entry for.
    seat: Seat,
    jumps: Box<[Option<Jump>]>,
}

impl BlockCache {
    pub(crate) fn new(seat: Seat) -> Self {
        Self {
            blocks: FxHashMap::default(),
            pages: FxHashMap::default(),
            seat,
            jumps: vec![None; JUMPS].into_boxed_slice(),
        }
    }

    /// Whether some processor has decoded code on the page of `gpa`, so that writes to it must be seen.
    #[inline]
    pub(crate) fn has_code(&self, gpa: u64) -> bool {
        self.seat.is_held(gpa)
    }

    /// Keeps `block`; returns the one that had its place.
    fn insert(&mut self, block: Rc<Block>) -> Option<Rc<Block>> {
        self.attach(block.key.gpa, &block);
        if let Some(second) = block.second_page {
            self.attach(second, &block);
        }
        let replaced = self.blocks.insert(block.key, block);
        if let Some(replaced) = &replaced {
            replaced.valid.set(false);
            self.detach(replaced.key.gpa);
            if let Some(second) = replaced.second_page {
                self.detach(second);
            }
        }
        replaced
    }

    /// Drops the blocks of a page that are no longer valid.
    fn detach(&mut self, gpa: u64) {
        if let Some(here) = self.pages.get_mut(&(gpa / PAGE)) {
            here.retain(|block| block.valid.get());
        }
    }

    fn attach(&mut self, gpa: u64, block: &Rc<Block>) {
        let page = gpa / PAGE;
        match self.pages.entry(page) {
            Entry::Occupied(mut here) => here.get_mut().push(Rc::clone(block)),
            Entry::Vacant(here) => {
                here.insert(vec![Rc::clone(block)]);
                self.seat.hold(page);
            }
        }
    }

    /// Throws away the blocks with bytes in `[gpa, gpa + len)`, all on one page, and hands them over.
    fn invalidate(&mut self, gpa: u64, len: u64) -> Vec<Rc<Block>> {
        let page = gpa / PAGE;
        let Entry::Occupied(mut here) = self.pages.entry(page) else {
            return Vec::new();
        };
        let mut gone = Vec::new();
        here.get_mut().retain(|block| {
            let hit = block.valid.get() && block.overlaps(gpa, len);
            if hit {
                block.valid.set(false);
                gone.push(Rc::clone(block));
                if let Entry::Occupied(entry) = self.blocks.entry(block.key)
                    && Rc::ptr_eq(entry.get(), block)
                {
                    entry.remove();
                }
            }
            block.valid.get()
        });
        if here.get().is_empty() {
            here.remove();
            self.seat.release(page);
        }
        gone
    }

    fn clear(&mut self) {
        for block in self.blocks.values() {
            block.valid.set(false);
        }
        self.blocks.clear();
        self.pages.clear();
        self.seat.release_all();
        self.jumps.fill(None);
    }
}

impl Block {
    /// The linear address of its first instruction.
    pub(crate) fn linear(&self) -> u64 {
        self.key.linear
    }

    /// How far instruction `op` starts from the block's start.
    pub(crate) fn start(&self, op: usize) -> u64 {
        u64::from(self.starts[op])
    }

    pub(crate) fn gpa(&self) -> u64 {
        self.key.gpa
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn is_in_one_page(&self) -> bool {
        self.second_page.is_none()
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.valid.get()
    }

    /// Counts one more run; how many there were.
    pub(crate) fn warm(&self) -> u32 {
        self.heat.replace(self.heat.get().saturating_add(1))
    }

    pub(crate) fn unit(&self, mode: Mode) -> Option<UnitId> {
        self.units.get()[mode.index()]
    }

    pub(crate) fn set_unit(&self, mode: Mode, unit: Option<UnitId>) {
        let mut units = self.units.get();
        units[mode.index()] = unit;
        self.units.set(units);
    }

    /// Whether translations leave instruction `op` to the interpreter because it traps so often.
    pub(crate) fn is_trapping(&self, op: usize) -> bool {
        self.trapping.get() >> op & 1 != 0
    }

    pub(crate) fn set_trapping(&self, op: usize, trapping: bool) {
        let others = self.trapping.get() & !(1 << op);
        self.trapping.set(others | u64::from(trapping) << op);
    }

    pub(crate) fn units(&self) -> impl Iterator<Item = UnitId> {
        self.units.get().into_iter().flatten()
    }

    fn overlaps(&self, gpa: u64, len: u64) -> bool {
        let start = self.key.gpa;
        let in_first = self.len.min(PAGE - start % PAGE);
        let first = start < gpa + len && gpa < start + in_first;
        let second = self
            .second_page
            .is_some_and(|page| gpa < page + (self.len - in_first) && page < gpa + len);
        first || second
    }
}

impl Cpu {
    /// The block at CS:RIP.
    #[inline]
    pub(crate) fn block(&mut self, p: &mut dyn Platform) -> Result<Rc<Block>> {
        let linear = self.code_address();
        let user = self.cpl == 3;
        let slot = jump_slot(linear);
        if let Some(jump) = &self.blocks.jumps[slot]
            && jump.linear == linear
            && jump.epoch == self.tlb.epoch
            && jump.code_bits == self.code_bits
            && jump.user == user
            && jump.block.valid.get()
        {
            return Ok(Rc::clone(&jump.block));
        }
        let block = match self.jump_again(linear, slot, user) {
            Some(block) => block,
            None => self.find_or_decode(p, linear)?,
        };
        self.blocks.jumps[slot] = Some(Jump {
            linear,
            epoch: self.tlb.epoch,
            code_bits: self.code_bits,
            user,
            block: Rc::clone(&block),
        });
        Ok(block)
    }

    /// The block that was at `linear` before the TLB changed, if the same page is still there.
    fn jump_again(&mut self, linear: u64, slot: usize, user: bool) -> Option<Rc<Block>> {
        let jump = self.blocks.jumps[slot].as_ref()?;
        let same = jump.linear == linear && jump.code_bits == self.code_bits && jump.user == user;
        if !same || !jump.block.valid.get() || jump.block.second_page.is_some() {
            return None;
        }
        let block = Rc::clone(&jump.block);
        (self.tlb.fetched(self.fetch_bank(), linear) == Some(block.key.gpa)).then_some(block)
    }

    fn find_or_decode(&mut self, p: &mut dyn Platform, linear: u64) -> Result<Rc<Block>> {
        if self.code_bits == 64 && !self.is_canonical(linear) {
            return Err(GP0);
        }
        let gpa = match self.fetch_target(linear)? {
            Target::Ram { gpa, .. } | Target::Mmio { gpa } => gpa,
        };
        let key = Key {
            gpa,
            linear,
            code_bits: self.code_bits,
        };
        if let Some(block) = self.blocks.blocks.get(&key) {
            let block = Rc::clone(block);
            let Some(second) = block.second_page else {
                return Ok(block);
            };
            let next = self.next_page(linear);
            if matches!(self.fetch_target(next)?, Target::Ram { gpa, .. } if gpa == second) {
                return Ok(block);
            }
        }
        self.decode_block(p, key)
    }

    fn next_page(&self, linear: u64) -> u64 {
        (linear & !(PAGE - 1)).wrapping_add(PAGE) & self.linear_mask
    }

    fn fetch_target(&mut self, linear: u64) -> Result<Target> {
        self.target(linear, Kind::Fetch, self.fetch_bank())
    }

    /// The bank that code is fetched through.
    pub(crate) fn fetch_bank(&self) -> Bank {
        if self.cpl == 3 {
            Bank::User
        } else {
            Bank::Supervisor
        }
    }

    /// Decodes to the end of the block or of the page. Only an instruction that starts a block may cross into the
    /// next page, so that a fault there is raised when that instruction is reached and not before.
    fn decode_block(&mut self, p: &mut dyn Platform, key: Key) -> Result<Rc<Block>> {
        let in_page = (PAGE - key.linear % PAGE) as usize;
        let mut bytes = vec![0; in_page.min(OPS_MAX * INSTRUCTION_MAX)];
        let mut cacheable = self.fetch_bytes(p, key.linear, &mut bytes)?;
        let mut ops = decode::block(
            &bytes,
            key.linear,
            self.code_bits,
            OPS_MAX,
            &mut self.native,
        );
        let mut second_page = None;
        if ops.is_empty() {
            let next = self.next_page(key.linear);
            if bytes.len() >= INSTRUCTION_MAX {
                // Longer than 15 bytes: #GP, whatever the bytes are.
                return Err(GP0);
            }
            let mut more = [0; INSTRUCTION_MAX];
            second_page = match self.fetch_target(next)? {
                Target::Ram { gpa, .. } => Some(gpa),
                Target::Mmio { .. } => None,
            };
            cacheable &= second_page.is_some() & self.fetch_bytes(p, next, &mut more)?;
            bytes.extend(more);
            bytes.truncate(INSTRUCTION_MAX);
            ops = decode::block(&bytes, key.linear, self.code_bits, 1, &mut self.native);
            if ops.is_empty() {
                return Err(GP0);
            }
        }
        let mut len = 0;
        let starts = ops.iter().map(|op| {
            let start = len as u16;
            len += u64::from(op.len);
            start
        });
        let starts = starts.collect();
        let block = Rc::new(Block {
            key,
            ops: ops.into_boxed_slice(),
            starts,
            len,
            second_page,
            valid: Cell::new(cacheable),
            heat: Cell::new(0),
            trapping: Cell::new(0),
            units: Cell::new([None; MODES]),
        });
        self.stats.blocks_decoded += 1;
        if cacheable {
            self.keep(&block);
        }
        Ok(block)
    }

    fn keep(&mut self, block: &Rc<Block>) {
        if self.blocks.blocks.len() >= BLOCKS_MAX {
            self.forget_code();
        }
        for page in [Some(block.key.gpa), block.second_page]
            .into_iter()
            .flatten()
        {
            if !self.blocks.has_code(page) {
                self.tlb.protect(page);
            }
        }
        if let Some(replaced) = self.blocks.insert(Rc::clone(block)) {
            for unit in replaced.units() {
                self.translator.detach(&mut self.tlb.frame, unit);
            }
        }
    }

    /// Reads code bytes that lie on one page; whether they came from RAM, and so may be kept.
    fn fetch_bytes(&mut self, p: &mut dyn Platform, linear: u64, bytes: &mut [u8]) -> Result<bool> {
        match self.fetch_target(linear)? {
            Target::Ram { host, gpa } => {
                host.read(gpa % PAGE, bytes);
                Ok(true)
            }
            Target::Mmio { gpa } => {
                self.before_device(p);
                for (at, chunk) in (gpa..).step_by(8).zip(bytes.chunks_mut(8)) {
                    p.mmio_read(at, chunk);
                }
                Ok(false)
            }
        }
    }

    /// Whether the instruction of `len` bytes at RIP lies inside the code segment.
    pub(crate) fn within_code_segment(&self, len: u8) -> bool {
        self.code_bits == 64 || self.seg[usize::from(CS)].contains(self.rip, usize::from(len))
    }

    /// Whether the whole block lies inside the code segment, so that its instructions need not be asked one by one.
    pub(crate) fn block_within_code_segment(&self, block: &Block) -> bool {
        self.code_bits == 64
            || u64::from(self.seg[usize::from(CS)].limit) >= self.rip + block.len - 1
    }

    /// Must follow every write to RAM that the TLB's write tags did not allow.
    pub(crate) fn code_written(&mut self, gpa: u64, len: u64) {
        if self.watch.has(gpa) {
            self.tell(|observer, context| observer.written(context, gpa, len));
        }
        let mut at = gpa;
        let end = gpa.saturating_add(len);
        while at < end {
            let part = (end - at).min(PAGE - at % PAGE);
            if self.blocks.has_code(at) {
                self.stats.traced_writes += 1;
                self.blocks.seat.tell_written(at, part);
                self.drop_code(at, part);
            }
            at += part;
        }
    }

    /// Drops what was decoded from `[gpa, gpa + len)`, all on one page.
    fn drop_code(&mut self, gpa: u64, len: u64) {
        let gone = self.blocks.invalidate(gpa, len);
        self.stats.blocks_invalidated += gone.len() as u64;
        for unit in gone.iter().flat_map(|block| block.units()) {
            self.translator.detach(&mut self.tlb.frame, unit);
        }
        if !gone.is_empty() {
            self.events |= EVENT_BREAK;
        }
    }

    /// Takes up what other processors over the same RAM have done to code since this one last ran; must come before it
    /// runs.
    #[inline]
    pub(crate) fn catch_up(&mut self) {
        if let Some(mail) = self.blocks.seat.take_mail() {
            self.hear(&mail);
        }
    }

    #[inline(never)]
    fn hear(&mut self, mail: &Mail) {
        if mail.everything {
            self.forget_code();
            self.tlb.flush(false);
        }
        for &page in &mail.protected {
            self.tlb.protect(page);
        }
        for &(gpa, len) in &mail.written {
            let mut at = gpa;
            while at < gpa + len {
                let part = (gpa + len - at).min(PAGE - at % PAGE);
                self.drop_code(at, part);
                at += part;
            }
        }
    }

    /// Forgets all decoded code, when native stubs that it names are gone.
    pub(crate) fn forget_code(&mut self) {
        self.blocks.clear();
        self.translator.reset(&mut self.tlb.frame);
        self.events |= EVENT_BREAK;
    }
}

fn jump_slot(linear: u64) -> usize {
    ((linear ^ (linear >> 12)) as usize) & (JUMPS - 1)
}
