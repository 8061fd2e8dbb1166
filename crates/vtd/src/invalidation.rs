//! Invalidation through the queue and through registers (VT-d 6.5).

use guest_paging::{Gpa, SearchedMemory, TableMemory};
use vm_memory::{Bytes, GuestAddress, GuestMemory};

use crate::capabilities::Features;
use crate::descriptor::{Descriptor, QueueError, Wait, decode, device_range};
use crate::event::{DeviceTlbInvalidation, EVENTS_MAX, Event, PageResponse, Scope};
use crate::ids::{DomainId, Iova, SourceId, u16_at};
use crate::registers::*;
use crate::unit::Unit;

impl Unit {
    /// Whether the queue waits for [events](Self::next_event) to be taken before it goes on.
    fn waits_for_machine(&self, descriptor: &Descriptor) -> bool {
        let full = self.events.len() >= EVENTS_MAX;
        let outstanding =
            |event: &Event| matches!(event, Event::DeviceTlb(_) | Event::MappingsChanged(_));
        full || matches!(descriptor, Descriptor::Wait(_)) && self.events.iter().any(outstanding)
    }

    /// Runs the queue from IQH to IQT, each descriptor once.
    pub(crate) fn run_queue<M: GuestMemory + ?Sized>(&mut self, memory: &M) {
        if self.global_status() & QIE == 0 {
            return;
        }
        let (address, tail) = (self.file.quad(IQA), self.file.quad(IQT));
        let wide = address & IQA_DW != 0;
        let size = 1_u64 << ((address & 7) + 12);
        let step = if wide { 32 } else { 16 };
        while self.file.quad(IQH) != tail && self.file.get(FSTS) & FSTS_IQE == 0 {
            if tail >= size {
                return self.stop_queue(QueueError::InvalidTail);
            }
            if tail % step != 0 {
                return self.stop_queue(QueueError::TailMisaligned);
            }
            let head = self.file.quad(IQH) % size;
            match self.fetch(memory, (address & !0xfff).wrapping_add(head), wide) {
                Ok(descriptor) if self.waits_for_machine(&descriptor) => return,
                Ok(descriptor) => self.execute(memory, descriptor),
                Err(error) => return self.stop_queue(error),
            }
            self.counters.descriptors += 1;
            self.file.set_quad(IQH, (head + step) % size);
        }
    }

    fn fetch<M: GuestMemory + ?Sized>(
        &self,
        memory: &M,
        at: u64,
        wide: bool,
    ) -> Result<Descriptor, QueueError> {
        let memory = SearchedMemory(memory);
        let mut words = [0; 4];
        let count = if wide { 4 } else { 2 };
        for (offset, word) in (0..).step_by(8).zip(&mut words[..count]) {
            let at = at.checked_add(offset).ok_or(QueueError::Fetch)?;
            *word = memory.load_u64(Gpa(at)).map_err(|_| QueueError::Fetch)?;
        }
        decode(words, wide, &self.capabilities)
    }

    /// IQE: IQH stays at the descriptor in error (VT-d 6.5.2.10).
    fn stop_queue(&mut self, error: QueueError) {
        let before = self.fault_conditions();
        self.file.set(IQERCD, u32::from(error as u8));
        self.file.raise(FSTS, FSTS_IQE);
        self.signal_fault(before);
    }

    fn execute<M: GuestMemory + ?Sized>(&mut self, memory: &M, descriptor: Descriptor) {
        match descriptor {
            Descriptor::Contexts { granularity, word } => {
                self.invalidate_contexts(granularity, word >> 16, word >> 32, word >> 48);
            }
            Descriptor::Iotlb {
                granularity,
                word,
                address,
            } => {
                self.invalidate_iotlb(granularity, word, address);
            }
            Descriptor::DeviceTlb {
                source_id,
                pasid,
                address,
                size,
                global,
            } => {
                let (address, inside_bits) = device_range(address, size);
                self.events
                    .push_back(Event::DeviceTlb(DeviceTlbInvalidation {
                        source_id,
                        pasid,
                        address,
                        inside_bits,
                        global,
                    }));
            }
            Descriptor::InterruptEntries(None) => self.interrupt_entries.invalidate_all(),
            Descriptor::InterruptEntries(Some((index, mask))) => {
                self.interrupt_entries.invalidate(index, mask);
            }
            Descriptor::Wait(wait) => self.complete(memory, wait),
            Descriptor::PasidIotlb {
                domain,
                pasid,
                pages,
            } => {
                let (domain_number, number) = (domain.0, pasid.number());
                match pages {
                    None => self.iotlb.invalidate_pasid(domain_number, number),
                    Some(word) => {
                        let (address, mask) = pages_of(word);
                        self.iotlb
                            .invalidate_first_pages(domain_number, number, address, mask);
                    }
                }
                self.observe(Scope::Process(domain, pasid));
            }
            Descriptor::PasidCache {
                granularity,
                domain,
                pasid,
            } => {
                match granularity {
                    0 => self.contexts.invalidate_domain(domain),
                    1 => self.contexts.invalidate_pasid(domain, pasid),
                    _ => self.contexts.invalidate_all(),
                }
                self.observe(Scope::All);
            }
            Descriptor::PageResponse {
                source_id,
                pasid,
                group,
                code,
            } => {
                let response = PageResponse {
                    source_id,
                    pasid,
                    group,
                    code,
                };
                self.events.push_back(Event::PageResponse(response));
            }
        }
    }

    /// All descriptors before are done: nothing here is deferred, so that fences mean nothing more. A status
    /// address without memory is no error that the manual knows.
    fn complete<M: GuestMemory + ?Sized>(&mut self, memory: &M, wait: Wait) {
        if let Some((address, data)) = wait.status {
            let _ = memory.store(
                data.to_le(),
                GuestAddress(address),
                std::sync::atomic::Ordering::Release,
            );
        }
        if wait.interrupt {
            self.signal_completion();
        }
    }

    /// Invalidates contexts by granularity (1 all, 2 a domain, 3 a device), and tells what was done: 0 for
    /// what there is not. The last three are words that begin with DID, SID and FM.
    pub(crate) fn invalidate_contexts(
        &mut self,
        granularity: u64,
        did: u64,
        sid: u64,
        fm: u64,
    ) -> u64 {
        match granularity {
            1 => self.contexts.invalidate_all(),
            2 => self.contexts.invalidate_domain(DomainId(u16_at(did, 0))),
            3 => {
                let mask = (fm & 3).to_le_bytes()[0];
                self.contexts
                    .invalidate_device(SourceId(u16_at(sid, 0)), mask);
            }
            _ => return 0,
        }
        self.observe(Scope::All);
        granularity
    }

    /// Invalidates translations by granularity (1 all, 2 a domain, 3 pages of a domain), and tells what was
    /// done; `None` for what there is not. `did` begins with DID; `address` is that and mask as in IVA.
    pub(crate) fn invalidate_iotlb(
        &mut self,
        granularity: u64,
        did: u64,
        address: u64,
    ) -> Option<u64> {
        let domain = DomainId(u16_at(did, 0));
        match granularity {
            1 => {
                self.iotlb.invalidate_all();
                self.observe(Scope::All);
            }
            2 => {
                self.iotlb.invalidate_domain(domain.0);
                self.observe(Scope::Domain(domain));
            }
            3 => {
                let (address, mask) = pages_of(address);
                if mask > self.capabilities.address_mask_max {
                    return None;
                }
                self.iotlb.invalidate_second_pages(domain.0, address, mask);
                self.observe(Scope::Pages {
                    domain,
                    address: Iova(address),
                    bytes: 1 << (12 + mask),
                });
            }
            _ => return None,
        }
        Some(granularity)
    }

    /// What SRTP does of itself: CAP.ESRTPS is not told, for software need not know.
    pub(crate) fn invalidate_everything(&mut self) {
        self.contexts.invalidate_all();
        self.iotlb.invalidate_all();
        self.observe_everything();
    }

    pub(crate) fn observe_everything(&mut self) {
        self.observe(Scope::All);
    }

    fn observe(&mut self, scope: Scope) {
        if !self.capabilities.has(Features::CACHING_MODE) {
            return;
        }
        let covered = |event: &Event| {
            let Event::MappingsChanged(waiting) = event else {
                return false;
            };
            *waiting == Scope::All || *waiting == scope
        };
        if self.events.iter().any(covered) {
            return;
        }
        // With no room left for each, everything stands for all.
        let full = self.events.len() >= EVENTS_MAX;
        let scope = if full { Scope::All } else { scope };
        if full {
            self.events
                .retain(|event| !matches!(event, Event::MappingsChanged(_)));
        }
        self.events.push_back(Event::MappingsChanged(scope));
    }
}

/// Address and mask as they stand in IVA and in descriptors: the pages begin at a multiple of their number.
fn pages_of(word: u64) -> (u64, u8) {
    let mask = (word & 0x3f).to_le_bytes()[0];
    let inside = if mask < 52 {
        (1 << (12 + mask)) - 1
    } else {
        !0
    };
    (word & !0xfff & !inside, mask)
}
