//! Interrupt remapping (VT-d chapter 5).

use guest_paging::{Gpa, SearchedMemory, TableMemory};
use vm_memory::GuestMemory;

use crate::capabilities::Features;
use crate::fault::{AccessKind, Fault, Reason};
use crate::ids::{Iova, SourceId, u16_at, u32_at};
use crate::posted::{Notification, post};
use crate::registers::{CFI, IRE, IRTA_EIME};
use crate::unit::Unit;

/// What becomes of an interrupt request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RemappedInterrupt {
    /// It goes on as it is: remapping is disabled, or it has compatibility format and that is enabled.
    Compatibility {
        /// Where it was written.
        address: u64,
        /// What was written.
        data: u32,
    },
    /// It goes to local APICs.
    Remapped(RemappedMessage),
    /// It was put into a posted-interrupt descriptor.
    Posted {
        /// The vector that was posted.
        vector: u8,
        /// Where the descriptor lies.
        descriptor: u64,
        /// What to send, if the processor must be told.
        notification: Option<Notification>,
    },
}

/// An interrupt as an entry of the interrupt-remapping table describes it (VT-d 9.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RemappedMessage {
    /// The vector.
    pub vector: u8,
    /// DLM: three bits, coded as in the local APIC; not the reserved 3.
    pub delivery_mode: u8,
    /// DST: 32 bits with [extended destinations](IRTA_EIME), otherwise 8.
    pub destination: u32,
    /// DM: the destination is logical.
    pub logical: bool,
    /// RH: to one of those named.
    pub redirection_hint: bool,
    /// TM: level triggered.
    pub level: bool,
}

/// What an interrupt request names.
#[derive(Clone, Copy)]
struct Remappable {
    index: u32,
    reserved: bool,
}

impl Unit {
    /// Remaps an interrupt: a write of `data` to `address` in the interrupt range, without PASID, by
    /// `source_id`. The message of an I/O APIC is remapped as its own write.
    ///
    /// A posted interrupt is written into its descriptor in `memory`.
    ///
    /// # Errors
    ///
    /// Returns why the interrupt was blocked; the fault is recorded.
    ///
    /// # Panics
    ///
    /// Panics if `address` is not in the interrupt range, `0xfee0_0000` to `0xfeef_ffff`.
    pub fn remap<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        source_id: SourceId,
        address: u64,
        data: u32,
    ) -> Result<RemappedInterrupt, Fault> {
        let range = crate::translate::in_interrupt_range(address);
        assert!(range, "{address:#x} is not in the interrupt range");
        if self.global_status() & IRE == 0 {
            return Ok(RemappedInterrupt::Compatibility { address, data });
        }
        if address & FORMAT == 0 {
            return self.compatibility(source_id, address, data);
        }
        let request = remappable(address, data);
        let remapped = self.remap_request(memory, source_id, request);
        match remapped {
            Ok(RemappedInterrupt::Posted { .. }) => {
                self.counters.interrupts_remapped += 1;
                self.counters.interrupts_posted += 1;
            }
            Ok(_) => self.counters.interrupts_remapped += 1,
            Err(_) => {}
        }
        remapped.map_err(|refusal| {
            let (reason, unrecorded) = refusal;
            self.block(source_id, request.index, reason, unrecorded)
        })
    }

    fn compatibility(
        &mut self,
        source_id: SourceId,
        address: u64,
        data: u32,
    ) -> Result<RemappedInterrupt, Fault> {
        // "Irrespective of CFIS" in extended mode (VT-d 5.1.4).
        if self.interrupt_table & IRTA_EIME == 0 && self.global_status() & CFI != 0 {
            return Ok(RemappedInterrupt::Compatibility { address, data });
        }
        Err(self.block(source_id, 0, Reason::InterruptCompatibility, false))
    }

    fn block(
        &mut self,
        source_id: SourceId,
        index: u32,
        reason: Reason,
        unrecorded: bool,
    ) -> Fault {
        self.counters.interrupts_blocked += 1;
        let fault = Fault {
            reason,
            source_id,
            pasid: None,
            address: Iova(u64::from(index & 0xffff) << 48),
            kind: AccessKind::Write,
            privileged: false,
            unrecorded,
        };
        self.record_fault(&fault);
        fault
    }

    fn remap_request<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        source_id: SourceId,
        request: Remappable,
    ) -> Result<RemappedInterrupt, (Reason, bool)> {
        let recorded = |reason| (reason, false);
        if request.reserved {
            return Err(recorded(Reason::InterruptReserved));
        }
        let entries = 2_u32 << (self.interrupt_table & 0xf);
        let index = u16::try_from(request.index).ok();
        let index = index.filter(|_| request.index < entries);
        let index = index.ok_or_else(|| recorded(Reason::InterruptIndex))?;
        let [low, high] = self.interrupt_entry(memory, index).map_err(recorded)?;
        let unrecorded = low & FPD != 0;
        let refuse = |reason| (reason, unrecorded);
        if low & PRESENT == 0 {
            return Err(refuse(Reason::InterruptNotPresent));
        }
        let posted = low & POSTED != 0;
        if self.is_reserved(low, high) {
            return Err(refuse(Reason::InterruptEntryReserved));
        }
        if !is_from(source_id, high) {
            return Err(refuse(Reason::InterruptSource));
        }
        self.interrupt_entries.insert(index, [low, high]);
        let vector = low.to_le_bytes()[2];
        if !posted {
            return Ok(RemappedInterrupt::Remapped(self.message(low)));
        }
        let descriptor = low >> 32 & 0xffff_ffc0 | high & 0xffff_ffff_0000_0000;
        let extended = self.interrupt_table & IRTA_EIME != 0;
        let notification =
            post(memory, descriptor, vector, low & URGENT != 0, extended).map_err(refuse)?;
        Ok(RemappedInterrupt::Posted {
            vector,
            descriptor,
            notification,
        })
    }

    fn interrupt_entry<M: GuestMemory + ?Sized>(
        &mut self,
        memory: &M,
        index: u16,
    ) -> Result<[u64; 2], Reason> {
        if let Some(entry) = self.interrupt_entries.get(index) {
            self.counters.interrupt_entry_hits += 1;
            return Ok(entry);
        }
        let at = (self.interrupt_table & !0xfff) + u64::from(index) * 16;
        let memory = SearchedMemory(memory);
        let load = |at| {
            memory
                .load_u64(Gpa(at))
                .map_err(|_| Reason::InterruptInaccessible)
        };
        Ok([load(at)?, load(at + 8)?])
    }

    fn is_reserved(&self, low: u64, high: u64) -> bool {
        let svt = high >> 18 & 3;
        if svt == 3 {
            return true;
        }
        if low & POSTED != 0 {
            let beyond = !0 << self.capabilities.host_address_bits;
            let descriptor = high & 0xffff_ffff_0000_0000;
            return !self.capabilities.has(Features::POSTED_INTERRUPTS)
                || low & 0x0000_003f_ff00_30fc != 0
                || high & 0x0000_0000_fff0_0000 != 0
                || descriptor & beyond != 0;
        }
        let extended = self.interrupt_table & IRTA_EIME != 0;
        let destination = if extended { 0 } else { 0xffff_00ff_0000_0000 };
        let reserved_mode = low >> 5 & 7 == 3;
        low & (0x0000_0000_ff00_7000 | destination) != 0
            || high & 0xffff_ffff_fff0_0000 != 0
            || reserved_mode
    }

    fn message(&self, low: u64) -> RemappedMessage {
        let extended = self.interrupt_table & IRTA_EIME != 0;
        let destination = u32_at(low, 32);
        RemappedMessage {
            vector: low.to_le_bytes()[2],
            delivery_mode: (low >> 5 & 7).to_le_bytes()[0],
            destination: if extended {
                destination
            } else {
                destination >> 8 & 0xff
            },
            logical: low & 1 << 2 != 0,
            redirection_hint: low & 1 << 3 != 0,
            level: low & 1 << 4 != 0,
        }
    }
}

/// The index of a request in remappable format (VT-d 5.1.3 and 5.1.5.2).
fn remappable(address: u64, data: u32) -> Remappable {
    let handle = u32_at(address, 5) & 0x7fff | (u32_at(address, 2) & 1) << 15;
    if address & SUBHANDLE_VALID == 0 {
        return Remappable {
            index: handle,
            reserved: false,
        };
    }
    Remappable {
        index: handle + (data & 0xffff),
        reserved: data >> 16 != 0,
    }
}

/// Source validation: SVT, SQ and SID of an entry (VT-d 9.10).
fn is_from(source_id: SourceId, high: u64) -> bool {
    let (sid, qualifier) = (SourceId(u16_at(high, 0)), high >> 16 & 3);
    match high >> 18 & 3 {
        0 => true,
        1 => {
            let ignored = [0, 0b100, 0b110, 0b111][usize::try_from(qualifier).expect("two bits")];
            (source_id.0 ^ sid.0) & !ignored == 0
        }
        _ => (sid.bus()..=sid.function()).contains(&source_id.bus()),
    }
}

/// Address bit 4: remappable format.
const FORMAT: u64 = 1 << 4;
/// Address bit 3: the data has a subhandle.
const SUBHANDLE_VALID: u64 = 1 << 3;

const PRESENT: u64 = 1 << 0;
const FPD: u64 = 1 << 1;
const URGENT: u64 = 1 << 14;
/// IM.
const POSTED: u64 = 1 << 15;
