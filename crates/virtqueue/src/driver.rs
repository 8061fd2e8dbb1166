//! The driver side of a queue of either layout.

use std::fmt;

use crate::chain::Segment;
use crate::config::{ActiveConfig, Layout};
use crate::notify::{Notify, NotifyCounts, Pending};
use crate::packed_driver::PackedDriver;
use crate::split_driver::SplitDriver;
use crate::{Fault, Ring};

/// Makes buffers available to a device that it does not trust, and takes them back.
///
/// ```text
/// add, add, ...      ->  publish  ->  kick if Notify::Send
/// take_used, ...     ->  enable_interrupts  ->  Pending::None: sleep until the device interrupts
/// ```
///
/// Nothing is allocated after construction. Buffers are known by the id that
/// [`add`](Self::add) answers. A device's mistake breaks the queue.
pub struct DriverQueue<R> {
    config: ActiveConfig,
    side: DriverSide<R>,
    broken: Option<DeviceFault>,
}

#[derive(Debug)]
enum DriverSide<R> {
    Split(SplitDriver<R>),
    Packed(PackedDriver<R>),
}

/// Guest memory in which the driver side keeps indirect tables, one for each buffer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndirectTables {
    /// Guest physical address of the first: `size * entries * 16` bytes follow.
    pub address: u64,
    /// Entries in each table: 1 to the queue size.
    pub entries: u16,
}

/// A chain that the device used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The id that [`DriverQueue::add`] answered.
    pub id: u16,
    /// Bytes that the device says it wrote; never more than were writable.
    pub written: u32,
}

/// Why a chain was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// Not enough descriptors are free now.
    #[error("{free} descriptors are free, {needed} needed")]
    Full {
        /// Descriptors the chain needs.
        needed: u16,
        /// Descriptors that are free.
        free: u16,
    },
    /// No buffer, more of them than the queue has descriptors, an empty one, or 4 GiB in all.
    #[error("no queue of this size can hold the chain")]
    Malformed,
    /// The ring cannot be reached.
    #[error("the ring cannot be reached")]
    Ring(#[from] Fault),
}

/// What the device got wrong. The queue answers nothing else from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceFault {
    /// The ring cannot be reached.
    #[error("the ring cannot be reached")]
    Ring(#[from] Fault),
    /// `used.idx` says that more chains were used than were made available.
    #[error("used.idx jumped to {index} while {next} was next")]
    UsedIndexJump {
        /// What `used.idx` said.
        index: u16,
        /// The element that was next.
        next: u16,
    },
    /// A used element names a chain that is not with the device.
    #[error("id {id} is not with the device")]
    UnknownId {
        /// The id.
        id: u32,
    },
    /// The device claims to have written more than was writable.
    #[error("{written} bytes written of {writable} writable")]
    TooLong {
        /// Bytes that the device claims.
        written: u32,
        /// Bytes that were writable.
        writable: u32,
    },
}

/// What passed through the driver side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverCounts {
    /// Chains added.
    pub chains: u64,
    /// Publications that had something to show.
    pub publications: u64,
    /// Kicks sent, and held back.
    pub kicks: NotifyCounts,
    /// Times that interrupts were switched off.
    pub interrupts_disabled: u64,
}

impl<R: Ring> DriverQueue<R> {
    /// The driver side of a new queue: writes the whole of the driver area and clears the others.
    ///
    /// `ring` must be made from the same `config`. `tables` are for chains of two buffers and more,
    /// where `VIRTIO_F_INDIRECT_DESC` was negotiated.
    ///
    /// # Errors
    ///
    /// Fails when the ring cannot be reached.
    ///
    /// # Panics
    ///
    /// When tables are given that were not negotiated, or have no entry or more than the queue.
    pub fn new(
        config: &ActiveConfig,
        ring: R,
        tables: Option<IndirectTables>,
    ) -> Result<Self, Fault> {
        if let Some(tables) = tables {
            assert!(config.config().features.indirect, "tables are negotiated");
            assert!(
                (1..=config.config().size).contains(&tables.entries),
                "a table holds at most a chain"
            );
        }
        let side = match config.config().layout {
            Layout::Split => DriverSide::Split(SplitDriver::new(config, ring, tables)?),
            Layout::Packed => DriverSide::Packed(PackedDriver::new(config, ring, tables)?),
        };
        Ok(Self {
            config: *config,
            side,
            broken: None,
        })
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
            DriverSide::Split(side) => &side.ring,
            DriverSide::Packed(side) => &side.ring,
        }
    }

    /// Adds a chain of buffers for the device to read and to write. It sees them after the next
    /// [`publish`](Self::publish). The id is below the queue size.
    ///
    /// # Errors
    ///
    /// Fails when there is no room now, when there never would be, and on an unreachable ring.
    #[inline(always)]
    pub fn add(&mut self, readable: &[Segment], writable: &[Segment]) -> Result<u16, AddError> {
        match &mut self.side {
            DriverSide::Split(side) => side.add(readable, writable),
            DriverSide::Packed(side) => side.add(readable, writable),
        }
    }

    /// Shows the device all that was added, at once, and says whether to kick it.
    ///
    /// # Errors
    ///
    /// Fails when the ring cannot be reached.
    #[inline(always)]
    pub fn publish(&mut self) -> Result<Notify, Fault> {
        let notify = match &mut self.side {
            DriverSide::Split(side) => side.publish(),
            DriverSide::Packed(side) => side.publish(),
        }?;
        self.counts_mut().publications += u64::from(notify != Notify::Idle);
        Ok(notify)
    }

    /// Takes back the next chain that the device used; `None` when there is none.
    ///
    /// # Errors
    ///
    /// What the device got wrong, now or before.
    #[inline(always)]
    pub fn take_used(&mut self) -> Result<Option<Used>, DeviceFault> {
        if let Some(fault) = self.broken {
            return Err(fault);
        }
        let used = match &mut self.side {
            DriverSide::Split(side) => side.take_used(),
            DriverSide::Packed(side) => side.take_used(),
        };
        used.inspect_err(|fault| self.broken = Some(*fault))
    }

    /// Asks the device for no interrupts; a hint, some may still come.
    ///
    /// # Errors
    ///
    /// Fails when the ring cannot be reached.
    pub fn disable_interrupts(&mut self) -> Result<(), Fault> {
        self.counts_mut().interrupts_disabled += 1;
        match &mut self.side {
            DriverSide::Split(side) => side.disable_interrupts(),
            DriverSide::Packed(side) => side.disable_interrupts(),
        }
    }

    /// Asks the device to interrupt for the next chain it uses. Only after [`Pending::None`] is it
    /// sure to.
    ///
    /// # Errors
    ///
    /// What the device got wrong.
    pub fn enable_interrupts(&mut self) -> Result<Pending, DeviceFault> {
        self.enable_after(0)
    }

    /// Asks the device to interrupt once it has used three quarters of what it has now, for buffers
    /// whose return is not urgent. Without `VIRTIO_F_EVENT_IDX`, as
    /// [`enable_interrupts`](Self::enable_interrupts).
    ///
    /// # Errors
    ///
    /// What the device got wrong.
    pub fn enable_interrupts_delayed(&mut self) -> Result<Pending, DeviceFault> {
        let busy = match &self.side {
            DriverSide::Split(side) => side.busy_chains(),
            DriverSide::Packed(side) => side.busy_slots(),
        };
        self.enable_after(busy / 4 * 3)
    }

    fn enable_after(&mut self, count: u16) -> Result<Pending, DeviceFault> {
        if let Some(fault) = self.broken {
            return Err(fault);
        }
        let pending = match &mut self.side {
            DriverSide::Split(side) => side.enable_interrupts(count),
            DriverSide::Packed(side) => side.enable_interrupts(count),
        };
        pending.inspect_err(|fault| self.broken = Some(*fault))
    }

    /// The device's mistake that broke the queue, if it made one.
    #[must_use]
    pub fn fault(&self) -> Option<DeviceFault> {
        self.broken
    }

    /// Descriptors that are free.
    #[must_use]
    pub fn free(&self) -> u16 {
        match &self.side {
            DriverSide::Split(side) => side.free,
            DriverSide::Packed(side) => side.free,
        }
    }

    /// What passed through.
    #[must_use]
    pub fn counts(&self) -> &DriverCounts {
        match &self.side {
            DriverSide::Split(side) => &side.counts,
            DriverSide::Packed(side) => &side.counts,
        }
    }

    #[inline(always)]
    fn counts_mut(&mut self) -> &mut DriverCounts {
        match &mut self.side {
            DriverSide::Split(side) => &mut side.counts,
            DriverSide::Packed(side) => &mut side.counts,
        }
    }
}

impl<R> fmt::Debug for DriverQueue<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriverQueue")
            .field("config", &self.config)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// What both layouts must know of a chain before they write any of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) buffers: u16,
    pub(crate) writable: u32,
}

impl Request {
    #[inline(always)]
    pub(crate) fn new(
        readable: &[Segment],
        writable: &[Segment],
        size: u16,
    ) -> Result<Self, AddError> {
        let buffers = readable.len() + writable.len();
        let buffers = u16::try_from(buffers).map_err(|_| AddError::Malformed)?;
        let mut bytes = [0_u64; 2];
        for (sum, segments) in bytes.iter_mut().zip([readable, writable]) {
            for segment in segments {
                let end = segment.address.0.checked_add(u64::from(segment.length));
                if segment.length == 0 || end.is_none() {
                    return Err(AddError::Malformed);
                }
                *sum += u64::from(segment.length);
            }
        }
        let [read, written] = bytes;
        if buffers == 0 || buffers > size || read + written > u64::from(u32::MAX) {
            return Err(AddError::Malformed);
        }
        Ok(Self {
            buffers,
            writable: u32::try_from(written).map_err(|_| AddError::Malformed)?,
        })
    }
}
