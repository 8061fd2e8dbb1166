//! Devices that translate for themselves: translation requests and translated requests (VT-d chapter 4).

use vm_memory::GuestMemory;

use crate::fault::{AccessKind, Fault, Reason};
use crate::ids::{Iova, SourceId};
use crate::registers::TE;
use crate::translate::{Request, Translation, in_interrupt_range};
use crate::unit::Unit;

/// The answer to a translation request (VT-d 4.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceTranslation {
    /// Where the page is; no meaning if neither right is given.
    pub address: u64,
    /// Bits of an address inside the page.
    pub inside_bits: u8,
    /// The device may read.
    pub read: bool,
    /// The device may write.
    pub write: bool,
}

impl Unit {
    /// Answers a translation request: `request.kind` is [`AccessKind::Read`] where the device says that it
    /// will not write (NW), and [`AccessKind::ReadWrite`] otherwise.
    ///
    /// A page that is not there gives no rights and records nothing: the device may ask for it with
    /// [`request_page`](Self::request_page).
    ///
    /// # Errors
    ///
    /// Returns the fault where tables are malformed, or do not let the device keep translations; it is
    /// recorded. With translation disabled the request is unsupported: the fault is not recorded.
    pub fn translate_for_device<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        request: &Request,
    ) -> Result<DeviceTranslation, Fault> {
        self.check_device_tlb(memory, request)?;
        let read = self.one_right(memory, request, AccessKind::Read)?;
        let write = if request.kind.writes() {
            self.one_right(memory, request, AccessKind::Write)?
        } else {
            None
        };
        let page = write.or(read);
        Ok(DeviceTranslation {
            address: page.map_or(0, |page| page.address >> 12 << 12),
            inside_bits: page.map_or(12, |page| page.inside_bits),
            read: read.is_some(),
            write: write.is_some(),
        })
    }

    fn one_right<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        request: &Request,
        kind: AccessKind,
    ) -> Result<Option<Translation>, Fault> {
        match self.find(memory, &Request { kind, ..*request }) {
            Ok(translation) => Ok(Some(translation)),
            Err(fault) if fault.reason.is_recoverable() => Ok(None),
            Err(fault) => {
                self.record_fault(&fault);
                Err(fault)
            }
        }
    }

    /// Checks a request with an address that the device translated itself, which then goes on as it is.
    ///
    /// # Errors
    ///
    /// Returns the fault where the device may not do so; it is recorded, but for translation disabled.
    pub fn check_translated<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        source_id: SourceId,
        address: u64,
        kind: AccessKind,
    ) -> Result<(), Fault> {
        let request = Request::new(source_id, Iova(address), kind);
        self.check_device_tlb(memory, &request)?;
        let beyond = address >> self.capabilities.host_address_bits != 0;
        if beyond || in_interrupt_range(address) {
            let reason = match (self.root >> 10 & 3 == 1, beyond) {
                (false, true) => Reason::BeyondWidth,
                (false, false) => Reason::InterruptRange,
                (true, true) => Reason::ScalableBeyondWidth,
                (true, false) => Reason::ScalableInterruptRange,
            };
            let fault = request.fault(reason, false);
            self.record_fault(&fault);
            return Err(fault);
        }
        Ok(())
    }

    /// Whether the tables let a device keep translations.
    fn check_device_tlb<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        request: &Request,
    ) -> Result<(), Fault> {
        let blocked = |context: &crate::context::Context| {
            let reason = if context.scalable {
                Reason::DeviceTlbDisabled
            } else {
                Reason::RequestTypeBlocked
            };
            (!context.device_tlb).then(|| request.fault(reason, context.unrecorded))
        };
        if self.global_status() & TE == 0 {
            return Err(request.fault(Reason::RequestTypeBlocked, true));
        }
        let found = self.context(memory, request).map(blocked);
        let fault = match found {
            Ok(None) => return Ok(()),
            Ok(Some(fault)) | Err(fault) => fault,
        };
        self.record_fault(&fault);
        Err(fault)
    }
}
