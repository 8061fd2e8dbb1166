//! The remapping unit between the devices on one side, memory and local APICs on the other.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use apic::{DeliveryMode, Destination, Message, Shorthand, Trigger, msi_message};
use pci_config::{Bdf, MsiMessage};
use vtd::{
    Capabilities, Event, MappingObserver, RemappedInterrupt, RemappedMessage, Scope, Shadow,
    ShadowError, SourceId, Unit,
};

use super::dma::Dma;
use crate::kernel::Ram;
use crate::layout::{IOMMU, IOMMU_LENGTH};

/// A board with a remapping unit.
#[derive(Clone, Debug)]
pub struct IommuConfig {
    /// What the unit offers.
    pub capabilities: Capabilities,
    /// Where its tables lie.
    pub ram: Ram,
}

/// The unit as all that is behind it shares it.
#[derive(Clone)]
pub(super) struct Remapping {
    unit: Arc<Mutex<Unit>>,
    memory: Arc<Dma>,
    ram: Ram,
    changed: Arc<Mutex<Vec<Scope>>>,
}

impl Remapping {
    pub(super) fn new(config: IommuConfig) -> Self {
        Self {
            unit: Arc::new(Mutex::new(Unit::new(config.capabilities))),
            memory: Arc::new(Dma::new(config.ram.clone())),
            ram: config.ram,
            changed: Arc::default(),
        }
    }

    /// Memory as the function at `place` sees it.
    pub(super) fn memory_of(&self, place: Bdf) -> Dma {
        let source = SourceId(place.requester_id());
        Dma::behind(Arc::clone(&self.unit), self.ram.clone(), source)
    }

    pub(super) fn unit(&self) -> MutexGuard<'_, Unit> {
        self.unit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The offset of `gpa` in the registers.
    pub(super) fn offset(gpa: u64) -> Option<u64> {
        gpa.checked_sub(IOMMU)
            .filter(|&offset| offset < IOMMU_LENGTH)
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        self.unit().read(offset, data);
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) {
        self.unit().write(&*self.memory, offset, data);
    }

    /// A stretch of memory that the unit has written since it was last taken.
    pub(super) fn take_written(&self) -> Option<(u64, u64)> {
        self.memory.take_written()
    }

    /// What a write to where local APICs listen becomes; `None` if the unit blocks it, or has posted
    /// it where a processor will look by itself.
    pub(super) fn remap(&self, source: SourceId, message: MsiMessage) -> Option<Message> {
        let MsiMessage { address, data } = message;
        if address >> 20 != INTERRUPT_RANGE {
            return None;
        }
        let remapped = self.unit().remap(&*self.memory, source, address, data);
        match remapped.ok()? {
            RemappedInterrupt::Compatibility { address, data } => msi_message(address, data),
            RemappedInterrupt::Remapped(message) => remapped_message(message),
            RemappedInterrupt::Posted { notification, .. } => {
                let notification = notification?;
                remapped_message(RemappedMessage {
                    vector: notification.vector,
                    delivery_mode: 0,
                    destination: notification.destination,
                    logical: false,
                    redirection_hint: false,
                    level: false,
                })
            }
        }
    }

    /// Takes which mappings may have changed, for whoever copies them.
    pub(super) fn take_changed(&self) -> Vec<Scope> {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *changed)
    }

    /// Brings a copy of a device's mappings up to date.
    pub(super) fn copy(
        &self,
        shadow: &mut Shadow,
        scope: Scope,
        observer: &mut impl MappingObserver,
    ) -> Result<(), ShadowError> {
        shadow.update(&mut self.unit(), &*self.memory, scope, observer)
    }

    /// Nobody may be there to take them: few are kept, or the one that means all.
    fn note_changed(&self, scope: Scope) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        if changed.len() < SCOPES_MAX {
            changed.push(scope);
        } else {
            *changed = vec![Scope::All];
        }
    }

    /// Takes the unit's own messages, and lets its queue go on.
    pub(super) fn settle(&self, mut send: impl FnMut(Message)) {
        let mut unit = self.unit();
        for _ in 0..ROUNDS {
            let mut taken = false;
            while let Some(event) = unit.next_event() {
                taken = true;
                match event {
                    Event::Message(message) => {
                        msi_message_extended(message.address, message.data).map(&mut send);
                    }
                    Event::MappingsChanged(scope) => self.note_changed(scope),
                    // The board's devices keep no translations and ask for no pages.
                    Event::DeviceTlb(_) | Event::PageResponse(_) => {}
                }
            }
            if !taken {
                return;
            }
            unit.process(&*self.memory);
        }
    }
}

impl fmt::Debug for Remapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remapping").finish_non_exhaustive()
    }
}

fn remapped_message(message: RemappedMessage) -> Option<Message> {
    let delivery = match DeliveryMode::from_bits(message.delivery_mode)? {
        DeliveryMode::Fixed if message.redirection_hint && message.logical => {
            DeliveryMode::LowestPriority
        }
        delivery => delivery,
    };
    // 255 is everyone for xAPICs alone; a wider id that is all ones always is.
    let destination = match u8::try_from(message.destination) {
        Ok(byte) => Destination::from_byte(byte, message.logical),
        Err(_) => Destination::from_word(message.destination, message.logical),
    };
    Some(Message {
        vector: message.vector,
        delivery,
        destination,
        shorthand: Shorthand::None,
        trigger: if message.level {
            Trigger::Level
        } else {
            Trigger::Edge
        },
    })
}

/// The unit's own messages: bits 31:8 of a destination are in the upper address (VT-d 11.4.7.2).
fn msi_message_extended(address: u64, data: u32) -> Option<Message> {
    let message = msi_message(address & 0xffff_ffff, data)?;
    let upper = u32::try_from(address >> 32).unwrap_or(0) & !0xff;
    let destination = match message.destination {
        Destination::Physical(id) => Destination::from_word(upper | id, false),
        Destination::Logical(id) => Destination::from_word(upper | id, true),
        Destination::Broadcast if upper != 0 => Destination::from_word(upper | 0xff, false),
        Destination::Broadcast => Destination::Broadcast,
    };
    Some(Message {
        destination,
        ..message
    })
}

/// Changes of mappings that are kept apart.
const SCOPES_MAX: usize = 256;
/// Addresses of interrupts, without their lower 20 bits.
const INTERRUPT_RANGE: u64 = 0xfee;
/// Times that the queue is let go on in one step; it has at most 2^15 descriptors, and stands still for 64 events.
const ROUNDS: usize = 1024;
