//! The posted-interrupt descriptor: how devices and other processors request interrupts of a guest that runs.
//!
//! Reference: Intel SDM (September 2023), volume 3, 30.6; Intel VT-d specification 4.1, 9.11.

use std::sync::atomic::{AtomicU64, Ordering};

const OUTSTANDING: u64 = 1 << 0;
const SUPPRESS: u64 = 1 << 1;
const VECTOR_SHIFT: u32 = 16;
const DESTINATION_SHIFT: u32 = 32;

/// The notification that a poster must send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PostedNotification {
    /// NV.
    pub vector: u8,
    /// NDST: an x2APIC id, or an xAPIC id in bits 15:8.
    pub destination: u32,
}

/// The 64 bytes that posters and the receiving processor share.
///
/// Each operation is the atomic one that the manual asks for, so that the same code serves real threads.
#[derive(Debug, Default)]
pub struct PostedDescriptor {
    /// PIR.
    requests: [AtomicU64; 4],
    /// ON, SN, NV, NDST.
    control: AtomicU64,
}

impl PostedDescriptor {
    /// Nothing requested; notifications go as `notification` says.
    #[must_use]
    pub fn new(notification: PostedNotification) -> Self {
        let control = u64::from(notification.vector) << VECTOR_SHIFT
            | u64::from(notification.destination) << DESTINATION_SHIFT;
        Self {
            requests: Default::default(),
            control: AtomicU64::new(control),
        }
    }

    /// Requests `vector`. The notification is to be sent unless one is outstanding already, or they are suppressed
    /// and this is not `urgent`.
    pub fn post(&self, vector: u8, urgent: bool) -> Option<PostedNotification> {
        let bit = 1 << (vector % 64);
        self.requests[usize::from(vector / 64)].fetch_or(bit, Ordering::AcqRel);
        let mut control = self.control.load(Ordering::Acquire);
        loop {
            if control & OUTSTANDING != 0 || control & SUPPRESS != 0 && !urgent {
                return None;
            }
            let told = control | OUTSTANDING;
            match self.exchange(control, told) {
                Ok(()) => return Some(notification(control)),
                Err(now) => control = now,
            }
        }
    }

    /// What the processor does at a notification (steps 3 and 4): clears ON, and takes all requests.
    pub fn take(&self) -> [u64; 4] {
        self.control.fetch_and(!OUTSTANDING, Ordering::AcqRel);
        std::array::from_fn(|word| self.requests[word].swap(0, Ordering::AcqRel))
    }

    /// Whether anything is requested: a VMM that is about to halt or to enter the guest must look.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.requests
            .iter()
            .any(|word| word.load(Ordering::Acquire) != 0)
    }

    /// Whether a notification is outstanding.
    #[must_use]
    pub fn is_outstanding(&self) -> bool {
        self.control.load(Ordering::Acquire) & OUTSTANDING != 0
    }

    /// Suppresses notifications that are not urgent, as a VMM does while its guest is not running, or allows them
    /// again. Then it must look for requests.
    pub fn suppress(&self, suppressed: bool) {
        if suppressed {
            self.control.fetch_or(SUPPRESS, Ordering::AcqRel);
        } else {
            self.control.fetch_and(!SUPPRESS, Ordering::AcqRel);
        }
    }

    /// Says where notifications go, as a VMM does when its guest moves to another processor.
    pub fn set_notification(&self, to: PostedNotification) {
        let mut control = self.control.load(Ordering::Acquire);
        let new = |control: u64| {
            control & (OUTSTANDING | SUPPRESS)
                | u64::from(to.vector) << VECTOR_SHIFT
                | u64::from(to.destination) << DESTINATION_SHIFT
        };
        while let Err(now) = self.exchange(control, new(control)) {
            control = now;
        }
    }

    fn exchange(&self, old: u64, new: u64) -> Result<(), u64> {
        let exchanged =
            self.control
                .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
        exchanged.map(|_| ())
    }
}

fn notification(control: u64) -> PostedNotification {
    let bytes = control.to_le_bytes();
    PostedNotification {
        vector: bytes[2],
        destination: u32::try_from(control >> DESTINATION_SHIFT).expect("32 bits are left"),
    }
}
