#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod ats;
mod capabilities;
mod context;
mod context_cache;
mod descriptor;
#[cfg(feature = "dmar")]
pub mod dmar;
mod event;
mod fault;
mod fault_log;
mod file;
mod ids;
mod interrupt;
mod interrupt_cache;
mod invalidation;
pub mod iotlb;
mod page_request;
mod posted;
pub mod registers;
mod shadow;
mod state;
mod translate;
mod unit;
#[cfg(feature = "iommu")]
mod view;

pub use ats::DeviceTranslation;
pub use capabilities::{Capabilities, Features};
pub use event::{
    DeviceTlbInvalidation, EVENTS_MAX, Event, Message, PageResponse, ResponseCode, Scope,
};
pub use fault::{AccessKind, Fault, Reason};
pub use ids::{DomainId, InvalidPasid, Iova, Pasid, SourceId};
pub use interrupt::{RemappedInterrupt, RemappedMessage};
pub use page_request::PageRequest;
pub use posted::Notification;
pub use shadow::{Mapping, MappingObserver, Shadow, ShadowError};
pub use state::{InvalidState, UnitState};
pub use translate::{Request, Translation};
pub use unit::{Counters, Unit};
#[cfg(feature = "iommu")]
pub use view::{DeviceView, PIECES_MAX};
pub use vm_memory;
