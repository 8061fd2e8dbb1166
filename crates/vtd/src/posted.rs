//! Posted-interrupt descriptors (VT-d 9.11 and 5.2).

use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::{GuestAddress, GuestMemory, Permissions, VolatileMemory};

use crate::fault::Reason;
use crate::ids::u32_at;

/// The interrupt that tells a processor of posted ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Notification {
    /// NV.
    pub vector: u8,
    /// NDST: an APIC id, of 32 bits with extended destinations.
    pub destination: u32,
}

/// How often an update of the descriptor's control word is tried while others change it.
const TRIES_MAX: u32 = 64;

/// Posts `vector` and answers with the notification to send: none if one is outstanding, or if
/// notifications are suppressed and this is not urgent.
///
/// The vector's bit is set first, so that whoever sees ON sees the vector too.
pub(crate) fn post<M: GuestMemory + ?Sized>(
    memory: &M,
    descriptor: u64,
    vector: u8,
    urgent: bool,
    extended: bool,
) -> Result<Option<Notification>, Reason> {
    let address = GuestAddress(descriptor);
    let slices = memory.get_slices(address, BYTES, Permissions::ReadWrite);
    let slice = slices.ok().and_then(|mut slices| slices.next()?.ok());
    let slice = slice.filter(|slice| slice.len() == BYTES);
    let slice = slice.ok_or(Reason::PostedInaccessible)?;
    let word = |offset: usize| {
        let word = slice.get_atomic_ref::<AtomicU64>(offset);
        word.map_err(|_| Reason::PostedInaccessible)
    };
    let control = word(CONTROL)?;
    let mut state = u64::from_le(control.load(Ordering::Acquire));
    let upper = [40, 48, 56].map(|offset| word(offset).map(|word| word.load(Ordering::Relaxed)));
    for word in upper {
        if word? != 0 {
            return Err(Reason::PostedReserved);
        }
    }
    if state & RESERVED != 0 {
        return Err(Reason::PostedReserved);
    }
    let bit = 1_u64 << (vector & 63);
    let requests = word(usize::from(vector >> 6) * 8)?;
    requests.fetch_or(bit.to_le(), Ordering::AcqRel);
    vm_memory::bitmap::Bitmap::mark_dirty(slice.bitmap(), 0, BYTES);
    for _ in 0..TRIES_MAX {
        let silent = state & OUTSTANDING != 0 || state & SUPPRESSED != 0 && !urgent;
        if silent {
            return Ok(None);
        }
        let new = (state | OUTSTANDING).to_le();
        match control.compare_exchange(state.to_le(), new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(Some(notification(state, extended))),
            Err(found) => state = u64::from_le(found),
        }
    }
    // Software that changes the word all the time gets its notification: one too many does no harm.
    let state = u64::from_le(control.fetch_or(OUTSTANDING.to_le(), Ordering::AcqRel));
    Ok((state & OUTSTANDING == 0).then(|| notification(state, extended)))
}

fn notification(state: u64, extended: bool) -> Notification {
    let destination = u32_at(state, 32);
    Notification {
        vector: state.to_le_bytes()[2],
        destination: if extended {
            destination
        } else {
            destination >> 8 & 0xff
        },
    }
}

/// Length of a descriptor.
const BYTES: usize = 64;
/// Where ON, SN, NV and NDST are.
const CONTROL: usize = 32;
const OUTSTANDING: u64 = 1 << 0;
const SUPPRESSED: u64 = 1 << 1;
/// Bits 15:2 and 31:24.
const RESERVED: u64 = 0xff00_fffc;
