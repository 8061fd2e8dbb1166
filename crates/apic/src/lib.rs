#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod delivery;
mod ioapic;
mod lapic;
mod message;
mod posted;
mod route;
mod virtual_apic;

pub use delivery::{ApicEvent, DeliveryCounters, DeliveryModel, Design, Source};
pub use ioapic::{IoApic, IoApicState, IoApicVersion};
pub use lapic::{
    GeneralProtection, LapicCounters, LapicMode, LapicState, LocalApic, LocalApicConfig, Output,
    Pending, TimerState,
};
pub use message::{DeliveryMode, Destination, Message, Shorthand, Trigger, msi_message};
pub use posted::{PostedDescriptor, PostedNotification};
pub use route::deliver;
pub use virtual_apic::{ApicExit, VirtualApic, VirtualApicControls};

/// A field of a saved state holds a value that the device can never reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{device} state: field {field} is out of range")]
pub struct InvalidState {
    /// The device that was to be restored.
    pub device: &'static str,
    /// The field as it is named in the state structure.
    pub field: &'static str,
}

fn check(valid: bool, device: &'static str, field: &'static str) -> Result<(), InvalidState> {
    if valid {
        Ok(())
    } else {
        Err(InvalidState { device, field })
    }
}
