//! The remapping unit: its registers and commands.

use std::collections::VecDeque;

use vm_memory::GuestMemory;

use crate::capabilities::Capabilities;
use crate::capabilities::Features;
use crate::context_cache::ContextCache;
use crate::event::{EVENTS_MAX, Event, Message};
use crate::fault::Fault;
use crate::fault_log::{FaultLog, Recorded};
use crate::file::{CCMD_HIGH, IOTLB_HIGH, RegisterFile};
use crate::ids::u32_at;
use crate::interrupt_cache::InterruptCache;
use crate::iotlb::{Iotlb, IotlbCounters};
use crate::registers::*;

/// What a unit did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Register reads.
    pub reads: u64,
    /// Register writes.
    pub writes: u64,
    /// Accesses that are neither 4 nor 8 bytes at a multiple of 4: they read as zero and write nothing.
    pub bad_accesses: u64,
    /// Translations by a context that was cached. Translations that the IOTLB answered are not among them.
    pub context_hits: u64,
    /// Translations that read root, context and PASID tables.
    pub context_misses: u64,
    /// Walks of paging structures.
    pub walks: u64,
    /// Faults that were recorded.
    pub faults_recorded: u64,
    /// Faults that were not: by FPD, because one of the same requester stands, or for want of a register.
    pub faults_unrecorded: u64,
    /// Descriptors taken from the invalidation queue.
    pub descriptors: u64,
    /// Invalidations ordered through CCMD and IOTLB.
    pub register_invalidations: u64,
    /// Interrupts that were remapped, posted ones among them.
    pub interrupts_remapped: u64,
    /// Interrupts that were posted.
    pub interrupts_posted: u64,
    /// Interrupts that were blocked.
    pub interrupts_blocked: u64,
    /// Interrupt entries that were cached when asked for.
    pub interrupt_entry_hits: u64,
    /// Page requests that were put into the queue.
    pub page_requests: u64,
    /// Messages that the unit sent of itself.
    pub messages: u64,
}

/// A DMA-remapping unit.
///
/// Its registers lie in [`LENGTH`] bytes of memory, at `0xfed9_0000` on a PC. Memory is handed to each call
/// that may reach it. After a call that takes `&mut self`, take its [events](Self::next_event).
#[derive(Clone, Debug)]
pub struct Unit {
    pub(crate) capabilities: Capabilities,
    pub(crate) file: RegisterFile,
    pub(crate) faults: FaultLog,
    /// RTADDR as of the last SRTP.
    pub(crate) root: u64,
    /// IRTA as of the last SIRTP.
    pub(crate) interrupt_table: u64,
    pub(crate) contexts: ContextCache,
    pub(crate) iotlb: Iotlb,
    pub(crate) interrupt_entries: InterruptCache,
    pub(crate) events: VecDeque<Event>,
    pub(crate) counters: Counters,
}

impl Unit {
    /// A unit after reset: translation and remapping are disabled.
    ///
    /// # Panics
    ///
    /// Panics if the capabilities contradict each other: see their fields.
    #[must_use]
    pub fn new(capabilities: Capabilities) -> Self {
        capabilities.assert_consistent();
        let collapse = capabilities.has(Features::COLLAPSE_FAULTS);
        Self {
            file: RegisterFile::new(&capabilities),
            faults: FaultLog::new(capabilities.fault_records, collapse),
            root: 0,
            interrupt_table: 0,
            contexts: ContextCache::new(),
            iotlb: Iotlb::new(capabilities.iotlb_entries, capabilities.domain_bits),
            interrupt_entries: InterruptCache::new(),
            events: VecDeque::with_capacity(EVENTS_MAX + MESSAGES_MAX),
            counters: Counters::default(),
            capabilities,
        }
    }

    /// What the unit was made to be.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// What it did.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What its IOTLB did.
    #[must_use]
    pub fn iotlb_counters(&self) -> IotlbCounters {
        self.iotlb.counters()
    }

    /// Whether requests are translated: GSTS.TES.
    #[must_use]
    pub fn translates(&self) -> bool {
        self.global_status() & TE != 0
    }

    /// Whether interrupts are remapped: GSTS.IRES.
    #[must_use]
    pub fn remaps(&self) -> bool {
        self.global_status() & IRE != 0
    }

    pub(crate) fn global_status(&self) -> u32 {
        self.file.get(GSTS)
    }

    /// The oldest thing that the machine must do for the unit. None is lost: while
    /// [`EVENTS_MAX`] are waiting, the queue stands still. When all have been taken, call
    /// [`process`](Self::process).
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Goes on with the invalidation queue, where it stopped for events to be taken.
    pub fn process<M: GuestMemory + ?Sized>(&mut self, memory: &M) {
        self.run_queue(memory);
    }

    /// Reads registers: 4 or 8 bytes at a multiple of 4. Anything else reads as zero.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.counters.reads += 1;
        data.fill(0);
        if !self.is_good(offset, data.len()) {
            return;
        }
        for (at, word) in (offset..).step_by(4).zip(data.chunks_exact_mut(4)) {
            word.copy_from_slice(&self.read_word(at).to_le_bytes());
        }
    }

    /// Writes registers: 4 or 8 bytes at a multiple of 4. Anything else does nothing.
    ///
    /// Commands are carried out before this returns; a write of IQT runs the invalidation queue, which has up
    /// to 2^15 descriptors.
    pub fn write<M: GuestMemory + ?Sized>(&mut self, memory: &M, offset: u64, data: &[u8]) {
        self.counters.writes += 1;
        if !self.is_good(offset, data.len()) {
            return;
        }
        for (at, word) in (offset..).step_by(4).zip(data.as_chunks::<4>().0) {
            self.write_word(memory, at, u32::from_le_bytes(*word));
        }
    }

    fn is_good(&mut self, offset: u64, length: usize) -> bool {
        let good = offset.is_multiple_of(4) && offset < LENGTH && matches!(length, 4 | 8);
        self.counters.bad_accesses += u64::from(!good);
        good
    }

    fn read_word(&self, offset: u64) -> u32 {
        match offset {
            // Write-only: IVA, and SID and FM of CCMD.
            IVA..IOTLB => 0,
            CCMD => self.file.get(CCMD) & 0xffff,
            CCMD_HIGH => self.file.get(CCMD_HIGH) & !3,
            FSTS => {
                let pending = if self.faults.is_pending() {
                    FSTS_PPF
                } else {
                    0
                };
                self.file.get(FSTS) & !FSTS_PPF | pending
            }
            FRCD.. => self.faults.get(offset - FRCD).unwrap_or(0),
            _ => self.file.get(offset),
        }
    }

    fn write_word<M: GuestMemory + ?Sized>(&mut self, memory: &M, offset: u64, value: u32) {
        if offset >= FRCD {
            self.faults.write(offset - FRCD, value);
            return self.settle_fault_event();
        }
        self.file.write(&self.capabilities, offset, value);
        match offset {
            GCMD => self.command(memory, value),
            CCMD_HIGH if value >> 31 != 0 => self.context_command(),
            IOTLB_HIGH if value >> 31 != 0 => self.iotlb_command(),
            FSTS => {
                self.settle_fault_event();
                // A queue that stood still for an error goes on when the error is cleared.
                self.run_queue(memory);
            }
            ICS => self.settle_completion_event(),
            PRS => self.settle_page_request_event(),
            FECTL | IECTL | PECTL => self.send_pending(offset),
            IQT => self.run_queue(memory),
            _ => {}
        }
    }

    /// GCMD (VT-d 11.4.4): commands that toggle act where they differ from the status.
    fn command<M: GuestMemory + ?Sized>(&mut self, memory: &M, value: u32) {
        let changed = value ^ self.global_status();
        let has = |feature| self.capabilities.has(feature);
        let (queued, remapping) = (
            has(Features::QUEUED_INVALIDATION),
            has(Features::INTERRUPT_REMAPPING),
        );
        if value & SRTP != 0 {
            self.root = self.file.quad(RTADDR);
            self.file.raise(GSTS, SRTP);
            self.invalidate_everything();
        }
        if value & SIRTP != 0 && remapping {
            self.interrupt_table = self.file.quad(IRTA);
            self.file.raise(GSTS, SIRTP);
            self.interrupt_entries.invalidate_all();
        }
        if changed & TE != 0 {
            self.toggle(TE, value);
            self.observe_everything();
        }
        if changed & IRE != 0 && remapping {
            self.toggle(IRE, value);
        }
        if changed & CFI != 0 && remapping {
            self.toggle(CFI, value);
        }
        if changed & QIE != 0 && queued {
            self.toggle(QIE, value);
            if value & QIE == 0 {
                self.file.set_quad(IQH, 0);
            }
            // Software that sets IQT before QIE means it.
            self.run_queue(memory);
        }
    }

    fn toggle(&mut self, bit: u32, value: u32) {
        self.file.clear(GSTS, bit);
        self.file.raise(GSTS, value & bit);
    }

    /// Records a fault, and sends the fault event's message if this is the first condition (VT-d 7.2).
    pub(crate) fn record_fault(&mut self, fault: &Fault) {
        if fault.unrecorded || self.file.get(FSTS) & FSTS_PFO != 0 {
            self.counters.faults_unrecorded += 1;
            return;
        }
        let before = self.fault_conditions();
        match self.faults.record(fault) {
            Recorded::At(index) => {
                self.counters.faults_recorded += 1;
                if before & FSTS_PPF == 0 {
                    let index = u32::try_from(index).expect("128 at most") << FSTS_FRI_SHIFT;
                    self.file.clear(FSTS, 0xff << FSTS_FRI_SHIFT);
                    self.file.raise(FSTS, index);
                }
                self.file.raise(FSTS, FSTS_PPF);
            }
            Recorded::Collapsed => self.counters.faults_unrecorded += 1,
            Recorded::Overflow => {
                self.counters.faults_unrecorded += 1;
                self.file.raise(FSTS, FSTS_PFO);
            }
        }
        self.signal_fault(before);
    }

    /// The conditions in FSTS of which each may be the first.
    pub(crate) fn fault_conditions(&self) -> u32 {
        self.read_word(FSTS) & (FSTS_PFO | FSTS_PPF | FSTS_IQE | FSTS_ICE | FSTS_ITE)
    }

    /// Sends the fault event's message if there was no condition before and is one now.
    pub(crate) fn signal_fault(&mut self, before: u32) {
        if before == 0 && self.fault_conditions() != 0 {
            self.file.raise(FECTL, INTERRUPT_PENDING);
            self.send_pending(FECTL);
        }
    }

    /// Nothing is due any more when software has cleared all conditions.
    fn settle_fault_event(&mut self) {
        if !self.faults.is_pending() {
            self.file.clear(FSTS, FSTS_PPF);
        }
        if self.fault_conditions() == 0 {
            self.file.clear(FECTL, INTERRUPT_PENDING);
        }
    }

    fn settle_completion_event(&mut self) {
        if self.file.get(ICS) & ICS_IWC == 0 {
            self.file.clear(IECTL, INTERRUPT_PENDING);
        }
    }

    /// The completion of a wait descriptor with IF (VT-d 6.5.2.8).
    pub(crate) fn signal_completion(&mut self) {
        if self.file.get(ICS) & ICS_IWC == 0 {
            self.file.raise(ICS, ICS_IWC);
            self.file.raise(IECTL, INTERRUPT_PENDING);
            self.send_pending(IECTL);
        }
    }

    /// Sends the message that is due at FECTL, IECTL or PECTL, unless it is masked. Data, address and upper
    /// address follow the control register.
    pub(crate) fn send_pending(&mut self, control: u64) {
        let state = self.file.get(control);
        if state & INTERRUPT_PENDING == 0 || state & INTERRUPT_MASK != 0 {
            return;
        }
        self.file.clear(control, INTERRUPT_PENDING);
        self.counters.messages += 1;
        let message = Message {
            address: self.file.quad(control + 8),
            data: self.file.get(control + 4),
        };
        self.push_message(message);
    }

    /// Messages of one kind that nobody has taken are one message, as the register's bit is one.
    fn push_message(&mut self, message: Message) {
        let event = Event::Message(message);
        if !self.events.contains(&event) {
            self.push_response(event);
        }
    }

    /// What comes while nobody takes events is lost in the end, as on a bus that does not answer.
    pub(crate) fn push_response(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX + MESSAGES_MAX {
            self.events.push_back(event);
        }
    }

    fn context_command(&mut self) {
        self.counters.register_invalidations += 1;
        let command = self.file.quad(CCMD);
        let done =
            self.invalidate_contexts(command >> 61 & 3, command, command >> 16, command >> 32);
        // ICC is clear again at once; CAIG tells what was done.
        let caig = u32_at(done << 59, 32);
        self.file.clear(CCMD_HIGH, 0x9800_0000);
        self.file.raise(CCMD_HIGH, caig);
    }

    fn iotlb_command(&mut self) {
        self.counters.register_invalidations += 1;
        let (command, address) = (self.file.quad(IOTLB), self.file.quad(IVA));
        let done = self.invalidate_iotlb(command >> 60 & 3, command >> 32, address);
        let iaig = u32_at(done.unwrap_or(0) << 57, 32);
        self.file.clear(IOTLB_HIGH, 0x8600_0000);
        self.file.raise(IOTLB_HIGH, iaig);
    }

    fn settle_page_request_event(&mut self) {
        if self.file.get(PRS) & (PRS_PPR | PRS_PRO) == 0 {
            self.file.clear(PECTL, INTERRUPT_PENDING);
        }
    }
}

/// Room for messages and the like beyond what stops the queue: one more of each kind is the most that one
/// call makes.
pub(crate) const MESSAGES_MAX: usize = 16;
