//! What a unit asks of the machine.

use crate::ids::{DomainId, Iova, Pasid, SourceId};

/// How many events may wait before the invalidation queue stands still.
pub const EVENTS_MAX: usize = 64;

/// Something that the machine must do for the unit, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Event {
    /// Send this message to the local APICs; it is not remapped.
    Message(Message),
    /// Tell a device to forget translations that it keeps itself. A later wait descriptor completes only
    /// after this was taken.
    DeviceTlb(DeviceTlbInvalidation),
    /// Tell a device what became of its page requests.
    PageResponse(PageResponse),
    /// Mappings may have changed: bring what copies them up to date. Only with
    /// [`Features::CACHING_MODE`](crate::Features::CACHING_MODE).
    MappingsChanged(Scope),
}

/// A message signalled interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Message {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// What a device is to forget (VT-d 6.5.2.5 and 6.5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DeviceTlbInvalidation {
    /// The device.
    pub source_id: SourceId,
    /// Of which process; `None` for requests without PASID.
    pub pasid: Option<Pasid>,
    /// The first byte.
    pub address: Iova,
    /// Bits of an address in which the bytes differ: 12 or more; 64 is everything.
    pub inside_bits: u8,
    /// Of all processes.
    pub global: bool,
}

/// The answer to the page requests of a group (VT-d 7.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PageResponse {
    /// The device.
    pub source_id: SourceId,
    /// The process, if the requests named one.
    pub pasid: Option<Pasid>,
    /// The group, below 512.
    pub group: u16,
    /// How it went.
    pub code: ResponseCode,
}

/// How page requests were answered (PCI Express ATS 10.4.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(u8)]
pub enum ResponseCode {
    /// The pages are there, or it is worth to ask again.
    Success = 0,
    /// Some page cannot be had.
    InvalidRequest = 1,
    /// Nothing will ever be had.
    Failure = 15,
}

/// Which mappings an invalidation was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Scope {
    /// Of every domain.
    All,
    /// Of one domain.
    Domain(DomainId),
    /// Of some pages of a domain's second stage.
    Pages {
        /// The domain.
        domain: DomainId,
        /// The first byte.
        address: Iova,
        /// How many bytes, a power of two.
        bytes: u64,
    },
    /// Of a process in a domain.
    Process(DomainId, Pasid),
}
