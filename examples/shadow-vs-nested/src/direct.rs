//! Under direct paging: the kernel knows, and asks the monitor for updates in batches.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::{Result, bail};
use guest_paging::direct::{Direct, FrameType, Update};
use guest_paging::tlb::{Invpcid, Tag, Tlb};
use guest_paging::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use guest_paging::x86::Context;
use guest_paging::{Gva, Hpa, PinnedMemory, WalkError};

use crate::machine::{self, Cost, GUEST_FRAMES, Machine, Outcome};
use crate::shadowed::user;

pub(crate) struct DirectPaging<'m> {
    memory: &'m GuestMemoryMmap,
    pinned: PinnedMemory<'m>,
    guest: Context,
    direct: Direct<Box<dyn FnMut()>>,
    /// The monitor must flush before a frame changes its type.
    must_flush: Rc<Cell<bool>>,
    queue: Vec<Update>,
    /// Pages to flush, which travels with the updates.
    flushes: Vec<u64>,
    tlb: Tlb,
    tag: Tag,
    fault_exits: u64,
    /// Flushes that no update took along.
    flush_exits: u64,
    batch_max: usize,
}

impl<'m> DirectPaging<'m> {
    pub(crate) fn new(memory: &'m GuestMemoryMmap, batch_max: usize) -> Result<Self> {
        let must_flush = Rc::new(Cell::new(false));
        let flag = Rc::clone(&must_flush);
        let flush: Box<dyn FnMut()> = Box::new(move || flag.set(true));
        Ok(Self {
            memory,
            pinned: PinnedMemory::new(memory)?,
            guest: machine::context(),
            direct: Direct::new(0, u32::try_from(GUEST_FRAMES)?, 256..512, flush),
            must_flush,
            queue: Vec::new(),
            flushes: Vec::new(),
            tlb: machine::tlb(),
            tag: Tag::default(),
            fault_exits: 0,
            flush_exits: 0,
            batch_max,
        })
    }

    fn obey(&mut self) {
        if self.must_flush.take() {
            self.tlb.invpcid(self.tag, Invpcid::AllContexts);
        }
    }
}

impl Machine for DirectPaging<'_> {
    const KERNEL_MAPS_MEMORY: bool = false;

    fn write_entry(&mut self, at: u64, entry: u64) -> Result<()> {
        if !matches!(self.direct.frame_type(at >> 12), FrameType::Table(_)) {
            return Ok(self.memory.write_obj(entry, GuestAddress(at))?);
        }
        let at = Hpa(at);
        self.queue.push(Update { at, entry });
        if self.queue.len() >= self.batch_max {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        if !self.queue.is_empty() {
            self.direct.mmu_update(&self.pinned, &self.queue)?;
            self.queue.clear();
            self.obey();
        } else if !self.flushes.is_empty() {
            self.flush_exits += 1;
        }
        for page in self.flushes.drain(..) {
            self.tlb.invlpg(self.tag, Gva(page));
        }
        Ok(())
    }

    fn access(&mut self, gva: u64, write: bool) -> Result<Outcome> {
        let walked = self.tlb.translate(
            &self.pinned,
            &self.guest,
            self.tag,
            Gva(gva),
            user(write),
            &mut (),
        );
        match walked {
            Ok(_) => Ok(Outcome::Done),
            Err(WalkError::Fault(_)) => {
                // By way of the monitor.
                self.fault_exits += 1;
                Ok(Outcome::PageFault)
            }
            Err(error) => bail!("the guest's tables lead nowhere: {error}"),
        }
    }

    fn switch(&mut self, root: u64, pcid: u16) -> Result<()> {
        if self.direct.frame_type(root) == FrameType::None {
            self.direct.pin(&self.pinned, root, 4)?;
        }
        self.direct.load_root(&self.pinned, root)?;
        self.obey();
        self.guest.set_cr3(root << 12);
        self.tag.pcid = pcid;
        self.tlb.invpcid(self.tag, Invpcid::SingleContext(pcid));
        Ok(())
    }

    fn invlpg(&mut self, gva: u64) -> Result<()> {
        self.flushes.push(gva);
        Ok(())
    }

    fn release(&mut self, root: u64) -> Result<()> {
        self.commit()?;
        Ok(self.direct.unpin(&self.pinned, root)?)
    }

    fn cost(&self) -> Cost {
        let counters = self.direct.counters();
        Cost {
            exits: counters.hypercalls + self.fault_exits + self.flush_exits,
            fault_exits: self.fault_exits,
            write_exits: counters.hypercalls,
            flush_exits: self.flush_exits,
            references: self.tlb.counters().references + counters.validated_entries,
            monitor_bytes: self.direct.state_bytes() as u64,
        }
    }
}
