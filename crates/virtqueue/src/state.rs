//! What a queue needs to go on elsewhere.

use crate::device::{DeviceQueue, DeviceSide};
use crate::packed_event::Position;
use crate::{ActiveConfig, Config, ConfigError, Layout, Ring};

/// Saved state of the device side of a drained queue; untrusted until
/// [`restore`](Self::restore) accepts it.
///
/// The rings themselves are guest memory and travel with it. Counters are not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QueueState {
    /// As the driver programmed it.
    pub config: Config,
    /// The next chain to pop. Split: a count of entries, modulo 65536. Packed: a slot, bit 15 being
    /// the wrap counter.
    pub next_avail: u16,
    /// The next place to write as used, likewise.
    pub next_used: u16,
    /// Split: `used.idx` when an interrupt was last considered. Packed: any value when one was
    /// considered for all that was used. `None` sends the next one for certain.
    pub signalled: Option<u16>,
    /// Whether the driver was asked to kick.
    pub kicks_enabled: bool,
}

/// A queue that holds chains cannot be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} chains or descriptors are not back with the driver")]
pub struct Undrained {
    /// Chains (slots, if packed) that were popped and not completed and flushed.
    pub count: u16,
}

/// Why a saved state was turned down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The configuration is not allowed.
    #[error("the configuration is not allowed")]
    Config(#[from] ConfigError),
    /// The positions differ: chains that nobody knows would be in flight.
    #[error("next_avail {next_avail} and next_used {next_used} differ")]
    InFlight {
        /// The next chain to pop.
        next_avail: u16,
        /// The next place to write as used.
        next_used: u16,
    },
    /// A position lies outside a packed ring.
    #[error("position {position:#x} is not in the ring")]
    OutOfRange {
        /// The position.
        position: u16,
    },
}

impl<R: Ring> DeviceQueue<R> {
    /// A copy of the state.
    ///
    /// # Errors
    ///
    /// Fails while chains are out or not flushed.
    pub fn state(&self) -> Result<QueueState, Undrained> {
        let count = self.outstanding();
        if count > 0 {
            return Err(Undrained { count });
        }
        let config = *self.config().config();
        Ok(match &self.side {
            DeviceSide::Split(side) => {
                let [next_avail, next_used] = side.positions();
                QueueState {
                    config,
                    next_avail,
                    next_used,
                    signalled: side.signalled(),
                    kicks_enabled: side.kicks_enabled,
                }
            }
            DeviceSide::Packed(side) => QueueState {
                config,
                next_avail: side.next_avail.encode(),
                next_used: side.next_used.encode(),
                signalled: side.unsignalled.map(|_| side.next_used.encode()),
                kicks_enabled: side.kicks_enabled,
            },
        })
    }
}

impl QueueState {
    /// Checks the state. The configuration that comes back is what a ring is made from.
    ///
    /// # Errors
    ///
    /// Names the first rule that is broken.
    pub fn activate(&self) -> Result<ActiveConfig, RestoreError> {
        let config = self.config.activate()?;
        if self.next_avail != self.next_used {
            return Err(RestoreError::InFlight {
                next_avail: self.next_avail,
                next_used: self.next_used,
            });
        }
        let position = self.next_used;
        let outside = self.config.layout == Layout::Packed
            && Position::decode(position).slot() >= self.config.size;
        if outside {
            return Err(RestoreError::OutOfRange { position });
        }
        Ok(config)
    }

    /// The queue again, over the memory that travelled with it.
    ///
    /// `make_ring` makes the ring from the checked configuration.
    ///
    /// # Errors
    ///
    /// Names the first rule that is broken, or what `make_ring` answered.
    pub fn restore<R: Ring>(
        &self,
        make_ring: impl FnOnce(&ActiveConfig) -> Result<R, ConfigError>,
    ) -> Result<DeviceQueue<R>, RestoreError> {
        let config = self.activate()?;
        let ring = make_ring(&config)?;
        let mut queue = DeviceQueue::new(&config, ring);
        match &mut queue.side {
            DeviceSide::Split(side) => {
                side.resume(self.next_used, self.signalled);
                side.kicks_enabled = self.kicks_enabled;
            }
            DeviceSide::Packed(side) => {
                let position = Position::decode(self.next_used);
                side.resume(position, self.signalled.is_some());
                side.kicks_enabled = self.kicks_enabled;
            }
        }
        Ok(queue)
    }
}

impl Position {
    fn encode(self) -> u16 {
        self.slot() | u16::from(self.wrap()) << 15
    }

    fn decode(position: u16) -> Self {
        Self::new(position & 0x7fff, position & 0x8000 != 0)
    }
}

/// The `virtio-queue` crate's state of a split queue. Its positions must be equal on the way in,
/// and on the way out `max_size` is the size.
#[cfg(feature = "virtio-queue")]
impl From<&virtio_queue::QueueState> for QueueState {
    fn from(state: &virtio_queue::QueueState) -> Self {
        Self {
            config: Config {
                layout: Layout::Split,
                size: state.size,
                descriptors: state.desc_table,
                driver: state.avail_ring,
                device: state.used_ring,
                features: crate::RingFeatures {
                    event_idx: state.event_idx_enabled,
                    // That crate follows indirect descriptors whatever was negotiated.
                    indirect: true,
                    in_order: false,
                },
            },
            next_avail: state.next_avail,
            next_used: state.next_used,
            signalled: None,
            kicks_enabled: true,
        }
    }
}

/// A queue that the `virtio-queue` crate cannot run.
#[cfg(feature = "virtio-queue")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("virtio-queue has no packed queues")]
pub struct NoPackedQueues;

#[cfg(feature = "virtio-queue")]
impl TryFrom<&QueueState> for virtio_queue::QueueState {
    type Error = NoPackedQueues;

    fn try_from(state: &QueueState) -> Result<Self, NoPackedQueues> {
        if state.config.layout == Layout::Packed {
            return Err(NoPackedQueues);
        }
        Ok(Self {
            max_size: state.config.size,
            next_avail: state.next_avail,
            next_used: state.next_used,
            event_idx_enabled: state.config.features.event_idx,
            size: state.config.size,
            ready: true,
            desc_table: state.config.descriptors,
            avail_ring: state.config.driver,
            used_ring: state.config.device,
        })
    }
}
