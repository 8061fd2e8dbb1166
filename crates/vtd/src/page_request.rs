//! Page requests: a device asks for pages that are not there (VT-d 7.4 and 7.5).
//!
//! This is what lets a hypervisor swap memory that devices use: without, all of it must be there always.

use vm_memory::{Bytes, GuestAddress, GuestMemory};

use crate::event::{Event, PageResponse, ResponseCode};
use crate::fault::{AccessKind, Fault, Reason};
use crate::ids::{Iova, Pasid, SourceId};
use crate::registers::*;
use crate::translate::Request;
use crate::unit::Unit;

/// A page request message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRequest {
    /// The device.
    pub source_id: SourceId,
    /// The process.
    pub pasid: Option<Pasid>,
    /// The page; bits 11:0 are dropped.
    pub address: Iova,
    /// The device will read.
    pub read: bool,
    /// The device will write.
    pub write: bool,
    /// Privileged mode.
    pub privileged: bool,
    /// Page request group index, below 512; upper bits are dropped.
    pub group: u16,
    /// LPIG: the last request of its group, which is to be answered.
    pub last: bool,
}

impl Unit {
    /// Puts a page request into the queue at PQT, and sends the event's message if it is the first.
    ///
    /// A request that finds the queue full is dropped, PRS.PRO set, and the last of a group answered with
    /// success, so that the device tries again (VT-d 7.4.1).
    ///
    /// # Errors
    ///
    /// Returns the fault where the tables do not let the device ask; it is recorded, and the last request of a
    /// group answered with failure.
    pub fn request_page<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        request: &PageRequest,
    ) -> Result<(), Fault> {
        if let Err(fault) = self.check_page_request(memory, request) {
            self.record_fault(&fault);
            self.answer(request, ResponseCode::Failure);
            return Err(fault);
        }
        let (base, tail) = (self.file.quad(PQA), self.file.quad(PQT));
        let size = 1_u64 << ((base & 7) + 12);
        let (tail, next) = (tail % size, (tail + 32) % size);
        let full = self.file.get(PRS) & PRS_PRO != 0 || next == self.file.quad(PQH) % size;
        let written = !full && {
            let at = (base & !0xfff).checked_add(tail).map(GuestAddress);
            let bytes: Vec<u8> = request
                .words()
                .iter()
                .flat_map(|w| w.to_le_bytes())
                .collect();
            at.is_some_and(|at| memory.write_slice(&bytes, at).is_ok())
        };
        if !written {
            self.file.raise(PRS, PRS_PRO);
            self.answer(request, ResponseCode::Success);
            self.signal_page_request();
            return Ok(());
        }
        self.counters.page_requests += 1;
        self.file.set_quad(PQT, next);
        if request.last {
            self.file.raise(PRS, PRS_PPR);
            self.signal_page_request();
        }
        Ok(())
    }

    fn check_page_request<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        request: &PageRequest,
    ) -> Result<(), Fault> {
        let kind = if request.write {
            AccessKind::Write
        } else {
            AccessKind::Read
        };
        let asked = Request {
            source_id: request.source_id,
            pasid: request.pasid,
            address: request.address,
            kind,
            privileged: request.privileged,
        };
        if self.global_status() & TE == 0 {
            return Err(asked.fault(Reason::PageRequestInLegacyMode, true));
        }
        if self.root >> 10 & 3 == 0 {
            return Err(asked.fault(Reason::PageRequestInLegacyMode, false));
        }
        let context = self.context(memory, &asked)?;
        if context.page_requests {
            Ok(())
        } else {
            Err(asked.fault(Reason::PageRequestDisabled, context.unrecorded))
        }
    }

    /// Answers in place of software.
    fn answer(&mut self, request: &PageRequest, code: ResponseCode) {
        if request.last {
            self.push_response(Event::PageResponse(PageResponse {
                source_id: request.source_id,
                pasid: request.pasid,
                group: request.group & 0x1ff,
                code,
            }));
        }
    }

    fn signal_page_request(&mut self) {
        if self.file.get(PECTL) & INTERRUPT_PENDING == 0 {
            self.file.raise(PECTL, INTERRUPT_PENDING);
            self.send_pending(PECTL);
        }
    }
}

impl PageRequest {
    /// The descriptor (VT-d 7.4.1.1).
    fn words(&self) -> [u64; 4] {
        let bit = |set: bool, place: u32| u64::from(set) << place;
        let pasid = self.pasid.map_or(0, |pasid| {
            1 << 8 | u64::from(pasid.number()) << 32 | bit(self.privileged, 53)
        });
        let first = PAGE_REQUEST | u64::from(self.source_id.0) << 16 | pasid;
        let second = bit(self.read, 0)
            | bit(self.write, 1)
            | bit(self.last, 2)
            | u64::from(self.group & 0x1ff) << 3
            | self.address.0 & !0xfff;
        [first, second, 0, 0]
    }
}

/// The type of the descriptor.
const PAGE_REQUEST: u64 = 0x01;
