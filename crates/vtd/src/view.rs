//! Guest memory as a device behind a unit sees it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::iommu::{Error, Iotlb, IotlbIterator, IovaRange};
use vm_memory::{GuestAddress, GuestMemory, Iommu, Permissions};

use crate::fault::AccessKind;
use crate::ids::{Iova, Pasid, SourceId};
use crate::translate::Request;
use crate::unit::Unit;

/// Pieces that one range may lead to: the guest decides how its buffers are scattered.
pub const PIECES_MAX: usize = 1 << 14;

/// What one device, or one process on it, sees through a unit: vm-memory's [`Iommu`].
///
/// Put it into an `IommuMemory`, and a virtqueue or an adapter does its DMA through the unit. Each access asks
/// the unit, whose IOTLB answers; nothing is kept here, so that nothing here is ever stale. After a device has
/// worked, take the unit's [events](Unit::next_event): it may have faulted.
pub struct DeviceView<M> {
    unit: Arc<Mutex<Unit>>,
    memory: M,
    source_id: SourceId,
    pasid: Option<Pasid>,
}

impl<M> DeviceView<M> {
    /// The view of `source_id`. `memory` is what the unit's tables lie in.
    pub fn new(unit: Arc<Mutex<Unit>>, memory: M, source_id: SourceId) -> Self {
        Self {
            unit,
            memory,
            source_id,
            pasid: None,
        }
    }

    /// The same for requests with a PASID.
    #[must_use]
    pub fn with_pasid(self, pasid: Pasid) -> Self {
        Self {
            pasid: Some(pasid),
            ..self
        }
    }
}

impl<M> fmt::Debug for DeviceView<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceView")
            .field("source_id", &self.source_id)
            .field("pasid", &self.pasid)
            .finish_non_exhaustive()
    }
}

impl<M: GuestMemory + Send + Sync> Iommu for DeviceView<M> {
    type IotlbGuard<'a>
        = Box<Iotlb>
    where
        M: 'a;

    /// A range that asks for nothing ([`Permissions::No`]) is translated as if it were read.
    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: Permissions,
    ) -> Result<IotlbIterator<Box<Iotlb>>, Error> {
        let unresolved = |reason: String| Error::CannotResolve {
            iova_range: IovaRange { base: iova, length },
            reason,
        };
        let kind = match access {
            Permissions::No | Permissions::Read => AccessKind::Read,
            Permissions::Write => AccessKind::Write,
            Permissions::ReadWrite => AccessKind::ReadWrite,
        };
        let bytes = u64::try_from(length).ok();
        let end = bytes.and_then(|bytes| iova.0.checked_add(bytes));
        let end = end.ok_or_else(|| unresolved("the range ends beyond all addresses".into()))?;
        let mut pieces = Iotlb::new();
        let mut unit = self.unit.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = iova.0;
        for _ in 0..PIECES_MAX {
            if at == end {
                break;
            }
            let request = Request {
                pasid: self.pasid,
                ..Request::new(self.source_id, Iova(at), kind)
            };
            let found = unit.translate(&self.memory, &request);
            let found = found.map_err(|fault| unresolved(fault.to_string()))?;
            let bytes = found.contiguous().min(end - at);
            let piece = usize::try_from(bytes).map_err(|error| unresolved(error.to_string()))?;
            pieces.set_mapping(GuestAddress(at), GuestAddress(found.address), piece, access)?;
            at += bytes;
        }
        if at != end {
            return Err(unresolved(format!("more than {PIECES_MAX} pieces")));
        }
        Iotlb::lookup(Box::new(pieces), iova, length, access)
            .map_err(|fails| unresolved(format!("{} pieces are missing", fails.misses.len())))
    }
}
