//! The device side of a queue of either layout.

use std::fmt;

use crate::chain::{Chain, ChainError};
use crate::config::{ActiveConfig, Layout};
use crate::notify::{Notify, NotifyCounts, Pending};
use crate::packed_device::PackedDevice;
use crate::split_device::SplitDevice;
use crate::{Fault, Ring};

/// Takes chains that a driver made available, and gives them back used.
///
/// ```text
/// pop, pop, ...   ->  complete, complete, ...  ->  flush  ->  interrupt if Notify::Send
/// enable_kicks    ->  Pending::None: sleep until the driver kicks
/// ```
///
/// Nothing is allocated after construction. Each entry and each descriptor is read once. A driver's
/// mistake breaks the queue: the same error comes back until the device is reset, which is to make a
/// new queue.
pub struct DeviceQueue<R> {
    config: ActiveConfig,
    pub(crate) side: DeviceSide<R>,
    broken: Option<QueueError>,
}

#[derive(Debug)]
pub(crate) enum DeviceSide<R> {
    Split(SplitDevice<R>),
    Packed(PackedDevice<R>),
}

/// A chain that was popped. It must be given back with [`DeviceQueue::complete`].
#[must_use = "a chain that is not completed is lost to the driver"]
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub(crate) id: u16,
    /// Where in the ring it was: a count of entries if split, a slot if packed.
    pub(crate) position: u16,
    pub(crate) slots: u16,
    pub(crate) writable: u32,
}

/// What the driver got wrong. The queue answers nothing else from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The ring cannot be reached.
    #[error("the ring cannot be reached")]
    Ring(#[from] Fault),
    /// `avail.idx` says that more chains are out than the queue has descriptors.
    #[error("avail.idx jumped to {index} while {next} was next")]
    AvailIndexJump {
        /// What `avail.idx` said.
        index: u16,
        /// The entry that was next.
        next: u16,
    },
    /// An entry of the available ring, or a buffer id, is not below the queue size.
    #[error("head {head} is not below the queue size")]
    HeadOutOfRange {
        /// The entry.
        head: u16,
    },
    /// A head or buffer id was made available a second time before it was used.
    #[error("head {head} is in flight already")]
    HeadInFlight {
        /// The entry.
        head: u16,
    },
    /// More descriptors of a packed queue are in flight than it has.
    #[error("more descriptors are in flight than the queue has")]
    TooManyInFlight,
    /// A chain is malformed.
    #[error("chain at {head} is malformed")]
    Chain {
        /// Its first descriptor.
        head: u16,
        /// What is wrong.
        source: ChainError,
    },
}

/// Why a chain could not be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsedError {
    /// The device claims to have written more than there was room for. The chain stays in flight.
    #[error("{written} bytes written of {writable} writable")]
    TooLong {
        /// Bytes that the device claims.
        written: u32,
        /// Bytes of the chain's writable buffers.
        writable: u32,
    },
    /// The ring cannot be reached.
    #[error("the ring cannot be reached")]
    Ring(#[from] Fault),
}

/// What passed through the device side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// Chains popped.
    pub chains: u64,
    /// Kicks that came although the driver was asked for none.
    pub kicks_unwanted: u64,
    /// Kicks that came while they were wanted.
    pub kicks: u64,
    /// Times that kicks were switched off.
    pub kicks_disabled: u64,
    /// Interrupts sent, and held back.
    pub interrupts: NotifyCounts,
    /// Errors of the driver's, 0 or 1.
    pub errors: u64,
}

impl DeviceCounts {
    /// Flushes that published something: stores of the used index, if split. Each of them sent an
    /// interrupt or held one back.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        let NotifyCounts {
            sent,
            by_flag,
            by_event,
        } = self.interrupts;
        sent + by_flag + by_event
    }
}

impl Head {
    #[inline(always)]
    pub(crate) fn new(id: u16, position: u16, slots: u16, writable: u64) -> Self {
        Self {
            id,
            position,
            slots,
            // A chain has less than 4 GiB.
            writable: u32::try_from(writable).unwrap_or(u32::MAX),
        }
    }

    /// Index of the first descriptor if split, buffer id if packed.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id
    }
}

impl<R: Ring> DeviceQueue<R> {
    /// The device side of a queue whose rings are as the driver initialized them.
    ///
    /// `ring` must be made from the same `config`.
    pub fn new(config: &ActiveConfig, ring: R) -> Self {
        let side = match config.config().layout {
            Layout::Split => DeviceSide::Split(SplitDevice::new(config, ring)),
            Layout::Packed => DeviceSide::Packed(PackedDevice::new(config, ring)),
        };
        Self {
            config: *config,
            side,
            broken: None,
        }
    }

    /// What the queue was made with.
    #[must_use]
    pub fn config(&self) -> &ActiveConfig {
        &self.config
    }

    /// The memory of the queue.
    #[must_use]
    pub fn ring(&self) -> &R {
        match &self.side {
            DeviceSide::Split(side) => &side.ring,
            DeviceSide::Packed(side) => &side.ring,
        }
    }

    /// Takes the next chain into `chain`; `None` when there is none.
    ///
    /// # Errors
    ///
    /// What the driver got wrong, now or before.
    #[inline(always)]
    pub fn pop(&mut self, chain: &mut Chain) -> Result<Option<Head>, QueueError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let popped = match &mut self.side {
            DeviceSide::Split(side) => side.pop(chain),
            DeviceSide::Packed(side) => side.pop(chain),
        };
        match popped {
            Ok(head) => Ok(head),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Gives a chain back; the driver sees it after the next [`flush`](Self::flush).
    ///
    /// `written` is what the device wrote from the start of the writable buffers on.
    ///
    /// # Errors
    ///
    /// Fails when more was written than there was room for, or the ring cannot be reached.
    ///
    /// # Panics
    ///
    /// On a head of another queue; with `VIRTIO_F_IN_ORDER`, on one that is not the oldest.
    #[expect(clippy::needless_pass_by_value, reason = "a head is given back once")]
    #[inline(always)]
    pub fn complete(&mut self, head: Head, written: u32) -> Result<(), UsedError> {
        if written > head.writable {
            let writable = head.writable;
            return Err(UsedError::TooLong { written, writable });
        }
        match &mut self.side {
            DeviceSide::Split(side) => side.complete(&head, written),
            DeviceSide::Packed(side) => side.complete(&head, written),
        }
    }

    /// Pops each chain there is, at most `limit`, has `device` serve it, and completes it with the
    /// bytes that `device` answers; how many chains there were. Costs less than the same one by
    /// one.
    ///
    /// For devices that are done with a chain before they look at the next. Chains that come while it
    /// works are left to [`enable_kicks`](Self::enable_kicks) to find, or to the next call.
    ///
    /// # Errors
    ///
    /// What the driver got wrong, now or before. The chains before it are completed.
    ///
    /// # Panics
    ///
    /// When `device` claims to have written more than was writable. With `VIRTIO_F_IN_ORDER`, while
    /// popped chains are out.
    #[inline(always)]
    pub fn serve(
        &mut self,
        chain: &mut Chain,
        limit: u16,
        device: impl FnMut(&Chain) -> u32,
    ) -> Result<u16, QueueError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let served = match &mut self.side {
            DeviceSide::Split(side) => side.serve(chain, limit, device),
            DeviceSide::Packed(side) => side.serve(chain, limit, device),
        };
        match served {
            Ok(served) => Ok(served),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Shows the driver all that was completed, at once, and says whether to interrupt it.
    ///
    /// # Errors
    ///
    /// Fails when the ring cannot be reached.
    #[inline(always)]
    pub fn flush(&mut self) -> Result<Notify, Fault> {
        match &mut self.side {
            DeviceSide::Split(side) => side.flush(),
            DeviceSide::Packed(side) => side.flush(),
        }
    }

    /// Asks the driver for no kicks; a hint, some may still come.
    ///
    /// # Errors
    ///
    /// Fails when the ring cannot be reached.
    pub fn disable_kicks(&mut self) -> Result<(), Fault> {
        self.counts_mut().kicks_disabled += 1;
        match &mut self.side {
            DeviceSide::Split(side) => side.disable_kicks(),
            DeviceSide::Packed(side) => side.disable_kicks(),
        }
    }

    /// Asks the driver to kick for the next chain. Only after [`Pending::None`] is it sure to.
    ///
    /// # Errors
    ///
    /// What the driver got wrong, now or before.
    pub fn enable_kicks(&mut self) -> Result<Pending, QueueError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let pending = match &mut self.side {
            DeviceSide::Split(side) => side.enable_kicks(),
            DeviceSide::Packed(side) => side.enable_kicks(),
        };
        pending.map_err(|error| self.fail(error))
    }

    /// Counts a kick that arrived.
    pub fn count_kick(&mut self) {
        let wanted = match &self.side {
            DeviceSide::Split(side) => side.kicks_enabled,
            DeviceSide::Packed(side) => side.kicks_enabled,
        };
        let counts = self.counts_mut();
        counts.kicks += u64::from(wanted);
        counts.kicks_unwanted += u64::from(!wanted);
    }

    /// The driver's mistake that broke the queue, if it made one.
    #[must_use]
    pub fn error(&self) -> Option<QueueError> {
        self.broken
    }

    /// What passed through.
    #[must_use]
    pub fn counts(&self) -> &DeviceCounts {
        match &self.side {
            DeviceSide::Split(side) => &side.counts,
            DeviceSide::Packed(side) => &side.counts,
        }
    }

    /// Descriptors popped (chains, if split) that the driver has not got back.
    #[must_use]
    pub fn outstanding(&self) -> u16 {
        match &self.side {
            DeviceSide::Split(side) => side.outstanding(),
            DeviceSide::Packed(side) => side.outstanding(),
        }
    }

    #[inline(always)]
    fn counts_mut(&mut self) -> &mut DeviceCounts {
        match &mut self.side {
            DeviceSide::Split(side) => &mut side.counts,
            DeviceSide::Packed(side) => &mut side.counts,
        }
    }

    #[cold]
    fn fail(&mut self, error: QueueError) -> QueueError {
        self.counts_mut().errors += 1;
        self.broken = Some(error);
        error
    }
}

impl<R> fmt::Debug for DeviceQueue<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceQueue")
            .field("config", &self.config)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}
